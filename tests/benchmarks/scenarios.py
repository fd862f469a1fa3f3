"""What is measured, and what it must reach, is data; measuring.py and material.py know how, report.py shows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tidemill.simulator.options import SimulatorOptions

IN_FLIGHT = 200
LATENCY_MS = (200, 300)
AT_ONCE = (0, 0)


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


# --- who asks ---


@dataclass(frozen=True, slots=True)
class Bare:
    """The yardstick: the same calls by an aiohttp loop that stores nothing."""

    name: str = "bare aiohttp loop"


@dataclass(frozen=True, slots=True)
class Tidemill:
    """`tidemill ask`; 0 worker processes is SQLite and the worker inside the command."""

    transport: str
    processes: int = 0
    options: tuple[str, ...] = ()
    """Further ones of the command."""

    @property
    def name(self) -> str:
        """As `--only` finds it and the tables show it."""
        where = f"shared {self.transport}, {self.processes} worker{'s' * (self.processes > 1)}"
        return where if self.processes else f"embedded {self.transport}"


@dataclass(frozen=True, slots=True)
class Peer:
    """Another tool for the same work, in an environment of its own; peers.py knows its commands."""

    name: str
    requirement: str


Contender = Bare | Tidemill | Peer

BARE = Bare()
FLEXLLM = Peer("flexllm", "flexllm[cli]==0.17.10")
ASYNC_BATCH_LLM = Peer("async-batch-llm", "async-batch-llm[openai]")
_HTTP, _SDK = Tidemill("http"), Tidemill("sdk")
_SHARED = (Tidemill("http", 1), Tidemill("sdk", 2))


# --- whole commands, side by side ---


class Goals(NamedTuple):
    """What one contender must reach: of the bare loop's speed, times flexllm's, CPU ms a prompt."""

    share: Target | None = None
    over_flexllm: Target | None = None
    cpu_ms: Target | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same file of prompts through every contender in turn, some rounds of that."""

    rows: int
    latency_ms: tuple[int, int]
    """Drawn evenly between the two; (0, 0) is a target that answers at once."""
    contenders: tuple[Contender, ...]
    goals: Mapping[str, Goals] = field(default_factory=dict)
    """By the contender's name."""
    rounds: int = 3

    @property
    def answered(self) -> str:
        """When the provider answers, in words."""
        low, high = self.latency_ms
        return f"answered after {low}–{high} ms" if high else "answered at once"

    @property
    def name(self) -> str:
        """As `--only` finds it."""
        return f"{self.rows:,} prompts, {self.answered}"


_STEADY = Comparison(
    6_000,
    LATENCY_MS,
    (BARE, _HTTP, _SDK, *_SHARED),
    {
        "embedded http": Goals(at_least(0.93), at_least(1.08), at_most(0.75)),
        "embedded sdk": Goals(at_least(0.88), None, at_most(1.3)),
    },
)
_INSTANT = Comparison(
    8_000,
    AT_ONCE,
    (BARE, _HTTP, _SDK),
    {"embedded http": Goals(at_least(0.32), at_least(1.5)), "embedded sdk": Goals(at_least(0.2))},
)


class PromptGoals(NamedTuple):
    """Seconds until the first answer is on stdout, and until the command is back at the shell."""

    first: Target
    back: Target


@dataclass(frozen=True, slots=True)
class OnePrompt:
    """One question on the command line, answered at once: by every contender in turn, some rounds of that."""

    name: str
    contenders: tuple[Contender, ...]
    goals: Mapping[str, PromptGoals]
    rounds: int = 5


_ONE_PROMPT = OnePrompt(
    "one prompt",
    (BARE, _HTTP, _SDK),
    {
        "embedded http": PromptGoals(at_most(0.5), at_most(0.6)),
        "embedded sdk": PromptGoals(at_most(1.0), at_most(1.1)),
    },
)


# --- limits of rate ---


@dataclass(frozen=True, slots=True)
class OneCore:
    """The largest limit, by a worker that has one core; the servers and the provider have the other."""

    name: str
    processes: int
    rows: int
    rpm: int = 30_000
    core: Target | None = None


@dataclass(frozen=True, slots=True)
class Paced:
    """Prompts under a provider's limit of requests a minute; `told`: by --rpm, else learned from the headers."""

    name: str
    processes: int
    told: bool
    rows: int
    limits: SimulatorOptions


HELD_SHARE = at_least(0.98)
LIMITED_SHARE = at_most(0.01)
USED_SHARE = at_least(0.95)
_LATENCY = 200
_ONE_SECOND = SimulatorOptions(latency_ms=_LATENCY, rpm=1_800, limit_policy="bucket", limit_burst_seconds=1)
"""A short run needs a provider that lets little through at once: the bucket of a whole minute would never be empty."""

_EXACT_MINUTE = SimulatorOptions(latency_ms=_LATENCY, rpm=600, limit_policy="window")


# --- size ---


@dataclass(frozen=True, slots=True)
class Scale:
    """A long file against a short one, the target answering at once: rate, CPU and memory may hardly differ."""

    name: str
    contender: Tidemill
    many: int
    few: int = 10_000


@dataclass(frozen=True, slots=True)
class Submit:
    """Rows into the database, nobody working on them: a long file against a short one where there is one."""

    name: str
    shared: bool
    rows: int
    target: Target | None = None
    few: int | None = None


SCALE_RATE, SCALE_CPU, SCALE_MEMORY = at_least(0.95), at_most(1.1), at_most(1.2)
SUBMIT_RATE = at_least(0.9)
"""Of a long file, each against a short one."""


# --- a budget ---


@dataclass(frozen=True, slots=True)
class Budgeted:
    """The same file with a budget that is never reached, and without one, in turn: its share of the rate."""

    name: str
    contender: Tidemill
    rows: int
    rounds: int = 3


BUDGET = ("--budget", "100000")
BUDGET_RATE = at_least(0.98)


# --- upstream batches ---


@dataclass(frozen=True, slots=True)
class ByBatch:
    """Rows by the provider's Batch API, many and few, stored by a process of its own; the few online beside them."""

    name: str
    many: int
    few: int = 1_000


BILL = at_most(0.51)
"""Of a batch over the same rows online."""
LINE_CPU = at_most(0.5)
"""Milliseconds for each way, on top of settling."""


# --- the rest ---


@dataclass(frozen=True, slots=True)
class StartUp:
    """From starting the process until it has printed something; a median, beside that of Python itself."""

    name: str
    arguments: tuple[str, ...]
    target: Target
    rounds: int = 5


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


MEMORY_OF_ROWS = at_most(1.35)
"""Peak of the most rows of training data over that of the fewest."""


# --- the two runs ---


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that one run measures, in this order."""

    comparisons: tuple[Comparison, ...]
    one_prompt: tuple[OnePrompt, ...]
    one_core: tuple[OneCore, ...]
    paced: tuple[Paced, ...]
    budgeted: tuple[Budgeted, ...]
    by_batch: tuple[ByBatch, ...]
    submits: tuple[Submit, ...]
    scales: tuple[Scale, ...]
    start_ups: tuple[StartUp, ...]
    training: tuple[Training, ...]
    preparing: tuple[Preparing, ...]
    memory_of_pictures: tuple[MemoryOfPictures, ...]
    captioning: tuple[Captioning, ...]


def quick() -> Plan:
    """What `make bench` measures: no peers, and nothing that takes minutes."""
    return Plan(
        comparisons=(_STEADY, _INSTANT),
        one_prompt=(_ONE_PROMPT,),
        one_core=_one_core(seconds=35),
        paced=(
            Paced("1,800 RPM, told, embedded", 0, True, 240, _ONE_SECOND),
            Paced("1,800 RPM, learned, 2 workers", 2, False, 240, _ONE_SECOND),
        ),
        budgeted=(
            Budgeted("budget, SQLite", _HTTP, 6_000),
            Budgeted("budget, Postgres", Tidemill("http", 1), 6_000),
        ),
        by_batch=(ByBatch("upstream", 50_000),),
        submits=(
            Submit("submit into SQLite", shared=False, rows=100_000),
            Submit("submit into Postgres", shared=True, rows=100_000, target=at_least(30_000)),
        ),
        scales=(Scale("SQLite", _HTTP, 50_000), Scale("Postgres", Tidemill("http", 1), 50_000)),
        start_ups=(StartUp("start-up: --help", ("--help",), at_most(0.4)),),
        training=(Training(10_000), Training(100_000, at_most(20))),
        preparing=(Preparing("60 photos of 12 megapixels, pool over plain loop", 60, at_least(1.7)),),
        memory_of_pictures=(
            MemoryOfPictures("peak memory of preparing 1,000 pictures over 50", 50, 1_000, at_most(1.2)),
        ),
        captioning=(
            Captioning("worker's CPU for 1,000 captions over 1,000 prompts, less base64", 1_000, at_most(1.5)),
        ),
    )


def full(million: int) -> Plan:
    """What `make bench-full` measures: the same beside peers, and with so many prompts in one batch."""
    plan = quick()
    peers = (FLEXLLM, ASYNC_BATCH_LLM)
    return replace(
        plan,
        comparisons=tuple(replace(each, contenders=(*each.contenders, *peers)) for each in plan.comparisons),
        one_prompt=tuple(replace(each, contenders=(*each.contenders, FLEXLLM)) for each in plan.one_prompt),
        one_core=_one_core(seconds=120),
        paced=(
            Paced("600 RPM, told, embedded", 0, True, 1_000, _EXACT_MINUTE),
            Paced("600 RPM, learned, 2 workers", 2, False, 1_000, _EXACT_MINUTE),
        ),
        submits=tuple(replace(each, rows=million, few=each.rows) for each in plan.submits),
        scales=tuple(replace(each, many=million) for each in plan.scales),
        training=(*plan.training, Training(300_000)),
        preparing=(Preparing("500 photos of 12 megapixels, pool over plain loop", 500, at_least(1.7)),),
        memory_of_pictures=(
            MemoryOfPictures("peak memory of preparing 5,000 pictures over 50", 50, 5_000, at_most(1.2)),
        ),
    )


def _one_core(seconds: int) -> tuple[OneCore, ...]:
    return (
        OneCore("30,000 RPM on one core, shared, 1 worker", 1, 500 * seconds, core=at_most(0.6)),
        OneCore("30,000 RPM on one core, embedded, command included", 0, 500 * seconds),
    )
