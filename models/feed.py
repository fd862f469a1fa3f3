"""The backlog stays in the database; the broker gets only what the fleet can take next.

`feed()` finds due jobs of the configured provider, marks them as sent and sends their ids. It may run anywhere and many
times at once: a job sent twice is claimed once. Because so little is in the broker, priority, pause and cancel act at
once, and a broker that forgets everything costs seconds.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, func, select, update

from tidemill.models import broker
from tidemill.models.clock import now, now_after
from tidemill.models.database import transact
from tidemill.models.due import ALIVE_SECONDS, IDS_AT_ONCE, next_jobs, unsend_older
from tidemill.models.errors import BrokerError
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.tables import OPEN_PARTS, batches, in_part, jobs, workers
from tidemill.models.transitions import unsend

RESEND_SECONDS = {True: 3.0, False: 60.0}
"""Whether the broker's queue is empty -> how old an unclaimed message must be to count as lost."""


def feed() -> int:
    """Send the due jobs that fit; returns how many.

    Raises:
        BrokerError: the broker does not answer; the jobs are due again.
        DatabaseError: the database does not answer.
    """
    chosen = transact(_mark_due)
    if chosen:
        try:
            broker.send(chosen[start : start + IDS_AT_ONCE] for start in range(0, len(chosen), IDS_AT_ONCE))
        except BrokerError:
            transact(lambda connection: unsend(connection, jobs.c.id.in_(chosen)))
            raise
    return len(chosen)


def resend_lost() -> int:
    """Make jobs whose message seems lost due again; returns how many.

    Raises:
        BrokerError: the broker does not answer, so that no message of it will be lost or found.
        DatabaseError: the database does not answer.
    """
    seconds = RESEND_SECONDS[broker.queue_is_empty()]
    return transact(lambda connection: unsend_older(connection, seconds))


def _mark_due(connection: Connection) -> Sequence[int]:
    chosen = next_jobs(connection, Scope(), lambda: _room(connection))
    if not chosen:
        return []
    sent = update(jobs).where(jobs.c.id.in_(chosen), jobs.c.state == "queued", jobs.c.sent_at.is_(None))
    marked = set(connection.scalars(sent.values(sent_at=now()).returning(jobs.c.id)))
    return [job_id for job_id in chosen if job_id in marked]


def _room(connection: Connection) -> int:
    """How many more jobs to send: twice what the fleet runs at once, less what already waits at the broker."""
    provider = settings().provider
    windows = select(func.coalesce(func.sum(workers.c.window), 0)).where(
        workers.c.provider == provider, workers.c.seen_at > now_after(-ALIVE_SECONDS)
    )
    sent = (
        select(func.count())
        .select_from(jobs)
        .join(batches, in_part(OPEN_PARTS[1], batches.c.id))
        .where(batches.c.provider == provider)
    )
    fleet, waiting = connection.execute(select(windows.scalar_subquery(), sent.scalar_subquery())).one()
    return max(0, 2 * (int(fleet) or settings().window) - int(waiting))
