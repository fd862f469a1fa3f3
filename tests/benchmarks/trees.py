"""Why: what we cost is what our processes cost together, grandchildren too; and none of them may outlive its run."""

import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import psutil

STOP_SECONDS = 40.0

_ROLES = {"worker.sentiment": "judge", "celery": "worker", "-m worker": "supervisor"}
"""What a process's command line holds -> what it is; anything else is the command that was started."""


class RunError(Exception):
    """A process failed or took too long; the text is what it said last."""


class Tree:
    """A command and all that it starts. A context manager: at the end nothing of it runs any more."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.started_at = time.time()
        self.cpu_seconds = 0.0
        """User and system time of all processes; known once it has ended."""
        self.peak_mb: dict[str, float] = defaultdict(float)
        """Role -> the largest peak of a process in it."""
        self._samples = [(self.started_at, 0.0)]
        self._name = " ".join(command[:4])
        self._said = folder / f"said-{time.monotonic_ns()}"
        with self._said.open("wb") as said, self._said.with_suffix(".err").open("wb") as complained:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=complained,
                start_new_session=True,
            )
        self._root = psutil.Process(self._process.pid)

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._said.read_text()

    def sample(self) -> None:
        """Note what the processes have used so far."""
        at, cpu = time.time(), 0.0
        with suppress(psutil.Error):
            for process in [self._root, *self._root.children(recursive=True)]:
                with suppress(psutil.Error, OSError):
                    times = process.cpu_times()
                    cpu += times.user + times.system + times.children_user + times.children_system
                    role = _role(process)
                    self.peak_mb[role] = max(self.peak_mb[role], _peak_mb(process))
            self._samples.append((at, cpu))

    def cpu_seconds_between(self, start: float, end: float) -> float:
        """CPU used between two points of time, from the samples around them."""
        used = np.interp([start, end], *zip(*self._samples, strict=True))
        return float(used[1] - used[0])

    def has_ended(self) -> bool:
        """True once it has ended well.

        Raises:
            RunError: it ended badly.
        """
        if self._process.returncode is None:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid == 0:
                return False
            # Of the process and all that it has waited for, which ours do for all that they start.
            self.cpu_seconds = usage.ru_utime + usage.ru_stime
            self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode:
            raise RunError(f"{self._name} ended with {self._process.returncode}: {self._last_words()}")
        return True

    def wait(self, seconds: float, every: float = 0.1) -> None:
        """Sample until it has ended.

        Raises:
            RunError: it ended badly or took longer.
        """
        give_up_at = time.monotonic() + seconds
        while not self.has_ended():
            self.check(give_up_at)
            self.sample()
            time.sleep(every)

    def wait_for_output(self, seconds: float) -> float:
        """Seconds from its start until it printed anything."""
        give_up_at = time.monotonic() + seconds
        while not self._said.stat().st_size:
            self.check(give_up_at)
            time.sleep(0.005)
        return time.time() - self.started_at

    def check(self, give_up_at: float) -> None:
        """Raises RunError when it has ended badly or the time is over."""
        self.has_ended()
        if time.monotonic() > give_up_at:
            raise RunError(f"{self._name} took too long: {self._last_words()}")

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self._process.send_signal(signal.SIGTERM)
        self.wait(STOP_SECONDS)

    def _last_words(self) -> str:
        return self._said.with_suffix(".err").read_text()[-2000:].strip() or self.output[-500:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            # Workers lead sessions of their own, so killing the group would not reach them.
            for process in [*self._root.children(recursive=True), self._root]:
                with suppress(psutil.Error):
                    process.kill()
            self._process.wait(STOP_SECONDS)


def _role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((role for sign, role in _ROLES.items() if sign in line), "command")


def _peak_mb(process: psutil.Process) -> float:
    """The process's own peak where the kernel tells it, so that a short one between two samples is seen."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return float(process.memory_info().rss) / 2**20
