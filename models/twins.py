"""Of jobs that ask the same about the same picture one is called, and the others end as it has ended.

This is a transition, too: models/transitions.py says what all of them keep to.
"""

from collections.abc import Iterable
from operator import attrgetter

from sqlalchemy import Connection, Row, and_, bindparam, case, func, select, update

from tidemill.models import answers
from tidemill.models.bulk import BulkRows
from tidemill.models.clock import now
from tidemill.models.tables import dialogues, jobs

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
