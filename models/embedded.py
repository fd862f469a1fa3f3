"""Without a broker, whoever waits has a worker inside this process: one for all, whose batches it sends by turns.

The first who waits starts it, and the last one ends it. A second worker would take the first one's messages, and would
end it. The worker is loaded by name, so that neither `models` nor `producer` imports it.
"""

import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from celery.concurrency.thread import TaskPool

from tidemill.models import journal
from tidemill.models.broker import app
from tidemill.models.errors import DatabaseError
from tidemill.models.feed import forget_sent
from tidemill.models.provider import check_client
from tidemill.models.scope import Scope
from tidemill.models.settings import settings

if TYPE_CHECKING:
    from celery.bootsteps import Blueprint
    from celery.worker import WorkController

log = logging.getLogger(__name__)

_CONSUMER_SECONDS = 5.0
"""How long Celery's consumer may take to start or to stop."""


class EmbeddedRunner(Protocol):
    """What a command may know of the worker inside it: a `worker.runner.Runner`, which `models` may not import."""

    scopes: list[Scope]
    """Whose jobs it sends: one for each who waits."""

    @property
    def in_flight(self) -> int:
        """Calls that are under way."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why no call can be made or stored at present, in a sentence; None when they can."""
        ...

    def stop_admitting(self) -> None:
        """Start no more calls."""
        ...


class _Shared:
    """The worker inside this process, while anybody waits."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._stack = ExitStack()
        self.runner: EmbeddedRunner | None = None

    def join(self, window: int, scope: Scope) -> EmbeddedRunner:
        """Have the worker send the scope's jobs, too. Waits while one is ending."""
        with self._changing:
            if self.runner is None:
                check_client(settings())
                self.runner = self._stack.enter_context(_worker(window, scope))
            else:
                self.runner.scopes.append(scope)
            return self.runner

    def leave(self, scope: Scope) -> None:
        """End the worker if nobody else waits; else have it send no more of the scope's jobs."""
        with self._changing:
            if self.runner is not None and len(self.runner.scopes) > 1:
                self.runner.scopes.remove(scope)
                if scope not in self.runner.scopes:
                    with suppress(DatabaseError):  # that it is away is said elsewhere
                        forget_sent(scope)
                return
            try:
                self._stack.close()
            finally:
                self.runner = None


_shared = _Shared()


def _begin_anew() -> None:
    """A fork has none of its parent's threads, and so no worker."""
    global _shared
    _shared = _Shared()


os.register_at_fork(after_in_child=_begin_anew)


def is_running() -> bool:
    """Whether anybody waits in this process, with the worker inside it."""
    return _shared.runner is not None


@contextmanager
def embedded_worker(window: int, scope: Scope) -> Iterator[EmbeddedRunner]:
    """Run a worker inside this process while the block runs; yields its runner, which others may share.

    When the last block ends, calls in flight may finish: see `Runner.drain`.

    Args:
        window: calls in flight at most, for all who wait; the first one's counts.
        scope: whose jobs the worker feeds.

    Raises:
        SettingsError: no call could be made from this process; nothing has been started.
    """
    shared = _shared  # this process's: a fork inside the block ends nothing of its parent's
    runner = shared.join(window, scope)
    try:
        yield runner
    finally:
        if shared is _shared:
            shared.leave(scope)


@contextmanager
def _worker(window: int, scope: Scope) -> Iterator[EmbeddedRunner]:
    journal.set_level()
    tasks = cast("_Tasks", import_module("tidemill.worker.tasks"))
    runner = tasks.start(window, scope)
    ready, stopping = threading.Event(), threading.Event()
    try:
        consumer = app().WorkController(
            hostname="embedded",
            pool_cls=_OurThreads,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel="ERROR",
            ready_callback=lambda _consumer: ready.set(),
        )
        thread = threading.Thread(target=_consume, args=(consumer, stopping), name="consumer", daemon=True)
        thread.start()
    except BaseException:  # a Ctrl-C among them
        tasks.stop()
        raise
    try:
        yield runner
    finally:
        runner.stop_admitting()
        ready.wait(_CONSUMER_SECONDS)  # a consumer that has not started yet ignores a stop
        stopping.set()
        consumer.stop()
        tasks.stop()
        thread.join(_CONSUMER_SECONDS)


class _OurThreads(TaskPool):
    """Celery's threads, but ours is their app. They would make one as CELERY_LOADER says, and run nothing without it;
    and the whole process's is not ours to set.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.executor = ThreadPoolExecutor(max_workers=self.limit, initializer=app().set_current)


def _consume(consumer: "WorkController", stopping: threading.Event) -> None:
    """As Celery's own `start`, without its long report of what fails when another thread stops it."""
    try:
        cast("Blueprint", consumer.blueprint).start(consumer)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever Celery raises ends it, and so does our stop
        if not stopping.is_set():
            log.error("messages are no longer received: %s: %s", type(error).__name__, error)


class _Tasks(Protocol):
    """The module `worker.tasks`."""

    def start(self, window: int, scope: Scope) -> EmbeddedRunner: ...

    def stop(self) -> None: ...
