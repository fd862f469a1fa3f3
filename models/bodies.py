"""No server can fill this machine's memory: a body is read in pieces, and what is too large is not read to its end.

1 MB of gzip may be a gigabyte of zeros. So the pieces are kept as they came, and inflated in small steps only to be
counted; the whole is inflated once it is known to fit.
"""

import zlib
from collections.abc import AsyncIterable, Callable, Iterator, Mapping
from typing import Final

MB: Final = 2**20
MOST_REPLY_BYTES = 64 * MB
"""Of an answer, and of a whole list."""
MOST_FILE_BYTES = 32 * MB
"""Of a file that is downloaded: the curve of a fine-tune, of which this would be some 300,000 steps."""
MOST_DOWNLOAD_BYTES = 8192 * MB
"""Of a file that goes to disk: the answers of a batch."""
MOST_ERROR_BYTES = 64 * 1024
"""Of an error: nobody reads more of it."""
ACCEPT_ENCODING = "gzip"

_STEP_BYTES = 256 * 1024
_MOST_MEMBERS = 1_000
"""Of a gzip stream; each costs time even when it is empty."""


class TooLargeError(Exception):
    """The body is larger than `most_bytes` when decompressed; no more of it was read."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(f"it is larger than {most_bytes // MB} MB")


class DamagedError(Exception):
    """The body is not gzip, although it says so, or it ends too early."""


class EncodingError(Exception):
    """The body has an encoding that was not asked for."""


def is_plain_and_fits(headers: Mapping[str, str], most_bytes: int) -> bool:
    """Whether a body is as long as its header says, not compressed and not too large, so that it needs no counting."""
    length = headers.get("content-length", "")
    if not length.isdecimal() or "content-encoding" in headers or "transfer-encoding" in headers:
        return False
    return int(length[:20]) <= most_bytes


async def read_whole(
    pieces: AsyncIterable[bytes],
    encoding: str,
    length: str,
    most_bytes: int,
    on_piece: Callable[[bytes], None] = lambda _piece: None,
) -> bytes:
    """The whole body, decompressed.

    Args:
        pieces: what comes over the wire, still compressed.
        encoding: the header Content-Encoding; "" without one.
        length: the header Content-Length, so that nothing is read of what is too large; "" without one.
        most_bytes: how large the body may be, compressed and decompressed.
        on_piece: is called with each piece as it comes, decompressed.

    Raises:
        TooLargeError, DamagedError, EncodingError: see there.
    """
    gunzip = _gunzip(encoding)
    if length.isdecimal() and int(length[:20]) > most_bytes:
        raise TooLargeError(most_bytes)
    body: list[bytes] = []
    raw_bytes = bytes_ = 0
    async for piece in pieces:
        body.append(piece)
        raw_bytes += len(piece)
        for step in gunzip.inflate(piece) if gunzip else (piece,):
            bytes_ += len(step)
            if bytes_ > most_bytes:
                raise TooLargeError(most_bytes)
            on_piece(step)
        if raw_bytes > most_bytes:
            raise TooLargeError(most_bytes)
    if gunzip is None:
        return b"".join(body)
    if body and not gunzip.is_at_end:
        raise DamagedError("it ends too early")
    again = _Gunzip()
    return b"".join(step for piece in body for step in again.inflate(piece))


async def read_through(
    pieces: AsyncIterable[bytes], encoding: str, most_bytes: int, on_piece: Callable[[bytes], None]
) -> None:
    """As `read_whole`, but nothing is kept: `on_piece` gets all there is."""
    gunzip, bytes_ = _gunzip(encoding), 0
    async for piece in pieces:
        for step in gunzip.inflate(piece) if gunzip else (piece,):
            bytes_ += len(step)
            if bytes_ > most_bytes:
                raise TooLargeError(most_bytes)
            on_piece(step)
    if gunzip is not None and bytes_ and not gunzip.is_at_end:
        raise DamagedError("it ends too early")


async def read_beginning(pieces: AsyncIterable[bytes], encoding: str, most_bytes: int = MOST_ERROR_BYTES) -> bytes:
    """The first bytes of a body, decompressed as far as that is possible; the rest is not read."""
    body = b""
    try:
        gunzip = _gunzip(encoding)
        async for piece in pieces:
            for step in gunzip.inflate(piece) if gunzip else (piece,):
                body += step
                if len(body) >= most_bytes:
                    return body[:most_bytes]
    except (DamagedError, EncodingError):
        pass  # the status says enough
    return body


class _Gunzip:
    """One gzip stream, which may consist of several members."""

    def __init__(self) -> None:
        self._member = _new_member()
        self._members = 1

    @property
    def is_at_end(self) -> bool:
        """Whether the last member is complete."""
        return self._member.eof

    def inflate(self, piece: bytes) -> Iterator[bytes]:
        """The piece decompressed, in steps of bounded size. Raises DamagedError."""
        while piece:
            if self._member.eof:
                self._member = _new_member()
                self._members += 1
            if self._members > _MOST_MEMBERS:
                raise DamagedError("it has too many parts")
            try:
                step = self._member.decompress(piece, _STEP_BYTES)
            except zlib.error as error:
                raise DamagedError(str(error)) from None
            piece = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            yield step


def _new_member() -> "zlib._Decompress":
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _gunzip(encoding: str) -> _Gunzip | None:
    """What decompresses this encoding; None for a body that is not compressed. Raises EncodingError."""
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return None
    if name not in {"gzip", "x-gzip"}:
        raise EncodingError(f"it is encoded as {name}, which was not asked for")
    return _Gunzip()
