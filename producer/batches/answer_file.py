"""A run's answers are in their file as they come, and the end of the run has only the last ones to write.

JSON lines and CSV grow where others can read them. What cannot grow, such as Parquet, is written unseen and appears
once it is whole. If rows change after they were written, because somebody tries failed ones again, the file is written
anew beside and takes the place of the other.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import select

from tidemill.models.database import reading
from tidemill.models.errors import DatabaseError
from tidemill.models.files import BusyError, GrowingFile
from tidemill.models.tables import batches
from tidemill.producer.batches.progress import Progress
from tidemill.producer.batches.results import REASONING, STDOUT, TOOL_CALLS, Put, grows, has_header, writing
from tidemill.producer.batches.row_orders import ORDERS, OrderName
from tidemill.producer.batches.stored_rows import Page, columns_of, unanswered
from tidemill.producer.screen.display import Ticker, say

_LOOK_SECONDS = 0.05
"""How long one look may write."""

_LAST_LOOK_SECONDS = 2.0
"""The same of the look at what calls brought that were in flight when the run was stopped."""


class AnswerFile:
    """The rows of a batch on their way into a file, or to stdout.

    A call writes what has ended by then, and `finish` the rest. Without `finish`, a file that grows holds what had
    ended, and nothing is left of any other.
    """

    def __init__(
        self,
        batch_id: str,
        submission: int,
        path: str,
        *,
        escape_formulas: bool = False,
        order: OrderName = "input",
    ) -> None:
        self._batch_id, self._submission = batch_id, submission
        self._path, self._escape_formulas = path, escape_formulas
        self._order = ORDERS[order](batch_id, submission)
        self._file = ExitStack()
        self._may_grow = grows(path) and path != STDOUT
        self._is_ending = False
        self._trouble: BaseException | None = None
        self._more_columns: list[str] = []
        self._begin()

    def _begin(self) -> None:
        self._put: Put | None = None
        self._growing: GrowingFile | None = None
        self._columns: list[str] = []
        self._order = self._order.anew()
        self._rows = 0
        self._unanswered = (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and grows(self._path) and not self._is_ending:
            with suppress(Exception):  # the run ends for another reason
                self._look(None, _LAST_LOOK_SECONDS)
        self._discard(error or InterruptedError("not finished"))

    def __call__(self, progress: Progress | None = None) -> None:
        """Write what has ended, if that takes no time; what goes wrong is tried again by `finish`, which says it.

        Raises:
            BrokenPipeError: the reader of stdout has gone.
        """
        try:
            self._look(progress.ended if progress is not None else None, _LOOK_SECONDS)
        except DatabaseError:
            pass
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001  # no run ends for its file
            self._trouble = error
            if self._path != STDOUT:
                self._discard(error)

    def finish(self) -> int:
        """Write the rest as it is now; returns how many rows there are.

        Raises:
            InputError: the file cannot be written.
            BrokenPipeError: the reader of stdout has gone.
        """
        self._is_ending = True
        is_begun = self._put is not None
        ticker = Ticker("written")
        with self._file:
            self._write(on_rows=ticker)
            if is_begun and self._has_changed():
                self._write_anew(ticker)
            if self._growing is not None:
                self._growing.sync()
        if isinstance(self._trouble, BusyError):
            say(f"{self._trouble.args[0]}. Now it has the rows of {self._batch_id}; the last one to end keeps it.")
        return self._rows

    def _write_anew(self, ticker: Ticker) -> None:
        if self._path == STDOUT:
            say(f"Rows have changed after they were printed; `tidemill results {self._batch_id}` has them as they are.")
            return
        self._discard(InterruptedError("rows have changed"))
        self._more_columns = []
        self._write(on_rows=ticker)

    def _look(self, ended: int | None, seconds: float) -> None:
        """Write rows that have ended, of which there are so many in all, if anything can be known of them yet."""
        is_out_of_order = self._path == STDOUT and self._trouble is not None
        if not is_out_of_order and (self._put or self._may_begin()):
            self._write(ended=True, most=ended, seconds=seconds)

    def _may_begin(self) -> bool:
        """Whether the columns and the order of the rows are known, as they are once the input has been read.

        A line of JSON names its own columns; and rows of a first submission come behind those that are there.
        """
        return (self._submission == 1 and grows(self._path) and not has_header(self._path)) or self._is_read()

    def _is_read(self) -> bool:
        own = (batches.c.id == self._batch_id) & (batches.c.submission == self._submission)
        with reading() as connection:
            return connection.scalar(select(batches.c.read_at).where(own)) is not None

    def _has_changed(self) -> bool:
        """Whether what is written may be other by now: rows submitted or tried again, other columns, another file."""
        if self._path != STDOUT:  # what is printed cannot be written anew in any case
            is_other = self._growing is not None and not self._growing.is_intact()
            columns = [*columns_of(self._batch_id), *self._more_columns]
            if is_other or not self._is_read() or self._columns != columns:
                return True
        return self._unanswered != (0, 0) and self._unanswered != unanswered(self._batch_id, self._submission)

    def _write(
        self,
        *,
        ended: bool = False,
        most: int | None = None,
        seconds: float = float("inf"),
        on_rows: Callable[[int], None] = lambda _rows: None,
    ) -> None:
        began = time.monotonic()
        for page in self._order.pages(ended=ended, most=most):
            if page.rows and not self._open_for(page, growing=ended):
                self._discard(InterruptedError("another column"))
                return self._write(ended=ended, most=most, seconds=seconds, on_rows=on_rows)
            if page.rows and self._put is not None:
                self._put(page.rows)
            self._rows += len(page.rows)
            on_rows(self._rows)
            self._unanswered = (self._unanswered[0] + page.unanswered[0], self._unanswered[1] + page.unanswered[1])
            if time.monotonic() - began > seconds:
                break
        if not ended and self._put is None:
            self._open([], growing=False)  # without a row, it has a header
        return None

    def _open_for(self, page: Page, *, growing: bool) -> bool:
        """Have a file that takes these rows; False if it is begun, and its header lacks a column for them."""
        if self._put is None:
            self._open([*columns_of(self._batch_id), *self._more_columns], growing=growing)
        if has_header(self._path):
            if not self._more_columns and any(TOOL_CALLS in row for row in page.rows):
                self._more_columns = [TOOL_CALLS]
                return False
        elif more := dict.fromkeys(each for row in page.rows for each in row if each not in self._columns):
            more = {each: None for each in more if each not in (TOOL_CALLS, REASONING)}
            if more:  # the input is still being read
                self._open([*self._columns, *more], growing=growing)
        return True

    def _open(self, columns: list[str], *, growing: bool) -> None:
        self._columns = columns or [*columns_of(self._batch_id), *self._more_columns]
        if growing and self._may_grow and self._growing is None:
            self._growing = GrowingFile(Path(self._path).resolve())
            self._file.callback(self._growing.close)
        put = writing(self._path, self._columns, escape_formulas=self._escape_formulas, growing=self._growing)
        self._put = self._file.enter_context(put)

    def _discard(self, error: BaseException) -> None:
        """Write no more of it: what has grown stays there, of all else nothing is left. Begin anew where more is."""
        with suppress(Exception):  # what was wrong is known
            self._file.__exit__(type(error), error, error.__traceback__)
        self._may_grow = False
        self._begin()
