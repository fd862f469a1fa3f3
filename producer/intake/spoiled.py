"""Text that went through the wrong encoding before it came here is valid UTF-8, and a model gets nonsense for money."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tidemill.producer.intake.records import Input

_LEAD = "[\u00c2-\u00f4]"
_TAIL = "[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
"""Bytes 0x80 to 0xbf as Latin-1 and Windows-1252 show them."""

_MISREAD = re.compile(f"{_LEAD}{_TAIL}+")
_CONTROLS = re.compile("[\x80-\x9f]")
_LOST = re.compile("\ufffd|锟斤拷")
_MOST_TRIED = 20


class Spoiling(NamedTuple):
    """What is wrong with a text, in words for a sentence after "holds"; and what to do."""

    kind: str
    remedy: str


CONTROLS = Spoiling(
    "C1 control characters (U+0080 to U+009F)",
    "Windows-1252 was read as Latin-1: convert the original with iconv -f WINDOWS-1252 -t UTF-8",
)
MISREAD = Spoiling(
    "what looks like UTF-8 read as Windows-1252 (Ã©, â€™)", "read the original as UTF-8, and save it as UTF-8 once only"
)
LOST = Spoiling("replacement characters (U+FFFD)", "letters were lost when it was decoded: go back to the original")


def spoiling(text: str) -> Spoiling | None:
    """What an encoding has done to a text; None where nothing shows."""
    if text.isascii():
        return None
    if _LOST.search(text) is not None:
        return LOST
    if any(map(_is_misread, _first_matches(text))):
        return MISREAD
    return CONTROLS if _CONTROLS.search(text) is not None else None


def _first_matches(text: str) -> Iterator[str]:
    for number, match in enumerate(_MISREAD.finditer(text)):
        if number == _MOST_TRIED:
            return
        yield match[0]


def _is_misread(run: str) -> bool:
    """Whether the characters are the bytes of one in UTF-8: `Ã©` is, `Â«` and capitals before a quotation mark are too.

    Only what a person would hardly write counts: a letter of two bytes, or the sign of three that begins with â.
    """
    try:
        content = b"".join(each.encode("latin-1" if each < "\u0100" else "cp1252") for each in run)
        meant = content.decode()
    except UnicodeError:
        return False
    return meant[0].isalpha() or run.startswith(("â€", "Â\u00a0", "ð", "ï»"))


class SpoiledRows:
    """Says of an input which of its rows were spoiled: the first one at once, and how many in the end."""

    def __init__(self, input_: Input) -> None:
        self._input = input_
        self._rows: dict[Spoiling, int] = {}

    def look(self, number: int, texts: Iterator[str]) -> None:
        """Look at the texts of a row."""
        for kind in {each for each in map(spoiling, texts) if each is not None}:
            self._rows[kind] = self._rows.get(kind, 0) + 1
            if self._rows[kind] == 1:
                self._input.note(f"holds {kind.kind}, first in {self._input.unit} {number}. {_sentence(kind.remedy)}")

    def say_counts(self) -> None:
        """Say how many rows there were, where it was more than the one that was named."""
        for kind, rows in self._rows.items():
            if rows > 1:
                self._input.note(f"holds {kind.kind} in {rows:,} rows.")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def texts_of(value: object) -> Iterator[str]:
    """All texts in a JSON value."""
    pending: list[object] = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            pending += each.values()
        elif isinstance(each, list):
            pending += each
