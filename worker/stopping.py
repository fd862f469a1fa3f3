"""Whatever hangs, a stop has an end: who waits for it would kill with less care."""

import os
import threading
from logging import ERROR

from tidemill.models.lines import note
from tidemill.models.settings import settings

AFTER_DRAIN_SECONDS = 45.0
"""What a stop may take beyond `TIDEMILL_DRAIN_SECONDS`: with a database that is away, storing is tried for a while."""
FROZEN_SECONDS = 5.0
"""How much longer a worker is given by the process that started it, before it is taken for frozen and killed."""


def longest_seconds() -> float:
    """How long a worker's stop may take."""
    return settings().drain_seconds + AFTER_DRAIN_SECONDS


def end_in_time() -> None:
    """End this process once its stop, which begins now, has taken as long as it may."""
    timer = threading.Timer(longest_seconds(), _end)
    timer.daemon = True
    timer.start()


def _end() -> None:
    sentence = f"not stopped after {longest_seconds():.0f} s; what is not stored runs again after its lease"
    note(ERROR, "not_stopped", sentence, seconds=longest_seconds())
    os._exit(1)
