"""How each kind of scenario is run and what is read off it. What is run, and with which targets: scenarios.py."""

import base64
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from PIL import Image
from sqlalchemy import Engine, func, select, text

from tests.benchmarks.lab import TIDEMILL, Lab, Place, run
from tests.benchmarks.scenarios import (
    IN_FLIGHT,
    JUDGED_FROM_ROWS,
    LATENCY_MS,
    LIMITED_SHARE,
    MEMORY_GROWTH,
    MEMORY_OF_ROWS,
    USED_SHARE,
    BareLoop,
    Captioning,
    Flow,
    MemoryOfPictures,
    Paced,
    Preparing,
    StartUp,
    Submit,
    Target,
    Training,
)
from tests.benchmarks.trees import RunError, Tree
from tidemill.models.database import open_engine
from tidemill.models.tables import attempts, dialogues, jobs, workers
from tidemill.simulator import Simulator

_START_SECONDS = 60.0
_SECONDS_PER_ROW = 0.02
_LOOK_SECONDS = 0.05

_COMPLETE = text(
    "SELECT (SELECT read_at FROM batches) IS NOT NULL"
    " AND NOT EXISTS (SELECT 1 FROM jobs WHERE state = 'queued' AND sent_at IS NULL)"
    " AND NOT EXISTS (SELECT 1 FROM jobs WHERE state = 'queued' AND sent_at IS NOT NULL)"
    " AND NOT EXISTS (SELECT 1 FROM jobs WHERE state = 'running')"
    " AND NOT EXISTS (SELECT 1 FROM dialogues WHERE sentiment IS NULL)"
)
"""Has every row ended and been judged? Each part is one look at the front of a partial index, however many rows."""


@dataclass(slots=True)
class Run:
    """What one file of prompts took.

    Attributes:
        rate: prompts a second from the first attempt until every row is stored and judged (bare loop: last reply).
        stored_rate: the same until every answer is stored; not yet judged.
        wall_seconds: the whole command, with start-up and the file of answers.
        cpu_ms, busy_cpu_ms: per prompt, our processes together: with start-up and end, and in the time of `rate`.
        peak_mb: role -> largest peak of a process.
        max_in_flight: calls at the provider at once.
        bare_rate: of the bare loops before and after.
    """

    scenario: Flow | BareLoop
    rows: int
    rate: float
    wall_seconds: float
    cpu_ms: float
    busy_cpu_ms: float
    peak_mb: dict[str, float]
    max_in_flight: int
    stored_rate: float | None = None
    bare_rate: float | None = None

    @property
    def share(self) -> float | None:
        """Of the bare loop's rate."""
        return self.rate / self.bare_rate if self.bare_rate else None

    def target(self, name: str) -> Target | None:
        """What `share` or `cpu_ms` must reach; nothing in a run that is too short to tell."""
        return getattr(self.scenario, name, None) if self.rows >= JUDGED_FROM_ROWS else None


class TrainingRun(NamedTuple):
    """What one file of training data took: the whole command, its largest process, and the bare loops around it."""

    scenario: Training
    seconds: float
    peak_mb: float
    bare_seconds: float


class Figure(NamedTuple):
    """One number beside the runs, and what it must reach."""

    name: str
    value: float
    form: str
    target: Target | None


# --- prompts, end to end ---


def measure_bare(lab: Lab, scenario: BareLoop, rows: int) -> Run:
    """Run the bare loop in a process of its own."""
    prompts = lab.prompts(rows)
    with Simulator(latency_ms=LATENCY_MS) as provider, lab.place(provider.url, shared=False) as place:
        command = _script("bare", provider.url, prompts, IN_FLIGHT)
        tree = run(command, place.environment, place.folder, _seconds_for(rows))
        told = json.loads(tree.output)
        return _run([tree], scenario, rows, told["started_at"], told["ended_at"], time.time(), provider)


def measure_flow(lab: Lab, flow: Flow, rows: int) -> Run:
    """Run a flow; every row must be paid for once, stored, judged and in the file of answers."""
    prompts = lab.prompts(rows)
    shared = flow.processes > 0
    with Simulator(latency_ms=LATENCY_MS) as provider, lab.place(provider.url, shared=shared) as place:
        engine = open_engine(place.database_url)
        options = ("--transport", flow.transport, "--window", str(IN_FLIGHT), "-o", "answers.jsonl")
        with (
            _fleet(place, engine, flow.processes) as fleet,
            Tree((TIDEMILL, "ask", "-i", str(prompts), *options), place.environment, place.folder) as command,
        ):
            trees = [command, *fleet]
            complete_at = _follow(command, trees, engine, _seconds_for(rows))
            ended_at = time.time()
            for tree in fleet:
                tree.stop()
            first_at, stored_at = _checked(engine, place, provider, rows)
            engine.dispose()
            result = _run(trees, flow, rows, first_at, complete_at, ended_at, provider)
            result.stored_rate = rows / (stored_at - first_at)
            return result


def _run(
    trees: Sequence[Tree],
    scenario: Flow | BareLoop,
    rows: int,
    first_at: float,
    complete_at: float,
    ended_at: float,
    provider: Simulator,
) -> Run:
    busy = sum(tree.cpu_seconds_between(first_at, complete_at) for tree in trees)
    return Run(
        scenario,
        rows,
        rate=rows / (complete_at - first_at),
        wall_seconds=ended_at - trees[0].started_at,
        cpu_ms=sum(tree.cpu_seconds for tree in trees) / rows * 1000,
        busy_cpu_ms=busy / rows * 1000,
        peak_mb={role: peak for tree in trees for role, peak in tree.peak_mb.items()},
        max_in_flight=provider.counters()["max_in_flight"],
    )


@contextmanager
def _fleet(place: Place, engine: Engine, processes: int) -> Iterator[list[Tree]]:
    """The worker processes, ready; none when the command is its own worker."""
    if not processes:
        yield []
        return
    options = ("--processes", str(processes), "--window", str(IN_FLIGHT // processes))
    with Tree((TIDEMILL, "worker", *options), place.environment, place.folder, "supervisor") as supervisor:
        give_up_at = time.monotonic() + _START_SECONDS
        ready = select(func.count()).select_from(workers)
        while _ask(engine, ready) < processes:
            supervisor.check(give_up_at)
            time.sleep(_LOOK_SECONDS)
        yield [supervisor]


def _follow(command: Tree, trees: Sequence[Tree], engine: Engine, seconds: float) -> float:
    """Until the command ends; returns when every row had ended and been judged."""
    complete_at = 0.0
    give_up_at = time.monotonic() + seconds
    while not command.has_ended():
        command.check(give_up_at)
        if not complete_at and _ask(engine, _COMPLETE):
            complete_at = time.time()
        for tree in trees:
            tree.sample()
        time.sleep(_LOOK_SECONDS)
    return complete_at or time.time()


def _ask(engine: Engine, question: Any) -> Any:
    with engine.connect().execution_options(reading=True) as connection:
        return connection.scalar(question)


def _checked(engine: Engine, place: Place, provider: Simulator, rows: int) -> tuple[float, float]:
    """When the first attempt began and the last answer was stored.

    Raises:
        RunError: a row is missing somewhere; a rate of half the work is none.
    """
    counts = {
        "succeeded": _ask(engine, select(func.count()).where(jobs.c.state == "succeeded")),
        "judged": _ask(engine, select(func.count()).where(dialogues.c.sentiment.is_not(None))),
        "calls": _ask(engine, select(func.count()).select_from(attempts)),
        "paid": provider.counters()["paid"],
        "written": sum(1 for _ in (place.folder / "answers.jsonl").open()),
    }
    if set(counts.values()) != {rows}:
        raise RunError(f"of {rows} rows: {counts}")
    first: datetime = _ask(engine, select(func.min(attempts.c.started_at)))
    last: datetime = _ask(engine, select(func.max(jobs.c.finished_at)))
    return first.timestamp(), last.timestamp()


# --- training data ---


def measure_training(lab: Lab, scenario: Training) -> TrainingRun:
    """Check, split and write a file of training data, between two bare loops; every row must be in one part."""
    problems, limit = lab.problems(scenario.rows), _seconds_for(scenario.rows)
    with lab.place("http://127.0.0.1:9/v1", shared=False) as place:

        def bare_seconds() -> float:
            tree = run(_script("converting", problems, "bare.jsonl"), place.environment, place.folder, limit)
            return float(json.loads(tree.output)["seconds"])

        before = bare_seconds()
        command = (TIDEMILL, "train", str(problems), "--val", "0.1", "--export", "out.jsonl")
        tree = run(command, place.environment, place.folder, limit)
        seconds = time.time() - tree.started_at
        parts = {path.name: sum(1 for _ in path.open("rb")) for path in place.folder.glob("out*.jsonl")}
        if len(parts) != 2 or sum(parts.values()) != scenario.rows:
            raise RunError(f"of {scenario.rows} rows: {parts}")
        return TrainingRun(scenario, seconds, max(tree.peak_mb.values()), (before + bare_seconds()) / 2)


def memory_of_rows(runs: Sequence[TrainingRun]) -> list[Figure]:
    """How much more memory the most rows took than the fewest."""
    if len(runs) < 2:
        return []
    few, many = runs[0], runs[-1]
    title = f"peak memory of {many.scenario.rows:,} rows of training data over {few.scenario.rows:,}"
    return [Figure(title, many.peak_mb / few.peak_mb, "{:.2f}", MEMORY_OF_ROWS)]


# --- one figure each ---


def memory_growth(runs: Sequence[Run]) -> list[Figure]:
    """For each flow how much more memory its longest run took than its shortest: the command or the worker, whichever
    grew more."""
    figures = []
    for name in dict.fromkeys(each.scenario.name for each in runs if isinstance(each.scenario, Flow)):
        sizes = [each for each in runs if each.scenario.name == name]
        short, long = sizes[0], sizes[-1]
        if short.rows < long.rows:
            roles = {"command", "worker"} & short.peak_mb.keys() & long.peak_mb.keys()
            growth = max(long.peak_mb[role] / short.peak_mb[role] for role in roles)
            title = f"peak memory of {long.rows:,} prompts over {short.rows:,}: {name}"
            figures.append(Figure(title, growth, "{:.2f}", MEMORY_GROWTH))
    return figures


def measure_submit(lab: Lab, scenario: Submit) -> list[Figure]:
    """Prompts a second into an empty database."""
    prompts = lab.prompts(scenario.rows)
    with lab.place("http://127.0.0.1:9/v1", shared=scenario.shared) as place:
        tree = run(_script("submitting", prompts), place.environment, place.folder, _seconds_for(scenario.rows))
        told = json.loads(tree.output)
    name = f"{scenario.name}, {told['rows']:,} prompts"
    return [Figure(name, told["rows"] / told["seconds"], "{:,.0f} a second", scenario.target)]


def measure_start_up(lab: Lab, scenario: StartUp) -> list[Figure]:
    """Median seconds until the first output."""
    took = []
    with Simulator() as provider, lab.place(provider.url, shared=False) as place:
        for number in range(scenario.times):
            arguments = [part.format(prompt=f"Why is the sky blue on day {number}?") for part in scenario.arguments]
            with Tree((TIDEMILL, *arguments), place.environment, place.folder) as tree:
                took.append(tree.wait_for_output(_START_SECONDS))
                tree.wait(_START_SECONDS)
    return [Figure(scenario.name, median(took), "{:.2f} s", scenario.target)]


def measure_paced(lab: Lab, paced: Paced) -> list[Figure]:
    """Share of calls that the provider refused, and of its limit that was used, both as the provider counts.

    The use is counted from one second after the first call, so that the burst with which a limit begins adds nothing.
    """
    rpm, shared = paced.limits["rpm"], paced.processes > 0
    assert rpm is not None
    options = ("--transport", "http", "--window", str(IN_FLIGHT), *(("--rpm", str(rpm)) if paced.told else ()))
    with Simulator(**paced.limits) as provider, lab.place(provider.url, shared=shared) as place:
        engine = open_engine(place.database_url)
        with _fleet(place, engine, paced.processes) as fleet:
            command = (TIDEMILL, "ask", "-i", str(lab.prompts(paced.rows)), *options)
            run(command, place.environment, place.folder, _START_SECONDS + 3 * 60 * paced.rows / rpm)
            for tree in fleet:
                tree.stop()
        engine.dispose()
        began = [entry["started_at"] for entry in provider.paid()]
        counters = provider.counters()
    steady = [at for at in began if at > min(began) + 1]
    used = len(steady) / (max(began) - min(began) - 1) * 60 / rpm
    return [
        Figure(f"{paced.name}: answered 429", counters["limited"] / counters["total"], "{:.2%}", LIMITED_SHARE),
        Figure(f"{paced.name}: used of the limit", used, "{:.1%}", USED_SHARE),
    ]


def measure_preparing(lab: Lab, scenario: Preparing) -> list[Figure]:
    """How many times as fast as a plain loop the pool is: of two rounds in turn, the mean."""
    photos = [str(lab.photo(number % 12, 4000, 3000)) for number in range(scenario.photos)]
    ratios = []
    with lab.place("http://127.0.0.1:9/v1", shared=False) as place:
        for _ in range(2):
            took = [
                json.loads(run(_script("preparing", how, *photos), place.environment, place.folder, 600).output)
                for how in ("loop", "pool")
            ]
            ratios.append(took[0]["seconds"] / took[1]["seconds"])
    return [Figure(scenario.name, sum(ratios) / len(ratios), "{:.1f} times", scenario.target)]


def measure_memory_of_pictures(lab: Lab, scenario: MemoryOfPictures) -> list[Figure]:
    """The largest process of many pictures over the largest of a few."""
    peaks = []
    with lab.place("http://127.0.0.1:9/v1", shared=False) as place:
        for count in (scenario.few, scenario.many):
            photos = [str(lab.photo(number % 12, 1200, 900)) for number in range(count)]
            tree = run(_script("preparing", "pool", *photos), place.environment, place.folder, 600)
            peaks.append(max(tree.peak_mb.values()))
    return [Figure(scenario.name, peaks[1] / peaks[0], "{:.2f}", scenario.target)]


def measure_captioning(lab: Lab, scenario: Captioning) -> list[Figure]:
    """CPU of one worker process while it runs captions and while it runs prompts, in the same run."""
    folder = lab.folder / "captioning"
    folder.mkdir()
    sizes = []
    for number in range(scenario.rows):
        content = lab.photo(number % 12, 1200, 900).read_bytes()
        path = folder / f"{number}.jpg"  # other bytes each, and so other pictures: a comment would not be enough
        path.write_bytes(_marked(content, number))
        sizes.append(len(content))
    commands = (("ask", "-i", str(lab.prompts(scenario.rows))), ("describe", str(folder)))
    busy = [_worker_cpu_ms(lab, command, scenario.rows) for command in commands]
    return [
        Figure(scenario.name, (busy[1] - _base64_ms(int(sum(sizes) / len(sizes)))) / busy[0], "{:.2f}", scenario.target)
    ]


def _marked(content: bytes, number: int) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        image.putpixel((8, 8), (number % 256, number // 256, 255))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _worker_cpu_ms(lab: Lab, command: Sequence[str], rows: int) -> float:
    with Simulator(latency_ms=LATENCY_MS) as provider, lab.place(provider.url, shared=True) as place:
        engine = open_engine(place.database_url)
        options = ("--transport", "http", "--detach")
        # Submitted before the worker starts, so that it is at work all the time that is counted.
        run((TIDEMILL, *command, *options), place.environment, place.folder, _seconds_for(rows))
        with _fleet(place, engine, 1) as fleet:
            give_up_at = time.monotonic() + _seconds_for(rows)
            while not _ask(engine, _COMPLETE):
                fleet[0].check(give_up_at)
                fleet[0].sample()
                time.sleep(_LOOK_SECONDS)
            ended_at = time.time()
            fleet[0].sample()
            first: datetime = _ask(engine, select(func.min(attempts.c.started_at)))
            used = fleet[0].cpu_seconds_between(first.timestamp(), ended_at)
        engine.dispose()
    return used / rows * 1000


def _base64_ms(size: int) -> float:
    content, began = bytes(size), time.process_time()
    for _ in range(200):
        base64.b64encode(content).decode()
    return (time.process_time() - began) / 200 * 1000


def _script(name: str, *arguments: object) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *map(str, arguments)]


def _seconds_for(rows: int) -> float:
    return _START_SECONDS + rows * _SECONDS_PER_ROW
