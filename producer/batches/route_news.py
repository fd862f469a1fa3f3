"""Who waits for rows hears when they go out by another route than was asked for, since that changes what they cost."""

from sqlalchemy import Connection, func, select

from tidemill.models.database import reading
from tidemill.models.routes import AUTO, FLEX, ONLINE, UPSTREAM, WINDOWS
from tidemill.models.tables import attempts, jobs
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
        before, self._route = self._route, so_far.route
        if self._route == ONLINE and before not in (ONLINE, AUTO):
            self._has_told = True
            self._display.say(change(before, so_far))

    def end(self) -> None:
        """Say at the end how many rows flex has not taken, unless that is known."""
        if self._batch_id is None or self._route != FLEX or self._has_told:
            return
        with reading() as connection:
            online, flex = _calls(connection, self._batch_id)
        if online:
            self._display.say(not_at_flex(online, online + flex))


def change(before: str, so_far: Progress) -> str:
    """What it means that rows of this route go online from now on."""
    deadline_at = so_far.deadline_at
    if before == FLEX and deadline_at is None:
        why = "the server does not serve this model at flex, or somebody has changed the route"
        return f"The rest goes out at the standard tier, for its price: {why}."
    by = f", to be done by {deadline_at:%H:%M} UTC" if deadline_at is not None else ""
    if before in WINDOWS and not by:
        return f"The server does not take this model by {before}: the rest goes online, for the full price."
    if before not in UPSTREAM:
        return f"The rest goes out at the standard tier{by}."
    out = so_far.at_provider
    follow = f" {counted(out, 'row')} at the provider will follow when it has given them up." if out else ""
    return f"The rest goes online{by}.{follow}" if by or out else f"The last {counted(so_far.open, 'row')} go online."


def not_at_flex(online: int, calls: int) -> str:
    """How many answers were paid in full although flex was asked for."""
    which = "The answer" if calls == 1 else f"{online:,} of {calls:,} answers"
    return f"{which} came at the standard tier, for its price: flex had no room, or does not serve the model."


def _calls(connection: Connection, batch_id: str) -> tuple[int, int]:
    """How many answers of a batch came online, and how many at flex."""
    by_route = (func.count().filter(attempts.c.route.is_(None)), func.count().filter(attempts.c.route == FLEX))
    answers = select(*by_route).join_from(jobs, attempts, attempts.c.job_id == jobs.c.id)
    online, flex = connection.execute(
        answers.where(jobs.c.batch_id == batch_id, attempts.c.outcome == "succeeded")
    ).one()
    return online, flex
