"""The same result on stdout, in the documents and as a plot, always with the machine that it is from."""

import os
import platform
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

from tests.benchmarks.measuring import Figure, Run, TrainingRun
from tests.benchmarks.scenarios import IN_FLIGHT, JUDGED_FROM_ROWS, LATENCY_MS, BareLoop, Target

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
SPEED = ROOT / "docs" / "speed.md"
PLOT = ROOT / "docs" / "bench.svg"

_BLOCK = re.compile(r"(?<=<!-- bench -->\n).*?(?=<!-- /bench -->)", re.DOTALL)
_CAPTION = (
    f"{IN_FLIGHT} calls in flight, at most; the provider is a simulator with {LATENCY_MS} ms mean latency (lognormal) "
    "on the same machine. *prompts/s* counts from the first attempt in the ledger, which is written before the call "
    "is sent, until every row is stored and its sentiment judged; for the bare loop from the first call to the last "
    "reply. *of bare* compares it with the bare loops run just before and just after. *stored/s* leaves out the wait "
    "for sentiment. *command* is the whole of `tidemill ask -i .. -o ..`, "
    "start-up and the file of answers included. *CPU* is ms a prompt, all our processes together, in brackets without "
    "start-up and end. *peak* is the largest process of its kind. Targets, in brackets with ≥ or ≤, count from "
    f"{JUDGED_FROM_ROWS:,} prompts on."
)
_TRAINING_CAPTION = (
    "Training data: questions and worked answers as in GSM8K, checked, split, priced and written. *command* is the "
    "whole of `tidemill train rows.jsonl --val 0.1 --export out.jsonl`, start-up included, and *rows/s* counts that "
    "time. *times bare* is that time over that of a loop of `orjson.loads` and `orjson.dumps` that checks nothing, "
    "without its start-up, run just before and just after. *peak* is the largest process."
)


def markdown(
    runs: Sequence[Run], training: Sequence[TrainingRun], figures: Sequence[Figure], seconds: float, load: float
) -> str:
    """The tables, what they mean, and where they are from: `load` is the machine's load average before the run."""
    parts = [_machine(seconds, load)]
    if runs:
        parts += [_table({"scenario": "", **_COLUMNS}, [_cells(same) for same in _grouped(runs)]), _CAPTION]
    if training:
        cells = [[cell(run) for cell in _TRAINING_COLUMNS.values()] for run in training]
        parts += [_table(_TRAINING_COLUMNS, cells), _TRAINING_CAPTION]
    if figures:
        rows = [[each.name, _judged(each.form, each.value, each.target)] for each in figures]
        parts.append(_table(["figure", "measured"], rows))
    return "\n\n".join(parts) + "\n"


def publish(text: str, runs: Sequence[Run]) -> None:
    """Write the block of docs/speed.md and the plot that it shows, and README's sentence."""
    if runs:
        plot(runs, PLOT)
        text = f"![Rate, CPU and memory]({PLOT.name})\n\n{text}"
    _write_block(SPEED, text)
    if (best := _most_rows(runs)) is not None and best.share:
        share = f"{best.share:.0%}".replace("%", " %")
        _write_block(
            README,
            f"With SQLite on {os.cpu_count()} cores, Tidemill stored {best.rate:,.0f} answers a second: {share} of the "
            "rate of a bare loop\nthat stores nothing.\n",
        )


def documents_without_block() -> list[str]:
    """Which documents lack the place for it? Better asked before five minutes of measuring."""
    return [path.name for path in (SPEED, README) if not _BLOCK.search(path.read_text(encoding="utf-8"))]


def _write_block(path: Path, text: str) -> None:
    path.write_text(_BLOCK.sub(lambda _: text, path.read_text(encoding="utf-8")), encoding="utf-8")


def _most_rows(runs: Sequence[Run]) -> Run | None:
    """The run that README speaks of: nothing to set up, and the most prompts; None where all were short."""
    embedded = [run for run in runs if run.scenario.name == "embedded http" and run.rows >= JUDGED_FROM_ROWS]
    return max(embedded, key=lambda run: run.rows, default=None)


# --- tables ---

_COLUMNS: dict[str, Callable[[Run], str]] = {
    "prompts": lambda run: f"{run.rows:,}",
    "prompts/s": lambda run: f"{run.rate:,.0f}",
    "of bare": lambda run: _judged("{:.2f}", run.share, run.target("share")) if run.share else "",
    "stored/s": lambda run: f"{run.stored_rate:,.0f}" if run.stored_rate else "",
    "command": lambda run: f"{run.wall_seconds:.1f} s",
    "CPU": lambda run: f"{_judged('{:.2f}', run.cpu_ms, run.target('cpu_ms'))} [{run.busy_cpu_ms:.2f}]",
    "peak MB: command, worker, judge": lambda run: ", ".join(
        f"{run.peak_mb[role]:.0f}" if role in run.peak_mb else "–" for role in ("command", "worker", "judge")
    ),
    "in flight": lambda run: f"{run.max_in_flight}",
}

_TRAINING_COLUMNS: dict[str, Callable[[TrainingRun], str]] = {
    "rows to train on": lambda run: f"{run.scenario.rows:,}",
    "command": lambda run: _judged("{:.1f} s", run.seconds, run.scenario.seconds),
    "rows/s": lambda run: f"{run.scenario.rows / run.seconds:,.0f}",
    "times bare": lambda run: f"{run.seconds / run.bare_seconds:,.0f}",
    "peak MB": lambda run: f"{run.peak_mb:.0f}",
}


def _cells(same: Sequence[Run]) -> list[str]:
    """A line of the table; bare loops of the same size are one line, with how far apart they were."""
    cells = [same[0].scenario.name, *(cell(same[0]) for cell in _COLUMNS.values())]
    if len(same) > 1:
        rates = [run.rate for run in same]
        cells[2] = f"{mean(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f})"
    return cells


def _grouped(runs: Sequence[Run]) -> list[list[Run]]:
    def key(run: Run) -> tuple[int, str]:
        return run.rows, "" if isinstance(run.scenario, BareLoop) else run.scenario.name

    return [list(same) for _, same in groupby(sorted(runs, key=key), key)]


def _judged(form: str, value: float, target: Target | None) -> str:
    if target is None:
        return form.format(value)
    wanted = f"{'≥' if target.at_least else '≤'} {form.format(target.limit)}"
    return (
        f"{form.format(value)} ({wanted})" if target.is_met(value) else f"**{form.format(value)}** ({wanted}, missed)"
    )


def _table(head: Any, rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machine(seconds: float, load: float) -> str:
    model = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists() and (named := re.search(r"model name\s*:\s*(.+)", cpus.read_text())):
        model = named[1]
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} in one run of {seconds:.0f} s: {model}, {os.cpu_count()} cores, "
        f"{platform.system()}, Python {platform.python_version()}; load average before the run {load:.1f}."
    )


# --- plot ---

_PANELS: dict[str, Callable[[Run], float]] = {
    "prompts a second": lambda run: run.rate,
    "CPU, ms a prompt": lambda run: run.cpu_ms,
    "peak memory, MB (command or worker)": lambda run: max(run.peak_mb["command"], run.peak_mb.get("worker", 0)),
}
_COLOURS = ("#9ecae1", "#4292c6", "#08519c")


def plot(runs: Sequence[Run], path: Path) -> None:
    """Bars: one group a scenario, one bar a number of prompts."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams |= {"svg.hashsalt": "tidemill", "svg.fonttype": "none", "font.size": 9}
    groups = _grouped(runs)
    names = list(dict.fromkeys(run.scenario.name for run in runs))
    sizes = sorted({run.rows for run in runs})
    thickness = 0.8 / len(sizes)
    figure, panels = plt.subplots(
        1, len(_PANELS), figsize=(12, 1 + 0.55 * len(names)), sharey=True, layout="constrained"
    )
    for panel, (title, value) in zip(panels, _PANELS.items(), strict=True):
        for number, (size, colour) in enumerate(zip(sizes, _COLOURS, strict=False)):
            here = [same for same in groups if same[0].rows == size]
            places = [names.index(same[0].scenario.name) + (number - (len(sizes) - 1) / 2) * thickness for same in here]
            lengths = [mean(map(value, same)) for same in here]
            panel.bar_label(
                panel.barh(places, lengths, thickness, color=colour, label=f"{size:,} prompts"),
                fmt="{:,.3g}" if max(lengths) < 100 else "{:,.0f}",
                padding=2,
                fontsize=7,
            )
        panel.set_title(title)
        panel.margins(x=0.15)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(sizes), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
