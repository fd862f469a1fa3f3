"""A dry run says how many rows a budget surely pays for, and how many it probably does."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from tests.rows import MODEL, put, success, take
from tidemill.models import bounds, budgets, cost
from tidemill.models.bookings import BATCH, DAY, FLEET
from tidemill.models.database import reading, transact
from tidemill.models.errors import InputError
from tidemill.models.options import Options
from tidemill.models.tables import jobs
from tidemill.producer.asking.estimate import Estimate, estimate
from tidemill.producer.asking.prompts import Prompts
from tidemill.producer.batches.budget_reach import Reach
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.spending import spending_of
from tidemill.producer.batches.submit import open_batch, submit

pytestmark = pytest.mark.usefixtures("embedded_home")

MAX_TOKENS = 2_000
ROWS = [f"question {number:03}" for number in range(100)]
ONE = bounds.most_usd_e9(Options(MODEL, max_tokens=MAX_TOKENS), {"prompt": ROWS[0]}) or 0
"""What each of the rows may cost at most."""


def order(budget: float | None = None, **options: Any) -> Order:
    return Order(
        Options(MODEL, **{"max_tokens": MAX_TOKENS, **options}),
        Prompts(ROWS),
        source_name="s",
        spending=spending_of(budget),
    )


def reach(budget: float | None = None) -> Reach:
    reached = estimate(order(budget)).reach
    assert reached is not None
    return reached


def budget_line(counted: Estimate) -> str:
    return next(line for line in counted.text().splitlines() if line.startswith("budget"))


def test_without_a_cap_nothing_is_said() -> None:
    counted = estimate(order())
    assert (counted.reach, counted.to_json()["budget"]) == (None, None)
    assert "budget" not in counted.text()


def test_rows_fit_surely_at_the_most_that_each_may_cost_and_probably_at_what_answers_have_cost() -> None:
    counted = estimate(order(4 * ONE / 1e9))
    assert counted.reach is not None
    assert (counted.reach.surely, counted.reach.is_assumed, counted.reach.answer_tokens) == (4, True, 300)
    assert 4 < counted.reach.probably < 100
    assert ": 4 of 100 rows surely fit, each at its most;" in counted.text()
    assert "tokens, which is assumed" in counted.text()
    assert "  4 can be under way at once, since each reserves its most" in counted.text()
    assert (counted.to_json()["budget"]["rows_surely"], counted.to_json()["budget"]["side_by_side"]) == (4, 4)
    assert budget_line(estimate(order(100.0))).endswith(", $100.00 left: all 100 rows fit in any case")


def test_the_length_of_answers_is_known_once_there_are_some_and_what_is_spent_is_gone() -> None:
    price = cost.price(MODEL)
    assert price is not None
    opened = open_batch(order(20 * ONE / 1e9))
    submit(opened)
    with reading() as connection:
        ids = list(connection.scalars(select(jobs.c.id).order_by(jobs.c.position).limit(10)))
    put(*(success(job, output_tokens=7, cost_usd=ONE / 1e9) for job in take(ids)))
    now = reach()  # the same command keeps its cap
    assert (now.rows, now.surely, now.answer_tokens, now.is_assumed) == (90, 10, 7, False)
    assert now.budget.left == 10 * ONE
    assert reach(30 * ONE / 1e9).surely == 20  # another amount would count instead
    transact(lambda connection: budgets.set_cap(connection, BATCH, opened.batch_id, None))
    assert reach(30 * ONE / 1e9).surely == 20  # what was spent without a cap counts, too


def test_a_cap_that_pays_for_no_row_says_what_one_may_cost() -> None:
    counted = estimate(order((ONE - 1) / 1e9))
    assert counted.reach is not None
    assert (counted.reach.surely, counted.reach.probably, counted.reach.least) == (0, 0, ONE)
    assert "left: no row fits;\n  one call may cost up to $0.0" in counted.text()
    assert "; --max-tokens lowers that\n" in counted.text() and "probably" not in counted.text()


@pytest.mark.parametrize("kind", [DAY, FLEET])
def test_a_narrower_cap_of_a_day_or_of_all_decides(kind: str) -> None:
    transact(lambda connection: budgets.set_cap(connection, kind, "", 3 * ONE))
    assert reach(5.0).surely == 3
    assert reach(2 * ONE / 1e9).budget.kind == BATCH
    assert reach().to_json()["kind"] == kind


def test_a_price_that_is_not_known_is_refused_as_it_will_be() -> None:
    with pytest.raises(InputError, match=r"^--budget needs the price of nobody-knows-1"):
        estimate(Order(Options("nobody-knows-1"), Prompts(["a"]), spending=spending_of("5")))


def test_a_row_that_is_too_dear_for_the_cap_leaves_it_to_the_others() -> None:
    dear = "word " * 400_000
    mixed = replace(order(4 * ONE / 1e9), rows=Prompts([dear, *ROWS]))
    counted = estimate(mixed)
    assert counted.reach is not None
    assert (counted.reach.rows, counted.reach.surely) == (101, 4)
    assert counted.reach.probably > 4
    assert "  4 can be under way at once" in counted.text()
