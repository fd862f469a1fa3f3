"""A table shows what matters most at any width: what has no room stands in a line of its own below its row.

Nothing that a person copies is ever cut. Into a pipe every row is one line, however wide, whatever COLUMNS says.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tidemill.models.text import one_line

LONGEST_TEXT = 90
SHORTEST_TEXT = 20
NARROWEST_TABLE = 50
"""Below this a row is a list of `name: value`."""

_GAP = "  "
_BETWEEN = " · "
_LONGEST_EXACT = 2000


class Column(NamedTuple):
    """A column, its rank (the most important one is 1), and whether its text may be cut."""

    name: str
    rank: int
    is_text: bool = False


def width_of(text: str) -> int:
    """How many cells of a terminal a line takes. ASCII needs no table of widths, which takes a while to load."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[object]], width: int | None) -> list[str]:
    """The lines of a table, its header first.

    Args:
        columns: in the order in which they are shown; the first one says what the row is about.
        rows: as many cells in each.
        width: in cells of a terminal, where Chinese and emoji take two; None for a pipe.
    """
    shown = [[_shown(column, cell) for column, cell in zip(columns, row, strict=True)] for row in rows]
    by_column = zip(*shown, strict=True) if shown else [()] * len(columns)
    natural = [max(map(width_of, (each.name, *cells))) for each, cells in zip(columns, by_column, strict=True)]
    if width is None or sum(natural) + len(_GAP) * (len(columns) - 1) <= width:
        return [_line([column.name for column in columns], natural), *(_line(cells, natural) for cells in shown)]
    if width < NARROWEST_TABLE:
        return [line for cells in shown for line in (*_listed(columns, cells, width), "")][:-1]
    widths = _widths(columns, shown, width)
    lines = [_line([columns[place].name for place in widths], list(widths.values()))]
    for cells in shown:
        lines += _row(columns, cells, widths, width)
    return lines


def _shown(column: Column, cell: object) -> str:
    return one_line(str(cell), LONGEST_TEXT if column.is_text else _LONGEST_EXACT)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """The width of each column that has room, by its place; the most important ones choose first."""
    chosen: dict[int, int] = {}
    natural = {place: max((width_of(cells[place]) for cells in rows), default=0) for place in range(len(columns))}
    for place in sorted(natural, key=lambda place: columns[place].rank):
        room = width // 3 if not chosen else width - sum(chosen.values()) - len(_GAP) * len(chosen)
        lengths = [width_of(cells[place]) for cells in rows if cells[place]]
        if columns[place].is_text:
            lengths = [min(natural[place], SHORTEST_TEXT)]
        fitting = [length for length in lengths if length <= room]
        least = max(width_of(columns[place].name), *fitting, 0)
        if not chosen or (least <= room and 2 * len(fitting) >= len(lengths)):
            chosen[place] = least
    room = width - sum(chosen.values()) - len(_GAP) * (len(chosen) - 1)
    texts = sorted((place for place in chosen if columns[place].is_text), key=lambda place: natural[place])
    for number, place in enumerate(texts):  # equal shares of what is left, unless one needs less
        more = max(0, min(natural[place] - chosen[place], room // (len(texts) - number)))
        chosen[place] += more
        room -= more
    return dict(sorted(chosen.items()))


def _row(columns: Sequence[Column], cells: Sequence[str], widths: dict[int, int], width: int) -> Iterator[str]:
    """A row's lines. What is too long for its column stands below; but a first cell above, for it names the row."""
    beside = {place: cells[place] for place in widths}
    folded = {place for place in range(len(cells)) if place not in widths}
    for place, text in beside.items():
        if width_of(text) > widths[place] and not columns[place].is_text:
            beside[place] = ""
            folded.add(place)
    if 0 in folded:
        yield cells[0]
    yield _line(list(beside.values()), list(widths.values()))
    below = sorted(folded - {0}, key=lambda place: columns[place].rank)
    yield from _filled([_named(columns[place], cells[place], width - len(_GAP)) for place in below], width, _GAP)


def _listed(columns: Sequence[Column], cells: Sequence[str], width: int) -> Iterator[str]:
    for column, cell in zip(columns, cells, strict=True):
        yield from _filled([_named(column, cell, width)], width, "")


def _named(column: Column, cell: str, width: int) -> str:
    text = cell and (f"{column.name}: {cell}" if column.name else cell)
    return _cut(text, width) if column.is_text else text


def _filled(items: Sequence[str], width: int, indent: str) -> Iterator[str]:
    """Items side by side; one that is longer than a line is broken at blanks, and nowhere else."""
    line = ""
    for item in filter(None, items):
        words = item.split(" ") if width_of(indent + item) > width else [item]
        between = _BETWEEN
        for word in words:
            if line and width_of(indent + line + between + word) > width:
                yield indent + line
                line = "" if between == _BETWEEN else _GAP
                between = ""
            line += (between if line else "") + word
            between = " "
    if line:
        yield indent + line


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    pairs = zip(cells, widths, strict=True)
    return _GAP.join(_padded(_cut(cell, width), width) for cell, width in pairs).rstrip()


def _cut(text: str, width: int) -> str:
    if width_of(text) <= width:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, width - 1).rstrip() + "…"


def _padded(text: str, width: int) -> str:
    return text + " " * (width - width_of(text))
