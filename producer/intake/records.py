"""Reading lines, tables and requests have this in common: a record, and a bad one's report.

It stands below producer/lines.py, requests.py and intake.py and imports none of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from tidemill.models.errors import InputError

Record: TypeAlias = dict[str, Any]
"""One row of a source: its columns."""

Records: TypeAlias = Iterator[tuple[int, Record]]
"""Records with their numbers, which count lines or rows as the source's owner does."""


class BadRowError(Exception):
    """One row cannot be used; the text says why and is completed with the source's name and the row's number."""


@dataclass(slots=True)
class Input:
    """A source's name, what its numbers count, and what became of its bad rows so far.

    `on_bad_row` gets a sentence for each bad row that is skipped.
    """

    name: str
    skip_bad_rows: bool
    on_bad_row: Callable[[str], None]
    unit: str = "line"
    bad_rows: int = 0

    def bad(self, number: int, why: object) -> None:
        """Report a bad row and go on, or raise InputError when bad rows are not to be skipped."""
        sentence = f"{self.name} {self.unit} {number}: {why}"
        if not self.skip_bad_rows:
            raise InputError(f"{sentence}; mend it, or go on without such rows with --skip-bad-rows")
        self.bad_rows += 1
        self.on_bad_row(sentence)

    def fault(self, why: str, number: int | None = None) -> InputError:
        """The error for what no skipping can mend."""
        return InputError(f"{self.name} {why}" if number is None else f"{self.name} {self.unit} {number}: {why}")


def json_kind(value: Any) -> str:
    """What a parsed JSON value is, as words in a sentence."""
    kinds = {
        dict: "a JSON object",
        list: "a JSON list",
        str: "a JSON string",
        bool: "true or false",
        type(None): "null",
    }
    return kinds.get(type(value), "a number")
