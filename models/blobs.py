"""A prepared picture is stored once, where every worker can read it; messages and rows carry only its hash.

Pictures are kept by the SHA-256 of their content, as `ab/abcdef...` under TIDEMILL_BLOBS_URL: a folder, or whatever
fsspec opens. Every call blocks, so the worker's loop calls from a thread.
"""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tidemill.models import remote_files, urls
from tidemill.models.errors import TidemillError
from tidemill.models.files import replacing, take_after
from tidemill.models.settings import settings
from tidemill.models.text import one_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


GRACE_SECONDS = 86_400.0
"""For so long a file is left alone that no row names: its row may be about to be stored."""


class StoredFile(NamedTuple):
    """A file of the store: its name is the SHA-256 (hex) of its content."""

    sha256: str
    bytes: int
    age_seconds: float
    """0 where the store does not say since when it is there."""


class BlobError(TidemillError):
    """The store of pictures cannot be reached, read or written."""


class BlobMissingError(BlobError):
    """The store works, but the picture is not in it, or is no longer what was stored."""


def put(content: bytes, sha256: str) -> None:
    """Store a picture under the SHA-256 of its content (hex). On return it is on disk. Thread-safe.

    Nothing is written if a file of that name and size exists and is young; an older one is made young again, so that
    nobody removes it before its row is stored. Raises BlobError.
    """
    with _open_store() as (files, root):
        path = _path(root, sha256)
        there = _stored(files, path)
        if there is None or there.bytes != len(content):
            _write(files, root, path, content)
        elif there.age_seconds > GRACE_SECONDS / 2:
            _renew(files, root, path, content)


def get(sha256: str) -> bytes:
    """The picture that was stored under this hash.

    Raises:
        BlobMissingError: there is none, or what is there does not have this hash.
        BlobError: the store cannot be read.
    """
    with _open_store() as (files, root):
        try:
            content = bytes(files.cat_file(_path(root, sha256)))
        except FileNotFoundError:
            content = None
    if content is None:
        raise BlobMissingError(
            f"The file {sha256[:12]} is not in {shown_url()}; let TIDEMILL_BLOBS_URL be the same for commands and "
            "workers, then run the command that submitted it again."
        )
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BlobMissingError(
            f"The file {sha256[:12]} in {shown_url()} is damaged; delete {sha256[:2]}/{sha256} there, then run the "
            "command that submitted it again."
        )
    return content


def check() -> str:
    """Write, read and remove a few bytes; returns a sentence for `doctor`. Raises BlobError."""
    probe = secrets.token_bytes(16)
    with _open_store() as (files, root):
        path = f"{root}/.tidemill-{probe.hex()}.probe"
        _write(files, root, path, probe)
        try:
            read_back = files.cat_file(path)
        finally:
            files.rm_file(path)
    if read_back != probe:
        raise BlobError(f"The pictures' store {shown_url()} returns other bytes than were written; use another one.")
    return f"pictures are kept in {shown_url()}"


def shown_url() -> str:
    """TIDEMILL_BLOBS_URL for messages: a folder as it is, and nothing secret of a URL."""
    url = settings().effective_blobs_url
    return urls.shown_url(url) if "://" in url else url


@cache
def _open(url: str) -> tuple["AbstractFileSystem", str]:
    """fsspec's filesystem and the root in it. This makes a relative folder absolute, once a process."""
    return remote_files.filesystem(url)


@contextmanager
def _open_store() -> Iterator[tuple["AbstractFileSystem", str]]:
    try:
        yield _open(settings().effective_blobs_url)
    except Exception as error:  # each driver raises errors of its own, and they share no base
        raise BlobError(_sentence(error)) from error


def _path(root: str, sha256: str) -> str:
    return f"{root}/{sha256[:2]}/{sha256}"


def _stored(files: "AbstractFileSystem", path: str) -> "StoredFile | None":
    try:
        return _stored_file(files.info(path))
    except FileNotFoundError:
        return None


def _write(files: "AbstractFileSystem", root: str, path: str, content: bytes) -> None:
    """Write a file whole or not at all. Object stores do so by themselves; a folder needs a temporary name."""
    if not remote_files.is_local(files):
        files.pipe_file(path, content)
        return
    _make_folder(Path(root), Path(path).parent)
    with replacing(Path(path), like=Path(root)) as file:
        file.write(content)


def _make_folder(root: Path, folder: Path) -> None:
    """Make a folder of the store, with the rights and the group of its root; a root that we make is ours alone."""
    with suppress(FileExistsError):
        root.mkdir(mode=0o700, parents=True)
    if folder != root:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            take_after(root, folder, 0o7777)


def _sentence(error: Exception) -> str:
    shown = shown_url()
    reason = getattr(error, "strerror", None) or one_line(str(error)).rstrip(".") or type(error).__name__
    way_out = next((way_out for sign, way_out in _WAYS_OUT.items() if sign in reason.lower()), "fix TIDEMILL_BLOBS_URL")
    if shown != settings().effective_blobs_url:
        reason = type(error).__name__  # its text may contain what must not be shown
        way_out += ", and keep keys out of it: S3 and Google's storage take them from variables"
    return f"The pictures' store {shown} cannot be used: {reason}; {way_out}."


_WAYS_OUT = {
    "install s3fs": "pip install 'tidemill[s3]'",
    "install gcsfs": "pip install 'tidemill[gcs]'",
    "no module named": "install it",
    "no space left": "free space, then run the same command again",
    "quota": "free space, then run the same command again",
    "permission": "make it writable, or set TIDEMILL_BLOBS_URL to a place that is",
    "access denied": "give the key the right to list, read, write and delete there",
    "forbidden": "give the key the right to list, read, write and delete there",
    "read-only": "make it writable, or set TIDEMILL_BLOBS_URL to a place that is",
    "not a directory": "set TIDEMILL_BLOBS_URL to a folder",
    "file exists": "set TIDEMILL_BLOBS_URL to a folder",
    "does not exist": "create it first",
    "credentials": "set the variables with the key, such as AWS_ACCESS_KEY_ID or GOOGLE_APPLICATION_CREDENTIALS",
    "connect": "start the store's server, or fix TIDEMILL_BLOBS_URL and the variable with its address",
}


# --- remove ---


def old_files() -> Iterator[StoredFile]:
    """The files that are older than the grace, folder after folder: a 256th of all is in memory. Raises BlobError."""
    for number in range(256):
        with _open_store() as (files, root):
            folder = f"{root}/{number:02x}"
            files.invalidate_cache(folder)
            try:
                infos = files.ls(folder, detail=True)
            except FileNotFoundError:
                continue
            there = [_stored_file(each) for each in infos if each["type"] == "file"]
        yield from (
            file
            for file in there
            if file.age_seconds > GRACE_SECONDS
            and _SHA256.fullmatch(file.sha256)
            and file.sha256.startswith(f"{number:02x}")
        )


def remove(sha256: str) -> bool:
    """Remove a file that is old, as nobody has stored it again meanwhile; returns whether it was. Raises BlobError."""
    with _open_store() as (files, root):
        path = _path(root, sha256)
        files.invalidate_cache(path)
        there = _stored(files, path)
        if there is None or there.age_seconds <= GRACE_SECONDS:
            return False
        files.rm_file(path)
    return True


_SHA256 = re.compile("[0-9a-f]{64}")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
"""What fsspec's file systems call the time at which a file was last written, each in its own words."""


def _stored_file(info: dict[str, object]) -> StoredFile:
    written_at = next((info[name] for name in _TIMES if info.get(name)), None)
    if isinstance(written_at, str):
        written_at = datetime.fromisoformat(written_at)
    if isinstance(written_at, datetime):
        written_at = written_at.timestamp()
    age = time.time() - written_at if isinstance(written_at, int | float) else 0.0
    return StoredFile(str(info["name"]).rpartition("/")[2], int(str(info["size"])), age)


def _renew(files: "AbstractFileSystem", root: str, path: str, content: bytes) -> None:
    """Make a file young. In a folder that costs nothing; an object store must be given it again."""
    if remote_files.is_local(files):
        with suppress(OSError):  # somebody else's, or removed just now: then it is written anew
            os.utime(path)
            return
    _write(files, root, path, content)
