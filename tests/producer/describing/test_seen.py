"""What is sent is what a person sees: decoded pixel by pixel, and compared with values worked out here."""

import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.pictures import _directory, chunk, encoded, icc, photo, png, profile, quarters, tiff, tiff_tags
from tidemill.producer.describing import images

Colour = tuple[int, int, int]
Sent = tuple[Image.Image, tuple[str, ...]]
Case = tuple[bytes, dict[tuple[int, int], Colour], str]
"""A file, colours at places of what is sent, and words of its note."""


@pytest.fixture(scope="module")
def send() -> Callable[[bytes], Sent]:
    """Decodes in this process: hundreds of small pictures in seconds."""
    with warnings.catch_warnings():
        decode = images.decoder("gpt-6-luna", "auto", 2048, likeness=False)

    def sent(content: bytes) -> Sent:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head, body = decode(None, content)
        assert isinstance(head, dict), head
        image = Image.open(BytesIO(body))
        assert image.mode in ("L", "RGB") and "transparency" not in image.info
        return image.convert("RGB"), head["notes"]

    return sent


@pytest.fixture(scope="module")
def refuse() -> Callable[[bytes], tuple[str, str]]:
    with warnings.catch_warnings():
        decode = images.decoder("gpt-6-luna", "auto", 2048, likeness=False)

    def refused(content: bytes) -> tuple[str, str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head, _ = decode(None, content)
        assert isinstance(head, tuple), head
        return head

    return refused


def near(image: Image.Image, places: dict[tuple[int, int], Colour], tolerance: int) -> None:
    for place, colour in places.items():
        pixel = image.getpixel(place)
        assert isinstance(pixel, tuple)
        assert max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) <= tolerance, (place, pixel, colour)


def grey(value: float) -> Colour:
    level = min(max(round(value), 0), 255)
    return level, level, level


# --- colours: the arithmetic of profiles ---

XYZ_OF = {
    "sRGB": ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)),
    "Display P3": ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
    "Adobe RGB": ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
    "ProPhoto": ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491)),
}
"""Red, green and blue in XYZ under D50, as those who defined them published it."""


def stored(light: float) -> int:
    """Light, 0 to 1, as 8 bits of sRGB."""
    light = min(max(light, 0.0), 1.0)
    return round(255 * (12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055))


def shown(colour: Colour, space: str, exponent: float) -> Colour:
    """A colour of another space in sRGB."""
    light = np.array([(value / 255) ** exponent for value in colour])
    red, green, blue = np.linalg.solve(np.array(XYZ_OF["sRGB"]).T, np.array(XYZ_OF[space]).T @ light)
    return stored(red), stored(green), stored(blue)


COLOURS: list[Colour] = [(55, 55, 55), (128, 128, 128), (200, 60, 60), (90, 160, 90), (40, 80, 200), (250, 250, 250)]
SPACES = {
    "GIMP built-in Linear sRGB": ("sRGB", 1.0),
    "sRGB of 1.8": ("sRGB", 1.8),
    "Display P3 of sRGB's makers": ("Display P3", 2.2),
    "Adobe RGB": ("Adobe RGB", 563 / 256),
    "ProPhoto": ("ProPhoto", 1.8),
}
FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "TIFF": {},
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("name", SPACES)
def test_a_profile_counts_by_what_it_does_whatever_words_are_in_it(send: Callable[[bytes], Sent], name: str) -> None:
    space, exponent = SPACES[name]
    own = profile("RGB", XYZ_OF[space], exponent, name.encode())
    for format_, options in FORMATS.items():
        for mode in ("RGB", "RGBA", "P"):
            if (mode != "RGB" and format_ not in ("PNG", "TIFF")) or (mode, format_) == ("P", "AVIF"):
                continue
            for colour in COLOURS:
                image = Image.new("RGB", (16, 16), colour)
                image = image.quantize(4) if mode == "P" else image.convert(mode)
                content = encoded(image, format_, icc_profile=own, **options)
                sent, notes = send(content)
                assert not notes
                near(sent, {(8, 8): shown(colour, space, exponent)}, 4)


def test_srgb_under_any_name_changes_nothing(send: Callable[[bytes], Sent]) -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for colour in COLOURS:
        sent, notes = send(encoded(Image.new("RGB", (16, 16), colour), "PNG", icc_profile=own))
        assert (sent.getpixel((3, 3)), notes) == (colour, ())
        sent, notes = send(encoded(Image.new("L", (16, 16), colour[0]), "PNG", icc_profile=own))
        assert (sent.getpixel((3, 3)), notes) == (grey(colour[0]), ())


@pytest.mark.parametrize("exponent", [1.0, 1.8, 2.6])
def test_a_profile_of_grey_counts_at_every_depth(send: Callable[[bytes], Sent], exponent: float) -> None:
    own = profile("GRAY", (), exponent)
    for value in (10, 55, 128, 240):
        seen = {(1, 1): grey(stored((value / 255) ** exponent))}
        wide = tiff((tiff_tags(4, 4, [16], 1, t34675=(7, own)), struct.pack("<H", value * 257) * 15 + b"\xff\xff"))
        for content in (
            encoded(Image.new("L", (4, 4), value), "PNG", icc_profile=own),
            encoded(Image.new("LA", (4, 4), (value, 255)), "PNG", icc_profile=own),
            encoded(Image.new("I;16", (4, 4), value * 257), "PNG", icc_profile=own),
            encoded(Image.new("L", (16, 16), value), "JPEG", quality=100, icc_profile=own),
            wide,
        ):
            sent, notes = send(content)
            assert not notes
            near(sent, seen, 2)


def cmyk_profile() -> bytes:
    """A table of two points a colour: the sixteen corners, in Lab."""
    linear, corners = bytes(range(256)), b""
    for corner in range(16):
        cyan, magenta, yellow, black = (corner >> shift & 1 for shift in (3, 2, 1, 0))
        lightness = (100 - 20 * cyan - 25 * magenta - 5 * yellow) * (0.1 if black else 1)
        corners += bytes([round(lightness * 2.55), 128 - 30 * cyan + 40 * magenta, 128 - 30 * cyan + 50 * yellow])
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + linear * 4 + corners + linear * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    return icc("CMYK", b"prtr", b"Lab ", {b"wtpt": white, b"A2B0": table})


def from_lab(lightness: float, a: float, b: float) -> Colour:
    y = (lightness + 16) / 116
    cubes = (t**3 if t > 6 / 29 else 3 * (6 / 29) ** 2 * (t - 4 / 29) for t in (y + a / 500, y, y - b / 200))
    xyz = np.array([0.9642, 1.0, 0.8249]) * np.array(list(cubes))
    red, green, blue = np.linalg.solve(np.array(XYZ_OF["sRGB"]).T, xyz)
    return stored(red), stored(green), stored(blue)


def test_cmyk_is_shown_by_its_profile_or_else_by_subtraction(send: Callable[[bytes], Sent]) -> None:
    own = cmyk_profile()
    for ink, lab, plain in (
        ((0, 0, 0, 0), (100, 0, 0), (255, 255, 255)),
        ((0, 255, 0, 0), (75, 40, 0), (255, 0, 255)),
        ((0, 0, 255, 0), (95, 0, 50), (255, 255, 0)),
        ((0, 0, 0, 255), (10, 0, 0), (0, 0, 0)),
    ):
        image = Image.new("CMYK", (16, 16), ink)
        for format_ in ("TIFF", "JPEG"):  # Pillow writes Adobe's JPEG, whose values are inverted
            near(send(encoded(image, format_, icc_profile=own))[0], {(8, 8): from_lab(*lab)}, 6)
            near(send(encoded(image, format_))[0], {(8, 8): plain}, 3)


RGB_PROFILE, GREY_PROFILE = profile("RGB", XYZ_OF["sRGB"], 1.0), profile("GRAY", (), 1.0)


@pytest.mark.parametrize(
    ("mode", "own", "note"),
    [
        ("RGB", RGB_PROFILE[:300], "damaged"),
        ("RGB", b"sRGB" * 60, "damaged"),
        ("L", RGB_PROFILE, "for RGB"),
        ("RGB", GREY_PROFILE, "for GRAY"),
        ("RGB", cmyk_profile(), "for CMYK"),
        ("CMYK", RGB_PROFILE, "for RGB"),
    ],
)
def test_a_profile_that_cannot_be_used_is_ignored_and_said(
    send: Callable[[bytes], Sent], mode: str, own: bytes, note: str
) -> None:
    image = Image.new("RGB", (16, 16), (60, 60, 60)).convert(mode)
    sent, notes = send(encoded(image, "TIFF", icc_profile=own))
    assert len(notes) == 1 and note in notes[0] and "ignored" in notes[0]
    near(sent, {(8, 8): (60, 60, 60)}, 1)


CHRM_P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
CHRM_SRGB = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def gama(exponent: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(100_000 / exponent))


@pytest.mark.parametrize(
    ("chunks", "space", "exponent"),
    [
        ([gama(1.0)], "sRGB", 1.0),
        ([gama(1.8), (b"cHRM", CHRM_SRGB)], "sRGB", 1.8),
        ([gama(1.0), (b"cHRM", CHRM_P3)], "Display P3", 1.0),
        ([(b"cICP", bytes([12, 8, 0, 1]))], "Display P3", 1.0),
        ([(b"cICP", bytes([1, 8, 0, 1])), (b"sRGB", b"\0")], "sRGB", 1.0),
        ([(b"cICP", bytes([1, 4, 0, 1])), gama(1.0)], "sRGB", 2.2),
        ([gama(2.2)], None, 0),
        ([gama(2.2), (b"cHRM", CHRM_SRGB)], None, 0),
        ([(b"sRGB", b"\0"), gama(1.0)], None, 0),
        ([(b"cICP", bytes([1, 13, 0, 1]))], None, 0),
        ([(b"cHRM", bytes(32))], None, 0),
        ([(b"gAMA", bytes(4))], None, 0),
    ],
)
def test_colours_that_a_png_states_in_chunks_count_as_in_browsers(
    send: Callable[[bytes], Sent], chunks: list[tuple[bytes, bytes]], space: str | None, exponent: float
) -> None:
    for colour in COLOURS:
        sent, notes = send(png(4, 4, 8, 2, bytes(colour) * 16, *chunks))
        assert not notes
        near(sent, {(1, 1): shown(colour, space, exponent) if space else colour}, 4)
        if space == "sRGB" and len(set(colour)) == 1:
            near(send(png(4, 4, 8, 0, bytes(colour[:1]) * 16, *chunks))[0], {(1, 1): shown(colour, space, exponent)}, 4)


# --- transparency ---


def logo(mode: str, visible: Colour, hidden: Colour) -> Image.Image:
    image = Image.new("RGBA", (40, 40), (*hidden, 0))
    image.paste((*visible, 255), (10, 10, 30, 30))
    return image.convert(mode)


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "WEBP", "AVIF", "GIF"])
@pytest.mark.parametrize(
    ("visible", "around"),
    [((0, 0, 0), 255), ((200, 30, 30), 255), ((255, 255, 255), 128), ((240, 245, 250), 128), ((128, 128, 128), 255)],
)
def test_a_transparent_logo_lies_on_white_or_grey(
    send: Callable[[bytes], Sent], format_: str, visible: Colour, around: int
) -> None:
    options: dict[str, Any] = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    for hidden in ((0, 0, 0), (255, 0, 0), (255, 255, 255)):
        sent, notes = send(encoded(logo("RGBA", visible, hidden), format_, **options))
        assert not notes
        near(sent, {(2, 2): grey(around), (37, 20): grey(around), (20, 20): visible}, 8 if format_ == "AVIF" else 2)


def test_every_way_to_be_transparent_shows_the_same(send: Callable[[bytes], Sent]) -> None:
    """Half red over white; premultiplied or not, in 8 or 16 bits, in either byte order."""
    half = {(1, 1): (255, 127, 127), (1, 7): (255, 255, 255)}
    for bits, scale in ((8, 1), (16, 257)):
        for order in "<>":
            for extra, red in ((1, 128), (2, 255)):
                form = order + ("4B" if bits == 8 else "4H")
                pixels = struct.pack(form, red * scale, 0, 0, 128 * scale) * 32 + bytes(32 * bits // 2)
                sent, _ = send(tiff((tiff_tags(8, 8, [bits] * 4, 2, t338=(3, [extra])), pixels), order=order))
                near(sent, half, 2)
    for bits, content in ((8, bytes([255, 0, 0, 128])), (16, struct.pack(">4H", 65535, 0, 0, 32896))):
        near(send(png(8, 8, bits, 6, content * 32 + bytes(32 * bits // 2)))[0], half, 2)
    for bits, content in ((8, bytes([0, 128])), (16, struct.pack(">2H", 0, 32896))):
        near(
            send(png(8, 8, bits, 4, content * 32 + bytes(32 * bits // 4)))[0], {(1, 1): grey(127), (1, 7): grey(255)}, 2
        )


@pytest.mark.parametrize(
    ("content", "clear", "solid"),
    [
        (png(2, 1, 1, 0, b"\x40", (b"tRNS", b"\0\0")), 128, 255),
        (png(4, 1, 2, 0, b"\x1b", (b"tRNS", b"\0\3")), 255, 85),
        (png(2, 1, 4, 0, b"\x3a", (b"tRNS", b"\0\3")), 255, 170),
        (png(2, 1, 8, 0, b"\x07\x50", (b"tRNS", b"\0\x07")), 255, 0x50),
        (png(2, 1, 16, 0, b"\x07\x01\x50\x50", (b"tRNS", b"\x07\x01")), 255, 0x50),
        (png(2, 1, 8, 2, b"\1\2\3\x50\x50\x50", (b"tRNS", b"\0\1\0\2\0\3")), 255, 0x50),
        (png(2, 1, 16, 2, b"\1\0\2\0\3\0" + b"\x50" * 6, (b"tRNS", b"\1\0\2\0\3\0")), 255, 0x50),
        (png(2, 1, 16, 2, b"\0\0\0\0\0\0" + b"\0\1" * 3, (b"tRNS", bytes(6))), 255, 0),
        (png(2, 1, 8, 3, b"\0\1", (b"PLTE", b"\x09\x09\x09\x50\x50\x50"), (b"tRNS", b"\0")), 255, 0x50),
        (png(2, 1, 8, 3, b"\0\1", (b"PLTE", b"\0\0\0\x50\x50\x50"), (b"tRNS", b"\x80")), 127, 0x50),
    ],
)
def test_one_value_of_a_png_can_be_transparent(
    send: Callable[[bytes], Sent], content: bytes, clear: int, solid: int
) -> None:
    sent, _ = send(content)
    places = {(0, 0): grey(clear), (1, 0): grey(solid)}
    if sent.width == 4:  # 0, 1, 2 and 3, which is clear
        places = {(3, 0): grey(clear), (1, 0): grey(solid)}
    near(sent, places, 1)


def test_hidden_colours_do_not_bleed_into_edges_when_shrunk(send: Callable[[bytes], Sent]) -> None:
    wide = Image.new("RGBA", (4096, 64), (255, 0, 0, 0))
    wide.paste((0, 0, 255, 255), (1001, 0, 3000, 64))
    sent, _ = send(encoded(wide, "PNG"))
    assert max(sent.getpixel((x, 9))[0] - sent.getpixel((x, 9))[1] for x in range(490, 512)) <= 2  # type: ignore[index]


def test_what_cannot_be_seen_at_all_is_said(send: Callable[[bytes], Sent]) -> None:
    sent, notes = send(encoded(Image.new("RGBA", (8, 8), (9, 200, 0, 0)), "PNG"))
    assert (sent.getpixel((4, 4)), notes) == ((255, 255, 255), ("it is fully transparent: nothing of it can be seen",))
    assert "one flat colour" in send(png(16, 16, 16, 0, ramp(">u2", 0, 100)))[1][0]


# --- depth ---

RAMP = np.linspace(0, 1, 256)
"""A gradient, as 16 x 16 pixels."""


def ramp(kind: str, low: float, high: float) -> bytes:
    return (low + RAMP * (high - low)).astype(kind).tobytes()


def packed(bits: int) -> bytes:
    number = "".join(f"{round(value * ((1 << bits) - 1)):0{bits}b}" for value in RAMP)
    return int(number, 2).to_bytes(len(number) // 8)


DEPTHS: dict[str, tuple[list[int], int, bytes, dict[str, Any], float]] = {
    "1 bit": ([1], 1, packed(1), {}, 1),
    "2 bits": ([2], 1, packed(2), {}, 1),
    "4 bits": ([4], 1, packed(4), {}, 1),
    "8 bits": ([8], 1, ramp("u1", 0, 255), {}, 1),
    "8 bits, white is 0": ([8], 0, ramp("u1", 0, 255), {}, -1),
    "8 bits with a sign": ([8], 1, ramp("i1", -128, 127), {"t339": (3, [2])}, 1),
    "12 bits packed": ([12], 1, packed(12), {}, 1),
    "12 bits packed, white is 0": ([12], 0, packed(12), {}, -1),
    "10 in 16": ([16], 1, ramp("<u2", 0, 1023), {}, 1),
    "12 in 16": ([16], 1, ramp("<u2", 0, 4095), {}, 1),
    "14 in 16": ([16], 1, ramp("<u2", 0, 16383), {}, 1),
    "16": ([16], 1, ramp("<u2", 0, 65535), {}, 1),
    "16, white is 0": ([16], 0, ramp("<u2", 0, 65535), {}, -1),
    "16 with a declared white": ([16], 1, ramp("<u2", 0, 2047), {"t281": (3, [4095])}, 0.5),
    "16 with a sign": ([16], 1, ramp("<i2", -1000, 3000), {"t339": (3, [2])}, 1),
    "32": ([32], 1, ramp("<u4", 0, 2**32 - 1), {}, 1),
    "32 with a sign": ([32], 1, ramp("<i4", -(2**30), 2**30), {"t339": (3, [2])}, 1),
    "float to 1": ([32], 1, ramp("<f4", 0, 1), {"t339": (3, [3])}, 1),
    "float to 0.5": ([32], 1, ramp("<f4", 0, 0.5), {"t339": (3, [3])}, 0.5),
    "float to 255": ([32], 1, ramp("<f4", 0, 255), {"t339": (3, [3])}, 1),
    "float to 65535": ([32], 1, ramp("<f4", 0, 65535), {"t339": (3, [3])}, 1),
    "float of any range": ([32], 1, ramp("<f4", -7.5, 1e6), {"t339": (3, [3])}, 1),
    "float, white is 0": ([32], 0, ramp("<f4", 0, 1), {"t339": (3, [3])}, -1),
    "rgb of 10 in 16": ([16] * 3, 2, np.repeat(np.frombuffer(ramp("<u2", 0, 1023), "<u2"), 3).tobytes(), {}, 1),
    "rgb of 12 in 16": ([16] * 3, 2, np.repeat(np.frombuffer(ramp("<u2", 0, 4095), "<u2"), 3).tobytes(), {}, 1),
    "rgb of 16": ([16] * 3, 2, np.repeat(np.frombuffer(ramp("<u2", 0, 65535), "<u2"), 3).tobytes(), {}, 1),
}
"""Bits, photometric interpretation, pixels, more tags, and how bright the last one is; -1: black, the first white."""


@pytest.mark.parametrize("name", DEPTHS)
def test_every_depth_is_shown_from_black_to_white(send: Callable[[bytes], Sent], name: str) -> None:
    bits, photometric, pixels, more, brightest = DEPTHS[name]
    plain = tiff((tiff_tags(16, 16, bits, photometric, **more), pixels))
    files = {"little": plain}
    if bits[0] in (16, 32):
        unit = f"u{bits[0] // 8}"
        swapped = np.frombuffer(pixels, f"<{unit}").astype(f">{unit}").tobytes()
        files["big"] = tiff((tiff_tags(16, 16, bits, photometric, **more), swapped), order=">")
    for content in files.values():
        sent, notes = send(content)
        assert bool(notes) == ("in 16" in name), notes
        for place in (0, 60, 128, 200, 255):
            value = RAMP[place] * 255
            if bits[0] < 8:
                value = round(RAMP[place] * ((1 << bits[0]) - 1)) * 255 / ((1 << bits[0]) - 1)
            value = 255 - value if brightest < 0 else value * brightest
            near(sent, {(place % 16, place // 16): grey(value)}, 2)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_one_broken_value_does_not_darken_all_others(send: Callable[[bytes], Sent], broken: float) -> None:
    values = np.array(RAMP * 3, "<f4")
    values[100] = broken
    sent, notes = send(tiff((tiff_tags(16, 16, [32], 1, t339=(3, [3])), values.tobytes())))
    assert "not finite" in notes[0]
    near(sent, {(0, 0): grey(0), (8, 12): grey(RAMP[200] * 255), (15, 15): grey(255)}, 3)


def test_what_stands_for_nothing_is_left_out(send: Callable[[bytes], Sent]) -> None:
    values = np.array(RAMP * 900 - 300, "<f4")
    values[:64] = -9999
    content = tiff((tiff_tags(16, 16, [32], 1, t339=(3, [3]), t42113=(2, b"-9999\0")), values.tobytes()))
    near(send(content)[0], {(0, 0): grey(0), (15, 15): grey(255), (0, 10): grey((160 - 64) / (255 - 64) * 255)}, 4)


def test_a_png_of_16_bits_is_as_dark_as_it_says(send: Callable[[bytes], Sent]) -> None:
    content = png(16, 16, 16, 0, ramp(">u2", 0, 4095))
    near(send(content)[0], {(15, 15): grey(16)}, 1)


def test_bands_that_are_no_colours_are_left_out_and_said(
    send: Callable[[bytes], Sent], refuse: Callable[[bytes], tuple[str, str]]
) -> None:
    infrared = tiff((tiff_tags(8, 8, [8] * 4, 2, t338=(3, [0])), bytes([10, 200, 30, 0]) * 64))
    sent, notes = send(infrared)
    assert (sent.getpixel((4, 4)), notes) == ((10, 200, 30), ("3 of 4 bands are shown",))
    for bits, photometric, form in (([8] * 5, 1, 1), ([32] * 3, 2, 3), ([64], 1, 3)):
        unusual = tiff((tiff_tags(8, 8, bits, photometric, t339=(3, [form])), bytes(8 * 64 * len(bits))))
        code, reason = refuse(unusual)
        assert (code, "TIFF of an unusual kind" in reason) == ("unsupported_format", True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("scale", [256, 16])
@pytest.mark.parametrize("compression", [1, 8])
def test_planes_of_16_bits_are_read_whole(
    send: Callable[[bytes], Sent], order: str, scale: int, compression: int
) -> None:
    """200, 100 and 50, each in a strip of its own; the last pixel is the brightest value."""
    planes = [struct.pack(order + "H", value * scale) * 255 for value in (200, 100, 50)]
    strips = [plane + struct.pack(order + "H", 256 * scale - 1) for plane in planes]
    strips = strips if compression == 1 else [zlib.compress(strip) for strip in strips]
    tags = tiff_tags(16, 16, [16] * 3, 2, t284=(3, [2]), t259=(3, [compression]))
    content = tiff((tags, b"".join(strips)), order=order)
    start = len(content) - sum(map(len, strips))
    starts = [start + sum(map(len, strips[:number])) for number in range(3)]
    own = tags | {273: (4, starts), 279: (4, [len(strip) for strip in strips])}
    content = content[:8] + _directory(own, 8, 0, order).ljust(1024, b"\0") + content[1032:]
    near(send(content)[0], {(2, 2): (200, 100, 50)}, 3 if compression == 1 else 8)


# --- upright ---

UPRIGHT = {1: "rgbw", 2: "grwb", 3: "wbgr", 4: "bwrg", 5: "rbgw", 6: "brwg", 7: "wgbr", 8: "gwrb"}
LETTERS = {"(255, 0, 0)": "r", "(0, 255, 0)": "g", "(0, 0, 255)": "b", "(255, 255, 255)": "w"}


def corners(image: Image.Image) -> str:
    places = ((8, 8), (image.width - 8, 8), (8, image.height - 8), (image.width - 8, image.height - 8))
    bold = [tuple(255 * (value > 127) for value in image.getpixel(place)) for place in places]  # type: ignore[union-attr]
    return "".join(LETTERS.get(str(each), "?") for each in bold)


def exif_of(orientation: int, tag: int = 0x0112) -> bytes:
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", tag, 3, 1, orientation, 0, 0)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_orientation_is_set_upright_once(send: Callable[[bytes], Sent], orientation: int) -> None:
    wide, exif = quarters().resize((96, 64)), exif_of(orientation)
    files = {name: encoded(wide, name, exif=exif) for name in ("JPEG", "PNG", "WEBP", "AVIF")}
    files["TIFF"] = tiff((tiff_tags(96, 64, [8] * 3, 2, t274=(3, [orientation])), wide.tobytes()))
    hidden = encoded(wide, "AVIF", exif=exif_of(orientation, 0x0113))
    files["AVIF, in EXIF alone"] = hidden.replace(b"\x01\x13\0\x03\0\0\0\x01", b"\x01\x12\0\x03\0\0\0\x01")
    assert files["AVIF, in EXIF alone"] != hidden
    for name, content in files.items():
        sent, _ = send(content)
        assert (name, corners(sent)) == (name, UPRIGHT[orientation])
        assert sent.size == ((64, 96) if orientation > 4 else (96, 64))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_heic_is_set_upright_with_its_own_turn_or_without(send: Callable[[bytes], Sent], orientation: int) -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = BytesIO()
    heif.from_pillow(quarters().resize((96, 64))).save(buffer, exif=exif_of(orientation), quality=90)
    with_turn = buffer.getvalue()
    assert (b"irot" in with_turn or b"imir" in with_turn) == (orientation > 1)
    for content in (with_turn, with_turn.replace(b"irot", b"free").replace(b"imir", b"free")):
        assert corners(send(content)[0]) == UPRIGHT[orientation]


# --- which image of a file ---

BIG, SMALL = photo(400, 300, 3), Image.new("RGB", (40, 30), "red")


def page(image: Image.Image, **more: Any) -> tuple[dict[int, Any], bytes]:
    pixels = zlib.compress(image.tobytes()) if "t259" in more else image.tobytes()
    return tiff_tags(*image.size, [8] * 3, 2, **more), pixels


KINDS: list[dict[str, Any]] = [{"t254": (4, [kind])} for kind in (0, 1, 4)]
FULL, REDUCED, MASK = KINDS


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (tiff(page(BIG)), ""),
        (tiff(page(SMALL, **REDUCED), page(BIG, **FULL)), "thumbnail"),
        (tiff(page(SMALL, **REDUCED), page(BIG)), "thumbnail"),
        (tiff(page(SMALL), page(BIG)), "thumbnail"),
        (tiff(page(SMALL, t255=(3, [2])), page(BIG)), "thumbnail"),
        (tiff(page(SMALL, **REDUCED), inside=(page(BIG, **FULL),)), "thumbnail"),
        (tiff(page(SMALL, **REDUCED), inside=(page(BIG, **FULL),), order=">"), "thumbnail"),
        (tiff(page(SMALL, **REDUCED), inside=(page(BIG, t259=(3, [8])),)), "thumbnail"),
        (tiff(page(SMALL, **REDUCED), page(BIG, t259=(3, [8])), order=">"), "thumbnail"),
        (tiff(page(BIG), page(SMALL, **REDUCED)), ""),
        (tiff(page(BIG), inside=(page(SMALL, **REDUCED),)), ""),
        (tiff(page(BIG), page(SMALL, **MASK)), ""),
        (tiff(page(BIG), page(BIG)), "first of 2 pages"),
        (tiff(page(BIG), page(SMALL, **REDUCED), page(BIG)), "first of 2 pages"),
    ],
)
def test_of_a_tiff_the_picture_is_shown_and_no_thumbnail(
    send: Callable[[bytes], Sent], content: bytes, note: str
) -> None:
    sent, notes = send(content)
    assert sent.size == BIG.size
    near(sent, {(200, 150): BIG.getpixel((200, 150))}, 12)  # type: ignore[dict-item]
    assert (len(notes), note in "".join(notes)) == (bool(note), True)


def raw(preview: Image.Image | None, *, compression: int = 1, order: str = "<", **more: Any) -> bytes:
    """A camera RAW: a thumbnail first, the preview and what the sensor saw inside it."""
    thumbnail = page(Image.new("RGB", (160, 120), "red"), **REDUCED, **more)
    sensor = tiff_tags(400, 300, [16], 32803, t259=(3, [compression])), bytes(400 * 300 * 2)
    linear = tiff_tags(4000, 3000, [8] * 3, 34892, t259=(3, [7])), encoded(Image.new("RGB", (16, 16)), "JPEG")
    inside = [sensor, linear] if preview is None else [sensor]
    if preview is not None:
        jpeg = encoded(preview, "JPEG", quality=95)
        inside.insert(0, (tiff_tags(*preview.size, [8] * 3, 6, t259=(3, [7]), **REDUCED), jpeg))
    return tiff(thumbnail, inside=tuple(inside), order=order)


DNG: dict[str, Any] = {"t50706": (1, b"\1\4\0\0")}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("more", [DNG, {}, {"t271": (2, b"NIKON\0")}])
def test_a_camera_raw_is_shown_by_its_large_preview_or_refused(
    send: Callable[[bytes], Sent], refuse: Callable[[bytes], tuple[str, str]], order: str, more: dict[str, Any]
) -> None:
    for compression in (1, 34713, 32767):
        sent, notes = send(raw(BIG, compression=compression, order=order, **more))
        assert (sent.size, notes) == ((400, 300), ("camera RAW: its preview of 400 × 300 pixels is described",))
    for preview in (None, BIG.resize((160, 120))):
        code, reason = refuse(raw(preview, order=order, **more))
        assert code == "unsupported_format" and "camera RAW" in reason and "convert it" in reason
    turned, _ = send(raw(quarters().resize((400, 300)), order=order, t274=(3, [6]), **more))
    assert corners(turned) == UPRIGHT[6]


def test_a_canon_raw_begins_with_its_preview(send: Callable[[bytes], Sent]) -> None:
    jpeg = encoded(BIG.resize((1200, 900)), "JPEG")
    preview = tiff_tags(1200, 900, [8] * 3, 6, t259=(3, [6]), **DNG), jpeg
    lossless = tiff_tags(2400, 1800, [16], 1, t259=(3, [6])), b"\xff\xd8\xff\xc3" + bytes(99)
    for content in (tiff(preview, page(SMALL, **REDUCED), lossless), tiff(page(SMALL, **REDUCED), preview, lossless)):
        assert send(content)[0].size == (1200, 900)


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_is_shown_by_its_first_frame_that_is_not_blank(
    send: Callable[[bytes], Sent], format_: str
) -> None:
    blank, other = Image.new("RGB", (64, 64), "black"), photo(64, 64)
    first, notes = send(encoded(quarters(), format_, save_all=True, append_images=[other]))
    assert (corners(first), notes) == ("rgbw", ("first of 2 frames",))
    second, notes = send(encoded(blank, format_, save_all=True, append_images=[quarters(), other]))
    assert (corners(second), notes) == ("rgbw", ("frame 2 of 3: those before it are blank",))


def test_the_picture_for_those_who_cannot_play_an_animation_is_not_it(send: Callable[[bytes], Sent]) -> None:
    frames = {"save_all": True, "default_image": True, "append_images": [quarters(), photo(64, 64)]}
    sent, notes = send(encoded(Image.new("RGB", (64, 64), "gold"), "PNG", **frames))
    assert (corners(sent), notes) == ("rgbw", ("first of 2 frames",))


# --- not quite whole ---

PHOTO = photo(400, 300, 7)
PNG = encoded(PHOTO, "PNG")
FIRST_PIXELS, END = PNG.index(b"IDAT") - 4, PNG.index(b"IEND") - 4


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_a_file_without_its_last_bytes_is_shown_and_said(
    send: Callable[[bytes], Sent], refuse: Callable[[bytes], tuple[str, str]], format_: str
) -> None:
    content = encoded(PHOTO, format_)
    whole, _ = send(content)
    for cut in (20, len(content) // 50, len(content) // 12):
        sent, notes = send(content[:-cut])
        assert notes and ("file is not whole" in notes[0] or "which is whole" in notes[0])
        near(sent, {(200, 100): whole.getpixel((200, 100))}, 12)  # type: ignore[dict-item]
    assert refuse(content[: len(content) // 3])[0] == "corrupt_picture"


@pytest.mark.parametrize(
    "content",
    [
        PNG[:FIRST_PIXELS] + chunk(b"tEXt", b"a\0b")[:-1] + b"?" + PNG[FIRST_PIXELS:],
        PNG[:FIRST_PIXELS] + chunk(b"zTXt", b"a\0\7b") + PNG[FIRST_PIXELS:],
        PNG[:FIRST_PIXELS] + chunk(b"iCCP", b"a\0\0b")[:-1] + b"?" + PNG[FIRST_PIXELS:],
        PNG[:FIRST_PIXELS] + b"\xff\xff\xff\xf0tEXtabc" + PNG[FIRST_PIXELS:],
        PNG[:END],
    ],
)
def test_a_png_that_is_damaged_beside_its_pixels_is_shown_and_said(
    send: Callable[[bytes], Sent], content: bytes
) -> None:
    sent, notes = send(content)
    assert notes == ("the file is damaged beside its picture, which is whole",)
    assert sent.tobytes() == send(PNG)[0].tobytes()


def test_a_webp_without_what_is_written_about_it_is_shown_and_said(send: Callable[[bytes], Sent]) -> None:
    content = encoded(PHOTO, "WEBP", exif=b"Exif\0\0" + bytes(400))
    assert send(content[:-99])[1] == ("the file is damaged beside its picture, which is whole",)


def test_a_long_strip_that_becomes_illegible_is_said(send: Callable[[bytes], Sent]) -> None:
    sent, (note,) = send(encoded(Image.effect_noise((20, 300), 9).resize((400, 18_000)), "PNG", compress_level=1))
    assert note.startswith(f"shrunk to 1/9, from 400 × 18,000 to {sent.width} × 2,048 pixels")
    assert send(encoded(photo(4000, 3000), "JPEG"))[1] == ()
