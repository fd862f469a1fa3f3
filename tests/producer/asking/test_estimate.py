"""The price is known before anything is sent, and nothing is sent or stored to know it."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.conftest import UseEnvironment
from tests.rows import MODEL, count, put, success, take
from tidemill.models import cost
from tidemill.models.database import reading
from tidemill.models.errors import InputError
from tidemill.models.options import Options
from tidemill.models.tables import batches, jobs
from tidemill.producer.asking.estimate import Estimate, estimate
from tidemill.producer.asking.prompts import Prompts
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.submit import open_batch, submit
from tidemill.producer.intake.tables import ReadOptions

pytestmark = pytest.mark.usefixtures("database")


def order(source: Any, model: str = MODEL, **options: Any) -> Order:
    how = options.pop("how", ReadOptions())
    new = options.pop("new", False)
    return Order(Options(model, **options), Prompts(source, how), new=new)


def stored_ids() -> list[int]:
    with reading() as connection:
        return list(connection.scalars(select(jobs.c.id).order_by(jobs.c.position)))


def test_rows_tokens_and_dollars_are_counted_and_nothing_is_stored() -> None:
    counted = estimate(order(["Why is the sky blue?"] * 3 + ["And the sea?"]))
    assert (counted.batch_id, counted.rows, counted.done) == (None, 4, 0)
    words = 3 * cost.count_tokens("Why is the sky blue?", MODEL) + cost.count_tokens("And the sea?", MODEL)
    assert counted.input_tokens == words + 4 * cost.chat_overhead_tokens(1)
    price = cost.price(MODEL)
    assert price is not None
    assert counted.input_usd == pytest.approx(counted.input_tokens * price.input_usd_per_token)
    assert (counted.output_tokens, counted.output_usd, counted.total_usd) == (None, None, None)
    assert count(batches) == count(jobs) == 0


def test_one_row_is_one() -> None:
    assert estimate(order(["a"])).text().startswith(f"1 row for {MODEL}: 0 done, 1 to send\n")
    assert estimate(order(["a", "b"])).text().startswith(f"2 rows for {MODEL}")


def test_a_cap_on_the_answers_gives_the_most_that_it_can_cost() -> None:
    counted = estimate(order(["a"] * 10, max_tokens=100))
    price = cost.price(MODEL)
    assert price is not None and counted.output_tokens == 1_000
    assert counted.output_usd == pytest.approx(1_000 * price.output_usd_per_token)
    assert counted.total_usd == pytest.approx((counted.input_usd or 0) + (counted.output_usd or 0))


def test_a_system_prompt_is_paid_for_with_every_row() -> None:
    system = "Answer as a pirate would, in one short sentence."
    without, with_it = estimate(order(["a"] * 10)), estimate(order(["a"] * 10, system=system))
    each = cost.count_tokens(system, MODEL) + cost.chat_overhead_tokens(2) - cost.chat_overhead_tokens(1)
    assert with_it.input_tokens - without.input_tokens == 10 * each


def test_rows_that_are_done_already_cost_nothing_again() -> None:
    frame = order([f"prompt {i}" for i in range(100)])
    opened = open_batch(frame)
    submit(opened)
    put(*map(success, take(stored_ids()[:60])))
    counted = estimate(frame)
    assert (counted.batch_id, counted.rows, counted.done) == (opened.batch_id, 100, 60)
    assert counted.input_tokens < estimate(order([f"prompt {i}" for i in range(100)], new=True)).input_tokens
    assert estimate(order([f"prompt {i}" for i in range(100)], new=True)).done == 0
    assert counted.to_json()["to_send"] == 40


def test_duplicates_over_several_chunks_are_found_as_they_were_stored() -> None:
    lines = ["same", *[f"prompt {i}" for i in range(1_200)], "same"]
    frame = order(lines)
    submit(open_batch(frame))
    put(*map(success, take(stored_ids())))
    counted = estimate(frame)
    assert (counted.rows, counted.done, counted.input_tokens) == (1_202, 1_202, 0)


def test_a_limit_limits_the_estimate(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("\n".join(f"prompt {i}" for i in range(50)))
    assert estimate(order(path, how=ReadOptions(limit=5))).rows == 5


def test_messages_and_batch_lines_are_counted_too() -> None:
    rows = [
        {"messages": [{"role": "user", "content": "Why is the sky blue?"}]},
        {
            "custom_id": "x",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "messages": [{"role": "user", "content": "Why is the sky blue?"}]},
        },
    ]
    for row in rows:
        assert estimate(order([row])).input_tokens > cost.count_tokens("Why is the sky blue?", MODEL)


def test_an_unknown_price_is_said_and_not_taken_for_nothing() -> None:
    counted = estimate(order(["a"], "nobody-sells-this", max_tokens=5))
    assert (counted.input_usd, counted.output_usd, counted.total_usd) == (None, None, None)
    assert "unknown price" in counted.text()


def test_the_users_own_prices_go_first(tmp_path: Path, use_environment: UseEnvironment) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("[mine]\ninput = 1000000\noutput = 2000000\n")
    use_environment({"TIDEMILL_PRICES": str(prices)})
    counted = estimate(order(["a"], "mine", max_tokens=3))
    assert (counted.input_usd, counted.output_usd) == (counted.input_tokens, 6.0)


def test_an_input_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing-here"):
        estimate(order(tmp_path / "nothing-here.txt"))


def test_the_text_says_the_most_and_that_nothing_was_sent() -> None:
    capped = Estimate("b-1", MODEL, 1_000, 400, 600, 12_345, 6_000, 0.5, 1.5).text()
    for part in ("1,000 rows", "400 done", "600 to send", "12,345 tokens", "at most $2.00"):
        assert part in capped
    assert capped.endswith("Nothing was sent.")
    assert "as long as the model likes" in Estimate(None, MODEL, 1, 0, 1, 5, None, 0.5, None).text()
