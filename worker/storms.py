"""That a provider refuses many calls for the same reason is worth two lines of the log, not one for each call."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from tidemill.worker.meter import Counts, by_label, difference, total

STORM_CALLS, STORM_SHARE, STORM_SECONDS = 5, 0.2, 10.0
"""So many calls that met with the same refusal, and such a share of all that ended, within this time are a storm."""
CALM_SECONDS = 30.0
"""After so long without another one it is over."""


@dataclass
class Storm:
    """Calls refused for one reason, again and again."""

    began_at: float
    last_at: float
    calls: float
    """Refused since it began."""


@dataclass
class Storms:
    """Which storms there are, from counts that are looked at every second."""

    blowing: dict[str, Storm] = field(default_factory=dict)
    _looks: deque[tuple[float, Counts]] = field(default_factory=deque)

    def look(self, at: float, counts: Mapping[str, float]) -> tuple[dict[str, Storm], dict[str, Storm]]:
        """The storms that have begun and those that are over, by kind; `at` is a monotonic time."""
        now = {name: n for name, n in counts.items() if name.startswith(("refused:", "attempts:"))}
        before = self._looks[-1][1] if self._looks else now
        self._looks.append((at, now))
        while at - self._looks[0][0] > STORM_SECONDS:
            self._looks.popleft()
        lately = difference(now, self._looks[0][1])
        for kind, calls in by_label(difference(now, before), "refused:").items():
            if storm := self.blowing.get(kind):
                storm.calls, storm.last_at = storm.calls + calls, at
        enough = max(STORM_CALLS, STORM_SHARE * total(lately, "attempts:"))
        begun = {
            kind: Storm(at, at, calls)
            for kind, calls in by_label(lately, "refused:").items()
            if calls >= enough and kind not in self.blowing
        }
        over = {kind: storm for kind, storm in self.blowing.items() if at - storm.last_at > CALM_SECONDS}
        self.blowing = {kind: storm for kind, storm in (self.blowing | begun).items() if kind not in over}
        return begun, over
