"""Any file may be named photo.jpg, but only a sound, small, bare picture may be sent.

Foreign files are decoded in child processes (producer/describing/children.py): a child that hangs, bloats or dies costs
one file. What is sent is encoded anew from pixels: it has no EXIF, position, comment or text.
"""

import hashlib
import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from typing import Any, BinaryIO, Self, TypeVar

from PIL import Image, ImageChops

from tidemill.models.errors import InputError
from tidemill.models.options import Detail
from tidemill.models.vision import usable_size
from tidemill.producer.describing.children import ITEM_SECONDS, MEMORY_BYTES, Children, Frame
from tidemill.producer.describing.colours import opaque
from tidemill.producer.describing.depths import MORE_KINDS
from tidemill.producer.describing.loading import FORMATS, HEIF, LARGEST_FILE_BYTES, RefusalError, SizeFor, opened
from tidemill.producer.describing.opening import decode
from tidemill.producer.describing.showing import as_seen, shrinking

T = TypeVar("T")

MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png"}
LARGEST_PIXELS = 250_000_000

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
    """A JPEG of at most `side` pixels a side, opaque, of `PreparedPicture.content`."""
    with Image.open(BytesIO(content), formats=("JPEG", "PNG")) as image:
        image.thumbnail((side, side))
        return _saved(opaque(image) if image.mode == "RGBA" else image, "JPEG")


def decoder(model: str, detail: Detail, max_side: int, likeness: bool) -> Callable[[str | None, bytes], Frame]:
    """What prepares the file of a path, or bytes where that is None. Called in the child; loads what decoding needs."""
    from PIL import AvifImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401  # they register themselves

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the other cores have children of their own
    Image.MAX_IMAGE_PIXELS = LARGEST_PIXELS
    warnings.simplefilter("ignore")  # an odd tag does no harm to a picture
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    TiffImagePlugin.OPEN_INFO.update(MORE_KINDS)
    formats: tuple[str, ...] = FORMATS
    if find_spec("pillow_heif") is not None:
        import_module("pillow_heif").register_heif_opener(decode_threads=1)
        formats = (*FORMATS, HEIF)
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


@dataclass(frozen=True, slots=True)
class _Decoder:
    formats: tuple[str, ...]
    size_for: SizeFor
    hash_of: Callable[[Image.Image], object] | None

    def __call__(self, source: str | bytes) -> PreparedPicture | RefusedPicture:
        try:
            with opened(source) as file:
                size = len(source) if isinstance(source, bytes) else os.fstat(file.fileno()).st_size
                return self._picture(file, size)
        except RefusalError as error:
            code, reason = error.args
        except (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning):
            code, reason = "too_large", f"needs more than {MEMORY_BYTES >> 20} MB to decode; make it smaller."
        except Exception as error:  # noqa: BLE001  # decoders raise errors of all kinds
            detail = str(error).strip(" .\n")
            code, reason = "corrupt_picture", f"is damaged ({detail or type(error).__name__}); save or copy it again."
        return RefusedPicture(code, f"{_name(source)}: {reason}")

    def _picture(self, file: BinaryIO, source_bytes: int) -> PreparedPicture:
        if not source_bytes:
            raise RefusalError("empty_file", "is empty.")
        if source_bytes > LARGEST_FILE_BYTES:
            raise RefusalError("too_large", f"is larger than {LARGEST_FILE_BYTES >> 20} MB; make it smaller.")
        notes: list[str] = []
        known = decode(file, self.formats, self.size_for, notes.append)
        pixels = as_seen(known, self.size_for(*known.size), notes.append)
        width, height = known.size
        if known.orientation in _TURNS:
            pixels = pixels.transpose(_TURNS[known.orientation])
            width, height = (height, width) if known.orientation in _SIDEWAYS else (width, height)
        notes.extend(shrinking(pixels.size, (width, height)))
        content, format_ = _encoded(pixels)
        return PreparedPicture(
            sha256=hashlib.sha256(content).hexdigest(),
            content=content,
            format=format_,
            width=pixels.width,
            height=pixels.height,
            source_format=known.format,
            source_width=width,
            source_height=height,
            source_bytes=source_bytes,
            notes=tuple(dict.fromkeys(notes)),
            likeness=None if self.hash_of is None else str(self.hash_of(pixels)),
        )


def _encoded(image: Image.Image) -> tuple[bytes, str]:
    """JPEG; or PNG, if areas of one colour make it smaller."""
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
