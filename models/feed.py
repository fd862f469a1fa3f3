"""The backlog stays in the database; the broker gets only what the fleet can take next.

`feed()` finds due jobs of the configured provider, fair between batches, marks them as sent and sends their ids. It
may run anywhere and many times at once: a job sent twice is claimed once. Because so little is in the broker, priority,
pause and cancel act at once, and a broker that forgets everything costs seconds. While it is away, a worker takes what
is due by `take()`.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select, update

from tidemill.models import broker, holds
from tidemill.models.clock import now, now_after
from tidemill.models.database import transact
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.tables import OPEN_STATES, batches, jobs, workers
from tidemill.models.transitions import goes_before, share, unsend

IDS_PER_MESSAGE = 32
ALIVE_SECONDS = 30.0
"""A worker that was not seen for this long does not count for the window."""

RESEND_SECONDS = {True: 3.0, False: 60.0}
"""Whether the broker's queue is empty -> how old an unclaimed message must be to count as lost."""


class WaitingBatch(NamedTuple):
    """A batch with a due job; `hold_reason` is None unless its provider is on hold."""

    id: str
    priority: int
    provider: str
    hold_reason: str | None


def feed(scope: Scope) -> int:
    """Send the due jobs that fit; returns how many.

    Raises:
        BrokerError: the broker does not answer; the jobs are due again.
        DatabaseError: the database does not answer.
    """
    chosen = transact(partial(_mark_due, scope=scope))
    if chosen:
        try:
            broker.send(chosen[start : start + IDS_PER_MESSAGE] for start in range(0, len(chosen), IDS_PER_MESSAGE))
        except broker.BrokerError:
            transact(lambda connection: unsend(connection, jobs.c.id.in_(chosen)))
            raise
    return len(chosen)


def take(scope: Scope, most: int) -> list[int]:
    """Mark at most this many due jobs as sent and return their ids, for the worker that will claim them itself.

    Raises:
        DatabaseError: the database does not answer.
    """
    return transact(partial(_mark_due, scope=scope, most=most))


def resend_lost() -> int:
    """Make jobs whose message seems lost due again; returns how many.

    Raises:
        BrokerError: the broker does not answer, so that no message of it will be lost or found.
        DatabaseError: the database does not answer.
    """
    return unsend_older(RESEND_SECONDS[broker.queue_is_empty()])


def unsend_older(seconds: float) -> int:
    """Make jobs due again that were sent so long ago, or before the clock was set back; returns how many."""
    lost = or_(jobs.c.sent_at < now_after(-seconds), jobs.c.sent_at > now_after(1.0))
    return transact(lambda connection: unsend(connection, lost))


def forget_sent(scope: Scope) -> None:
    """Make a batch's unclaimed jobs due at once: the process with their messages in its memory is about to end."""
    if scope.batch_id is not None and settings().embedded:
        transact(lambda connection: unsend(connection, _in_scope(scope)))


def _in_scope(scope: Scope) -> ColumnElement[bool]:
    """Whether a job is of the scope's batch, or of the dialogue that the batch continues."""
    own = jobs.c.batch_id == scope.batch_id
    return own if scope.dialogue_id is None else or_(own, jobs.c.dialogue_id == scope.dialogue_id)


def _mark_due(connection: Connection, scope: Scope, most: int | None = None) -> list[int]:
    share(connection)
    waiting = _waiting_batches(connection, scope)
    free = [batch for batch in waiting if batch.hold_reason is None]
    chosen: list[int] = []
    room = 0 if not free else _room(connection, scope) if most is None else most
    for _, level in groupby(free, key=attrgetter("priority")):
        chosen += _take_fairly(connection, list(level), room - len(chosen), scope)
    held = [batch for batch in waiting if batch.hold_reason is not None]
    for _, of_provider in groupby(sorted(held, key=attrgetter("provider")), key=attrgetter("provider")):
        chosen += _probe(connection, next(of_provider), scope)
    return chosen


def _waiting_batches(connection: Connection, scope: Scope) -> list[WaitingBatch]:
    """Batches with a due job that may go out, the most urgent first."""
    statement = select(batches.c.id, batches.c.priority, batches.c.provider, batches.c.hold_reason).where(
        batches.c.state == "open",
        batches.c.provider == settings().provider,
        or_(batches.c.hold_reason.is_(None), holds.may_probe()),
        # One row in the index's order is enough: for an EXISTS Postgres might read a million rows for a hash join.
        _due_jobs(batches.c.id, scope).limit(1).scalar_subquery().is_not(None),
    )
    if scope.dialogue_id is not None:
        turns = jobs.c.dialogue_id == scope.dialogue_id, jobs.c.state == "queued"
        statement = statement.where(batches.c.id.in_(select(jobs.c.batch_id).where(*turns)))
    elif scope.batch_id is not None:
        statement = statement.where(batches.c.id == scope.batch_id)
    urgent_first = statement.order_by(batches.c.priority.desc(), batches.c.created_at)
    return [WaitingBatch(*row) for row in connection.execute(urgent_first)]


def _due_jobs(batch_id: str | ColumnElement[str], scope: Scope) -> Select[int]:
    """Due jobs of a batch: of twins one, whose answer the others will share, and of a dialogue the oldest turn."""
    in_scope = jobs.c.submission >= scope.submission
    if scope.dialogue_id is not None:
        in_scope = jobs.c.dialogue_id == scope.dialogue_id
    twins = jobs.alias("twins")
    goes_first = and_(twins.c.id < jobs.c.id, twins.c.state.in_(OPEN_STATES), twins.c.submission >= scope.submission)
    has_twin_before = (
        select(twins.c.id)
        .where(
            twins.c.batch_id == jobs.c.batch_id,
            twins.c.content == jobs.c.content,
            twins.c.content.is_not(None),  # without it SQLite would not use the partial index
            twins.c.id != jobs.c.id,
            or_(goes_first, twins.c.state == "succeeded"),
        )
        .exists()
    )
    return (
        select(jobs.c.id)
        .where(
            in_scope,
            jobs.c.batch_id == batch_id,
            jobs.c.state == "queued",
            jobs.c.sent_at.is_(None),
            jobs.c.available_at <= now(),
            or_(jobs.c.content.is_(None), ~has_twin_before),
            or_(jobs.c.dialogue_id.is_(None), ~goes_before()),
        )
        .order_by(jobs.c.available_at, jobs.c.id)
    )


def _room(connection: Connection, scope: Scope) -> int:
    """How many more jobs to send: twice what the fleet runs at once, less what already waits at the broker."""
    provider = settings().provider
    windows = select(func.coalesce(func.sum(workers.c.window), 0)).where(
        workers.c.provider == provider, workers.c.seen_at > now_after(-ALIVE_SECONDS)
    )
    sent = select(func.count()).where(jobs.c.state == "queued", jobs.c.sent_at.is_not(None))
    if scope.batch_id is not None:
        sent = sent.where(jobs.c.batch_id == scope.batch_id)
    else:
        sent = sent.join_from(jobs, batches, batches.c.id == jobs.c.batch_id).where(batches.c.provider == provider)
    fleet, waiting = connection.execute(select(windows.scalar_subquery(), sent.scalar_subquery())).one()
    return max(0, 2 * (int(fleet) or settings().window) - int(waiting))


def _take_fairly(connection: Connection, level: Sequence[WaitingBatch], room: int, scope: Scope) -> Iterator[int]:
    """Take from batches of the same priority in turn; what one leaves, the others get."""
    parts: dict[str, list[int]] = {batch.id: [] for batch in level}
    unexhausted = list(level)
    while unexhausted and room > 0:
        full = []
        for left, batch in zip(range(len(unexhausted), 0, -1), unexhausted, strict=True):
            most = -(-room // left)
            taken = _take(connection, batch, most, scope)
            parts[batch.id] += taken
            room -= len(taken)
            if taken and len(taken) == most:
                full.append(batch)
        unexhausted = full
    for position in range(max(map(len, parts.values()), default=0)):
        yield from (part[position] for part in parts.values() if position < len(part))


def _take(connection: Connection, batch: WaitingBatch, most: int, scope: Scope) -> list[int]:
    if most <= 0:
        return []
    ids: list[int] = []
    # Jobs that were tried before go first: their time for retries is running.
    for was_tried in (jobs.c.first_attempt_at.is_not(None), jobs.c.first_attempt_at.is_(None)):
        due_jobs = _due_jobs(batch.id, scope).where(was_tried).limit(most - len(ids))
        # A CTE that locks is computed once; a plain sub-select with LIMIT may be run again for every row.
        due = due_jobs.with_for_update(skip_locked=True).cte("due")
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


def _probe(connection: Connection, batch: WaitingBatch, scope: Scope) -> list[int]:
    """Let one job of a held provider through."""
    taken = _take(connection, batch, 1, scope)
    return taken if taken and holds.begin_probe(connection, batch.provider, taken[0]) else []
