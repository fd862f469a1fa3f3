"""A row that is a line of an upstream batch runs like any other, but its owner is that batch, and no worker."""

from sqlalchemy import ColumnElement, and_, func, or_, select

from tidemill.models.tables import batches, jobs

OWNER = "up-"
"""How the worker's name begins of jobs that are lines of an upstream batch: it is no process, and cannot die."""


def is_member() -> ColumnElement[bool]:
    """Whether a row of `jobs` is at the provider's Batch API, or on its way there."""
    return and_(jobs.c.state == "running", has_upstream_owner())


def is_no_member() -> ColumnElement[bool]:
    """The opposite: nobody's, or some worker's."""
    return or_(jobs.c.state != "running", ~has_upstream_owner())


def has_upstream_owner() -> ColumnElement[bool]:
    """Whether a row of `jobs` is, or was last, a line of an upstream batch."""
    return func.substr(func.coalesce(jobs.c.worker_id, ""), 1, len(OWNER)) == OWNER


def is_unwanted_member() -> ColumnElement[bool]:
    """Whether a row of `jobs` was at the provider's Batch API while somebody cancelled it: it is not asked again."""
    batch_state = select(batches.c.state).where(batches.c.id == jobs.c.batch_id).correlate(jobs).scalar_subquery()
    return and_(is_member(), or_(jobs.c.position.is_(None), batch_state == "cancelled"))
