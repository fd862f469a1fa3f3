"""A rehearsal writes into the user's own database, so it counts and removes the rows of its own batch and no others."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import delete, func, select

from tidemill.models.database import reading, writing
from tidemill.models.tables import OPEN_STATES, attempts, batches, dialogues, jobs, messages, workers
from tidemill.producer.rehearsing.books import batch_ids

_AT_ONCE = 500
"""Jobs whose rows are removed in one transaction, so that nobody waits for its locks."""


class Count(NamedTuple):
    """Rows that have not ended, rows that have, and calls that are still under way in the ledger."""

    open: int
    ended: int
    calls: int


def count(batch_name: str) -> Count:
    """Count the rows of the batches of this name.

    Raises:
        DatabaseError: the database does not answer.
    """
    own = jobs.c.batch_id.in_(batch_ids(batch_name))
    in_ledger = select(func.count()).select_from(attempts).join(jobs, jobs.c.id == attempts.c.job_id)
    with reading() as connection:
        states = connection.execute(select(jobs.c.state, func.count()).where(own).group_by(jobs.c.state)).all()
        calls = connection.scalar(in_ledger.where(own, attempts.c.outcome.is_(None))) or 0
    open_ = sum(rows for state, rows in states if state in OPEN_STATES)
    return Count(open_, sum(rows for _, rows in states) - open_, calls)


def remove(batch_name: str, worker_ids: Sequence[str]) -> int:
    """Remove the rows of the batches of this name, a few hundred jobs at a time, and those of the workers.

    Raises:
        DatabaseError: the database does not answer.
    """
    removed = 0
    own = select(jobs.c.id).where(jobs.c.batch_id.in_(batch_ids(batch_name))).order_by(jobs.c.id).limit(_AT_ONCE)
    while True:
        with writing() as connection:
            ids = list(connection.scalars(own))
            for column in (messages.c.dialogue_id, dialogues.c.id, attempts.c.job_id, jobs.c.id):
                connection.execute(delete(column.table).where(column.in_(ids)))
            if not ids:
                connection.execute(delete(batches).where(batches.c.name == batch_name))
                connection.execute(delete(workers).where(workers.c.id.in_(worker_ids)))
                return removed
        removed += len(ids)


def workers_of(batch_name: str) -> list[str]:
    """Ids of the workers that had jobs of these batches."""
    own = select(attempts.c.worker_id).join(jobs, jobs.c.id == attempts.c.job_id)
    with reading() as connection:
        return list(connection.scalars(own.where(jobs.c.batch_id.in_(batch_ids(batch_name))).distinct()))
