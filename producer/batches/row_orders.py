"""The rows of a file of answers come in the order of the input, or in the order in which they end.

An order remembers what it has given out, and goes on behind it at each look.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol

from tidemill.producer.batches.stored_rows import START, Page, ids_at, last_position, page_of, pages

OrderName = Literal["input", "finished"]

_PROBED_ROWS = 500
"""Rows of which one statement asks whether they have ended."""

_SPAN_ROWS = 2_000
"""How far apart they may be: what lies between them is read, too."""


class RowOrder(Protocol):
    """Gives out the rows of one submission of a batch, each once."""

    def pages(self, *, ended: bool, most: int | None = None) -> Iterator[Page]:
        """The rows that were not given out yet, some of them in each page; a page may be empty.

        With `ended`, without rows whose outcome may still change. With `most`, no row is looked for once so many have
        been given out, and a look goes on where the one before it has stopped.
        """
        ...

    def anew(self) -> "RowOrder":
        """The same rows once more, from the first one, as they are by then."""
        ...


class InputOrder:
    """Up to the first row that has not ended, which holds up those behind it."""

    def __init__(self, batch_id: str, submission: int) -> None:
        self._which = batch_id, submission
        self._last = START

    def pages(self, *, ended: bool, most: int | None = None) -> Iterator[Page]:
        """See `RowOrder`; `most` is of no use here."""
        for page in pages(*self._which, self._last, ended=ended):
            self._last = page.last
            yield page

    def anew(self) -> "InputOrder":
        """See `RowOrder`."""
        return InputOrder(*self._which)


class FinishedOrder:
    """Rows as they are seen to have ended; those that had ended before come first, in input order.

    When a row ended says nothing about when it was committed, so no time is a mark behind which all is new. Instead
    each position has a byte that says whether its row was given out. Those without are asked about, from the first
    one on, until as many have been found as have ended. In memory that is nine bytes a row.
    """

    def __init__(self, batch_id: str, submission: int, ids: Sequence[int] = ()) -> None:
        self._which = batch_id, submission
        self._again = ids
        """Of rows that are to come first, in this order."""
        self._ids = array("q")
        self._is_out = bytearray()
        self._next = 0

    def pages(self, *, ended: bool, most: int | None = None) -> Iterator[Page]:
        """See `RowOrder`."""
        self._next = 0 if most is None else self._next
        self._is_out.extend(bytes(max(0, last_position(self._which[0]) + 1 - len(self._is_out))))
        while self._again:
            some, self._again = self._again[:_PROBED_ROWS], self._again[_PROBED_ROWS:]
            yield self._page(some)
        while (most is None or len(self._ids) < most) and (positions := self._positions()):
            yield self._page(ids_at(*self._which, positions, ended=ended))
        self._next = 0

    def _positions(self) -> list[int]:
        """The next positions whose rows were not given out."""
        positions: list[int] = []
        place = self._is_out.find(0, self._next)
        while place >= 0 and len(positions) < _PROBED_ROWS and place < (positions or [place])[0] + _SPAN_ROWS:
            positions.append(place)
            place = self._is_out.find(0, place + 1)
        self._next = positions[-1] + 1 if positions else 0
        return positions

    def _page(self, ids: Sequence[int]) -> Page:
        page, positions = page_of(*self._which, ids) if ids else (Page([], START), [])
        self._ids.extend(ids)
        for position in positions:
            self._is_out[position] = 1
        return page

    def anew(self) -> "FinishedOrder":
        """See `RowOrder`."""
        return FinishedOrder(*self._which, self._ids + array("q", self._again))


ORDERS: dict[OrderName, Callable[[str, int], RowOrder]] = {"input": InputOrder, "finished": FinishedOrder}
