"""Who waits for rows in the process that runs them hears at once when some have ended."""

import os
import threading

_ended = threading.Condition()
_times = 0


def times() -> int:
    """How often `tell` was called in this process."""
    return _times


def tell() -> None:
    """Say that rows have ended, and that this is stored."""
    global _times
    with _ended:
        _times += 1
        _ended.notify_all()


def wait(known: int, seconds: float) -> None:
    """Wait until `times` is more than `known`, but no longer than this."""
    with _ended:
        _ended.wait_for(lambda: _times > known, seconds)


def _begin_anew() -> None:
    """A fork has none of its parent's threads, and one of them may hold the lock."""
    global _ended
    _ended = threading.Condition()


os.register_at_fork(after_in_child=_begin_anew)
