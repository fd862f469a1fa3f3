"""A WebP ends with what was written about it; a file that lacks some of that still has the whole picture."""

import struct
from io import BytesIO
from typing import BinaryIO

_PIXELS = (b"VP8X", b"ICCP", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L")


def cleaned(file: BinaryIO, most_bytes: int) -> BinaryIO | None:
    """The WebP of its whole chunks of pixels; None if one of them is cut, or it is larger than that."""
    file.seek(0)
    content = file.read(most_bytes + 1)
    position, kept = 12, b""
    while position + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, position)
        end = position + 8 + length + length % 2
        if name in _PIXELS:
            if position + 8 + length > len(content):
                return None
            kept += content[position:end]
        position = end
    if len(content) > most_bytes or not kept:
        return None
    if kept[:4] == b"VP8X":  # without EXIF and XMP
        kept = kept[:8] + bytes([kept[8] & ~0b1100]) + kept[9:]
    return BytesIO(b"RIFF" + struct.pack("<I", 4 + len(kept)) + b"WEBP" + kept)
