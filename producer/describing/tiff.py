"""The first image of a TIFF is not always the picture: it may be a thumbnail, or the container that of camera RAW.

Reads the directories of a TIFF, none of its pixels, and says which of them is the picture.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

Tags = dict[int, tuple[float, ...] | bytes]

_TYPES = {
    1: ("B", 1),
    2: ("s", 1),
    3: ("H", 2),
    4: ("I", 4),
    5: ("II", 8),
    6: ("b", 1),
    7: ("s", 1),
    8: ("h", 2),
    9: ("i", 4),
    10: ("ii", 8),
    11: ("f", 4),
    12: ("d", 8),
    13: ("I", 4),
    16: ("Q", 8),
    17: ("q", 8),
    18: ("Q", 8),
}
"""Type of a tag's values -> format and bytes of one."""
SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
OFFSETS, ORIENTATION, SAMPLES, COUNTS, SUBDIRECTORIES, EXTRA_SAMPLES = 273, 274, 277, 279, 330, 338
_JPEG_START, _JPEG_BYTES, _DNG_VERSION = 513, 514, 50706
_WANTED = {
    *(SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, ORIENTATION, SAMPLES, COUNTS),
    *(280, 281, SUBDIRECTORIES, EXTRA_SAMPLES, 339, 340, 341, _JPEG_START, _JPEG_BYTES, 42113, _DNG_VERSION),
}
_MOST_DIRECTORIES = 1000
_MOST_ENTRIES = 4096
_MOST_VALUES = 1024

_RAW_PHOTOMETRICS = (32803, 34892)  # colour filter array, linear RAW
_RAW_COMPRESSIONS = (262, 32767, 32769, 32770, 32867, 34713, 65000, 65535)  # Kodak, Sony, Epson, Samsung, Nikon, Pentax
_RAW_MARKS = re.compile(rb"CR\x02\0|IIII.waR|MMMMRaw", re.DOTALL)
"""What stands behind the header in Canon's CR2 and Phase One's IIQ."""
PREVIEW_PIXELS = 1000
"""A preview of this longer side stands for a camera RAW; so does a smaller one of nearly the RAW's own size."""
_NEARLY = 3 / 4
_THUMBNAIL_PIXELS = 320


@dataclass(frozen=True, slots=True)
class Directory:
    """One image of a TIFF: where it is described, and the tags that we look at."""

    offset: int
    tags: Tags = field(repr=False)
    is_page: bool
    """Whether it is in the main chain."""

    def number(self, tag: int, default: int = 0) -> int:
        """The first value of a tag, if it is a number."""
        values = self.tags.get(tag)
        return int(values[0]) if values and not isinstance(values, bytes) else default

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as stored."""
        return self.number(WIDTH), self.number(HEIGHT)

    @property
    def is_whole(self) -> bool:
        """Neither a smaller copy nor a mask of another image."""
        return not self.number(SUBFILE) & 5 and self.number(OLD_SUBFILE, 1) != 2

    @property
    def is_raw(self) -> bool:
        """Whether it is what a camera's sensor saw."""
        return self.number(PHOTOMETRIC) in _RAW_PHOTOMETRICS or self.number(COMPRESSION) in _RAW_COMPRESSIONS


class Preview(NamedTuple):
    """A JPEG inside a file."""

    start: int
    bytes: int
    width: int
    height: int


class Contents(NamedTuple):
    """What is in a TIFF: its images in order, and whether a camera wrote it as RAW."""

    directories: list[Directory]
    is_raw: bool


def read(file: BinaryIO) -> Contents:
    """The images of a TIFF; as many as can be read. Never raises for what is in the file."""
    head, order, is_big = _header(file)
    first = _number(head[8:16], order) if is_big else _number(head[4:8], order)
    directories = list(_directories(file, order, is_big, first))
    is_raw = any(each.is_raw or _DNG_VERSION in each.tags for each in directories)
    return Contents(directories, is_raw or _RAW_MARKS.match(head, 8) is not None)


def _header(file: BinaryIO) -> tuple[bytes, str, bool]:
    """The first bytes of a TIFF, the order of its bytes for `struct`, and whether it is a BigTIFF."""
    file.seek(0)
    head = file.read(16)
    return head, "<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+")


def _number(content: bytes, order: str) -> int:
    return int.from_bytes(content, "little" if order == "<" else "big")


def picture_of(directories: list[Directory]) -> Directory:
    """The image that a person sees: the first one that is no thumbnail, mask or smaller copy of another."""
    first, *others = directories
    whole = [each for each in directories if each.is_whole]
    if not first.is_whole:
        return max(whole, key=lambda each: (each.is_page, each.size[0] * each.size[1])) if whole else first
    later = [each for each in others if each.is_page and each.is_whole]
    if max(first.size) <= _THUMBNAIL_PIXELS and later and _is_copy(first, later[0]):
        return later[0]
    return first


def _is_copy(small: Directory, large: Directory) -> bool:
    (width, height), (full_width, full_height) = small.size, large.size
    return full_width >= 4 * width > 0 and abs(full_width * height - full_height * width) <= 2 * max(large.size)


def preview_of(file: BinaryIO, directories: list[Directory]) -> Preview | None:
    """The largest JPEG in a camera RAW that is large enough to stand for it."""
    previews = [preview for each in directories if not each.is_raw and (preview := _jpeg(file, each)) is not None]
    best = max(previews, key=lambda each: each.width * each.height, default=None)
    sensor = max((max(each.size) for each in directories if each.is_raw), default=0)
    if best is None:
        return None
    longest = max(best.width, best.height)
    return best if longest >= PREVIEW_PIXELS or (sensor and longest >= _NEARLY * sensor) else None


def _jpeg(file: BinaryIO, directory: Directory) -> Preview | None:
    """The JPEG that a directory describes, if a usual decoder can read it: those of sensors are lossless."""
    starts, counts = directory.tags.get(OFFSETS, ()), directory.tags.get(COUNTS, ())
    start, size = directory.number(_JPEG_START), directory.number(_JPEG_BYTES)
    if not size and len(starts) == len(counts) == 1:
        start, size = int(starts[0]), int(counts[0])
    file.seek(start)
    if not size or file.read(2) != b"\xff\xd8":
        return None
    position = start + 2
    while position < start + size:
        file.seek(position)
        marker = file.read(9)
        if len(marker) < 9 or marker[0] != 0xFF or marker[1] == 0xDA:
            return None
        if marker[1] in (0xC0, 0xC1, 0xC2):
            height, width = struct.unpack(">HH", marker[5:9])
            return Preview(start, size, width, height)
        if 0xC3 <= marker[1] <= 0xCF and marker[1] not in (0xC4, 0xC8, 0xCC):
            return None
        position += 1 if marker[1] == 0xFF else 2 + struct.unpack(">H", marker[2:4])[0]
    return None


def _directories(file: BinaryIO, order: str, is_big: bool, first: int) -> Iterator[Directory]:
    """The main chain, each with the directories inside it."""
    visited: set[int] = set()
    waiting = [(first, True)]
    while waiting and len(visited) < _MOST_DIRECTORIES:
        offset, is_page = waiting.pop()
        if not 0 < offset < 2**63 or offset in visited:
            continue
        visited.add(offset)
        try:
            tags, following = _tags(file, order, is_big, offset)
        except (struct.error, OverflowError, ValueError, OSError):  # the file ends before, or names no place in it
            continue
        yield Directory(offset, tags, is_page)
        if is_page:
            waiting.append((following, True))
        inner = tags.get(SUBDIRECTORIES, ())
        if not isinstance(inner, bytes):
            waiting.extend((int(each), False) for each in reversed(inner))


def _tags(file: BinaryIO, order: str, is_big: bool, offset: int) -> tuple[Tags, int]:
    """The wanted tags of one directory, and where the next one is. Raises struct.error if the file ends before."""
    file.seek(offset)
    (count,) = struct.unpack(order + ("Q" if is_big else "H"), file.read(8 if is_big else 2))
    if count > _MOST_ENTRIES:
        raise struct.error
    entry_bytes, inline_bytes = (20, 8) if is_big else (12, 4)
    entries = file.read(count * entry_bytes)
    (following,) = struct.unpack(order + ("Q" if is_big else "I"), file.read(inline_bytes))
    tags: Tags = {}
    for start in range(0, count * entry_bytes, entry_bytes):
        tag, kind, length = struct.unpack_from(order + ("HHQ" if is_big else "HHI"), entries, start)
        if tag not in _WANTED or kind not in _TYPES:
            continue
        form, width = _TYPES[kind]
        length = min(length, _MOST_VALUES)
        content = entries[start + entry_bytes - inline_bytes : start + entry_bytes]
        if length * width > inline_bytes:
            file.seek(struct.unpack(order + ("Q" if is_big else "I"), content)[0])
            content = file.read(length * width)
        content = content[: length * width]
        if len(content) == length * width:
            tags[tag] = content if form == "s" else struct.unpack(f"{order}{length * len(form)}{form[0]}", content)
    return tags, following


class StartingAt:
    """A TIFF whose first image is the one at `offset`; for Pillow, which begins with the first."""

    def __init__(self, file: BinaryIO, offset: int) -> None:
        self._file = file
        head, order, is_big = _header(file)
        self._head = (
            head[:8] + struct.pack(order + "Q", offset) if is_big else head[:4] + struct.pack(order + "I", offset)
        )
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        start = self._file.tell()
        content = self._file.read(size)
        return self._head[start : start + len(content)] + content[max(0, len(self._head) - start) :]

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of a file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of a file."""
        return self._file.tell()

    def fileno(self) -> int:
        """As of a file; libtiff is told the offset and reads the rest itself. Raises OSError if it has none."""
        return self._file.fileno()
