"""A run whose rows are at the provider's Batch API hears nothing for hours: it says for what it waits, and how far.

It is said once when the waiting begins, as soon as the provider has the rows, and every few minutes from then on.
"""

import time
from collections.abc import Iterator

from tidemill.models import ledger, whereabouts
from tidemill.models.database import reading
from tidemill.models.errors import DatabaseError
from tidemill.models.routes import UPSTREAM
from tidemill.models.scope import Scope
from tidemill.producer.batches import upstream_words
from tidemill.producer.batches.progress import Progress, counted, counts
from tidemill.producer.screen.display import Display

REMIND_SECONDS = 300.0
"""After so long how far the provider is is said again."""

_LOOK_SECONDS = 2.0


class UpstreamNews:
    """Says what is to be known of a batch's rows that are out.

    Args:
        display: where it is said.
        batch_id: whose rows are waited for.
    """

    def __init__(self, display: Display, batch_id: str) -> None:
        self._display, self._batch_id = display, batch_id
        self._has_begun = self._has_arrived = False
        self._looked_at = self._told_at = -REMIND_SECONDS
        self._trouble: set[str] = set()

    def say_new(self, so_far: Progress) -> None:
        """Say what is new, or was not said for a while."""
        now = time.monotonic()
        is_waiting = so_far.at_provider or (so_far.route in UPSTREAM and so_far.states["queued"])
        if not is_waiting or now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        try:
            sentences = list(self._sentences(so_far, now))
        except DatabaseError:  # said elsewhere
            return
        for sentence in sentences:
            self._display.say(sentence)

    def _sentences(self, so_far: Progress, now: float) -> Iterator[str]:
        with reading() as connection:
            batch, at = ledger.batch(connection, self._batch_id), ledger.clock(connection)
            upstream = whereabouts.of_batch(connection, self._batch_id)
        model = batch.options["model"]
        if not self._has_begun:
            self._has_begun = True
            if so_far.route in UPSTREAM and so_far.state != "cancelled":
                yield upstream_words.goes(model, self._batch_id, so_far.route)
                if batch.options.get("dialogue") and so_far.open > 1:
                    yield "Turns of a dialogue go one after the other, each in an upstream batch of its own."
        has_arrived = any(each.sent_at is not None for each in upstream)
        if so_far.at_provider and has_arrived and (not self._has_arrived or now - self._told_at >= REMIND_SECONDS):
            self._has_arrived, self._told_at = True, now
            with reading() as connection:  # of all submissions: this one may not be read to its end
                of_all = counts(connection, Scope(self._batch_id))
            others = of_all.open - of_all.at_provider
            rest = f" {counted(others, 'row')} {'goes' if others == 1 else 'go'} by the route {so_far.route}."
            where = upstream_words.whereabouts(of_all.at_provider, upstream, model, at)
            yield f"{where}{rest if others and so_far.route not in UPSTREAM else ''}"
        trouble = upstream_words.trouble(upstream)
        if so_far.hold_reason is not None:  # the display says why
            self._trouble.add(upstream_words.shown_note(so_far.hold_reason))
        yield from (f"The provider: {each}" for each in trouble if each not in self._trouble)
        self._trouble.update(trouble)
