"""A dry run says how far a budget will reach: the rows that surely fit, and those that probably do."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sqlalchemy import Connection, func, select

from tidemill.models import budgets, cost
from tidemill.models.bookings import BATCH
from tidemill.models.budgets import Budget
from tidemill.models.database import reading
from tidemill.models.errors import InputError
from tidemill.models.job_requests import model_of
from tidemill.models.json_types import JsonObject
from tidemill.models.money import usd, usd_e9
from tidemill.models.routes import ROUTES
from tidemill.models.scope import Scope
from tidemill.models.tables import jobs
from tidemill.producer.batches import affording
from tidemill.producer.batches import budget_words as words
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.progress import counted, counts

_ASSUMED_ANSWER_TOKENS = 300
"""Of an answer, where none of the batch is known yet."""

_ENOUGH_ANSWERS = 5
_MOST_ANSWERS = 1_000
"""Answers whose mean says how long the next ones will be."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the narrowest cap reaches: of the rows to send, how many surely and how many probably fit."""

    budget: Budget
    rows: int
    surely: int
    """As many calls may be under way together, since each reserves the most that it may cost."""
    probably: int
    answer_tokens: int
    is_assumed: bool
    """Whether nobody knows yet how long answers are."""
    least: int
    """What the cheapest of the rows may cost at most."""

    def lines(self) -> tuple[str, ...]:
        """For people."""
        left = f"{words.title(self.budget)}, {words.shown(self.budget.left)} left"
        if not self.surely:
            return (
                f"{left}: no row fits;",
                f"  one call may cost up to {words.shown(self.least, is_most=True)}; {words.LOWERS_CALLS}",
            )
        if self.surely == self.rows:
            return (f"{left}: {'the row fits' if self.rows == 1 else f'all {self.rows:,} rows fit'} in any case",)
        why = "which is assumed" if self.is_assumed else "as those before have"
        return (
            f"{left}: {self.surely:,} of {counted(self.rows, 'row')} surely fit, each at its most;",
            f"  probably {self.probably:,} do, with answers of {self.answer_tokens:,} tokens, {why};",
            f"  {self.surely:,} can be under way at once, since each reserves its most",
        )

    def to_json(self) -> JsonObject:
        """For scripts."""
        return {
            "kind": self.budget.kind,
            "cap_usd": usd(self.budget.cap),
            "left_usd": usd(self.budget.left),
            "rows_surely": self.surely,
            "rows_probably": self.probably,
            "side_by_side": self.surely,
            "answer_tokens": self.answer_tokens,
            "answer_tokens_are_assumed": self.is_assumed,
        }


class Reckoning:
    """Adds up what rows may cost at most, as they come.

    Args:
        order: whose rows they are.
        batch_id: the batch that it would continue; None: a new one.
    """

    def __init__(self, order: Order, batch_id: str | None) -> None:
        self._order, self._batch_id = order, batch_id
        self._budget = words.narrowest(_caps(order, batch_id))
        self._bounds = affording.bounds_of(order.options, order.spending)
        self._reserved = self._surely = 0
        self._least: int | None = None

    def add(self, requests: Iterable[JsonObject]) -> None:
        """Count further rows that would be sent.

        Raises:
            InputError: the price of one is not known, and a cap is in force.
        """
        if self._budget is None:
            return
        for request in requests:
            most = self._bounds.most_usd_e9(request)
            if most is None:
                why = affording.name_of(self._budget, self._order.spending)
                raise InputError(affording.unknown_price(why, model_of(request, self._order.options.model)))
            self._least = most if self._least is None else min(self._least, most)
            if self._reserved + most <= self._budget.left:  # a dear row waits, and the others go on
                self._reserved += most
                self._surely += 1

    def reach(self, rows: int, input_usd: float | None) -> Reach | None:
        """How far the narrowest cap reaches; None where there is none, or nothing to send.

        Args:
            rows: how many would be sent.
            input_usd: what their prompts cost, together.
        """
        if self._budget is None or not rows:
            return None
        tokens, is_assumed = self._answer_tokens()
        likely = self._likely_usd_e9(rows, input_usd or 0.0, tokens)
        # The last call begins while there is room for the most that it may cost.
        usual_most = self._reserved // max(1, self._surely)
        begun = (self._budget.left - usual_most) // likely + 1 if likely else rows
        surely = min(rows, self._surely)
        probably = min(rows, max(surely, begun)) if surely else 0
        return Reach(self._budget, rows, surely, probably, tokens, is_assumed, self._least or 0)

    def _likely_usd_e9(self, rows: int, input_usd: float, answer_tokens: int) -> int:
        """What a call will cost, more or less."""
        options, route = self._order.options, self._order.spending.route
        tier = str(options.params.get("service_tier") or "")
        price = cost.price(options.model, ROUTES[route].tier if route in ROUTES and ROUTES[route].tier else tier)
        return usd_e9(input_usd / max(1, rows) + (price.output_usd_per_token * answer_tokens if price else 0.0))

    def _answer_tokens(self) -> tuple[int, bool]:
        """How long an answer will be, and whether that is only assumed."""
        room = self._order.options.max_tokens
        if self._batch_id is not None:
            with reading() as connection:
                if (mean := _mean_answer_tokens(connection, self._batch_id)) is not None:
                    return mean, False
        return min(room or _ASSUMED_ANSWER_TOKENS, _ASSUMED_ANSWER_TOKENS), True


def _mean_answer_tokens(connection: Connection, batch_id: str) -> int | None:
    answered = select(jobs.c.output_tokens).where(jobs.c.batch_id == batch_id, jobs.c.state == "succeeded")
    some = answered.limit(_MOST_ANSWERS).subquery()
    number, mean = connection.execute(select(func.count(), func.avg(some.c.output_tokens))).one()
    return max(1, round(mean)) if number >= _ENOUGH_ANSWERS else None


def _caps(order: Order, batch_id: str | None) -> list[Budget]:
    """The caps on an order; its own one with what was spent of it before."""
    if batch_id is None:
        return affording.in_force(order.spending)
    said = order.spending.budget_usd_e9
    with reading() as connection:
        known = budgets.covering(connection, batch_id)
        spent = usd_e9(counts(connection, Scope(batch_id)).cost_usd or 0.0)
    if said is None:
        return known
    before = next((each for each in known if each.kind == BATCH), Budget(BATCH, batch_id, said, spent, 0, 0, 0))
    return [replace(before, cap=said), *(each for each in known if each.kind != BATCH)]
