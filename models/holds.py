"""While a provider serves nobody (no credit, bad key, out of reach), its jobs wait and lose nothing.

A hold is on the batches of one provider. While it lasts, one job at a time goes out as a probe, at growing pauses. The
first answer lifts it.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, case, func, literal, or_, select, tuple_, update

from tidemill.models import tallies
from tidemill.models.clock import now, now_after
from tidemill.models.tables import OPEN_PARTS, attempts, batches, in_part, jobs
from tidemill.models.tables import tallies as stored_tallies
from tidemill.models.transitions import give_time

PROBE_SECONDS = (5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0)
"""Pauses before the first, second, ... probe; the last one is kept."""


def hold(connection: Connection, provider: str, reason: str, seconds: float = 0.0) -> bool:
    """Hold the provider's batches; `seconds` are what it asked to wait before the first probe.

    A batch that is held already gets the new reason, and the longer wait. Returns whether any was not held yet.
    """
    first_probe = now_after(max(PROBE_SECONDS[0], seconds))
    begun = connection.execute(
        update(batches)
        .where(batches.c.provider == provider, batches.c.state != "cancelled", batches.c.hold_reason.is_(None))
        .values(hold_reason=reason, held_at=now(), held_until=first_probe, hold_probes=0, probe_job_id=None)
    )
    if seconds:
        connection.execute(
            update(batches)
            .where(batches.c.provider == provider, batches.c.held_until < first_probe)
            .values(held_until=first_probe)
        )
    connection.execute(
        update(batches)
        .where(batches.c.provider == provider, batches.c.hold_reason.is_not(None), batches.c.hold_reason != reason)
        .values(hold_reason=reason)
    )
    return bool(begun.rowcount)


def held_providers(connection: Connection) -> frozenset[str]:
    """The providers whose batches wait."""
    held = select(batches.c.provider).where(batches.c.hold_reason.is_not(None)).distinct()
    return frozenset(connection.scalars(held))


def begin_probe(connection: Connection, provider: str, job_id: int) -> bool:
    """Let this one job through, and no other until the next pause is over. False if somebody else was faster."""
    pause = case(
        *((batches.c.hold_probes == i, PROBE_SECONDS[i + 1]) for i in range(len(PROBE_SECONDS) - 1)),
        else_=PROBE_SECONDS[-1],
    )
    return bool(
        connection.execute(
            update(batches)
            .where(batches.c.provider == provider, batches.c.hold_reason.is_not(None), may_probe())
            .values(held_until=now_after(pause), hold_probes=batches.c.hold_probes + 1, probe_job_id=job_id)
        ).rowcount
    )


def may_probe() -> ColumnElement[bool]:
    """Whether a held batch's next probe is due; a hold that begins in the future is older than a clock's setting."""
    return or_(batches.c.held_until <= now(), batches.c.held_at > now_after(1.0))


def lift(connection: Connection, answered_calls: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Lift the hold of providers that answered one of these (job id, epoch) calls, if it began after the hold did.

    Returns the providers whose hold was lifted, and after how many seconds.
    """
    serving: dict[str, float] = {}
    held = connection.execute(
        select(batches.c.provider, batches.c.held_at).where(batches.c.hold_reason.is_not(None)).distinct()
    ).all()
    at = connection.scalar(select(now())) if held else None
    for provider, held_at in held:
        own = batches.alias("own")
        began_after = (
            select(attempts.c.job_id)
            .join(jobs, jobs.c.id == attempts.c.job_id)
            .join(own, own.c.id == jobs.c.batch_id)
            .where(
                tuple_(attempts.c.job_id, attempts.c.epoch).in_(answered_calls),
                or_(attempts.c.started_at > held_at, literal(held_at, batches.c.held_at.type) > now_after(1.0)),
                own.c.provider == provider,
            )
            .exists()
        )
        lifted = connection.execute(
            update(batches)
            .where(batches.c.provider == provider, batches.c.hold_reason.is_not(None), began_after)
            .values(hold_reason=None, held_at=None, held_until=None, hold_probes=0, probe_job_id=None)
        )
        if lifted.rowcount:
            give_time(connection, batches.c.provider == provider)
            serving[provider] = max(serving.get(provider, 0.0), (at - held_at).total_seconds() if at else 0.0)
    return serving


def end(connection: Connection, provider: str) -> None:
    """Lift a provider's hold: it has just done what it refused before."""
    held = batches.c.provider == provider, batches.c.hold_reason.is_not(None)
    lifted = update(batches).where(*held)
    lifted = lifted.values(hold_reason=None, held_at=None, held_until=None, hold_probes=0, probe_job_id=None)
    if connection.execute(lifted).rowcount:
        give_time(connection, batches.c.provider == provider)


def probe_at_once(connection: Connection, provider: str) -> None:
    """Make the next probe due now: somebody has just come back to a held batch, so something may have been fixed."""
    connection.execute(
        update(batches)
        .where(batches.c.provider == provider, batches.c.hold_reason.is_not(None))
        .values(held_until=now(), hold_probes=0)
    )


def has_held_since(connection: Connection, batch_id: str, since: datetime) -> bool:
    """Whether the batch's hold began, or one of its probes was refused, after this time of the database's clock."""
    refused = (
        select(attempts.c.job_id)
        .where(
            attempts.c.job_id == batches.c.probe_job_id, attempts.c.started_at >= since, attempts.c.outcome == "held"
        )
        .exists()
    )
    held = select(batches.c.id).where(batches.c.id == batch_id, batches.c.hold_reason.is_not(None))
    return connection.scalar(held.where(or_(batches.c.held_at >= since, refused))) is not None


ALONE_AFTER = 2
"""Times that one job may cause a hold while others are answered; the next time, the fault is its own."""

LAST_AFTER = 4
"""Times that the provider's last open job may cause a hold, where others of its batch were answered before."""


def is_at_fault(connection: Connection, job_id: int, batch_id: str, *, speaks_of_account: bool) -> bool:
    """Whether this job, and not the account, is why it is refused.

    Proof is that others were answered after each of its holds. If the refusal names the account for certain, only
    others of its batch count, for they ask the same model. Else any other of the provider's; and where no other is
    left who could prove it, it is enough that others of its batch were answered before, since nobody else waits.
    """
    others, own, its_batch = attempts.alias("others"), jobs.alias("own"), batches.alias("its_batch")
    provider = select(batches.c.provider).where(batches.c.id == batch_id).scalar_subquery()
    counts = own.c.batch_id == batch_id if speaks_of_account else its_batch.c.provider == provider
    answered_since = (
        select(others.c.job_id)
        .join(own, own.c.id == others.c.job_id)
        .join(its_batch, its_batch.c.id == own.c.batch_id)
        .where(
            counts,
            own.c.id != job_id,
            others.c.outcome == "succeeded",
            others.c.started_at > attempts.c.started_at,
        )
        .exists()
    )
    own_holds = select(func.count()).where(attempts.c.job_id == job_id, attempts.c.outcome == "held")
    holds = connection.scalar(own_holds) or 0
    if holds < ALONE_AFTER:  # as in an outage, where the probes are other jobs each time: nothing need be looked for
        return False
    if (connection.scalar(own_holds.where(answered_since)) or 0) >= ALONE_AFTER:
        return True
    if speaks_of_account or holds < LAST_AFTER:
        return False
    return _no_other_waits(connection, provider, jobs.c.id != job_id) and _has_answers(connection, batch_id)


def is_left_over(connection: Connection, batch_id: str, provider: str) -> bool:
    """Whether others of the batch were answered, and no job of the provider's is left that was never called.

    Only rows are left then that were refused. In an outage there would be others, which nobody has called yet.
    """
    never_called = jobs.c.first_attempt_at.is_(None)
    return _has_answers(connection, batch_id) and _no_other_waits(connection, literal(provider), never_called)


def _has_answers(connection: Connection, batch_id: str) -> bool:
    return tallies.any_rows(connection, batch_id, stored_tallies.c.state == "succeeded")


def _no_other_waits(connection: Connection, provider: ColumnElement[str], of_others: ColumnElement[bool]) -> bool:
    """Whether none of these jobs of the provider's is open."""
    open_batches = select(batches.c.id).where(batches.c.provider == provider, batches.c.state == "open")
    for part in OPEN_PARTS:
        # One row in the index's order is enough: for an EXISTS Postgres might read a million rows for a hash join.
        one = select(jobs.c.id).where(in_part(part, batches.c.id), of_others).limit(1).scalar_subquery()
        if connection.scalar(open_batches.where(one.is_not(None)).limit(1)) is not None:
            return False
    return True
