"""What the worker processes of one `tidemill worker` count is gathered by the process that started them.

Each sends lines of JSON through a pipe of its own, once a second: see `Reporter._send`.
"""

import json
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from tidemill.worker.meter import Counts, added

SILENT_SECONDS = 60.0
"""A process that has sent nothing for so long hangs; a database that does not answer keeps it from it for a while."""


@dataclass
class Member:
    """What is known of one process that lives."""

    heard_at: float
    counts: Counts = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    has_started: bool = False


class Fleet:
    """Listens to the processes, and keeps the counts of those that are gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: dict[int, Member] = {}
        self._past: Counts = {}
        self.restarts = 0
        """Processes that were started in place of one that had ended."""

    def listen(self, number: int, pipe: int) -> None:
        """Read from this end of a process's pipe until it is gone; `number` is its place in the fleet."""
        with self._lock:
            self.restarts += number in self._members
            member = self._members[number] = Member(time.monotonic())
        threading.Thread(target=self._read, args=(member, pipe), name="fleet", daemon=True).start()

    def _read(self, member: Member, pipe: int) -> None:
        with os.fdopen(pipe, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # it was killed while it wrote
                sent: dict[str, Any] = json.loads(line)
                with self._lock:
                    member.heard_at, member.has_started = time.monotonic(), True
                    member.counts, member.gauges = sent["counts"], sent["gauges"]
        with self._lock:
            self._past = added((self._past, member.counts))
            member.counts, member.gauges = {}, {}

    def counts(self) -> Counts:
        """What all processes have counted, those that are gone, too."""
        with self._lock:
            return added((self._past, *(member.counts for member in self._members.values())))

    def gauges(self) -> Counts:
        """The sums of what the living processes measure, and how many they are."""
        with self._lock:
            alive = [member.gauges for member in self._members.values() if member.gauges]
        return {**added(alive), "processes": len(alive)}

    def trouble(self) -> str | None:
        """Why this fleet is not healthy, in a sentence; None when every process was heard of lately."""
        with self._lock:
            members = dict(self._members)
        at = time.monotonic()
        for number, member in members.items():
            if not member.has_started:
                return f"worker {number} has not started yet"
            if at - member.heard_at > SILENT_SECONDS:
                return f"worker {number} was not heard of for {at - member.heard_at:.0f} s"
        return None if members else "no worker has started yet"
