"""A run is shown while it is under way, on stderr, because stdout carries data only."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from tidemill.models.cost import format_tokens
from tidemill.models.text import one_line

PLAIN_SECONDS = 10.0


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

    def cost(self) -> str:
        """What it cost, for people."""
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


class Quiet:
    """Shows sentences only: for Python callers and `--json`."""

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
            print(f"{_counts(counts, reading)} · {self._rate.text(counts)}", file=sys.stderr, flush=True)


class ProgressBar(Quiet):
    """A progress bar: for terminals."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._rate = Rate()
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=30),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar = self._progress.add_task("reading the input", total=None)

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
        self._progress.update(
            self._bar,
            total=None if reading else counts.rows,
            completed=counts.ended,
            description=f"{_counts(counts, reading)} · {self._rate.text(counts)}",
        )

    def say(self, sentence: str) -> None:
        """Print the sentence above the bar."""
        self._progress.console.print(f"tidemill: {one_line(sentence, 600)}", markup=False, highlight=False)


class Rate:
    """Rows a second over the last half minute, and what is left at that rate."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []

    def count(self, counts: Counts) -> None:
        """Remember how many rows have ended by now."""
        at = time.monotonic()
        self._samples = [sample for sample in self._samples if at - sample[0] < 30.0]
        self._samples.append((at, counts.ended))

    def text(self, counts: Counts) -> str:
        """For people: `61 rows/s · ETA 7 s`."""
        if counts.open and (counts.hold_reason or counts.state != "open"):
            return "on hold" if counts.hold_reason else counts.state
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        if ended == began or last == first:
            return "0 rows/s"
        rate = (last - first) / (ended - began)
        return f"{rate:,.3g} rows/s · ETA {_duration(counts.open / rate)}"


def _counts(counts: Counts, reading: bool) -> str:
    total = f"{counts.rows:,}{'+' if reading else ''}"
    failed = f", {counts.states['failed']:,} failed" if counts.states["failed"] else ""
    return f"{counts.ended:,}/{total} done{failed} · {format_tokens(counts.tokens)} tokens · {counts.cost()}"


def _duration(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {left:02} s" if minutes else f"{left} s"


def display(quiet: bool = False) -> Display:
    """The display that fits where stderr goes."""
    if quiet:
        return Quiet()
    return ProgressBar() if sys.stderr.isatty() else Plain()
