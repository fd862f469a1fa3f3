"""`make bench` in one run: contenders side by side, round by round, and what is one figure each; then tables."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tests.benchmarks import by_batch, material, measuring, report, scenarios
from tests.benchmarks.lab import Lab
from tests.benchmarks.material import TrainingRun
from tests.benchmarks.measuring import Figure, Rounds, Run, Scenario
from tests.benchmarks.provider import Provider, provider
from tests.benchmarks.report import Results
from tests.benchmarks.scenarios import AT_ONCE, BARE, Comparison, Contender, OnePrompt, Plan, Training
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

    def comparison(self, scenario: Comparison) -> Rounds[Comparison]:
        """The same file through every contender in turn."""
        return self._rounds(scenario, scenario.latency_ms, lambda _: scenario.rows, measuring.measure_one)

    def one_prompt(self, scenario: OnePrompt) -> Rounds[OnePrompt]:
        """The same question by every contender in turn."""
        return self._rounds(scenario, AT_ONCE, lambda number: number, measuring.measure_prompt)

    def _rounds(
        self,
        scenario: Scenario,
        latency_ms: tuple[int, int],
        argument: Callable[[int], int],
        measure: Callable[[Lab, Contender, Provider, int], Run],
    ) -> Rounds[Scenario]:
        contenders = self._chosen(scenario)
        result = Rounds(scenario, [{} for _ in range(scenario.rounds if contenders else 0)])
        if not contenders:
            return result
        with provider(self._lab.folder, latency_ms) as target:
            for number, taken in enumerate(result.rounds):
                for contender in contenders:
                    name = f"{scenario.name}, round {number + 1}: {contender.name}"
                    if (run := self._attempt(name, measure, contender, target, argument(number))) is not None:
                        taken[contender.name] = run
                        self._say(f"{run.seconds:.2f} s, {run.cpu_ms:.2f} ms of CPU a prompt")
        return result

    def _chosen(self, scenario: Comparison | OnePrompt) -> list[Contender]:
        """All of a scenario that was asked for by name; else those asked for, and what they are compared with."""
        if self._only in scenario.name:
            return list(scenario.contenders)
        chosen = [each for each in scenario.contenders if self._only in each.name]
        return chosen if not chosen or BARE in chosen else [BARE, *chosen]

    def training(self, plan: Sequence[Training]) -> list[TrainingRun]:
        """Files of training data, each between bare loops of its own."""
        runs = [self._attempt(each.name, material.measure_training, each) for each in plan if self._only in each.name]
        return [run for run in runs if run is not None]

    def figures(self, measure: Callable[[Lab, Any], list[Figure]], plan: Sequence[Any]) -> list[Figure]:
        """What is one number or two."""
        figures: list[Figure] = []
        for each in plan:
            if self._only in each.name:
                figures += self._attempt(each.name, measure, each) or []
        return figures

    def _attempt(self, name: str, measure: Callable[..., Any], *arguments: Any) -> Any:
        self._say(name)
        try:
            return measure(self._lab, *arguments)
        except RunError as error:
            self._say(f"failed: {error}")
            self.failed = True
            return None

    def _say(self, sentence: str) -> None:
        print(f"{self.seconds:6.1f} s  {sentence}", file=sys.stderr, flush=True)


def measure(bench: Bench, plan: Plan) -> Results:
    """Everything in the plan."""
    training = bench.training(plan.training)
    return Results(
        [rounds for each in plan.comparisons if (rounds := bench.comparison(each)).contenders],
        [asked for prompt in plan.one_prompt if (asked := bench.one_prompt(prompt)).contenders],
        training,
        [
            *bench.figures(measuring.measure_one_core, plan.one_core),
            *bench.figures(measuring.measure_scale, plan.scales),
            *bench.figures(measuring.measure_budgeted, plan.budgeted),
            *bench.figures(by_batch.measure_by_batch, plan.by_batch),
            *bench.figures(measuring.measure_submit, plan.submits),
            *bench.figures(measuring.measure_start_up, plan.start_ups),
            *bench.figures(measuring.measure_paced, plan.paced),
            *material.memory_of_rows(training),
            *bench.figures(material.measure_preparing, plan.preparing),
            *bench.figures(material.measure_memory_of_pictures, plan.memory_of_pictures),
            *bench.figures(material.measure_captioning, plan.captioning),
        ],
    )


def main() -> int:
    """Measure what was asked for; 1 only when something could not be measured, for a missed target is a result."""
    arguments = _parser().parse_args()
    if arguments.readme and (lacking := report.documents_without_block()):
        sys.exit(f"{', '.join(lacking)}: no <!-- bench --> and <!-- /bench --> lines to write between.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that servers and workers end with us
    load = os.getloadavg()[0]
    with Lab() as lab:
        bench = Bench(lab, arguments.only)
        results = measure(bench, _plan(arguments))
    text = report.markdown(results, bench.seconds, load)
    print(text)
    if arguments.readme:
        report.publish(text, results)
    return int(bench.failed)


def _plan(arguments: argparse.Namespace) -> Plan:
    """What was asked for; a shortened one is held against no target."""
    plan = scenarios.full(arguments.million) if arguments.full else scenarios.quick()
    if arguments.rows:
        comparisons = tuple(replace(each, rows=arguments.rows, goals={}) for each in plan.comparisons)
        plan = replace(plan, comparisons=comparisons)
    if arguments.rounds:
        plan = replace(
            plan,
            comparisons=tuple(replace(each, rounds=arguments.rounds) for each in plan.comparisons),
            one_prompt=tuple(replace(each, rounds=arguments.rounds) for each in plan.one_prompt),
        )
    return plan


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Speed, CPU and memory, measured.")
    parser.add_argument("--full", action="store_true", help="also peers, a million prompts and what takes minutes")
    parser.add_argument("--only", default="", metavar="NAME", help="only scenarios or contenders whose name holds this")
    parser.add_argument("--rows", type=int, help="this many prompts in the comparisons; held against no target")
    parser.add_argument("--rounds", type=int, help="this many rounds of each comparison")
    parser.add_argument(
        "--million", type=int, default=1_000_000, metavar="ROWS", help="what --full takes for a million"
    )
    parser.add_argument("--readme", action="store_true", help="write the result into docs/ and README.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
