"""Everything that commands print has one look: tables for people, JSON for scripts."""

import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TextIO

import typer

from tidemill.models.text import printable, printable_json
from tidemill.producer.screen.tables import Column, lay_out

USUAL_WIDTH = 80


def print_line(text: str, *, err: bool = False) -> None:
    """Print a line or lines of ours; names and errors in them may be a stranger's, and act on no terminal."""
    typer.echo(printable(text), err=err)


def print_text(text: str, *, err: bool = False) -> None:
    """Print a model's text: exactly as it is into a pipe or file, harmless on a terminal."""
    typer.echo(printable(text) if (sys.stderr if err else sys.stdout).isatty() else text, err=err)


def print_json(value: object, *, err: bool = False) -> None:
    """Print one JSON value on one line; what could act on a terminal is escaped, which leaves the value as it is."""
    typer.echo(printable_json(json.dumps(value, ensure_ascii=False, default=_in_json)), err=err)


def _in_json(value: object) -> str:
    """A value that JSON has no form for: times as everywhere, ISO 8601."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


class JsonLines:
    """stdout for lines of JSON, which are written as `print_json` would."""

    def write(self, lines: bytes) -> int:
        """Write whole lines, which the reader gets at once."""
        text = lines.decode()
        shown = "\n".join(map(printable_json, text.split("\n"))) if not text.isascii() or "\x7f" in text else text
        written = sys.stdout.buffer.write(shown.encode())
        self.flush()
        return written

    def flush(self) -> None:
        """Write what is buffered."""
        sys.stdout.buffer.flush()


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    """Print a table that fits the terminal; piped, each row is one line."""

    head, *lines = lay_out(columns, rows, terminal_width(sys.stdout)) or [""]
    typer.echo(typer.style(head, bold=True) if is_lively(sys.stdout) else head)
    for line in lines:
        typer.echo(line)


def print_entries(entries: Sequence[tuple[str, str]]) -> None:
    """Print texts beside their labels; on a terminal, what is longer than a line goes on below where it began."""
    import textwrap

    room = max((len(label) for label, _ in entries), default=0) + 2
    width = terminal_width(sys.stdout)
    for label, text in entries:
        lines = [f"{label:<{room}}{printable(text)}".rstrip()]
        if width is not None and 2 * room < width < len(lines[0]):
            behind = " " * room
            lines = textwrap.wrap(
                lines[0], width, subsequent_indent=behind, break_long_words=False, break_on_hyphens=False
            )
        for line in lines:
            typer.echo(line)


def terminal_width(stream: TextIO) -> int | None:
    """How many cells a line has, as COLUMNS or the terminal itself says; None for a pipe or a file."""
    if not stream.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH
    except (OSError, ValueError):
        return USUAL_WIDTH


def is_lively(stream: TextIO) -> bool:
    """Whether it is a terminal that can do more than print lines."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
