"""A worker takes jobs before it calls anybody: from then on they are its own, until its lease ends.

Of epochs and locks models/transitions.py says what all transitions keep to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    Connection,
    Float,
    Integer,
    String,
    and_,
    case,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)

from tidemill.models import reservations, turns
from tidemill.models.answers import Message
from tidemill.models.bulk import Build, BulkRows, FilledRows, Given, run
from tidemill.models.clock import now, now_after, seconds_since
from tidemill.models.job_locks import JOB_IDS, lock
from tidemill.models.json_types import JsonObject
from tidemill.models.tables import attempts, batches, jobs
from tidemill.models.text import loads

MAX_LOSSES = 3
"""Workers that may vanish with a job, or with one of its steps; then the job counts as the cause and fails."""

ALONE_AFTER = MAX_LOSSES - 1
"""After so many losses a job runs alone in its process: its next loss is its own, and hits no other job."""


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
    asked = JOB_IDS.filled([(job_id,) for job_id in ids])
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
        run(connection, _leave_out, JOB_IDS.filled([(job_id,) for job_id in reserved.left_out]), given)
        if reserved.unpriced:
            later = {**given, "seconds": reservations.UNPRICED_SECONDS}
            run(connection, _let_others_first, JOB_IDS.filled([(job_id,) for job_id in reserved.unpriced]), later)
        left_out = set(reserved.left_out)
        claimed = [job for job in claimed if job.id not in left_out]
    begun = [(job.id, job.epoch, reserved.usd_e9.get(job.id)) for job in claimed]
    if begun:
        run(connection, _begin_attempts, _BEGUN.filled(begun), {**given, "started_at": reserved.started_at})
    return Taken(claimed, len(reserved.left_out) - len(reserved.unpriced))


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
        .where(jobs.c.id.in_(select(JOB_IDS.values(connection).c.id)), jobs.c.state == "running")
        .values(
            state="queued",
            epoch=jobs.c.epoch - 1,
            lease_until=null(),
            upstream_id=case((Given("upstream_id", type_=BigInteger).is_(None), jobs.c.upstream_id), else_=null()),
        )
    )


def _let_others_first(connection: Connection) -> ClauseElement:
    later = update(jobs).where(jobs.c.id.in_(select(JOB_IDS.values(connection).c.id)))
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
            jobs.c.id.in_(select(JOB_IDS.values(connection).c.id)),
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
        turn.c.id.in_(select(JOB_IDS.values(connection).c.id)),
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
    rows = JOB_IDS.table(connection).c
    its_own = and_(jobs.c.id == rows.id, jobs.c.worker_id == claimant.worker_id, jobs.c.state == "running")
    parameters = JOB_IDS.parameters(connection, [(job_id,) for job_id in ids])
    # Locked first: an UPDATE computes the lease before it waits for a row, and that may take longer than the lease.
    lock(connection, its_own, parameters)
    extended = update(jobs).where(its_own).values(lease_until=now_after(literal(claimant.lease_seconds)))
    return set(connection.scalars(extended.returning(jobs.c.id), parameters))


def keep(connection: Connection, upstream_id: int, owner_id: str, seconds: float) -> None:
    """Extend the lease of all jobs that are lines of an upstream batch."""
    own = and_(jobs.c.upstream_id == upstream_id, jobs.c.worker_id == owner_id, jobs.c.state == "running")
    lock(connection, own)
    connection.execute(update(jobs).where(own).values(lease_until=now_after(seconds)))
