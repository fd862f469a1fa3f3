"""Why this module exists: `celery -A worker.app worker` finds the app here; a worker's life begins and ends here."""

import sys
import warnings
from typing import Any

from celery.platforms import SecurityWarning  # type: ignore[attr-defined]  # the stubs lack it
from celery.signals import worker_init, worker_ready, worker_shutdown, worker_shutting_down

from migrations import ensure
from models import blobs
from models.broker import app as make_app
from models.errors import SettingsError, TidemillError
from models.provider import check
from models.settings import settings
from worker import tasks

# Celery warns root because messages may carry code; ours carry numbers, and are refused when they are not JSON.
warnings.simplefilter("ignore", SecurityWarning)

app = make_app()


@worker_init.connect(weak=False)
def _check(sender: Any, **_: Any) -> None:
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
def _start(**_: Any) -> None:
    tasks.start()


@worker_shutting_down.connect(weak=False)
def _stop_admitting(**_: Any) -> None:
    if tasks.current is not None:
        tasks.current.stop_admitting()


@worker_shutdown.connect(weak=False)
def _stop(**_: Any) -> None:
    tasks.stop()
