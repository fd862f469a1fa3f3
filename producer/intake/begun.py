"""A pipe can be looked at only by reading it, so what was looked at is put before the rest."""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import NamedTemporaryFile
from typing import Any

from tidemill.producer.intake.formats import HEAD_BYTES
from tidemill.producer.intake.lines import ByteStream

_LINE_BYTES = 2**13


class _Again(io.RawIOBase):
    """A stream behind the bytes that were read of it."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Give the head first; then what has come, without waiting for a full buffer."""
        piece = self._head[: len(buffer)] or self._rest.read1(len(buffer))  # readinto1 would wait for more
        self._head = self._head[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


def begun(stream: Any) -> tuple[bytes, ByteStream]:
    """How a stream begins, up to the end of its first line that is not blank, and all of it."""
    head = b""
    while len(head) < HEAD_BYTES and (line := stream.readline(_LINE_BYTES)):
        head += line
        if head.startswith(b"PK"):
            continue  # what a ZIP archive holds, its first line does not say
        if line.endswith(b"\n") and head.strip(b"\xef\xbb\xbf\0 \t\r\n"):
            break
    return head, io.BufferedReader(_Again(head, stream), HEAD_BYTES)


@contextmanager
def spooled(stream: ByteStream) -> Iterator[ByteStream]:
    """The stream as a file on disk, for readers that need one."""
    with NamedTemporaryFile(prefix="tidemill-") as file:
        shutil.copyfileobj(stream, file)
        file.flush()
        os.fsync(file.fileno())
        with open(file.name, "rb") as readable:  # noqa: PTH123
            yield readable
