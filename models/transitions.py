"""Four modules write a job's state, by one set of rules; here are the rules, and what is no claim and no settlement.

    queued --claim--> running --succeed--> succeeded
      ^                 | |----fail------> failed
      '--retry, snooze--' '----cancel----> cancelled      (cancel also from queued; revive: failed, cancelled -> queued;
         release, rescue                                   share: queued -> as its twin ended;
                                                           erase: what has ended -> failed)

`claim` is in models/claims.py, succeed, fail, retry, snooze, step and hold are in models/settling.py, `share` is in
models/twins.py. All else is here.

Every transition is one guarded UPDATE. Claim, release, rescue, cancel and revive raise `epoch`. Whoever finishes a job
must name the epoch that it claimed, so a worker that lost its lease can write nothing about a job that others have
again. All functions work on a connection in the caller's transaction.

Locks are taken in one order, so that no two transactions wait for each other: batches, upstream batches, jobs by id,
all else, and last the budgets by kind and name, because every claim under a cap waits for them until the commit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    Connection,
    Integer,
    String,
    and_,
    bindparam,
    case,
    false,
    func,
    null,
    or_,
    select,
    true,
    update,
)

from tidemill.models import bookings
from tidemill.models.bookings import Booking
from tidemill.models.bulk import BulkRows, Given, insert_for, run
from tidemill.models.claims import MAX_LOSSES, Claimant, Claimed
from tidemill.models.clock import now, now_after
from tidemill.models.job_locks import JOB_IDS, lock
from tidemill.models.members import has_upstream_owner, is_no_member, is_unwanted_member
from tidemill.models.settling import LONGEST_DELAY_SECONDS
from tidemill.models.tables import ENDED_STATES, FLAWED, OPEN_PARTS, OPEN_STATES, attempts, batches, in_part, jobs
from tidemill.models.text import encode

UNKNOWN_UPSTREAM = "upstream_unknown"
"""Error code of rows whose upstream batch cannot be found: nobody knows what was billed, so they are not revived."""

ERASED = "deleted"
"""Error code of rows whose texts somebody has deleted."""


class Enqueued(NamedTuple):
    """One row of an input on its way into `jobs`; `request` and `columns` are JSON texts by `models.text.dumps`.

    `content` is a hash by which twins are found. A row with an `error_code` is refused: it becomes a failed job.
    """

    key: str
    custom_id: str
    position: int
    request: str
    columns: str
    content: str | None = None
    error_code: str | None = None
    error: str | None = None


_ENQUEUED = BulkRows(
    key="text",
    custom_id="text",
    position="int",
    request="text",
    columns="text",
    content="text",
    error_code="text",
    error="text",
)

_ENQUEUED_COLUMNS = [
    "batch_id",
    "submission",
    "dialogue_id",
    "available_at",
    "state",
    "finished_at",
    *_ENQUEUED.columns,
]


def enqueue(
    connection: Connection, batch_id: str, submission: int, rows: Sequence[Enqueued], dialogue_id: int | None = None
) -> set[str]:
    """Store rows as queued jobs, and refused ones as failed jobs without an attempt.

    A row that the batch already has keeps its state and gets its new position. With `dialogue_id` the rows are the
    next turns of that dialogue, one after the other.

    Returns:
        The keys that were stored or already there. A key is missing if this submission already has it at another
        position: the row is one more occurrence of the same content and needs a key of its own.
    """
    new = _ENQUEUED.filled([_enqueued_row(row) for row in rows])
    of_all = {"batch_id": batch_id, "submission": submission, "dialogue_id": dialogue_id}
    return {key for (key,) in run(connection, _add_jobs, new, of_all)}


def _add_jobs(connection: Connection) -> ClauseElement:
    rows = _ENQUEUED.values(connection)
    refused = rows.c.error_code.is_not(None)
    new_jobs = select(
        Given("batch_id", type_=String).label("batch_id"),
        Given("submission", type_=Integer).label("submission"),
        Given("dialogue_id", type_=BigInteger).label("dialogue_id"),
        now().label("available_at"),
        case((refused, "failed"), else_="queued").label("state"),
        case((refused, now()), else_=null()).label("finished_at"),
        *rows.c,
    ).where(rows.c.position >= 0)  # without it SQLite's parser reads the following ON CONFLICT as a join's
    added = insert_for(connection)(jobs).from_select(_ENQUEUED_COLUMNS, new_jobs, include_defaults=False)
    return added.on_conflict_do_update(
        index_elements=["batch_id", "key"],
        set_={
            "position": added.excluded.position,
            # Two copies of a command may store the same rows: the later one must not lose them to the earlier.
            "submission": case(
                (jobs.c.submission > added.excluded.submission, jobs.c.submission), else_=added.excluded.submission
            ),
            "columns": case((jobs.c.error_code == ERASED, jobs.c["columns"]), else_=added.excluded["columns"]),
            # An equal picture is the same job: its file may have been renamed.
            "request": case((jobs.c.content.is_not(None), added.excluded.request), else_=jobs.c.request),
        },
        where=or_(jobs.c.submission < added.excluded.submission, jobs.c.position == added.excluded.position),
    ).returning(jobs.c.key)


def _enqueued_row(row: Enqueued) -> tuple[str | int | None, ...]:
    """The values of `_ENQUEUED`."""
    return (
        row.key,
        encode(row.custom_id),
        row.position,
        row.request,
        row.columns,
        row.content,
        row.error_code,
        encode(row.error) if row.error else None,
    )


def release(connection: Connection, worker_id: str, ids: Sequence[int] | None = None) -> int:
    """Queue again everything that a stopping worker still runs; its calls may have been paid for. Returns how many.

    With `ids`, only those of them.
    """
    which = true() if ids is None else jobs.c.id.in_(ids)
    return _take_back(connection, and_(jobs.c.worker_id == worker_id, which), is_loss=false())


@dataclass(frozen=True, slots=True)
class Rescuer:
    """What a worker knows that looks for jobs whose workers vanished."""

    claimant: Claimant
    own_ids: Sequence[int] = ()
    """Jobs that it runs or is just claiming. Of others in its name it does not know: their claim's reply was lost."""
    dead_worker_ids: Sequence[str] = ()
    living_worker_ids: Sequence[str] = ()
    """Workers that do live, although they may have been silent for longer than their lease."""
    by_lease: bool = True
    """Whether a lease that ran out means that its worker vanished."""


def rescue(connection: Connection, rescuer: Rescuer) -> int:
    """Queue again jobs of workers that are known to be dead, or whose lease ran out; of those, the provider's alone.

    A job that MAX_LOSSES workers vanished with fails instead. Returns how many there were.
    """
    claimant = rescuer.claimant
    its_own = and_(jobs.c.worker_id == claimant.worker_id, jobs.c.id.in_(rescuer.own_ids))
    of_provider = select(batches.c.id).where(batches.c.provider == claimant.provider)
    is_dead = jobs.c.worker_id.in_(rescuer.dead_worker_ids)
    ran_out = and_(jobs.c.lease_until < now(), jobs.c.batch_id.in_(of_provider), ~its_own)
    living_ids = [claimant.worker_id, *rescuer.living_worker_ids]
    lives = or_(jobs.c.worker_id.in_(living_ids), has_upstream_owner())
    return _take_back(connection, or_(is_dead, ran_out) if rescuer.by_lease else is_dead, is_loss=~lives)


def _take_back(connection: Connection, condition: ColumnElement[bool], *, is_loss: ColumnElement[bool]) -> int:
    taken = select(jobs.c.id).where(jobs.c.state == "running", condition).with_for_update(skip_locked=True, of=jobs)
    is_last, is_unwanted = and_(is_loss, jobs.c.losses + 1 >= MAX_LOSSES), is_unwanted_member()
    reason = (
        f"{MAX_LOSSES} workers vanished while they ran this job, the last one with nothing else to do; "
        "what became of its call is unknown."
    )
    rows = connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(taken), jobs.c.state == "running")
        .values(
            epoch=jobs.c.epoch + 1,
            lease_until=None,
            sent_at=None,
            attempts=jobs.c.attempts + 1,
            losses=jobs.c.losses + case((is_loss, 1), else_=0),
            state=case((is_last, "failed"), (is_unwanted, "cancelled"), else_="queued"),
            available_at=case((is_last, jobs.c.available_at), else_=now()),
            finished_at=case((or_(is_last, is_unwanted), now()), else_=null()),
            error_code=case((is_last, "worker_lost"), else_=jobs.c.error_code),
            error=case((is_last, reason), else_=jobs.c.error),
        )
        .returning(jobs.c.id, jobs.c.epoch, jobs.c.state)
    ).all()
    changes = _end_unfinished(connection, [(row.id, row.epoch) for row in rows])
    if over := [row.id for row in rows if row.state in ENDED_STATES]:
        changes += bookings.end_trainings(connection, over)
    bookings.book(connection, changes)
    return len(rows)


def _end_unfinished(connection: Connection, taken: Sequence[tuple[int, int]]) -> list[Booking]:
    """End the attempts of jobs that were just taken from their worker: whether the calls were paid is unknown.

    `taken` are (job id, epoch), as they are now. Returns what that changes in their budgets.
    """
    if not taken:
        return []
    calls = bookings.under_way(connection, [(job_id, epoch - 1) for job_id, epoch in taken])
    connection.execute(
        update(attempts)
        .where(
            attempts.c.job_id == bindparam("taken_id"),
            attempts.c.epoch == bindparam("taken_epoch") - 1,
            attempts.c.outcome.is_(None),
        )
        .values(outcome="lost", ended_at=now(), doubtful_usd_e9=attempts.c.reserved_usd_e9),
        [{"taken_id": job_id, "taken_epoch": epoch} for job_id, epoch in taken],
    )
    return [bookings.lost(call) for call in calls.values() if call.is_open]


PIECE_ROWS = 2_000
"""Rows that one transaction changes of a batch of any size, so that nobody waits long for the lock."""


def cancel(connection: Connection, batch_id: str, older_than: int | None = None, most: int | None = None) -> int:
    """Cancel the open jobs of a batch, including those in flight, `most` at a time. Returns how many.

    Lines of an upstream batch are not torn from it: what was paid there is stored, and the others end with it.
    With `older_than`, only jobs that are in no submission from that number on.
    """
    is_old = true() if older_than is None else jobs.c.submission < older_than
    ids: list[int] = []
    for part in OPEN_PARTS:
        left = None if most is None else most - len(ids)
        own = select(jobs.c.id).where(in_part(part, batch_id), is_no_member(), is_old)
        ids += connection.scalars(own.limit(left))
    return cancel_jobs(connection, ids)


def cancel_jobs(connection: Connection, ids: Sequence[int]) -> int:
    """Cancel those of these jobs that are open and not at the provider's Batch API. Returns how many."""
    rows = JOB_IDS.table(connection).c
    parameters = JOB_IDS.parameters(connection, [(job_id,) for job_id in ids])
    condition = and_(jobs.c.id.in_(select(rows.id)), jobs.c.state.in_(OPEN_STATES), is_no_member())
    lock(connection, condition, parameters)
    was_running = jobs.c.lease_until.is_not(None)
    in_flight = select(jobs.c.id, (jobs.c.epoch + 1).label("epoch")).where(condition, was_running)
    changes = _end_unfinished(connection, [(row.id, row.epoch) for row in connection.execute(in_flight, parameters)])
    cancelled = (
        update(jobs)
        .where(condition)
        .values(
            state="cancelled",
            epoch=jobs.c.epoch + 1,
            attempts=jobs.c.attempts + case((was_running, 1), else_=0),
            lease_until=None,
            sent_at=None,
            finished_at=now(),
        )
    )
    number = connection.execute(cancelled, parameters).rowcount
    bookings.book(connection, changes + bookings.end_trainings(connection, ids))
    return number


def revive(
    connection: Connection,
    batch_id: str,
    keys: Sequence[str] | None = None,
    *,
    after: int = 0,
    most: int | None = None,
) -> list[int]:
    """Queue failed and cancelled jobs of a batch again, with a fresh count of failures. Returns their ids, in order.

    Rows that are no longer in the input stay as they are: nobody would see what they cost. So do refused rows, which
    no worker has ever had: their file must change.
    With `keys`, only jobs with one of those keys; else the next `most` of them whose ids come `after` this one.
    """
    may_run = and_(
        jobs.c.batch_id == batch_id,
        or_(jobs.c.state == "cancelled", and_(jobs.c.state == "failed", jobs.c.epoch > 0)),
        jobs.c.position.is_not(None),
        func.coalesce(jobs.c.error_code, "") != UNKNOWN_UPSTREAM,
    )
    which = and_(FLAWED, jobs.c.id > after) if keys is None else jobs.c.key.in_(keys)
    chosen = select(jobs.c.id).where(may_run, which).order_by(jobs.c.id).limit(most).with_for_update()
    ids = list(connection.scalars(chosen))
    rows = JOB_IDS.table(connection).c
    connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(select(rows.id)))
        .values(
            state="queued",
            epoch=jobs.c.epoch + 1,
            failures=0,
            losses=0,
            first_attempt_at=None,
            finished_at=None,
            available_at=now(),
            sent_at=None,
            error_code=None,
            error=None,
        ),
        JOB_IDS.parameters(connection, [(job_id,) for job_id in ids]),
    )
    return ids


def erase(connection: Connection, ids: Sequence[int]) -> None:
    """Take every word out of ended jobs; what they cost stays, and so does the key by which their row is known again.

    They count as refused rows, which are never asked: a command that still has the row in its input must not pay twice.
    """
    connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(ids), jobs.c.state.in_(ENDED_STATES))
        .values(
            state="failed",
            epoch=0,
            custom_id="",
            request={"prompt": ""},
            columns={},
            content=None,
            dialogue_id=None,
            error_code=ERASED,
            error="its dialogue was deleted; `--new` asks the whole batch anew.",
        )
    )
    connection.execute(update(attempts).where(attempts.c.job_id.in_(ids)).values(error=None))


def begin_next_step(connection: Connection, job: Claimed) -> None:
    """Count failures and time anew for the next step of a job that has several."""
    own = and_(jobs.c.id == job.id, jobs.c.epoch == job.epoch, jobs.c.state == "running")
    connection.execute(update(jobs).where(own).values(failures=0, first_attempt_at=None))


def make_due(connection: Connection, job_id: int) -> None:
    """Make a queued job due at once that waits for its time."""
    waiting = update(jobs).where(jobs.c.id == job_id, jobs.c.state == "queued")
    connection.execute(waiting.values(available_at=now(), sent_at=None))


def give_time(connection: Connection, *batches_where: ColumnElement[bool]) -> None:
    """Begin the time for retries anew for queued jobs of these batches, which could not be tried for a while."""
    batch_ids = select(batches.c.id).where(*batches_where)
    connection.execute(
        update(jobs)
        .where(jobs.c.batch_id.in_(batch_ids), jobs.c.state == "queued", jobs.c.first_attempt_at.is_not(None))
        .values(first_attempt_at=None)
    )


def correct_due_times(connection: Connection) -> int:
    """Make jobs due at once that wait only because the clock was set back; returns how many.

    What was never claimed is due since it was stored, or lets others go first for seconds (`_let_others_first`), and
    no other job is due later than the longest delay.
    """
    open_batches = select(batches.c.id).where(batches.c.state == "open")
    is_waiting = and_(jobs.c.batch_id.in_(open_batches), jobs.c.state == "queued", jobs.c.sent_at.is_(None))
    too_late = and_(
        # Asked for once, the time ends the search in the index; Postgres would ask for it again at each row.
        jobs.c.available_at > select(now_after(1.0)).scalar_subquery(),
        or_(jobs.c.available_at > now_after(LONGEST_DELAY_SECONDS + 1.0), jobs.c.epoch == 0),
    )
    return connection.execute(update(jobs).where(is_waiting, too_late).values(available_at=now())).rowcount


def unsend(connection: Connection, *jobs_where: ColumnElement[bool]) -> int:
    """Let queued jobs be sent again whose messages are lost or used up; returns how many."""
    sent = and_(jobs.c.state == "queued", jobs.c.sent_at.is_not(None), *jobs_where)
    return connection.execute(update(jobs).where(sent).values(sent_at=None)).rowcount
