"""What begins like a picture may be cut, damaged beside its pixels, or another thing; as much as is there is decoded.

A file is recognised by its content and never by its name.
"""

import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any, BinaryIO, cast

from PIL import Image, ImageFile, UnidentifiedImageError

from tidemill.producer.describing import png, webp
from tidemill.producer.describing.children import MEMORY_BYTES

SizeFor = Callable[[int, int], tuple[int, int]]
OnNote = Callable[[str], None]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
HEIF = "HEIF"
LARGEST_FILE_BYTES = 512 * 2**20
_SIGNATURES = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"GIF8[79]a", "GIF"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
    (rb"BM....\0\0\0\0", "BMP"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"....ftyp(?:hei|hev|mif|msf)", HEIF),
    (rb"....ftypcr[3x]|FUJIFILM|II[RU\x1a]|MMOR|\0MRM|FOVb", "camera RAW"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"8BPS", "PSD"),
    (rb"%PDF", "PDF"),
    (rb"(?:\xef\xbb\xbf)?\s*<(?:svg\b|[?!].*<svg\b)", "SVG"),
    (rb"(?:\xef\xbb\xbf)?\s*<(?i:!doctype html|html|head|body)\b", "HTML"),
)
"""How files begin -> what they are. One of our formats that Pillow cannot open is damaged; others can be converted."""

MPO = "MPO"
"""Pillow's name for a JPEG with a preview or depth map behind it, as phones write it; these are no frames."""
_NEAR = 15 / 16
"""A JPEG decodes several times faster at a half, a quarter or an eighth; a size this near is not shrunk further."""
_DEEP = "IF"
_LEAST_SHARE = 0.75
"""A picture of which less is there is refused."""
_STRIP_ROWS = 256
_FILL = 128
"""What decoders leave where pixels are missing."""


class RefusalError(Exception):
    """Code and reason of a `RefusedPicture`."""


def opened(source: str | bytes) -> BinaryIO:
    """A regular file, or bytes as one. It is checked before it is opened, because opening a device can have effects."""
    if isinstance(source, bytes):
        return BytesIO(source)
    try:
        if stat.S_ISREG(os.stat(source).st_mode):  # noqa: PTH116  # Path("") would be the folder that we are in
            file = os.fdopen(os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            file.close()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a path with a NUL in it
        raise RefusalError("missing", "there is no such file.") from None
    except OSError as error:
        raise RefusalError("unreadable", f"cannot be read: {error.strerror}.") from None
    raise RefusalError("not_a_file", "is a folder, pipe or device; name a file.")


# --- recognise ---


def kind_of(file: BinaryIO) -> str | None:
    """What a file is by its first bytes; None if that is no picture."""
    file.seek(0)
    head = file.read(1024)
    file.seek(0)
    return next((name for pattern, name in _SIGNATURES if re.match(pattern, head, re.DOTALL)), None)


def identified(file: BinaryIO, formats: tuple[str, ...]) -> ImageFile.ImageFile:
    """The picture in a file, not yet decoded."""
    try:
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError:
        kind = kind_of(file)
    else:
        if image.format == "TIFF":
            _read_planes_whole(image)
        return image
    if kind is None:
        raise RefusalError("not_a_picture", f"is no picture ({', '.join(formats)}).")
    if kind in formats:
        raise damaged(kind)
    hint = "pip install 'tidemill[heif]' to read it" if kind == HEIF else "convert it to JPEG or PNG first"
    raise RefusalError("unsupported_format", f"is {kind}; {hint}.")


def _read_planes_whole(image: ImageFile.ImageFile) -> None:
    """Let Pillow read planes of 16 bits as such: uncompressed, it takes their bytes for values."""
    tags: Any = getattr(image, "tag_v2")  # noqa: B009  # of its class for TIFF
    if tags.get(_PLANES) != _SEPARATE or set(tags.get(_BITS, ())) != {16} or len(image.getbands()) < 3:
        return
    order = "L" if tags.prefix == b"II" else "B"
    image.tile = [
        tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))
        if tile.codec_name == "raw" and isinstance(tile.args, tuple)
        else tile
        for tile in image.tile
    ]


_BITS, _PLANES, _SEPARATE = 258, 284, 2


def damaged(kind: str) -> RefusalError:
    """What to say of a file that begins as one of our formats and is none."""
    return RefusalError("corrupt_picture", f"is a damaged {kind}; save or copy it again.")


# --- decode, as far as it goes ---


def load(
    file: BinaryIO, formats: tuple[str, ...], size_for: SizeFor, on_note: OnNote
) -> tuple[Image.Image, tuple[int, int]]:
    """The decoded image and its size in the file. What is nearly whole is taken with a note."""
    if kind_of(file) == "PNG" and not png.facts(file).has_end:
        return _salvaged(file, formats, size_for, on_note, damaged("PNG"))
    try:
        return _decoded(file, formats, size_for)
    except (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise
    except Exception as raised:
        if (kind_of(file) not in _SALVAGED) or "data stream" in str(raised):
            raise
        error = raised.with_traceback(None)  # which would keep the image's memory
    return _salvaged(file, formats, size_for, on_note, error)


def _decoded(file: BinaryIO, formats: tuple[str, ...], size_for: SizeFor) -> tuple[Image.Image, tuple[int, int]]:
    image = identified(file, formats)
    size = image.size
    _prepare(image, size_for)
    image.load()
    return image, size


_SALVAGED = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
"""Formats whose decoders give the rows that are there, or that are whole without what comes behind the picture."""
_REPAIRS = {"PNG": png.cleaned, "WEBP": webp.cleaned}


def _prepare(image: Image.Image, size_for: SizeFor) -> None:
    size = size_for(*image.size)
    kept_bytes = 16 if image.format == HEIF else 4 if image.info.get("progressive") else 0
    if kept_bytes * math.prod(image.size) > MEMORY_BYTES:
        raise MemoryError  # without so much memory a pixel, these decoders call the file damaged
    image.draft(None, (math.ceil(size[0] * _NEAR), math.ceil(size[1] * _NEAR)))


def _salvaged(
    file: BinaryIO, formats: tuple[str, ...], size_for: SizeFor, on_note: OnNote, error: Exception
) -> tuple[Image.Image, tuple[int, int]]:
    """What can be decoded of a damaged file; raises `error` if that is nothing."""
    repair = _REPAIRS.get(kind_of(file) or "")
    repaired = repair(file, MEMORY_BYTES // 4) if repair else None
    file = repaired or file
    file.seek(0)
    with _tolerance():
        try:
            image = identified(file, formats)
            size = image.size
            _prepare(image, size_for)
            fill = _filled(image)
            with suppress(OSError):
                image.load()
        except RefusalError:
            raise error from None
        if image.tile:
            raise error
        image.load()
    share = _share(image, fill)
    if image.info.get("progressive") and _scans(file) < _LEAST_SCANS:
        share = min(share, _scans(file) / (2 * _LEAST_SCANS))
    if share < _LEAST_SHARE:
        raise RefusalError("corrupt_picture", f"is not whole: {share:.0%} of it is there; copy it again.") from error
    on_note(
        _BESIDE
        if share == 1 and image.format in ("PNG", "WEBP")
        else f"the file is not whole: {min(share, 0.99):.0%} of it is there"
    )
    return image, size


_BESIDE = "the file is damaged beside its picture, which is whole"
_LEAST_SCANS = 4
"""A progressive JPEG has about ten scans, each of the whole picture; with fewer than these it is but a blur."""


def _scans(file: BinaryIO) -> int:
    file.seek(0)
    return file.read(MEMORY_BYTES // 4).count(b"\xff\xda")


@contextmanager
def _tolerance() -> Iterator[None]:
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def _filled(image: Image.Image) -> int:
    """Fill the image's memory before it is decoded, with what its missing rows will show; returns the value."""
    if image.format == "GIF":
        return int(image.info.get("transparency", 0))
    value = 0 if image.mode in ("P", "1") or image.mode[0] in _DEEP else _FILL
    bands = [255 if band in "Aa" else value for band in image.getbands()]
    image.im = Image.new(image.mode, image.size, cast("int", bands[0] if len(bands) == 1 else tuple(bands))).im
    return value


def _share(image: Image.Image, fill: int) -> float:
    """How much of the rows is there: those that are not all fill, and those between them."""
    rows: list[bool] = []
    for top in range(0, image.height, _STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height)))
        rows += _rows_with_something(strip, fill)
    if not any(rows):
        return 0.0
    if image.format == "GIF" or image.info.get("interlace"):  # of which rows are missing in between
        return sum(rows) / len(rows)
    return (len(rows) - rows[::-1].index(True) - rows.index(True)) / len(rows)


def _rows_with_something(strip: Image.Image, fill: int) -> list[bool]:
    if strip.mode[0] in _DEEP:
        strip = strip.convert("F").point(lambda value: value * 255.0 + 0.0).convert("L")
    elif strip.mode == "P":
        strip = Image.frombytes("L", strip.size, strip.tobytes())
    elif strip.mode == "1":
        strip = strip.convert("L")
    change = strip.point([255 * (abs(value - fill) > 1) for value in range(256)] * len(strip.getbands()))
    colours = [band for band, name in zip(change.split(), change.getbands(), strict=True) if name not in "Aa"]
    return [any(row) for row in zip(*(band.getprojection()[1] for band in colours), strict=True)]
