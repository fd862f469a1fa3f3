"""How training data and pictures are measured, and what is read off each run: the work that asks no provider much."""

import base64
import io
import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from PIL import Image
from sqlalchemy import func, select, text

from tests.benchmarks.lab import TIDEMILL, Lab, run
from tests.benchmarks.measuring import Figure, answer, fleet, script, seconds_for
from tests.benchmarks.provider import provider
from tests.benchmarks.scenarios import (
    LATENCY_MS,
    MEMORY_OF_ROWS,
    Captioning,
    MemoryOfPictures,
    Preparing,
    Training,
)
from tests.benchmarks.trees import RunError
from tidemill.models.database import open_engine
from tidemill.models.tables import attempts

_LOOK_SECONDS = 0.05
_ALL_ENDED = text(
    "SELECT NOT EXISTS (SELECT 1 FROM jobs WHERE finished_at IS NULL)"
    " AND NOT EXISTS (SELECT 1 FROM dialogues WHERE sentiment IS NULL)"
)


class TrainingRun(NamedTuple):
    """What one file of training data took: the whole command, its largest process, and the bare loops around it."""

    scenario: Training
    seconds: float
    peak_mb: float
    bare_seconds: float


def measure_training(lab: Lab, scenario: Training) -> TrainingRun:
    """Check, split and write a file of training data, between two bare loops; every row must be in one part."""
    problems, limit = lab.problems(scenario.rows), seconds_for(scenario.rows)
    with lab.place("http://127.0.0.1:9/v1", shared=False) as place:

        def bare_seconds() -> float:
            tree = run(script("converting", problems, "bare.jsonl"), place.environment, place.folder, limit)
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


def measure_preparing(lab: Lab, scenario: Preparing) -> list[Figure]:
    """How many times as fast as a plain loop the pool is: of two rounds in turn, the mean."""
    photos = [str(lab.photo(number % 12, 4000, 3000)) for number in range(scenario.photos)]
    ratios = []
    with lab.place("http://127.0.0.1:9/v1", shared=False) as place:
        for _ in range(2):
            took = [
                json.loads(run(script("preparing", how, *photos), place.environment, place.folder, 600).output)
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
            tree = run(script("preparing", "pool", *photos), place.environment, place.folder, 600)
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
    with provider(lab.folder, LATENCY_MS) as target, lab.place(target.url, shared=True) as place:
        engine = open_engine(place.database_url)
        options = ("--transport", "http", "--detach")
        # Submitted before the worker starts, so that it is at work all the time that is counted.
        run((TIDEMILL, *command, *options), place.environment, place.folder, seconds_for(rows))
        with fleet(place, engine, 1) as (worker,):
            give_up_at = time.monotonic() + seconds_for(rows)
            while not answer(engine, _ALL_ENDED):
                worker.check(give_up_at)
                worker.sample(_LOOK_SECONDS)
                time.sleep(_LOOK_SECONDS)
            ended_at = time.time()
            worker.sample(0)
            first: datetime = answer(engine, select(func.min(attempts.c.started_at)))
            used = worker.cpu_seconds_between(first.timestamp(), ended_at)
        engine.dispose()
    return used / rows * 1000


def _base64_ms(size: int) -> float:
    content, began = bytes(size), time.process_time()
    for _ in range(200):
        base64.b64encode(content).decode()
    return (time.process_time() - began) / 200 * 1000
