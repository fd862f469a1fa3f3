"""What waits in the database, and for what, for those who watch over it: a worker's log, and Prometheus.

Every count is of bounded cost: a batch's open rows stand in `tallies`, and what is sent or runs has small indexes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, Row, Select, case, func, literal, literal_column, select

from tidemill.models import budgets
from tidemill.models.clock import now, now_after
from tidemill.models.due import ALIVE_SECONDS, first_due
from tidemill.models.members import is_member
from tidemill.models.routes import UPSTREAM
from tidemill.models.tables import OPEN_PARTS, batches, jobs, tallies, workers

State = Literal["due", "later", "running", "held", "paused", "budget", "to_pack", "at_provider"]
STATES: tuple[State, ...] = get_args(State)

MOST_LATER = 5_000
"""Rows of one batch that are counted as waiting for a later time; the others of them count as due."""


@dataclass
class Backlog:
    """The open rows of one provider, by what they wait for."""

    rows: dict[State, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    """`due` may go out now, `later` waits for its next try, `held` for the provider, `paused` for a user,
    `budget` for room under a cap.

    `to_pack` are due, and the provider's Batch API will have them; `at_provider` it has.
    """
    batches_on_hold: int = 0
    """With open rows."""
    hold_reason: str | None = None
    next_probe_seconds: float = 0.0
    oldest_due_seconds: float = 0.0
    """For how long the row that waits longest could have gone out."""
    workers: int = 0
    """Worker processes that were seen a moment ago."""


def read(connection: Connection, providers: Iterable[str] = ()) -> dict[str, Backlog]:
    """The backlog of each provider that has open rows, a living worker, or is named."""
    backlogs = {provider: Backlog() for provider in providers}
    at = connection.execute(select(now())).scalar_one()
    under_way: dict[str, int] = {}
    for part, state in ((OPEN_PARTS[2], "running"), (OPEN_PARTS[1], "due")):
        for row in connection.execute(_under_way(part)):
            under_way[row.id] = under_way.get(row.id, 0) + row.rows
            runs: State = "at_provider" if row.is_out else "running"
            _add(backlogs, row, runs if state == "running" else _state_of(row), row.rows, at)
    for row in connection.execute(_unsent(at)):
        unsent = max(1, int(row.open_rows) - under_way.get(row.id, 0))
        state_now = _state_of(row)
        later = min(unsent, row.later) if state_now in ("due", "to_pack") else 0
        _add(backlogs, row, state_now, unsent - later, at)
        backlogs[row.provider].rows["later"] += later
        backlogs[row.provider].batches_on_hold += state_now == "held"
    _count_holds(connection, backlogs, at)
    alive = select(workers.c.provider, func.count()).where(workers.c.seen_at > now_after(-ALIVE_SECONDS))
    for provider, number in connection.execute(alive.group_by(workers.c.provider)):
        backlogs.setdefault(provider or "", Backlog()).workers = number
    return backlogs


def _state_of(row: Row[Any]) -> State:
    if row.state == "paused":
        return "paused"
    if row.hold_reason is not None:
        return "held"
    if row.is_blocked:
        return "budget"
    return "to_pack" if row.route in UPSTREAM else "due"


def _add(backlogs: dict[str, Backlog], row: Row[Any], state: State, rows: int, at: datetime) -> None:
    backlog = backlogs.setdefault(row.provider, Backlog())
    backlog.rows[state] += rows
    if state == "due" and row.first_due is not None:
        waited = (at - row.first_due).total_seconds()
        backlog.oldest_due_seconds = max(backlog.oldest_due_seconds, waited)


def _under_way(part: Any) -> Select[Any]:
    """What is sent or runs, by batch, and apart what the provider's Batch API has; but for that, such rows are few."""
    is_out = case((is_member(), 1), else_=0).label("is_out")
    first = func.min(jobs.c.available_at).label("first_due")
    # Counted before it is joined: at the provider there may be a million.
    rows = select(jobs.c.batch_id, is_out, func.count().label("rows"), first).where(part)
    counted = rows.group_by(jobs.c.batch_id, is_out).subquery().c
    return select(*_heads(), counted.is_out, counted.rows, counted.first_due).join(
        batches, batches.c.id == counted.batch_id
    )


def _heads() -> tuple[ColumnElement[Any], ...]:
    """What says of a batch for what its rows wait."""
    is_blocked = case((budgets.is_blocked(), 1), else_=0).label("is_blocked")
    return batches.c.id, batches.c.provider, batches.c.state, batches.c.hold_reason, batches.c.route, is_blocked


def _unsent(at: datetime) -> Select[Any]:
    """Each batch with queued rows that nobody was sent: its open rows, and how many of them are due later."""
    unsent = OPEN_PARTS[0], jobs.c.batch_id == batches.c.id
    any_row = select(jobs.c.id).where(*unsent).order_by(jobs.c.available_at, jobs.c.id).limit(1)
    # Named as a value: no index can be searched for what a clock may change meanwhile.
    future = jobs.c.available_at > literal(at, jobs.c.available_at.type)
    some = select(literal_column("1")).where(*unsent, future).limit(MOST_LATER).correlate(batches).subquery()
    later = select(func.count()).select_from(some).correlate(batches).scalar_subquery()
    is_open = tallies.c.batch_id == batches.c.id, tallies.c.state == "open"
    open_rows = select(func.coalesce(func.sum(tallies.c.row_count), 0)).where(*is_open).scalar_subquery()
    return select(
        *_heads(),
        open_rows.label("open_rows"),
        later.label("later"),
        first_due().correlate(batches).scalar_subquery().label("first_due"),
    ).where(batches.c.state != "cancelled", any_row.correlate(batches).scalar_subquery().is_not(None))


def _count_holds(connection: Connection, backlogs: dict[str, Backlog], at: datetime) -> None:
    """Note what the providers with held rows wait for."""
    held = select(batches.c.provider, func.max(batches.c.hold_reason), func.min(batches.c.held_until)).where(
        batches.c.hold_reason.is_not(None), batches.c.state == "open"
    )
    for provider, reason, until in connection.execute(held.group_by(batches.c.provider)):
        backlog = backlogs.get(provider)
        if backlog is not None and (backlog.rows["held"] or backlog.rows["running"]):
            backlog.hold_reason = reason
            backlog.batches_on_hold = backlog.batches_on_hold or 1  # its last row may be the probe that runs
            backlog.next_probe_seconds = max(0.0, (until - at).total_seconds()) if until else 0.0
