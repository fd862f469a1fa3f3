"""Pictures for tests, made in code: good ones of every kind, and files that only claim to be pictures."""

import random
import struct
import zlib
from io import BytesIO
from pathlib import Path
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


def full_of_secrets() -> dict[str, bytes]:
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


def hostile() -> dict[str, tuple[bytes, str]]:
    """Name -> content, and the code with which it must be refused."""
    jpeg, png = encoded(photo(400, 300), "JPEG"), encoded(photo(400, 300), "PNG")
    broken = bytearray(png)
    broken[len(broken) // 2] ^= 0xFF
    return {
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


def write(folder: Path, files: dict[str, bytes]) -> list[str]:
    """Write the files; returns their paths."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in files]
