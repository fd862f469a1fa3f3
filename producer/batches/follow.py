"""A command that waits watches the database until its rows have ended.

Without a broker it also runs the worker, inside itself; with one, it only watches. Either way what it shows is what is
stored, so a second command shows the same, and stopping this one loses nothing.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import select

from tidemill.models import holds, news, reservations, tallies
from tidemill.models.clock import now
from tidemill.models.database import reading, transact
from tidemill.models.durations import in_words
from tidemill.models.embedded import EmbeddedRunner, embedded_worker
from tidemill.models.errors import (
    BudgetReachedError,
    DatabaseError,
    InputError,
    NotEndedError,
    RowFailedError,
    StoppedEarlyError,
)
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.tables import batches
from tidemill.models.transitions import ERASED
from tidemill.producer.batches import affording, budget_words
from tidemill.producer.batches.ends import Ends
from tidemill.producer.batches.obstacles import REMIND_SECONDS, Obstacles
from tidemill.producer.batches.progress import Progress, counted, progress
from tidemill.producer.batches.route_news import RouteNews
from tidemill.producer.batches.submit import OpenBatch, submit
from tidemill.producer.screen.display import Display

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 0.5
"""Between two looks at the database."""

_LOOK_SHARE = 0.1
"""The largest share of the time that looking may take: counting a million rows is not free."""

_OUT_SHARE, _LONGEST_OUT_SECONDS = 0.02, 15.0
"""The same while all open rows are at the provider, which may be for a day; and the longest pause then."""

_READ_FIRST_SECONDS = 0.3
"""For so long rows are read before the worker starts, if all so far are answered already: it may not be needed."""

_WORKER_SECONDS = 1.0
"""How long rows wait for the worker to start: both at once would only make the first answer late."""

_NEARLY_DONE = 1000
"""While fewer rows are open, each time that some have ended is worth a look."""


class _StoppedError(Exception):
    """The run ends before the input was read to its end."""


class Submitting:
    """Reads and stores the rows of an opened batch on a thread of its own, while others are answered already."""

    def __init__(self, opened: OpenBatch) -> None:
        self.error: BaseException | None = None
        self.has_work = threading.Event()
        """Set when a row without an answer is stored, or all rows are read."""
        self.has_worker = threading.Event()
        """Set when somebody is there who asks such rows: the others are not stored before."""
        self._opened = opened
        self._stopped = False
        self._has_said = False
        self._thread = threading.Thread(target=self._run, name="submit", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            submit(self._opened, self._check)
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001  # it is raised again where the user waits
            self.error = error
        finally:
            self.has_work.set()

    def _check(self, rows: int) -> None:
        if rows > self._opened.tally.answered:
            self.has_work.set()
            self.has_worker.wait(_WORKER_SECONDS)
        if self._stopped:
            raise _StoppedError

    @property
    def is_reading(self) -> bool:
        """True while rows are still read."""
        return self._thread.is_alive()

    def say_answered(self, display: Display) -> None:
        """Say, once all rows are read, how many of them had their answer already."""
        answered = self._opened.tally.answered
        if answered and not (self.is_reading or self._has_said):
            self._has_said = True
            display.say(f"{self._opened.batch_id} continues: {answered:,} answered already; --new asks again.")

    @property
    def is_answered(self) -> bool:
        """True when all rows are read, and none is without an answer."""
        tally = self._opened.tally
        return not self.is_reading and self.error is None and tally.rows == tally.answered

    def stop(self) -> None:
        """Read no further than the present chunk."""
        self._stopped = True
        self.has_worker.set()
        self._thread.join(2)


def follow(
    scope: Scope,
    window: int,
    display: Display,
    *,
    submitting: Submitting | None = None,
    on_progress: Callable[[Progress], bool | None] | None = None,
    ends: Ends | None = None,
    silence_seconds: float | None = REMIND_SECONDS,
) -> Progress:
    """Wait until every row of a submission has ended and every reply is judged.

    Args:
        scope: which rows, of which batch and submission.
        window: calls in flight at most, where the worker runs inside this process.
        display: shows how far it is.
        submitting: what still reads the rows, if they are not all read.
        on_progress: is called with what each look at the database counts; if it returns True, that look is the last.
        ends: when to stop although rows are open.
        silence_seconds: after so long without an answer a sentence says so; None: never.

    Raises:
        NotEndedError, RowFailedError: one of `ends` has come; calls in flight have ended or were given back.
        BudgetReachedError: a cap leaves no room for the next call, and none is in flight.
        KeyboardInterrupt: the user stopped; calls in flight have ended or were given back.
        InputError, DatabaseError: reading or storing failed; what was committed is safe.
    """
    limit = _Limit(scope, ends or Ends())
    if submitting is not None:
        submitting.has_work.wait(_READ_FIRST_SECONDS)
        submitting.say_answered(display)
    if submitting is None or submitting.is_answered:
        so_far = progress(scope)
        has_enough = on_progress is not None and on_progress(so_far)
        if has_enough or so_far.is_complete:
            return so_far
    if submitting is None:
        check_server(scope.batch_id)
        if so_far.budgets:  # somebody has come back, maybe with more prices
            transact(lambda connection: reservations.reconsider(connection, scope.batch_id or ""))
    with _worker(window, scope, display) as runner:
        if submitting is not None:
            submitting.has_worker.set()
        try:
            obstacles = Obstacles(display, runner, scope.batch_id, silence_seconds)
            return _watch(scope, display, submitting, on_progress, obstacles=obstacles, limit=limit)
        finally:
            if submitting is not None:
                submitting.stop()


def check_server(batch_id: str | None) -> None:
    """Raise InputError if the worker would be inside this command, and is not for the batch's server."""
    own = settings().provider
    with reading() as connection:
        provider = connection.scalar(select(batches.c.provider).where(batches.c.id == batch_id))
    if settings().embedded and provider not in (None, own):
        raise InputError(
            f"{batch_id} is for {provider}, and OPENAI_BASE_URL names {own}; "
            f"let it name {provider} to run the batch here. If that server has moved, its `tidemill ask` or "
            f"`describe` with --moved-from {provider} takes the batch along."
        )


@contextmanager
def _worker(window: int, scope: Scope, display: Display) -> Iterator[EmbeddedRunner | None]:
    """The worker inside this command, or None where workers are elsewhere."""
    if not settings().embedded:
        yield None
        return
    with embedded_worker(window, scope) as runner:
        try:
            yield runner
        except BudgetReachedError:
            raise  # nothing is in flight
        except (KeyboardInterrupt, StoppedEarlyError):
            is_last, calls = len(runner.scopes) == 1, counted(runner.in_flight, "call")
            ends = f"{calls} in flight may end (at most {settings().drain_seconds:.0f} s; Ctrl-C again stops at once). "
            display.say(
                f"Stopping. {ends if runner.in_flight else ''}Nothing is lost: the same command continues from here."
                if is_last
                else "Stopping. Others wait in this process, so that calls in flight end. Nothing is lost."
            )
            raise


def _watch(
    scope: Scope,
    display: Display,
    submitting: Submitting | None,
    on_progress: Callable[[Progress], bool | None] | None,
    *,
    obstacles: Obstacles,
    limit: "_Limit",
) -> Progress:
    pause = _SHORTEST_PAUSE_SECONDS
    routes = RouteNews(display, scope.batch_id)
    while True:
        is_reading = submitting is not None and submitting.is_reading
        if submitting is not None and submitting.error is not None:
            raise submitting.error
        if submitting is not None:
            submitting.say_answered(display)
        began, known = time.monotonic(), news.times()
        try:
            so_far = progress(scope)
        except DatabaseError as error:  # it may only be restarting
            obstacles.say_trouble(str(error))
            time.sleep(_LONGEST_PAUSE_SECONDS)
            continue
        took = time.monotonic() - began
        display.update(so_far, reading=is_reading)
        has_enough = on_progress is not None and on_progress(so_far)
        routes.look(so_far)
        if has_enough or (not is_reading and so_far.is_complete):
            routes.end()
            return so_far
        obstacles.say_new(so_far)
        limit.check(so_far, obstacles)
        if not is_reading:
            limit.check_budget(so_far)
        pause = min(_LONGEST_PAUSE_SECONDS, pause * 1.5)
        longest = max(pause, took / _LOOK_SHARE)
        if so_far.is_out:
            longest = max(longest, min(_LONGEST_OUT_SECONDS, took / _OUT_SHARE))
        if is_reading or so_far.open > _NEARLY_DONE:
            time.sleep(longest)
        else:
            news.wait(known, longest)


class _Limit:
    """Ends a run that may take no longer, or must not go on."""

    def __init__(self, scope: Scope, ends: Ends) -> None:
        self._scope, self._ends = scope, ends
        self._began = time.monotonic()
        self._began_at: datetime | None = None
        """The same on the database's clock; only with `fail_fast`."""
        if ends.fail_fast:
            with reading() as connection:
                self._began_at = connection.scalar(select(now()))

    def check(self, so_far: Progress, obstacles: Obstacles) -> None:
        """Raise StoppedEarlyError if the run is to end here."""
        most, is_open = self._ends.max_wait_seconds, f"{counted(so_far.open, 'row')} of {self._scope.batch_id} open"
        if self._ends.fail_fast and so_far.states["failed"] and (failure := self._failure()) is not None:
            raise RowFailedError(f"Stopped, because a row has failed {failure}")
        if so_far.hold_reason is not None and self._is_held_now():
            raise NotEndedError(f"Stopped with {is_open}, because the provider serves nobody: {so_far.hold_reason}")
        if most is not None and time.monotonic() - self._began >= most:
            why = obstacles.why(so_far)
            raise NotEndedError(f"Stopped after {in_words(most)} with {is_open}. {why} Run it again, and it goes on.")

    def check_budget(self, so_far: Progress) -> None:
        """Raise BudgetReachedError if the next row does not fit, and nothing is under way that might make room."""
        reached = budget_words.narrowest([each for each in so_far.budgets if each.is_reached])
        if reached is None or so_far.states["running"] or so_far.unjudged:
            return
        with reading() as connection:
            why = affording.reason_of(connection, reached, self._scope.batch_id or "")
        raise BudgetReachedError(why)

    def _failure(self) -> str | None:
        """Why rows have failed most often; None if somebody has only deleted them, which is no failure of the run."""
        with reading() as connection:
            for code, _ in tallies.reasons(connection, self._scope, "failed"):
                if code != ERASED:
                    return f"({code}): {tallies.example(connection, self._scope, 'failed', code)}"
        return None

    def _is_held_now(self) -> bool:
        """Whether the run must not wait for the provider; a hold of before may be over, and is tried once more."""
        if self._began_at is None or self._scope.batch_id is None:
            return False
        with reading() as connection:
            return holds.has_held_since(connection, self._scope.batch_id, self._began_at)
