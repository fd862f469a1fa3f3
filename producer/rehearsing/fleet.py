"""What is killed in a rehearsal are real commands in processes of their own, and whoever keeps them starts them again.

A member is `tidemill worker`, whose child processes run jobs, or the `tidemill ask` that submits and follows the batch;
without a broker that one runs jobs itself. Each start has a key of its own, by which the paid log knows it.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from tidemill.models import interpreters
from tidemill.producer.rehearsing.books import Casualty
from tidemill.simulator import caller_of

_STOP_SECONDS = 20.0
_COMMAND = ("-m", "tidemill.producer.cli.commands")


def children_of(parents: Sequence[int]) -> dict[int, int]:
    """Child processes of these processes: pid -> pid of the parent."""
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    if stats:
        pairs = [pair for stat in stats if (pair := _pid_and_parent(stat)) is not None]
    else:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, check=False).stdout  # noqa: S607
        pairs = [(int(pid), int(parent)) for pid, parent in (line.split() for line in listed.splitlines())]
    return {pid: parent for pid, parent in pairs if parent in parents}


def _pid_and_parent(stat: Path) -> tuple[int, int] | None:
    try:
        fields = stat.read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else (int(stat.parent.name), int(fields[1]))


@dataclass
class Member:
    """One command that is kept running.

    Args:
        name: for people, such as `worker 2`.
        arguments: of `tidemill`.
        has_workers: whether its child processes run the jobs, not it itself.
        log: the file that its output goes to.
        needs_success: it is started again until it has exited with 0; else always.
    """

    name: str
    arguments: tuple[str, ...]
    has_workers: bool
    log: Path
    needs_success: bool = False
    process: subprocess.Popen[bytes] | None = None
    caller: str = ""
    running: dict[int, float] = field(default_factory=dict)
    """Processes that run its jobs -> when they were seen last, on the wall clock."""

    @property
    def has_succeeded(self) -> bool:
        """Whether it has done all that it was started for."""
        return self.needs_success and self.process is not None and self.process.poll() == 0


class Fleet:
    """All members, and what befalls them.

    Args:
        environment: of all members.
        folder: where they run, and write their logs.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self.members: list[Member] = []
        self._casualties: list[Casualty] = []
        self._outages: list[tuple[float, float]] = []
        self._environment = environment
        self._folder = folder
        self._starts = 0
        self._frozen: dict[int, tuple[str, float]] = {}
        self._orphans: dict[int, tuple[str, float]] = {}

    def add(self, name: str, *arguments: str, has_workers: bool, needs_success: bool = False) -> Member:
        """Start another member."""
        log = self._folder / f"{name.replace(' ', '-')}.log"
        member = Member(name, arguments, has_workers, log, needs_success)
        self.members.append(member)
        self._start(member)
        return member

    def _start(self, member: Member) -> None:
        self._starts += 1
        key = f"rehearsal-{os.getpid()}-{self._starts}"
        member.caller = caller_of(key)
        with member.log.open("ab") as log:
            member.process = subprocess.Popen(  # noqa: S603  # our own command
                interpreters.command(*_COMMAND, *member.arguments),
                env={**self._environment, "OPENAI_API_KEY": key},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C is the rehearsal's affair
            )

    def tend(self) -> list[str]:
        """Start again what has ended, and note who is gone. Returns a sentence for each that ended by itself."""
        sentences = []
        at = time.time()
        for member in self.members:
            assert member.process is not None
            present = set(self.workers_of(member))
            for pid in member.running.keys() - present:
                if not member.has_succeeded:
                    self._note(member.caller, member.running[pid], at)
                del member.running[pid]
            member.running |= dict.fromkeys(present, at)
            code = member.process.poll()
            if code is not None and not member.has_succeeded:
                if code >= 0:
                    sentences.append(f"{member.name} ended with {code}: {self.last_words(member)}; started again")
                self._start(member)
        return sentences

    def workers_of(self, member: Member) -> list[int]:
        """The processes that run a member's jobs."""
        if member.process is None or member.process.poll() is not None:
            return []
        return list(children_of([member.process.pid])) if member.has_workers else [member.process.pid]

    def workers(self) -> list[tuple[Member, int]]:
        """All processes that run jobs, and whose they are. Frozen ones are left out."""
        pairs = [(member, pid) for member in self.members for pid in self.workers_of(member)]
        return [(member, pid) for member, pid in pairs if pid not in self._frozen]

    def note_outage(self, since: float) -> None:
        """Note that from then until now, on the wall clock, answers could not be stored."""
        self._outages.append((since, time.time()))

    def casualties(self, stuck_seconds: float) -> list[Casualty]:
        """Who could store nothing, and when.

        What dies in an outage, or so soon after it, may have stored nothing since it began. A worker that is stuck for
        longer ends itself.
        """

        def since(each: Casualty) -> float:
            outages = ((began, ended) for began, ended in self._outages if began <= each.until)
            return min([each.since, *(began for began, ended in outages if each.since <= ended + stuck_seconds)])

        return [replace(each, since=since(each)) for each in self._casualties]

    def _note(self, caller: str, since: float, until: float) -> None:
        self._casualties.append(Casualty(caller, since, until))

    # --- what can be done to them ---

    def kill(self, member: Member, pid: int) -> None:
        """kill -9."""
        at = time.time()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._note(member.caller, at, time.time())

    def kill_command(self, member: Member) -> None:
        """kill -9 of the command alone; its children are to end by themselves."""
        assert member.process is not None
        self._orphans |= dict.fromkeys(children_of([member.process.pid]), (member.caller, time.time()))
        self.kill(member, member.process.pid)

    def end_orphans(self) -> None:
        """Kill what still runs of commands that were killed."""
        for pid, (caller, since) in self._orphans.items():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._note(caller, since, time.time())
        self._orphans.clear()

    def freeze(self, member: Member, pid: int) -> None:
        """SIGSTOP."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._frozen[pid] = member.caller, time.time()

    def thaw(self, pid: int) -> None:
        """SIGCONT."""
        if pid in self._frozen:
            caller, since = self._frozen.pop(pid)
            self._note(caller, since, time.time())
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    # --- the end ---

    def stop(self) -> None:
        """Let all members end as on Ctrl-C; whoever does not in time is killed."""
        for pid in list(self._frozen):
            self.thaw(pid)
        self.end_orphans()
        processes = [member.process for member in self.members if member.process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        for pid in [*children_of([process.pid for process in processes if process.poll() is None])]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in processes:
            process.kill()
            process.wait()
        self.members.clear()

    def last_words(self, member: Member, lines: int = 1) -> str:
        """The end of what a member has written."""
        written = member.log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
        return "\n".join(written[-lines:]) if written else "nothing was written"
