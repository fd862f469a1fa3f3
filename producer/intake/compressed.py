"""A file may come compressed, and is read as what is in it: `data.csv.gz` is a CSV.

It streams: a small file that unpacks to a huge one takes no more memory than the huge one itself.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMPRESSED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""Ending -> what opens it for reading bytes."""

UNPACK_ERRORS = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def is_compressed(path: Path) -> bool:
    """Whether a file's ending says that it is compressed."""
    return path.suffix.lower() in COMPRESSED


def ending_of(path: Path) -> str:
    """The ending that says a file's format: `.csv` of data.csv and of data.csv.gz."""
    return (Path(path.stem) if is_compressed(path) else path).suffix.lower()


@contextmanager
def opened(path: Path, buffer_bytes: int = io.DEFAULT_BUFFER_SIZE) -> Iterator[io.BufferedReader]:
    """A file's bytes, unpacked. While it is open, `UNPACK_ERRORS` and OSError may be raised by each read."""
    opener = COMPRESSED.get(path.suffix.lower())
    with io.BufferedReader(path.open("rb", 0) if opener is None else opener(path), buffer_bytes) as file:
        yield file
