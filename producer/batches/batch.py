"""Rows that were submitted together are followed, read and saved as one thing, in scripts and by commands."""

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy import Connection

from tidemill import migrations
from tidemill.models import batches as stored_batches
from tidemill.models import budgets, tallies, whereabouts
from tidemill.models.batches import FailureReason
from tidemill.models.bookings import BATCH
from tidemill.models.database import LONG_SECONDS, Piece, reading, transact, transact_in_pieces
from tidemill.models.errors import BudgetReachedError, InputError
from tidemill.models.json_types import JsonObject
from tidemill.models.rereading import reread_settings
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.whereabouts import Upstream
from tidemill.producer.batches import off_the_loop, saving, showing, typed_answers
from tidemill.producer.batches.as_they_end import pages_as_they_end
from tidemill.producer.batches.budget_words import BudgetNow
from tidemill.producer.batches.ends import Ends
from tidemill.producer.batches.follow import follow
from tidemill.producer.batches.progress import Progress, list_batches, progress, resolve
from tidemill.producer.batches.results import Chunks, to_frame
from tidemill.producer.batches.spending import spending_of
from tidemill.producer.batches.stored_rows import columns_of, latest_turn, rows_of, rows_with_keys
from tidemill.producer.batches.typed_answers import Parsed
from tidemill.producer.screen.display import Display, Quiet
from tidemill.producer.screen.notebook import display_here

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class Batch:
    """Rows submitted together, as this submission held them.

    A row is a dict: the input's columns, then `custom_id`, `status`, `reply`, `sentiment` and the other columns of
    results. `for row in batch` and `async for row in batch` have rows as they end; `await batch` waits for all.
    """

    id: str
    submission: int = 0
    """Rows that this submission or a later one held; 0 for all."""
    dialogue_id: int | None = None
    """The dialogue that they continue."""
    keys: tuple[str, ...] | None = field(default=None, compare=False)
    """Of rows of a frame: what each is known by, in the frame's order."""
    index: "pd.Index | None" = field(default=None, compare=False)
    """Of rows of a pandas frame: their labels in it."""
    schema: type[Any] | None = field(default=None, compare=False)
    """The class that the answers were asked to fit."""

    @property
    def scope(self) -> Scope:
        """The rows, for the feed and for counting."""
        return Scope(self.id, self.submission, self.dialogue_id)

    # --- wait ---

    def wait(
        self, timeout: float | None = None, *, window: int | None = None, display: Display | None = None
    ) -> Progress:
        """Return once every row has ended; without a broker, a worker runs inside this call.

        In a notebook and at a terminal it shows a progress bar, unless another wait of the process does. It takes up
        what the environment says now. Several waits in one process, on threads, share one worker; the window of the
        first one counts for all.

            batch.wait(timeout=600)

        Args:
            timeout: seconds after which no more calls begin; those in flight may end, for up to 25 seconds.
            window: calls in flight at most; TIDEMILL_WINDOW by default.
            display: shows how far it is.

        Raises:
            NotEndedError: the time is over; it is a TimeoutError, too. Nothing is lost.
            BudgetReachedError: a budget leaves no room for the next call. Nothing is lost.
            SettingsError: the environment has changed so that no call can be made, or while others wait.
            InputError: the database has no such batch, or OPENAI_BASE_URL names another server than the batch's.
            DatabaseError: the database could not be used for half a minute; nothing is lost.
        """
        return self._wait(threading.Event(), timeout, window, display)

    def __await__(self) -> Generator[Any, None, "Batch"]:
        """Wait on a thread; the value is the batch. A cancelled task stops the work gently, as Ctrl-C does."""
        return self._waited().__await__()

    async def _waited(self) -> "Batch":
        stopped = threading.Event()
        await off_the_loop.until(partial(self._wait, stopped), stopped)
        return self

    def _wait(
        self,
        stopped: threading.Event,
        timeout: float | None = None,
        window: int | None = None,
        display: Display | None = None,
    ) -> Progress:
        with display or display_here() as shown:
            return self._follow(lambda _: stopped.is_set(), shown, window, Ends(timeout))

    def _follow(
        self,
        has_enough: Callable[[Progress], bool],
        display: Display | None = None,
        window: int | None = None,
        ends: Ends | None = None,
    ) -> Progress:
        reread_settings()
        resolve(self.id)
        with nullcontext(display) if display else Quiet() as shown:
            try:
                return follow(self.scope, window or settings().window, shown, on_progress=has_enough, ends=ends)
            except BudgetReachedError as error:  # in Python's words
                error.args = (str(error).replace("--max-tokens", "max_tokens=").replace("--epochs", "epochs="),)
                raise

    def __iter__(self) -> Iterator[JsonObject]:
        """Rows as they end, each once, while the work goes on; as `wait` otherwise. Leaving the loop stops the work.

        for row in batch:
            print(row["status"], row["reply"])
        """
        return chain.from_iterable(self._pages_as_they_end(threading.Event()))

    def __aiter__(self) -> AsyncIterator[JsonObject]:
        """The same for `async for`."""
        return off_the_loop.each_of(self._pages_as_they_end)

    def _pages_as_they_end(self, stopped: threading.Event) -> Iterator[list[JsonObject]]:
        return pages_as_they_end(self.scope, self._follow, stopped)

    # --- look ---

    def progress(self) -> Progress:
        """How far it is, now: `rows`, `open`, `ended`, `states`, `at_provider`, `tokens`, `cost_usd`, `is_complete`."""
        return progress(self.scope)

    @property
    def cost(self) -> float | None:
        """What its calls have cost so far, in USD; None while no price is known."""
        return self.progress().cost_usd

    @property
    def upstream(self) -> list[Upstream]:
        """What is at the provider's Batch API now: of each upstream batch its `status`, `lines`, `completed` and more.

        for each in batch.upstream:
            print(each.remote_id, each.status, f"{each.done} of {each.lines}", each.expires_at)
        """
        with reading() as connection:
            return whereabouts.of_batch(connection, self.id)

    @property
    def saved(self) -> float | None:
        """What its calls would have cost more online, in USD; None while no price is known."""
        from tidemill.models import bill

        with reading(LONG_SECONDS) as connection:
            return bill.saved_usd(connection, self.id)

    @property
    def budget(self) -> BudgetNow | None:
        """What it may cost and what counts against that, in USD; None: it has no budget of its own."""
        with reading() as connection:
            covering = budgets.covering(connection, self.id)
        return next((BudgetNow.of(each) for each in covering if each.kind == BATCH), None)

    @property
    def failures(self) -> list[FailureReason]:
        """Why rows failed: for each error code how many `rows`, the `code`, and one sentence as an `example`."""
        with reading() as connection:
            return [
                FailureReason(rows, code or "unknown", tallies.example(connection, self.scope, "failed", code))
                for code, rows in tallies.reasons(connection, self.scope, "failed")
            ]

    def failed_rows(self) -> list[JsonObject]:
        """The rows that failed, each with its `error_code` and `error`."""
        return [row for row in chain.from_iterable(self._chunks()) if row["status"] == "failed"]

    @property
    def turn(self) -> int | None:
        """The number of its last answer among all dialogues: `tidemill.dialogue(batch.turn)` goes on with it."""
        return latest_turn(self.id)

    def __repr__(self) -> str:
        """One line with counts and cost; only the id where the database does not answer."""
        return showing.line(f"Batch {self.id}", showing.soon(self.progress))

    def _repr_html_(self) -> str | None:
        """For notebooks: counts, cost and why rows failed."""
        now = showing.soon(lambda: (self.progress(), self.failures))
        return None if now is None else showing.html(self.id, *now)

    # --- read ---

    def rows(self) -> list[JsonObject]:
        """All rows as they are now, in input order."""
        return list(chain.from_iterable(self._chunks()))

    def to_frame(self) -> "pd.DataFrame":
        """Input and answers side by side, in input order; what was asked from a pandas frame has that frame's index.

        So `frame["reply"] = batch.to_frame()["reply"]` puts each answer beside its prompt. Rows that were skipped or
        cut off by a limit are not there.
        """
        frame = to_frame(self._chunks())
        if self.index is not None:
            return frame.set_axis(self.index)
        return frame if len(frame) else frame.reindex(columns=columns_of(self.id))

    def to_polars(self) -> "pl.DataFrame":
        """The same as a polars frame, which has no index: rows are in the order of the input.

        Raises:
            InputError: polars is not installed.
        """
        from tidemill.producer.batches.polars_frame import to_polars

        return to_polars(self._chunks(), columns_of(self.id))

    @overload
    def parsed(self) -> Parsed[Any]: ...

    @overload
    def parsed(self, schema: type[T]) -> Parsed[T]: ...

    def parsed(self, schema: type[Any] | None = None) -> Parsed[Any]:
        """The answers as objects of the class that was their schema, in input order; None where none fits.

            reviews = tidemill.batch("latest").parsed(Review)
            len(reviews.invalid)   # by the row's place, why its answer does not fit

        Args:
            schema: the class; it may be left out for a batch that was asked with it here.

        Raises:
            InputError: no class is known.
        """
        return typed_answers.parse(chain.from_iterable(self._chunks()), schema or self.schema)

    def save(
        self,
        path: str | Path,
        *more: str | Path,
        status: str | Sequence[str] = (),
        where: str | Sequence[str] = (),
        columns: str | Sequence[str] = (),
        limit: int | None = None,
        escape_formulas: bool = False,
    ) -> int:
        """Write the rows, or those that fit, to files whose endings say their formats; returns how many there are.

            batch.save("failed.csv", status="failed", columns=["custom_id", "error"])

        Args:
            path, more: files, or addresses such as "s3://bucket/answers.parquet".
            status: only rows of this status, or of one of several.
            where: only rows for which it holds, or they all hold: "sentiment=negative", "output_tokens>50".
            columns: only these, in this order.
            limit: only the first rows that fit.
            escape_formulas: text in CSV that a spreadsheet would run as a formula gets a `'` before it.

        Raises:
            InputError: a file cannot be written, or there is no such status or column.
        """
        places = [str(path), *map(str, more)]
        saving.check_destinations(places)
        selection = saving.Selection(_several(status), _several(columns), _several(where), limit)
        return saving.save(self.id, places, selection, submission=self.submission, escape_formulas=escape_formulas)

    def _chunks(self) -> Chunks:
        if self.keys is not None:
            return rows_with_keys(self.id, self.submission, self.keys)
        return rows_of(self.id, self.submission)

    # --- change ---

    def retry(self) -> int:
        """Queue failed and cancelled rows again, which `wait()` then runs; returns how many."""
        return self._change(stored_batches.retry)

    def cancel(self) -> int:
        """Cancel the open rows, and return how many; what has been answered stays."""
        return self._change(stored_batches.cancel)

    def pause(self) -> bool:
        """Start no more calls; those in flight end. Returns whether it was open."""
        return bool(self._change(stored_batches.pause))

    def resume(self) -> bool:
        """Go on; returns whether it was paused."""
        return bool(self._change(stored_batches.resume))

    def set_budget(self, usd: str | float | None) -> BudgetNow | None:
        """Let it cost no more than so many US dollars; None: as much as it costs. Rows that wait go on at once.

            batch.set_budget(10)

        Raises:
            OptionError: it is no amount.
        """
        cap = spending_of(usd).budget_usd_e9
        transact(lambda connection: budgets.set_cap(connection, BATCH, self.id, cap))
        return self.budget

    def _change(self, act: Callable[[Connection, str, int], Piece]) -> int:
        return transact_in_pieces(lambda connection, after: act(connection, self.id, after))


def _several(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def batch(name: str = "latest") -> Batch:
    """A batch that is stored, asked here or on the command line.

        tidemill.batch("prompts-3f9a1c").to_frame()

    Args:
        name: its id, the beginning of that, or `latest`.

    Raises:
        InputError: no batch or more than one has the name, or it is a fine-tune.
    """
    reread_settings()
    migrations.ensure()
    row = resolve(name)
    if row.kind == "train":
        raise InputError(f"{row.id} is a fine-tune; tidemill.fine_tune({row.id!r}) finds it.")
    return Batch(row.id, dialogue_id=row.options.get("dialogue"))


def batches(limit: int = 20) -> list[Batch]:
    """The latest batches, the newest first; `limit` counts fine-tunes too, which are left out.

    for each in tidemill.batches(limit=5):
        print(each.id, each.progress().open)
    """
    reread_settings()
    migrations.ensure()
    return [batch(each.id) for each in list_batches(limit) if each.kind != "train"]


abatch, abatches = off_the_loop.off_the_loop(batch), off_the_loop.off_the_loop(batches)
