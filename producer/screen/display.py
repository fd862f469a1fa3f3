"""What a run looks like while it goes on. All on stderr: stdout carries data only."""

import sys
import time
from types import TracebackType
from typing import Any, Protocol, Self

from tidemill.models.cost import format_tokens
from tidemill.models.text import one_line
from tidemill.producer.batches.progress import Progress

PLAIN_SECONDS = 10.0


class Display(Protocol):
    """Shows a run; used as a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, progress: Progress, *, reading: bool) -> None:
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

    def update(self, progress: Progress, *, reading: bool) -> None:
        """Show nothing."""

    def say(self, sentence: str) -> None:
        """Print the sentence."""
        say(sentence)


class Plain(Quiet):
    """A line every ten seconds: for logs and pipes."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._shown_at = time.monotonic()

    def update(self, progress: Progress, *, reading: bool) -> None:
        """Print a line when the last one is old enough."""
        self._pace.note(progress)
        if time.monotonic() - self._shown_at >= PLAIN_SECONDS:
            self._shown_at = time.monotonic()
            print(f"{_counts(progress, reading)} · {self._pace.text(progress)}", file=sys.stderr, flush=True)


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

    def update(self, progress: Progress, *, reading: bool) -> None:
        """Move the bar."""
        self._pace.note(progress)
        self._bars.update(
            self._bar,
            total=None if reading else progress.rows,
            completed=progress.ended,
            description=f"{_counts(progress, reading)} · {self._pace.text(progress)}",
        )

    def say(self, sentence: str) -> None:
        """Print the sentence above the bar."""
        self._bars.console.print(f"tidemill: {one_line(sentence, 600)}", markup=False, highlight=False)


class Pace:
    """Rows a second over the last half minute, and what is left at that rate."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def note(self, progress: Progress) -> None:
        """Remember how many rows have ended by now."""
        at = time.monotonic()
        self._seen = [seen for seen in self._seen if at - seen[0] < 30.0]
        self._seen.append((at, progress.ended))

    def text(self, progress: Progress) -> str:
        """For people: `61 rows/s · ETA 7 s`."""
        if progress.open and (progress.hold_reason or progress.state != "open"):
            return "on hold" if progress.hold_reason else progress.state
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        if ended == began or last == first:
            return "0 rows/s"
        rate = (last - first) / (ended - began)
        return f"{rate:,.3g} rows/s · ETA {_duration(progress.open / rate)}"


def _counts(progress: Progress, reading: bool) -> str:
    of = f"{progress.rows:,}{'+' if reading else ''}"
    failed = f", {progress.states['failed']:,} failed" if progress.states["failed"] else ""
    return f"{progress.ended:,}/{of} done{failed} · {format_tokens(progress.tokens)} tokens · {progress.cost()}"


def _duration(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {left:02} s" if minutes else f"{left} s"


def display(quiet: bool = False) -> Display:
    """What fits where stderr goes."""
    if quiet:
        return Quiet()
    return Bar() if sys.stderr.isatty() else Plain()
