"""The one Celery task passes the job ids of a message to this process's runner."""

import os
import threading

from tidemill.models.broker import TASK
from tidemill.models.broker import app as make_app
from tidemill.models.descriptors import window_that_fits
from tidemill.models.feed import forget_sent
from tidemill.models.messages import log_dropped
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.worker.maintenance import Maintenance
from tidemill.worker.runner import Runner

current: Runner | None = None
_maintenance: Maintenance | None = None
_started = threading.Event()


def start(window: int | None = None, scope: Scope | None = None) -> Runner:
    """Start this process's runner and its maintenance.

    Args:
        window: calls in flight at most; by default TIDEMILL_WINDOW. Fewer if the system allows too few open files.
        scope: whose jobs this process feeds; by default all of the configured provider.
    """
    global current, _maintenance
    _register()
    current = Runner(window_that_fits(window or settings().window), scope or Scope())
    _maintenance = Maintenance(current)
    _started.set()
    return current


def stop(drain_seconds: float | None = None) -> None:
    """Drain the runner, settle, give back what is left, and end maintenance."""
    global current, _maintenance
    runner, maintenance, current, _maintenance = current, _maintenance, None, None
    _started.clear()
    if runner is None or maintenance is None:
        return
    # Where the database is away, each further question would wait for it in vain.
    is_there = runner.drain(settings().drain_seconds if drain_seconds is None else drain_seconds)
    maintenance.close(forget=is_there)
    for scope in runner.scopes if is_there else ():
        forget_sent(scope)


def _begin_anew() -> None:
    """A fork has none of its parent's threads."""
    global current, _maintenance, _started
    current = _maintenance = None
    _started = threading.Event()


os.register_at_fork(after_in_child=_begin_anew)


def run(*arguments: object, **options: object) -> None:
    """Run the jobs with the ids in the one argument: see `Runner.admit`."""
    ids = arguments[0] if len(arguments) == 1 and not options else None
    if not isinstance(ids, list) or not all(type(each) is int and 0 < each < 2**63 for each in ids):
        log_dropped("it is no list of job ids")
        return
    _started.wait()
    if current is not None:
        current.admit(ids)


def _register() -> None:
    """Tell the app of the task; a process that lives long may have another app than at its beginning."""
    if TASK not in make_app().tasks:
        make_app().task(name=TASK)(run)


_register()
