"""Of one batch, where its rows are that are out, and what its route has saved, is read and laid out for `status`."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Row

from tidemill.models import bill, going_online, ledger, whereabouts
from tidemill.models.cost import format_usd
from tidemill.models.database import LONG_SECONDS, reading
from tidemill.models.json_types import JsonObject
from tidemill.models.routes import AUTO, ONLINE
from tidemill.models.whereabouts import Upstream
from tidemill.producer.batches import reasons, upstream_words
from tidemill.producer.batches.progress import Progress, counted


class There(NamedTuple):
    """The open upstream batches of a batch, and what its calls would have cost more online (None: not known)."""

    upstream: list[Upstream]
    saved_usd: float | None
    now: datetime
    online_at: datetime | None
    """When the rest goes online for the deadline; None: it does not."""

    def to_json(self) -> JsonObject:
        """For scripts; times are UTC."""
        at = self.online_at and self.online_at.isoformat()
        return {
            "upstream": [each.to_json() for each in self.upstream],
            "saved_usd": self.saved_usd,
            "goes_online_at": at,
        }


def look(batch: Row[Any], so_far: Progress) -> There:
    """Read it; what was saved is added up only for a batch some of whose calls may have cost less."""
    with reading(LONG_SECONDS) as connection:
        ever = whereabouts.of_batch(connection, batch.id, ended=True)
        went_otherwise = bool(ever) or so_far.route != ONLINE
        saved = bill.saved_usd(connection, batch.id) if went_otherwise else None
        now, seconds = ledger.clock(connection), going_online.seconds_until_online(connection, batch.id)
        online_at = now + timedelta(seconds=seconds) if seconds is not None and so_far.open else None
        return There([each for each in ever if each.ended_at is None], saved, now, online_at)


def page(batch: Row[Any], so_far: Progress, there: There) -> Iterator[str]:
    """The lines of `status`: where rows are, by when all should have ended, what was saved."""
    if so_far.at_provider:
        yield upstream_words.whereabouts(so_far.at_provider, there.upstream, batch.options["model"], there.now)
    yield from (f"  {line}" for line in upstream_words.lines(there.upstream, there.now))
    waiting = so_far.states["queued"]
    if waiting and so_far.route not in (ONLINE, AUTO):
        yield f"{counted(waiting, 'row')} {'waits' if waiting == 1 else 'wait'} to go out by the route {so_far.route}."
    if so_far.deadline_at is not None and so_far.open:
        yield f"Every row should have ended {reasons.until(so_far.deadline_at, there.now)}: that is its deadline."
    if there.online_at is not None:
        yield f"What is left goes online {reasons.until(there.online_at, there.now)}, to be done in time."
    if there.saved_usd:
        yield f"Its route has saved {format_usd(there.saved_usd)} so far."
