"""Jobs are locked in the order of their ids, so that no two transactions wait for each other."""

from sqlalchemy import ClauseElement, ColumnElement, Connection, func, select

from tidemill.models.bulk import BulkRows
from tidemill.models.json_types import JsonObject
from tidemill.models.tables import jobs

JOB_IDS = BulkRows(id="int")
CLAIMS = BulkRows(job_id="int", epoch="int")


def lock(connection: Connection, condition: ColumnElement[bool], parameters: JsonObject | None = None) -> None:
    """Lock jobs in the order of their ids; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        locked = select(jobs.c.id).where(condition).order_by(jobs.c.id).with_for_update(of=jobs).subquery()
        connection.execute(select(func.count()).select_from(locked), parameters)


def lock_ids(connection: Connection) -> ClauseElement:
    """The statement that locks the jobs of filled `JOB_IDS`, for `bulk.run`."""
    rows = JOB_IDS.values(connection).c
    locked = select(jobs.c.id).where(jobs.c.id.in_(select(rows.id))).order_by(jobs.c.id).with_for_update(of=jobs)
    return select(func.count()).select_from(locked.subquery())
