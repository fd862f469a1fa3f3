"""Of a batch's rows, those that are wanted go to as many files as are named, with the columns that are wanted."""

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, or_

from tidemill import migrations
from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.models.scope import Scope
from tidemill.models.tables import STATES, dialogues, jobs
from tidemill.producer.batches.progress import counted, progress, resolve
from tidemill.producer.batches.results import (
    NUMBERS,
    REASONING,
    STDOUT,
    TOOL_CALLS,
    check_destination,
    has_header,
    text_of_cell,
    writing,
)
from tidemill.producer.batches.stored_rows import PAGE_ROWS, columns_of, rows_of
from tidemill.producer.intake.requests import listed
from tidemill.producer.screen.display import Ticker
from tidemill.producer.screen.printing import print_line

_COMPARISONS: dict[str, Callable[..., bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "~": operator.contains,
}
"""Longer signs first, so that `<=` is not read as `<`."""
_SIGNS = "|".join(_COMPARISONS)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows and columns are wanted, as they are typed; nothing is everything.

    `columns` and `statuses` may hold several names with commas between them. `where` are conditions such as
    `sentiment=negative`, all of which hold. `limit` counts rows, from the first that fits.
    """

    statuses: Sequence[str] = ()
    columns: Sequence[str] = ()
    where: Sequence[str] = ()
    limit: int | None = None


class Condition(NamedTuple):
    """A column, a sign of `_COMPARISONS`, and what the column is compared with; "" stands for nothing."""

    column: str
    sign: str
    value: str

    def holds(self, row: JsonObject) -> bool:
        """Whether it holds for a row. Numbers are compared as numbers, all else as text, and `~` in any case."""
        cell = row.get(self.column)
        text = text_of_cell(cell)
        if self.sign == "~":
            return self.value.casefold() in text.casefold()
        compare = _COMPARISONS[self.sign]
        number = _number(self.value)
        is_order = self.sign not in ("=", "!=")
        if number is not None and (is_order or not isinstance(cell, str)):
            own = _number(cell)
            return compare(own, number) if own is not None else self.sign == "!="
        return (cell is not None or not is_order) and compare(text, self.value)

    @property
    def in_database(self) -> ColumnElement[bool] | None:
        """The same as a condition of SQL, where the database can tell without reading texts."""
        column = {"status": jobs.c.state, "sentiment": dialogues.c.sentiment}.get(self.column)
        if column is None or self.sign not in ("=", "!=") or not self.value:
            return None
        return column == self.value if self.sign == "=" else or_(column != self.value, column.is_(None))


class _AnotherColumnError(Exception):
    """A tool is called for the first time, and a header has no column for it."""


def results(batch_id: str, outputs: Sequence[str], escape_formulas: bool, selection: Selection) -> None:
    """Write the rows that are wanted as they are now, and say how many there were."""
    check_destinations(outputs)
    migrations.ensure()
    batch_id = resolve(batch_id).id
    written = save(batch_id, outputs, selection, escape_formulas=escape_formulas)
    print_line(f"{counted(written, 'row')} written · {progress(Scope(batch_id)).summary()}", err=True)


def check_destinations(outputs: Sequence[str]) -> None:
    """Raise InputError where not all of them can be written."""
    if len(set(outputs)) < len(outputs) or (STDOUT in outputs and len(outputs) > 1):
        raise InputError("Each -o needs a file of its own, and - (stdout) stands alone: drop one.")
    for each in outputs:
        check_destination(each)


def save(
    batch_id: str,
    outputs: Sequence[str],
    selection: Selection | None = None,
    *,
    submission: int = 0,
    escape_formulas: bool = False,
) -> int:
    """Write the rows that are wanted to each of the files; returns how many there are. Memory is constant.

    Raises:
        InputError: a file cannot be written, or there is no such column or status.
    """
    selection = selection or Selection()
    every = columns_of(batch_id)
    conditions = [_condition(each, every) for each in selection.where]
    columns = _columns(selection.columns, every) or every
    wanted = _in_database(selection.statuses, conditions)

    def rows() -> Iterator[JsonObject]:
        pages = rows_of(batch_id, submission, condition=wanted)
        fitting = (row for page in pages for row in page if all(each.holds(row) for each in conditions))
        return islice(fitting, selection.limit)

    try:
        return _write(rows(), outputs, columns, has_all=not selection.columns, escape_formulas=escape_formulas)
    except _AnotherColumnError:
        more = [*columns, TOOL_CALLS]
        return _write(rows(), outputs, more, has_all=True, escape_formulas=escape_formulas)


def _write(
    rows: Iterator[JsonObject], outputs: Sequence[str], columns: list[str], *, has_all: bool, escape_formulas: bool
) -> int:
    """`has_all`: the columns are not chosen, so lines of JSON may have further ones."""
    lacks_calls = has_all and TOOL_CALLS not in columns and any(map(has_header, outputs))
    ticker, count = Ticker("written"), 0
    with ExitStack() as files:
        puts = [files.enter_context(writing(each, columns, escape_formulas=escape_formulas)) for each in outputs]
        while some := list(islice(rows, PAGE_ROWS)):
            if lacks_calls and any(TOOL_CALLS in row for row in some):
                raise _AnotherColumnError
            chosen = some if has_all else [{name: row.get(name) for name in columns} for row in some]
            for put in puts:
                put(chosen)
            count += len(some)
            ticker(count)
    return count


def _columns(typed: Sequence[str], every: Sequence[str]) -> list[str]:
    """The columns that are named, each once, in the order in which they are named."""
    known = {*every, TOOL_CALLS, REASONING}
    names = [name for each in typed for name in ([each] if each in known else each.split(","))]
    for name in names:
        if name not in known:
            raise InputError(_unknown_column(name, every))
    return list(dict.fromkeys(names))


def _condition(typed: str, every: Sequence[str]) -> Condition:
    """What `column=value` means; a column's name may itself hold a sign."""
    for name in sorted({*every, TOOL_CALLS, REASONING}, key=len, reverse=True):
        match = re.fullmatch(rf"{re.escape(name)} *({_SIGNS}) *(.*)", typed, re.DOTALL)
        if match is None:
            continue
        if name in NUMBERS and match[1] != "~" and match[2] and _number(match[2]) is None:
            raise InputError(f"--where {typed}: {name} is a number, and {match[2]!r} is none.")
        return Condition(name, match[1], match[2])
    name, sign, _ = re.split(f"({_SIGNS})", typed, maxsplit=1) if re.search(_SIGNS, typed) else (typed, "", "")
    if not sign:
        raise InputError(f"--where {typed!r} compares nothing; an example is --where sentiment=negative.")
    raise InputError(_unknown_column(name.strip(), every))


def _unknown_column(name: str, every: Sequence[str]) -> str:
    return f"There is no column {name!r}; the batch has these: {listed(every)}."


def _in_database(typed: Sequence[str], conditions: Sequence[Condition]) -> ColumnElement[bool] | None:
    """What the database can decide: it reads no text of the other rows."""
    statuses = [status.strip() for each in typed for status in each.split(",")]
    for status in statuses:
        if status not in STATES:
            raise InputError(f"There is no status {status!r}; rows are {', '.join(STATES)}.")
    parts = [part for each in conditions if (part := each.in_database) is not None]
    if statuses:
        parts.append(jobs.c.state.in_(statuses))
    return and_(*parts) if parts else None


def _number(value: object) -> Decimal | None:
    """The number that a cell or a text is."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
