"""Whoever waits in Python sees a progress bar where somebody looks: in a notebook, or at a terminal.

rich draws both. In a notebook the bar is an output of its cell that is written anew: it needs no widgets, so that it is
the same in Jupyter, in VS Code and where a notebook is executed, and its last state is saved with the notebook.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from tidemill.producer.screen.display import Counts, Display, ProgressBar, Quiet
from tidemill.producer.screen.printing import is_lively

_REDRAW_SECONDS = 0.2

_drawing = threading.Lock()
"""Held by the one wait of this process that shows a bar: two would overwrite each other."""


class NotebookBar(ProgressBar):
    """A progress bar in the output of a notebook's cell."""

    def __init__(self) -> None:
        super().__init__()
        self._output: Any = None
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_of: object) -> None:
        """Leave the last state, whatever ended the wait."""
        if self._output is not None:
            self._output.update(self._progress)

    def update(self, counts: Counts, *, reading: bool) -> None:
        """Move the bar; it appears at the first look that finds something to wait for."""
        super().update(counts, reading=reading)
        if self._output is None:
            from IPython.display import display

            self._output = display(self._progress, display_id=True)  # type: ignore[no-untyped-call]
        elif time.monotonic() - self._drawn_at >= _REDRAW_SECONDS:
            self._output.update(self._progress)
        else:
            return
        self._drawn_at = time.monotonic()


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def display_here() -> Iterator[Display]:
    """A bar where somebody looks and no other wait shows one; else sentences only."""
    kind = NotebookBar if is_notebook() else ProgressBar if is_lively(sys.stderr) else Quiet
    if kind is Quiet or not _drawing.acquire(blocking=False):
        yield Quiet()
        return
    try:
        with kind() as bar:
            yield bar
    finally:
        _drawing.release()
