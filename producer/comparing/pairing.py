"""Two batches can be compared only row by row, so it must be known which rows of them are the same.

Of each row memory holds its id and three hashes, 32 bytes. The rows themselves are read in pages.
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from sqlalchemy import Row, Select, bindparam, func, select

from tidemill.models.canonical import canonical
from tidemill.models.database import LONG_SECONDS, reading
from tidemill.models.errors import InputError
from tidemill.models.job_requests import read_ask_request
from tidemill.models.json_types import JsonObject
from tidemill.models.tables import attempts, jobs
from tidemill.models.text import dumps
from tidemill.producer.batches.results import REASONING, RESULT_COLUMNS, TOOL_CALLS
from tidemill.producer.batches.stored_rows import PAGE_ROWS, columns_of, rows_with_keys
from tidemill.producer.comparing.comparison import Answer, Pair
from tidemill.producer.screen.display import Ticker, ticked

if TYPE_CHECKING:
    from numpy.typing import NDArray

Ids: TypeAlias = "NDArray[np.int64]"
Hashes: TypeAlias = "NDArray[np.uint64]"

WAYS = ("custom_id", "columns", "asked")
"""What rows are known by, in the order in which it is tried; all else being different, by their position."""

NOUNS = {
    "custom_id": "their custom_id",
    "columns": "the input's columns",
    "asked": "what they ask",
    "position": "their position",
}
"""Way -> what is said of it: rows were matched by .."""

SAMPLE = "sample"
"""The way of rows that were chosen from the first batch, and asked anew in the second."""

_NO_INPUT = {*RESULT_COLUMNS, REASONING, TOOL_CALLS}
_NONE = 0
"""The hash of what a row does not have."""
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Which rows of two batches are the same: job ids, in the order of the first batch, and how that is known."""

    batches: tuple[str, str]
    ids: tuple[Ids, Ids]
    way: str
    only: tuple[int, int] = (0, 0)
    """How many rows only one of them has."""

    def __len__(self) -> int:
        return len(self.ids[0])

    def at(self, places: Sequence[int]) -> "Pairs":
        """Only the pairs at these places, in their order."""
        chosen = np.array(places, dtype=np.int64)
        return replace(self, ids=(self.ids[0][chosen], self.ids[1][chosen]))


class Identities(NamedTuple):
    """What the rows of a batch are known by, in input order; a hash for each of `WAYS`."""

    ids: Ids
    hashes: tuple[Hashes, ...]


def pair(a: str, b: str) -> Pairs:
    """Match the rows of two batches, in the way that matches most; of equal ones the first of `WAYS`.

    Raises:
        InputError: no row of one is a row of the other.
    """
    rows_a, rows_b = _identities(a), _identities(b)
    matches = [_shared(one, other) for one, other in zip(rows_a.hashes, rows_b.hashes, strict=True)]
    way, (places_a, places_b) = max(zip(WAYS, matches, strict=True), key=lambda match: len(match[1][0]))
    if not len(places_a):
        if len(rows_a.ids) != len(rows_b.ids) or columns_of(a) != columns_of(b) or not len(rows_a.ids):
            raise InputError(
                f"{a} and {b} have no row in common: no custom_id, no columns and no prompt of one is in the other."
            )
        way, places_a = "position", np.arange(len(rows_a.ids))
        places_b = places_a
    only = len(rows_a.ids) - len(places_a), len(rows_b.ids) - len(places_b)
    return Pairs((a, b), (rows_a.ids[places_a], rows_b.ids[places_b]), way, only)


def _identities(batch_id: str) -> Identities:
    ids, hashes = array("q"), [array("Q") for _ in WAYS]
    with reading(LONG_SECONDS) as connection:
        stored = connection.execution_options(yield_per=PAGE_ROWS).execute(_rows_of(), {"batch": batch_id})
        for row in ticked(stored, Ticker("read")):
            ids.append(row.id)
            own_id = _NONE if row.custom_id == row.key else _hash(row.custom_id)
            for column, value in zip(hashes, (own_id, _hash(row.columns), _hash(row.request)), strict=True):
                column.append(value)
    return Identities(np.array(ids, dtype=np.int64), tuple(np.array(each, dtype=np.uint64) for each in hashes))


def _hash(value: object) -> int:
    """64 bits of a value's canonical form; `_NONE` for what is empty."""
    if not value:
        return _NONE
    return int.from_bytes(hashlib.blake2b(dumps(canonical(value)).encode(), digest_size=8).digest()) | 1


def _shared(a: Hashes, b: Hashes) -> tuple[Ids, Ids]:
    """Places of equal rows in both, in the order of the first; of rows that come several times the nth with the nth."""
    (places_a, own_a), (places_b, own_b) = _numbered(a), _numbered(b)
    _, in_a, in_b = np.intersect1d(own_a, own_b, assume_unique=True, return_indices=True)
    order = np.argsort(places_a[in_a])
    return places_a[in_a][order], places_b[in_b][order]


def _numbered(hashes: Hashes) -> tuple[Ids, Hashes]:
    """The places of all that have a hash, and for each a hash of its own, which also counts its occurrence."""
    places = np.flatnonzero(hashes != _NONE)
    order = places[np.argsort(hashes[places], kind="stable")]
    sorted_ = hashes[order]
    here = np.arange(len(order))
    first = np.ones(len(order), dtype=bool)
    first[1:] = sorted_[1:] != sorted_[:-1]
    occurrence = here - np.maximum.accumulate(np.where(first, here, 0))
    return order, sorted_ + occurrence.astype(np.uint64) * _ODD


# --- the rows ---


def side_by_side(pairs: Pairs) -> Iterator[list[Pair]]:
    """The pairs with their answers, a page at a time."""
    for start in range(0, len(pairs), PAGE_ROWS):
        a, b = (
            list(_answers(batch, ids[start : start + PAGE_ROWS].tolist()))
            for batch, ids in zip(pairs.batches, pairs.ids, strict=True)
        )
        yield [
            Pair(one.number, one.custom_id, one.columns, (one.asked, other.asked), (one.answer, other.answer))
            for one, other in zip(a, b, strict=True)
        ]


class _Half(NamedTuple):
    number: int
    custom_id: str | None
    columns: JsonObject
    asked: str
    answer: Answer


def _answers(batch_id: str, ids: list[int]) -> Iterator[_Half]:
    with reading() as connection:
        stored = {row.id: row for row in connection.execute(_with_ids(), {"ids": ids})}
    results = (row for chunk in rows_with_keys(batch_id, 0, [stored[id_].key for id_ in ids]) for row in chunk)
    for id_, result in zip(ids, results, strict=True):
        row = stored[id_]
        columns = {name: value for name, value in result.items() if name not in _NO_INPUT}
        compared: JsonObject = {name: result.get(name) for name in Answer._fields} | {"seconds": row.seconds}
        answer = Answer(**compared)
        own_id = None if row.custom_id == row.key else row.custom_id
        yield _Half((row.position or 0) + 1, own_id, columns, asked_by(row), answer)


def asked_by(row: Row[Any]) -> str:
    """What a row asks, for people."""
    own = read_ask_request(row.request)
    if own.picture is not None:
        return f"{own.picture['path']}: {own.prompt}"
    if own.prompt is not None:
        return own.prompt
    return dumps(own.line.body if own.line is not None else list(own.messages))


@cache
def _rows_of() -> Select[Any]:
    rows = select(jobs.c.id, jobs.c.custom_id, jobs.c.key, jobs.c.columns, jobs.c.request)
    has_place = (jobs.c.batch_id == bindparam("batch")) & jobs.c.position.is_not(None)
    return rows.where(has_place).order_by(jobs.c.position, jobs.c.id)


@cache
def _with_ids() -> Select[Any]:
    answered = (attempts.c.job_id == jobs.c.id) & (attempts.c.outcome == "succeeded")
    seconds = select(func.max(attempts.c.seconds)).where(answered).correlate(jobs).scalar_subquery()
    row = select(jobs.c.id, jobs.c.key, jobs.c.position, jobs.c.custom_id, jobs.c.request, seconds.label("seconds"))
    return row.where(jobs.c.id.in_(bindparam("ids", expanding=True)))
