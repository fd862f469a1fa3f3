"""Rows are handed out as they end, each once, while their batch is still under way.

The batch is followed on a thread of its own; which rows have ended is asked as for a file of answers.
"""

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias

from tidemill.models.errors import DatabaseError
from tidemill.models.json_types import JsonObject
from tidemill.models.scope import Scope
from tidemill.producer.batches.progress import Progress
from tidemill.producer.batches.row_orders import FinishedOrder

Follow: TypeAlias = Callable[[Callable[[Progress], bool]], object]
"""Follows a batch to its end, or until what it is given says True of a look at the database."""


def pages_as_they_end(scope: Scope, follow: Follow, stopped: threading.Event) -> Iterator[list[JsonObject]]:
    """The rows of a scope as they end, in pages, some of which are empty.

    Args:
        scope: of one batch.
        follow: is called on another thread.
        stopped: set it to stop the following gently; the pages end then, too.

    Raises:
        TidemillError: what `follow` raises, once the rows that had ended before are handed out.
    """
    order = FinishedOrder(scope.batch_id or "", scope.submission)
    with _Following(follow, stopped) as following:
        while (ended := following.next_look()) is not None:
            with suppress(DatabaseError):  # it may only be restarting; whoever follows gives up in time
                yield from (page.rows for page in order.pages(ended=True, most=ended))
    yield from (page.rows for page in order.pages(ended=True))
    if following.error is not None:
        raise following.error


class _Following:
    """A batch that is followed on a thread while the block runs."""

    def __init__(self, follow: Follow, stopped: threading.Event) -> None:
        self.error: BaseException | None = None
        self._follow, self._stopped = follow, stopped
        self._looked, self._has_ended, self._rows_ended = threading.Event(), False, 0
        run = contextvars.copy_context().run  # a notebook's output goes to the cell that began it
        self._thread = threading.Thread(target=run, args=(self._run,), name="follow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._follow(self._look)
        except BaseException as error:  # noqa: BLE001  # it is raised again where the user reads rows
            self.error = error
        finally:
            self._has_ended = True
            self._looked.set()

    def _look(self, so_far: Progress) -> bool:
        self._rows_ended = so_far.ended
        self._looked.set()
        return self._stopped.is_set()

    def next_look(self) -> int | None:
        """Wait for the next look at the database: how many rows have ended; None once the following has."""
        self._looked.wait()
        self._looked.clear()
        return None if self._has_ended or self._stopped.is_set() else self._rows_ended
