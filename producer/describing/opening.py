"""A file may hold several images, or not all of one; what comes out is the image that a person sees, decoded.

A file is recognised by its content and never by its name.
"""

import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO, BinaryIO, cast

from PIL import Image, ImageFile, UnidentifiedImageError

from tidemill.producer.describing import png, tiff, webp
from tidemill.producer.describing.children import MEMORY_BYTES
from tidemill.producer.describing.colours import CURVES, PRIMARIES, Chromaticities, gamma, profile_of, srgb_light

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

_MPO = "MPO"
"""Pillow's name for a JPEG with a preview or depth map behind it, as phones write it; these are no frames."""
_NEAR = 15 / 16
"""A JPEG decodes several times faster at a half, a quarter or an eighth; a size this near is not shrunk further."""
_ORIENTATION = 0x0112
_DEEP = "IF"
_LEAST_SHARE = 0.75
"""A picture of which less is there is refused."""
_FILL = 128
"""What decoders leave where pixels are missing."""
_MOST_BLANK_FRAMES = 100
_META_BYTES = 2**20


class RefusalError(Exception):
    """Code and reason of a `RefusedPicture`."""


@dataclass(slots=True)
class Source:
    """A decoded image, and what is known of it beside its pixels.

    `size` is that of the stored picture in pixels (of a TIFF, upright), `profile` an ICC profile, `tags` those of a
    TIFF's directory, `orientation` EXIF's number, `bits` those of a sample in a PNG.
    """

    image: Image.Image
    size: tuple[int, int]
    format: str
    orientation: object = None
    profile: bytes | None = None
    tags: tiff.Tags = field(default_factory=dict)
    bits: int = 8
    low_bytes: Callable[[], Image.Image] | None = None
    """Decodes RGB of 16 bits again, for the lower half of each sample."""


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


def decode(file: BinaryIO, formats: tuple[str, ...], size_for: SizeFor, on_note: OnNote) -> Source:
    """The image that a person sees, decoded; of a JPEG, no larger than is needed for `size_for`.

    Raises:
        RefusalError: it is no picture that can be used.
        Exception: whatever a decoder raises for a damaged file.
    """
    kind = _kind(file)
    if kind == "TIFF":
        return _of_tiff(file, formats, size_for, on_note)
    image, size = _loaded(file, formats, size_for, on_note)
    image = _frame_with_something(image, on_note)
    known = Source(image, size, "jpeg" if image.format == _MPO else str(image.format).lower())
    known.profile, known.orientation = image.info.get("icc_profile"), _orientation(image)
    if kind == "PNG":
        stated = png.facts(file)
        known.bits = stated.bits
        known.profile = _profile_of_png(image, stated) or known.profile
    elif kind in ("AVIF", HEIF):
        meta = _meta(file)
        known.profile = known.profile or _profile_of_video(meta, image.mode)
        if b"irot" not in meta and b"imir" not in meta:  # else it was turned, or its EXIF says how
            known.orientation = _exif_orientation(image) or known.orientation
    return known


# --- recognise ---


def _kind(file: BinaryIO) -> str | None:
    file.seek(0)
    head = file.read(1024)
    file.seek(0)
    return next((name for pattern, name in _SIGNATURES if re.match(pattern, head, re.DOTALL)), None)


def identified(file: BinaryIO, formats: tuple[str, ...]) -> Image.Image:
    """The picture in a file, not yet decoded."""
    try:
        return Image.open(file, formats=formats)
    except UnidentifiedImageError:
        kind = _kind(file)
    if kind is None:
        raise RefusalError("not_a_picture", f"is no picture ({', '.join(formats)}).")
    if kind in formats:
        raise _damaged(kind)
    hint = "pip install 'tidemill[heif]' to read it" if kind == HEIF else "convert it to JPEG or PNG first"
    raise RefusalError("unsupported_format", f"is {kind}; {hint}.")


def _damaged(kind: str) -> RefusalError:
    return RefusalError("corrupt_picture", f"is a damaged {kind}; save or copy it again.")


# --- decode, as far as it goes ---


def _loaded(
    file: BinaryIO, formats: tuple[str, ...], size_for: SizeFor, on_note: OnNote
) -> tuple[Image.Image, tuple[int, int]]:
    """The decoded image and its size in the file. What is nearly whole is taken with a note."""
    try:
        image = identified(file, formats)
        size = image.size
        _prepare(image, size_for)
        image.load()
    except (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise
    except Exception as error:
        if (_kind(file) not in _SALVAGED) or "data stream" in str(error):
            raise
        return _salvaged(file, formats, size_for, on_note, error)
    if image.format == "PNG" and not png.facts(file).has_end:
        on_note(_BESIDE)
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
    repair = _REPAIRS.get(_kind(file) or "")
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
        if getattr(image, "tile", None):
            raise error
        image.load()
    share = _share(image, fill)
    if image.info.get("progressive") and _scans(file) < _LEAST_SCANS:
        share = min(share, _scans(file) / (2 * _LEAST_SCANS))
    if share < _LEAST_SHARE:
        raise RefusalError("corrupt_picture", f"is not whole: {share:.0%} of it is there; copy it again.") from error
    on_note(_BESIDE if repaired and share == 1 else f"the file is not whole: {min(share, 0.99):.0%} of it is there")
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
    format_, info = image.format, image.info
    if image.mode[0] in _DEEP:
        image = image.convert("F").point(lambda value: value * 255.0 + 0.0).convert("L")
    elif image.mode == "P":
        image = Image.frombytes("L", image.size, image.tobytes())
    elif image.mode == "1":
        image = image.convert("L")
    change = image.point([255 * (abs(value - fill) > 1) for value in range(256)] * len(image.getbands()))
    colours = [band for band, name in zip(change.split(), change.getbands(), strict=True) if name not in "Aa"]
    rows = [any(row) for row in zip(*(band.getprojection()[1] for band in colours), strict=True)]
    if not any(rows):
        return 0.0
    if format_ == "GIF" or info.get("interlace"):  # of which rows are missing in between
        return sum(rows) / len(rows)
    return (len(rows) - rows[::-1].index(True) - rows.index(True)) / len(rows)


# --- frames ---


def _frame_with_something(image: Image.Image, on_note: OnNote) -> Image.Image:
    """The first frame that is not all of one colour, with a note that says which it is."""
    kept = image
    with suppress(Exception):  # the first frame is good, whatever comes behind it
        frames = getattr(image, "n_frames", 1)
        if frames < 2 or image.format == _MPO:
            return image
        if image.format == HEIF:
            on_note(f"the main one of {frames} pictures")
            return image
        first = 1 if getattr(image, "default_image", False) else 0  # an APNG's picture for those who cannot play it
        image.seek(first)
        image.load()
        if is_blank(image):
            kept = image.copy()
            kept.format = image.format
            for number in range(first + 1, min(frames, first + _MOST_BLANK_FRAMES)):
                image.seek(number)
                image.load()
                if not is_blank(image):
                    on_note(f"frame {number - first + 1} of {frames - first}: those before it are blank")
                    return image
        on_note(f"first of {frames - first} frames")
    return kept


def is_blank(image: Image.Image) -> bool:
    """Whether every pixel is the same, or none can be seen."""
    image = image.convert("RGBA") if image.has_transparency_data or image.mode == "P" else image
    extrema = image.getextrema()
    pairs = [extrema] if isinstance(extrema[0], int | float) else extrema
    is_clear = image.mode == "RGBA" and extrema[-1] == (0, 0)
    return is_clear or all(low == high for low, high in pairs)


# --- orientation ---


def _orientation(image: Image.Image) -> object:
    """EXIF's number; None if EXIF is damaged. (Pillow turns TIFF by itself, and removes the tag.)"""
    with suppress(Exception):
        return image.getexif().get(_ORIENTATION)
    return None


def _exif_orientation(image: Image.Image) -> object:
    """What EXIF says in a HEIF or AVIF, where the libraries for both pass over it."""
    with suppress(Exception):
        if image.format == HEIF:
            return image.info.get("original_orientation")
        exif = Image.Exif()
        exif.load(image._decoder.get_info()[4])  # type: ignore[attr-defined]
        return exif.get(_ORIENTATION)
    return None


# --- colours that are stated without a profile ---


def _profile_of_png(image: Image.Image, stated: png.Facts) -> bytes | None:
    """A profile for what a PNG states beside one, by its order: cICP goes before iCCP, sRGB before gAMA and cHRM."""
    if stated.code_points is not None:
        return _profile_of_code_points(*stated.code_points, image.mode)
    if stated.is_srgb or image.info.get("icc_profile"):
        return None
    exponent, primaries = image.info.get("gamma"), image.info.get("chromaticity")
    is_usual_gamma = not exponent or abs(exponent * 2.2 - 1) < 0.05  # as libpng has it: nobody sees less
    is_usual = not primaries or all(abs(a - b) < 0.002 for a, b in zip(primaries, PRIMARIES[1], strict=True))
    if is_usual_gamma and is_usual:
        return None
    with suppress(ValueError, OverflowError):
        curve = gamma_of(round(1 / exponent, 4)) if exponent and not is_usual_gamma else srgb_light
        return profile_of(_space(image.mode), cast("Chromaticities | None", primaries), curve)
    return None


_GAMMAS: dict[float, Callable[[float], float]] = {}


def gamma_of(exponent: float) -> Callable[[float], float]:
    """The same function for the same exponent."""
    return _GAMMAS.setdefault(exponent, gamma(exponent))


def _profile_of_code_points(primaries: int, curve: int, mode: str) -> bytes | None:
    if primaries not in PRIMARIES or curve not in CURVES or (primaries == 1 and CURVES[curve] is srgb_light):
        return None
    return profile_of(_space(mode), PRIMARIES[primaries], CURVES[curve])


def _profile_of_video(meta: bytes, mode: str) -> bytes | None:
    colours = re.search(rb"colrnclx(..)(..)", meta, re.DOTALL)
    if colours is None:
        return None
    return _profile_of_code_points(int.from_bytes(colours[1]), int.from_bytes(colours[2]), mode)


def _space(mode: str) -> str:
    return "GRAY" if mode[0] in "1LI" else "RGB"


def _meta(file: BinaryIO) -> bytes:
    """The box of a HEIF or AVIF that describes its pictures."""
    position = 0
    while True:
        file.seek(position)
        head = file.read(8)
        length = int.from_bytes(head[:4])
        if len(head) < 8 or length < 8:
            return b""
        if head[4:] == b"meta":
            return file.read(min(length, _META_BYTES))
        position += length


# --- TIFF ---


def _of_tiff(file: BinaryIO, formats: tuple[str, ...], size_for: SizeFor, on_note: OnNote) -> Source:
    contents = tiff.read(file)
    if not contents.directories:
        raise _damaged("TIFF")
    if contents.is_raw:
        return _preview(file, contents.directories, size_for, on_note)
    chosen = tiff.picture_of(contents.directories)
    if chosen is not contents.directories[0]:
        on_note("its first image is a thumbnail; the full picture behind it is shown")
        file = cast("BinaryIO", tiff.StartingAt(file, chosen.offset))
    elif not chosen.is_whole:
        raise RefusalError(
            "unsupported_format", "holds only a thumbnail of its picture; convert it to JPEG or PNG first."
        )
    file.seek(0)
    try:
        image, size = _loaded(file, ("TIFF",), size_for, on_note)
    except RefusalError as refusal:
        raise _unreadable(file, chosen, refusal) from None
    behind = contents.directories[contents.directories.index(chosen) :]
    pages = [each for each in behind if each.is_page and each.is_whole]
    if len(pages) > 1:
        on_note(f"first of {len(pages)} pages")
    used = len([band for band in image.getbands() if band != "A"])
    bands = chosen.number(tiff.SAMPLES, 1) - (image.mode[-1] in "Aa")
    if bands > used and chosen.number(tiff.PHOTOMETRIC) in (1, 2):
        on_note(f"{'the first' if used == 1 else used} of {bands} bands {'is' if used == 1 else 'are'} shown")
    known = Source(image, size, "tiff", profile=image.info.get("icc_profile"), tags=chosen.tags)
    if image.mode == "I;16B":  # little can be done with this one
        known.image = Image.frombytes("I;16", image.size, image.tobytes(), "raw", "I;16B")
    if image.mode == "RGB" and chosen.number(tiff.BITS) == 16:
        known.low_bytes = lambda: _low_bytes(file)
    return known


def _preview(file: BinaryIO, directories: list[tiff.Directory], size_for: SizeFor, on_note: OnNote) -> Source:
    """The preview of a camera RAW."""
    preview = tiff.preview_of(file, directories)
    if preview is None:
        reason = "is camera RAW without a preview that is large enough; convert it to JPEG or PNG first."
        raise RefusalError("unsupported_format", reason)
    file.seek(preview.start)
    image, size = _loaded(BytesIO(file.read(min(preview.bytes, MEMORY_BYTES // 4))), ("JPEG",), size_for, on_note)
    on_note(f"camera RAW: its preview of {size[0]:,} × {size[1]:,} pixels is described")
    orientation = _orientation(image) or directories[0].number(tiff.ORIENTATION)
    return Source(image, size, "raw", orientation, image.info.get("icc_profile"))


def _unreadable(file: BinaryIO, chosen: tiff.Directory, refusal: RefusalError) -> RefusalError:
    """A TIFF that Pillow does not know the kind of is not damaged."""
    from PIL import TiffImagePlugin

    file.seek(0)
    try:
        TiffImagePlugin.TiffImageFile(cast("IO[bytes]", file))
    except (SyntaxError, OSError) as error:
        if not re.search(r"^unknown|^Invalid value for samples|^\d+$|not yet supported", str(error)):
            return refusal
    else:
        return refusal
    bits, samples = chosen.number(tiff.BITS, 1), chosen.number(tiff.SAMPLES, 1)
    photometric, compression = chosen.number(tiff.PHOTOMETRIC), chosen.number(tiff.COMPRESSION, 1)
    kind = f"{samples} samples of {bits} bits, photometric {photometric}, compression {compression}"
    return RefusalError("unsupported_format", f"is TIFF of an unusual kind ({kind}); convert it to JPEG or PNG first.")


def _low_bytes(file: BinaryIO) -> Image.Image:
    """RGB of 16 bits decoded for its low bytes: read in the other byte order, they are the high ones."""
    file.seek(0)
    image = cast("ImageFile.ImageFile", Image.open(file, formats=("TIFF",)))
    for index, tile in enumerate(image.tile):
        rawmode, *others = cast("tuple[str, object]", tile.args)
        swapped = rawmode[:-1] + ("L" if rawmode.endswith("B") else "B") if rawmode[-3:-1] == "16" else rawmode
        image.tile[index] = tile._replace(args=(swapped, *others))
    image.load()
    return image
