"""A file becomes a small, bare, right picture, or one reason why not, whatever it does to its decoder."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image, ImageChops, ImageCms, ImageStat

from tests import pictures
from tests.conftest import WaitUntil
from tests.pictures import encoded, photo, quarters, write
from tests.waiting import limit
from tidemill.models.errors import InputError, TidemillError
from tidemill.models.options import Detail
from tidemill.producer.describing import children, images, loading
from tidemill.producer.describing.images import MEDIA_TYPES, PreparedPicture, Preparer, RefusedPicture, thumbnail

ROOT = Path(images.__file__).parents[3]


@pytest.fixture(autouse=True)
def patience_of_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow or busy machine takes longer for a picture; tests of the limit itself set a short one."""
    monkeypatch.setattr(children, "ITEM_SECONDS", limit(children.ITEM_SECONDS))


@pytest.fixture(scope="module")
def preparer() -> Iterator[Preparer]:
    with Preparer("gpt-6-luna", "auto", 2048, processes=1) as one:
        yield one


def prepared(preparer: Preparer, source: str | bytes) -> PreparedPicture:
    ((_, picture),) = preparer.prepare([(None, source)])
    assert isinstance(picture, PreparedPicture), picture
    return picture


def refused(preparer: Preparer, source: str | bytes) -> RefusedPicture:
    ((_, reason),) = preparer.prepare([(None, source)])
    assert isinstance(reason, RefusedPicture), reason
    return reason


def decoded(picture: PreparedPicture) -> Image.Image:
    image = Image.open(BytesIO(picture.content))
    image.load()
    return image


def child_of(preparer: Preparer) -> psutil.Process:
    (child,) = preparer._children._living
    return psutil.Process(child.pid)


def corners(image: Image.Image) -> str:
    """The colours of the four quarters, as letters."""
    names = {b"\xff\0\0": "r", b"\0\xff\0": "g", b"\0\0\xff": "b", b"\xff\xff\xff": "w"}
    four = image.convert("RGB").resize((2, 2), Image.Resampling.NEAREST).tobytes()
    bold = bytes(255 if value > 127 else 0 for value in four)
    return "".join(names[bold[start : start + 3]] for start in (0, 3, 6, 9))


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of the pixels, 0 to 255."""
    means = ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).mean
    return max(means)


# --- what is sent ---


def test_a_picture_tells_what_it_is_and_what_it_was(preparer: Preparer, tmp_path: Path) -> None:
    content = encoded(photo(4000, 1000), "PNG", compress_level=1)
    (path,) = write(tmp_path, {"photo.jpg": content})  # the name lies, and nobody minds
    picture = prepared(preparer, path)
    assert (picture.source_format, picture.source_width, picture.source_height) == ("png", 4000, 1000)
    assert picture.source_bytes == len(content)
    assert (picture.format, picture.width, picture.height) == ("jpeg", 2048, 512)
    assert decoded(picture).size == (2048, 512)
    assert MEDIA_TYPES[picture.format] == decoded(picture).get_format_mimetype() == "image/jpeg"  # type: ignore[attr-defined]
    assert picture.sha256 == hashlib.sha256(picture.content).hexdigest()
    assert (picture.notes, picture.likeness) == ((), None)
    assert prepared(preparer, content) == picture


@pytest.mark.parametrize(
    ("model", "detail", "max_side", "size"),
    [("gpt-4o", "high", 2048, (1000, 750)), ("gpt-4o", "low", 2048, (500, 375)), ("llava", "auto", 800, (800, 600))],
)
def test_a_photo_is_shrunk_to_what_the_model_uses_or_just_below(
    model: str, detail: Detail, max_side: int, size: tuple[int, int]
) -> None:
    """gpt-4o uses 1024 x 768; the JPEG decoder delivers 1000 x 750 at a fraction of the price."""
    image = photo(4000, 3000)
    with Preparer(model, detail, max_side, processes=1) as preparer:
        picture = prepared(preparer, encoded(image, "JPEG"))
    assert (picture.width, picture.height) == size
    assert difference(decoded(picture), image.resize(size, Image.Resampling.LANCZOS)) < 4


def test_the_same_file_gives_the_same_bytes_in_another_process(preparer: Preparer) -> None:
    contents = [encoded(photo(300, 200), "JPEG"), encoded(pictures.drawing(300, 200), "GIF")]
    with Preparer("gpt-6-luna", "auto", 2048, processes=1) as another:
        assert [prepared(another, each) for each in contents] == [prepared(preparer, each) for each in contents]


@pytest.mark.parametrize("name", list(pictures.full_of_secrets()))
def test_no_metadata_leaves(preparer: Preparer, name: str) -> None:
    content = pictures.full_of_secrets()[name]
    assert pictures.SECRET.encode() in content
    picture = prepared(preparer, content)
    sent = decoded(picture)
    assert pictures.SECRET.encode() not in picture.content
    assert dict(sent.getexif()) == {}
    assert sent.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    for mark in (b"Exif", b"GPS", b"xmp", b"ICC_PROFILE", b"iCCP", b"tEXt", b"iTXt", b"zTXt", b"eXIf"):
        assert mark not in picture.content[:200], mark


def test_the_pictures_of_the_metadata_test_do_carry_a_position() -> None:
    exif = Image.open(BytesIO(pictures.full_of_secrets()["photo.jpg"])).getexif()
    assert exif.get_ifd(pictures.GPS_IFD)[2] == (48.0, 51.0, 30.0)


# --- right side up, right colours ---


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, "rgbw"),
        (2, "grwb"),
        (3, "wbgr"),
        (4, "bwrg"),
        (5, "rbgw"),
        (6, "brwg"),
        (7, "wgbr"),
        (8, "gwrb"),
        (99, "rgbw"),
    ],
)
def test_a_picture_is_set_upright(preparer: Preparer, format_: str, orientation: int, upright: str) -> None:
    if (format_, orientation) == ("AVIF", 99):
        pytest.skip("AVIF cannot say so")
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    picture = prepared(preparer, encoded(quarters().resize((96, 64)), format_, exif=exif))
    assert corners(decoded(picture)) == upright
    size = (64, 96) if orientation in (5, 6, 7, 8) else (96, 64)
    assert (picture.source_width, picture.source_height) == (picture.width, picture.height) == size


COLOUR = {
    "RGB": ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF"],
    "P": ["GIF", "PNG", "BMP"],
    "RGBA": ["PNG", "WEBP", "TIFF"],
    "CMYK": ["JPEG", "TIFF"],
    "YCbCr": ["JPEG", "TIFF"],
}


@pytest.mark.parametrize(
    ("mode", "format_"), [(mode, format_) for mode, formats in COLOUR.items() for format_ in formats]
)
def test_colours_survive_every_format_and_mode(preparer: Preparer, mode: str, format_: str) -> None:
    picture = prepared(preparer, encoded(quarters(mode), format_))
    assert picture.source_format == format_.lower()
    assert decoded(picture).mode == "RGB"
    assert corners(decoded(picture)) == "rgbw"


def test_colours_survive_lab(preparer: Preparer) -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(quarters(), to_lab)
    assert lab is not None
    assert corners(decoded(prepared(preparer, encoded(lab, "TIFF")))) == "rgbw"


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(preparer: Preparer, format_: str) -> None:
    deep = Image.linear_gradient("L").convert("I").point(lambda value: value * 257).convert("I;16")
    picture = prepared(preparer, encoded(deep, format_))
    assert difference(decoded(picture), Image.linear_gradient("L")) < 2


def test_sixteen_bits_of_the_other_endianness_are_scaled_too(preparer: Preparer) -> None:
    big = Image.frombytes("I;16B", (64, 64), b"\x80\x00" * 64 * 64)
    assert decoded(prepared(preparer, encoded(big, "TIFF"))).getpixel((9, 9)) in (127, 128)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_known_white_go_from_darkest_to_brightest(preparer: Preparer, mode: str) -> None:
    wide = Image.linear_gradient("L").convert(mode).point(lambda value: value * 40 - 1000)
    assert difference(decoded(prepared(preparer, encoded(wide, "TIFF"))), Image.linear_gradient("L")) < 2


@pytest.mark.parametrize("value", [0.0, 300.0, float("nan"), float("inf")])
def test_one_value_everywhere_is_still_a_picture(preparer: Preparer, value: float) -> None:
    assert prepared(preparer, encoded(Image.new("F", (8, 8), value), "TIFF")).width == 8


@pytest.mark.parametrize(("mode", "format_"), [("1", "PNG"), ("1", "TIFF"), ("L", "JPEG"), ("LA", "PNG"), ("L", "PNG")])
def test_grey_stays_grey(preparer: Preparer, mode: str, format_: str) -> None:
    grey = Image.linear_gradient("L").point(lambda value: 255 if value > 127 else 0).convert(mode)
    shown = decoded(prepared(preparer, encoded(grey, format_)))
    assert [shown.convert("L").getpixel((9, row)) for row in (20, 230)] == [0, 255]


def test_what_shows_through_is_white_and_hidden_colours_are_not_sent(preparer: Preparer) -> None:
    hole = photo(3000, 1500).convert("RGBA")
    hole.paste((255, 0, 0, 0), (0, 0, 1000, 1500))
    picture = prepared(preparer, encoded(hole, "PNG", compress_level=1))
    sent = decoded(picture)
    assert (sent.mode, sent.size) == ("RGB", (2048, 1024))
    assert sent.crop((0, 0, 660, 1024)).getextrema() == ((255, 255),) * 3


def test_transparency_that_nobody_sees_is_flattened(preparer: Preparer) -> None:
    picture = prepared(preparer, encoded(photo(200, 100).convert("RGBA"), "PNG"))
    assert (picture.format, decoded(picture).mode) == ("jpeg", "RGB")


@pytest.mark.parametrize("mode", ["P", "RGB", "L", "1"])
def test_one_colour_can_be_transparent(preparer: Preparer, mode: str) -> None:
    """What is left is white, and so is shown on grey; of the palette it is black, and shown on white."""
    image = Image.new(mode, (40, 40))
    image.paste(1 if mode in ("P", "1") else "white", (20, 0, 40, 40))
    key = (0, 0, 0) if mode == "RGB" else 0
    sent = decoded(prepared(preparer, encoded(image, "PNG", transparency=key))).convert("L")
    assert (sent.getpixel((5, 5)), sent.getpixel((35, 5))) == ((255, 0) if mode == "P" else (128, 255))


def test_a_colour_profile_is_applied(preparer: Preparer) -> None:
    """A profile whose green and red are swapped says what a picture looks like, and so the colours are swapped."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = (profile.index(tag, 128) for tag in (b"rXYZ", b"gXYZ"))
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    swapped = bytes(profile).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    assert corners(decoded(prepared(preparer, encoded(quarters(), "PNG", icc_profile=swapped)))) == "grbw"


def test_a_damaged_profile_or_exif_costs_nothing(preparer: Preparer) -> None:
    content = encoded(
        quarters(), "JPEG", icc_profile=b"\0" * 16 + b"RGB " + b"\1" * 200, exif=b"Exif\0\0MM\0*\xff\xff\xff"
    )
    assert corners(decoded(prepared(preparer, content))) == "rgbw"


@pytest.mark.parametrize(
    ("format_", "unit"), [("GIF", "frames"), ("WEBP", "frames"), ("PNG", "frames"), ("TIFF", "pages")]
)
def test_of_many_frames_the_first_is_shown_and_said_so(preparer: Preparer, format_: str, unit: str) -> None:
    frames = [quarters(), quarters().rotate(90), quarters().rotate(180)]
    picture = prepared(preparer, encoded(frames[0], format_, save_all=True, append_images=frames[1:]))
    assert (picture.notes, corners(decoded(picture))) == ((f"first of 3 {unit}",), "rgbw")


def test_a_preview_behind_a_photo_is_no_frame(preparer: Preparer) -> None:
    picture = prepared(preparer, encoded(photo(64, 64), "MPO", save_all=True, append_images=[photo(32, 32)]))
    assert (picture.source_format, picture.notes) == ("jpeg", ())


# --- JPEG or PNG ---


def test_drawings_are_png_and_exact_where_that_is_smaller(preparer: Preparer) -> None:
    picture = prepared(preparer, encoded(pictures.drawing(800, 600), "BMP"))
    assert picture.format == "png"
    assert difference(decoded(picture), pictures.drawing(800, 600)) == 0
    assert len(picture.content) < len(encoded(pictures.drawing(800, 600), "JPEG", quality=85))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_photos_are_never_encoded_as_png(mode: str) -> None:
    assert not images._has_plain_areas(photo(640, 480, mode=mode))
    assert images._has_plain_areas(pictures.drawing(640, 480).convert(mode))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_the_smallest_pictures_are_pictures(preparer: Preparer, size: tuple[int, int]) -> None:
    assert decoded(prepared(preparer, encoded(Image.new("RGB", size, "red"), "PNG"))).size == size


def test_a_thumbnail_is_a_small_jpeg_on_white(preparer: Preparer) -> None:
    hole = photo(800, 400).convert("RGBA")
    hole.paste((0, 0, 0, 0), (0, 0, 400, 400))
    shown = Image.open(BytesIO(thumbnail(prepared(preparer, encoded(hole, "PNG")).content, 200)))
    assert (shown.format, shown.size) == ("JPEG", (200, 100))
    assert ImageStat.Stat(shown.convert("L").crop((0, 0, 90, 100))).mean[0] > 250
    assert Image.open(BytesIO(thumbnail(encoded(photo(640, 480, mode="L"), "JPEG"), 320))).size == (320, 240)


# --- hostile files ---


@pytest.mark.parametrize("name", list(pictures.hostile()))
def test_a_file_that_is_no_usable_picture_is_refused_by_name(preparer: Preparer, tmp_path: Path, name: str) -> None:
    content, code = pictures.hostile()[name]
    (path,) = write(tmp_path, {name: content})
    reason = refused(preparer, path)
    assert reason.code == code, reason.reason
    assert reason.reason.startswith(f"{path}: ")
    assert reason.reason.endswith(".")
    assert "\n" not in reason.reason and "0x" not in reason.reason
    assert refused(preparer, content) == RefusedPicture(code, reason.reason.replace(path, "the picture"))


def test_what_is_no_file_is_refused_without_reading_it(preparer: Preparer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    with (tmp_path / "huge.jpg").open("wb") as huge:
        huge.truncate(loading.LARGEST_FILE_BYTES + 1)
    codes = {
        str(tmp_path): "not_a_file",
        str(tmp_path / "pipe.jpg"): "not_a_file",
        "/dev/zero": "not_a_file",
        str(tmp_path / "loop.jpg"): "unreadable",
        str(tmp_path / ("x" * 300)): "unreadable",
        str(tmp_path / "lost.jpg"): "missing",
        str(tmp_path / "none.jpg"): "missing",
        str(tmp_path / "huge.jpg" / "none.jpg"): "missing",
        "nul\0.jpg": "missing",
        "": "missing",
        str(tmp_path / "huge.jpg"): "too_large",
    }
    results = dict(preparer.prepare((path, path) for path in codes))
    assert {path: result.code for path, result in results.items() if isinstance(result, RefusedPicture)} == codes


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_files_of_the_kernel_are_refused(preparer: Preparer) -> None:
    assert refused(preparer, "/proc/self/environ").code == "empty_file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(preparer: Preparer, tmp_path: Path) -> None:
    (path,) = write(tmp_path, {"secret.jpg": encoded(photo(8, 8), "JPEG")})
    Path(path).chmod(0)
    assert refused(preparer, path).code == "unreadable"


def test_a_link_to_a_picture_is_a_picture(preparer: Preparer, tmp_path: Path) -> None:
    write(tmp_path, {"photo.jpg": encoded(photo(8, 8), "JPEG")})
    (tmp_path / "link.jpg").symlink_to("photo.jpg")
    assert prepared(preparer, str(tmp_path / "link.jpg")).width == 8


def test_a_picture_without_its_package_says_what_to_install(
    preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    with pytest.raises(loading.RefusalError) as caught:
        loading.identified(BytesIO(head), loading.FORMATS)
    assert caught.value.args == ("unsupported_format", "is HEIF; pip install 'tidemill[heif]' to read it.")
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(InputError, match=r"tidemill\[dedupe\]"):
        Preparer("gpt-6-luna", "auto", 2048, likeness=True)


def test_heif_is_read_where_its_package_is_installed(preparer: Preparer) -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = BytesIO()
    heif.from_pillow(quarters()).save(buffer)
    picture = prepared(preparer, buffer.getvalue())
    assert (picture.source_format, corners(decoded(picture))) == ("heif", "rgbw")


def test_a_picture_saved_again_looks_alike_and_another_does_not() -> None:
    pytest.importorskip("imagehash")
    image = photo(640, 480)
    sources = [
        encoded(image, "PNG"),
        encoded(image.resize((320, 240)), "JPEG", quality=60),
        encoded(photo(640, 480, 1), "PNG"),
    ]
    with Preparer("gpt-6-luna", "auto", 2048, processes=1, likeness=True) as preparer:
        first, again, other = (int(prepared(preparer, each).likeness or "", 16) for each in sources)
    assert (first ^ again).bit_count() <= 6 < 16 <= (first ^ other).bit_count()


# --- the children ---


def test_results_come_in_order_and_items_are_taken_only_a_little_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[tuple[int, bytes]]:
        for number in range(40):
            taken.append(number)
            yield number, small if number % 3 else b""

    small = encoded(photo(32, 32), "JPEG")
    with Preparer("gpt-6-luna", "auto", 2048, processes=2) as preparer:
        for count, (number, result) in enumerate(preparer.prepare(items())):
            assert number == count
            assert isinstance(result, PreparedPicture if number % 3 else RefusedPicture)
            assert len(taken) <= count + 6
    assert len(taken) == 40


def test_a_decoder_that_hangs_is_killed_and_costs_one_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(children, "ITEM_SECONDS", 0.5)
    good = encoded(photo(32, 32), "JPEG")
    paths = write(tmp_path, {"before.jpg": good, "endless.jpg": pictures.endless_jpeg(), "after.jpg": good})
    with Preparer("gpt-6-luna", "auto", 2048, processes=1) as preparer:
        before, endless, after = (result for _, result in preparer.prepare((path, path) for path in paths))
    assert isinstance(before, PreparedPicture)
    assert isinstance(endless, RefusedPicture)
    assert (endless.code, endless.reason[: len(paths[1])]) == ("too_slow", paths[1])
    assert after == before


def test_a_child_that_is_stopped_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "ITEM_SECONDS", 0.5)
    good = encoded(photo(32, 32), "JPEG")
    with Preparer("gpt-6-luna", "auto", 2048, processes=1) as preparer:
        prepared(preparer, good)
        stopped = child_of(preparer)
        stopped.suspend()
        assert refused(preparer, good).code == "too_slow"
        assert prepared(preparer, good)
        assert not stopped.is_running()


def test_a_decoder_that_crashes_costs_one_row(wait_until: WaitUntil) -> None:
    results: list[tuple[str, PreparedPicture | RefusedPicture]] = []
    good, endless = encoded(photo(32, 32), "JPEG"), pictures.endless_jpeg()
    with Preparer("gpt-6-luna", "auto", 2048, processes=1) as preparer:
        prepared(preparer, good)
        child = child_of(preparer)
        idle = child.cpu_times().user
        items = [("endless", endless), ("good", good)]
        reader = threading.Thread(target=lambda: results.extend(preparer.prepare(items)))
        reader.start()
        wait_until(lambda: child.cpu_times().user > idle + 0.1, "the child decodes")
        child.send_signal(signal.SIGSEGV)
        reader.join(limit())
    (_, crashed), (_, picture) = results
    assert isinstance(crashed, RefusedPicture) and crashed.code == "decoder_crashed"
    assert isinstance(picture, PreparedPicture)


def test_a_child_that_died_while_idle_costs_nothing() -> None:
    good = encoded(photo(32, 32), "JPEG")
    with Preparer("gpt-6-luna", "auto", 2048, processes=1) as preparer:
        prepared(preparer, good)
        child = preparer._children._idle[0]
        child.kill()
        child._process.wait()
        assert prepared(preparer, good)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_a_child_may_use_256_mb_more_than_at_rest_and_leaves_no_core() -> None:
    with Preparer("gpt-6-luna", "auto", 2048, processes=1) as preparer:
        _may_use_256_mb(preparer)


def _may_use_256_mb(preparer: Preparer) -> None:
    prepared(preparer, encoded(photo(32, 32), "JPEG"))
    child = child_of(preparer)
    limit, _ = child.rlimit(psutil.RLIMIT_AS)
    assert 200 * 2**20 < limit - child.memory_info().vms <= 256 * 2**20
    assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_a_child_has_no_key_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    with Preparer("gpt-6-luna", "auto", 2048, processes=1) as preparer:
        prepared(preparer, encoded(photo(32, 32), "JPEG"))
        environment = child_of(preparer).environ()
    assert not [name for name in environment if name.startswith(("OPENAI_", "TIDEMILL_", "PG", "AWS_"))]


def taken_over() -> Callable[[Any, bytes], tuple[Any, bytes]]:
    """What a hostile picture might make of its decoder: it sends what it was given."""
    return lambda item, content: (json.loads(content), b"\xff\xd8")


@pytest.fixture(scope="module")
def hostile_preparer() -> Iterator[Preparer]:
    """One whose decoder is taken over; to start it imports this file."""
    with Preparer("gpt-6-luna", "auto", 2048, processes=1) as one:
        one._children.close()
        one._children = children.Children(1, taken_over)
        yield one


@pytest.mark.parametrize(
    "claim",
    [
        None,
        [],
        ["too_large"],
        [1, 2],
        {"format": "exe"},
        {"format": "jpeg", "width": "1"},
        {"content": "x", "sha256": "0" * 64},
        [["a"], "b"],
    ],
)
def test_nothing_that_a_decoder_says_is_taken_for_granted(hostile_preparer: Preparer, claim: object) -> None:
    good: dict[str, object] = dict.fromkeys(("width", "height", "source_width", "source_height", "source_bytes"), 1)
    good |= {"format": "jpeg", "source_format": "gif", "notes": ["a"], "likeness": None}
    picture = prepared(hostile_preparer, json.dumps(good).encode())
    assert picture.sha256 == hashlib.sha256(b"\xff\xd8").hexdigest()
    wrong = good | claim if isinstance(claim, dict) else claim
    assert refused(hostile_preparer, json.dumps(wrong).encode()).code == "decoder_crashed"


def test_ctrl_c_is_for_the_parent(preparer: Preparer) -> None:
    good = encoded(photo(32, 32), "JPEG")
    prepared(preparer, good)
    child = child_of(preparer)
    assert os.getpgid(child.pid) == child.pid
    child.send_signal(signal.SIGINT)
    assert prepared(preparer, good)
    assert child_of(preparer) == child


def test_stopping_early_leaves_no_child_behind() -> None:
    good = encoded(photo(32, 32), "JPEG")
    with pytest.raises(KeyboardInterrupt), Preparer("gpt-6-luna", "auto", 2048, processes=2) as preparer:
        for _ in preparer.prepare((number, good) for number in range(100)):
            living = list(preparer._children._living)
            raise KeyboardInterrupt
    assert living
    assert [child._process.poll() for child in living] == [-signal.SIGKILL] * len(living)
    assert not preparer._children._living
    with pytest.raises(RuntimeError):
        next(preparer.prepare([(0, good)]))


PARENT = """
import sys, time
from tidemill.producer.describing.images import Preparer
preparer = Preparer("gpt-6-luna", "auto", 2048, processes=1)
list(preparer.prepare([(0, b"")]))
print(*(child.pid for child in preparer._children._living), "multiprocessing" in sys.modules, flush=True)
time.sleep(60)
"""


def test_the_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """The script has no `__main__` guard: a child that imported it again would never end."""
    (tmp_path / "parent.py").write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "parent.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as parent:
        assert parent.stdout is not None
        pid, multiprocessing = parent.stdout.readline().split()
        child = psutil.Process(int(pid))
        parent.kill()
    assert multiprocessing == "False"
    psutil.wait_procs([child], timeout=limit())
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_where_no_child_can_start_the_sentence_says_how_to_see_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with Preparer("gpt-6-luna", "auto", 2048, processes=1) as preparer:
        for executable in ("/bin/false", "/nowhere/python"):
            monkeypatch.setattr(sys, "executable", executable)
            with pytest.raises(TidemillError, match="does not start"):
                list(preparer.prepare([(0, b"")]))


def test_the_child_imports_nothing_heavy() -> None:
    heavy = "{'sqlalchemy', 'celery', 'openai', 'aiohttp', 'pydantic', 'numpy', 'pandas', 'scipy', 'multiprocessing'}"
    code = (
        "import sys; from tidemill.producer.describing import images; images.decoder('m', 'auto', 9, 0)(None, b''); "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
