"""Nobody may see a file half written, even if its writer is killed in the middle."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def status(path: Path) -> os.stat_result | None:
    """What is at `path`; None where nothing is.

    Raises OSError or ValueError where that cannot be known, e.g. for a name that is too long. `Path.exists`, `is_dir`
    and `is_file` raise up to Python 3.13 and say False from 3.14 on.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def temporary(target: Path) -> Path:
    """A new name in `target`'s folder; short, since `target`'s may be of the full length."""
    return target.with_name(f".tidemill-{secrets.token_hex(6)}.tmp")


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A file that takes `target`'s place when the block ends well, and is removed when it does not.

    It is on disk by then, with the mode of an older `target`. Raises OSError.
    """
    unfinished = temporary(target)
    # Not tempfile: its files are private (0600), while ours are as readable as the umask lets any new file be.
    descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            unfinished.chmod(stat.S_IMODE(target.stat().st_mode))
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # Windows and some network disks cannot sync a folder; the file itself is safe
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
