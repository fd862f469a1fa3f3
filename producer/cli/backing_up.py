"""The embedded database is copied while it is in use; for a shared one there is pg_dump, which a sentence shows."""

import os
import stat
from pathlib import Path
from shlex import quote

from tidemill import migrations
from tidemill.models import blobs, files, sqlite
from tidemill.models.database import LONG_SECONDS, engine, reading
from tidemill.models.errors import InputError
from tidemill.models.urls import shown_url
from tidemill.producer.screen.display import Ticker
from tidemill.producer.screen.printing import print_json, print_line


def backup(file: str, force: bool, as_json: bool) -> None:
    """Copy the SQLite database into `file`, which appears when it is whole and checked.

    Raises:
        InputError: there is a shared database or none, or the file is there or cannot be written.
    """
    url = engine().url
    if url.get_backend_name() != "sqlite":
        shown = shown_url(url.set(drivername="postgresql").render_as_string())
        raise InputError(
            "A shared database is copied by its own program, which asks for the password: "
            f"pg_dump --format=custom --file={quote(file)} --username=USER {quote(shown)}"
        )
    target, own = Path(file).resolve(), Path(str(url.database))
    _check_free(target, own, force)
    unfinished = files.temporary(target)
    try:
        size = _copy(unfinished)
        os.replace(unfinished, target)  # noqa: PTH105
    except OSError as error:
        raise InputError(
            f"The copy {file} was not made: {error.strerror}. Free space, or choose another place."
        ) from None
    finally:
        for ending in ("", "-journal", "-wal", "-shm"):
            unfinished.with_name(f"{unfinished.name}{ending}").unlink(missing_ok=True)
    if as_json:
        return print_json({"file": str(target), "bytes": size, "database": str(own), "files": blobs.shown_url()})
    print_line(f"{file}: {size / 1e6:,.1f} MB, checked.")
    print_line(
        f"To restore it, stop everything that uses {own}, remove that file with its -wal and -shm, and copy this one "
        f"there. Pictures and training files are not in it: copy {blobs.shown_url()} too.",
        err=True,
    )
    return None


def _check_free(target: Path, own: Path, force: bool) -> None:
    try:
        there = files.status(target)
        is_own = target in {own.resolve(), *(own.resolve().with_name(f"{own.name}-{end}") for end in ("wal", "shm"))}
    except (OSError, ValueError) as error:
        raise InputError(f"{target} cannot be written: {getattr(error, 'strerror', None) or error}.") from None
    if is_own:
        raise InputError(f"{target} belongs to the database itself; name another file.")
    if there is not None and not stat.S_ISREG(there.st_mode):
        raise InputError(f"{target} is no file that could be replaced; name another one.")
    if there is not None and not force:
        raise InputError(f"{target} is there already; --force replaces it.")


def _copy(target: Path) -> int:
    ticker = Ticker("copied", "MB")
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with reading(LONG_SECONDS) as connection:
        if migrations.current(connection) is None:  # this also fixes the moment
            raise InputError("There is no database yet; the first command that stores something makes it.")
        size = sqlite.copy(connection, target, lambda copied: ticker(copied // 10**6))
    with target.open("rb+") as copied:
        os.fsync(copied.fileno())
    return size
