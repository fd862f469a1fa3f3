"""A picture says at a glance where the money went: a bar for each group, of what was used, wasted and saved."""

import math
from collections.abc import Iterator
from html import escape
from pathlib import Path

from tidemill.models.cost import format_usd
from tidemill.models.errors import InputError
from tidemill.models.files import replacing
from tidemill.models.text import one_line, printable
from tidemill.producer.costing.costs import Costs, Group, usd

MOST_BARS = 40
"""Of days the last ones are drawn, of other groups those that cost most."""

_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_WIDTH, _LEFT, _RIGHT = 800, 190, 690
_TOP, _STEP, _THICK, _FOOT = 112, 26, 16, 46
_INK, _GREY, _GRID, _PAPER = "#1f2933", "#616e7c", "#e4e7eb", "#ffffff"
_PARTS = (("spent", "#1d4e89"), ("wasted of it", "#f08a24"), ("saved", "#bdd0e6"))
"""In the order of a bar. The three differ also in grey, and for every kind of colour blindness."""
_LONGEST_LABEL = 26


def check_name(name: str) -> None:
    """Raise InputError if a chart cannot be of this kind, before anything is read."""
    if Path(name).suffix.lower() != ".svg":
        raise InputError(f"{name!r}: a chart of costs is an .svg file, such as costs.svg.")


def save(costs: Costs, name: str) -> None:
    """Draw the groups into a file. Raises InputError if it cannot be written."""
    try:
        with replacing(Path(name)) as file:
            file.write(draw(costs).encode())
    except OSError as error:
        raise InputError(f"{name}: cannot be written ({error.strerror or error}).") from None


def draw(costs: Costs) -> str:
    """The groups as a document that stands alone: no script, style sheet, font or link."""
    groups = costs.groups[-MOST_BARS:] if costs.by == "day" else costs.groups[:MOST_BARS]
    bottom = _TOP + _STEP * len(groups)
    most = max((group.all.spent_e12 + group.all.saved_e12 for group in groups), default=0)
    step = _round_step(usd(most))
    end = max(step, step * math.ceil(usd(most) / step - 1e-9))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + _FOOT}" width="{_WIDTH}" '
        f'height="{bottom + _FOOT}" font-family="{_FONTS}" role="img">',
        f'<rect width="{_WIDTH}" height="{bottom + _FOOT}" fill="{_PAPER}"/>',
        *_head(costs),
        *_grid(step, end, bottom),
    ]
    for number, group in enumerate(groups):
        parts += _bar(group, _TOP + _STEP * number + _STEP / 2, end)
    return "\n".join([*parts, "</svg>", ""])


def _head(costs: Costs) -> Iterator[str]:
    total, span = costs.total, costs.span
    days = [f"since {span.since}" if span.since else "", f"until {span.until}" if span.until else ""]
    title = " ".join(["Costs by", costs.by, f"of {span.batch_id}" if span.batch_id else "", *days]).split()
    yield _label(24, 36, " ".join(title), colour=_INK, size=16)
    spent, saved = format_usd(total.all.spent_usd), format_usd(usd(total.all.saved_e12))
    wasted = format_usd(usd(total.wasted_e12))
    unpriced = f"  ·  {total.all.unpriced:,} calls at unknown prices" if total.all.unpriced else ""
    yield _label(24, 58, f"spent {spent}  ·  {wasted} of it wasted  ·  saved {saved}{unpriced}", size=13)
    for number, (name, colour) in enumerate(_PARTS):
        left = _LEFT + 120 * number
        yield f'<rect x="{left}" y="76" width="12" height="12" rx="2" fill="{colour}"/>'
        yield _label(left + 18, 86, name, colour=_INK)


def _grid(step: float, end: float, bottom: float) -> Iterator[str]:
    for number in range(round(end / step) + 1):
        x = _LEFT + (_RIGHT - _LEFT) * number * step / end
        yield f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="{_GRID}"/>'
        yield _label(x, bottom + 18, f"${number * step:,.10g}", anchor="middle")


def _bar(group: Group, middle: float, end: float) -> Iterator[str]:
    amounts = (group.all.spent_e12 - group.wasted_e12, group.wasted_e12, group.all.saved_e12)
    yield _label(_LEFT - 10, middle + 4, one_line(group.label or "none", _LONGEST_LABEL), anchor="end", colour=_INK)
    x = float(_LEFT)
    for amount, (name, colour) in zip(amounts, _PARTS, strict=True):
        width = (_RIGHT - _LEFT) * usd(amount) / end
        if width > 0:
            shape = f'x="{x:.2f}" y="{middle - _THICK / 2}" width="{max(width, 0.5):.2f}" height="{_THICK}"'
            title = escape(f"{group.label or 'none'}: {format_usd(usd(amount))} {name}")
            yield f'<rect {shape} fill="{colour}"><title>{printable(title)}</title></rect>'
        x += width
    yield _label(x + 8, middle + 4, format_usd(group.all.spent_usd))


def _label(x: float, y: float, text: str, *, anchor: str = "start", colour: str = _GREY, size: int = 12) -> str:
    style = f'fill="{colour}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(printable(text))}</text>'


def _round_step(most: float) -> float:
    """1, 2 or 5 times a power of ten, of which three to seven reach the highest amount."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most / 3))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * 7 >= most)
