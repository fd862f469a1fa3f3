"""What is measured, and what it must reach, is data; measuring.py knows how, report.py shows it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tidemill.simulator.options import SimulatorOptions

IN_FLIGHT = 200
LATENCY_MS = 200
ROWS = {"quick": (1_000, 10_000), "full": (1_000, 10_000, 100_000)}
JUDGED_FROM_ROWS = 10_000
"""Shorter runs are mostly start-up and the slowest reply's tail: they are shown, not held against a target."""

_RUNS_BETWEEN_BARE = 3


class Target(NamedTuple):
    """What a figure must reach."""

    limit: float
    at_least: bool

    def is_met(self, value: float) -> bool:
        """Does the value reach it?"""
        return value >= self.limit if self.at_least else value <= self.limit


def at_least(limit: float) -> Target:
    """More is better."""
    return Target(limit, at_least=True)


def at_most(limit: float) -> Target:
    """Less is better."""
    return Target(limit, at_least=False)


@dataclass(frozen=True, slots=True)
class Flow:
    """A file of prompts through `tidemill ask -i`; 0 worker processes is SQLite and the worker inside the command."""

    transport: str
    processes: int
    share: Target | None
    """Of the bare loop's rate in the same run."""
    cpu_ms: Target
    """Per prompt, summed over our processes."""

    @property
    def name(self) -> str:
        """As `--only` finds it and the table shows it."""
        where = f"shared {self.transport}, {self.processes} worker{'s' * (self.processes > 1)}"
        return where if self.processes else f"embedded {self.transport}"


class BareLoop:
    """The same calls by an aiohttp loop that stores nothing."""

    name = "bare aiohttp loop"


FLOWS = (
    Flow("http", 0, at_least(0.65), at_most(2)),
    Flow("http", 2, at_least(0.8), at_most(2)),
    Flow("http", 1, None, at_most(2)),
    Flow("sdk", 0, at_least(0.3), at_most(3.5)),
    Flow("sdk", 2, at_least(0.45), at_most(3.5)),
)
MEMORY_GROWTH = at_most(1.2)
"""Peak of the longest run over that of 1,000 prompts, for command and worker."""


def interleaved(flows: Sequence[Flow]) -> Iterator[Flow | BareLoop]:
    """The flows with a bare loop before, between and after: the machine is noisy, and its noise drifts."""
    for number, flow in enumerate(flows):
        if number % _RUNS_BETWEEN_BARE == 0:
            yield BareLoop()
        yield flow
    if flows:
        yield BareLoop()


@dataclass(frozen=True, slots=True)
class Submit:
    """Rows into the database, nobody working on them."""

    name: str
    shared: bool
    target: Target | None
    rows: int = 100_000


@dataclass(frozen=True, slots=True)
class Paced:
    """Prompts under a provider's limit of requests a minute; `told`: by --rpm, else learned from the headers."""

    name: str
    processes: int
    told: bool
    rows: int
    limits: SimulatorOptions


@dataclass(frozen=True, slots=True)
class StartUp:
    """From starting the process until it has printed something, the provider answering at once; a median."""

    name: str
    arguments: tuple[str, ...]
    times: int
    target: Target


@dataclass(frozen=True, slots=True)
class Preparing:
    """Photos of 12 megapixels made ready by our pool and by a plain loop, in turn."""

    name: str
    photos: int
    target: Target


@dataclass(frozen=True, slots=True)
class MemoryOfPictures:
    """Peak memory of preparing many pictures over that of a few."""

    name: str
    few: int
    many: int
    target: Target


@dataclass(frozen=True, slots=True)
class Captioning:
    """The worker's CPU for captions, less that of base64, over its CPU for prompts."""

    name: str
    rows: int
    target: Target


@dataclass(frozen=True, slots=True)
class Training:
    """Questions and answers through `tidemill train --val --export`: checked, split, priced and written."""

    rows: int
    seconds: Target | None = None
    """Of the whole command."""

    @property
    def name(self) -> str:
        """As `--only` finds it."""
        return f"training data, {self.rows:,} rows"


LIMITED_SHARE = at_most(0.01)
USED_SHARE = at_least(0.95)

SUBMITS = (
    Submit("submit into SQLite", shared=False, target=None),
    Submit("submit into Postgres", shared=True, target=at_least(30_000)),
)
START_UPS = (
    StartUp("start-up: --help", ("--help",), 5, at_most(0.4)),
    StartUp("start-up: first answer, http", ("ask", "{prompt}", "--transport", "http"), 3, at_most(2)),
    StartUp("start-up: first answer, sdk", ("ask", "{prompt}", "--transport", "sdk"), 3, at_most(3)),
)
PREPARING = {
    "quick": (Preparing("60 photos of 12 megapixels, pool over plain loop", 60, at_least(1.7)),),
    "full": (Preparing("500 photos of 12 megapixels, pool over plain loop", 500, at_least(1.7)),),
}
MEMORY_OF_PICTURES = {
    "quick": (MemoryOfPictures("peak memory of preparing 1,000 pictures over 50", 50, 1_000, at_most(1.2)),),
    "full": (MemoryOfPictures("peak memory of preparing 5,000 pictures over 50", 50, 5_000, at_most(1.2)),),
}
CAPTIONING = (Captioning("worker's CPU for 1,000 captions over 1,000 prompts, less base64", 1_000, at_most(1.5)),)
_TRAINING = (Training(10_000), Training(100_000, at_most(20)))
TRAINING = {"quick": _TRAINING, "full": (*_TRAINING, Training(300_000))}
MEMORY_OF_ROWS = at_most(1.35)
"""Peak of the most rows of training data over that of the fewest."""

_ONE_SECOND = SimulatorOptions(latency_ms=LATENCY_MS, rpm=1_800, limit_policy="bucket", limit_burst_seconds=1)
"""A short run needs a provider that lets little through at once: the bucket of a whole minute would never be empty."""

_EXACT_MINUTE = SimulatorOptions(latency_ms=LATENCY_MS, rpm=600, limit_policy="window")
PACED = {
    "quick": (
        Paced("1,800 RPM, told, embedded", 0, True, 240, _ONE_SECOND),
        Paced("1,800 RPM, learned, 2 workers", 2, False, 240, _ONE_SECOND),
    ),
    "full": (
        Paced("600 RPM, told, embedded", 0, True, 1_000, _EXACT_MINUTE),
        Paced("600 RPM, learned, 2 workers", 2, False, 1_000, _EXACT_MINUTE),
    ),
}
