"""Nobody waits without knowing for what: it is said at once, again each minute, and when it is over."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from tidemill.models import live
from tidemill.models.clock import seconds_since
from tidemill.models.database import reading
from tidemill.models.durations import in_words
from tidemill.models.embedded import EmbeddedRunner
from tidemill.models.errors import DatabaseError
from tidemill.models.routes import UPSTREAM
from tidemill.models.tables import batches, jobs
from tidemill.producer.batches import budget_words
from tidemill.producer.batches.progress import Progress, counted
from tidemill.producer.screen.display import Display

if TYPE_CHECKING:
    from tidemill.producer.batches.upstream_news import UpstreamNews

REMIND_SECONDS = 60.0
"""After so long what a run waits for is said again."""

_TROUBLE_SECONDS = 30.0
_WORKER_CHECK_SECONDS = 10.0

_NARROW_SECONDS = 10.0
"""After so long without room in a budget a sentence says so: near a cap, a moment of it is usual."""

_OVER = {
    "budget": "There is room in the budget after {}; going on.",
    "hold": "The provider answers again after {}; going on.",
    "state": "The batch was resumed after {}; going on.",
    "trouble": "The trouble is over after {}; going on.",
    "workers": "A worker is there after {}; going on.",
}
"""What a run may wait for -> the sentence once that is over."""


@dataclass(slots=True)
class _Obstacle:
    sentence: str
    since: float
    told_at: float


class Obstacles:
    """Says what a run waits for.

    Args:
        display: where it is said.
        runner: the worker inside this command; None where workers are elsewhere.
        batch_id: whose rows are waited for.
        silence_seconds: after so long without an answer a sentence says so, and again each minute; None: never.
    """

    def __init__(
        self, display: Display, runner: EmbeddedRunner | None, batch_id: str | None, silence_seconds: float | None
    ) -> None:
        self._display = display
        self._runner = runner
        self._batch_id = batch_id
        self._now: dict[str, _Obstacle] = {}
        self._silence_seconds = silence_seconds
        self._ended = -1
        self._answered_at = self._silence_told_at = self._checked_workers_at = time.monotonic()
        self._upstream_news: UpstreamNews | None = None
        self._narrow_since = self._answered_at
        """Since when a budget has had no room, and no row has ended."""

    def say_new(self, so_far: Progress) -> None:
        """Say what a run waits for now and did not before, or for a minute, and what is over.

        Raises:
            DatabaseError: the database could not be used for half a minute.
        """
        self._note("hold", so_far.hold_reason)
        paused = f"The batch is paused; `tidemill resume {self._batch_id}` continues it."
        self._note("state", paused if so_far.state == "paused" else None)
        self.say_trouble(self._runner.trouble if self._runner is not None else None)
        if self._runner is None and time.monotonic() - self._checked_workers_at > _WORKER_CHECK_SECONDS:
            self._checked_workers_at = time.monotonic()
            self._note("workers", _missing_worker(self._batch_id))
        elif "workers" in self._now:
            self._note("workers", self._now["workers"].sentence)
        self._say_upstream(so_far)
        self._note_budget(so_far)
        self._note_silence(so_far)

    def _say_upstream(self, so_far: Progress) -> None:
        """Say where rows are that go by the provider's Batch API, and how far it is."""
        if self._batch_id is None or not (so_far.at_provider or so_far.route in UPSTREAM):
            return
        if self._upstream_news is None:
            from tidemill.producer.batches.upstream_news import UpstreamNews  # which no other run needs

            self._upstream_news = UpstreamNews(self._display, self._batch_id)
        self._upstream_news.say_new(so_far)

    def say_trouble(self, trouble: str | None) -> None:
        """Say that the database cannot be used, or that it can again.

        Raises:
            DatabaseError: it has not been usable for half a minute.
        """
        self._note("trouble", trouble)
        if trouble is not None and time.monotonic() - self._now["trouble"].since > _TROUBLE_SECONDS:
            raise DatabaseError(trouble)

    def why(self, so_far: Progress) -> str:
        """In sentences, what the run waits for at present."""
        if self._runner is None and (missing := _missing_worker(self._batch_id)) is not None:
            return missing
        return " ".join(each.sentence for each in self._now.values()) or _of_silence(so_far, self._batch_id)

    def _note(self, topic: str, sentence: str | None) -> None:
        now, known = time.monotonic(), self._now.get(topic)
        if sentence is None:
            if known is not None:
                del self._now[topic]
                self._display.say(_OVER[topic].format(_in_minutes(now - known.since)))
        elif known is None or sentence != known.sentence:
            self._now[topic] = _Obstacle(sentence, known.since if known else now, now)
            self._display.say(sentence)
        elif now - known.told_at >= REMIND_SECONDS:
            known.told_at = now
            self._display.say(f"Still waiting after {_in_minutes(now - known.since)}: {sentence}")

    def _note_budget(self, so_far: Progress) -> None:
        """Say that a budget has had no room for a while, although calls in flight may give some back."""
        now, narrow = time.monotonic(), budget_words.narrowest([each for each in so_far.budgets if each.is_narrow])
        if narrow is None or so_far.ended != self._ended:
            self._narrow_since = now
        is_long = narrow is not None and now - self._narrow_since >= _NARROW_SECONDS
        self._note("budget", budget_words.waiting(narrow) if narrow is not None and is_long else None)

    def _note_silence(self, so_far: Progress) -> None:
        """Say that no row ends, where nothing else explains it."""
        now, listener = time.monotonic(), live.listener_of(self._batch_id)
        if so_far.ended != self._ended or self._now or so_far.at_provider:  # of those, it is said how far they are
            self._ended, self._answered_at = so_far.ended, now
        elif listener is not None and listener.heard_at > self._answered_at:
            self._answered_at = listener.heard_at
        if self._silence_seconds is None or not so_far.open:
            return
        is_first = self._silence_told_at <= self._answered_at
        due_at = self._answered_at + self._silence_seconds if is_first else self._silence_told_at + REMIND_SECONDS
        if now >= due_at:
            self._silence_told_at = now
            no_answer = "No answer yet after" if so_far.rows == 1 else "No row has ended for"
            silence = _in_minutes(now - self._answered_at)
            self._display.say(f"{no_answer} {silence}. {_of_silence(so_far, self._batch_id)}")


def _in_minutes(seconds: float) -> str:
    """How long something has lasted; from a minute on, seconds would only be noise."""
    return in_words(seconds if seconds < 60 else seconds - seconds % 60)


def _of_silence(so_far: Progress, batch_id: str | None) -> str:
    """What becomes of open rows, where nothing keeps all of them waiting."""
    running, queued = so_far.states["running"] - so_far.at_provider, so_far.states["queued"]
    calls = f"{counted(running, 'call')} {'is' if running == 1 else 'are'} under way or waiting for a limit"
    out = so_far.at_provider
    parts = [f"{counted(out, 'row')} {'is' if out == 1 else 'are'} at the provider"] if out else []
    parts += [calls] if running or not (queued or parts) else []
    reason = ""
    if queued:
        seconds, error = _next_due(batch_id)
        due = f", the next one due in {in_words(seconds)}" if seconds >= 1 else ""
        to_pack = " for the provider" if so_far.route in UPSTREAM else ""
        parts.append(f"{counted(queued, 'row')} {'is' if queued == 1 else 'are'} queued{to_pack}{due}")
        reason = f" Its last call failed: {error}" if error else ""
    return f"{', '.join(parts)}.{reason}"


def _next_due(batch_id: str | None) -> tuple[float, str | None]:
    """In how many seconds the next queued row is due, and why its last call failed."""
    try:
        with reading() as connection:
            seconds = -seconds_since(connection, jobs.c.available_at)
            due = (jobs.c.batch_id == batch_id) & (jobs.c.state == "queued") & jobs.c.sent_at.is_(None)
            one = select(seconds, jobs.c.error).where(due).order_by(jobs.c.available_at, jobs.c.id).limit(1)
            row = connection.execute(one).first()
    except DatabaseError:  # said elsewhere
        return 0.0, None
    return (float(row[0]), row[1]) if row else (0.0, None)


def _missing_worker(batch_id: str | None) -> str | None:
    """What to start, if no living worker serves the batch's provider."""
    from tidemill.models import ledger  # for runs whose workers are elsewhere
    from tidemill.producer.batches.reasons import Fleet, missing_worker

    try:
        with reading() as connection:
            batch = connection.execute(select(batches).where(batches.c.id == batch_id)).one()
            return missing_worker(batch, Fleet(ledger.all_workers(connection), is_embedded=False))
    except DatabaseError:
        return None  # unknown; that the database does not answer is said elsewhere
