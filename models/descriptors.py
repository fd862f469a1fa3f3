"""Every call in flight is an open file to the system, of which a process may have only so many."""

import sys
from contextlib import suppress
from logging import WARNING
from pathlib import Path

from tidemill.models.lines import note

_RESERVE = 64
"""Files that a worker opens beside its calls: databases, pipes to children, pictures, a broker."""
_MOST = 10_240
"""What macOS grants at most, whatever its hard limit says."""


def window_that_fits(window: int) -> int:
    """As many calls as wanted, or as can be in flight at once with the files that this process may open.

    Raises the soft limit of open files first: macOS begins with 256. What does not fit is logged.
    """
    needed = _open_files() + _RESERVE + window
    limit = _raise_limit(needed)
    if limit is None or limit >= needed:
        return window
    fitting = max(1, window - (needed - limit))
    sentence = (
        f"Only {fitting} calls in flight rather than {window}: the system allows this process {limit} open files. "
        f"Raise that limit (ulimit -n {needed}), or lower TIDEMILL_WINDOW."
    )
    note(WARNING, "window", sentence, window=fitting, files=limit)
    return fitting


def _raise_limit(needed: int) -> int | None:
    """The soft limit after it was raised as far as needed and possible; None where there is none."""
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    for wanted in (highest, min(highest, _MOST)):
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                soft = wanted
    return None if soft == resource.RLIM_INFINITY else soft


def _open_files() -> int:
    try:
        return len(list(Path("/dev/fd").iterdir()))
    except OSError:  # /dev is not always there
        return _RESERVE
