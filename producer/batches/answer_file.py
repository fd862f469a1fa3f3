"""A run's file of answers is written while its rows end, so that the end of the run has only the last ones to write.

What is written ahead is what the complete file begins with: rows in the order of the input, up to the first one whose
outcome may still change. If rows change all the same, because somebody tries failed ones again, it is written anew.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from sqlalchemy import select

from tidemill.models.database import reading
from tidemill.models.errors import DatabaseError
from tidemill.models.tables import batches
from tidemill.producer.batches.results import STDOUT, TOOL_CALLS, Put, has_header, writing
from tidemill.producer.batches.stored_rows import START, Page, columns_of, pages, unanswered
from tidemill.producer.screen.display import Ticker

_LOOK_SECONDS = 0.05
"""How long one look may write."""


class AnswerFile:
    """The rows of a batch on their way into a file, which takes its place once it is complete.

    A call writes what has ended by then, and `finish` the rest. Without `finish`, nothing is left of the file.
    """

    def __init__(self, batch_id: str, submission: int, path: str, *, escape_formulas: bool = False) -> None:
        self._batch_id, self._submission = batch_id, submission
        self._path, self._escape_formulas = path, escape_formulas
        self._file = ExitStack()
        self._more_columns: list[str] = []
        self._begin()

    def _begin(self) -> None:
        self._put: Put | None = None
        self._last = START
        self._rows = 0
        self._unanswered = (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard(error or InterruptedError("not finished"))

    def __call__(self, _progress: object = None) -> None:
        """Write what has ended, if that takes no time; what goes wrong is tried again by `finish`, which says it."""
        try:
            if self._path != STDOUT and (self._put or self._is_read()):
                self._write(ended=True, seconds=_LOOK_SECONDS)
        except DatabaseError:
            pass
        except Exception as error:  # noqa: BLE001  # no run ends for its file
            self._discard(error)

    def finish(self) -> int:
        """Write the rest as it is now; returns how many rows there are.

        Raises:
            InputError: the file cannot be written.
            BrokenPipeError: the reader of stdout has gone.
        """
        is_begun = self._put is not None
        ticker = Ticker("written")
        with self._file:
            self._write(on_rows=ticker)
            if is_begun and self._has_changed():
                self._discard(InterruptedError("rows have changed"))
                self._more_columns = []
                self._write(on_rows=ticker)
        return self._rows

    def _is_read(self) -> bool:
        """Whether the input has been read to its end: the columns and the order of the rows are known then."""
        own = (batches.c.id == self._batch_id) & (batches.c.submission == self._submission)
        with reading() as connection:
            return connection.scalar(select(batches.c.read_at).where(own)) is not None

    def _has_changed(self) -> bool:
        """Whether rows that are written may be others by now: submitted again, or tried again without an answer."""
        if not self._is_read():
            return True
        return self._unanswered != (0, 0) and self._unanswered != unanswered(self._batch_id, self._submission)

    def _write(
        self, *, ended: bool = False, seconds: float = float("inf"), on_rows: Callable[[int], None] = lambda _rows: None
    ) -> None:
        began = time.monotonic()
        if self._put is None:
            columns = [*columns_of(self._batch_id), *self._more_columns]
            self._put = self._file.enter_context(writing(self._path, columns, escape_formulas=self._escape_formulas))
        for page in pages(self._batch_id, self._submission, self._last, ended=ended):
            if self._lacks_column(page):
                self._more_columns = [TOOL_CALLS]
                self._discard(InterruptedError("another column"))
                return self._write(ended=ended, seconds=seconds, on_rows=on_rows)
            self._put(page.rows)
            self._last = page.last
            self._rows += len(page.rows)
            on_rows(self._rows)
            self._unanswered = (self._unanswered[0] + page.unanswered[0], self._unanswered[1] + page.unanswered[1])
            if time.monotonic() - began > seconds:
                break
        return None

    def _lacks_column(self, page: Page) -> bool:
        """Whether the first tool is called here, and the header has no column for it."""
        return not self._more_columns and has_header(self._path) and any(TOOL_CALLS in row for row in page.rows)

    def _discard(self, error: BaseException) -> None:
        """Leave nothing of what is written, and begin anew where more is."""
        with suppress(Exception):  # what was wrong is known
            self._file.__exit__(type(error), error, error.__traceback__)
        self._begin()
