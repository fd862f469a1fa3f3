"""Which jobs are next is decided here: the urgent first, fair between batches, one probe of a provider on hold.

Whoever sends them to the broker, or claims them itself, does so in the same transaction.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cache
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, or_, select, true

from tidemill.models import budgets, holds
from tidemill.models.claims import goes_before
from tidemill.models.clock import now, now_after
from tidemill.models.json_types import JsonObject
from tidemill.models.routes import NOT_LIVE, UPSTREAM
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.tables import OPEN_PARTS, OPEN_STATES, batches, in_part, jobs
from tidemill.models.transitions import unsend
from tidemill.models.twins import share

IDS_AT_ONCE = 32
"""Jobs that one message names at most, or that are worth a claim of their own."""

ALIVE_SECONDS = 30.0
"""A worker that was not seen for this long does not count."""


class WaitingBatch(NamedTuple):
    """A batch from which jobs may be taken; `hold_reason` is None unless its provider is on hold."""

    id: str
    priority: int
    provider: str
    hold_reason: str | None


def next_jobs(connection: Connection, scope: Scope, room: Callable[[], int]) -> list[int]:
    """Ids of due jobs of the configured provider, locked until the commit; of one on hold, its next probe.

    `room` says how many there may be, and is asked only if any job may be due.
    """
    share(connection)
    waiting = _waiting_batches(connection, scope)
    free = [batch for batch in waiting if batch.hold_reason is None]
    most = room() if free else 0
    chosen: list[int] = []
    for _, level in groupby(free, key=attrgetter("priority")):
        chosen += _take_fairly(connection, list(level), most - len(chosen), scope)
    held = [batch for batch in waiting if batch.hold_reason is not None]
    for _, of_provider in groupby(sorted(held, key=attrgetter("provider")), key=attrgetter("provider")):
        chosen += _probe(connection, next(of_provider), scope)
    return chosen


def unsend_older(connection: Connection, seconds: float) -> int:
    """Make jobs due again that were sent so long ago, or before the clock was set back; returns how many."""
    return unsend(connection, or_(jobs.c.sent_at < now_after(-seconds), jobs.c.sent_at > now_after(1.0)))


def unsend_all(connection: Connection, scope: Scope) -> int:
    """Make jobs due again that were sent, for who runs them and looks at no message; returns how many."""
    if scope.batch_id is None:
        return unsend(connection)
    own = unsend(connection, in_part(OPEN_PARTS[1], scope.batch_id))
    return own if scope.dialogue_id is None else own + unsend(connection, jobs.c.dialogue_id == scope.dialogue_id)


def _waiting_batches(connection: Connection, scope: Scope) -> list[WaitingBatch]:
    """Batches with a due job that may go out, the most urgent first; of a scope's own batch without looking for one."""
    statement = _batches_statement(is_batch=scope.batch_id is not None, is_dialogue=scope.dialogue_id is not None)
    parameters = {"provider": settings().provider, "own_batch": scope.batch_id, **_parameters(scope)}
    return [WaitingBatch(*row) for row in connection.execute(statement, parameters)]


def _take(connection: Connection, batch: WaitingBatch, most: int, scope: Scope, *, after: int = 0) -> list[int]:
    """The batch's next due jobs, after so many that are taken already."""
    ids: list[int] = []
    for was_tried in (True, False):  # jobs that were tried before go first: their time for retries is running
        left = {"batch": batch.id, "most": after + most - len(ids), **_parameters(scope)}
        ids += connection.scalars(_jobs_statement(is_dialogue=scope.dialogue_id is not None, was_tried=was_tried), left)
        if len(ids) >= after + most:
            break
    return ids[after:]


def _take_fairly(connection: Connection, level: Sequence[WaitingBatch], room: int, scope: Scope) -> Iterator[int]:
    """Take from batches of the same priority in turn; what one leaves, the others get."""
    parts: dict[str, list[int]] = {batch.id: [] for batch in level}
    unexhausted = list(level)
    while unexhausted and room > 0:
        full = []
        for left, batch in zip(range(len(unexhausted), 0, -1), unexhausted, strict=True):
            most = -(-room // left)
            taken = _take(connection, batch, most, scope, after=len(parts[batch.id]))
            parts[batch.id] += taken
            room -= len(taken)
            if taken and len(taken) == most:
                full.append(batch)
        unexhausted = full
    for position in range(max(map(len, parts.values()), default=0)):
        yield from (part[position] for part in parts.values() if position < len(part))


def _probe(connection: Connection, batch: WaitingBatch, scope: Scope) -> list[int]:
    """Let one job of a held provider through."""
    taken = _take(connection, batch, 1, scope)
    return taken if taken and holds.begin_probe(connection, batch.provider, taken[0]) else []


# --- what goes out as an upstream batch ---

ENOUGH_ROWS = 50_000
"""So many due rows go out although more are to come."""
PATIENCE_SECONDS = 600.0
"""For so long rows wait for others of an input that is not read to its end: whoever read it may be gone."""


def batches_to_pack(connection: Connection, scopes: Sequence[Scope]) -> list[str]:
    """Batches whose due rows are to go out as one upstream batch now, the most urgent first.

    Each costs hours, so a row does not go out alone while others of its batch are read or will be due in a moment, or
    while files that are out keep a budget from taking the others.
    """
    own = {scope.batch_id for scope in scopes}
    statement = _unpacked_statement(is_any=None in own)
    parameters = {"provider": settings().provider, "own": list(own)}
    waiting = connection.execute(statement, parameters).all()
    return [row.id for row in waiting if row.read_at is not None or row.is_late or _has_enough(connection, row.id)]


@cache
def _unpacked_statement(*, is_any: bool) -> Select[str, datetime | None, bool]:
    since = first_due().scalar_subquery()
    is_late = since < now_after(-PATIENCE_SECONDS)
    soon = select(jobs.c.id).where(
        jobs.c.batch_id == batches.c.id,
        jobs.c.state == "queued",
        jobs.c.sent_at.is_(None),
        jobs.c.available_at > now(),
    )
    statement = select(batches.c.id, batches.c.read_at, is_late.label("is_late")).where(
        batches.c.state == "open",
        batches.c.provider == bindparam("provider"),
        batches.c.route.in_(UPSTREAM),
        batches.c.hold_reason.is_(None),
        true() if is_any else batches.c.id.in_(bindparam("own", expanding=True)),
        ~budgets.is_blocked(),
        ~budgets.waits_for_files(),
        since.is_not(None),
        or_(~soon.exists(), is_late),
    )
    return statement.order_by(batches.c.priority.desc(), batches.c.created_at)


def take_due(connection: Connection, batch_id: str, most: int, scopes: Sequence[Scope]) -> list[int]:
    """Ids of a batch's due jobs, locked until the commit."""
    oldest = min((scope.submission for scope in scopes if scope.batch_id == batch_id), default=0)
    submission = 0 if any(scope.batch_id is None for scope in scopes) else oldest
    return _take(connection, WaitingBatch(batch_id, 0, "", None), most, Scope(batch_id, submission))


def _has_enough(connection: Connection, batch_id: str) -> bool:
    due_jobs = _due_jobs(bindparam("batch", type_=jobs.c.batch_id.type), is_dialogue=False).offset(ENOUGH_ROWS - 1)
    return connection.scalar(due_jobs.limit(1), {"batch": batch_id, "submission": 0}) is not None


# --- statements, built once ---


def _parameters(scope: Scope) -> JsonObject:
    return {"submission": scope.submission, "dialogue": scope.dialogue_id}


@cache
def _batches_statement(*, is_batch: bool, is_dialogue: bool) -> Select[str, int, str, str | None]:
    statement = select(batches.c.id, batches.c.priority, batches.c.provider, batches.c.hold_reason).where(
        batches.c.state == "open",
        batches.c.provider == bindparam("provider"),
        or_(batches.c.hold_reason.is_(None), holds.may_probe()),
        # The probe of a provider on hold is a live call whatever the route, so that a hold ends within minutes.
        or_(batches.c.route.not_in(NOT_LIVE), batches.c.hold_reason.is_not(None)),
        ~budgets.is_blocked(),
    )
    if is_batch and not is_dialogue:  # whether any of its jobs is due, `_take` learns
        statement = statement.where(batches.c.id == bindparam("own_batch"))
    else:
        # One row in the index's order is enough: for an EXISTS Postgres might read a million rows for a hash join.
        due_jobs = _due_jobs(batches.c.id, is_dialogue=is_dialogue).limit(1)
        statement = statement.where(due_jobs.scalar_subquery().is_not(None))
    if is_dialogue:
        turns = jobs.c.dialogue_id == bindparam("dialogue"), jobs.c.state == "queued"
        statement = statement.where(batches.c.id.in_(select(jobs.c.batch_id).where(*turns)))
    return statement.order_by(batches.c.priority.desc(), batches.c.created_at)


@cache
def _jobs_statement(*, is_dialogue: bool, was_tried: bool) -> Select[int]:
    due_jobs = _due_jobs(bindparam("batch", type_=jobs.c.batch_id.type), is_dialogue=is_dialogue)
    if was_tried:
        # In another order than that of all due jobs, or Postgres may look for these few among all of them.
        due_jobs = due_jobs.where(jobs.c.first_attempt_at.is_not(None)).order_by(None)
        due_jobs = due_jobs.order_by(jobs.c.first_attempt_at, jobs.c.id)
    else:
        due_jobs = due_jobs.where(jobs.c.first_attempt_at.is_(None))
    return due_jobs.limit(bindparam("most")).with_for_update(skip_locked=True, of=jobs)


def first_due() -> Select[datetime]:
    """Of a batch of the query around it: since when the job could have gone out that waits longest."""
    due_jobs = _due_jobs(batches.c.id, is_dialogue=False).params(submission=0)
    return due_jobs.with_only_columns(jobs.c.available_at).limit(1)


def _due_jobs(batch_id: ColumnElement[str], *, is_dialogue: bool) -> Select[int]:
    """Due jobs of a batch: of twins one, whose answer the others will share, and of a dialogue the oldest turn."""
    submission = bindparam("submission", type_=jobs.c.submission.type)
    in_scope = jobs.c.dialogue_id == bindparam("dialogue") if is_dialogue else jobs.c.submission >= submission
    twins = jobs.alias("twins")
    goes_first = and_(twins.c.id < jobs.c.id, twins.c.state.in_(OPEN_STATES), twins.c.submission >= submission)
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
