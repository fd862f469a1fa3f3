"""Everything that commands print has one look: tables for people, JSON for scripts."""

import json
import sys
from collections.abc import Sequence

import typer

from tidemill.models.text import one_line, printable

PIPED_WIDTH = 200
LONGEST_CELL = 90
SHORTEST_COLUMN = 12


def print_text(text: str, *, err: bool = False) -> None:
    """Print a model's text: exactly as it is into a pipe or file, harmless on a terminal."""
    typer.echo(printable(text) if (sys.stderr if err else sys.stdout).isatty() else text, err=err)


def print_json(value: object, *, err: bool = False) -> None:
    """Print one JSON value on one line."""
    typer.echo(json.dumps(value, ensure_ascii=False, default=str), err=err)


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
