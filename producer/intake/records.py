"""Lines, tables and requests share two things: what a record is, and how a bad row is reported."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject

Record: TypeAlias = JsonObject
"""One row of a source: its columns."""

Records: TypeAlias = Iterator[tuple[int, Record]]
"""Records with their numbers, which count lines or rows as the owner of the source does."""


class BadRowError(Exception):
    """One row cannot be used. The text says why; the input's name and the row's number are put before it."""


def _ignore(_sentence: str) -> None:
    """Nobody is told."""


@dataclass(slots=True)
class Input:
    """A source that is being read: its name, what its numbers count, and how many bad rows it had so far.

    `on_bad_row` gets a sentence for each bad row that is skipped, `on_note` one for what to know of the whole.
    """

    name: str
    skip_bad_rows: bool
    on_bad_row: Callable[[str], None]
    unit: str = "line"
    bad_rows: int = 0
    on_note: Callable[[str], None] = _ignore

    def report_bad_row(self, number: int, why: object) -> None:
        """Count a bad row and report it; raise InputError when bad rows are not to be skipped."""
        sentence = f"{self.name} {self.unit} {number}: {why}"
        if not self.skip_bad_rows:
            raise InputError(f"{sentence}; fix it, or leave such rows out with --skip-bad-rows")
        self.bad_rows += 1
        self.on_bad_row(sentence)

    def note(self, sentence: str) -> None:
        """Say what a user should know of the input; its name is put before it."""
        self.on_note(f"{self.name} {sentence}")

    def fault(self, why: str, number: int | None = None) -> InputError:
        """The error for what skipping rows cannot fix."""
        return InputError(f"{self.name} {why}" if number is None else f"{self.name} {self.unit} {number}: {why}")


def json_kind(value: object) -> str:
    """What kind of JSON value this is, in words for a sentence."""
    kinds = {
        dict: "a JSON object",
        list: "a JSON list",
        str: "a JSON string",
        bool: "true or false",
        type(None): "null",
    }
    return kinds.get(type(value), "a number")
