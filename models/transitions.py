"""Only this module writes a job's state, so that the state machine can be read in one place.

    queued --claim--> running --succeed--> succeeded
      ^                 | |----fail------> failed
      '--retry, snooze--' '----cancel----> cancelled      (cancel also from queued; revive: failed, cancelled -> queued;
         release, rescue                                   share: queued -> as its twin ended;
                                                           erase: what has ended -> failed)

Every transition is one guarded UPDATE. Claim, release, rescue, cancel and revive raise `epoch`. Whoever finishes a job
must name the epoch that it claimed, so a worker that lost its lease can write nothing about a job that others have
again. All functions work on a connection in the caller's transaction.

Locks are taken in one order, so that no two transactions wait for each other: batches, jobs by id, all else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    Connection,
    Float,
    Integer,
    Row,
    String,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.dml import Update

from tidemill.models import answers, members, reservations, turns
from tidemill.models.answers import Answer, Message
from tidemill.models.bulk import Build, BulkRows, FilledRows, Given, insert_for, run
from tidemill.models.clock import now, now_after, seconds_since
from tidemill.models.json_types import JsonObject
from tidemill.models.members import is_member, is_no_member
from tidemill.models.tables import (
    ENDED_STATES,
    FLAWED,
    OPEN_PARTS,
    OPEN_STATES,
    attempts,
    batches,
    dialogues,
    fit,
    in_part,
    jobs,
)
from tidemill.models.text import encode, loads

WITHOUT_ATTEMPT = ("snoozed", "stepped")
"""Outcomes of a claim that leave nothing in the ledger."""

MAX_LOSSES = 3
"""Workers that may vanish with a job, or with one of its steps; then the job counts as the cause and fails."""

ALONE_AFTER = MAX_LOSSES - 1
"""After so many losses a job runs alone in its process: its next loss is its own, and hits no other job."""

LONGEST_DELAY_SECONDS = 360.0
"""No queued job waits for longer; one that is due later was queued before the clock was set back."""

OWNER = members.OWNER

UNKNOWN_UPSTREAM = "upstream_unknown"
"""Error code of rows whose upstream batch cannot be found: nobody knows what was billed, so they are not revived."""

ERASED = "deleted"
"""Error code of rows whose texts somebody has deleted."""

COST_PLACES = 12
"""Decimals of a dollar that are kept: a price of a million tokens with six decimals is kept to its last digit."""

Outcome = Literal["succeeded", "retried", "snoozed", "stepped", "held", "failed", "cancelled"]
_STATE_AFTER: dict[Outcome, str] = {
    "succeeded": "succeeded",
    "retried": "queued",
    "snoozed": "queued",
    "stepped": "queued",
    "held": "queued",
    "failed": "failed",
    "cancelled": "cancelled",
}


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


class Claimed(NamedTuple):
    """A job that this worker owns until its lease ends, and what it needs to run it."""

    id: int
    epoch: int
    batch_id: str
    request: JsonObject
    """What only this job asks: {"prompt": ..}, {"messages": [..]} or {"url": .., "body": {..}}."""
    failures: int
    age_seconds: float
    """Since the job's first call; 0 before it."""
    dialogue_id: int | None = None
    """The dialogue that it continues."""
    history: tuple[Message, ...] = ()
    """The messages of that dialogue before it."""


class Settlement(NamedTuple):
    """How one claimed job ended, for `settle`.

    `snoozed` means that no call was made: nothing is counted and no attempt is kept. `stepped` means the same for a job
    of many steps that has made one. `held` means that the provider serves nobody at present: the attempt is kept,
    nothing is counted. An answer may announce that the provider serves nobody after it: `hold_reason` says so, and
    `hold_seconds` for how long. `refused` means that the provider has not even tried, as for anybody.
    """

    job_id: int
    epoch: int
    batch_id: str
    outcome: Outcome
    delay_seconds: float = 0.0
    counted: bool = False
    seconds: float | None = None
    http_status: int | None = None
    request_id: str | None = None
    error_code: str | None = None
    error: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    answer: Answer | None = None
    refused: bool = False
    hold_reason: str | None = None
    hold_seconds: float = 0.0
    route: str | None = None
    """How the call went out; None: as its claim says."""
    standard_usd: float | None = None
    """What the same tokens cost on the standard tier, online; None: not known."""
    is_doubtful: bool = False
    """Whether nobody knows if a call without a price was billed: its reply was lost or not read to the end."""


# --- enqueue ---

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


# --- claim, renew ---


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims jobs: a worker, the provider that it calls, and how long it keeps what it does not renew."""

    worker_id: str
    provider: str
    lease_seconds: float
    upstream_id: int | None = None
    """The upstream batch whose lines the jobs become; None: they are called online."""
    route: str | None = None
    """Another route than the live call, for the ledger."""


class Taken(NamedTuple):
    """What a claim has come to."""

    jobs: list[Claimed]
    left_out: int = 0
    """Jobs whose calls do not fit into a budget at present."""


def claim(connection: Connection, ids: Sequence[int], claimant: Claimant, *, alone: bool = False) -> list[Claimed]:
    """The jobs that `take` has taken."""
    return take(connection, ids, claimant, alone=alone).jobs


def take(connection: Connection, ids: Sequence[int], claimant: Claimant, *, alone: bool = False) -> Taken:
    """Take the queued and due jobs of the claimant's provider among `ids` and begin an attempt for each.

    Jobs of a batch that is paused, cancelled or held are not taken, except the hold's one probe; nor are jobs that
    another worker has, so a message that comes twice is harmless. Of one dialogue only the oldest open job is taken,
    and none while another one runs. Jobs that lost `ALONE_AFTER` workers are taken only by one that says that it runs
    nothing else. A job whose call does not fit into a budget stays queued (`models.reservations`).
    """
    asked = _JOB_IDS.filled([(job_id,) for job_id in ids])
    given = {
        "claimant": claimant.worker_id,
        "provider": claimant.provider,
        "lease_seconds": claimant.lease_seconds,
        "too_many_losses": MAX_LOSSES if alone else ALONE_AFTER,
        "upstream_id": claimant.upstream_id,
        "route": claimant.route,
    }
    claimed = _claimed(connection, _claim_single, asked, given)
    if len(claimed) < len(ids):  # jobs without a dialogue cost no query for turns
        claimed += _claim_turns(connection, asked, given)
    if not claimed:
        return Taken([])
    reserved = reservations.reserve(connection, claimed, claimant.route)
    if reserved.left_out:
        run(connection, _leave_out, _JOB_IDS.filled([(job_id,) for job_id in reserved.left_out]), given)
        if reserved.unpriced:
            later = {**given, "seconds": reservations.UNPRICED_SECONDS}
            run(connection, _let_others_first, _JOB_IDS.filled([(job_id,) for job_id in reserved.unpriced]), later)
        left_out = set(reserved.left_out)
        claimed = [job for job in claimed if job.id not in left_out]
    begun = [(job.id, job.epoch, reserved.usd_e9.get(job.id)) for job in claimed]
    if begun:
        run(connection, _begin_attempts, _BEGUN.filled(begun), {**given, "started_at": reserved.started_at})
    return Taken(claimed, len(reserved.left_out) - len(reserved.unpriced))


_JOB_IDS = BulkRows(id="int")
_BEGUN = BulkRows(job_id="int", epoch="int", reserved_usd_e9="int")


def _begin_attempts(connection: Connection) -> ClauseElement:
    rows = _BEGUN.values(connection).c
    begun = select(
        rows.job_id,
        rows.epoch,
        Given("claimant", type_=String).label("worker_id"),
        Given("route", type_=String).label("route"),
        func.coalesce(Given("started_at", type_=attempts.c.started_at.type), now()).label("now"),
        rows.reserved_usd_e9,
    )
    columns = ["job_id", "epoch", "worker_id", "route", "started_at", "reserved_usd_e9"]
    return insert(attempts).from_select(columns, begun, include_defaults=False)


def _leave_out(connection: Connection) -> ClauseElement:
    """Jobs that were just claimed are queued as before: nobody has seen them otherwise."""
    return (
        update(jobs)
        .where(jobs.c.id.in_(select(_JOB_IDS.values(connection).c.id)), jobs.c.state == "running")
        .values(
            state="queued",
            epoch=jobs.c.epoch - 1,
            lease_until=null(),
            upstream_id=case((Given("upstream_id", type_=BigInteger).is_(None), jobs.c.upstream_id), else_=null()),
        )
    )


def _let_others_first(connection: Connection) -> ClauseElement:
    later = update(jobs).where(jobs.c.id.in_(select(_JOB_IDS.values(connection).c.id)))
    return later.values(available_at=now_after(Given("seconds", type_=Float)))


def _claimed(connection: Connection, build: Build, asked: FilledRows, given: JsonObject) -> list[Claimed]:
    returned = run(connection, build, asked, given)
    return [
        Claimed(row[0], row[1], row[2], loads(row[3]), row[4], 0.0 if row[5] is None else row[5], row[6])
        for row in returned
    ]


def _claim_single(connection: Connection) -> ClauseElement:
    return _claim(connection, jobs.c.dialogue_id.is_(None))


def _claim_turn(connection: Connection) -> ClauseElement:
    return _claim(connection, and_(jobs.c.dialogue_id.is_not(None), ~goes_before()))


def _claim(connection: Connection, condition: ColumnElement[bool]) -> ClauseElement:
    claimable = (
        select(jobs.c.id)
        # Which batch it is, is hidden: before Postgres has looked at a new table it would rather read the whole batch.
        .join(batches, batches.c.id == jobs.c.batch_id.concat(""))
        .where(
            jobs.c.id.in_(select(_JOB_IDS.values(connection).c.id)),
            jobs.c.state == "queued",
            jobs.c.available_at <= now(),
            jobs.c.losses < Given("too_many_losses", type_=Integer),
            batches.c.state == "open",
            batches.c.provider == Given("provider", type_=String),
            or_(batches.c.hold_reason.is_(None), batches.c.probe_job_id == jobs.c.id),
            condition,
        )
        .with_for_update(skip_locked=True, of=jobs)
    )
    age = seconds_since(connection, jobs.c.first_attempt_at)
    return (
        update(jobs)
        .where(jobs.c.id.in_(claimable), jobs.c.state == "queued")
        .values(
            state="running",
            epoch=jobs.c.epoch + 1,
            lease_until=now_after(Given("lease_seconds", type_=Float)),
            worker_id=Given("claimant", type_=String),
            upstream_id=func.coalesce(Given("upstream_id", type_=BigInteger), jobs.c.upstream_id),
            sent_at=None,
        )
        .returning(
            jobs.c.id,
            jobs.c.epoch,
            jobs.c.batch_id,
            jobs.c.request,
            jobs.c.failures,
            age,
            jobs.c.dialogue_id,
        )
    )


def _claim_turns(connection: Connection, asked: FilledRows, given: JsonObject) -> list[Claimed]:
    """Claim those of the jobs that continue a dialogue, each with the messages before it."""
    if not run(connection, _lock_dialogues, asked):
        return []
    claimed = _claimed(connection, _claim_turn, asked, given)
    return [job._replace(history=_history(connection, job)) for job in claimed]


def _lock_dialogues(connection: Connection) -> ClauseElement:
    """Lock the first rows of the dialogues that queued jobs continue.

    A worker that claims a turn holds that lock until the commit. Otherwise two workers could each see the other's turn
    as not running yet: a revived turn is older than one that is being claimed at this moment.
    """
    turn = jobs.alias("turns")
    roots = select(turn.c.dialogue_id).where(
        turn.c.id.in_(select(_JOB_IDS.values(connection).c.id)),
        turn.c.state == "queued",
        turn.c.dialogue_id.is_not(None),
    )
    return select(jobs.c.id).where(jobs.c.id.in_(roots)).order_by(jobs.c.id).with_for_update(of=jobs)


def goes_before() -> ColumnElement[bool]:
    """Whether another job of the same dialogue has to end before a row of `jobs` may run."""
    other = jobs.alias("other_turns")
    return (
        select(other.c.id)
        .where(
            other.c.dialogue_id == jobs.c.dialogue_id,
            other.c.dialogue_id.is_not(None),  # without it SQLite would not use the partial index
            other.c.id != jobs.c.id,
            or_(and_(other.c.id < jobs.c.id, other.c.state == "queued"), other.c.state == "running"),
        )
        .exists()
    )


def _history(connection: Connection, job: Claimed) -> tuple[Message, ...]:
    assert job.dialogue_id is not None
    before = turns.history(connection, job.dialogue_id, before=job.id)
    return tuple(each.message for each in before)


def left_to_run_alone(connection: Connection, ids: Sequence[int]) -> list[int]:
    """Those of the queued jobs among `ids` that `claim` gives only to a worker that runs nothing else."""
    suspects = select(jobs.c.id).where(jobs.c.id.in_(ids), jobs.c.state == "queued", jobs.c.losses >= ALONE_AFTER)
    return list(connection.scalars(suspects.order_by(jobs.c.id)))


def renew(connection: Connection, ids: Sequence[int], claimant: Claimant) -> set[int]:
    """Extend the lease of those of these jobs that the worker still owns; returns their ids."""
    rows = _JOB_IDS.table(connection).c
    its_own = and_(jobs.c.id == rows.id, jobs.c.worker_id == claimant.worker_id, jobs.c.state == "running")
    parameters = _JOB_IDS.parameters(connection, [(job_id,) for job_id in ids])
    # Locked first: an UPDATE computes the lease before it waits for a row, and that may take longer than the lease.
    _lock(connection, its_own, parameters)
    extended = update(jobs).where(its_own).values(lease_until=now_after(literal(claimant.lease_seconds)))
    return set(connection.scalars(extended.returning(jobs.c.id), parameters))


def keep(connection: Connection, upstream_id: int, owner_id: str, seconds: float) -> None:
    """Extend the lease of all jobs that are lines of an upstream batch."""
    own = and_(jobs.c.upstream_id == upstream_id, jobs.c.worker_id == owner_id, jobs.c.state == "running")
    _lock(connection, own)
    connection.execute(update(jobs).where(own).values(lease_until=now_after(seconds)))


def _lock(connection: Connection, condition: ColumnElement[bool], parameters: JsonObject | None = None) -> None:
    """Lock jobs in the order of their ids; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        locked = select(jobs.c.id).where(condition).order_by(jobs.c.id).with_for_update(of=jobs).subquery()
        connection.execute(select(func.count()).select_from(locked), parameters)


# --- settle ---

_SETTLED = BulkRows(
    job_id="int",
    epoch="int",
    state="text",
    delay_seconds="float",
    calls="int",
    failures="int",
    outcome="text",
    seconds="float",
    http_status="int",
    request_id="text",
    error_code="text",
    error="text",
    input_tokens="int",
    output_tokens="int",
    cost_usd="float",
    standard_usd="float",
    route="text",
    is_doubtful="int",
)


class _SettledRow(NamedTuple):
    """The values of `_SETTLED`."""

    job_id: int
    epoch: int
    state: str
    delay_seconds: float
    calls: int
    failures: int
    outcome: str
    seconds: float | None
    http_status: int | None
    request_id: str | None
    error_code: str | None
    error: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    standard_usd: float | None
    route: str | None
    is_doubtful: int

    @property
    def claim(self) -> tuple[int, int]:
        return self.job_id, self.epoch


def settle(connection: Connection, settlements: Sequence[Settlement]) -> set[tuple[int, int]]:
    """Record how claimed jobs ended, all in the caller's one transaction.

    A worker that lost a job may still settle it for good as long as nobody has it: the late answer was paid for.

    Returns:
        (job id, epoch) of those that are recorded, by this call or by an earlier one whose commit's reply was lost. The
        others have been taken from this worker (cancelled, or rescued and claimed again): what their calls cost is
        still counted, their answers are not recorded.
    """
    rows = [_settled_row(settlement) for settlement in settlements]
    if connection.dialect.name == "postgresql":
        run(connection, _lock_jobs, _JOB_IDS.filled([(row.job_id,) for row in rows]))
    written = _changed_claims(connection, _finish, rows)
    unwritten = sorted(row for row in rows if row.claim not in written and row.state in ENDED_STATES)
    if late := {row.job_id: row for row in unwritten}:  # of several claims of a job the last
        ended_late = run(connection, _finish_late, _settled(late.values()))
        written |= {late[job_id].claim for (job_id,) in ended_late}
    ledger = [
        row if row.claim in written else row._replace(outcome="stale")
        for row in rows
        if row.outcome not in WITHOUT_ATTEMPT
    ]
    bookings: list[reservations.Booking] = []
    if ledger:
        before = reservations.under_way(connection, [row.claim for row in ledger])
        ends = (row.claim for row in ledger if row.state in ENDED_STATES)
        before = reservations.with_training(connection, before, ends)
        # An attempt ends only once: if a commit's reply was lost and all this runs again, nothing counts twice.
        ended = _changed_claims(connection, _end_attempts, ledger)
        known = [(before[row.claim], _booking(before[row.claim], row)) for row in ledger if row.claim in before]
        reservations.note_beyond(known)
        bookings += [booking for _, booking in known]
        stale = [row for row in ledger if row.claim in ended and row.claim not in written]
        while stale:  # an UPDATE joins one row a job, and a job may have been lost twice
            once = {row.job_id: row for row in stale}
            run(connection, _count_money, _settled(once.values()))
            stale = [row for row in stale if once[row.job_id] is not row]
    uncalled = [row.claim for row in rows if row.outcome in WITHOUT_ATTEMPT]
    if uncalled:
        bookings += _forget_attempts(connection, uncalled)
    new_answers = [
        (each.job_id, each.batch_id, each.answer)
        for each in settlements
        if each.answer is not None and (each.job_id, each.epoch) in written
    ]
    if new_answers:
        answers.record(connection, new_answers)
    recorded = _recorded_before(connection, [row.claim for row in unwritten if row.claim not in written])
    reservations.book(connection, bookings)  # last: all claims wait for a budget's row until the commit
    return written | recorded


def _booking(call: reservations.Call, row: _SettledRow) -> reservations.Booking:
    """What the end of a call changes in its budgets."""
    was_counted = row.input_tokens is not None or row.output_tokens is not None
    return reservations.ended(call, row.cost_usd, was_counted=was_counted, is_doubtful=bool(row.is_doubtful))


def _recorded_before(connection: Connection, claims: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """Those of these claims that have ended their job; the ledger calls the others stale."""
    if not claims:
        return set()
    is_one = tuple_(attempts.c.job_id, attempts.c.epoch).in_(claims)
    recorded = select(attempts.c.job_id, attempts.c.epoch).where(is_one, attempts.c.outcome.in_(ENDED_STATES))
    return {(row.job_id, row.epoch) for row in connection.execute(recorded)}


def _forget_attempts(connection: Connection, uncalled: Sequence[tuple[int, int]]) -> list[reservations.Booking]:
    """Delete attempts of claims that led to no call; those that were counted as lost meanwhile count no more.

    Returns what that changes in their budgets.
    """
    before = reservations.under_way(connection, uncalled)
    forgotten = connection.execute(
        delete(attempts)
        .where(tuple_(attempts.c.job_id, attempts.c.epoch).in_(uncalled))
        .returning(attempts.c.job_id, attempts.c.outcome)
    )
    if lost := [{"lost_id": row.job_id} for row in forgotten if row.outcome == "lost"]:
        connection.execute(
            update(jobs).where(jobs.c.id == bindparam("lost_id")).values(attempts=jobs.c.attempts - 1), lost
        )
    return [reservations.unmade(call) for call in before.values()]


def _changed_claims(connection: Connection, build: Build, rows: Sequence[_SettledRow]) -> set[tuple[int, int]]:
    """The (job id, epoch) that a statement over settled rows has changed."""
    return {(row[0], row[1]) for row in run(connection, build, _settled(rows))}


def _lock_jobs(connection: Connection) -> ClauseElement:
    rows = _JOB_IDS.values(connection).c
    locked = select(jobs.c.id).where(jobs.c.id.in_(select(rows.id))).order_by(jobs.c.id).with_for_update(of=jobs)
    return select(func.count()).select_from(locked.subquery())


def _settled(rows: Iterable[_SettledRow]) -> FilledRows:
    return _SETTLED.filled([tuple(row) for row in rows])  # orjson writes no named tuples


def _settled_row(settlement: Settlement) -> _SettledRow:
    return _SettledRow(
        settlement.job_id,
        settlement.epoch,
        _STATE_AFTER[settlement.outcome],
        # A hold waits by itself.
        0.0 if settlement.outcome == "held" else min(settlement.delay_seconds, LONGEST_DELAY_SECONDS),
        0 if settlement.outcome in (*WITHOUT_ATTEMPT, "held") else 1,
        int(settlement.counted),
        settlement.outcome,
        settlement.seconds,
        settlement.http_status,
        fit(settlement.request_id, attempts.c.request_id) if settlement.request_id else None,
        fit(settlement.error_code, attempts.c.error_code) if settlement.error_code else None,
        encode(settlement.error) if settlement.error else None,
        settlement.input_tokens,
        settlement.output_tokens,
        None if settlement.cost_usd is None else round(settlement.cost_usd, COST_PLACES),
        None if settlement.standard_usd is None else round(settlement.standard_usd, COST_PLACES),
        settlement.route,
        int(settlement.is_doubtful),
    )


def _money(row: ReadOnlyColumnCollection[str, ColumnElement[Any]]) -> JsonObject:
    """What a call adds to its job, even if another worker owns the job by now."""
    cost = case((row.cost_usd.is_(None), jobs.c.cost_usd), else_=func.coalesce(jobs.c.cost_usd, 0) + row.cost_usd)
    return {
        "input_tokens": jobs.c.input_tokens + func.coalesce(row.input_tokens, 0),
        "output_tokens": jobs.c.output_tokens + func.coalesce(row.output_tokens, 0),
        "cost_usd": cost,
    }


def _finish(connection: Connection) -> Update:
    row = _SETTLED.values(connection).c
    return (
        update(jobs)
        .where(jobs.c.id == row.job_id, jobs.c.epoch == row.epoch, jobs.c.state == "running")
        .values(**_ended(row), attempts=jobs.c.attempts + row.calls)
        .returning(jobs.c.id, jobs.c.epoch)
    )


def _finish_late(connection: Connection) -> Update:
    """The same for jobs that are queued again and that nobody has had since; their attempts are counted already."""
    row = _SETTLED.values(connection).c
    was_lost = (
        select(attempts.c.job_id)
        .where(attempts.c.job_id == row.job_id, attempts.c.epoch == row.epoch, attempts.c.outcome == "lost")
        .exists()
    )
    return (
        update(jobs)
        .where(jobs.c.id == row.job_id, jobs.c.epoch == row.epoch + 1, jobs.c.state == "queued", was_lost)
        .values(**_ended(row), epoch=jobs.c.epoch + 1)
        .returning(jobs.c.id)
    )


def _ended(row: ReadOnlyColumnCollection[str, ColumnElement[Any]]) -> JsonObject:
    """What a settlement changes in its job."""
    state = case((and_(row.state == "queued", _is_unwanted_member()), "cancelled"), else_=row.state)
    return {
        "state": state,
        "lease_until": None,
        "sent_at": None,
        "available_at": now_after(row.delay_seconds),
        "finished_at": case((state == "queued", null()), else_=now()),
        "error_code": row.error_code,
        "error": row.error,
        "failures": jobs.c.failures + row.failures,
        # A job of many steps lives for days: only losses in one step are its own.
        "losses": case((row.outcome == "stepped", 0), else_=jobs.c.losses),
        "first_attempt_at": case(
            (row.calls > 0, func.coalesce(jobs.c.first_attempt_at, now())), else_=jobs.c.first_attempt_at
        ),
        **_money(row),
    }


def _is_unwanted_member() -> ColumnElement[bool]:
    """Whether a row of `jobs` was at the provider's Batch API while somebody cancelled it: it is not asked again."""
    batch_state = select(batches.c.state).where(batches.c.id == jobs.c.batch_id).correlate(jobs).scalar_subquery()
    return and_(is_member(), or_(jobs.c.position.is_(None), batch_state == "cancelled"))


def _count_money(connection: Connection) -> Update:
    row = _SETTLED.values(connection).c
    return update(jobs).where(jobs.c.id == row.job_id).values(**_money(row))


def _end_attempts(connection: Connection) -> Update:
    row = _SETTLED.values(connection).c
    names = (
        "outcome",
        "seconds",
        "http_status",
        "request_id",
        "error_code",
        "error",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "standard_usd",
    )
    return (
        update(attempts)
        .where(
            attempts.c.job_id == row.job_id,
            attempts.c.epoch == row.epoch,
            or_(attempts.c.outcome.is_(None), attempts.c.outcome == "lost"),
        )
        .values(
            ended_at=now(),
            route=func.coalesce(row.route, attempts.c.route),
            doubtful_usd_e9=case((row.is_doubtful > 0, attempts.c.reserved_usd_e9), else_=null()),
            **{name: row[name] for name in names},
        )
        .returning(attempts.c.job_id, attempts.c.epoch)
    )


# --- release, rescue, cancel, revive ---


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
    lives = or_(jobs.c.worker_id.in_(living_ids), jobs.c.worker_id.like(f"{OWNER}%"))
    return _take_back(connection, or_(is_dead, ran_out) if rescuer.by_lease else is_dead, is_loss=~lives)


def _take_back(connection: Connection, condition: ColumnElement[bool], *, is_loss: ColumnElement[bool]) -> int:
    taken = select(jobs.c.id).where(jobs.c.state == "running", condition).with_for_update(skip_locked=True, of=jobs)
    is_last, is_unwanted = and_(is_loss, jobs.c.losses + 1 >= MAX_LOSSES), _is_unwanted_member()
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
    _end_unfinished(connection, [(row.id, row.epoch) for row in rows])
    if over := [row.id for row in rows if row.state in ENDED_STATES]:
        reservations.end_trainings(connection, over)
    return len(rows)


def _end_unfinished(connection: Connection, taken: Sequence[tuple[int, int]]) -> None:
    """End the attempts of jobs that were just taken from their worker: whether the calls were paid is unknown.

    `taken` are (job id, epoch), as they are now.
    """
    if taken:
        calls = reservations.under_way(connection, [(job_id, epoch - 1) for job_id, epoch in taken])
        reservations.book(connection, [reservations.lost(call) for call in calls.values() if call.is_open])
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
    rows = _JOB_IDS.table(connection).c
    parameters = _JOB_IDS.parameters(connection, [(job_id,) for job_id in ids])
    condition = and_(jobs.c.id.in_(select(rows.id)), jobs.c.state.in_(OPEN_STATES), is_no_member())
    _lock(connection, condition, parameters)
    was_running = jobs.c.lease_until.is_not(None)
    in_flight = select(jobs.c.id, (jobs.c.epoch + 1).label("epoch")).where(condition, was_running)
    _end_unfinished(connection, [(row.id, row.epoch) for row in connection.execute(in_flight, parameters)])
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
    reservations.end_trainings(connection, ids)
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
    rows = _JOB_IDS.table(connection).c
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
        _JOB_IDS.parameters(connection, [(job_id,) for job_id in ids]),
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


# --- share ---

_MOST_SHARED = 500
_swept: list[str] = [""]
"""The content up to which this process has looked for twins; the sweep begins anew when it has come to the end."""


def share(connection: Connection) -> int:
    """Let queued jobs end as their twin has ended; looks at the next few hundred. Returns how many it let end.

    Its answer is copied once it is judged, at no cost; so is its failure.
    """
    contents = _next_contents(connection)
    twins = _ended_twins(connection, contents) if contents else {}
    waiting = _waiting_twins(connection, twins) if twins else []
    for job in waiting:
        twin_id = twins[job.batch_id, job.content]
        twin = connection.execute(
            select(jobs.c.state, jobs.c.error_code, jobs.c.error).where(jobs.c.id == twin_id)
        ).one()
        ended = connection.execute(
            update(jobs)
            .where(jobs.c.id == job.id, jobs.c.state == "queued")
            .values(
                state=twin.state,
                epoch=jobs.c.epoch + 1,
                sent_at=None,
                finished_at=now(),
                error_code=twin.error_code,
                error=twin.error,
                cost_usd=func.coalesce(jobs.c.cost_usd, 0.0),
            )
        )
        if ended.rowcount and twin.state == "succeeded":
            answers.copy(connection, twin_id, job.id)
    return len(waiting)


def _next_contents(connection: Connection) -> set[tuple[str, str]]:
    """Batch and content of the next queued jobs with a picture; where there is none, that costs one look-up."""
    queued = select(jobs.c.batch_id, jobs.c.content).where(
        jobs.c.state == "queued", jobs.c.content > bindparam("after")
    )
    queued = queued.order_by(jobs.c.content).limit(bindparam("most"))
    page = connection.execute(queued, {"after": _swept[0], "most": _MOST_SHARED}).all()
    if len(page) < _MOST_SHARED and _swept[0]:
        page = [*page, *connection.execute(queued, {"after": "", "most": _MOST_SHARED - len(page)})]
    _swept[0] = page[-1].content if len(page) == _MOST_SHARED else ""
    return {(row.batch_id, row.content) for row in page}


_CONTENTS = BulkRows(batch_id="text", content="text")


def _ended_twins(connection: Connection, contents: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """For each of these contents a job that has ended: one with an answer, else one that has failed."""
    rows = _CONTENTS.table(connection).c
    judged = select(dialogues.c.id).where(dialogues.c.id == jobs.c.id, dialogues.c.sentiment.is_not(None)).exists()
    answered = func.min(case((and_(jobs.c.state == "succeeded", judged), jobs.c.id)))
    failed = func.min(case((and_(jobs.c.state == "failed", jobs.c.position.is_not(None)), jobs.c.id)))
    twins = (
        select(rows.batch_id, rows.content, func.coalesce(answered, failed).label("id"))
        .join(jobs, and_(jobs.c.batch_id == rows.batch_id, jobs.c.content == rows.content, jobs.c.content.is_not(None)))
        .group_by(rows.batch_id, rows.content)
    )
    ended = connection.execute(twins, _CONTENTS.parameters(connection, sorted(contents)))
    return {(row.batch_id, row.content): row.id for row in ended if row.id is not None}


def _waiting_twins(connection: Connection, contents: Iterable[tuple[str, str]]) -> list[Row[int, str, str]]:
    """Queued jobs with one of these contents, in the order of their ids."""
    rows = _CONTENTS.table(connection)
    is_twin = and_(jobs.c.batch_id == rows.c.batch_id, jobs.c.content == rows.c.content)
    waiting = (
        select(jobs.c.id, jobs.c.batch_id, jobs.c.content)
        .join_from(rows, jobs, is_twin)
        .where(jobs.c.content.is_not(None), jobs.c.state == "queued")
        .limit(_MOST_SHARED)
    )
    found = connection.execute(waiting, _CONTENTS.parameters(connection, sorted(contents)))
    return sorted(found, key=attrgetter("id"))
