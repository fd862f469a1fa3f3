"""A decoded image becomes the pixels that a person sees: 8 bits, sRGB, opaque, and no larger than is needed."""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

from PIL import Image

from tidemill.producer.describing.colours import ProfileError, opaque, to_srgb, with_alpha
from tidemill.producer.describing.depths import combine, eight_bits, is_deep, is_signed, white_of
from tidemill.producer.describing.opening import Source, is_blank
from tidemill.producer.describing.tiff import EXTRA_SAMPLES

_NARROW = 4
"""Longer side by shorter one, from which on shrinking can make a picture illegible."""
_LEGIBLE_PIXELS = 256


def as_seen(known: Source, size: tuple[int, int], on_note: Callable[[str], None]) -> Image.Image:
    """The picture in opaque sRGB, L or RGB, no larger than `size`."""
    try:
        image = _in_eight_bits(known, known.profile, on_note)
        pixels = to_srgb(_shrunk(image, size), None if is_deep(known.image) else known.profile)
    except ProfileError as error:
        on_note(str(error))
        image = _in_eight_bits(known, None, on_note)
        pixels = to_srgb(_shrunk(image, size), None)
    if pixels.mode == "RGBA":
        if not (highest := pixels.getchannel("A").getextrema()[1]):
            on_note("it is fully transparent: nothing of it can be seen")
        pixels = opaque(pixels)
        if not highest:
            return pixels
    if _is_flat(pixels) and not is_blank(known.image):
        on_note("what is sent is one flat colour, though the file is not")
    return pixels


def _in_eight_bits(known: Source, profile: bytes | None, on_note: Callable[[str], None]) -> Image.Image:
    """In a mode that can be shrunk: without a palette, and with transparency only if something shows through."""
    image = known.image
    if is_deep(image):
        return eight_bits(image, known.tags, profile, on_note)
    if image.mode == "La":
        image = image.convert("LA")
    if known.tags and known.low_bytes is not None:
        image = _scaled(image, known, on_note)
    if image.mode == "L" and is_signed(known.tags):
        image = image.point([(value + 128) % 256 for value in range(256)])
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else with_alpha(image, known.bits, known.low_bytes)
        lowest, highest = cast("tuple[int, int]", image.getchannel("A").getextrema())
        is_undeclared = known.format == "bmp" or (known.tags and EXTRA_SAMPLES not in known.tags)
        is_unused = highest == 0 and is_undeclared  # such files have no alpha, but zeros in its place
        if lowest == 255 or is_unused:
            return image.convert("L" if known.image.mode in ("LA", "La", "L") else "RGB")
        return image
    return image.convert({"1": "L", "P": "RGB"}[image.mode]) if image.mode in ("1", "P") else image


def _scaled(image: Image.Image, known: Source, on_note: Callable[[str], None]) -> Image.Image:
    """RGB of 16 bits, decoded by its high bytes: where it uses fewer bits, they hold little of it."""
    highest = max(high for _, high in cast("Sequence[tuple[int, int]]", image.getextrema()))
    if highest >= 64 or known.low_bytes is None:
        return image
    white = white_of(known.tags, 0, 256 * highest + 255, on_note)
    if white < 2**14:
        combine(image, known.low_bytes(), white)
    return image


def _shrunk(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.width <= size[0] and image.height <= size[1]:
        return image
    return image.resize(size, Image.Resampling.HAMMING, reducing_gap=2.0)


def _is_flat(image: Image.Image) -> bool:
    """Whether all pixels are the same; a few of them say at once that they are not."""
    return is_blank(image.resize((8, 8), Image.Resampling.NEAREST)) and is_blank(image)


def shrinking(size: tuple[int, int], source: tuple[int, int]) -> Iterator[str]:
    """A note on a long strip that has become too thin to be read."""
    if max(source) >= _NARROW * min(source) and min(size) < _LEGIBLE_PIXELS and 2 * max(size) < max(source):
        shares = max(source) / max(size)
        yield (
            f"shrunk to 1/{shares:.0f}, from {source[0]:,} × {source[1]:,} to {size[0]:,} × {size[1]:,} pixels: text "
            "in it can hardly be read; cut it into parts"
        )
