"""Many values mean white: 255, 4,095, 65,535, 1.0 or none; a picture of any depth becomes 8 bits as a viewer shows it.

A depth that is declared counts. Without one, it is the smallest usual depth that holds the brightest value: cameras and
scanners store 10, 12 or 14 bits in 16.
"""

import math
from array import array
from collections.abc import Callable, Mapping, Sequence

from PIL import Image, ImageChops, ImageMath

from tidemill.producer.describing.colours import grey_table

MORE_KINDS: dict[tuple[bytes, int, tuple[int], int, tuple[int, ...], tuple[int, ...]], tuple[str, str]] = {
    (b"II", 0, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (b"MM", 0, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (b"MM", 1, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (b"MM", 0, (1,), 1, (16,), ()): ("I;16B", "I;16B"),
    (b"II", 0, (2,), 1, (16,), ()): ("I", "I;16S"),
    (b"MM", 0, (2,), 1, (16,), ()): ("I", "I;16BS"),
    (b"MM", 1, (1,), 1, (32,), ()): ("I", "I;32B"),
}
"""What Pillow can unpack and does not recognise: kinds of TIFF -> mode and raw mode, for its `OPEN_INFO`."""

Values = Mapping[int, Sequence[float] | bytes]
"""The tags of a TIFF; empty for other formats."""

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_MAX_TAGS = (281, 341)  # MaxSampleValue, SMaxSampleValue
_NO_VALUE = 42113
_USUAL_BITS = (8, 10, 12, 14, 16)
_USUAL_WHITES = (1, 255, 65535)
"""White of floating point and 32 bits, if the brightest value comes near it."""
_OUTLIERS = 0.001
"""The share of values on either side that may be broken, and must not darken all others."""
_SAMPLED_SIDE = 512
_STRIP_ROWS = 256


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey of more than 8 bits."""
    return image.mode[0] in "IF"


def eight_bits(image: Image.Image, tags: Values, profile: bytes | None, on_note: Callable[[str], None]) -> Image.Image:
    """Deep grey as L, or RGBA where one value is transparent. Raises ProfileError."""
    if image.mode.startswith("I;16"):
        return _sixteen_bits(image, tags, profile, on_note)
    grey = _by_range(image, tags, on_note)
    return grey.point(grey_table(profile, "L")) if profile else grey


def is_inverted(tags: Values) -> bool:
    """Whether 0 is white."""
    return number(tags, _PHOTOMETRIC, 1) == 0


def is_signed(tags: Values) -> bool:
    """Whether samples are integers with a sign."""
    return number(tags, _SAMPLE_FORMAT, 1) == 2


def number(tags: Values, tag: int, default: float) -> float:
    """The first value of a tag, if it has numbers."""
    values = tags.get(tag)
    return values[0] if values and not isinstance(values, bytes) else default


def _sixteen_bits(
    image: Image.Image, tags: Values, profile: bytes | None, on_note: Callable[[str], None]
) -> Image.Image:
    low, high = image.getextrema()
    assert isinstance(low, int | float) and isinstance(high, int | float)
    white = white_of(tags, low, high, on_note)
    table = grey_table(profile, "I;16") if profile else [round(value / 257) for value in range(65536)]
    places = (min(round(value * 65535 / white), 65535) for value in range(65536))
    inverted = is_inverted(tags)
    shown = [table[65535 - place if inverted else place] for place in places]
    wide = image.convert("I")
    grey = wide.point(shown, "L")
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey
    return Image.merge("LA", (grey, wide.point([255 * (value != clear) for value in range(65536)], "L"))).convert(
        "RGBA"
    )


def white_of(tags: Values, low: float, high: float, on_note: Callable[[str], None]) -> float:
    """The value that means white in samples of up to 16 bits, of which these are the darkest and brightest."""
    declared = max(number(tags, tag, 0) for tag in _MAX_TAGS)
    if high <= declared <= 65535 and declared > 0:
        return declared
    bits = int(number(tags, _BITS, 16))
    if tags and bits == 16 and low < high:
        bits = next(each for each in _USUAL_BITS if high < 1 << each)
        if bits < 16:
            on_note(f"its values use {bits} of 16 bits, so {(1 << bits) - 1:,} is shown as white")
    return (1 << bits) - 1


def _by_range(image: Image.Image, tags: Values, on_note: Callable[[str], None]) -> Image.Image:
    """32 bits, floating point and signed values. What is no number is black."""
    shift = 0.0
    if image.mode == "I" and not is_signed(tags):  # Pillow has taken the highest bit for a sign
        image, shift = ImageMath.lambda_eval(lambda args: args["image"] ^ -(2**31), image=image), 2.0**31
    nothing = _no_value(tags)
    sample = _sample(image)
    used = sorted(value for each in sample if math.isfinite(each) and (value := each + shift) != nothing)
    if not used:
        on_note("it holds no finite value")
        return Image.new("L", image.size)
    if len(used) < len(sample):
        on_note("values that are not finite or stand for nothing are left out of account")
    black, white = _range(tags, *_ends(used))
    scale = 255 / (white - black)
    offset = (shift - black) * scale + 0.5
    grey = image.convert("F").point(lambda value: value * scale + offset).convert("L")
    return ImageChops.invert(grey) if is_inverted(tags) else grey


def _sample(image: Image.Image) -> list[float]:
    """All values of a small picture, a quarter of a million of a large one."""
    size = min(image.width, _SAMPLED_SIDE), min(image.height, _SAMPLED_SIDE)
    if size != image.size:
        image = image.resize(size, Image.Resampling.NEAREST)
    return list(array("f" if image.mode == "F" else "i", image.tobytes()))


def _ends(values: list[float]) -> tuple[float, float]:
    """The darkest and brightest of sorted values, but for a few on either side that may be broken."""
    few = int(len(values) * _OUTLIERS)
    low, high = values[few], values[-1 - few]
    return (low, high) if low < high else (values[0], values[-1])


def _range(tags: Values, low: float, high: float) -> tuple[float, float]:
    """The values that are shown black and white."""
    declared = max(number(tags, tag, 0) for tag in _MAX_TAGS)
    if low >= 0 and math.isfinite(declared) and 0 < high <= declared:
        return 0.0, declared
    if low >= 0:
        for white in _USUAL_WHITES:
            if white / 4 <= high <= white:
                return 0.0, float(white)
    return (low, high) if low < high else (0.0, 255.0)


def _no_value(tags: Values) -> float | None:
    """What GDAL writes for "nothing here"."""
    text = tags.get(_NO_VALUE)
    try:
        return float(text.strip(b" \0")) if isinstance(text, bytes) else None
    except ValueError:
        return None


def combine(high: Image.Image, low: Image.Image, white: float) -> None:
    """Make RGB of 8 bits of the high and low bytes of samples that use fewer than 16 bits, in the place of `high`.

    `white` is their largest.
    """
    bits = int(white).bit_length()
    upper = [min(value << (16 - bits), 255) for value in range(256)] * 3
    lower = [value >> (bits - 8) for value in range(256)] * 3
    for top in range(0, high.height, _STRIP_ROWS):  # memory for whole pictures would be twice as much
        box = (0, top, high.width, min(top + _STRIP_ROWS, high.height))
        high.paste(ImageChops.add(high.crop(box).point(upper), low.crop(box).point(lower)), box)
