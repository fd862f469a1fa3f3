"""What rows cost that go out by an upstream batch: the bill, our CPU for each way, and memory by how many they are.

The rows are stored first, by a process of its own, so that its memory is none of theirs. The provider is the simulator,
which has a Batch API and keeps the books.
"""

import time
from typing import NamedTuple

from sqlalchemy import Engine, func, select

from tests.benchmarks.lab import TIDEMILL, Lab, run
from tests.benchmarks.measuring import Figure, answer, seconds_for
from tests.benchmarks.scenarios import BILL, IN_FLIGHT, LINE_CPU, SCALE_MEMORY, ByBatch
from tests.benchmarks.trees import RunError, Tree
from tidemill.models.database import open_engine
from tidemill.models.tables import attempts, jobs, upstream_batches
from tidemill.simulator import Simulator

_LOOK_SECONDS = 0.05
_POLL_SECONDS = "0.5"


class _Carried(NamedTuple):
    """What a process has used that carried stored rows to the provider and back."""

    rows: int
    usd: float
    peak_mb: float
    out_ms: float
    """Of CPU a line, to pack and to build."""
    back_ms: float
    """The same to collect, settling included."""


def measure_by_batch(lab: Lab, scenario: ByBatch) -> list[Figure]:
    """Many rows against few, and the few online: the bill, CPU a line, and peak memory after the submission."""
    with Simulator(batch_seconds=0) as simulator:
        few, many = (_by_batch(lab, simulator.url, rows) for rows in (scenario.few, scenario.many))
        online_usd, online_ms = _online(lab, simulator.url, scenario.few)
    more_ms = many.back_ms - online_ms
    growth = many.peak_mb / few.peak_mb
    return [
        Figure(f"{scenario.name}: bill over online", few.usd / online_usd, "{:.3f}", BILL),
        Figure(f"{scenario.name}: CPU ms a line to pack and build", many.out_ms, "{:.2f}", LINE_CPU),
        Figure(
            f"{scenario.name}: CPU ms a line to collect, less a row online",
            more_ms,
            "{:.2f}",
            LINE_CPU,
            f"{many.back_ms:.2f} / {online_ms:.2f} ms, settling included",
        ),
        Figure(
            f"{scenario.name}: peak memory of {scenario.many:,} lines over {scenario.few:,}",
            growth,
            "{:.2f}",
            SCALE_MEMORY,
            f"{many.peak_mb:.0f} / {few.peak_mb:.0f} MB",
        ),
    ]


def _by_batch(lab: Lab, url: str, rows: int) -> _Carried:
    with lab.place(url, shared=False) as place:
        environment = {**place.environment, "TIDEMILL_POLL_SECONDS": _POLL_SECONDS}
        submit = (TIDEMILL, "ask", "-i", str(lab.prompts(rows)), "--route", "batch", "--detach")
        run(submit, environment, place.folder, seconds_for(rows))
        engine = open_engine(place.database_url)
        with Tree((TIDEMILL, "watch", "latest"), environment, place.folder) as tree:
            times = _follow(tree, engine, rows)
        usd = _usd(engine, rows)
        engine.dispose()
    out = tree.cpu_seconds_between(times["pack"], times["upload"])
    back = tree.cpu_seconds_between(times["collect"], times["end"])
    return _Carried(rows, usd, tree.peak_mb["command"], out / rows * 1000, back / rows * 1000)


def _follow(tree: Tree, engine: Engine, rows: int) -> dict[str, float]:
    """When each step was first seen, until the process has ended; a step that was too short began with the next one."""
    seen, give_up_at = dict[str, float](), time.monotonic() + seconds_for(rows)
    while not tree.has_ended():
        tree.check(give_up_at)
        tree.sample(_LOOK_SECONDS)
        step = answer(engine, select(upstream_batches.c.step))
        if step is not None:
            seen.setdefault(step, time.time())
        time.sleep(_LOOK_SECONDS)
    steps, at = ("pack", "build", "upload", "create", "follow", "collect", "end"), tree.ended_at
    times = dict[str, float]()
    for step in reversed(steps):
        times[step] = at = seen.get(step, at)
    return times


def _online(lab: Lab, url: str, rows: int) -> tuple[float, float]:
    """USD of all rows, and ms of CPU a row from the first call to the last answer that is stored."""
    command = (TIDEMILL, "ask", "-i", str(lab.prompts(rows)), "--transport", "http", "--window", str(IN_FLIGHT))
    with lab.place(url, shared=False) as place:
        engine = open_engine(place.database_url)
        with Tree(command, place.environment, place.folder) as tree:
            give_up_at = time.monotonic() + seconds_for(rows)
            while not tree.has_ended():
                tree.check(give_up_at)
                tree.sample(_LOOK_SECONDS)
                time.sleep(_LOOK_SECONDS / 2)
        first = answer(engine, select(func.min(attempts.c.started_at)))
        last = answer(engine, select(func.max(jobs.c.finished_at)))
        usd = _usd(engine, rows)
        engine.dispose()
    return usd, tree.cpu_seconds_between(first.timestamp(), last.timestamp()) / rows * 1000


def _usd(engine: Engine, rows: int) -> float:
    """What all rows cost; each must have its answer."""
    succeeded = answer(engine, select(func.count()).where(jobs.c.state == "succeeded"))
    if succeeded != rows:
        raise RunError(f"of {rows} rows {succeeded} have an answer")
    return float(answer(engine, select(func.sum(attempts.c.cost_usd))))
