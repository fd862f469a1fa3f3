"""The same result on stdout, in the documents and as a plot, always with the machine that it is from."""

import os
import platform
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tests.benchmarks import peers
from tests.benchmarks.material import TrainingRun
from tests.benchmarks.measuring import Figure, Rounds
from tests.benchmarks.provider import nginx_binary
from tests.benchmarks.scenarios import (
    BARE,
    FLEXLLM,
    IN_FLIGHT,
    Comparison,
    Contender,
    Goals,
    OnePrompt,
    Peer,
    Target,
)

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
SPEED = ROOT / "docs" / "speed.md"
PLOT = ROOT / "docs" / "bench.svg"

_BLOCK = re.compile(r"(?<=<!-- bench -->\n).*?(?=<!-- /bench -->)", re.DOTALL)
_OURS = "embedded http"
"""What README speaks of: there is nothing to set up."""

_TRAINING_CAPTION = (
    "Training data: questions and worked answers as in GSM8K, checked, split, priced and written. *command* is the "
    "whole of `tidemill train rows.jsonl --val 0.1 --export out.jsonl`, start-up included, and *rows/s* counts that "
    "time. *times bare* is that time over that of a loop of `orjson.loads` and `orjson.dumps` that checks nothing, "
    "without its start-up, run just before and just after. *peak* is the largest process."
)


class Results(NamedTuple):
    """All that one run has measured."""

    comparisons: Sequence[Rounds[Comparison]]
    prompts: Sequence[Rounds[OnePrompt]]
    training: Sequence[TrainingRun]
    figures: Sequence[Figure]


def markdown(results: Results, seconds: float, load: float) -> str:
    """The tables, what they mean, and where they are from: `load` is the machine's load average before the run."""
    parts = [_machine(seconds, load)]
    for comparison in results.comparisons:
        parts += [f"### {_title(comparison.scenario)}", _comparison(comparison)]
    for prompt in results.prompts:
        parts += ["### One prompt, answered at once", _one_prompt(prompt)]
    if results.training:
        cells = [[cell(run) for cell in _TRAINING_COLUMNS.values()] for run in results.training]
        parts += ["### Training data", _table(_TRAINING_COLUMNS, cells), _TRAINING_CAPTION]
    if results.figures:
        rows = [[each.name, _judged(each.form, each.value, each.target), each.beside] for each in results.figures]
        parts += ["### Single figures", _table(["figure", "measured", "beside"], rows)]
    return "\n\n".join(parts) + "\n"


def publish(text: str, results: Results) -> None:
    """Write the block of docs/speed.md and the plot that it shows, and README's sentence."""
    if results.comparisons:
        plot(results.comparisons, PLOT)
        text = f"![Speed, CPU and memory]({PLOT.name})\n\n{text}"
    _write_block(SPEED, text)
    for each in results.comparisons:
        # README says nothing of a shortened comparison, which has no goals.
        share = each.times_as_fast(_OURS, BARE.name)
        if share and each.scenario.goals and any(each.scenario.latency_ms):
            _write_block(README, _sentence(each, share))


def _sentence(result: Rounds[Comparison], share: float) -> str:
    took = median(run.seconds for run in result.runs(_OURS))
    percent = f"{share:.0%}".replace("%", " %")
    return (
        f"With SQLite on {os.cpu_count()} cores, `tidemill ask` asked {result.scenario.rows:,} prompts and stored the "
        f"answers in {took:.1f} seconds, start and end\nincluded: {percent} of the speed of a bare loop that stores "
        "nothing.\n"
    )


def documents_without_block() -> list[str]:
    """Which documents lack the place for it? Better asked before minutes of measuring."""
    return [path.name for path in (SPEED, README) if not _BLOCK.search(path.read_text(encoding="utf-8"))]


def _write_block(path: Path, text: str) -> None:
    path.write_text(_BLOCK.sub(lambda _: text, path.read_text(encoding="utf-8")), encoding="utf-8")


# --- tables ---


def _comparison(result: Rounds[Comparison]) -> str:
    """One line a contender: medians of all rounds, and how far apart the walls were."""
    rows = []
    for contender in result.contenders:
        runs, goals = result.runs(contender.name), result.scenario.goals.get(contender.name, Goals())
        walls, roles = [run.seconds for run in runs], ("command", "worker")
        peaks = {role: median(run.peak_mb[role] for run in runs) for role in roles if role in runs[0].peak_mb}
        rows.append(
            [
                _label(contender),
                f"{median(walls):.2f} s ({min(walls):.2f}–{max(walls):.2f})",
                f"{result.scenario.rows / median(walls):,.0f}",
                _times(result, contender, BARE, goals.share),
                _times(result, contender, FLEXLLM, goals.over_flexllm),
                _judged("{:.2f}", median(run.cpu_ms for run in runs), goals.cpu_ms),
                ", ".join(f"{peaks[role]:.0f}" if role in peaks else "–" for role in roles),
            ]
        )
    head = ["", "command", "prompts/s", "of bare", "over flexllm", "CPU ms a prompt", "peak MB: command, worker"]
    return _table(head, rows)


def _one_prompt(result: Rounds[OnePrompt]) -> str:
    rows = []
    for contender in result.contenders:
        runs, goals = result.runs(contender.name), result.scenario.goals.get(contender.name)
        rows.append(
            [
                _label(contender),
                _judged("{:.2f} s", median(run.first_seconds for run in runs), goals and goals.first),
                _judged("{:.2f} s", median(run.seconds for run in runs), goals and goals.back),
                f"{median(run.cpu_ms for run in runs) / 1000:.2f} s",
            ]
        )
    return _table(["", "first answer", "back at the shell", "CPU"], rows)


_TRAINING_COLUMNS: dict[str, Callable[[TrainingRun], str]] = {
    "rows to train on": lambda run: f"{run.scenario.rows:,}",
    "command": lambda run: _judged("{:.1f} s", run.seconds, run.scenario.seconds),
    "rows/s": lambda run: f"{run.scenario.rows / run.seconds:,.0f}",
    "times bare": lambda run: f"{run.seconds / run.bare_seconds:,.0f}",
    "peak MB": lambda run: f"{run.peak_mb:.0f}",
}


def _title(scenario: Comparison) -> str:
    return f"{scenario.name}, {IN_FLIGHT} in flight"


def _label(contender: Contender) -> str:
    return f"{contender.name} {peers.version(contender)}" if isinstance(contender, Peer) else contender.name


def _times(result: Rounds[Comparison], contender: Contender, other: Contender, target: Target | None) -> str:
    times = None if contender == other else result.times_as_fast(contender.name, other.name)
    return "" if times is None else _judged("{:.2f}", times, target)


def _judged(form: str, value: float, target: Target | None) -> str:
    if target is None:
        return form.format(value)
    limit = f"{'≥' if target.at_least else '≤'} {form.format(target.limit)}"
    return f"{form.format(value)} ({limit})" if target.is_met(value) else f"**{form.format(value)}** ({limit}, missed)"


def _table(head: Any, rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machine(seconds: float, load: float) -> str:
    model = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists() and (named := re.search(r"model name\s*:\s*(.+)", cpus.read_text())):
        model = named[1]
    at_once = "nginx" if nginx_binary() else "tests/benchmarks/responder.py"
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} in one run of {seconds:.0f} s: {model}, {os.cpu_count()} cores, "
        f"{platform.system()}, Python {platform.python_version()}; load average before the run {load:.1f}. "
        f"What answers at once is {at_once}."
    )


# --- plot ---


def _peak_mb(result: Rounds[Comparison], name: str) -> float:
    return median(max(run.peak_mb.values()) for run in result.runs(name))


_PANELS: dict[str, Callable[[Rounds[Comparison], str], float]] = {
    "speed, of the bare loop": lambda result, name: result.times_as_fast(name, BARE.name) or 0,
    "CPU, ms a prompt": lambda result, name: median(run.cpu_ms for run in result.runs(name)),
    "peak memory, MB (largest process)": _peak_mb,
}
_COLOURS = ("#9ecae1", "#08519c")


def plot(compared: Sequence[Rounds[Comparison]], path: Path) -> None:
    """Bars: one group a contender, one bar a comparison."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams |= {"svg.hashsalt": "tidemill", "svg.fonttype": "none", "font.size": 9}
    names = list(dict.fromkeys(each.name for result in compared for each in result.contenders))
    thickness = 0.8 / len(compared)
    figure, panels = plt.subplots(
        1, len(_PANELS), figsize=(12, 1 + 0.55 * len(names)), sharey=True, layout="constrained"
    )
    for panel, (title, value) in zip(panels, _PANELS.items(), strict=True):
        for number, (result, colour) in enumerate(zip(compared, _COLOURS, strict=False)):
            here = [each.name for each in result.contenders]
            places = [names.index(name) + (number - (len(compared) - 1) / 2) * thickness for name in here]
            lengths = [value(result, name) for name in here]
            panel.bar_label(
                panel.barh(places, lengths, thickness, color=colour, label=_title(result.scenario)),
                fmt="{:,.3g}",
                padding=2,
                fontsize=7,
            )
        panel.set_title(title)
        panel.margins(x=0.15)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(compared), frameon=False
    )
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
