"""Nobody may see a file half written, even if its writer is killed in the middle."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_OPEN_FILES = "/proc/self/fd"
"""Where Linux shows the files that a process has open."""


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


def take_after(folder: Path, new: Path, rights: int) -> None:
    """Give a new file or folder the group of `folder`, and of its rights those in the mask `rights`."""
    model = folder.stat()
    if hasattr(os, "chown"):
        with suppress(PermissionError):  # we are not in that group; then our own has to do
            os.chown(new, -1, model.st_gid)
    new.chmod(stat.S_IMODE(model.st_mode) & rights)


def _new_file(path: Path, mode: int) -> BinaryIO:
    """A file in the folder of `path` that has no name yet; where the system has none such, of that name."""
    if hasattr(os, "O_TMPFILE") and os.access(_OPEN_FILES, os.X_OK):
        with suppress(OSError):  # not on every file system
            return open(os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, mode), "wb")  # noqa: PTH123
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    return open(os.open(path, flags, mode), "wb")  # noqa: PTH123


def _give_name(file: BinaryIO, path: Path) -> None:
    opened = os.open(_OPEN_FILES, os.O_RDONLY)
    try:
        os.link(str(file.fileno()), path, src_dir_fd=opened, follow_symlinks=True)
    finally:
        os.close(opened)


@contextmanager
def replacing(target: Path, like: Path | None = None) -> Iterator[BinaryIO]:
    """A file that takes `target`'s place when the block ends well, and is removed when it does not.

    It is on disk by then, with the mode of an older `target`; else with the group and the rights of the folder `like`,
    or as the umask lets any new file be. Where the system has files without a name, nothing is left of one whose writer
    is killed. Raises OSError.
    """
    unfinished = temporary(target)
    try:
        with _new_file(unfinished, 0o666 if like is None else 0o600) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not status(unfinished):
                _give_name(file, unfinished)
        if target.exists():
            unfinished.chmod(stat.S_IMODE(target.stat().st_mode))
        elif like is not None:
            take_after(like, unfinished, 0o666)
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
