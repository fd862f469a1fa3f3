"""Files at an address (https://, s3://, gs://, ...) are read and written here, and nothing secret of one is shown.

fsspec opens them; its drivers raise errors of their own, which become sentences here. What is read is copied to a local
file first, and what is written comes from one. So readers need no network, and an object is replaced whole or not at
all.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from tidemill.models.errors import InputError, TidemillError
from tidemill.models.outbound import outbound
from tidemill.models.text import one_line
from tidemill.models.urls import shown_url

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_WEB = ("http", "https")
_REPLACED_WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Stores in which a new object takes the place of an old one only once all of it is there."""
_SILENCE_SECONDS = 60.0
_PROBE = ".tidemill-probe"

_EXTRAS = {"s3fs": "pip install 'tidemill[s3]'", "gcsfs": "pip install 'tidemill[gcs]'"}
_STATUSES = {
    401: "the server asks for a key or password, or refuses it",
    403: "the server refuses it (403): check your rights, and whether a signed address has expired",
    404: "there is no such file; check the address",
    407: "the proxy asks for a password: name it in HTTPS_PROXY",
    410: "there is no such file any more",
}
_KINDS: dict[type[Exception], str] = {
    FileNotFoundError: "there is no such file or bucket; check the address",
    FileExistsError: "it is a folder; name a file in it",
    IsADirectoryError: "it is a folder; name a file in it",
    PermissionError: "the key that is used has no right to it",
    TimeoutError: "the server does not answer; try again later",
}
_WORDS = {
    "protocol not known": "no such kind of address is known; https://, s3:// and gs:// are",
    "credential": "no key is set: AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS",
    "certificate": "the server's certificate is not trusted; SSL_CERT_FILE names others to trust",
    "connect": "the server cannot be reached, or broke off; check the address and the network",
    "payload": "the server broke off before the end; try again",
}
"""What is in an error's name or text -> what that means."""


class RemoteFileError(InputError):
    """A file at an address cannot be read or written; the text shows no user, password or query."""


def is_url(text: str) -> bool:
    """Whether it is an address, and no path of this machine."""
    return "://" in text


def is_web(url: str) -> bool:
    """Whether it is on the web, where files are only read."""
    return _scheme(url) in _WEB


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def path_of(url: str) -> str:
    """The path in an address, without its query. Raises RemoteFileError."""
    try:
        return urlsplit(url).path
    except ValueError:
        raise RemoteFileError(f"{shown_url(url)} is no usable address, as https://host/prompts.csv is") from None


def filesystem(url: str) -> tuple["AbstractFileSystem", str]:
    """fsspec's filesystem for an address or a local path, and the path in it; a relative path becomes absolute.

    Raises whatever fsspec and its drivers raise.
    """
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    if not is_url(url):  # a path may hold what has a meaning in URLs
        return LocalFileSystem(), str(Path(url).expanduser().absolute())
    files, path = url_to_fs(url, **(_web_options(url) if is_web(url) else {}))
    return files, path.rstrip("/")


def is_local(files: "AbstractFileSystem") -> bool:
    """Whether a filesystem is this machine's."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(files, LocalFileSystem)


def _web_options(url: str) -> dict[str, Any]:
    """The way out of this machine, as calls take it."""
    from aiohttp import ClientTimeout

    way = outbound(url)
    options: dict[str, Any] = {
        "skip_instance_cache": True,
        "client_kwargs": {"timeout": ClientTimeout(sock_connect=_SILENCE_SECONDS, sock_read=_SILENCE_SECONDS)},
    }
    if way.certificates.context is not None:
        options["ssl"] = way.certificates.context
    if way.proxy is not None:
        options["proxy"] = way.proxy.url
        if way.proxy.authorization is not None:
            options["proxy_headers"] = {"Proxy-Authorization": way.proxy.authorization.get_secret_value()}
    return options


# --- read ---


def matching(url: str) -> list[str]:
    """The addresses of the objects that fit an address with `*` in it. Raises RemoteFileError."""
    with _explaining(url, "read"):
        files, path = filesystem(url)
        files.invalidate_cache()  # a notebook asks again later
        return [str(files.unstrip_protocol(each)) for each in files.glob(path)]


def download(url: str, target: Path, on_bytes: Callable[[int], object]) -> None:
    """Copy a file to a local one, piece by piece; `on_bytes` hears how many bytes there are by now.

    Raises:
        RemoteFileError: it cannot be reached or read, or this machine's disk is full.
        SettingsError: proxy or certificates, as the environment names them, cannot be used.
    """
    with _explaining(url, "read"):
        from fsspec.callbacks import Callback

        files, path = filesystem(url)
        report = Callback(hooks={"bytes": lambda _size, done, **_: on_bytes(done)})
        files.get_file(path, str(target), callback=report)


# --- write ---


def check_writable(url: str) -> None:
    """Write a few bytes beside the file that is to be written, and remove them.

    Raises:
        RemoteFileError: no file could be written there.
    """
    _check_scheme(url)
    with _explaining(url, "written"):
        files, path = filesystem(url)
        folder, slash, name = path.rpartition("/")
        if not slash or not name:
            raise RemoteFileError(f"{shown_url(url)} names no file; write {_scheme(url)}://bucket/name.csv")
        files.pipe_file(f"{folder}/{_PROBE}", b"tidemill")
        with suppress(Exception):  # who may write need not be allowed to delete
            files.rm_file(f"{folder}/{_PROBE}")


def _check_scheme(url: str) -> None:
    if _scheme(url) not in _REPLACED_WHOLE:
        others = "https:// is only read" if is_web(url) else f"{_scheme(url)}:// is no place that replaces files whole"
        raise RemoteFileError(f"{shown_url(url)} cannot be written: {others}; name a local file, s3:// or gs://")


@contextmanager
def replacing(url: str) -> Iterator[BinaryIO]:
    """A local file that takes the place of the one at an address when the block ends well.

    Raises:
        RemoteFileError: it cannot be sent; what was there before stays.
    """
    _check_scheme(url)
    with NamedTemporaryFile(prefix="tidemill-") as file:
        yield file  # type: ignore[misc]  # it is a wrapper of one
        file.flush()
        with _explaining(url, "written"):
            files, path = filesystem(url)
            files.put_file(file.name, path)


# --- what goes wrong ---


@contextmanager
def _explaining(url: str, done: str) -> Iterator[None]:
    try:
        yield
    except (TidemillError, BrokenPipeError):
        raise
    except Exception as error:  # noqa: BLE001  # each driver raises errors of its own, and they share no base
        raise RemoteFileError(f"{shown_url(url)} cannot be {done}: {_reason(error, url)}") from None


def _reason(error: Exception, url: str) -> str:
    """Why, in words of ours: those of the error may hold what must not be shown."""
    text = f"{type(error).__name__} {error}".lower()
    status = getattr(error, "status", None)
    if isinstance(error, ImportError):
        remedy = next((way for name, way in _EXTRAS.items() if name in text), f"fsspec's driver for {_scheme(url)}://")
        return f"that needs {remedy}"
    if isinstance(status, int):
        return _STATUSES.get(status) or f"the server answers {status}; try again later"
    if type(error) is OSError and error.errno is not None:  # of this machine
        return one_line(error.strerror or "the system refuses it")
    by_kind = (sentence for kind, sentence in _KINDS.items() if isinstance(error, kind))
    by_words = (sentence for words, sentence in _WORDS.items() if words in text)
    return next(chain(by_kind, by_words), f"{type(error).__name__}; check the address")
