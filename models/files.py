"""Nobody may see a file half written, even if its writer is killed in the middle."""

import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

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
    _sync_folder(target.parent)


def _sync_folder(path: Path) -> None:
    with suppress(OSError):  # Windows and some network disks cannot sync a folder; the file itself is safe
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class BusyError(OSError):
    """Another process writes the file, piece by piece."""


class GrowingFile:
    """A file that others may read while it grows: it takes `target`'s place with its first piece, and holds whole ones.

    An older file stays as it was until then, and for those who have it open. A kill leaves the pieces that are written,
    the last one perhaps in part. Two who write the same file never mix: the second gets a BusyError.
    """

    def __init__(self, target: Path) -> None:
        _refuse_busy(target)
        self._target = target
        self._file: BinaryIO | None = None
        self._bytes = 0

    def write(self, piece: bytes) -> int:
        """Append a piece, which readers can see at once. Raises OSError."""
        if self._file is None:
            self._file = self._begin(piece)
        else:
            _write_all(self._file, piece)
        self._bytes += len(piece)
        return len(piece)

    def _begin(self, piece: bytes) -> BinaryIO:
        unfinished = temporary(self._target)
        file = _new_file(unfinished, 0o666)
        try:
            _write_all(file, piece)
            _lock(file)
            if not status(unfinished):
                _give_name(file, unfinished)
            if older := status(self._target):
                unfinished.chmod(stat.S_IMODE(older.st_mode))
            unfinished.replace(self._target)
        except BaseException:
            file.close()
            unfinished.unlink(missing_ok=True)
            raise
        return file

    def is_intact(self) -> bool:
        """Whether what is found under its name is this file, with nothing but what was written to it."""
        there = status(self._target)
        if self._file is None or there is None:
            return False
        own = os.fstat(self._file.fileno())
        return (there.st_dev, there.st_ino, there.st_size) == (own.st_dev, own.st_ino, self._bytes)

    def sync(self) -> None:
        """Return once all of it is on disk. Raises OSError."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            _sync_folder(self._target.parent)

    def close(self) -> None:
        """Write no more; what is written stays."""
        if self._file is not None:
            self._file.close()


def _write_all(file: BinaryIO, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(file.fileno(), left) :]


def _lock(file: BinaryIO) -> None:
    """Mark a file as one that this process writes; BlockingIOError if another does. Some disks have no locks."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass


def _refuse_busy(target: Path) -> None:
    try:
        with target.open("rb") as older:
            _lock(older)
    except BlockingIOError:
        raise BusyError(f"{target} is being written by another command") from None
    except OSError:
        pass  # there is none, or it cannot be read
