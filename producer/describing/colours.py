"""The same numbers are other colours under another profile; what is sent is opaque sRGB, as a person sees it.

A profile is judged by what it does to colours, never by a name in its bytes. Where a file states its colours without a
profile (PNG's gAMA and cHRM, code points of video), one is made of what it states.
"""

import math
import struct
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, reduce
from io import BytesIO
from typing import Any, TypeAlias

from PIL import Image, ImageChops, ImageCms, ImageStat

Chromaticities: TypeAlias = tuple[float, float, float, float, float, float, float, float]
"""x and y of white, red, green and blue, as in PNG's cHRM."""
Curve: TypeAlias = Callable[[float], float]
"""From a stored value to light, both 0 to 1."""

_Profile: TypeAlias = Any
"""Little CMS's own, which has no public type."""

_D65 = (0.3127, 0.3290)
PRIMARIES: dict[int, Chromaticities] = {
    1: (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""Code point of ITU-T H.273 -> primaries; 1 is sRGB's."""

_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_POINTS = 1024
_NEAR_SRGB = 2
"""Levels of 255; a profile that moves no colour further is taken for sRGB."""
_AS_VIEWERS_DO = (ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION)
_NEAR_WHITE = 224
_GREY = (128, 128, 128)
_WHITE = (255, 255, 255)


def srgb_light(value: float) -> float:
    """The curve of sRGB."""
    return value / 12.92 if value <= 0.04045 else math.pow((value + 0.055) / 1.055, 2.4)


def gamma(exponent: float) -> Curve:
    """A power law."""
    return lambda value: math.pow(value, exponent)


def _pq_light(value: float) -> float:
    """HDR of SMPTE ST 2084; white is where SDR has it, at 203 cd/m2 (ITU-R BT.2408), and what is brighter is white."""
    root = math.pow(value, 1 / 78.84375)
    light = math.pow(max(root - 0.8359375, 0.0) / (18.8515625 - 18.6875 * root), 1 / 0.1593017578125)
    return min(1.0, light * 10_000 / 203)


def _hlg_light(value: float) -> float:
    """HDR of ITU-R BT.2100 HLG; its reference white is at 75 % of the signal."""
    scene = value**2 / 3 if value <= 0.5 else (math.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return min(1.0, math.pow(scene / 0.2646, 1.2))


CURVES: dict[int, Curve] = {
    **dict.fromkeys((1, 6, 13, 14, 15), srgb_light),
    4: gamma(2.2),
    5: gamma(2.8),
    8: gamma(1.0),
    16: _pq_light,
    18: _hlg_light,
}
"""Code point of ITU-T H.273 -> curve. Video's own curve is shown as sRGB's, as browsers do."""


class ProfileError(ValueError):
    """A profile that cannot be used; the text says why."""


# --- profiles made of what a file states ---


@lru_cache(maxsize=16)
def profile_of(space: str, primaries: Chromaticities | None, curve: Curve) -> bytes:
    """An ICC profile for pictures of `space` "RGB" or "GRAY". Raises ValueError for impossible primaries."""
    table = [round(65535 * min(max(curve(index / (_POINTS - 1)), 0.0), 1.0)) for index in range(_POINTS)]
    light = b"curv\0\0\0\0" + struct.pack(f">I{_POINTS}H", _POINTS, *table)
    tags = {b"wtpt": _xyz(_D50)}
    if space == "GRAY":
        tags[b"kTRC"] = light
    else:
        columns = zip(*_to_d50(primaries or PRIMARIES[1]), strict=True)
        tags |= {name + b"XYZ": _xyz(column) for name, column in zip((b"r", b"g", b"b"), columns, strict=True)}
        tags |= {name + b"TRC": light for name in (b"r", b"g", b"b")}
    offset, entries, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        entries += name + struct.pack(">II", offset + len(body), len(content))
        body += content
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x", offset + len(body), 0x02400000, b"mntr", space.encode().ljust(4), b"XYZ ", b"acsp"
    )
    return (head + _xyz(_D50)[8:]).ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


Matrix: TypeAlias = Sequence[Sequence[float]]


def _to_d50(primaries: Chromaticities) -> Matrix:
    """The matrix from linear RGB to XYZ, adapted to the white of profiles."""
    if min(primaries[1::2]) <= 0:
        raise ValueError("impossible primaries")
    white, *points = [(x / y, 1.0, (1 - x - y) / y) for x, y in zip(primaries[::2], primaries[1::2], strict=True)]
    corners = list(zip(*points, strict=True))
    shares = _times(_inverse(corners), [[value] for value in white])
    to_xyz = [[value * share[0] for value, share in zip(row, shares, strict=True)] for row in corners]
    here, there = (_times(_BRADFORD, [[value] for value in each]) for each in (white, _D50))
    scale = [[there[row][0] / here[row][0] if row == column else 0.0 for column in range(3)] for row in range(3)]
    return _times(_times(_inverse(_BRADFORD), _times(scale, _BRADFORD)), to_xyz)


def _times(left: Matrix, right: Matrix) -> Matrix:
    return [
        [sum(a * b for a, b in zip(row, column, strict=True)) for column in zip(*right, strict=True)] for row in left
    ]


def _inverse(matrix: Matrix) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    minors = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    whole = a * minors[0][0] + b * minors[1][0] + c * minors[2][0]
    if abs(whole) < 1e-9:
        raise ValueError("impossible primaries")
    return [[value / whole for value in row] for row in minors]


# --- to sRGB ---


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture of 8 bits in sRGB, as L, RGB or RGBA.

    Raises:
        ProfileError: the profile is damaged, or for other colours than the picture has.
    """
    if image.mode == "LAB":
        return _converted(image, _transform(_lab(), "LAB", "RGB"))
    if image.mode not in ("L", "RGB", "RGBA", "CMYK"):
        image = image.convert("RGB")
    if profile and (image.mode == "L" or (_space(profile) == b"GRAY" and _is_grey(image))):
        table = list(grey_table(profile, "L"))
        return image.point(table if image.mode == "L" else [*table * 3, *range(256)])
    if profile and (transform := _from_profile(profile, image.mode)) is not None:
        return _converted(image, transform)
    return image.convert("RGB") if image.mode == "CMYK" else image


def _is_grey(image: Image.Image) -> bool:
    """Whether an RGBA picture has the same values in its three colours, as grey with transparency has."""
    if image.mode != "RGBA":
        return False
    red, green, blue, _ = image.split()
    return all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue))


@lru_cache(maxsize=4)
def grey_table(profile: bytes, mode: str) -> bytes:
    """What each value of an "L" or "I;16" picture is in 8 bits of sRGB. Raises ProfileError."""
    space = _space(profile)
    if space == b"RGB " and _from_profile(profile, "RGB") is None:  # grey looks the same in sRGB
        return bytes(range(256)) if mode == "L" else bytes(round(value / 257) for value in range(65536))
    if space != b"GRAY":
        raise _other_colours(space)
    size, count = ((256, 1), 256) if mode == "L" else ((256, 256), 65536)
    values = bytes(range(256)) if mode == "L" else struct.pack(f"<{count}H", *range(count))
    every = Image.frombytes(mode, size, values)
    return _converted(every, _transform(_opened(profile), mode, "RGB")).getchannel("R").tobytes()


@lru_cache(maxsize=8)
def _from_profile(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of a profile to sRGB; None if it leaves colours as they are."""
    space = _space(profile)
    if space != {"CMYK": b"CMYK"}.get(mode, b"RGB "):
        raise _other_colours(space)
    transform = _transform(_opened(profile), mode, "RGBA" if mode == "RGBA" else "RGB")
    if mode == "CMYK":
        return transform
    steps = bytes(range(0, 256, 51))
    colours = bytes(value for red in steps for green in steps for blue in steps for value in (red, green, blue))
    sample = Image.frombytes("RGB", (len(colours) // 3, 1), colours).convert(mode)
    moved = ImageChops.difference(_converted(sample, transform).convert("RGB"), sample.convert("RGB"))
    largest = max(high for _, high in moved.getextrema())  # type: ignore[misc]
    return None if largest <= _NEAR_SRGB else transform


def _space(profile: bytes) -> bytes:
    if len(profile) < 132 or profile[36:40] != b"acsp":
        raise ProfileError("its colour profile is damaged, and ignored")
    return profile[16:20]


def _other_colours(space: bytes) -> ProfileError:
    name = space.decode("ascii", "replace").strip()
    return ProfileError(f"its colour profile is for {name if name.isalnum() else 'other'} colours, and ignored")


def _opened(profile: bytes) -> _Profile:
    try:
        return ImageCms.ImageCmsProfile(BytesIO(profile)).profile
    except (ImageCms.PyCMSError, OSError, ValueError):
        raise ProfileError("its colour profile is damaged, and ignored") from None


@cache
def _srgb() -> _Profile:
    return ImageCms.createProfile("sRGB")


@cache
def _lab() -> _Profile:
    return ImageCms.createProfile("LAB")


def _transform(profile: _Profile, mode: str, target: str) -> ImageCms.ImageCmsTransform:
    try:
        return ImageCms.buildTransform(profile, _srgb(), mode, target, *_AS_VIEWERS_DO)
    except (ImageCms.PyCMSError, OSError, ValueError):
        raise ProfileError("its colour profile is damaged, and ignored") from None


def _converted(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    return transform.apply(image)


# --- to opaque ---


def with_alpha(image: Image.Image, bits: int, low_bytes: Callable[[], Image.Image] | None) -> Image.Image:
    """RGBA of a picture of which one colour is transparent, stated in samples of so many bits.

    Of 16 bits, `image` has the high bytes.
    """
    clear = image.info.get("transparency")
    if image.mode == "L" and isinstance(clear, int) and bits in (2, 4):
        image.info["transparency"] = clear * 255 // ((1 << bits) - 1)
    if image.mode != "RGB" or bits != 16 or not isinstance(clear, tuple) or low_bytes is None:
        return image.convert("RGBA")
    halves = (*image.split(), *low_bytes().split())
    keys = [value >> 8 for value in clear] + [value & 255 for value in clear]
    others = [
        half.point([255 * (value != key) for value in range(256)]) for half, key in zip(halves, keys, strict=True)
    ]
    return Image.merge("RGBA", (*halves[:3], reduce(ImageChops.lighter, others)))


def opaque(image: Image.Image) -> Image.Image:
    """A picture of RGBA on white; on grey if most of what is visible is nearly white."""
    alpha = image.getchannel("A")
    darkest = ImageChops.darker(ImageChops.darker(image.getchannel("R"), image.getchannel("G")), image.getchannel("B"))
    whitish = darkest.point(lambda value: 255 * (value >= _NEAR_WHITE))
    is_whitish = 2 * ImageStat.Stat(ImageChops.multiply(whitish, alpha)).sum[0] > ImageStat.Stat(alpha).sum[0]
    canvas = Image.new("RGB", image.size, _GREY if is_whitish else _WHITE)
    canvas.paste(image, mask=alpha)
    return canvas
