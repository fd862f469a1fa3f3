"""A file may be compressed, read or written, and is what is in it: `data.csv.gz` is a CSV.

It streams: a small file that unpacks to a huge one takes no more memory than the huge one itself.
"""

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, cast


def _zstd() -> ModuleType:
    """Python's own from 3.14 on. Importing it takes 20 ms, and few files need it."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


COMPRESSED: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda file, mode="rb": _zstd().open(file, mode),
}
"""Ending -> what opens a path or a file for reading bytes ("rb") or writing them ("wb")."""


def unpack_errors() -> tuple[type[BaseException], ...]:
    """What is raised by reading an archive that is damaged or cut short."""
    return EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, cast("type[Exception]", _zstd().ZstdError)


def is_compressed(path: Path) -> bool:
    """Whether a file's ending says that it is compressed."""
    return path.suffix.lower() in COMPRESSED


def ending_of(path: Path) -> str:
    """The ending that says a file's format: `.csv` of data.csv and of data.csv.gz."""
    return (Path(path.stem) if is_compressed(path) else path).suffix.lower()


@contextmanager
def opened(path: Path, buffer_bytes: int = io.DEFAULT_BUFFER_SIZE) -> Iterator[io.BufferedReader]:
    """A file's bytes, unpacked. While it is open, `unpack_errors()` and OSError may be raised by each read."""
    opener = COMPRESSED.get(path.suffix.lower())
    with io.BufferedReader(path.open("rb", 0) if opener is None else opener(path), buffer_bytes) as file:
        yield file


@contextmanager
def packing(file: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """What takes the bytes of a file and writes them as its ending says: compressed, or as they are."""
    opener = COMPRESSED.get(path.suffix.lower())
    if opener is None:
        yield file
        return
    with opener(file, "wb") as packed:  # which leaves `file` open
        yield packed
