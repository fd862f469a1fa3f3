"""What a run looks like while it goes on. All on stderr: stdout carries data only."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from tidemill.models.cost import format_tokens
from tidemill.models.text import one_line

PLAIN_SECONDS = 10.0


class Counts(Protocol):
    """What is shown of a run: how many rows are how far, what they have cost, and what holds them up."""

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
        """Rows that have."""
        ...

    @property
    def tokens(self) -> int:
        """What their calls have used."""
        ...

    @property
    def state(self) -> str:
        """The batch's own: open, paused or cancelled."""
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
        self._pace = Pace()
        self._shown_at = time.monotonic()

    def update(self, counts: Counts, *, reading: bool) -> None:
        """Print a line when the last one is old enough."""
        self._pace.count(counts)
        if time.monotonic() - self._shown_at >= PLAIN_SECONDS:
            self._shown_at = time.monotonic()
            print(f"{_counts(counts, reading)} · {self._pace.text(counts)}", file=sys.stderr, flush=True)


class Bar(Quiet):
    """A progress bar: for terminals."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._pace = Pace()
        self._bars = Bars(
            SpinnerColumn(),
            BarColumn(bar_width=30),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar: Any = self._bars.add_task("reading the input", total=None)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, counts: Counts, *, reading: bool) -> None:
        """Move the bar."""
        self._pace.count(counts)
        self._bars.update(
            self._bar,
            total=None if reading else counts.rows,
            completed=counts.ended,
            description=f"{_counts(counts, reading)} · {self._pace.text(counts)}",
        )

    def say(self, sentence: str) -> None:
        """Print the sentence above the bar."""
        self._bars.console.print(f"tidemill: {one_line(sentence, 600)}", markup=False, highlight=False)


class Pace:
    """Rows a second over the last half minute, and what is left at that rate."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def count(self, counts: Counts) -> None:
        """Remember how many rows have ended by now."""
        at = time.monotonic()
        self._seen = [seen for seen in self._seen if at - seen[0] < 30.0]
        self._seen.append((at, counts.ended))

    def text(self, counts: Counts) -> str:
        """For people: `61 rows/s · ETA 7 s`."""
        if counts.open and (counts.hold_reason or counts.state != "open"):
            return "on hold" if counts.hold_reason else counts.state
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        if ended == began or last == first:
            return "0 rows/s"
        rate = (last - first) / (ended - began)
        return f"{rate:,.3g} rows/s · ETA {_duration(counts.open / rate)}"


def _counts(counts: Counts, reading: bool) -> str:
    of = f"{counts.rows:,}{'+' if reading else ''}"
    failed = f", {counts.states['failed']:,} failed" if counts.states["failed"] else ""
    return f"{counts.ended:,}/{of} done{failed} · {format_tokens(counts.tokens)} tokens · {counts.cost()}"


def _duration(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {left:02} s" if minutes else f"{left} s"


def display(quiet: bool = False) -> Display:
    """What fits where stderr goes."""
    if quiet:
        return Quiet()
    return Bar() if sys.stderr.isatty() else Plain()
