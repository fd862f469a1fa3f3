"""A run is shown while it is under way, on stderr, because stdout carries data only."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import NamedTuple, Protocol, Self, TypeVar

from tidemill.models.cost import format_tokens
from tidemill.models.durations import in_words
from tidemill.models.text import one_line
from tidemill.producer.screen.printing import USUAL_WIDTH, is_lively, terminal_width
from tidemill.producer.screen.tables import width_of

PLAIN_SECONDS = 10.0

T = TypeVar("T")


class Counts(Protocol):
    """What is shown of a run: its rows by state, what they have cost, and what they wait for."""

    @property
    def states(self) -> Mapping[str, int]:
        """Rows by state."""
        ...

    @property
    def rows(self) -> int:
        """All rows."""
        ...

    @property
    def open(self) -> int:
        """Rows that have not ended."""
        ...

    @property
    def ended(self) -> int:
        """Rows that have ended."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens that their calls have used."""
        ...

    @property
    def state(self) -> str:
        """The batch's state: open, paused or cancelled."""
        ...

    @property
    def hold_reason(self) -> str | None:
        """Why the provider serves nobody at present."""
        ...

    @property
    def at_provider(self) -> int:
        """Open rows that are at the provider's Batch API, where no call of ours is made for them."""
        ...

    @property
    def done_there(self) -> int:
        """Of those, the rows that the provider has answered."""
        ...

    def spending(self) -> str:
        """What it cost, and what it may cost, for people."""
        ...


class Display(Protocol):
    """Shows a run; used as a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, counts: Counts, *, reading: bool) -> None:
        """Show how far the run is; `reading` says that rows are still being read."""
        ...

    def say(self, sentence: str) -> None:
        """Show a sentence that must not be missed."""
        ...


def say(sentence: str) -> None:
    """Print a sentence on stderr, where no display is open."""
    print(f"tidemill: {one_line(sentence, 600)}", file=sys.stderr, flush=True)


class Ticker:
    """Says how far a work is that no display shows: every ten seconds a line on stderr, such as "90,000 rows written".

    Args:
        done: what has been done with the things that are counted.
        things: what they are called, as a plural with an s.
    """

    def __init__(self, done: str, things: str = "rows") -> None:
        self._done, self._things = done, things
        self._said_at = time.monotonic()

    def __call__(self, count: int) -> None:
        """Take note of how many there are by now."""
        if time.monotonic() - self._said_at >= PLAIN_SECONDS:
            self._said_at = time.monotonic()
            things = self._things.removesuffix("s") if count == 1 else self._things
            say(f"{count:,} {things} {self._done}")


def ticked(things: Iterable[T], ticker: Ticker) -> Iterator[T]:
    """The same things; the ticker is told of each."""
    for number, thing in enumerate(things, 1):
        yield thing
        ticker(number)


class Quiet:
    """Shows sentences only: for Python callers and single prompts."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was opened."""

    def update(self, counts: Counts, *, reading: bool) -> None:
        """Show nothing."""

    def say(self, sentence: str) -> None:
        """Print the sentence."""
        say(sentence)


class Plain(Quiet):
    """A line every ten seconds: for logs and pipes."""

    def __init__(self) -> None:
        self._rate = Rate()
        self._shown_at = time.monotonic()

    def update(self, counts: Counts, *, reading: bool) -> None:
        """Print a line when the last one is old enough."""
        self._rate.count(counts)
        if time.monotonic() - self._shown_at >= PLAIN_SECONDS:
            self._shown_at = time.monotonic()
            parts = parts_of(counts, reading, self._rate)
            print(_BETWEEN.join(part.text for part in parts), file=sys.stderr, flush=True)


class ProgressBar(Quiet):
    """A progress bar: for terminals. It is one line at any width, drawn when there is something new, by no thread."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
        from rich.table import Column

        self._rate = Rate()
        self._began_at = time.monotonic()
        self._console = Console(stderr=True, width=terminal_width(sys.stderr))
        self._spinner, self._bar = SpinnerColumn(), BarColumn(bar_width=SHORTEST_BAR)
        self._text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
        self._progress = Progress(self._spinner, self._text, console=self._console, transient=True, auto_refresh=False)
        self._task = self._progress.add_task("reading the input", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, counts: Counts, *, reading: bool) -> None:
        """Move the bar."""
        self._rate.count(counts)
        self._console.width = terminal_width(sys.stderr) or USUAL_WIDTH  # it may have changed
        elapsed = Part(str(timedelta(seconds=int(time.monotonic() - self._began_at))), 8)
        parts = [*parts_of(counts, reading, self._rate), elapsed]
        self._bar.bar_width, text = fit(parts, self._console.width - _SPINNER_CELLS)
        self._progress.columns = (self._spinner, *([self._bar] if self._bar.bar_width else []), self._text)
        total = None if reading else counts.rows
        self._progress.update(self._task, total=total, completed=counts.ended, description=text, refresh=True)

    def say(self, sentence: str) -> None:
        """Print the sentence above the bar."""
        line = f"tidemill: {one_line(sentence, 600)}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Part(NamedTuple):
    """A part of the progress line, and its rank: the most important one is 1."""

    text: str
    rank: int


SHORTEST_BAR, LONGEST_BAR = 8, 30
_BAR = Part("━" * SHORTEST_BAR, 6)
_BETWEEN = " · "
_SPINNER_CELLS = 2


def fit(parts: Sequence[Part], width: int) -> tuple[int, str]:
    """What has room in a line: the length of the bar (0: none), and the parts behind it, each as a whole."""
    chosen: list[Part] = []
    for part in sorted((*parts, _BAR), key=lambda part: part.rank):
        if not chosen or width_of(_BETWEEN.join(each.text for each in (*chosen, part))) <= width:
            chosen.append(part)
    text = _BETWEEN.join(part.text for part in parts if part in chosen)
    return min(LONGEST_BAR, width - width_of(text) - 1) if _BAR in chosen else 0, text


def parts_of(counts: Counts, reading: bool, rate: "Rate") -> list[Part]:
    """A run for people: `675/1,000 done, 2 failed`, `40,284 tokens`, `$0.017`, `61 rows/s`, `ETA 7 s`."""
    total = f"{counts.rows:,}{'+' if reading else ''}"
    failed = f", {counts.states['failed']:,} failed" if counts.states["failed"] else ""
    return [
        Part(f"{counts.ended:,}/{total} done{failed}", 1),
        Part(f"{format_tokens(counts.tokens)} tokens", 7),
        Part(counts.spending(), 3),
        *rate.parts(counts),
    ]


class Rate:
    """Rows a second over the last half minute, and what is left at that rate."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []

    def count(self, counts: Counts) -> None:
        """Remember how many rows have ended by now."""
        at = time.monotonic()
        self._samples = [sample for sample in self._samples if at - sample[0] < 30.0]
        self._samples.append((at, counts.ended))

    def parts(self, counts: Counts) -> list[Part]:
        """For people: `61 rows/s` and `ETA 7 s`, or what the run waits for."""
        there = [Part(f"{counts.at_provider:,} at the provider", 2)] if counts.at_provider else []
        there += [Part(f"{counts.done_there:,} done there", 4)] if counts.done_there else []
        if counts.open and (counts.hold_reason or counts.state != "open"):
            return [Part("on hold" if counts.hold_reason else counts.state, 2), *there]
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        if ended == began or last == first:
            return there or [Part("0 rows/s", 5)]
        rate = (last - first) / (ended - began)
        shown = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        left = there or [Part(f"ETA {in_words(round(counts.open / rate))}", 4)]  # when they come back, nobody knows
        return [Part(f"{shown} rows/s", 5), *left]


def display(quiet: bool = False, *, lines: bool = False) -> Display:
    """The display that fits where stderr goes; with `lines` no bar, which would be in the way of other output."""
    if quiet:
        return Quiet()
    return ProgressBar() if is_lively(sys.stderr) and not lines else Plain()


@contextmanager
def patience(sentence: str) -> Iterator[None]:
    """Say the sentence if the block takes longer than ten seconds, and every ten seconds from then on."""
    has_ended = threading.Event()

    def wait() -> None:
        while not has_ended.wait(PLAIN_SECONDS):
            say(sentence)

    threading.Thread(target=wait, name="patience", daemon=True).start()
    try:
        yield
    finally:
        has_ended.set()
