"""One thing after another befalls a fleet, at random and again in the same order, until all prompts are answered."""

import threading
import time
from collections.abc import Mapping

from tidemill.models.errors import DatabaseError
from tidemill.models.text import one_line
from tidemill.producer.rehearsing import own_rows
from tidemill.producer.rehearsing.faults import LEASE_SECONDS, Fault, Stage, Trouble, part_of
from tidemill.producer.rehearsing.fleet import Member
from tidemill.producer.screen.printing import print_line

_LOOK_SECONDS = 0.2
_COUNT_SECONDS = 0.5
_QUIET_SECONDS = 9.0
"""How long nothing may be shown."""

_PAUSE_SECONDS = 0.3, LEASE_SECONDS
"""Shortest and longest pause between two faults."""

_RECOVERY_SECONDS = 2 * LEASE_SECONDS
"""For how long nothing is done to a part after a trouble: what is always broken shows nothing."""

_GIVE_UP_SECONDS = 120.0
"""How long a run may stand still once nothing is done to it any more."""

_HANGS_SECONDS = 45.0
"""How long the command may take to end when all is answered."""


class Timeline:
    """Does the faults, and shows what is done.

    Args:
        faults: by name.
        batch_name: whose rows are counted.
        until: when the last fault has ended, on the monotonic clock.
    """

    def __init__(self, stage: Stage, faults: Mapping[str, Fault], batch_name: str, until: float) -> None:
        self.done: list[str] = []
        self.standstill_seconds = 0.0
        self._stage = stage
        self._faults = faults
        self._batch_name = batch_name
        self._until = until
        self._began = time.monotonic()
        self._deck: list[str] = []
        self._under_way: dict[str, tuple[float, float, Trouble]] = {}
        self._recovered_at: dict[str, float] = {}
        self._next_at = self._began + stage.chance.uniform(1, 3)
        self._shown_at = self._began
        self._progress_at = self._began
        self._count = own_rows.Count(0, 0, 0)
        self._ended = threading.Event()

    def run(self, asking: Member, prompts: int) -> None:
        """Until the command that follows the batch has ended well, or nothing goes on any more."""
        threading.Thread(target=self._keep_counting, name="count", daemon=True).start()
        try:
            self._run(asking, prompts)
        finally:
            self._ended.set()
            self._end_troubles(everything=True)

    def _run(self, asking: Member, prompts: int) -> None:
        while not asking.has_succeeded:
            for sentence in self._stage.fleet.tend():
                self.show(sentence)
            at = time.monotonic()
            self._end_troubles(everything=at >= self._until)
            if self._next_at <= at < self._until:
                self._next_at = at + self._stage.chance.uniform(*_PAUSE_SECONDS)
                self._begin_trouble()
            if at - self._shown_at > _QUIET_SECONDS:
                self.show(f"{self._count.ended} of {prompts} answered")
            if at > self._until and at - self._progress_at > _GIVE_UP_SECONDS:
                self.show("nothing goes on any more; the run is given up")
                return
            if self._count.ended == prompts and at - self._progress_at > _HANGS_SECONDS and asking.process is not None:
                self.show(f"all is answered, and {asking.name} has not ended for {_HANGS_SECONDS:.0f} s: kill -9 of it")
                self._progress_at = at
                self._stage.fleet.kill(asking, asking.process.pid)
            time.sleep(_LOOK_SECONDS)

    def _keep_counting(self) -> None:
        """On a thread of its own: a database that is frozen must not keep us from thawing it."""
        while not self._ended.wait(_COUNT_SECONDS):
            try:
                count = own_rows.count(self._batch_name)
            except DatabaseError:
                continue  # it may be one of the faults
            at = time.monotonic()
            if count.open and self._count.ended:
                self.standstill_seconds = max(self.standstill_seconds, at - self._progress_at)
            if count.ended > self._count.ended or not count.ended:
                self._progress_at = at
            self._count = count

    def settle(self, seconds: float) -> None:
        """Wait until no call is under way in the ledger, but no longer than this: late answers are booked, too."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and own_rows.count(self._batch_name).calls:
            self._stage.fleet.tend()
            time.sleep(_LOOK_SECONDS)

    def show(self, text: str) -> None:
        """Print a line on stderr, with the time since the beginning."""
        self._shown_at = time.monotonic()
        print_line(f"{self._shown_at - self._began:4.0f} s: {one_line(text, 200)}", err=True)

    def _begin_trouble(self) -> None:
        """Do the next fault of the deck whose part is in no other trouble; kills come twice as often as others."""
        if not self._deck:
            self._deck = [*self._faults, *(name for name in self._faults if name == "kill")]
            self._stage.chance.shuffle(self._deck)
        name = next((each for each in self._deck if self._is_free(part_of(each))), None)
        if name is None:
            return
        self._deck.remove(name)
        since = time.time()
        trouble = self._faults[name](self._stage)
        if trouble is None:
            return
        self.done.append(name)
        self.show(trouble.text if trouble.end is None else f"{trouble.text} for {trouble.seconds:.1f} s")
        if trouble.end is None:
            self._note(part_of(name), since)
        else:
            self._under_way[part_of(name)] = time.monotonic() + trouble.seconds, since, trouble

    def _is_free(self, part: str) -> bool:
        return part not in self._under_way and time.monotonic() >= self._recovered_at.get(part, 0.0)

    def _end_troubles(self, *, everything: bool) -> None:
        for part, (at, since, trouble) in list(self._under_way.items()):
            if trouble.end is not None and (everything or time.monotonic() >= at):
                del self._under_way[part]
                trouble.end()
                self._recovered_at[part] = time.monotonic() + _RECOVERY_SECONDS
                self._note(part, since)
                self.show(f"{trouble.text}: over")

    def _note(self, part: str, since: float) -> None:
        """What dies soon after its database was away may have stored nothing meanwhile."""
        if part == "database":
            self._stage.fleet.note_outage(since)
