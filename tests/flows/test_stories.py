"""The worked stories of the documents are run, line by line, and what they show is what comes out.

A line that begins with `$` is typed, `^C` is pressed once some rows are answered, and `$ echo $?` asks how the command
before it ended. Other lines are output: all of it, but for ids and numbers other than 0; `…` is any words or lines.
"""

import csv
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.flows.tidemill import Ran, Tidemill
from tests.house.sources import document
from tests.pictures import encoded, photo, write
from tidemill.simulator import Simulator

ROWS = 200
"""Of the ten thousand; three of them are refused once."""

ANSWERED_FIRST = 40
"""Rows that are answered when Ctrl-C is pressed."""


class Step(NamedTuple):
    """What is typed, and the lines that are shown below it."""

    typed: str
    shown: list[str]


def steps(page: str) -> Iterator[Step]:
    """What a page types, in its order."""
    for block in re.findall(r"(?m)(?:^ {4}.*\n)+", page):
        lines = re.sub(r" \\\n *", " ", re.sub(r"(?m)^ {4}", "", block)).splitlines()
        for line in lines:
            if line.startswith("$ "):
                yield (step := Step(line.removeprefix("$ "), []))
            else:
                step.shown.append(line)


def pattern(shown: list[str]) -> str:
    """What the output looks like, whatever its numbers are."""
    lines = ["(?:.*\n)*?" if line == "…" else f"{re.escape(plain(line)).replace('…', '.*')}\n" for line in shown]
    return "".join(lines)


def plain(text: str) -> str:
    """Without what differs from run to run: numbers but for 0, ids, and so the width of columns."""
    text = re.sub(r"(?<=[-:])[0-9a-f]{6,}\b", "ID", text)
    text = re.sub(r"(?m)\b\d+ s$", "N s", text)
    text = re.sub(r"<?\$?(?!0(?![\d.,]))\d[\d,.]*(?<=\d)", "N", text)
    return re.sub(r"  +|─+|█+", "  ", text)


def reviews(folder: Path) -> None:
    texts = ["It boils fast and looks good.", "Broke after two days.", "It is a kettle.", "Too loud. I sent it back."]
    with (folder / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "review"])
        for number in range(ROWS):
            refused = "!!422*1 " if number >= ROWS - 3 else ""
            table.writerow([f"R{number}", f"{refused}{texts[number % 4]} (order {number})"])


def photos(folder: Path) -> None:
    names = ("beach.jpg", "harbour.png", "mill.jpg")
    pictures = {
        name: encoded(photo(96, 64, seed), "PNG" if name.endswith("png") else "JPEG") for seed, name in enumerate(names)
    }
    (folder / "photos").mkdir()
    (folder / "found").mkdir()
    write(folder / "photos", {**pictures, "harbour-copy.png": pictures["harbour.png"]})
    write(folder / "found", {"sunset.jpg": encoded(photo(96, 64, 9), "JPEG")})
    (folder / "photos" / "sunset.jpg").write_text("<!doctype html><title>Not found</title>")


def questions(folder: Path) -> None:
    lines = "".join(f"How do I return order {1000 + number}?\n" for number in range(60))
    (folder / "questions.csv").write_text(f"question\n{lines}")


class Reader:
    """Somebody who types what a page says."""

    def __init__(self, tidemill: Tidemill, simulator: Simulator) -> None:
        self._tidemill, self._simulator = tidemill, simulator
        self._code = 0

    def type(self, step: Step) -> None:
        """Type a step, and compare what comes out with what is shown."""
        shown = [line for line in step.shown if line != "^C"]
        words = shlex.split(step.typed)
        if step.typed == "echo $?":
            assert [str(self._code)] == shown
            self._code = 0
            return
        assert self._code == 0, f"the page does not say how this ended, with {self._code}, before: {step.typed}"
        if words[0] != "tidemill":
            done = subprocess.run(
                ["bash", "-c", step.typed], cwd=self._tidemill.folder, capture_output=True, text=True, check=True
            )
            ran = Ran(0, done.stdout, done.stderr)
        elif "^C" in step.shown:
            ran = self._interrupted(words[1:])
        else:
            ran = self._tidemill(*map(self._actual, words[1:]))
        self._code = ran.code
        if shown:
            output = plain(ran.err + ran.out)
            assert re.fullmatch(pattern(shown), output), f"{step.typed}\n{output}"

    def _interrupted(self, words: list[str]) -> Ran:
        paid = self._simulator.counters()["paid"]
        self._simulator.control(gate=ANSWERED_FIRST)
        with self._tidemill.started(*words) as running:
            running.until(lambda: self._simulator.counters()["paid"] == paid + ANSWERED_FIRST, "some are answered")
            running.signal(signal.SIGINT)
            running.says("in flight may end")
            self._simulator.control(gate="open")
            return running.ended()

    def _actual(self, word: str) -> str:
        """The model that was trained here, where the page names its own."""
        return self._simulator.tunings()[0]["fine_tuned_model"] if word.startswith("ft:") else word


@pytest.mark.parametrize(
    ("page", "prepare"),
    [("docs/story-prompts.md", reviews), ("docs/story-photos.md", photos), ("docs/story-fine-tune.md", questions)],
)
def test_a_story_happens_as_it_is_told(
    page: str, prepare: Callable[[Path], None], tidemill: Tidemill, simulator: Simulator
) -> None:
    simulator.control(latency_ms=10, tuning_seconds=0)
    tidemill.environment["TIDEMILL_WINDOW"] = "16"
    prepare(tidemill.folder)
    reader = Reader(tidemill, simulator)
    told = list(steps(document(page)))
    assert len(told) > 4
    for step in told:
        reader.type(step)
