"""`make bench` in one run: bare loops and flows in turn, training data, submit, start-up, limits; then tables."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.benchmarks import measuring, report
from tests.benchmarks.lab import Lab
from tests.benchmarks.measuring import Figure, Run, TrainingRun
from tests.benchmarks.scenarios import (
    CAPTIONING,
    FLOWS,
    MEMORY_OF_PICTURES,
    PACED,
    PREPARING,
    ROWS,
    START_UPS,
    SUBMITS,
    TRAINING,
    BareLoop,
    Flow,
    Training,
    interleaved,
)
from tests.benchmarks.trees import RunError


class Bench:
    """Measures scenarios one after another; one that fails is said and left out."""

    def __init__(self, lab: Lab, only: str) -> None:
        self.failed = False
        self._lab = lab
        self._only = only
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began

    def flows(self, rows: int) -> list[Run]:
        """The flows and the bare loops around them, each flow beside the mean of the nearest two."""
        runs: list[Run] = []
        for scenario in interleaved([flow for flow in FLOWS if self._only in flow.name]):
            measure: Any = measuring.measure_flow if isinstance(scenario, Flow) else measuring.measure_bare
            if (found := self._attempt(measure, scenario, rows)) is not None:
                self._say(f"{rows:,} prompts, {found.rate:,.0f} a second, {found.cpu_ms:.2f} ms of CPU each")
                runs.append(found)
        _compare(runs)
        return runs

    def training(self, scenarios: Sequence[Training]) -> list[TrainingRun]:
        """Files of training data, each between bare loops of its own."""
        wanted = [each for each in scenarios if self._only in each.name]
        return [found for each in wanted if (found := self._attempt(measuring.measure_training, each)) is not None]

    def figures(self, measure: Callable[[Lab, Any], list[Figure]], scenarios: Sequence[Any]) -> list[Figure]:
        """What is one number or two."""
        found: list[Figure] = []
        for scenario in scenarios:
            if self._only in scenario.name:
                found += self._attempt(measure, scenario) or []
        return found

    def _attempt(self, measure: Callable[..., Any], scenario: Any, *given: int) -> Any:
        self._say(scenario.name)
        try:
            return measure(self._lab, scenario, *given)
        except RunError as error:
            self._say(f"failed: {error}")
            self.failed = True
            return None

    def _say(self, sentence: str) -> None:
        print(f"{self.seconds:6.1f} s  {sentence}", file=sys.stderr, flush=True)


def _compare(runs: Sequence[Run]) -> None:
    """Give each flow the mean rate of the bare loops just before and just after it."""
    bare = [(number, run.rate) for number, run in enumerate(runs) if isinstance(run.scenario, BareLoop)]
    for number, run in enumerate(runs):
        nearest = [rate for at, rate in bare if at < number][-1:] + [rate for at, rate in bare if at > number][:1]
        if isinstance(run.scenario, Flow) and nearest:
            run.bare_rate = sum(nearest) / len(nearest)


def main() -> int:
    """Measure what was asked for; 1 only when something could not be measured, for a missed target is a result."""
    arguments = _parser().parse_args()
    if arguments.readme and (lacking := report.documents_without_block()):
        sys.exit(f"{', '.join(lacking)}: no <!-- bench --> and <!-- /bench --> lines to write between.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that servers and workers end with us
    size = "full" if arguments.full else "quick"
    load = os.getloadavg()[0]
    with Lab() as lab:
        bench = Bench(lab, arguments.only)
        runs = [run for rows in ([arguments.rows] if arguments.rows else ROWS[size]) for run in bench.flows(rows)]
        training = bench.training(TRAINING[size])
        figures = [
            *measuring.memory_growth(runs),
            *measuring.memory_of_rows(training),
            *bench.figures(measuring.measure_submit, SUBMITS),
            *bench.figures(measuring.measure_start_up, START_UPS),
            *bench.figures(measuring.measure_paced, PACED[size]),
            *bench.figures(measuring.measure_preparing, PREPARING[size]),
            *bench.figures(measuring.measure_memory_of_pictures, MEMORY_OF_PICTURES[size]),
            *bench.figures(measuring.measure_captioning, CAPTIONING),
        ]
    text = report.markdown(runs, training, figures, bench.seconds, load)
    print(text)
    if arguments.readme:
        report.publish(text, runs)
    return int(bench.failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Speed, CPU and memory, measured.")
    parser.add_argument(
        "--full", action="store_true", help="also 100,000 prompts, 300,000 rows to train on, 600 requests a minute"
    )
    parser.add_argument("--only", default="", metavar="NAME", help="only scenarios whose name holds this")
    parser.add_argument("--rows", type=int, help="this many prompts instead of the usual sizes")
    parser.add_argument("--readme", action="store_true", help="write the result into docs/ and README.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
