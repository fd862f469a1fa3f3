"""A worker with a broker starts and stops here; `celery -A tidemill.worker.app worker` finds its app here, too."""

import gc
import os
import signal
import sys
import warnings
from typing import BinaryIO, Protocol

from celery.platforms import SecurityWarning  # type: ignore[attr-defined]  # the stubs lack it
from celery.signals import setup_logging, worker_init, worker_ready, worker_shutdown, worker_shutting_down

from tidemill.models import broker
from tidemill.models.broker import app as make_app
from tidemill.models.child import when_parent_is_gone
from tidemill.models.errors import BrokerError, SettingsError
from tidemill.models.settings import settings
from tidemill.worker import process, starting, stopping, tasks

# Celery warns root because messages may contain code; ours contain numbers, and must be JSON.
warnings.simplefilter("ignore", SecurityWarning)

app = make_app()
app.task(name=broker.TASK)(tasks.run)


_GARBAGE = 50_000, 20, 20
"""Python's 700 objects between two looks for garbage cost a sixth of the CPU of a call, which makes none."""


_pipe: BinaryIO | None = None
"""To the process that started this one and serves its metrics, if it does."""


class _Controller(Protocol):
    """What Celery calls its worker."""

    pool_cls: type


def run() -> None:
    """Run one Celery worker, named by the first argument, until it is stopped or the process that started it is gone.

    `celery -A tidemill.worker.app worker` would also import from the working folder.
    """
    global _pipe
    gc.set_threshold(*_GARBAGE)
    _pipe = starting.pipe()
    when_parent_is_gone(lambda: os.kill(os.getpid(), signal.SIGTERM))
    ours = ("--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat")
    app.worker_main(["--quiet", "worker", *ours, "--hostname", sys.argv[1]])


@setup_logging.connect(weak=False)
def _log(**_: object) -> None:
    """Set up our log; Celery sets up its own only if nobody is connected here."""
    with starting.or_exit():
        starting.show_log()


@worker_init.connect(weak=False)
def _check(sender: _Controller, **_: object) -> None:
    """Stop at once, with one sentence, if the worker could not do its work."""
    with starting.or_exit():
        if sender.pool_cls.__module__ != "celery.concurrency.thread":
            raise SettingsError("A tidemill worker needs Celery's thread pool: leave out -P, or say -P threads.")
        starting.check()
        _say_what_is_missing()


def _say_what_is_missing() -> None:
    """Say what the worker can do without, or wait for. Raises SettingsError for a server that cannot be a broker."""
    for attempt in (broker.check, broker.check_limits):
        try:
            attempt()
        except BrokerError as error:
            starting.say(error)
    if settings().effective_limits_url is None:
        starting.say(
            "Each worker process keeps limits of its own, so that together they may call faster than --rpm and --tpm "
            "say. Set TIDEMILL_LIMITS_URL to a Redis, and they share them."
        )


@worker_ready.connect(weak=False)
def _start(**_: object) -> None:
    process.start(pipe=_pipe)


@worker_shutting_down.connect(weak=False)
def _stop_admitting(**_: object) -> None:
    stopping.end_in_time()
    if process.current is not None:
        process.current.stop_admitting()


@worker_shutdown.connect(weak=False)
def _stop(**_: object) -> None:
    process.stop()
