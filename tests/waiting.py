"""Tests wait for conditions, and give up after a time that follows the machine: a slow or crowded one takes longer.

A limit ends what hangs, and no test that passes waits for it. So all are long, and are multiplied by `patience()`.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable

LIMIT_SECONDS = 60.0
"""For whatever is waited for, on a quiet machine; most of it takes less than a second."""

_LOOK_SECONDS = (0.01, 0.1)
"""Shortest and longest pause between two looks: looking takes time from what is waited for."""

_WORK = "sum(n * n for n in range(1_500_000))"
_WORK_SECONDS = 0.2
"""What two interpreters that do this side by side take on two quiet cores of 2025."""

_MOST = 10.0
_VARIABLE = "PATIENCE_OF_TESTS"  # how slow the machine is; from the session to its processes


def patience() -> float:
    """How many times as long as on a quiet machine of today things may take now: 1 to 10."""
    return min(_MOST, _slowness() * _crowd())


def limit(seconds: float = LIMIT_SECONDS) -> float:
    """So many seconds of a quiet machine, in seconds of this one."""
    return seconds * patience()


def wait_until(predicate: Callable[[], object], description: str, seconds: float = LIMIT_SECONDS) -> None:
    """Wait until the predicate holds; raises TimeoutError when it does not within `limit(seconds)`."""
    began, pause = time.monotonic(), _LOOK_SECONDS[0]
    while not predicate():
        if time.monotonic() - began > limit(seconds):
            raise TimeoutError(f"waited {time.monotonic() - began:.0f} s until {description}")
        time.sleep(pause)
        pause = min(_LOOK_SECONDS[1], pause * 1.2)


def measure() -> None:
    """Measure how slow the machine is, for this process and all that it starts; takes a fifth of a second."""
    began = time.monotonic()
    command = [sys.executable, "-I", "-S", "-c", _WORK]
    for process in [subprocess.Popen(command) for _ in range(2)]:
        process.wait()
    os.environ[_VARIABLE] = f"{max(1.0, (time.monotonic() - began) / _WORK_SECONDS):.2f}"


def _slowness() -> float:
    if _VARIABLE not in os.environ:
        measure()
    return float(os.environ[_VARIABLE])


def _crowd() -> float:
    """How many share a core, by the load of the last minute; 1 where nobody knows."""
    try:
        return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    except OSError:
        return 1.0
