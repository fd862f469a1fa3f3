"""A worker without a broker claims what is due from the database by itself, and needs no Celery."""

import os
import signal
import threading

from tidemill.models.child import when_parent_is_gone
from tidemill.worker import process, starting, stopping


def run() -> None:
    """Run until SIGTERM or SIGINT, or until the process that started it is gone."""
    when_parent_is_gone(lambda: os.kill(os.getpid(), signal.SIGTERM))
    is_told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: is_told.set())
    with starting.or_exit():
        starting.show_log()
        starting.check()
    process.start(pipe=starting.pipe())
    is_told.wait()
    stopping.end_in_time()
    process.stop()
