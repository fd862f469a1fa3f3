"""Pictures for tests, made in code: good ones of every kind, and files that only claim to be pictures."""

import random
import struct
import zlib
from collections.abc import Mapping
from functools import cache
from io import BytesIO
from itertools import starmap
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

GPS_IFD, ARTIST, ORIENTATION = 0x8825, 0x013B, 0x0112
SECRET = "Rosebud-7731"
"""Stands in every place where a picture can carry words; must not be found in what is sent."""

SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>'
HTML = b"<!DOCTYPE html><html><body>404</body></html>"


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    """The bytes of an image in one of Pillow's formats."""
    buffer = BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def photo(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Like a photo: soft shapes under noise, no two neighbouring pixels quite equal; the same for the same seed."""
    tiny = random.Random(seed)
    bands = len(Image.new(mode, (1, 1)).getbands())
    soft = Image.frombytes(mode, (8, 6), tiny.randbytes(8 * 6 * bands)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = Image.frombytes(mode, (64, 64), tiny.randbytes(64 * 64 * bands))
    grain = Image.new(mode, (width, height))
    for left in range(0, width, 64):
        for top in range(0, height, 64):
            grain.paste(noise, (left, top))
    return Image.blend(soft, grain, 0.1)


def drawing(width: int, height: int) -> Image.Image:
    """Like a diagram: a few colours, sharp edges."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((width // 8, height // 8, width // 2, height // 2), fill="navy")
    draw.ellipse((width // 3, height // 3, width - 9, height - 9), outline="red", width=5)
    return image


def quarters(mode: str = "RGB", side: int = 64) -> Image.Image:
    """Four squares: red, green / blue, white; so that turning, mirroring and wrong colours show."""
    image = Image.new("RGB", (side, side), "white")
    half = side // 2
    for colour, corner in (("red", (0, 0)), ("lime", (half, 0)), ("blue", (0, half))):
        image.paste(colour, (*corner, corner[0] + half, corner[1] + half))
    return image.convert(mode)


@cache
def full_of_secrets() -> Mapping[str, bytes]:
    """Pictures with a name, a position, comments and text in all their places."""
    image, exif = photo(64, 48), Image.Exif()
    exif[ARTIST] = SECRET
    exif[GPS_IFD] = {1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 17.0, 40.0), 29: SECRET}
    xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{SECRET}</x:xmpmeta>".encode()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + SECRET.encode()
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", SECRET)
    text.add_itxt("Author", SECRET, zip=False)
    transparent = image.convert("RGBA")
    transparent.putalpha(100)
    everything: dict[str, Any] = {"exif": exif, "xmp": xmp, "icc_profile": profile}
    return {
        "photo.jpg": encoded(image, "JPEG", comment=SECRET.encode(), **everything),
        "photo.webp": encoded(image, "WEBP", **everything),
        "photo.tif": encoded(image, "TIFF", tiffinfo={270: SECRET, 315: SECRET}),
        "drawing.png": encoded(drawing(64, 48), "PNG", pnginfo=text, **everything),
        "transparent.png": encoded(transparent, "PNG", pnginfo=text, **everything),
        "photo.gif": encoded(image, "GIF", comment=SECRET.encode()),
    }


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(999))), (b"IEND", b""))
    framed = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def progressive_jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG of a few bytes that says it has so many pixels, and must be kept whole to be decoded."""
    content = encoded(Image.new("L", (8, 8)), "JPEG", progressive=True)
    frame = content.index(b"\xff\xc2") + 5
    return content[:frame] + struct.pack(">HH", height, width) + content[frame + 4 :]


def endless_jpeg() -> bytes:
    """A sound progressive JPEG whose last scan comes thousands of times: small, and minutes of work to decode."""
    content = encoded(Image.new("L", (6000, 6000), 128), "JPEG", progressive=True)
    last_scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last_scan * 20_000 + content[-2:]


Tags = dict[int, tuple[int, "list[int] | list[float] | bytes"]]
"""Tags of a TIFF: number -> type (3 short, 4 long, 12 double) and values, or bytes (1 bytes, 2 text, 7 anything)."""


def tiff_tags(width: int, height: int, bits: list[int], photometric: int, **more: Any) -> Tags:
    """The tags of an uncompressed image in one strip; `t338=(3, [1])` adds or changes one."""
    tags: Tags = {256: (4, [width]), 257: (4, [height]), 258: (3, bits), 259: (3, [1]), 262: (3, [photometric])}
    tags |= {277: (3, [len(bits)]), 278: (4, [height])}
    return tags | {int(name[1:]): value for name, value in more.items()}


def tiff(*images: tuple[Tags, bytes], inside: tuple[tuple[Tags, bytes], ...] = (), order: str = "<") -> bytes:
    """A TIFF, byte by byte: a chain of images, and those inside the first one (SubIFDs)."""
    room, everything = 1024, [*images, *inside]
    starts = [8 + room * number for number in range(len(everything))]
    content, data = b"", b""
    for number, (tags, pixels) in enumerate(everything):
        own = dict(tags) | {273: (4, [8 + room * len(everything) + len(data)]), 279: (4, [len(pixels)])}
        data += pixels
        if inside and number == 0:
            own[330] = (4, starts[len(images) :])
        following = starts[number + 1] if number + 1 < len(images) else 0
        content += _directory(own, starts[number], following, order).ljust(room, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", 8) + content + data


def _directory(tags: Tags, start: int, following: int, order: str) -> bytes:
    forms = {3: "H", 4: "I", 11: "f", 12: "d", 8: "h", 9: "i"}
    beside, entries, extra = start + 2 + 12 * len(tags) + 4, b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        content = values if isinstance(values, bytes) else struct.pack(f"{order}{len(values)}{forms[kind]}", *values)
        entries += struct.pack(order + "HHI", tag, kind, len(values))
        if len(content) > 4:
            entries, extra = entries + struct.pack(order + "I", beside + len(extra)), extra + content
        else:
            entries += content.ljust(4, b"\0")
    return struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", following) + extra


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG, chunk by chunk; `rows` are packed samples, `chunks` stand before them."""
    stride = len(rows) // height
    filtered = b"".join(b"\0" + rows[start : start + stride] for start in range(0, len(rows), stride))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        starmap(chunk, ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(filtered)), (b"IEND", b"")))
    )


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def profile(space: str, columns: tuple[tuple[float, ...], ...], exponent: float, words: bytes = b"") -> bytes:
    """An ICC profile with a power law: `space` RGB with its three columns of XYZ, or GRAY without any."""
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(exponent * 256))
    white = (0.9642, 1.0, 0.8249)
    tags = {b"wtpt": _xyz(white), b"cprt": b"text\0\0\0\0" + words + b"\0"}
    if columns:
        tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, columns), strict=True))
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    else:
        tags[b"kTRC"] = curve
    return icc(space, b"mntr", b"XYZ ", tags)


def icc(space: str, kind: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """The frame of an ICC profile."""
    offset, entries, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        entries += name + struct.pack(">II", offset + len(body), len(content))
        body += content.ljust(-(-len(content) // 4) * 4, b"\0")
    head = struct.pack(
        ">I4xI4s4s4s12x4s", offset + len(body), 0x02400000, kind, space.encode().ljust(4), connection, b"acsp"
    )
    head = head.ljust(68, b"\0") + _xyz((0.9642, 1.0, 0.8249))[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


@cache
def hostile() -> Mapping[str, tuple[bytes, str]]:
    """Name -> content, and the code with which it must be refused."""
    jpeg, png = encoded(photo(400, 300), "JPEG"), encoded(photo(400, 300), "PNG")
    broken = bytearray(png)
    broken[len(broken) // 2] ^= 0xFF
    files = {
        "empty.jpg": (b"", "empty_file"),
        "text.jpg": (b"I am a picture.", "not_a_picture"),
        "zeros.png": (bytes(5000), "not_a_picture"),
        "drawing.png": (SVG, "unsupported_format"),
        "page.png": (HTML, "unsupported_format"),
        "paper.jpg": (b"%PDF-1.7\n", "unsupported_format"),
        "layers.png": (b"8BPS\x00\x01" + bytes(20), "unsupported_format"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "corrupt_picture"),
        "cut.png": (png[: len(png) // 2], "corrupt_picture"),
        "cut_head.jpg": (jpeg[:40], "corrupt_picture"),
        "cut.webp": (encoded(photo(400, 300), "WEBP")[:900], "corrupt_picture"),
        "cut.gif": (encoded(photo(400, 300), "GIF")[:2000], "corrupt_picture"),
        "cut.tif": (encoded(photo(400, 300), "TIFF")[:9000], "corrupt_picture"),
        "cut.avif": (encoded(photo(400, 300), "AVIF")[:900], "corrupt_picture"),
        "flipped_bits.png": (bytes(broken), "corrupt_picture"),
        "bomb.png": (png_of_size(50_000, 50_000), "too_large"),
        "fat.jpg": (progressive_jpeg_of_size(12_000, 12_000), "too_large"),
        "fat.png": (png_of_size(12_000, 12_000), "too_large"),
    }
    return MappingProxyType(files)


def write(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Write the files; returns their paths."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in files]
