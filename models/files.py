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


def take_after(folder: Path, new: Path, rights: int) -> None:
    """Give a new file or folder the group of `folder`, and of its rights those in the mask `rights`."""
    model = folder.stat()
    if hasattr(os, "chown"):
        with suppress(PermissionError):  # we are not in that group; then our own has to do
            os.chown(new, -1, model.st_gid)
    new.chmod(stat.S_IMODE(model.st_mode) & rights)


@contextmanager
def replacing(target: Path, like: Path | None = None) -> Iterator[BinaryIO]:
    """A file that takes `target`'s place when the block ends well, and is removed when it does not.

    It is on disk by then, with the mode of an older `target`; else with the group and the rights of the folder `like`,
    or as the umask lets any new file be. Raises OSError.
    """
    unfinished = temporary(target)
    mode = 0o666 if like is None else 0o600
    descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), mode)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123
            yield file
            file.flush()
            os.fsync(file.fileno())
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
