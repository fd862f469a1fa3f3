"""Who waits for one answer in the process that asks for it may hear it while it is written.

The producer registers a listener for its batch. The worker inside the same process looks for it before a call.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Listener(Protocol):
    """Hears one answer; it is called on the worker's loop, and must not keep it waiting."""

    def begin(self) -> None:
        """A call begins. What was heard of an earlier one counts no more."""
        ...

    def hear(self, text: str) -> None:
        """The answer goes on with this text."""
        ...

    @property
    def heard_at(self) -> float:
        """The monotonic time of the last text; 0 before the first."""
        ...


_listeners: dict[str, Listener] = {}


@contextmanager
def listening(batch_id: str, listener: Listener) -> Iterator[None]:
    """Have answers to the batch's rows heard while the block runs."""
    _listeners[batch_id] = listener
    try:
        yield
    finally:
        del _listeners[batch_id]


def listener_of(batch_id: str | None) -> Listener | None:
    """Who listens to the batch in this process, if anybody does."""
    return _listeners.get(batch_id or "")
