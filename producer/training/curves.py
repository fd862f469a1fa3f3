"""Curves show whether a fine-tune learned, or only learned by heart.

`_charts` says what the two charts, loss and accuracy, show. A terminal gets them in characters; these sixty lines need
no library, while plotext's wheel is compiled for each platform. `_shapes` says where everything lies in a file. An SVG
needs nothing installed; for a PNG, matplotlib paints the same shapes (extra `plots`; this is its one door). If
matplotlib laid out both, an SVG would need its 40 MB too.
"""

import math
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from tidemill.models.errors import InputError
from tidemill.models.files import replacing
from tidemill.models.metrics import Point
from tidemill.models.text import one_line

XY = tuple[float, float]

_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_WIDTH, _LEFT, _RIGHT = 800, 64, 756
_TOP, _TALL, _NEXT = 92, 200, 290  # where the first chart begins, how high one is, how far below the next begins
_FOOT = 258  # from where the last chart begins to the end of the picture
_INK, _GREY, _GRID, _PAPER = "#1f2933", "#616e7c", "#e4e7eb", "#ffffff"
_TITLE_PX, _TEXT_PX = 16, 12
_TERMINAL_ROWS = 7  # so that both charts fit into 24 lines, prompt included
_NARROWEST = 40
_FEW = 40  # a series of no more points has a mark at each
_PARTS = 240  # a file shows a series of more than twice as many points as so many means
_TINY, _HUGE = 1e-30, 1e100  # values beyond are drawn as 0 or as this, so that no arithmetic fails
_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


class _Kind(NamedTuple):
    """How one kind of measurement is drawn: in a file as a line; in a terminal with `mark`, or if empty in braille."""

    name: str
    prefix: str
    colour: str
    pale: str
    mark: str


# Dark blue before light orange: the two differ also in grey, and for every kind of colour blindness.
_KINDS = (
    _Kind("training", "train", "#1d4e89", "#bdd0e6", ""),
    _Kind("validation", "valid", "#f08a24", "#fbd8b4", "o"),
    _Kind("full validation", "full_valid", "#b3261e", "#f0c2bf", "x"),
)


@dataclass(frozen=True)
class _Chart:
    """What one chart shows: series of (step, value), not empty; the ends of both axes; a note on what is off them."""

    name: str
    series: list[tuple[_Kind, list[XY]]]
    steps: XY
    values: XY
    note: str

    def place(self, at: XY) -> XY:
        """Where a point lies: 0 to 1 from the left, 0 to 1 from the top. A value off the chart lies on its edge."""
        (left, right), (low, high) = self.steps, self.values
        return (at[0] - left) / (right - left), min(1.0, max(0.0, (high - at[1]) / (high - low)))


class _Line(NamedTuple):
    points: list[XY]
    colour: str
    width: float


class _Dot(NamedTuple):
    at: XY
    colour: str
    radius: float


class _Label(NamedTuple):
    at: XY
    text: str
    colour: str
    size: float
    anchor: str  # of SVG: start, middle or end


_Shape = _Line | _Dot | _Label


# --- what others call ---


def draw_terminal(points: Sequence[Point], width: int, title: str) -> str:
    """The charts as lines of at most `width` (40 or more) characters, without colours. Training is a line of dots."""
    width = max(width, _NARROWEST)
    charts = _charts(points)
    parts = [_in_characters(chart, width) for chart in charts] or ["Neither loss nor accuracy is known yet."]
    return "\n".join([one_line(title, width), *parts])


def save(points: Sequence[Point], path: str | Path, title: str) -> None:
    """Write the charts to `path` as .svg or .png (1600 pixels wide), whole or not at all.

    Raises:
        InputError: another ending, no points, a file that cannot be written, or for PNG no matplotlib.
    """
    target = Path(path)
    write = {".svg": _svg, ".png": _png}.get(target.suffix.lower())
    if write is None:
        raise InputError(f"{path} has to end in .svg or .png: curves are saved as one of the two.")
    charts = _charts(points)
    if not charts:
        raise InputError(f"{path} was not written: neither loss nor accuracy is known yet.")
    try:
        picture = write(_shapes(charts, one_line(title, 72)), _TOP + _NEXT * (len(charts) - 1) + _FOOT)
    except ImportError as error:
        raise InputError(
            f"{path} needs matplotlib to be written: pip install 'tidemill[plots]', or give a name that ends in .svg."
        ) from error
    try:
        with replacing(target) as file:
            file.write(picture)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


# --- what is shown ---


def _charts(points: Sequence[Point]) -> list[_Chart]:
    """A chart for loss and one for accuracy, if measured; both have the same steps."""
    measured = {name: _series(points, name) for name in ("loss", "accuracy")}
    steps = [step for series in measured.values() for _, known in series for step, _ in known]
    if not steps:
        return []
    first, last = min(steps), max(steps)
    if first == last:
        first, last = max(0, first - 1), last + 1
    return [_chart(name, series, (first, last)) for name, series in measured.items() if series]


def _series(points: Sequence[Point], name: str) -> list[tuple[_Kind, list[XY]]]:
    series = []
    for kind in _KINDS:
        values = ((point.step, getattr(point, f"{kind.prefix}_{name}")) for point in points)
        known: list[XY] = sorted((step, _drawable(value)) for step, value in values if value is not None)
        if known:
            series.append((kind, known))
    return series


def _drawable(value: float) -> float:
    return max(-_HUGE, min(_HUGE, value)) if abs(value) >= _TINY else 0.0


def _chart(name: str, series: list[tuple[_Kind, list[XY]]], steps: XY) -> _Chart:
    columns = [[value for _, value in known] for _, known in series]
    low, top = min(map(min, columns)), max(map(max, columns))
    high = max(max(_without_spikes(values)) for values in columns)
    if top - low <= 3 * (high - low):
        high = top
    if high - low <= 1e-9 * abs(high):  # all values are the same: a line in the middle
        room = abs(high) / 10 or 0.5
        low, high = (max(0.0, low - room) if low >= 0 else low - room), high + room
    unit = _unit(low, high, 4)
    low, high = math.floor(low / unit + 1e-6) * unit, math.ceil(high / unit - 1e-6) * unit
    if name == "accuracy" and top <= 1:
        high = min(1.0, high)
    off = sum(value > high for values in columns for value in values)
    note = f"points above this chart: {off:,}, the highest at {top:.4g}" if off else ""
    return _Chart(name, series, steps, (low, high), note)


def _without_spikes(values: list[float]) -> list[float]:
    """Running medians of five, which one or two outliers do not change. The first value stays: from there it fell."""
    if len(values) < 8:
        return values
    return values[:1] + [sorted(values[at - 2 : at + 3])[2] for at in range(2, len(values) - 2)]


def _parts(series: list[XY], steps: XY, most: int) -> list[list[XY]]:
    """A series cut into at most `most` pieces of equal length in steps; if there are few points, each alone."""
    if len(series) <= 2 * most:
        return [[at] for at in series]
    parts: dict[int, list[XY]] = {}
    for step, value in series:
        part = min(most - 1, int((step - steps[0]) / (steps[1] - steps[0]) * most))
        parts.setdefault(part, []).append((step, value))
    return list(parts.values())


def _mean(part: list[XY]) -> XY:
    return fmean(step for step, _ in part), fmean(value for _, value in part)


def _extremes(part: list[XY]) -> list[XY]:
    return sorted({min(part, key=itemgetter(1)), max(part, key=itemgetter(1))})


def _unit(low: float, high: float, parts: int) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that divides the range into `parts` or fewer."""
    power = 10.0 ** math.floor(math.log10((high - low) / parts))
    return next(factor * power for factor in (1, 2, 5, 10) if (high - low) / (factor * power) <= parts * 1.0001)


def _ticks(low: float, high: float, parts: int, *, whole: bool = False) -> list[tuple[float, str]]:
    """Round numbers from `low` to `high`, and how they are written."""
    unit = _unit(low, high, parts)
    unit = max(1.0, unit) if whole else unit
    decimals = max(0, -math.floor(math.log10(unit) + 1e-9))
    shape = f",.{decimals}f" if decimals <= 5 and max(abs(low), abs(high)) < 1e9 else ".4g"
    numbers = range(math.ceil(low / unit - 1e-6), math.floor(high / unit + 1e-6) + 1)
    return [(number * unit, format(number * unit, shape)) for number in numbers]


# --- in characters ---


def _in_characters(chart: _Chart, width: int) -> str:
    values = _ticks(*chart.values, 4)
    gutter = max(len(text) for _, text in values) + 1
    columns = width - gutter - 2
    grid = [[" "] * columns for _ in range(_TERMINAL_ROWS)]
    for kind, series in chart.series:
        for row, column, sign in _signs(chart, kind, series, columns):
            grid[row][column] = sign
    labels = {round(chart.place((0, value))[1] * (4 * _TERMINAL_ROWS - 1)) // 4: text for value, text in values}
    rows = [
        f"{labels.get(row, ''):>{gutter}} {'┤' if row in labels else '│'}{''.join(cells)}".rstrip()
        for row, cells in enumerate(grid)
    ]
    axis, below = ["─"] * columns, [" "] * columns
    for value, text in _ticks(*chart.steps, max(2, columns // 14), whole=True):
        column = round(chart.place((value, 0))[0] * (columns - 1))
        start = min(max(0, column - len(text) // 2), columns - len(text))
        axis[column] = "┬"
        below[start : start + len(text)] = text
    last = "  ".join(f"{kind.mark or '⠒⠒'} {kind.name} {series[-1][1]:.3g}" for kind, series in chart.series)
    heading = textwrap.wrap(f"{chart.name} (last)  {last}", width)
    indent = " " * (gutter + 1)
    footer = [f"{indent}└{''.join(axis)}", f"{indent} {''.join(below)}".rstrip(), *textwrap.wrap(chart.note, width)]
    return "\n".join(["", *heading, *rows, *footer])


def _signs(chart: _Chart, kind: _Kind, series: list[XY], columns: int) -> Iterator[tuple[int, int, str]]:
    """(row, column, character) of a series: its mark at each point, or a line of braille dots, 2 x 4 in a character."""
    across, down = 2 * columns - 1, 4 * _TERMINAL_ROWS - 1
    places = (chart.place(_mean(part)) for part in _parts(series, chart.steps, columns))
    dots = [(round(x * across), round(y * down)) for x, y in places]
    if kind.mark or len(dots) == 1:
        yield from ((y // 4, x // 2, kind.mark or "⠶") for x, y in dots)
        return
    cells: dict[tuple[int, int], int] = {}
    for (x, y), (to_x, to_y) in pairwise(dots):
        length = max(abs(to_x - x), abs(to_y - y), 1)
        for part in range(length + 1):
            at_x, at_y = x + round((to_x - x) * part / length), y + round((to_y - y) * part / length)
            cells[at_y // 4, at_x // 2] = cells.get((at_y // 4, at_x // 2), 0) | _BRAILLE[at_y % 4][at_x % 2]
    yield from ((row, column, chr(0x2800 + mask)) for (row, column), mask in cells.items())


# --- in a file ---


def _shapes(charts: Sequence[_Chart], title: str) -> list[_Shape]:
    """Everything that is drawn, in order; places are pixels from the upper left of a picture 800 wide."""
    shapes: list[_Shape] = [_Label((_LEFT, 40), title, _INK, _TITLE_PX, "start")]
    for number, chart in enumerate(charts):
        shapes += _frame(chart, _TOP + number * _NEXT)
        shapes += _curves(chart, _TOP + number * _NEXT)
    return shapes


def _frame(chart: _Chart, top: float) -> Iterator[_Shape]:
    """A chart's name, legend, grid and labels."""
    bottom = top + _TALL
    yield _Label((_LEFT, top - 14), chart.name, _INK, _TEXT_PX + 2, "start")
    for place, (kind, series) in enumerate(chart.series):
        left = _LEFT + 100 + 190 * place
        yield _Line([(left, top - 18), (left + 22, top - 18)], kind.colour, 3)
        yield _Label((left + 30, top - 14), f"{kind.name}, last {series[-1][1]:.4g}", _INK, _TEXT_PX, "start")
    for value, text in _ticks(*chart.values, 4):
        y = top + chart.place((0, value))[1] * _TALL
        yield _Line([(_LEFT, y), (_RIGHT, y)], _GRID, 1)
        yield _Label((_LEFT - 8, y + 4), text, _GREY, _TEXT_PX, "end")
    for value, text in _ticks(*chart.steps, 8, whole=True):
        x = _LEFT + chart.place((value, 0))[0] * (_RIGHT - _LEFT)
        yield _Line([(x, bottom), (x, bottom + 5)], _GREY, 1)
        yield _Label((x, bottom + 19), text, _GREY, _TEXT_PX, "middle")
    yield _Label((_RIGHT, bottom + 38), "step", _GREY, _TEXT_PX, "end")
    yield _Label((_LEFT, bottom + 38), chart.note, _GREY, _TEXT_PX, "start")


def _curves(chart: _Chart, top: float) -> Iterator[_Shape]:
    """The series as lines, and the axis. Many points become their means, before a pale band from lowest to highest."""

    def placed(series: Iterable[XY]) -> list[XY]:
        return [(_LEFT + x * (_RIGHT - _LEFT), top + y * _TALL) for x, y in map(chart.place, series)]

    drawn = [(kind, _parts(series, chart.steps, _PARTS)) for kind, series in chart.series]
    for kind, parts in drawn:
        if any(len(part) > 1 for part in parts):
            yield _Line(placed(at for part in parts for at in _extremes(part)), kind.pale, 1.5)
    yield _Line([(_LEFT, top + _TALL), (_RIGHT, top + _TALL)], _GREY, 1)
    for kind, parts in drawn:
        dots = placed(map(_mean, parts))
        yield _Line(dots, kind.colour, 1.5)
        if len(dots) <= _FEW:
            yield from (_Dot(dot, kind.colour, 3) for dot in dots)


def _svg(shapes: Sequence[_Shape], height: int) -> bytes:
    """The shapes as a document that stands alone: no script, style sheet, font or link."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="{_FONTS}" role="img">',
        f'<rect width="{_WIDTH}" height="{height}" fill="{_PAPER}"/>',
    ]
    for shape in shapes:
        match shape:
            case _Line(points, colour, width):
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
                style = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"'
                parts.append(f'<polyline points="{path}" {style}/>')
            case _Dot((x, y), colour, radius):
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>')
            case _Label((x, y), text, colour, size, anchor):
                style = f'fill="{colour}" font-size="{size}" text-anchor="{anchor}"'
                parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>')
    return "\n".join([*parts, "</svg>", ""]).encode()


def _png(shapes: Sequence[_Shape], height: int) -> bytes:
    """The shapes in twice as many pixels. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    points = 72 / 100  # a pixel of ours in points: a hundred of them are an inch of the figure
    figure = Figure(figsize=(_WIDTH / 100, height / 100), facecolor=_PAPER)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    sides = {"start": "left", "middle": "center", "end": "right"}
    for shape in shapes:
        match shape:
            case _Line(line, colour, width):
                axes.plot(*zip(*line, strict=True), color=colour, linewidth=width * points, solid_joinstyle="round")
            case _Dot((x, y), colour, radius):
                axes.plot([x], [y], "o", color=colour, markersize=2 * radius * points, markeredgewidth=0)
            case _Label((x, y), text, colour, size, anchor):
                axes.text(x, y, text, color=colour, fontsize=size * points, ha=sides[anchor], parse_math=False)
    picture = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # if the font lacks the title's script, boxes are enough
        figure.savefig(picture, format="png", dpi=200)
    return picture.getvalue()
