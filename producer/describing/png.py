"""A PNG states its colours in chunks that Pillow passes over, and a bad chunk beside the pixels need not cost them.

Reads the chunks of a PNG, none of its pixels.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NEEDED = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_KEPT = {b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
"""Chunks that say how a picture looks. All others are text, times and sizes in print."""
_LARGEST_BESIDE = 16 * 2**20


class Chunk(NamedTuple):
    """A name, where its content begins, and how long that is."""

    name: bytes
    start: int
    bytes: int


class Facts(NamedTuple):
    """What a PNG says: bits a sample, code points of primaries and curve, whether it says sRGB, and has an end."""

    bits: int
    code_points: tuple[int, int] | None
    is_srgb: bool
    has_end: bool


def facts(file: BinaryIO) -> Facts:
    """What a PNG says of itself. Never raises for what is in the file."""
    bits, code_points, is_srgb, has_end, position = 8, None, False, False, file.tell()
    for chunk in _chunks(file):
        has_end = chunk.name == b"IEND"
        content = _content(file, chunk) if chunk.name in (b"IHDR", b"cICP", b"sRGB") else None
        if content is None:
            continue
        if chunk.name == b"IHDR" and len(content) == 13:
            bits = content[8]
        elif chunk.name == b"cICP" and len(content) == 4:
            code_points = content[0], content[1]
        elif chunk.name == b"sRGB":
            is_srgb = True
    file.seek(position)  # where the decoder of an animation goes on
    return Facts(bits, code_points, is_srgb, has_end)


def cleaned(file: BinaryIO, most_bytes: int) -> BinaryIO | None:
    """The PNG without what is beside its pixels or damaged there; None if nothing is, or it is larger than that."""
    kept, size, is_changed = [SIGNATURE], 0, False
    for chunk in _chunks(file):
        is_needed = chunk.name in _NEEDED
        content = _content(file, chunk, is_checked=not is_needed) if is_needed or chunk.name in _KEPT else None
        if content is None:
            is_changed = True
            continue
        size += len(content)
        if size > most_bytes:
            return None
        file.seek(chunk.start + chunk.bytes)
        check = file.read(4) if is_needed else struct.pack(">I", zlib.crc32(chunk.name + content))
        kept += [struct.pack(">I", chunk.bytes), chunk.name, content, check]
    return BytesIO(b"".join(kept)) if is_changed else None


def _chunks(file: BinaryIO) -> Iterator[Chunk]:
    """Every chunk. One whose name or length cannot be has no name here, and goes up to the next pixels."""
    file.seek(0, 2)
    end, position = file.tell(), len(SIGNATURE)
    while position + 8 <= end:
        file.seek(position)
        length, name = struct.unpack(">I4s", file.read(8))
        if not name.isalpha() or (name not in _NEEDED and position + 12 + length > end):
            file.seek(position)
            pixels = re.search(rb"IDAT", file.read(_LARGEST_BESIDE)[8:])
            if pixels is None:
                return
            yield Chunk(b"", position, 0)
            position += 8 + pixels.start() - 4
            continue
        yield Chunk(name, position + 8, length)
        if name == b"IEND":
            return
        position += 12 + length


def _content(file: BinaryIO, chunk: Chunk, *, is_checked: bool = True) -> bytes | None:
    """The content of a chunk; None if it is checked, and damaged or absurdly long."""
    if is_checked and chunk.bytes > _LARGEST_BESIDE:
        return None
    file.seek(chunk.start)
    content, check = file.read(chunk.bytes), file.read(4)
    if is_checked and check != struct.pack(">I", zlib.crc32(chunk.name + content)):
        return None
    return content
