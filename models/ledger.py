"""What the tables know of one row, of a batch's pace and of the workers is read here, for whoever asks why it waits.

Each function reads a bounded number of rows, whatever the size of the batch; only the search for a custom_id may read
all of it. All work on a connection in the caller's transaction.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select

from tidemill.models.clock import now, seconds_since
from tidemill.models.due import ALIVE_SECONDS
from tidemill.models.fine_tunes import owner_name
from tidemill.models.members import is_no_member
from tidemill.models.tables import (
    ENDED_STATES,
    FLAWED,
    OPEN_PARTS,
    OPEN_STATES,
    attempts,
    batches,
    creations,
    dialogues,
    fine_tunes,
    in_part,
    jobs,
    workers,
)

LAST_ID = 2**63 - 1
"""The largest id that a database takes in a query."""

_MOST_NAMESAKES = 5
_MOST_BATCHES = 3
_SAMPLE = 400
"""Rows beside those under way whose ends tell how fast a batch is."""


class Worker(NamedTuple):
    """A worker process as it last said that it lives; `silent_seconds` ago."""

    id: str
    host: str
    pid: int
    provider: str | None
    version: str
    window: int
    in_flight: int
    started_at: datetime
    seen_at: datetime
    silent_seconds: float

    @property
    def is_alive(self) -> bool:
        """Whether it counts."""
        return self.silent_seconds <= ALIVE_SECONDS


class Call(NamedTuple):
    """A claimed row whose call has not ended: `position` counts from 0, None where the input no longer holds it."""

    job_id: int
    position: int | None
    worker_id: str
    claimed_at: datetime
    seconds: float


class Other(NamedTuple):
    """Another job that a job waits for, or has waited for."""

    id: int
    state: str


class Later(NamedTuple):
    """Rows that are due later: how many, up to what was asked for, and when the next one is due."""

    rows: int
    next_at: datetime | None


def clock(connection: Connection) -> datetime:
    """The database's present time."""
    at: datetime = connection.execute(select(now())).scalar_one()
    return at


def all_workers(connection: Connection) -> list[Worker]:
    """Every worker that the database knows, the oldest first; those that were not seen for a day are forgotten."""
    names = ("id", "host", "pid", "provider", "version", "window", "in_flight", "started_at", "seen_at")
    columns: list[Any] = [workers.c[name] for name in names]
    known = select(*columns, seconds_since(connection, workers.c.seen_at))
    return [Worker._make(row) for row in connection.execute(known.order_by(workers.c.started_at, workers.c.id))]


# --- one row ---


def job_at(connection: Connection, batch_id: str, position: int) -> int | None:
    """The job of a batch at a position of its input, counted from 0."""
    there = select(jobs.c.id).where(jobs.c.batch_id == batch_id, jobs.c.position == position)
    job_id: int | None = connection.scalar(there.order_by(jobs.c.submission.desc(), jobs.c.id.desc()).limit(1))
    return job_id


def jobs_called(connection: Connection, batch_id: str, custom_id: str) -> list[int]:
    """The first few jobs of a batch with this custom_id; reads all of the batch if there are none."""
    named = select(jobs.c.id).where(jobs.c.batch_id == batch_id, jobs.c.custom_id == custom_id)
    return list(connection.scalars(named.order_by(jobs.c.id).limit(_MOST_NAMESAKES)))


def job(connection: Connection, job_id: int) -> Row[Any] | None:
    """A job, without the columns of its input."""
    columns = [column for column in jobs.c if column.name != "columns"]
    return connection.execute(select(*columns).where(jobs.c.id == job_id)).one_or_none()


def batch(connection: Connection, batch_id: str) -> Row[Any]:
    """A batch."""
    return connection.execute(select(batches).where(batches.c.id == batch_id)).one()


def attempts_of(connection: Connection, job_id: int) -> Sequence[Row[Any]]:
    """The ledger of a job, in the order of its claims."""
    own = select(attempts).where(attempts.c.job_id == job_id)
    return connection.execute(own.order_by(attempts.c.epoch)).all()


def answer_of(connection: Connection, job_id: int) -> Row[Any] | None:
    """The row of `dialogues` of an answered job."""
    return connection.execute(select(dialogues).where(dialogues.c.id == job_id)).one_or_none()


def turn_before(connection: Connection, turn: Row[Any]) -> Other | None:
    """The job of the same dialogue that has to end before this queued one may run."""
    if turn.dialogue_id is None:
        return None
    goes_first = or_(and_(jobs.c.id < turn.id, jobs.c.state == "queued"), jobs.c.state == "running")
    others = select(jobs.c.id, jobs.c.state).where(
        jobs.c.dialogue_id == turn.dialogue_id, jobs.c.id != turn.id, goes_first
    )
    first = connection.execute(others.order_by(jobs.c.id).limit(1)).one_or_none()
    return None if first is None else Other(*first)


def twin_of(connection: Connection, twin: Row[Any]) -> Other | None:
    """The job whose end this one waits for, or has taken over, because it asks the same."""
    if twin.content is None:
        return None
    goes_first = or_(and_(jobs.c.id < twin.id, jobs.c.state.in_(OPEN_STATES)), jobs.c.state == "succeeded")
    was_called = select(attempts.c.job_id).where(attempts.c.job_id == jobs.c.id).exists()
    is_one = and_(jobs.c.state == twin.state, was_called) if twin.state in ENDED_STATES else goes_first
    others = select(jobs.c.id, jobs.c.state).where(
        jobs.c.batch_id == twin.batch_id,
        jobs.c.content == twin.content,
        jobs.c.content.is_not(None),  # without it SQLite would not use the partial index
        jobs.c.id != twin.id,
        is_one,
    )
    first = connection.execute(others.order_by(jobs.c.id).limit(1)).one_or_none()
    return None if first is None else Other(*first)


def rows_ahead(connection: Connection, queued: Row[Any], most: int) -> int:
    """How many rows of its batch go before a queued one; at most one more than `most`.

    Rows that were tried before go first, then those that are due for longer.
    """
    due = [_unsent(queued.batch_id), jobs.c.available_at <= queued.available_at]
    before = or_(jobs.c.available_at < queued.available_at, jobs.c.id < queued.id)
    if queued.first_attempt_at is not None:
        due.append(jobs.c.first_attempt_at.is_not(None))
    # In the order of the index, or either database may look for these few in another way.
    ahead = select(jobs.c.id).where(*due, before).order_by(jobs.c.available_at, jobs.c.id).limit(most + 1)
    sent = select(jobs.c.id).where(in_part(OPEN_PARTS[1], queued.batch_id)).limit(most + 1)
    return sum(connection.scalar(select(func.count()).select_from(each.subquery())) or 0 for each in (ahead, sent))


def urgent_batches(connection: Connection, own: Row[Any]) -> list[str]:
    """A few batches of the same provider that go first, because they are more urgent and have due rows."""
    due = select(jobs.c.id).where(_unsent(batches.c.id), jobs.c.available_at <= now()).limit(1)
    urgent = select(batches.c.id).where(
        batches.c.provider == own.provider,
        batches.c.state == "open",
        batches.c.hold_reason.is_(None),
        batches.c.priority > own.priority,
        due.scalar_subquery().is_not(None),
    )
    return list(connection.scalars(urgent.order_by(batches.c.priority.desc()).limit(_MOST_BATCHES)))


def fine_tune_of(connection: Connection, job_id: int) -> Row[Any] | None:
    """What a train job has at the provider; None for every other job, and before its first step."""
    names = ("remote_id", "status", "wanted", "model", "note", "remote", "created_at", "seen_at")
    own = select(*(fine_tunes.c[name] for name in names)).where(fine_tunes.c.job_id == job_id)
    return connection.execute(own).one_or_none()


def doubted_steps(connection: Connection, job_id: int) -> list[str]:
    """The steps of a job whose creation was sent, and nobody knows whether it is there."""
    own = creations.c.owner == owner_name(job_id)
    in_doubt = select(creations.c.step).where(own, creations.c.sent_at.is_not(None), creations.c.remote_id.is_(None))
    return list(connection.scalars(in_doubt.order_by(creations.c.step)))


# --- a batch ---


def rows_due_later(connection: Connection, batch_id: str, most: int) -> Later:
    """Queued rows that wait for their time; counts at most one more than `most`."""
    # Asked for once, the time ends the search in the index; Postgres would ask for it again at each row.
    at = select(now()).scalar_subquery()
    later = select(jobs.c.available_at).where(_unsent(batch_id), jobs.c.available_at > at)
    times = list(connection.scalars(later.order_by(jobs.c.available_at).limit(most + 1)))
    return Later(len(times), times[0] if times else None)


def rows_sent(connection: Connection, batch_id: str) -> int:
    """Rows whose ids are with the broker."""
    return connection.scalar(select(func.count()).where(in_part(OPEN_PARTS[1], batch_id))) or 0


def was_ever_claimed(connection: Connection, batch_id: str, code: str) -> bool:
    """Whether rows that failed with this code were claimed; rows that were refused when they were stored were not."""
    one = select(jobs.c.epoch).where(FLAWED, jobs.c.batch_id == batch_id, jobs.c.error_code == code)
    return bool(connection.scalar(one.where(jobs.c.state == "failed").limit(1)))


def an_open_job(connection: Connection, batch_id: str) -> int | None:
    """The job of an open row of a batch."""
    for part in OPEN_PARTS:
        job_id: int | None = connection.scalar(select(jobs.c.id).where(in_part(part, batch_id)).limit(1))
        if job_id is not None:
            return job_id
    return None


def oldest_calls(connection: Connection, batch_id: str, most: int) -> list[Call]:
    """Rows that workers have claimed and that have not ended, the oldest claim first."""
    own = and_(attempts.c.job_id == jobs.c.id, attempts.c.epoch == jobs.c.epoch)
    age = seconds_since(connection, attempts.c.started_at)
    calls = (
        select(jobs.c.id, jobs.c.position, attempts.c.worker_id, attempts.c.started_at, age)
        .join_from(jobs, attempts, own)
        .where(in_part(OPEN_PARTS[2], batch_id), is_no_member())
        .order_by(attempts.c.started_at, jobs.c.id)
    )
    return [Call(*row) for row in connection.execute(calls.limit(most))]


def ages_of_ends(connection: Connection, batch_id: str) -> list[float]:
    """How many seconds ago rows ended that stand in the input before those under way, the nearest one first.

    Rows are claimed in the order of the input, so the few hundred before the furthest one have ended last. No index
    leads to what ended lately: it would cost every call.
    """
    furthest = _furthest_position(connection, batch_id)
    if furthest is None:
        return []
    # A range of positions: neither database can choose to sort the whole batch for it.
    beside = jobs.c.batch_id == batch_id, jobs.c.position.between(furthest - _SAMPLE + 1, furthest)
    ages = select(seconds_since(connection, jobs.c.finished_at)).where(*beside, jobs.c.finished_at.is_not(None))
    return [float(age) for age in connection.scalars(ages.order_by(jobs.c.position.desc()))]


def _furthest_position(connection: Connection, batch_id: str) -> int | None:
    """How far claims have come in the input."""
    running: int | None = connection.scalar(select(func.max(jobs.c.position)).where(in_part(OPEN_PARTS[2], batch_id)))
    if running is not None:
        return running
    due = select(jobs.c.position).where(_unsent(batch_id)).order_by(jobs.c.available_at, jobs.c.id).limit(1)
    next_one: int | None = connection.scalar(due)
    return next_one


def _unsent(batch_id: str | ColumnElement[str]) -> ColumnElement[bool]:
    return in_part(OPEN_PARTS[0], batch_id)
