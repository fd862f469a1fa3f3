"""A worker's life begins and ends here; `celery -A tidemill.worker.app worker` finds the app here, too."""

import sys
import warnings
from typing import Any

from celery.platforms import SecurityWarning  # type: ignore[attr-defined]  # the stubs lack it
from celery.signals import setup_logging, worker_init, worker_ready, worker_shutdown, worker_shutting_down

from tidemill.migrations import ensure
from tidemill.models import blobs, journal
from tidemill.models.broker import app as make_app
from tidemill.models.errors import SettingsError, TidemillError
from tidemill.models.provider import check
from tidemill.models.settings import settings
from tidemill.worker import tasks

# Celery warns root because messages may carry code; ours carry numbers, and are refused when they are not JSON.
warnings.simplefilter("ignore", SecurityWarning)

app = make_app()


def run() -> None:
    """Be one Celery worker, whose name is the last argument: as `celery -A tidemill.worker.app worker`, but for the
    working folder, from which that would import.
    """
    ours = ("--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat")
    app.worker_main(["--quiet", "worker", *ours, "--hostname", sys.argv[-1]])


@setup_logging.connect(weak=False)
def _log(**_: object) -> None:
    """That somebody is connected keeps Celery from setting up a log of its own."""
    journal.show_in_worker()


@worker_init.connect(weak=False)
def _check(sender: Any, **_: object) -> None:
    """Stop at once, in one sentence, where the worker could not do its work."""
    try:
        if sender.pool_cls.__module__ != "celery.concurrency.thread":
            raise SettingsError("A tidemill worker needs Celery's thread pool: leave out -P, or say -P threads.")
        check(settings())
        ensure()
    except TidemillError as error:
        _say(error)
        sys.exit(error.exit_code)
    try:
        blobs.check()
    except blobs.BlobError as error:
        _say(error)  # prompts can be asked all the same


def _say(error: TidemillError) -> None:
    print(f"tidemill: {error}", file=sys.stderr)  # noqa: T201  # logging may not be set up yet


@worker_ready.connect(weak=False)
def _start(**_: object) -> None:
    tasks.start()


@worker_shutting_down.connect(weak=False)
def _stop_admitting(**_: object) -> None:
    if tasks.current is not None:
        tasks.current.stop_admitting()


@worker_shutdown.connect(weak=False)
def _stop(**_: object) -> None:
    tasks.stop()
