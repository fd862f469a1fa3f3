"""A process has one runner with its maintenance at most; they start and stop here, whoever the process belongs to.

With a broker, its messages say what is next; without one, the worker inside a command claims what is due by itself.
"""

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

from tidemill.models import journal
from tidemill.models.descriptors import window_that_fits
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.worker.carrier import Carrier
from tidemill.worker.maintenance import Maintenance
from tidemill.worker.own_claims import own_claims
from tidemill.worker.rounds import Rounds
from tidemill.worker.runner import Runner

if TYPE_CHECKING:
    from tidemill.worker.reporter import Reporter

current: Runner | None = None
_maintenance: Maintenance | None = None
_carrier: Carrier | None = None
_reporter: "Reporter | None" = None
started = threading.Event()
"""Set while there is a runner."""


def start(window: int | None = None, scope: Scope | None = None, pipe: BinaryIO | None = None) -> Runner:
    """Start this process's runner and its maintenance, and what it tells of them if anybody hears it.

    Args:
        window: calls in flight at most; by default TIDEMILL_WINDOW. Fewer if the system allows too few open files.
        scope: whose jobs this process claims or feeds; by default all of the configured provider.
        pipe: to the process that serves the metrics, if there is one.
    """
    global current, _maintenance, _carrier, _reporter
    current = Runner(window_that_fits(window or settings().window), scope or Scope())
    _maintenance = Maintenance(current, _couriers(current))
    _carrier = Carrier(current)
    if journal.is_shown() or pipe is not None:
        from tidemill.worker.reporter import Reporter  # which commands at level warning do without

        _reporter = Reporter(current, pipe)
    started.set()
    return current


def _couriers(runner: Runner) -> Sequence[Rounds]:
    if settings().embedded:
        return [own_claims(runner)]
    from tidemill.worker.courier import Courier  # with it comes Celery, a tenth of a second of CPU

    return Courier(runner).rounds()


def stop(drain_seconds: float | None = None) -> None:
    """Drain the runner, settle, give back what is left, and end maintenance."""
    global current, _maintenance, _carrier, _reporter
    runner, maintenance, carrier, reporter = current, _maintenance, _carrier, _reporter
    current = _maintenance = _carrier = _reporter = None
    started.clear()
    if runner is None or maintenance is None or carrier is None:
        return
    carrier.stop()
    # Where the database is away, each further question would wait for it in vain.
    is_there = runner.drain(settings().drain_seconds if drain_seconds is None else drain_seconds)
    carrier.join()
    maintenance.close(forget=is_there)
    if reporter is not None:
        reporter.close()


def _begin_anew() -> None:
    """A fork has none of its parent's threads."""
    global current, _maintenance, _carrier, _reporter, started
    current = _maintenance = _carrier = _reporter = None
    started = threading.Event()


os.register_at_fork(after_in_child=_begin_anew)
