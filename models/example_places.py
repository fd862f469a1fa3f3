"""A provider counts the lines of a file that it was sent; the owner of the examples knows them by their own rows.

A dataset keeps where each line of its files is from: as runs of lines that follow each other at both places, since
leaving out, splitting and sorting move few of them.
"""

import re
from collections.abc import Iterable, Iterator

from tidemill.models.json_types import JsonObject

Origin = tuple[str, str, int]
"""Where an example is from: file, unit, number; such as `data.csv`, `row`, 7."""

_MOST_NUMBERS = 5
_LINE = re.compile(
    r"\b(?:examples?|lines?|rows?|items?|records?|entry|entries|samples?)\b"
    r"(?:\s+(?:numbers?|no\.?|at|with|ids?))?\s*(?P<index>\bindex(?:es)?\s+)?[:#(\[]*\s*"
    r"(?P<numbers>\d{1,9}(?:\s*(?:,|and|&|to|-|–)\s*\d{1,9})*)(?!\d|\s*,?\s*col)",
    re.IGNORECASE,
)
"""How servers name lines: "Example 4, message 2", "(line 1273)", "Flagged lines: 3, 17"; not "line 1 column 79"."""


def runs_of(origins: Iterable[Origin]) -> JsonObject:
    """The origins of a file's lines, in their order, as JSON.

    It is `{"files": [[name, unit]], "runs": [[place in files, first number, count]]}`.
    """
    files: dict[tuple[str, str], int] = {}
    runs: list[list[int]] = []
    for name, unit, number in origins:
        file = files.setdefault((name, unit), len(files))
        if runs and runs[-1][0] == file and sum(runs[-1][1:]) == number:
            runs[-1][2] += 1
        else:
            runs.append([file, number, 1])
    return {"files": [list(file) for file in files], "runs": runs}


def origin_of(line: int, places: JsonObject) -> str | None:
    """Where a line, counted from 1, is from, for sentences: "data.csv row 7"; None if that is not known."""
    for file, first, count in places["runs"] if line > 0 else ():
        if line <= count:
            name, unit = places["files"][file]
            return f"{name} {unit} {first + line - 1}".lstrip()
        line -= count
    return None


def lines_in(message: str) -> list[int]:
    """The lines of a file that a server's message names, counted from 1; the first of many."""
    return [*dict.fromkeys(_numbers(message))][:_MOST_NUMBERS]


def _numbers(message: str) -> Iterator[int]:
    for match in _LINE.finditer(message):
        for digits in re.findall(r"\d+", match["numbers"]):
            yield int(digits) + (1 if match["index"] else 0)
