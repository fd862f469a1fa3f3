"""Who waits for rows hears when they go out by another route than was asked for, since that changes what they cost."""

from datetime import datetime

from sqlalchemy import Connection, func, select

from tidemill.models.database import reading
from tidemill.models.errors import DatabaseError
from tidemill.models.routes import AUTO, ONLINE, UPSTREAM
from tidemill.models.tables import attempts, batches, jobs
from tidemill.producer.batches.progress import Progress, counted
from tidemill.producer.screen.display import Display


class RouteNews:
    """Says what becomes of a batch's route while somebody waits for it.

    Args:
        display: where it is said.
        batch_id: the batch; None: there is none to look at.
    """

    def __init__(self, display: Display, batch_id: str | None) -> None:
        self._display, self._batch_id = display, batch_id
        self._route = AUTO
        """The last that was seen."""
        self._has_told = False

    def look(self, so_far: Progress) -> None:
        """Say it if rows go online that were to go another way."""
        if self._batch_id is None or self._route == ONLINE:
            return
        try:
            with reading() as connection:
                before, (self._route, deadline_at) = self._route, _batch(connection, self._batch_id)
        except DatabaseError:  # said elsewhere
            return
        if self._route == ONLINE and before != AUTO:
            self._has_told = True
            self._display.say(change(before, deadline_at, so_far))

    def end(self) -> None:
        """Say at the end how many rows flex has not taken, unless that is known."""
        if self._batch_id is None or self._route != "flex" or self._has_told:
            return
        with reading() as connection:
            online, flex = _calls(connection, self._batch_id)
        if online:
            self._display.say(not_at_flex(online, online + flex))


def change(before: str, deadline_at: datetime | None, so_far: Progress) -> str:
    """What it means that rows of this route go online from now on."""
    if before == "flex" and deadline_at is None:
        return "The server does not serve this model at flex: the rest goes out at the standard tier, for its price."
    by = f", to be done by {deadline_at:%H:%M} UTC" if deadline_at is not None else ""
    if before not in UPSTREAM:
        return f"The rest goes out at the standard tier{by}."
    out = so_far.states["running"]
    follow = f" {counted(out, 'row')} at the provider will follow when it has given them up." if out else ""
    return f"The rest goes online{by}.{follow}" if by or out else f"The last {counted(so_far.open, 'row')} go online."


def not_at_flex(online: int, calls: int) -> str:
    """How many answers were paid in full although flex was asked for."""
    return (
        f"{online:,} of {counted(calls, 'answer')} came at the standard tier, for its price: flex had no room for "
        "them, or does not serve the model."
    )


def _batch(connection: Connection, batch_id: str) -> tuple[str, datetime | None]:
    columns = select(batches.c.route, batches.c.deadline_at).where(batches.c.id == batch_id)
    route, deadline_at = connection.execute(columns).one()
    return route, deadline_at


def _calls(connection: Connection, batch_id: str) -> tuple[int, int]:
    """How many answers of a batch came online, and how many at flex."""
    is_flex = attempts.c.route == "flex"
    answers = select(func.count(), func.count().filter(is_flex)).join_from(
        jobs, attempts, attempts.c.job_id == jobs.c.id
    )
    its = jobs.c.batch_id == batch_id, attempts.c.outcome == "succeeded"
    answered, flex = connection.execute(answers.where(*its)).one()
    return answered - flex, flex
