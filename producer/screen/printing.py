"""Everything that commands print has one look: tables for people, JSON for scripts."""

import json
import sys
from collections.abc import Sequence

import typer

from tidemill.models.text import one_line, printable, printable_json

PIPED_WIDTH = 200
LONGEST_CELL = 90
SHORTEST_COLUMN = 12


def print_line(text: str, *, err: bool = False) -> None:
    """Print a line or lines of ours; names and errors in them may be a stranger's, and act on no terminal."""
    typer.echo(printable(text), err=err)


def print_text(text: str, *, err: bool = False) -> None:
    """Print a model's text: exactly as it is into a pipe or file, harmless on a terminal."""
    typer.echo(printable(text) if (sys.stderr if err else sys.stdout).isatty() else text, err=err)


def print_json(value: object, *, err: bool = False) -> None:
    """Print one JSON value on one line; what could act on a terminal is escaped, which leaves the value as it is."""
    typer.echo(printable_json(json.dumps(value, ensure_ascii=False, default=str)), err=err)


class JsonLines:
    """stdout for lines of JSON, which are written as `print_json` would."""

    def write(self, lines: bytes) -> int:
        """Write whole lines."""
        text = lines.decode()
        shown = "\n".join(map(printable_json, text.split("\n"))) if not text.isascii() or "\x7f" in text else text
        return sys.stdout.buffer.write(shown.encode())

    def flush(self) -> None:
        """Write what is buffered."""
        sys.stdout.buffer.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table that fits the terminal; the first column is never cut. Piped, it is wide and has no colours."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        widest = max((len(str(row[number])) for row in rows), default=0)
        short = max(len(column), min(widest, SHORTEST_COLUMN)) if number else max(len(column), widest)
        table.add_column(column, overflow="ellipsis", no_wrap=True, min_width=short)
    for row in rows:
        table.add_row(*(Text(one_line(str(cell), LONGEST_CELL)) for cell in row))
    console = Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)
    console.print(table)
