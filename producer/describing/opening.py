"""A file may hold several images, and say in many ways how they are meant; one of them is what a person sees."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO, BinaryIO, cast

from PIL import Image

from tidemill.producer.describing import png, tiff
from tidemill.producer.describing.children import MEMORY_BYTES
from tidemill.producer.describing.colours import CURVES, PRIMARIES, Chromaticities, gamma, profile_of, srgb_light
from tidemill.producer.describing.loading import (
    HEIF,
    MPO,
    OnNote,
    RefusalError,
    SizeFor,
    damaged,
    identified,
    kind_of,
    load,
)

_ORIENTATION = 0x0112
_MOST_BLANK_FRAMES = 100
_META_BYTES = 2**20


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


def decode(file: BinaryIO, formats: tuple[str, ...], size_for: SizeFor, on_note: OnNote) -> Source:
    """The image that a person sees, decoded; of a JPEG, no larger than is needed for `size_for`.

    Raises:
        RefusalError: it is no picture that can be used.
        Exception: whatever a decoder raises for a damaged file.
    """
    kind = kind_of(file)
    if kind == "TIFF":
        return _of_tiff(file, formats, size_for, on_note)
    image, size = load(file, formats, size_for, on_note)
    image = _frame_with_something(image, on_note)
    known = Source(image, size, "jpeg" if image.format == MPO else str(image.format).lower())
    known.profile, known.orientation = image.info.get("icc_profile"), _orientation(image)
    if kind == "PNG":
        stated = png.facts(file)
        known.bits = stated.bits
        if stated.bits == 16 and "transparency" in image.info:
            known.low_bytes = lambda: _low_bytes(file, "PNG")
        known.profile = _profile_of_png(image, stated) or known.profile
    elif kind in ("AVIF", HEIF):
        meta = _meta(file)
        known.profile = known.profile or _profile_of_video(meta, image.mode)
        if b"irot" not in meta and b"imir" not in meta:  # else it was turned, or its EXIF says how
            known.orientation = _exif_orientation(image) or known.orientation
    return known


# --- frames ---


def _frame_with_something(image: Image.Image, on_note: OnNote) -> Image.Image:
    """The first frame that is not all of one colour, with a note that says which it is."""
    kept = image
    with suppress(Exception):  # the first frame is good, whatever comes behind it
        frames = getattr(image, "n_frames", 1)
        if frames < 2 or image.format == MPO:
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
        raise damaged("TIFF")
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
        image, size = load(file, ("TIFF",), size_for, on_note)
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
        known.low_bytes = lambda: _low_bytes(file, "TIFF")
    return known


def _preview(file: BinaryIO, directories: list[tiff.Directory], size_for: SizeFor, on_note: OnNote) -> Source:
    """The preview of a camera RAW."""
    preview = tiff.preview_of(file, directories)
    if preview is None:
        reason = "is camera RAW without a preview that is large enough; convert it to JPEG or PNG first."
        raise RefusalError("unsupported_format", reason)
    file.seek(preview.start)
    image, size = load(BytesIO(file.read(min(preview.bytes, MEMORY_BYTES // 4))), ("JPEG",), size_for, on_note)
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
    kind = f"{samples} × {bits} bits, photometric {photometric}, compression {compression}"
    return RefusalError("unsupported_format", f"is TIFF of an unusual kind ({kind}); convert it to JPEG or PNG first.")


def _low_bytes(file: BinaryIO, format_: str) -> Image.Image:
    """RGB of 16 bits decoded for its low bytes: read in the other byte order, they are the high ones."""
    file.seek(0)
    image = identified(file, (format_,))
    for index, tile in enumerate(image.tile):
        rawmode, *others = [tile.args] if isinstance(tile.args, str) else cast("tuple[str, object]", tile.args)
        swapped = re.sub(";16[LBN]$", lambda order: ";16L" if order[0] == ";16B" else ";16B", rawmode)
        image.tile[index] = tile._replace(args=(swapped, *others) if others else swapped)
    image.load()
    return image
