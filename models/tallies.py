"""What a batch's rows come to is read from `tallies`, so that nobody counts a million rows to see how far it is.

Triggers of the database keep them (migration 0009), so that no way of changing a row can forget it.
"""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select, true
from sqlalchemy.exc import NoResultFound

from tidemill.models.bookings import BATCH, DAY, FLEET
from tidemill.models.members import is_member
from tidemill.models.money import COST_PLACES
from tidemill.models.scope import Scope
from tidemill.models.tables import FLAWED, OPEN_PARTS, batches, budgets, dialogues, in_part, jobs, tallies

COST_UNITS: int = 10**COST_PLACES
"""Of a dollar, in `tallies.cost_usd_e12`."""


class Tally(NamedTuple):
    """Rows of one state and one error code (empty: none), with what all their calls have used."""

    state: str
    """`open`, `succeeded`, `failed` or `cancelled`."""
    error_code: str
    rows: int
    tokens: int
    cost_usd: float | None
    """None while no cost is known."""
    unpriced: int
    """Rows that used tokens at an unknown price."""


class BatchNow(NamedTuple):
    """How a batch stands at one moment."""

    tallies: list[Tally]
    running: int
    at_provider: int
    """Of the running rows those that are lines of an upstream batch."""
    unjudged: int
    caps: int
    """How many caps on money may concern it; which, is said by `models.budgets`."""
    state: str
    hold_reason: str | None
    route: str
    deadline_at: datetime | None


def read(connection: Connection, scope: Scope) -> BatchNow:
    """How a batch, or one submission of it, stands; one statement, so that all of it is of one moment.

    Raises:
        sqlalchemy.exc.NoResultFound: there is no such batch.
    """
    is_running = in_part(OPEN_PARTS[2], scope.batch_id or ""), *_in_input(scope)
    at_provider = func.coalesce(func.sum(case((is_member(), 1), else_=0)), 0)
    # Both in one look, for at the provider there may be a million.
    running = select(func.count().label("running"), at_provider.label("members")).where(*is_running).subquery()
    unjudged = select(func.count()).where(dialogues.c.sentiment.is_(None), dialogues.c.batch_id == scope.batch_id)
    own_cap = and_(budgets.c.kind == BATCH, budgets.c.name == scope.batch_id)
    may_concern = or_(budgets.c.kind.in_((DAY, FLEET)), own_cap)  # as the index has them: there may be many
    caps = select(func.count()).where(budgets.c.cap_usd_e9.is_not(None), may_concern)
    own = and_(tallies.c.batch_id == batches.c.id, tallies.c.submission >= scope.submission)
    sums = (_sum(tallies.c[name]) for name in ("row_count", "tokens", "cost_usd_e12", "priced", "unpriced"))
    now = (batches.c.state, batches.c.hold_reason, batches.c.route, batches.c.deadline_at)
    heads = (running.c.running, running.c.members, *now, tallies.c.state, tallies.c.error_code)
    statement = (
        select(*heads[:2], unjudged.scalar_subquery(), caps.scalar_subquery(), *heads[2:], *sums)
        .select_from(batches.join(running, true()).outerjoin(tallies, own))
        .where(batches.c.id == scope.batch_id)
        .group_by(*heads)
    )
    rows = connection.execute(statement).all()
    if not rows:
        raise NoResultFound(scope.batch_id)
    return BatchNow([_tally(*row[8:]) for row in rows if row[8]], *rows[0][:8])


def _tally(state: str, code: str, *sums: int) -> Tally:
    rows, tokens, cost, priced, unpriced = map(int, sums)
    return Tally(state, code, rows, tokens, cost / COST_UNITS if priced else None, unpriced)


def _sum(column: ColumnElement[int]) -> ColumnElement[int]:
    return func.coalesce(func.sum(column), 0)


def reasons(connection: Connection, scope: Scope, state: str) -> list[tuple[str, int]]:
    """The error codes of rows that ended so, with how many rows have each; the most frequent first."""
    rows = _sum(tallies.c.row_count)
    codes = (
        select(tallies.c.error_code, rows)
        .where(*_of(scope), tallies.c.state == state)
        .group_by(tallies.c.error_code)
        .having(rows > 0)
        .order_by(rows.desc(), tallies.c.error_code)
    )
    return [(code, int(number)) for code, number in connection.execute(codes)]


def example(connection: Connection, scope: Scope, state: str, code: str) -> str:
    """The sentence of one of these rows."""
    is_one = jobs.c.error_code == code if code else jobs.c.error_code.is_(None)
    one = select(jobs.c.error).where(FLAWED, jobs.c.batch_id == scope.batch_id, is_one, jobs.c.state == state)
    sentence: str | None = connection.scalar(one.where(*_in_input(scope)).limit(1))
    return sentence or ""


def any_rows(connection: Connection, batch_id: str, *conditions: ColumnElement[bool]) -> bool:
    """Whether a batch's input holds any rows of these tallies."""
    rows = select(_sum(tallies.c.row_count)).where(tallies.c.batch_id == batch_id, *conditions)
    return bool(connection.scalar(rows))


def _of(scope: Scope) -> tuple[ColumnElement[bool], ...]:
    return tallies.c.batch_id == scope.batch_id, tallies.c.submission >= scope.submission


def _in_input(scope: Scope) -> tuple[ColumnElement[bool], ...]:
    return jobs.c.position.is_not(None), jobs.c.submission >= scope.submission
