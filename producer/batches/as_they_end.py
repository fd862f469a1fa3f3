"""Rows are handed out as they end, each once, while their batch is still under way.

The batch is followed on a thread of its own. What is looked at in the database stays small however large the batch is:
the rows that come next, and those before them that have not ended.
"""

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from types import TracebackType
from typing import Any, Self, TypeAlias

from sqlalchemy import Select, bindparam, select

from tidemill.models.database import reading
from tidemill.models.errors import DatabaseError
from tidemill.models.json_types import JsonObject
from tidemill.models.scope import Scope
from tidemill.models.tables import OPEN_STATES, dialogues, jobs
from tidemill.producer.batches.progress import Progress
from tidemill.producer.batches.stored_rows import START, Place, rows_with_ids

Follow: TypeAlias = Callable[[Callable[[Progress], bool]], object]
"""Follows a batch to its end, or until what it is given says True of a look at the database."""

_LOOKED_AT_ROWS = 2_000
"""Rows that are looked at each time: more than workers have claimed, so that what ends is among them."""


def pages_as_they_end(scope: Scope, follow: Follow, stopped: threading.Event) -> Iterator[list[JsonObject]]:
    """The rows of a scope as they end, in pages, some of which are empty.

    Args:
        scope: of one batch.
        follow: is called on another thread.
        stopped: set it to stop the following gently; the pages end then, too.

    Raises:
        TidemillError: what `follow` raises, once the rows that had ended before are handed out.
    """
    unended = _Unended(scope)
    with _Following(follow, stopped) as following:
        while following.is_under_way():
            with suppress(DatabaseError):  # it may only be restarting; whoever follows gives up in time
                yield from unended.pages()
    yield from unended.pages()
    if following.error is not None:
        raise following.error


class _Following:
    """A batch that is followed on a thread while the block runs."""

    def __init__(self, follow: Follow, stopped: threading.Event) -> None:
        self.error: BaseException | None = None
        self._follow, self._stopped = follow, stopped
        self._looked, self._has_ended = threading.Event(), False
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

    def _look(self, _so_far: Progress) -> bool:
        self._looked.set()
        return self._stopped.is_set()

    def is_under_way(self) -> bool:
        """Wait for the next look at the database; False once the following has ended."""
        self._looked.wait()
        self._looked.clear()
        return not (self._has_ended or self._stopped.is_set())


class _Unended:
    """The rows of a scope that were not handed out yet."""

    def __init__(self, scope: Scope) -> None:
        self._batch = {"batch": scope.batch_id, "submission": scope.submission}
        self._behind = START
        self._open: list[int] = []
        """Ids of rows up to there that have not ended."""

    def pages(self) -> Iterator[list[JsonObject]]:
        """What has ended by now. If the database fails, nothing is lost: the next call has it."""
        yield self._page_of_open()
        while len(self._open) < _LOOKED_AT_ROWS and (page := self._next_page()) is not None:
            yield page

    def _page_of_open(self) -> list[JsonObject]:
        if not self._open:
            return []
        with reading() as connection:
            looks = connection.execute(_among(), {"ids": self._open}).all()
        ended = {each.id for each in looks if _has_ended(each)}
        page = rows_with_ids([job_id for job_id in self._open if job_id in ended])
        self._open = [job_id for job_id in self._open if job_id not in ended]
        return page

    def _next_page(self) -> list[JsonObject] | None:
        """Those of the next rows that have ended; None: there are no more rows."""
        with reading() as connection:
            looks = connection.execute(_next(), {**self._batch, **self._behind._asdict()}).all()
        if not looks:
            return None
        page = rows_with_ids([each.id for each in looks if _has_ended(each)])
        self._behind = Place(looks[-1].position, looks[-1].id)
        self._open += [each.id for each in looks if not _has_ended(each)]
        return page


def _has_ended(look: Any) -> bool:
    """Whether a row has ended, and its reply is judged."""
    return look.state not in OPEN_STATES and (look.state != "succeeded" or look.sentiment is not None)


@cache
def _next() -> Select[Any]:
    own = (jobs.c.batch_id == bindparam("batch")) & (jobs.c.submission >= bindparam("submission"))
    behind = (jobs.c.position > bindparam("position")) | (jobs.c.id > bindparam("id"))
    page = _look().where(own, jobs.c.position >= bindparam("position"), behind)
    return page.order_by(jobs.c.position, jobs.c.id).limit(_LOOKED_AT_ROWS // 2)


@cache
def _among() -> Select[Any]:
    return _look().where(jobs.c.id.in_(bindparam("ids", expanding=True)))


def _look() -> Select[Any]:
    joined = jobs.outerjoin(dialogues, dialogues.c.id == jobs.c.id)
    return select(jobs.c.id, jobs.c.position, jobs.c.state, dialogues.c.sentiment).select_from(joined)
