""" "as fast as the provider allows, never faster" needs a provider that counts exactly and can say so.

Two policies, as providers use both: a bucket refills all the time, a window forgets each request after 60 s.
A rejected request is not charged, so that the admitted rate is exactly the limit. Headers: OpenAI's API reference.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from tidemill.simulator.calls import Call

WINDOW_SECONDS = 60.0


class Meter(Protocol):
    """Counts one dimension (requests or tokens). `now` is in seconds, on any clock that only goes forward."""

    limit: int

    def wait_seconds(self, now: float, amount: int) -> float: ...
    def take(self, now: float, amount: int) -> None: ...
    def remaining(self, now: float) -> int: ...
    def reset_seconds(self, now: float) -> float: ...


class Bucket:
    """Holds `burst_seconds` worth of the limit. A request above the capacity is let in when full, and leaves a debt."""

    def __init__(self, limit: int, burst_seconds: float, now: float) -> None:
        self.limit = limit
        self.capacity = max(1.0, limit * burst_seconds / WINDOW_SECONDS)
        self._per_second = limit / WINDOW_SECONDS
        self._level, self._at = self.capacity, now

    def _refill(self, now: float) -> float:
        self._level = min(self.capacity, self._level + (now - self._at) * self._per_second)
        self._at = now
        return self._level

    def wait_seconds(self, now: float, amount: int) -> float:
        missing = min(float(amount), self.capacity) - self._refill(now)
        # Refills add up in floating point: a hair short of a whole request counts as there.
        return missing / self._per_second if missing > 1e-9 else 0.0

    def take(self, now: float, amount: int) -> None:
        self._level = self._refill(now) - amount

    def remaining(self, now: float) -> int:
        return max(0, int(self._refill(now)))

    def reset_seconds(self, now: float) -> float:
        return (self.capacity - self._refill(now)) / self._per_second


class Window:
    """Exact: no 60 s, wherever they start, hold more than the limit."""

    def __init__(self, limit: int, _burst_seconds: float, _now: float) -> None:
        self.limit = limit
        self._used = 0
        self._taken: deque[tuple[float, int]] = deque()

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0][0] <= now - WINDOW_SECONDS:
            self._used -= self._taken.popleft()[1]

    def wait_seconds(self, now: float, amount: int) -> float:
        self._forget(now)
        over = self._used + amount - self.limit
        for at, taken in self._taken:
            if over <= 0:
                break
            over -= taken
            if over <= 0:
                return at + WINDOW_SECONDS - now
        return 0.0 if over <= 0 else WINDOW_SECONDS

    def take(self, now: float, amount: int) -> None:
        self._taken.append((now, amount))
        self._used += amount

    def remaining(self, now: float) -> int:
        self._forget(now)
        return max(0, self.limit - self._used)

    def reset_seconds(self, now: float) -> float:
        self._forget(now)
        return self._taken[-1][0] + WINDOW_SECONDS - now if self._taken else 0.0


POLICIES: dict[str, type[Bucket] | type[Window]] = {"bucket": Bucket, "window": Window}


def go_duration(seconds: float) -> str:
    """As OpenAI writes it: `6ms`, `1.2s`, `6m0s`, `1h0m0s`."""
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds < 1000:
        return f"{max(0, milliseconds)}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


@dataclass(frozen=True, slots=True)
class Overrun:
    """`kind` is requests or tokens. `too_large` says that waiting will never help."""

    kind: str
    limit: int
    wait_seconds: float
    too_large: bool = False


class Limits:
    """Both dimensions together: a request is charged in both or in neither."""

    def __init__(self, rpm: int | None, tpm: int | None, policy: str, burst_seconds: float, now: float) -> None:
        wanted = {"requests": rpm, "tokens": tpm}
        self._meters: dict[str, Meter] = {
            kind: POLICIES[policy](limit, burst_seconds, now) for kind, limit in wanted.items() if limit
        }

    def admit(self, call: Call, now: float) -> Overrun | None:
        """The charge in tokens is the larger of `max_tokens` and the estimate from characters, as OpenAI documents."""
        amounts = {"requests": 1, "tokens": max(call.max_tokens or 0, call.input_tokens)}
        worst: Overrun | None = None
        for kind, meter in self._meters.items():
            if amounts[kind] > meter.limit:
                return Overrun(kind, meter.limit, 0.0, too_large=True)
            wait = meter.wait_seconds(now, amounts[kind])
            if wait > 0 and (worst is None or wait > worst.wait_seconds):
                worst = Overrun(kind, meter.limit, wait)
        if worst is None:
            for kind, meter in self._meters.items():
                meter.take(now, amounts[kind])
        return worst

    def headers(self, now: float) -> bytes:
        """Header lines ready to send; empty without limits, as with servers that send none."""
        return "".join(
            f"x-ratelimit-limit-{kind}: {meter.limit}\r\n"
            f"x-ratelimit-remaining-{kind}: {meter.remaining(now)}\r\n"
            f"x-ratelimit-reset-{kind}: {go_duration(meter.reset_seconds(now))}\r\n"
            for kind, meter in self._meters.items()
        ).encode()
