"""A prepared picture is stored once, where every worker can read it; messages and rows carry only its hash.

Pictures are kept by the SHA-256 of their content, as `ab/abcdef...` under TIDEMILL_BLOBS_URL: a folder, or whatever
fsspec opens. Every call blocks, so the worker's loop calls from a thread.
"""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.models import remote_files, urls
from tidemill.models.errors import TidemillError
from tidemill.models.files import replacing, take_after
from tidemill.models.settings import settings
from tidemill.models.text import one_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


class BlobError(TidemillError):
    """The store of pictures cannot be reached, read or written."""


class BlobMissingError(BlobError):
    """The store works, but the picture is not in it, or is no longer what was stored."""


def put(content: bytes, sha256: str) -> None:
    """Store a picture under the SHA-256 of its content (hex). On return it is on disk. Thread-safe.

    Nothing is written if a file of that name and size exists. Raises BlobError.
    """
    with _open_store() as (files, root):
        path = _path(root, sha256)
        if _size(files, path) != len(content):
            _write(files, root, path, content)


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


def _size(files: "AbstractFileSystem", path: str) -> int | None:
    try:
        return int(files.info(path)["size"])
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
