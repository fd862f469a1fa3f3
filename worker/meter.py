"""What a worker's calls come to is counted in plain numbers, for the log's minutes and for Prometheus.

Counts are one flat dictionary, so that two of them are added or subtracted number by number and go anywhere as JSON.
Names: `attempts:OUTCOME:CODE`, `refused:KIND`, `input_tokens`, `output_tokens`, `cost_usd`, and for each histogram
`NAME:BOUND` (what is not above the bound and above the one before) and `NAME:sum`.
"""

import threading
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate

from tidemill.models.settling import WITHOUT_ATTEMPT, Settlement

Counts = dict[str, float]

BOUNDS = (0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 600, float("inf"))
"""Upper ends of the parts of a histogram, in seconds: close enough for a median, few enough for Prometheus."""

LATENCY, WAIT = "latency", "wait"
OTHER = "other"
_MOST_CODES = 60
"""A server may make codes up; those beyond are counted as one."""
_MOST_FAILING = 500
NO_REPLY = "no reply"


class Histogram:
    """How often which length of time was measured."""

    def __init__(self, name: str) -> None:
        self._parts = [f"{name}:{bound:g}" for bound in BOUNDS]
        self._sum = f"{name}:sum"
        self.counts: Counts = dict.fromkeys((*self._parts, self._sum), 0)

    def observe(self, seconds: float) -> None:
        """Count one length of time."""
        self.counts[self._parts[bisect_left(BOUNDS, seconds)]] += 1
        self.counts[self._sum] += seconds


class Failure:
    """Rows of one batch that failed with one code: how many, and the last of them."""

    __slots__ = ("epoch", "job", "rows")

    def __init__(self) -> None:
        self.rows, self.job, self.epoch = 0, 0, 0


class Meter:
    """The counts of one worker process; written by its settler, read by others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counts = dict.fromkeys(("input_tokens", "output_tokens", "cost_usd"), 0)
        self._latency = Histogram(LATENCY)
        self._codes: set[str] = set()
        self.failures: dict[tuple[str, str], Failure] = {}
        """By batch and code."""

    def count(self, settlements: Iterable[Settlement], written: Collection[tuple[int, int]]) -> None:
        """Count settlements that were stored; those not in `written` came too late."""
        with self._lock:
            for each in settlements:
                if each.outcome not in WITHOUT_ATTEMPT:
                    self._count(each, is_late=(each.job_id, each.epoch) not in written)

    def _count(self, ended: Settlement, *, is_late: bool) -> None:
        counts, code = self._counts, self._known(ended.error_code or "")
        name = f"attempts:{'stale' if is_late else ended.outcome}:{code}"
        counts[name] = counts.get(name, 0) + 1
        counts["input_tokens"] += ended.input_tokens or 0
        counts["output_tokens"] += ended.output_tokens or 0
        counts["cost_usd"] += ended.cost_usd or 0.0
        if ended.seconds is not None:
            self._latency.observe(ended.seconds)
            if ended.outcome != "held" and (kind := _refusal(ended.http_status)):  # of a hold the log speaks anyway
                counts[f"refused:{kind}"] = counts.get(f"refused:{kind}", 0) + 1
        if ended.outcome == "failed" and not is_late:
            key = (ended.batch_id, code)
            if key not in self.failures and len(self.failures) >= _MOST_FAILING:
                key = (OTHER, OTHER)
            failure = self.failures.setdefault(key, Failure())
            failure.rows, failure.job, failure.epoch = failure.rows + 1, ended.job_id, ended.epoch

    def _known(self, code: str) -> str:
        if code not in self._codes:
            if len(self._codes) >= _MOST_CODES:
                return OTHER
            self._codes.add(code)
        return code

    def read(self) -> Counts:
        """The counts up to now."""
        with self._lock:
            return {**self._counts, **self._latency.counts}

    def take_failures(self) -> dict[tuple[str, str], Failure]:
        """The failures since the last time, by batch and code."""
        with self._lock:
            failures, self.failures = self.failures, {}
        return failures


def _refusal(status: int | None) -> str | None:
    """The kind of a call that the provider did not serve: `429`, `503`, or that no reply came."""
    if status is None:
        return NO_REPLY
    return str(status) if status == 429 or 500 <= status < 600 else None


# --- reading counts ---


def total(counts: Mapping[str, float], *names: str) -> float:
    """The sum of all counts whose name begins so."""
    return sum(number for name, number in counts.items() if name.startswith(names))


def by_label(counts: Mapping[str, float], prefix: str) -> dict[str, float]:
    """The rest of each name that begins so, with its count; what is 0 is left out."""
    return {name.removeprefix(prefix): n for name, n in counts.items() if n and name.startswith(prefix)}


def difference(later: Mapping[str, float], earlier: Mapping[str, float]) -> Counts:
    """What was counted between two readings."""
    return {name: number - earlier.get(name, 0) for name, number in later.items()}


def added(counts: Iterable[Mapping[str, float]]) -> Counts:
    """The counts of several processes as those of one."""
    sums: Counts = {}
    for each in counts:
        for name, number in each.items():
            sums[name] = sums.get(name, 0) + number
    return sums


def parts(counts: Mapping[str, float], histogram: str) -> list[tuple[float, float]]:
    """A histogram's bounds, each with how many measurements are not above it."""
    return list(zip(BOUNDS, accumulate(counts.get(f"{histogram}:{bound:g}", 0) for bound in BOUNDS), strict=True))


def quantile(counts: Mapping[str, float], histogram: str, share: float) -> float | None:
    """The length of time that this share of the measurements is not above, about; None without any."""
    cumulated = parts(counts, histogram)
    wanted = share * cumulated[-1][1]
    if not wanted:
        return None
    lower, before = 0.0, 0.0
    for bound, number in cumulated:
        if number >= wanted:
            width = (bound if bound != BOUNDS[-1] else lower) - lower
            return lower + width * (wanted - before) / (number - before)
        lower, before = bound, number
    return lower
