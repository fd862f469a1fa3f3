"""The database holds the backlog, the broker only what the fleet can take next.

`feed()` finds due jobs, fair between batches, marks them as sent and sends their ids. It may run anywhere, any number
of times, at once: a job sent twice is claimed once. Because so little is in the broker, priority, pause and cancel act
at once, and a broker that forgets everything costs seconds.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, or_, select, update

from tidemill.models import broker, holds
from tidemill.models.clock import now, now_after
from tidemill.models.database import writing
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.tables import OPEN_STATES, batches, jobs, workers
from tidemill.models.transitions import goes_before, share, unsend

IDS_PER_MESSAGE = 32
ALIVE_SECONDS = 30.0
"""A worker that has not been seen for so long does not count for the window."""

RESEND_SECONDS = {True: 3.0, False: 60.0}
"""Is the broker's queue empty? -> how old an unclaimed message must be to count as lost."""


def feed(scope: Scope) -> int:
    """Send what is due and fits, and return how many jobs that was.

    Raises:
        BrokerError: the broker does not answer; the jobs count as lost messages and are sent again later.
        DatabaseError: the database does not answer.
    """
    with writing() as connection:
        chosen = _mark_due(connection, scope)
    if chosen:
        broker.send(chosen[start : start + IDS_PER_MESSAGE] for start in range(0, len(chosen), IDS_PER_MESSAGE))
    return len(chosen)


def resend_lost() -> int:
    """Make jobs whose message seems lost due again; returns how many."""
    grace = RESEND_SECONDS[broker.queue_is_empty()]
    with writing() as connection:
        return unsend(connection, jobs.c.sent_at < now_after(-grace))


def forget_sent(scope: Scope) -> None:
    """Make a batch's unclaimed jobs due at once: the process whose broker held their messages is about to end."""
    if scope.batch_id is not None and settings().embedded:
        with writing() as connection:
            unsend(connection, _of(scope))


def _of(scope: Scope) -> ColumnElement[bool]:
    """Whether a job is of the scope's batch, or of the dialogue that it goes on."""
    own = jobs.c.batch_id == scope.batch_id
    return own if scope.dialogue_id is None else or_(own, jobs.c.dialogue_id == scope.dialogue_id)


def _mark_due(connection: Connection, scope: Scope) -> list[int]:
    share(connection)
    waiting = _waiting_batches(connection, scope)
    free = [batch for batch in waiting if batch.hold_reason is None]
    chosen: list[int] = []
    room = _room(connection, scope) if free else 0
    for _, level in groupby(free, key=attrgetter("priority")):
        chosen += _share(connection, list(level), room - len(chosen), scope)
    held = [batch for batch in waiting if batch.hold_reason is not None]
    for _, batches_held in groupby(sorted(held, key=attrgetter("provider")), key=attrgetter("provider")):
        chosen += _probe(connection, next(batches_held), scope)
    return chosen


def _waiting_batches(connection: Connection, scope: Scope) -> Sequence[Any]:
    """Batches with a due job that may go out, the most urgent first."""
    statement = select(batches.c.id, batches.c.priority, batches.c.provider, batches.c.hold_reason).where(
        batches.c.state == "open",
        or_(batches.c.hold_reason.is_(None), batches.c.held_until <= now()),
        # Asked for one row in the index's order: EXISTS would let Postgres read a million rows for a hash join.
        _due(batches.c.id, scope).limit(1).scalar_subquery().is_not(None),
    )
    if scope.dialogue_id is not None:
        turns = jobs.c.dialogue_id == scope.dialogue_id, jobs.c.state == "queued"
        statement = statement.where(batches.c.id.in_(select(jobs.c.batch_id).where(*turns)))
    elif scope.batch_id is not None:
        statement = statement.where(batches.c.id == scope.batch_id)
    if scope.provider is not None:
        statement = statement.where(batches.c.provider == scope.provider)
    return connection.execute(statement.order_by(batches.c.priority.desc(), batches.c.created_at)).all()


def _due(batch_id: Any, scope: Scope) -> Select[tuple[int]]:
    """Due jobs; of those that ask the same of the same picture one at a time, for the others share its answer, and of
    the turns of a dialogue the oldest.
    """
    own = jobs.c.submission >= scope.submission
    if scope.dialogue_id is not None:
        own = jobs.c.dialogue_id == scope.dialogue_id
    twins = jobs.alias("twins")
    goes_first = and_(twins.c.id < jobs.c.id, twins.c.state.in_(OPEN_STATES), twins.c.submission >= scope.submission)
    twin = (
        select(twins.c.id)
        .where(
            twins.c.batch_id == jobs.c.batch_id,
            twins.c.content == jobs.c.content,
            twins.c.content.is_not(None),  # said for the partial index, which SQLite would not use otherwise
            twins.c.id != jobs.c.id,
            or_(goes_first, twins.c.state == "succeeded"),
        )
        .exists()
    )
    return (
        select(jobs.c.id)
        .where(
            own,
            jobs.c.batch_id == batch_id,
            jobs.c.state == "queued",
            jobs.c.sent_at.is_(None),
            jobs.c.available_at <= now(),
            or_(jobs.c.content.is_(None), ~twin),
            or_(jobs.c.dialogue_id.is_(None), ~goes_before()),
        )
        .order_by(jobs.c.available_at, jobs.c.id)
    )


def _room(connection: Connection, scope: Scope) -> int:
    """How many more jobs the broker should hold: twice what the fleet runs at once, less what already waits there."""
    windows = select(func.coalesce(func.sum(workers.c.window), 0)).where(workers.c.seen_at > now_after(-ALIVE_SECONDS))
    sent = select(func.count()).where(jobs.c.state == "queued", jobs.c.sent_at.is_not(None))
    if scope.batch_id is not None:
        sent = sent.where(jobs.c.batch_id == scope.batch_id)
    fleet, waiting = connection.execute(select(windows.scalar_subquery(), sent.scalar_subquery())).one()
    return max(0, 2 * (int(fleet) or settings().window) - int(waiting))


def _share(connection: Connection, level: Sequence[Row[Any]], room: int, scope: Scope) -> Iterator[int]:
    """Take from batches of the same priority in turn; what some leave, the others may have."""
    parts: dict[str, list[int]] = {batch.id: [] for batch in level}
    wanting = list(level)
    while wanting and room > 0:
        full = []
        for left, batch in zip(range(len(wanting), 0, -1), wanting, strict=True):
            most = -(-room // left)
            taken = _take(connection, batch, most, scope)
            parts[batch.id] += taken
            room -= len(taken)
            if taken and len(taken) == most:
                full.append(batch)
        wanting = full
    for turn in range(max(map(len, parts.values()), default=0)):
        yield from (part[turn] for part in parts.values() if turn < len(part))


def _take(connection: Connection, batch: Row[Any], most: int, scope: Scope) -> list[int]:
    if most <= 0:
        return []
    ids: list[int] = []
    # What was tried before goes first: its time for retries runs.
    for turn in (jobs.c.first_attempt_at.is_not(None), jobs.c.first_attempt_at.is_(None)):
        # A CTE that locks is computed once; a plain sub-select with LIMIT may be run again for every row.
        due = _due(batch.id, scope).where(turn).limit(most - len(ids)).with_for_update(skip_locked=True).cte("due")
        sent = connection.scalars(
            update(jobs)
            .where(jobs.c.id.in_(select(due.c.id)), jobs.c.state == "queued")
            .values(sent_at=now())
            .returning(jobs.c.id)
        )
        ids += sorted(sent)
        if len(ids) >= most:
            break
    return ids


def _probe(connection: Connection, batch: Row[Any], scope: Scope) -> list[int]:
    """Let one job of a held provider through."""
    taken = _take(connection, batch, 1, scope)
    return taken if taken and holds.begin_probe(connection, batch.provider, taken[0]) else []
