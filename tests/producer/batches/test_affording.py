"""A run under a cap is refused before anything is stored if nobody knows what a call costs, or none fits."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.conftest import UseEnvironment
from tests.rows import MODEL, count, put, success, take
from tidemill.models import bounds, budgets, ledger
from tidemill.models.bookings import BATCH, DAY, FLEET
from tidemill.models.database import reading, transact
from tidemill.models.errors import InputError
from tidemill.models.options import Options
from tidemill.models.tables import batches, jobs
from tidemill.producer.asking.prompts import Prompts
from tidemill.producer.batches import affording
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.spending import spending_of
from tidemill.producer.batches.submit import open_batch, submit
from tidemill.producer.intake.sources import Files

pytestmark = pytest.mark.usefixtures("database")

UNKNOWN = "gpt-6.2-sol"


def order(source: Any, model: str = MODEL, budget: str | None = None, **options: Any) -> Order:
    return Order(Options(model, **options), Prompts(source), source_name="s", spending=spending_of(budget))


def cap(kind: str, usd: float | None, name: str = "") -> None:
    usd_e9 = None if usd is None else round(usd * 1e9)
    transact(lambda connection: budgets.set_cap(connection, kind, name, usd_e9))


def cap_of(batch_id: str) -> int | None:
    with reading() as connection:
        return next((each.cap for each in budgets.covering(connection, batch_id) if each.kind == BATCH), None)


def test_a_price_that_is_not_known_is_refused_with_the_lines_that_set_it(
    tmp_path: Path, use_environment: UseEnvironment
) -> None:
    with pytest.raises(InputError, match=r'^--budget needs .* of gpt-6\.2-sol, .*:\n\["gpt-6\.2-sol"\]\ninput = '):
        open_batch(order(["Why?"], UNKNOWN, "5"))
    open_batch(order(["Why?"], UNKNOWN))  # without a cap an unknown price is no error
    for kind, name in ((DAY, "a day"), (FLEET, "for all batches")):
        cap(kind, 20)
        with pytest.raises(InputError, match=rf"^The budget of \$20\.00 {name} needs the price of gpt-6\.2-sol"):
            open_batch(order(["How?"], UNKNOWN))
        cap(kind, None)
    (tmp_path / "prices.toml").write_text(f'["{UNKNOWN}"]\ninput = 0\noutput = 0\n')
    use_environment({"TIDEMILL_PRICES": str(tmp_path / "prices.toml")})
    open_batch(order(["How?"], UNKNOWN, "5"))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [(None, "No such file"), ("[", "is not TOML"), ('["m"]\ninput = "a"\noutput = 1\n', r"\['m'\] input: must be")],
)
def test_a_file_of_prices_that_cannot_be_used_is_named_where_a_cap_needs_it(
    text: str | None, wrong: str, tmp_path: Path, use_environment: UseEnvironment
) -> None:
    if text is not None:
        (tmp_path / "prices.toml").write_text(text)
    use_environment({"TIDEMILL_PRICES": str(tmp_path / "prices.toml")})
    with pytest.raises(InputError, match=rf"file of prices cannot be used\. .*prices\.toml.*{wrong}"):
        open_batch(order(["Why?"], budget="5"))
    assert count(batches) == 0


def test_a_line_that_names_another_model_is_found_before_anything_is_stored(tmp_path: Path) -> None:
    lines = [{"url": "/v1/chat/completions", "body": {"model": MODEL, "messages": []}} for _ in range(100)]
    lines.append({"url": "/v1/chat/completions", "body": {"model": UNKNOWN, "messages": []}})
    for number, line in enumerate(lines):
        line |= {"custom_id": str(number), "method": "POST"}
        line["body"]["messages"].append({"role": "user", "content": f"question {number}"})  # type: ignore[index]
    (tmp_path / "lines.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(InputError, match=UNKNOWN):
        open_batch(order(Files((str(tmp_path / "lines.jsonl"),)), budget="5"))
    assert count(batches) == count(jobs) == 0


def test_a_budget_below_one_call_is_refused_before_anything_is_stored() -> None:
    with pytest.raises(InputError, match=r"^One call may cost up to \$0\.\d+, and --budget is \$0\.0001: nothing was"):
        open_batch(order(["Why?", "How?"], budget="0.0001", max_tokens=1_000))
    assert count(batches) == 0
    open_batch(order(["Why?", "How?"], budget="0.0001", max_tokens=10))


def test_the_same_command_keeps_the_cap_and_another_amount_changes_it() -> None:
    first = open_batch(order(["Why?"], budget="5"))
    assert cap_of(first.batch_id) == 5 * 10**9
    again = open_batch(order(["Why?"]))
    assert (again.batch_id, cap_of(first.batch_id)) == (first.batch_id, 5 * 10**9)
    open_batch(order(["Why?"], budget="0.000001"))  # below one call: rows that are answered stay, the others wait
    assert cap_of(first.batch_id) == 1_000


def test_a_batch_says_what_keeps_it() -> None:
    opened = open_batch(order([f"question {number}" for number in range(3)], budget="0.02", max_tokens=10_000))
    submit(opened)
    batch_id = opened.batch_id
    (taken,) = take(stored_ids(batch_id))  # one fits
    assert reason(batch_id) == ("budget_narrow", None)
    put(success(taken, cost_usd=0.0199))
    take(stored_ids(batch_id))
    assert reason(batch_id) == ("budget", None)
    with reading() as connection:
        reached = affording.blocking(connection, batch_id, ledger.clock(connection))
    assert reached is not None
    assert reached.sentence.startswith("budget of $0.02 reached: $0.02 spent; the next call may cost up to $0.0")
    open_batch(order([f"question {number}" for number in range(3)], max_tokens=10_000))
    assert reason(batch_id) is None  # what did not fit may have left the input: it is tried again
    take(stored_ids(batch_id))
    assert reason(batch_id) == ("budget", None)
    cap(BATCH, 1, batch_id)
    assert reason(batch_id) is None


def stored_ids(batch_id: str) -> list[int]:
    with reading() as connection:
        return list(connection.scalars(select(jobs.c.id).where(jobs.c.batch_id == batch_id)))


def reason(batch_id: str) -> tuple[str, datetime | None] | None:
    with reading() as connection:
        why = affording.blocking(connection, batch_id, ledger.clock(connection))
    return None if why is None else (why.code, why.until)


def test_a_run_whose_answers_have_no_limit_is_told_how_few_calls_a_cap_lets_go_side_by_side() -> None:
    """Only where they are fewer than could go otherwise."""
    one = bounds.most_usd_e9(Options(MODEL), {"prompt": "Why?"}) or 0
    asked = order(["Why?"], budget=f"{3 * one / 1e9}")
    opened = open_batch(asked)
    told = affording.few_at_once(asked, opened.example, opened.batch_id, 256)
    assert told is not None
    assert ": only 3 calls fit side by side, since each may cost up to $0." in told
    assert affording.few_at_once(asked, opened.example, opened.batch_id, 3) is None
    limited = order(["Why?"], budget=f"{3 * one / 1e9}", max_tokens=10)
    assert affording.few_at_once(limited, opened.example, opened.batch_id, 256) is None
