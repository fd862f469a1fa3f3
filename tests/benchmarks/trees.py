"""What we cost is what our processes cost together, grandchildren too; and none of them may outlive its run."""

import os
import signal
import subprocess
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import psutil

STOP_SECONDS = 40.0
SAMPLE_SECONDS = 0.25
"""A look at a tree costs some milliseconds on a core that the tree needs."""

_POLL_SECONDS = 0.002

_ROLES = {"worker.judge": "judge", "worker.app": "worker"}
"""What the command line of a process that a command started holds -> what it is."""


class RunError(Exception):
    """A process failed or took too long; the text is what it said last."""


class Tree(AbstractContextManager["Tree"]):
    """A command and all that it starts; when the context ends, nothing of it runs any more.

    `role` is what its first process is in `peak_mb`; `cores` are those that it may use, if not all.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        role: str = "command",
        cores: Collection[int] | None = None,
    ) -> None:
        self.started_at = time.time()
        self.ended_at = 0.0
        """Known once it has ended; `wait` sees that within two milliseconds."""
        self.cpu_seconds = 0.0
        """User and system time of all processes; known once it has ended."""
        self.peak_mb: dict[str, float] = defaultdict(float)
        """Role -> the largest peak of a process in it."""
        self._name, self._role = " ".join(command[:4]), role
        self._samples = [(self.started_at, 0.0)]  # when, CPU seconds so far
        self._out = folder / f"{time.monotonic_ns()}.out"
        with self._out.open("wb") as out, self._out.with_suffix(".err").open("wb") as err:
            self._process = subprocess.Popen(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self._root = psutil.Process(self._process.pid)
        if cores is not None:
            os.sched_setaffinity(self._process.pid, cores)

    @property
    def seconds(self) -> float:
        """From its start to its end."""
        return self.ended_at - self.started_at

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._out.read_text()

    def sample(self, every: float = SAMPLE_SECONDS) -> None:
        """Note what the processes have used so far, unless that was done so many seconds ago."""
        at, cpu = time.time(), 0.0
        if at - self._samples[-1][0] < every:
            return
        with suppress(psutil.Error):
            for process in [self._root, *self._root.children(recursive=True)]:
                with suppress(psutil.Error):
                    role = self._role if process == self._root else _role(process)
                    self.peak_mb[role] = max(self.peak_mb[role], _peak_mb(process))
                    cpu += sum(process.cpu_times()[:4])  # user and system, its own and of those it has waited for
            self._samples.append((at, cpu))

    def cpu_seconds_between(self, start: float, end: float) -> float:
        """CPU used between two points of time, from the samples just after them."""
        first, last = (bisect_left(self._samples, (at, 0.0)) for at in (start, end))
        return self._samples[min(last, len(self._samples) - 1)][1] - self._samples[first][1]

    def has_ended(self) -> bool:
        """True once it has ended well.

        Raises:
            RunError: it ended badly.
        """
        if self._process.returncode is None:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid == 0:
                return False
            self.ended_at = time.time()
            # Of the process and of all that it has waited for. What it left behind is in the last sample alone.
            self.cpu_seconds = max(usage.ru_utime + usage.ru_stime, self._samples[-1][1])
            self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode:
            raise RunError(f"{self._name} ended with {self._process.returncode}: {self._last_words()}")
        return True

    def check(self, give_up_at: float) -> None:
        """Raises RunError when it has ended badly or the (monotonic) time is over."""
        if not self.has_ended() and time.monotonic() > give_up_at:
            raise RunError(f"{self._name} took too long: {self._last_words()}")

    def wait(self, seconds: float) -> None:
        """Sample until it has ended well; raises RunError when it does not, or not in time."""
        give_up_at = time.monotonic() + seconds
        while not self.has_ended():
            self.check(give_up_at)
            self.sample()
            time.sleep(_POLL_SECONDS)

    def wait_for_output(self, seconds: float) -> float:
        """Seconds from its start until it printed anything."""
        give_up_at = time.monotonic() + seconds
        while not self._out.stat().st_size:
            self.check(give_up_at)
            time.sleep(_POLL_SECONDS)
        return time.time() - self.started_at

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self._process.send_signal(signal.SIGTERM)
        self.wait(STOP_SECONDS)

    def _last_words(self) -> str:
        return self._out.with_suffix(".err").read_text()[-2000:].strip() or self.output[-500:]

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            # One by one: workers lead sessions of their own, so a signal to the group would not reach them.
            for process in [*self._root.children(recursive=True), self._root]:
                with suppress(psutil.Error):
                    process.kill()
            self._process.wait(STOP_SECONDS)


def _role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((role for sign, role in _ROLES.items() if sign in line), "other")


def _peak_mb(process: psutil.Process) -> float:
    """The process's own peak where the kernel tells it, so that a short one between two samples is seen."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return float(process.memory_info().rss) / 2**20
