"""How prompts are measured, and what is read off each run. What is run, and with which targets: scenarios.py."""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import mean, median
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Engine, func, select

from tests.benchmarks import peers
from tests.benchmarks.lab import TIDEMILL, Lab, Place, run
from tests.benchmarks.provider import SIGN, Provider, provider
from tests.benchmarks.scenarios import (
    AT_ONCE,
    BUDGET,
    BUDGET_RATE,
    HELD_SHARE,
    IN_FLIGHT,
    LATENCY_MS,
    LIMITED_SHARE,
    SCALE_CPU,
    SCALE_MEMORY,
    SCALE_RATE,
    SUBMIT_RATE,
    USED_SHARE,
    Bare,
    Budgeted,
    Comparison,
    Contender,
    OneCore,
    OnePrompt,
    Paced,
    Peer,
    Scale,
    StartUp,
    Submit,
    Target,
    Tidemill,
)
from tests.benchmarks.trees import RunError, Tree
from tidemill.models.database import open_engine
from tidemill.models.tables import attempts, dialogues, jobs, workers
from tidemill.simulator import Simulator

_START_SECONDS = 60.0
_SECONDS_PER_ROW = 0.02
_LOOK_SECONDS = 0.05
_SETTLING_SECONDS = 5.0
"""What a run at a limit may take to reach it: at most this, and at most a quarter of the run."""


class Run(NamedTuple):
    """One whole command, from exec to exit.

    Attributes:
        cpu_ms: user and system time a prompt, of all our processes together.
        peak_mb: role -> the largest peak of a process in it.
        rate: prompts a second from the first attempt in the ledger until the last answer is stored; Tidemill only.
        busy_cpu_ms: CPU a prompt in that time: without start and end, which are the same for a long file.
        first_seconds: from exec until something is on stdout; of one prompt only.
    """

    rows: int
    seconds: float
    cpu_ms: float
    peak_mb: dict[str, float]
    rate: float = 0.0
    busy_cpu_ms: float = 0.0
    first_seconds: float = 0.0


Scenario = TypeVar("Scenario", Comparison, OnePrompt)


@dataclass(slots=True)
class Rounds(Generic[Scenario]):
    """What every contender took, round by round: name -> its run; one that failed is not in its round."""

    scenario: Scenario
    rounds: list[dict[str, Run]]

    def runs(self, name: str) -> list[Run]:
        """Of one contender."""
        return [each[name] for each in self.rounds if name in each]

    def times_as_fast(self, name: str, other: str) -> float | None:
        """As the other in the same round, the median of all rounds; None where there is no such round."""
        ratios = [each[other].seconds / each[name].seconds for each in self.rounds if {name, other} <= each.keys()]
        return median(ratios) if ratios else None

    @property
    def contenders(self) -> list[Contender]:
        """Those with a run."""
        return [each for each in self.scenario.contenders if self.runs(each.name)]


class Figure(NamedTuple):
    """One number beside the comparisons, what it must reach, and what it was measured against."""

    name: str
    value: float
    form: str
    target: Target | None
    beside: str = ""


# --- whole commands, side by side ---


def measure_one(lab: Lab, contender: Contender, target: Provider, rows: int) -> Run:
    """Run a file of prompts through a contender; each must be paid for once and its answer be in the file.

    Raises:
        RunError: a row is missing somewhere; the rate of half the work is none.
    """
    prompts, calls = lab.prompts(rows), target.calls()
    shared = isinstance(contender, Tidemill) and contender.processes > 0
    with lab.place(target.url, shared=shared) as place:
        if isinstance(contender, Tidemill):
            result = _ask(place, contender, prompts, rows)
        else:
            command = (
                script("bare", target.url, prompts, IN_FLIGHT)
                if isinstance(contender, Bare)
                else peers.batch_command(contender, target.url, prompts, "answers.jsonl")
            )
            tree = run(command, _environment(place), place.folder, seconds_for(rows))
            result = Run(rows, tree.seconds, tree.cpu_seconds / rows * 1000, tree.peak_mb)
        counts = {"paid": target.calls() - calls, "written": rows}
        if not isinstance(contender, Bare):
            counts["written"] = sum(SIGN in line for line in (place.folder / "answers.jsonl").open())
        if set(counts.values()) != {rows}:
            raise RunError(f"of {rows} rows: {counts}")
        return result


def _ask(place: Place, contender: Tidemill, prompts: Path, rows: int) -> Run:
    options: list[str] = ["--transport", contender.transport, "--window", str(IN_FLIGHT), "-o", "answers.jsonl"]
    options += contender.options
    engine = open_engine(place.database_url)
    with (
        fleet(place, engine, contender.processes) as workers_trees,
        Tree((TIDEMILL, "ask", "-i", str(prompts), *options), place.environment, place.folder) as command,
    ):
        trees = [command, *workers_trees]
        _follow(command, trees, seconds_for(rows))
        for tree in workers_trees:
            tree.stop()
    starts, last = _ledger(engine, rows)
    engine.dispose()
    busy = sum(tree.cpu_seconds_between(starts[0], last) for tree in trees)
    return Run(
        rows,
        command.seconds,
        sum(tree.cpu_seconds for tree in trees) / rows * 1000,
        {role: peak for tree in trees for role, peak in tree.peak_mb.items()},
        rate=rows / (last - starts[0]),
        busy_cpu_ms=busy / rows * 1000,
    )


def _environment(place: Place) -> dict[str, str]:
    """A peer looks for its settings in the home folder: an empty one."""
    return {**place.environment, "HOME": str(place.folder)}


@contextmanager
def fleet(place: Place, engine: Engine, processes: int, cores: set[int] | None = None) -> Iterator[list[Tree]]:
    """The worker processes, ready; none when the command is its own worker."""
    if not processes:
        yield []
        return
    command = (TIDEMILL, "worker", "--processes", str(processes), "--window", str(IN_FLIGHT // processes))
    with Tree(command, place.environment, place.folder, "supervisor", cores) as supervisor:
        give_up_at = time.monotonic() + _START_SECONDS
        ready = select(func.count()).select_from(workers)
        while answer(engine, ready) < processes:
            supervisor.check(give_up_at)
            time.sleep(_LOOK_SECONDS)
        yield [supervisor]


def _follow(command: Tree, trees: Sequence[Tree], seconds: float) -> None:
    give_up_at = time.monotonic() + seconds
    while not command.has_ended():
        for tree in trees:
            tree.check(give_up_at)
            tree.sample()
        time.sleep(0.002)


def answer(engine: Engine, question: Any) -> Any:
    """The one value of a query."""
    with engine.connect().execution_options(reading=True) as connection:
        return connection.scalar(question)


def _ledger(engine: Engine, rows: int) -> tuple[list[float], float]:
    """When every attempt began, in order, and when the last row ended.

    Raises:
        RunError: a row was not stored, judged or tried just once.
    """
    counts = {
        "succeeded": answer(engine, select(func.count()).where(jobs.c.state == "succeeded")),
        "judged": answer(engine, select(func.count()).where(dialogues.c.sentiment.is_not(None))),
        "calls": answer(engine, select(func.count()).select_from(attempts)),
    }
    if set(counts.values()) != {rows}:
        raise RunError(f"of {rows} rows: {counts}")
    with engine.connect().execution_options(reading=True) as connection:
        starts = sorted(at.timestamp() for at in connection.scalars(select(attempts.c.started_at)))
    last: datetime = answer(engine, select(func.max(jobs.c.finished_at)))
    return starts, last.timestamp()


def measure_budgeted(lab: Lab, scenario: Budgeted) -> list[Figure]:
    """Prompts a second with a budget over those without, the median of some rounds, and the same of CPU."""
    pairs = []
    with provider(lab.folder, LATENCY_MS) as target:
        for _ in range(scenario.rounds):
            budgeted = replace(scenario.contender, options=BUDGET)
            pairs.append([measure_one(lab, each, target, scenario.rows) for each in (scenario.contender, budgeted)])
    rate = median(under.rate / free.rate for free, under in pairs)
    cpu = median(under.busy_cpu_ms / free.busy_cpu_ms for free, under in pairs)
    beside = f"{mean(under.rate for _, under in pairs):,.0f} / {mean(free.rate for free, _ in pairs):,.0f} a second"
    name = f"{scenario.name}, {scenario.rows:,} prompts over none"
    return [
        Figure(f"{name}: rate", rate, "{:.3f}", BUDGET_RATE, beside),
        Figure(f"{name}: CPU", cpu, "{:.2f}", None),
    ]


# --- one prompt ---


def measure_prompt(lab: Lab, contender: Contender, target: Provider, number: int) -> Run:
    """Ask one question on the command line: until something is on stdout, and until the command has ended."""
    prompt = f"Why is the sky blue on day {number}?"
    with lab.place(target.url, shared=False) as place:
        if isinstance(contender, Tidemill):
            command = [TIDEMILL, "ask", prompt, "--transport", contender.transport]
        elif isinstance(contender, Peer):
            command = peers.prompt_command(contender, target.url, prompt)
        else:
            command = script("bare", target.url, lab.prompts(1), 1)
        with Tree(command, _environment(place), place.folder) as tree:
            first_seconds = tree.wait_for_output(_START_SECONDS)
            tree.wait(_START_SECONDS)
    return Run(1, tree.seconds, tree.cpu_seconds * 1000, tree.peak_mb, first_seconds=first_seconds)


def measure_start_up(lab: Lab, scenario: StartUp) -> list[Figure]:
    """Median seconds until the first output, beside Python's own in the same rounds."""
    commands = {"python": (sys.executable, "-c", "print(1)"), "tidemill": (TIDEMILL, *scenario.arguments)}
    took: dict[str, list[float]] = {name: [] for name in commands}
    with lab.place("http://127.0.0.1:9/v1", shared=False) as place:
        for _ in range(scenario.rounds):
            for name, command in commands.items():
                with Tree(command, place.environment, place.folder) as tree:
                    took[name].append(tree.wait_for_output(_START_SECONDS))
                    tree.wait(_START_SECONDS)
    beside = f"{median(took['python']):.2f} s of Python alone"
    return [Figure(scenario.name, median(took["tidemill"]), "{:.2f} s", scenario.target, beside)]


# --- limits of rate ---


def measure_one_core(lab: Lab, scenario: OneCore) -> list[Figure]:
    """The rate that was held and the share of its core that was used, once the run has settled.

    Shared, the worker has the second core; embedded, the command has. All others have the first.
    """
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        raise RunError("this needs Linux and two cores")
    before = os.sched_getaffinity(0)
    first, second = ({core} for core in sorted(before)[:2])
    shared = scenario.processes > 0
    os.sched_setaffinity(0, first)  # and of all that starts from here on
    try:
        with provider(lab.folder, LATENCY_MS) as target, lab.place(target.url, shared=shared) as place:
            lab.move_servers(first)
            options = ("--transport", "http", "--window", str(IN_FLIGHT), "--rpm", str(scenario.rpm), "-o", "out.jsonl")
            command = (TIDEMILL, "ask", "-i", str(lab.prompts(scenario.rows)), *options)
            engine = open_engine(place.database_url)
            with (
                fleet(place, engine, scenario.processes, second) as workers_trees,
                Tree(command, place.environment, place.folder, cores=None if shared else second) as asking,
            ):
                _follow(asking, [asking, *workers_trees], seconds_for(scenario.rows))
                for tree in workers_trees:
                    tree.stop()
            starts, _ = _ledger(engine, scenario.rows)
            engine.dispose()
    finally:
        os.sched_setaffinity(0, before)
        lab.move_servers(before)
    return _held(scenario, starts, workers_trees[0] if shared else asking)


def _held(scenario: OneCore, starts: Sequence[float], tree: Tree) -> list[Figure]:
    began, ended = starts[0], starts[-1]
    began += min(_SETTLING_SECONDS, (ended - began) / 4)
    settled = sum(began <= at < ended for at in starts)
    rate, core = settled / (ended - began), tree.cpu_seconds_between(began, ended) / (ended - began)
    limit = scenario.rpm / 60
    return [
        Figure(f"{scenario.name}: held", rate / limit, "{:.3f}", HELD_SHARE, f"{rate:,.1f} of {limit:,.0f} a second"),
        Figure(f"{scenario.name}: of the core", core, "{:.2f}", scenario.core, f"{core / rate * 1000:.2f} ms a prompt"),
    ]


def measure_paced(lab: Lab, paced: Paced) -> list[Figure]:
    """Share of calls that the provider refused, and of its limit that was used, both as the provider counts.

    The use is counted from one second after the first call, so that the burst with which a limit begins adds nothing.
    """
    rpm, shared = paced.limits["rpm"], paced.processes > 0
    assert rpm is not None
    options = ("--transport", "http", "--window", str(IN_FLIGHT), *(("--rpm", str(rpm)) if paced.told else ()))
    with Simulator(**paced.limits) as simulator, lab.place(simulator.url, shared=shared) as place:
        engine = open_engine(place.database_url)
        with fleet(place, engine, paced.processes) as workers_trees:
            command = (TIDEMILL, "ask", "-i", str(lab.prompts(paced.rows)), *options)
            run(command, place.environment, place.folder, _START_SECONDS + 3 * 60 * paced.rows / rpm)
            for tree in workers_trees:
                tree.stop()
        engine.dispose()
        began = [entry["started_at"] for entry in simulator.paid()]
        counters = simulator.counters()
    steady = [at for at in began if at > min(began) + 1]
    used = len(steady) / (max(began) - min(began) - 1) * 60 / rpm
    refused, total = counters["limited"], counters["total"]
    return [
        Figure(f"{paced.name}: answered 429", refused / total, "{:.2%}", LIMITED_SHARE, f"{refused} of {total} calls"),
        Figure(f"{paced.name}: used of the limit", used, "{:.1%}", USED_SHARE, f"{used * rpm:,.0f} a minute"),
    ]


# --- size ---


def measure_scale(lab: Lab, scenario: Scale) -> list[Figure]:
    """A long file between two short ones, each in a database of its own: rate, CPU and memory against the short."""
    with provider(lab.folder, AT_ONCE) as target:
        before, long, after = (
            measure_one(lab, scenario.contender, target, rows) for rows in (scenario.few, scenario.many, scenario.few)
        )
    short = (before, after)
    rate, cpu_ms = mean(each.rate for each in short), mean(each.busy_cpu_ms for each in short)
    growth = {
        role: long.peak_mb[role] / mean(each.peak_mb[role] for each in short)
        for role in ("command", "worker")
        if all(role in each.peak_mb for each in (*short, long))
    }
    role = max(growth, key=lambda each: growth[each])
    name = f"{scenario.name}, {scenario.many:,} prompts over {scenario.few:,}"
    return [
        Figure(f"{name}: rate", long.rate / rate, "{:.2f}", SCALE_RATE, f"{long.rate:,.0f} / {rate:,.0f} a second"),
        Figure(
            f"{name}: CPU", long.busy_cpu_ms / cpu_ms, "{:.2f}", SCALE_CPU, f"{long.busy_cpu_ms:.2f} / {cpu_ms:.2f} ms"
        ),
        Figure(
            f"{name}: peak memory",
            growth[role],
            "{:.2f}",
            SCALE_MEMORY,
            f"{long.peak_mb[role]:.0f} / {long.peak_mb[role] / growth[role]:.0f} MB, {role}",
        ),
    ]


def measure_submit(lab: Lab, scenario: Submit) -> list[Figure]:
    """Prompts a second into an empty database; a long file between two short ones."""
    long = _submit_rate(lab, scenario, scenario.rows)
    form, name = "{:,.0f} a second", f"{scenario.name}, {scenario.rows:,} prompts"
    if scenario.few is None:
        return [Figure(name, long, form, scenario.target)]
    short = mean(_submit_rate(lab, scenario, scenario.few) for _ in range(2))
    beside = f"{long:,.0f} / {short:,.0f} a second"
    return [
        Figure(f"{scenario.name}, {scenario.few:,} prompts", short, form, scenario.target),
        Figure(f"{name} over {scenario.few:,}: rate", long / short, "{:.2f}", SUBMIT_RATE, beside),
    ]


def _submit_rate(lab: Lab, scenario: Submit, rows: int) -> float:
    with lab.place("http://127.0.0.1:9/v1", shared=scenario.shared) as place:
        tree = run(script("submitting", lab.prompts(rows)), place.environment, place.folder, seconds_for(rows))
        return rows / float(json.loads(tree.output)["seconds"])


def script(name: str, *arguments: object) -> list[str]:
    """The command that runs a script of this folder."""
    return [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *map(str, arguments)]


def seconds_for(rows: int) -> float:
    """When a command with so many rows has failed."""
    return _START_SECONDS + rows * _SECONDS_PER_ROW
