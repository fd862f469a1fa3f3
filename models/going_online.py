"""Rows of a cheaper route go online when a deadline asks for it, when few are left, or when nobody takes them.

A duty of every worker (`worker.maintenance`) looks, and whatever it does may be done twice: one UPDATE changes the
route, and what is out is to be cancelled. No row is called online before the provider has given it up: money before
time. All functions work on a connection in the caller's transaction.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, literal_column, select, update

from tidemill.models import upstream, whereabouts
from tidemill.models.clock import now
from tidemill.models.deadlines import RAN, lead_seconds, live_rate
from tidemill.models.members import is_member
from tidemill.models.routes import FLEX, ONLINE, UPSTREAM
from tidemill.models.tables import OPEN_PARTS, batches, in_part, jobs, tallies

STRAGGLERS = 20
STRAGGLERS_SHARE = 0.02
"""With fewer rows than either nobody waits for another upstream batch."""

Reason = Literal["deadline", "few", "refused"]
"""Why rows go online: their deadline is near, only few are left, or the server does not take the model that way."""


class Move(NamedTuple):
    """A batch whose rows go online from now on, and why."""

    batch_id: str
    from_route: str
    reason: Reason
    rows: int
    """That are open."""
    rows_out: int
    """Of these, those that follow once the provider has given them up."""


def meet(connection: Connection, provider: str) -> list[Move]:
    """Let batches of this provider go online whose deadline asks for it."""
    own = _read(connection, batches.c.provider == provider, *_MAY_GO_ONLINE)
    due = [batch for batch in own if _seconds_until_online(connection, batch) <= 0]
    moves = [_go_online(connection, batch, "deadline") for batch in due]
    return [move for move in moves if move is not None]


def finish(connection: Connection, batch_id: str) -> Move | None:
    """Let the rows of an upstream route that are to be packed go online, if they are the last few of their batch."""
    own = _read(connection, batches.c.id == batch_id, batches.c.route.in_(UPSTREAM))
    few = (batch for batch in own if _has_stragglers(connection, batch))
    return next((_go_online(connection, batch, "few") for batch in few), None)


def leave_flex(connection: Connection, provider: str, models: Collection[str]) -> list[Move]:
    """Let batches go online whose model the server does not serve at flex."""
    its = _read(connection, batches.c.provider == provider, batches.c.route == FLEX) if models else []
    options = select(batches.c.id, batches.c.options).where(batches.c.id.in_([batch.id for batch in its]))
    model_of = {batch_id: own.get("model") for batch_id, own in connection.execute(options)} if its else {}
    moves = [_go_online(connection, batch, "refused") for batch in its if model_of.get(batch.id) in models]
    return [move for move in moves if move is not None]


def leave(connection: Connection, batch_id: str, route: str) -> Move | None:
    """Let a batch go online because the server does not take its model by this route."""
    own = _read(connection, batches.c.id == batch_id, batches.c.route == route)
    return next((_go_online(connection, batch, "refused") for batch in own), None)


def seconds_until_online(connection: Connection, batch_id: str) -> float | None:
    """In how many seconds the rest of a batch goes online for its deadline; None: it does not."""
    own = _read(connection, batches.c.id == batch_id, *_MAY_GO_ONLINE)
    return next((_seconds_until_online(connection, batch) for batch in own), None)


_HAS_OPEN = select(tallies.c.batch_id).where(
    tallies.c.batch_id == batches.c.id, tallies.c.state == "open", tallies.c.row_count != 0
)
_MAY_GO_ONLINE = (batches.c.route != ONLINE, batches.c.deadline_at.is_not(None), _HAS_OPEN.exists())


class _Batch(NamedTuple):
    """What the duty must know of an open batch."""

    id: str
    provider: str
    route: str
    deadline_at: datetime | None
    created_at: datetime
    read_at: datetime | None
    now: datetime


def _read(connection: Connection, *condition: ColumnElement[bool]) -> list[_Batch]:
    columns = [batches.c[name] for name in _Batch._fields[:-1]]
    rows = connection.execute(select(*columns, now()).where(batches.c.state == "open", *condition))
    return [_Batch._make(row) for row in rows.all()]


def _seconds_until_online(connection: Connection, batch: _Batch) -> float:
    """In how many seconds the batch must go online for its deadline, as far as is known now."""
    assert batch.deadline_at is not None
    left = (batch.deadline_at - batch.now).total_seconds()
    out_since = [each.created_at for each in upstream.open_of(connection, batch.id)]
    whole = (batch.deadline_at - min(out_since, default=batch.read_at or batch.created_at)).total_seconds()
    rows, _ = _rows(connection, batch.id)
    return left - lead_seconds(rows, live_rate(connection, batch.provider), whole)


def _rows(connection: Connection, batch_id: str) -> tuple[int, int]:
    """How many rows of a batch are open, and how many it has."""
    of_batch = select(tallies.c.state == "open", func.sum(tallies.c.row_count)).where(tallies.c.batch_id == batch_id)
    counts = {bool(is_open): int(rows) for is_open, rows in connection.execute(of_batch.group_by(literal_column("1")))}
    return counts.get(True, 0), sum(counts.values())


def _has_stragglers(connection: Connection, batch: _Batch) -> bool:
    """Whether few rows came back from the provider, who had its time with them, and no others are to go there."""
    rows, all_rows = _rows(connection, batch.id)
    if batch.read_at is None or not 0 < rows < max(STRAGGLERS, STRAGGLERS_SHARE * all_rows):
        return False
    known = upstream.all_of(connection, batch.id)
    if not known or any(each.ended_at is None for each in known):
        return False
    was_run = known[-1].refused is None and known[-1].meaning in RAN
    others = (select(jobs.c.id).where(in_part(part, batch.id), jobs.c.upstream_id.is_(None)) for part in OPEN_PARTS)
    return was_run and all(connection.scalar(each.limit(1)) is None for each in others)


def _go_online(connection: Connection, batch: _Batch, reason: Reason) -> Move | None:
    """Change the route, and have what is out cancelled; None where somebody else has done it."""
    changed = update(batches).where(batches.c.id == batch.id, batches.c.route == batch.route)
    is_first = batch.route != ONLINE and connection.execute(changed.values(route=ONLINE)).rowcount
    if reason == "deadline":
        whereabouts.want_cancel(connection, batch.id)
    rows, _ = _rows(connection, batch.id)
    is_out = in_part(OPEN_PARTS[2], batch.id), is_member()
    out = connection.scalar(select(func.count()).select_from(jobs).where(*is_out)) or 0
    return Move(batch.id, batch.route, reason, rows, out) if is_first else None
