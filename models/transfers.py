"""A file that goes to the provider or comes from it may be larger than memory, so it passes through in pieces."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tidemill.models.errors import TidemillError

OnBytes = Callable[[int], object]

_ANSWER_SECONDS = 180.0
"""Until the server has looked at what was sent, and until its first byte comes."""
_SLOWEST_BYTES_PER_SECOND = 100_000.0


class TransferError(TidemillError):
    """The file on this machine cannot be read or written."""


def transfer_seconds(bytes_: int) -> float:
    """How long it may take to send or to receive so much: 200 MB has half an hour."""
    return _ANSWER_SECONDS + bytes_ / _SLOWEST_BYTES_PER_SECOND


class _Counted(io.FileIO):
    """A file that tells how much of it was read."""

    def __init__(self, path: Path, on_bytes: OnBytes) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(-1 if size is None else size)
        self._on_bytes(self.tell())
        return piece


@contextmanager
def reading(path: Path, on_bytes: OnBytes | None) -> Iterator[BinaryIO]:
    """The file, open to be sent. Raises TransferError."""
    try:
        file = _Counted(path, on_bytes) if on_bytes else io.FileIO(path)
    except OSError as error:
        raise TransferError(f"{path} cannot be read: {error.strerror}. Check the folder and its rights.") from None
    with file:
        yield file


class Target:
    """A file that comes piece by piece. `failure` is why it could not be written, however that was wrapped since."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.bytes = 0
        self.failure: TransferError | None = None
        self._file, self._path = file, path

    def write(self, piece: bytes) -> None:
        """Raises TransferError."""
        try:
            self._file.write(piece)
        except OSError as error:
            self.failure = _unwritable(self._path, error)
            raise self.failure from None
        self.bytes += len(piece)


@contextmanager
def replacing(path: Path) -> Iterator[Target]:
    """What is written takes the place of the file at `path` when the block ends well. Raises TransferError."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb", buffering=0) as file:
            yield Target(file, path)
        part.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        part.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> TransferError:
    reason = error.strerror or type(error).__name__
    return TransferError(f"{path} cannot be written: {reason}. Make room or correct the rights of its folder.")
