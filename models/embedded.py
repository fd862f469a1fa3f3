"""Without a broker, whoever waits has a worker inside this process: one for all, who have equal parts of it.

The first who waits starts it, and the last one ends it. The worker is loaded by name, so that neither `models` nor
`producer` imports it.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Protocol, cast

from tidemill.models import journal
from tidemill.models.call_settings import check_client
from tidemill.models.scope import Scope
from tidemill.models.settings import settings


class EmbeddedRunner(Protocol):
    """What a command may know of the worker inside it: a `worker.runner.Runner`, which `models` may not import."""

    scopes: list[Scope]
    """Whose jobs it claims: one for each who waits."""
    hungry: threading.Event
    """To be set when jobs are due."""

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
                self.runner.hungry.set()
            return self.runner

    def leave(self, scope: Scope) -> None:
        """End the worker if nobody else waits; else have it send no more of the scope's jobs."""
        with self._changing:
            if self.runner is not None and len(self.runner.scopes) > 1:
                self.runner.scopes.remove(scope)
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


def wake() -> None:
    """Tell the worker inside this process, if there is one, that jobs were stored."""
    if (runner := _shared.runner) is not None:
        runner.hungry.set()


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
    process = cast("_Process", import_module("tidemill.worker.process"))
    runner = process.start(window, scope)
    try:
        yield runner
    finally:
        process.stop()


class _Process(Protocol):
    """The module `worker.process`."""

    def start(self, window: int, scope: Scope) -> EmbeddedRunner: ...

    def stop(self) -> None: ...
