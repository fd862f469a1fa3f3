"""At any width, every table shows what matters most; nothing that a person copies is cut, and no word is broken."""

import io
import re
import sys
import time
from collections.abc import Sequence
from itertools import chain, repeat

import pytest
from rich.cells import cell_len

from tidemill.producer.asking import assistants, dialogues
from tidemill.producer.batches import control
from tidemill.producer.batches.progress import Progress
from tidemill.producer.cli import doctor
from tidemill.producer.rehearsing import rehearsal
from tidemill.producer.screen.display import LONGEST_BAR, SHORTEST_BAR, Part, ProgressBar, Rate, fit, parts_of
from tidemill.producer.screen.printing import is_lively, print_table, terminal_width
from tidemill.producer.screen.tables import Column, lay_out
from tidemill.producer.training import fine_tune_pages

WIDTHS = (20, 36, 50, 80, 120, 200)
FINE_TUNED = "ft:gpt-4.1-mini-2025-04-14:acme:help:Bx1"
COST = "$0.0004 and unknown prices"
CHINESE = "产品评论分类与情感分析🎣" * 9

TABLES: dict[str, tuple[Sequence[Column], list[tuple[object, ...]], tuple[str, ...]]] = {
    "status": (
        control.COLUMNS,
        [
            ("prompts-7801e5", "gpt-6-luna", "11-28 04:05", "533", "531", "2", "0", "61,204", "$0.021", "done"),
            (
                "评论-7801e6",
                "org/model-instruct-2025-07",
                "11-28 04:06",
                *["1,000,000"] * 4,
                "9",
                "unknown price",
                "open",
            ),
            (
                "a-very-long-source-name-of-20261128-7801e7",
                "m",
                "1",
                *"1234",
                "0",
                "$0.0004 and unknown prices",
                "on hold",
            ),
        ],
        ("batch", "state", "cost"),
    ),
    "dialogues": (
        dialogues.COLUMNS,
        [(1234567890, "", "positive", "Why?", "Because."), (7, 1234567890, "unknown", CHINESE, "word " * 40)],
        ("id", "of"),
    ),
    "assistants": (
        assistants.COLUMNS,
        [
            ("support", "default", "gpt-6-luna", "asst_abc123XYZabc123XYZabc1", "Be kind. " * 20),
            ("助手", "", "", "", CHINESE),
        ],
        ("name", "id", ""),
    ),
    "models": (
        doctor.MODEL_COLUMNS,
        [("gpt-6-luna", "0.25", "2", "2027-01-14"), (FINE_TUNED, "unknown", "unknown", "")],
        ("model", "shuts down", "$/M in"),
    ),
    "settings": (
        doctor.SETTING_COLUMNS,
        [
            ("TIDEMILL_HOME", "/srv/mills/tide/share/tidemill-home", "folder of the embedded database"),
            ("X", "", "m " * 70),
        ],
        ("setting", "value"),
    ),
    "fine-tunes": (
        fine_tune_pages.COLUMNS,
        [
            (
                "help-1a2b3c",
                "help desk",
                "11-28 04:05",
                "gpt-4.1-mini",
                "succeeded",
                "ftjob-abc123XYZabc123XYZ",
                FINE_TUNED,
            ),
            ("x-1", CHINESE[:20], "11-28 04:05", "gpt-4.1-mini", "running", "ftjob-2", ""),
        ],
        ("id", "status", "provider's id", "fine-tuned model"),
    ),
    "rehearse": (
        rehearsal.COLUMNS,
        [("prompts", "300"), ("paid again", "24 (61 were in flight in what was killed)"), ("seed", "4711")],
        ("what", "came to"),
    ),
}
"""Name -> columns, rows, and the columns that matter most."""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TABLES)
def test_every_table_keeps_what_matters_at_every_width(name: str, width: int) -> None:
    columns, rows, important = TABLES[name]
    lines = lay_out(columns, rows, width)
    text = "\n".join(lines)
    words = {word for row in rows for cell in row for word in str(cell).split()}
    for line in lines:
        assert cell_len(line) <= width or line.strip() in words  # one that is longer than a line
    for row in rows:
        for column, cell in zip(columns, row, strict=True):
            if column.is_text:
                assert str(cell)[:2] in text
            elif column.name in important:
                assert str(cell) in re.sub(r"\n +", " ", text)
            else:
                assert all(word in text for word in str(cell).split())


@pytest.mark.parametrize("name", TABLES)
def test_a_pipe_gets_one_line_a_row_and_nothing_cut_but_texts(name: str) -> None:
    columns, rows, _ = TABLES[name]
    head, *lines = lay_out(columns, rows, None)
    assert len(lines) == len(rows)
    assert [head.find(each.name) for each in columns] == sorted(head.find(each.name) for each in columns)
    for row, line in zip(rows, lines, strict=True):
        assert all(str(cell).strip() in line for column, cell in zip(columns, row, strict=True) if not column.is_text)


def test_a_table_at_80_columns() -> None:
    columns, rows, _ = TABLES["status"]
    assert lay_out(columns, rows[:1] + rows[2:], 80) == [
        "batch           rows  failed  open  tokens  cost                        state",
        "prompts-7801e5  533   2       0     61,204  $0.021                      done",
        "  succeeded: 531 · model: gpt-6-luna · created: 11-28 04:05",
        "a-very-long-source-name-of-20261128-7801e7",
        "                1     3       4     0       $0.0004 and unknown prices  on hold",
        "  succeeded: 2 · model: m · created: 1",
    ]


def test_a_narrow_terminal_gets_a_list() -> None:
    columns, rows, _ = TABLES["status"]
    assert lay_out(columns, rows[:2], 40)[8:12] == ["cost: $0.021", "state: done", "", "batch: 评论-7801e6"]


def test_an_empty_table_is_its_header() -> None:
    columns, _, _ = TABLES["rehearse"]
    assert [lay_out(columns, [], width) for width in (None, 80)] == [["what  came to"]] * 2
    assert lay_out(TABLES["status"][0], [], 50) == ["batch  rows  succeeded  failed  open  cost  state"]


# --- the progress line ---

COUNTS = {
    "small": Progress({"queued": 325, "running": 0, "succeeded": 673, "failed": 2, "cancelled": 0}, 40_284, 0.017),
    "large": Progress(
        {"queued": 876_544, "running": 0, "succeeded": 122_222, "failed": 1234, "cancelled": 0}, 123_456_789, 1234.5, 7
    ),
    "held": Progress(
        {"queued": 9, "running": 0, "succeeded": 1, "failed": 0, "cancelled": 0}, 9, None, hold_reason="x"
    ),
    "paused": Progress({"queued": 9, "running": 0, "succeeded": 1, "failed": 0, "cancelled": 0}, 9, state="paused"),
    "at the provider": Progress(
        {"queued": 0, "running": 9, "succeeded": 1, "failed": 0, "cancelled": 0}, 9, at_provider=9, done_there=7
    ),
}


def rate(monkeypatch: pytest.MonkeyPatch, counts: Progress, seconds: float = 10.0) -> Rate:
    """As it is after so many seconds in which a fifth of the rows ended."""
    sampled = Rate()
    at = chain((0.0,), repeat(seconds))
    monkeypatch.setattr(time, "monotonic", lambda: next(at))
    before = Progress({**counts.states, "succeeded": counts.states["succeeded"] * 4 // 5, "queued": 0})
    for each in (before, counts):
        sampled.count(each)
    monkeypatch.undo()
    return sampled


@pytest.mark.parametrize("width", [30, *WIDTHS[2:]])
@pytest.mark.parametrize("name", COUNTS)
def test_the_progress_line_is_one_line_of_whole_parts(monkeypatch: pytest.MonkeyPatch, name: str, width: int) -> None:
    counts = COUNTS[name]
    parts = [*parts_of(counts, False, rate(monkeypatch, counts)), Part("0:00:03", 8)]
    bar, text = fit(parts, width)
    assert bar == 0 or SHORTEST_BAR <= bar <= LONGEST_BAR
    assert (bar and bar + 1) + cell_len(text) <= max(width, cell_len(parts[0].text))
    assert set(text.split(" · ")) <= {part.text for part in parts}
    assert text.startswith(parts[0].text)
    if width >= 50 and name != "large":
        assert counts.cost() in text
        assert {"held": "on hold", "paused": "paused", "at the provider": "9 at the provider"}.get(name, "") in text
    if width >= (200 if name == "large" else 120):
        assert all(part.text in text for part in parts[:-1])


def test_the_progress_line_of_the_readme_has_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Progress({"queued": 325, "running": 0, "succeeded": 675, "failed": 0, "cancelled": 0}, 40_284, 0.017)
    parts = parts_of(counts, False, rate(monkeypatch, counts, 135 / 213))
    assert fit(parts, 78) == (15, "675/1,000 done · 40,284 tokens · $0.017 · 213 rows/s · ETA 2 s")


class Terminal(io.StringIO):
    """A terminal that keeps what it shows."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", ["50", "80", "200"])
def test_the_bar_itself_is_one_line(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = ProgressBar()
    bar.update(COUNTS["large"], reading=True)
    bar._console.file = io.StringIO()
    bar._console.print(bar._progress.get_renderable())
    shown = bar._console.file.getvalue().rstrip("\n")
    assert "\n" not in shown
    assert "123,456/1,000,000+ done, 1,234 failed" in shown
    assert cell_len(re.sub(r"\x1b\[[0-9;]*m", "", shown).rstrip()) <= int(columns)


@pytest.mark.parametrize(
    ("columns", "width"), [("80", 80), ("0", 80), ("", 80), ("wide", 80), ("-5", 80), ("7", 7)], ids=repr
)
def test_the_width_is_what_columns_says_where_that_makes_sense(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal_width(Terminal()) == width
    assert terminal_width(io.StringIO()) is None


@pytest.mark.parametrize(("term", "is_bold"), [("xterm-256color", True), ("dumb", False), ("unknown", False)])
def test_only_a_lively_terminal_gets_bold_heads(monkeypatch: pytest.MonkeyPatch, term: str, is_bold: bool) -> None:
    monkeypatch.setenv("TERM", term)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    print_table([Column("id", 1)], [("x",)])
    assert ("\x1b[1m" in terminal.getvalue()) is is_bold is is_lively(terminal)
    assert terminal.getvalue().endswith("x\n")
