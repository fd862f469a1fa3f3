"""Any file may be named photo.jpg, but only a sound, small, bare picture may be sent.

The one door to Pillow. Foreign files are decoded in child processes (producer/describing/children.py): a child that
hangs, bloats or dies costs one file. What is sent is encoded anew from pixels: it has no EXIF, position, comment or
text.
"""

import hashlib
import math
import os
import re
import stat
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from typing import Any, BinaryIO, Self, TypeVar, cast

from PIL import Image, ImageChops, ImageCms, UnidentifiedImageError

from tidemill.models.errors import InputError
from tidemill.models.options import Detail
from tidemill.models.vision import usable_size
from tidemill.producer.describing.children import ITEM_SECONDS, MEMORY_BYTES, Children, Frame

T = TypeVar("T")
SizeFor = Callable[[int, int], tuple[int, int]]

MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png"}
LARGEST_FILE_BYTES = 512 * 2**20
LARGEST_PIXELS = 250_000_000

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
_HEIF = "HEIF"
_SIGNATURES = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"GIF8[79]a", "GIF"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
    (rb"BM....\0\0\0\0", "BMP"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"....ftyp(?:hei|hev|mif|msf)", _HEIF),
    (rb"....ftypcr[3x]|FUJIFILM|II[RU\x1a]", "camera RAW"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"8BPS", "PSD"),
    (rb"%PDF", "PDF"),
    (rb"(?:\xef\xbb\xbf)?\s*<(?:svg\b|[?!].*<svg\b)", "SVG"),
    (rb"(?:\xef\xbb\xbf)?\s*<(?i:!doctype html|html|head|body)\b", "HTML"),
)
"""How files begin -> what they are. One of our formats that Pillow cannot open is damaged; others can be converted."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what sets the picture upright."""
_SIDEWAYS = (5, 6, 7, 8)
_ORIENTATION = 0x0112
_DEEP = "IF"  # modes of more than 8 bits begin so
_PROFILE_MODES = {b"RGB ": ("RGB", "RGBA"), b"CMYK": ("CMYK",)}
"""Colour space in the header of an ICC profile -> the modes that the profile can describe."""
_SRGB = re.compile(b"sRGB|" + re.escape("sRGB".encode("utf-16-be")))
_MPO = "MPO"
"""Pillow's name for a JPEG with a preview or depth map behind it, as phones write it; these are no frames."""

_NEAR = 15 / 16
"""A JPEG decodes several times faster at a half, a quarter or an eighth; a size this near is not shrunk further."""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


@dataclass(frozen=True, slots=True)
class PreparedPicture:
    """A picture ready to be sent. The same file and settings give the same bytes.

    `sha256` is that of `content`, `width` and `height` are pixels of it. `format` is a key of `MEDIA_TYPES`;
    `source_format` is lower case too, and the source's size is that of the upright picture. `notes` are for the user,
    such as "first of 12 frames". `likeness` is a perceptual hash of 16 hex digits, or None.
    """

    sha256: str
    content: bytes
    format: str
    width: int
    height: int
    source_format: str
    source_width: int
    source_height: int
    source_bytes: int
    notes: tuple[str, ...]
    likeness: str | None


@dataclass(frozen=True, slots=True)
class RefusedPicture:
    """A file that is no usable picture. `reason` is a sentence that begins with the path, or with "the picture"."""

    code: str
    reason: str


class Preparer:
    """Makes pictures ready for a model in child processes. A context manager: leaving it ends the children at once."""

    def __init__(
        self, model: str, detail: Detail, max_side: int, *, processes: int | None = None, likeness: bool = False
    ) -> None:
        """Starts nothing yet.

        Args:
            model, detail, max_side: decide how large a picture becomes (`models.vision.usable_size`).
            processes: how many children at most; default one a core.
            likeness: also compute `PreparedPicture.likeness`.

        Raises:
            InputError: the package for `likeness` is not installed.
        """
        if likeness and find_spec("imagehash") is None:
            raise InputError("Finding pictures that look alike needs a package: pip install 'tidemill[dedupe]'.")
        self._count = processes or os.cpu_count() or 1
        self._children = Children(self._count, decoder, model, detail, max_side, likeness)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._children.close()

    def prepare(self, items: Iterable[tuple[T, str | bytes]]) -> Iterator[tuple[T, PreparedPicture | RefusedPicture]]:
        """`(anything, path or bytes)` as `(anything, picture)`, in order. It reads only a little ahead.

        Bytes count towards the memory that a child may use (`children.MEMORY_BYTES`), a file does not.

        Raises:
            TidemillError: no child process can be started.
        """
        waiting: deque[tuple[T, str | bytes, Future[Frame]]] = deque()
        for key, source in items:
            frame = (source, b"") if isinstance(source, str) else (None, source)
            waiting.append((key, source, self._children.submit(*frame)))
            while len(waiting) > 2 * self._count or (waiting and waiting[0][2].done()):
                yield _outcome(*waiting.popleft())
        while waiting:
            yield _outcome(*waiting.popleft())


def thumbnails() -> Callable[[int, bytes], Frame]:
    """What makes thumbnails of prepared pictures. Called in a child: whoever wrote the store may be hostile."""
    return lambda side, content: (None, thumbnail(content, side))


def thumbnail(content: bytes, side: int) -> bytes:
    """A JPEG of at most `side` pixels a side, on white, of `PreparedPicture.content`."""
    with Image.open(BytesIO(content), formats=("JPEG", "PNG")) as image:
        image.thumbnail((side, side))
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
        return _saved(canvas, "JPEG")


def decoder(model: str, detail: Detail, max_side: int, likeness: bool) -> Callable[[str | None, bytes], Frame]:
    """What prepares the file of a path, or bytes where that is None. Called in the child; loads what decoding needs."""
    from PIL import AvifImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401  # they register themselves

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the other cores have children of their own
    Image.MAX_IMAGE_PIXELS = LARGEST_PIXELS
    warnings.simplefilter("ignore")  # an odd tag does no harm to a picture
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    formats: tuple[str, ...] = _FORMATS
    if find_spec("pillow_heif") is not None:
        import_module("pillow_heif").register_heif_opener(decode_threads=1)
        formats = (*_FORMATS, _HEIF)
    size_for = partial(usable_size, model, detail=detail, max_side=max_side)
    prepare = _Decoder(formats, size_for, import_module("imagehash").phash if likeness else None)

    def work(path: str | None, content: bytes) -> Frame:
        result = prepare(content if path is None else path)
        if isinstance(result, RefusedPicture):
            return (result.code, result.reason), b""
        about = {each: getattr(result, each) for each in _FIELDS}
        return about, result.content

    return work


def _outcome(key: T, source: str | bytes, future: "Future[Frame]") -> tuple[T, PreparedPicture | RefusedPicture]:
    try:
        return key, _received(*future.result())
    except TimeoutError:
        code, reason = "too_slow", f"takes longer than {ITEM_SECONDS:g} seconds to decode; save it smaller, as JPEG."
    except EOFError:
        code, reason = "decoder_crashed", "the decoder died of it; save it again, as JPEG or PNG."
    return key, RefusedPicture(code, f"{_name(source)}: {reason}")


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "format": MEDIA_TYPES.__contains__,
    **dict.fromkeys(("width", "height", "source_width", "source_height", "source_bytes"), _is_count),
    "source_format": _is_text,
    "notes": lambda value: isinstance(value, list | tuple) and all(map(_is_text, value)),
    "likeness": lambda value: value is None or (_is_text(value) and re.fullmatch("[0-9a-f]{16}", value) is not None),
}
"""What a child says of a picture, and what it must look like: a hostile file may have taken the child over."""


def _received(head: Any, content: bytes) -> PreparedPicture | RefusedPicture:
    """What a child has sent; EOFError if it is not what our own code would send."""
    if isinstance(head, list) and len(head) == 2 and all(map(_is_text, head)):
        return RefusedPicture(*head)
    if not isinstance(head, dict) or head.keys() != _FIELDS.keys():
        raise EOFError
    if not all(is_right(head[name]) for name, is_right in _FIELDS.items()):
        raise EOFError
    about = head | {"notes": tuple(head["notes"])}
    return PreparedPicture(sha256=hashlib.sha256(content).hexdigest(), content=content, **about)


def _name(source: str | bytes) -> str:
    return source if isinstance(source, str) else "the picture"


# --- in the child ---


class _RefusalError(Exception):
    """Code and reason of a `RefusedPicture`."""


@dataclass(frozen=True, slots=True)
class _Decoder:
    formats: tuple[str, ...]
    size_for: SizeFor
    hash_of: Callable[[Image.Image], object] | None

    def __call__(self, source: str | bytes) -> PreparedPicture | RefusedPicture:
        try:
            with _opened(source) as file:
                size = len(source) if isinstance(source, bytes) else os.fstat(file.fileno()).st_size
                return self._picture(file, size)
        except _RefusalError as error:
            code, reason = error.args
        except (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning):
            code, reason = "too_large", f"needs more than {MEMORY_BYTES >> 20} MB to decode; make it smaller."
        except Exception as error:  # noqa: BLE001  # decoders raise errors of all kinds
            detail = str(error).strip(" .\n")
            code, reason = "corrupt_picture", f"is damaged ({detail or type(error).__name__}); save or copy it again."
        return RefusedPicture(code, f"{_name(source)}: {reason}")

    def _picture(self, file: BinaryIO, source_bytes: int) -> PreparedPicture:
        if not source_bytes:
            raise _RefusalError("empty_file", "is empty.")
        if source_bytes > LARGEST_FILE_BYTES:
            raise _RefusalError("too_large", f"is larger than {LARGEST_FILE_BYTES >> 20} MB; make it smaller.")
        image = _identified(file, self.formats)
        source_size = image.size
        size = self.size_for(*source_size)
        kept_bytes = 16 if image.format == _HEIF else 4 if image.info.get("progressive") else 0
        if kept_bytes * math.prod(source_size) > MEMORY_BYTES:
            raise MemoryError  # without so much memory a pixel, these decoders call the file damaged
        image.draft(None, (math.ceil(size[0] * _NEAR), math.ceil(size[1] * _NEAR)))
        image.load()
        pixels = _right_colours(_shrunk(_plain(image), size), image.info.get("icc_profile"))
        orientation = _orientation(image)
        if orientation in _TURNS:
            pixels = pixels.transpose(_TURNS[orientation])
        width, height = reversed(source_size) if orientation in _SIDEWAYS else source_size
        content, format_ = _encoded(pixels)
        return PreparedPicture(
            sha256=hashlib.sha256(content).hexdigest(),
            content=content,
            format=format_,
            width=pixels.width,
            height=pixels.height,
            source_format="jpeg" if image.format == _MPO else str(image.format).lower(),
            source_width=width,
            source_height=height,
            source_bytes=source_bytes,
            notes=tuple(_notes(image)),
            likeness=None if self.hash_of is None else str(self.hash_of(pixels)),
        )


def _opened(source: str | bytes) -> BinaryIO:
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
        raise _RefusalError("missing", "there is no such file.") from None
    except OSError as error:
        raise _RefusalError("unreadable", f"cannot be read: {error.strerror}.") from None
    raise _RefusalError("not_a_file", "is a folder, pipe or device; name a file.")


def _identified(file: BinaryIO, formats: tuple[str, ...]) -> Image.Image:
    """The picture in a file, recognised by its content and never by its name."""
    try:
        return Image.open(file, formats=formats)
    except UnidentifiedImageError:
        file.seek(0)
        head = file.read(1024)
    kind = next((name for pattern, name in _SIGNATURES if re.match(pattern, head, re.DOTALL)), None)
    if kind is None:
        raise _RefusalError("not_a_picture", f"is no picture ({', '.join(formats)}).")
    if kind in formats:
        raise _RefusalError("corrupt_picture", f"is a damaged {kind}; save or copy it again.")
    hint = "pip install 'tidemill[heif]' to read it" if kind == _HEIF else "convert it to JPEG or PNG first"
    raise _RefusalError("unsupported_format", f"is {kind}; {hint}.")


def _plain(image: Image.Image) -> Image.Image:
    """In a mode that can be shrunk: without a palette, and with transparency only if something shows through."""
    if image.has_transparency_data and image.mode[0] not in _DEEP:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        return image.convert("RGB") if image.getchannel("A").getextrema()[0] == 255 else image
    return image.convert({"1": "L", "P": "RGB"}[image.mode]) if image.mode in ("1", "P") else image


def _shrunk(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.width <= size[0] and image.height <= size[1]:
        return image
    return image.resize(size, Image.Resampling.HAMMING, reducing_gap=2.0)


def _right_colours(image: Image.Image, profile: bytes | None) -> Image.Image:
    """In sRGB or 8 bits of grey. A profile that cannot be used is ignored."""
    if image.mode[0] in _DEEP:
        return _eight_bits(image)
    target = image.mode if image.mode in ("L", "RGB", "RGBA") else "RGB"
    source = ImageCms.createProfile("LAB") if image.mode == "LAB" else None
    with suppress(ImageCms.PyCMSError, OSError):
        if profile and image.mode in _PROFILE_MODES.get(profile[16:20], ()) and not _SRGB.search(profile):
            source = ImageCms.ImageCmsProfile(BytesIO(profile)).profile
        if source is not None:
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=target) or image
    return image if image.mode == target else image.convert(target)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8. In 32 bits and floating point no value means white: darkest to brightest."""
    whole = image.mode.startswith("I;16")
    low, high = (0.0, 65535.0) if whole else cast("tuple[float, float]", image.getextrema())
    if not (math.isfinite(high - low) and high > low):
        low, high = 0.0, 255.0
    scale = 255 / (high - low)
    return (image.convert("I") if whole else image).point(lambda value: value * scale - low * scale).convert("L")


def _orientation(image: Image.Image) -> object:
    """EXIF's number; None if EXIF is damaged. (Pillow turns TIFF by itself, and removes the tag.)"""
    with suppress(Exception):
        return image.getexif().get(_ORIENTATION)
    return None


def _encoded(image: Image.Image) -> tuple[bytes, str]:
    """JPEG; or PNG, if something shows through or areas of one colour make it smaller."""
    if image.mode == "RGBA":
        return _saved(image, "PNG"), "png"
    jpeg = _saved(image, "JPEG")
    if _has_plain_areas(image) and len(png := _saved(image, "PNG")) < len(jpeg):
        return png, "png"
    return jpeg, "jpeg"


def _has_plain_areas(image: Image.Image) -> bool:
    """Whether more than half of the pixels in 64 rows equal their neighbour: so in drawings and text, not in photos."""
    rows = image.resize((image.width, min(image.height, 64)), Image.Resampling.NEAREST)
    difference = ImageChops.difference(rows, ImageChops.offset(rows, 1, 0)).histogram()
    return 2 * sum(difference[::256]) > sum(difference)


def _saved(image: Image.Image, format_: str) -> bytes:
    image.info = {}  # some of it would be written into the file
    buffer = BytesIO()
    image.save(buffer, format_, quality=85, subsampling="4:2:0")
    return buffer.getvalue()


def _notes(image: Image.Image) -> Iterator[str]:
    """What a user should know. Frames are counted last, because counting moves the position in the file."""
    with suppress(Exception):  # the first frame is good, whatever comes behind it
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != _MPO:
            yield f"first of {frames} {'pages' if image.format == 'TIFF' else 'frames'}"
