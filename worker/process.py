"""A process has one runner with its maintenance at most; they start and stop here, whoever the process belongs to.

With a broker, its messages say what is next; without one, the worker inside a command claims what is due by itself.
"""

import os
import threading
from collections.abc import Sequence

from tidemill.models.descriptors import window_that_fits
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.worker.maintenance import Maintenance
from tidemill.worker.own_claims import own_claims
from tidemill.worker.rounds import Rounds
from tidemill.worker.runner import Runner

current: Runner | None = None
_maintenance: Maintenance | None = None
started = threading.Event()
"""Set while there is a runner."""


def start(window: int | None = None, scope: Scope | None = None) -> Runner:
    """Start this process's runner and its maintenance.

    Args:
        window: calls in flight at most; by default TIDEMILL_WINDOW. Fewer if the system allows too few open files.
        scope: whose jobs this process claims or feeds; by default all of the configured provider.
    """
    global current, _maintenance
    current = Runner(window_that_fits(window or settings().window), scope or Scope())
    _maintenance = Maintenance(current, _couriers(current))
    started.set()
    return current


def _couriers(runner: Runner) -> Sequence[Rounds]:
    if settings().embedded:
        return [own_claims(runner)]
    from tidemill.worker.courier import Courier  # with it comes Celery, a tenth of a second of CPU

    return Courier(runner).rounds()


def stop(drain_seconds: float | None = None) -> None:
    """Drain the runner, settle, give back what is left, and end maintenance."""
    global current, _maintenance
    runner, maintenance, current, _maintenance = current, _maintenance, None, None
    started.clear()
    if runner is None or maintenance is None:
        return
    # Where the database is away, each further question would wait for it in vain.
    is_there = runner.drain(settings().drain_seconds if drain_seconds is None else drain_seconds)
    maintenance.close(forget=is_there)


def _begin_anew() -> None:
    """A fork has none of its parent's threads."""
    global current, _maintenance, started
    current = _maintenance = None
    started = threading.Event()


os.register_at_fork(after_in_child=_begin_anew)
