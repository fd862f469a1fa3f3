"""Why: `make bench` in one run: bare loops and flows in turn, then submit, start-up and pacing; then table and plot."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tests.benchmarks import report
from tests.benchmarks.lab import Lab
from tests.benchmarks.measuring import (
    Figure,
    Run,
    measure_bare,
    measure_flow,
    measure_paced,
    measure_start_up,
    measure_submit,
)
from tests.benchmarks.scenarios import FLOWS, PACED, ROWS, START_UPS, SUBMITS, BareLoop, interleaved
from tests.benchmarks.trees import RunError


def main() -> int:
    """Measure what was asked for. 1 only when something could not be measured: a missed target is a result."""
    arguments = _parser().parse_args()
    size = "full" if arguments.full else "quick"
    began = time.monotonic()
    with Lab() as lab:
        bench = _Bench(lab)
        wanted = [flow for flow in FLOWS if arguments.only in flow.name]
        for rows in [arguments.rows] if arguments.rows else ROWS[size]:
            bench.measure_flows(wanted, rows)
        for measure, scenarios in _SIDES.items():
            bench.measure_figures(measure, [each for each in scenarios[size] if arguments.only in each.name])
    text = report.markdown(bench.runs, bench.figures, time.monotonic() - began)
    print(text)
    if arguments.readme:
        report.publish(text, bench.runs)
    return int(bench.failed)


_SIDES: dict[Callable[[Lab, Any], list[Figure]], dict[str, Sequence[Any]]] = {
    measure_submit: {"quick": SUBMITS, "full": SUBMITS},
    measure_start_up: {"quick": START_UPS, "full": START_UPS},
    measure_paced: PACED,
}


class _Bench:
    """Runs scenarios one after another; one that fails is said and left out."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.runs: list[Run] = []
        self.figures: list[Figure] = []
        self.failed = False

    def measure_flows(self, flows: Sequence[Any], rows: int) -> None:
        """The flows and the bare loops around them, each flow beside the mean of the nearest two."""
        found: list[Run] = []
        for scenario in interleaved(flows):
            measure: Callable[..., Run] = measure_bare if isinstance(scenario, BareLoop) else measure_flow
            if (run := self._attempt(scenario.name, measure, self._lab, scenario, rows)) is not None:
                print(f"  {run.rate:7.0f}/s {run.cpu_ms:6.2f} ms CPU {rows:7,} rows", file=sys.stderr, flush=True)
                found.append(run)
        _compare(found)
        self.runs += found

    def measure_figures(self, measure: Callable[[Lab, Any], list[Figure]], scenarios: Iterable[Any]) -> None:
        """What is one number or two."""
        for scenario in scenarios:
            self.figures += self._attempt(scenario.name, measure, self._lab, scenario) or []

    def _attempt(self, name: str, measure: Callable[..., Any], *given: Any) -> Any:
        print(name, file=sys.stderr, flush=True)
        try:
            return measure(*given)
        except RunError as error:
            print(f"  failed: {error}", file=sys.stderr)
            self.failed = True
            return None


def _compare(runs: Sequence[Run]) -> None:
    """Give each flow the mean rate of the bare loops just before and just after it."""
    bare = [(number, run.rate) for number, run in enumerate(runs) if isinstance(run.scenario, BareLoop)]
    for number, run in enumerate(runs):
        before = [rate for at, rate in bare if at < number][-1:]
        after = [rate for at, rate in bare if at > number][:1]
        if not isinstance(run.scenario, BareLoop) and (before or after):
            run.bare_rate = sum(before + after) / len(before + after)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Speed, CPU and memory, measured.")
    parser.add_argument("--full", action="store_true", help="also 100,000 prompts, and a limit of 600 requests a minute")
    parser.add_argument("--only", default="", metavar="NAME", help="only scenarios whose name holds this")
    parser.add_argument("--rows", type=int, help="this many prompts instead of the usual sizes")
    parser.add_argument("--readme", action="store_true", help="write the result into README.md and docs/bench.svg")
    return parser


if __name__ == "__main__":
    sys.exit(main())
