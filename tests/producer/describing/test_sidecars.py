"""A caption lies beside its picture, and nobody's own words are lost to it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tidemill.models.errors import InputError, SettingsError
from tidemill.models.finish import CUT
from tidemill.models.json_types import JsonObject
from tidemill.models.refusals import REFUSAL
from tidemill.producer.describing.sidecars import Existing, Sidecars, caption_of, shared, sidecar_of, write

EXISTING: tuple[Existing, ...] = ("skip", "overwrite", "append", "prepend")


def row(path: object, reply: str | None = "A cat.", status: str = "succeeded") -> JsonObject:
    return {"path": path if path is None else str(path), "status": status, "reply": reply}


def texts(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.*")}


@pytest.mark.parametrize(
    ("picture", "ending", "sidecar"),
    [
        ("photos/a.jpg", "txt", "photos/a.txt"),
        ("photos/a.jpg", ".caption", "photos/a.caption"),
        ("a.b.tiff", "txt", "a.b.txt"),
        ("no-ending", "txt", "no-ending.txt"),
        ("/x/.hidden", "txt", "/x/.hidden.txt"),
        ("/x.y/ü 猫.PNG", "TXT", "/x.y/ü 猫.TXT"),
    ],
)
def test_a_sidecar_has_the_pictures_name_and_the_ending(picture: str, ending: str, sidecar: str) -> None:
    assert sidecar_of(picture, ending) == sidecar_of(Path(picture), ending) == Path(sidecar)


@pytest.mark.parametrize(
    "ending", ["", ".", "..txt", "t xt", "a/b", "../x", "txt\n", "ü", "jpg", ".PNG", "heic", "x" * 17]
)
def test_an_ending_of_pictures_or_with_other_signs_is_refused(ending: str) -> None:
    with pytest.raises(SettingsError, match="such as txt"):
        sidecar_of("a.jpg", ending)


def test_succeeded_rows_with_a_path_on_this_machine_get_a_sidecar_and_no_others(tmp_path: Path) -> None:
    chunks = [
        [row(tmp_path / "a.jpg", "  One.\n"), row(tmp_path / "b.jpg", None, "failed")],
        [row("https://example.com/c.jpg"), row("data:image/png;base64,AA/d.jpg"), row(None), row(""), row("a\0b.jpg")],
        [row(tmp_path / "e.png", None), row(tmp_path / "f.png", "Two.", "cancelled"), row(tmp_path / "g.png", "猫")],
    ]
    assert write(iter(chunks), Sidecars("txt", "skip")).files == 2
    assert texts(tmp_path) == {"a.txt": "One.", "g.txt": "猫"}


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    rows = [[{"file": str(tmp_path / "a.jpg"), "status": "succeeded", "answer": "One."}]]
    assert write(rows, Sidecars("txt", "skip"), path_column="file", reply_column="answer").files == 1
    assert texts(tmp_path) == {"a.txt": "One."}


@pytest.mark.parametrize(
    ("existing", "older", "newer"),
    [
        ("skip", "mine", "mine"),
        ("overwrite", "mine", "A cat."),
        ("append", "mine", "mine\nA cat."),
        ("append", "mine\n", "mine\nA cat."),
        ("append", "", "A cat."),
        ("append", "not A cat.", "not A cat.\nA cat."),
        ("append", "mine\r\nA cat.\r\n", "mine\r\nA cat.\r\n"),
        ("prepend", "mine", "A cat.\nmine"),
        ("prepend", "mine\n", "A cat.\nmine\n"),
        ("prepend", "A cat. And more", "A cat.\nA cat. And more"),
        ("prepend", "\ufeffmine", "A cat.\nmine"),
        ("prepend", "\ufeffA cat.\nmine", "\ufeffA cat.\nmine"),
    ],
)
def test_what_is_there_already_is_treated_as_the_option_says(
    tmp_path: Path, existing: Existing, older: str, newer: str
) -> None:
    sidecar = tmp_path / "a.txt"
    sidecar.write_bytes(older.encode())
    assert write([[row(tmp_path / "a.jpg")]], Sidecars("txt", existing)).files == (
        existing == "overwrite" or older != newer
    )
    assert sidecar.read_bytes().decode() == newer


@pytest.mark.parametrize("existing", EXISTING)
@pytest.mark.parametrize("older", [None, "mine", "mine\r\n"])
def test_the_same_captions_again_change_nothing_though_a_picture_has_two(
    tmp_path: Path, existing: Existing, older: str | None
) -> None:
    if older is not None:
        (tmp_path / "a.txt").write_bytes(older.encode())
    rows = [
        [row(tmp_path / "a.jpg", "One.\r\nMore."), row(tmp_path / "a.jpg", "Two."), row(tmp_path / "b.jpg", "Three.")]
    ]
    write(rows, Sidecars("txt", existing))
    after_one = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write(rows, Sidecars("txt", existing))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == after_one


def test_bytes_that_are_no_utf8_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    write([[row(tmp_path / "a.jpg", "猫 \ud800")]], Sidecars("txt", "append"))
    assert (tmp_path / "a.txt").read_bytes() == b"caf\xe9\n" + "猫 \\ud800".encode()


@pytest.mark.parametrize(
    ("reply", "caption"),
    [
        ('{"tags": ["a cat", " sofa ", "猫"]}', "a cat, sofa, 猫"),
        (' {"tags":[]}\n', ""),
        ('{"tags": ["Long Hair", "long_hair", "", "a\\nb", "smile \\\\(big\\\\)"]}', "Long Hair, a b, smile \\(big\\)"),
        ('{"tags": ["a"], "more": 1}', '{"tags": ["a"], "more": 1}'),
        ('{"tags": [1]}', '{"tags": [1]}'),
        ('{"tags": "a"}', '{"tags": "a"}'),
        ('["tags"]', '["tags"]'),
        ("[" * 100_000, "[" * 100_000),
        (" A cat. ", "A cat."),
    ],
)
def test_tags_become_what_training_tools_read_and_other_replies_stay(reply: str, caption: str) -> None:
    assert caption_of(reply) == caption


@pytest.mark.parametrize(
    ("existing", "older", "newer"),
    [
        ("append", "1girl, solo", "1girl, solo, long hair, sea"),
        ("append", "1girl, Long_Hair,\n", "1girl, Long_Hair, sea\n"),
        ("append", "long hair, SEA", "long hair, SEA"),
        ("append", "1girl long_hair sea", "1girl long_hair sea"),
        ("append", "\ufeff1girl", "1girl, long hair, sea"),
        ("append", " \n", "long hair, sea"),
        ("append", "A person's words.\nOn two lines.", "A person's words.\nOn two lines.\nlong hair, sea"),
        ("prepend", "1girl, sea", "long hair, 1girl, sea"),
        ("overwrite", "1girl", "long hair, sea"),
    ],
)
def test_tags_stay_on_one_line_and_none_is_repeated(tmp_path: Path, existing: Existing, older: str, newer: str) -> None:
    (tmp_path / "a.txt").write_bytes(older.encode())
    rows = [[row(tmp_path / "a.jpg", '{"tags": ["long hair", "sea", "Sea"]}')]]
    for _ in range(2):
        write(rows, Sidecars("txt", existing))
        assert (tmp_path / "a.txt").read_bytes().decode() == newer


def test_a_plain_line_of_tags_joins_another_and_no_sentence_does(tmp_path: Path) -> None:
    for older, reply, newer in (
        ("1girl, solo, sea", "Solo, long hair, smile", "1girl, solo, sea, long hair, smile"),
        ("My own words, and more, of them.", "a, b, c", "My own words, and more, of them.\na, b, c"),
        ("1girl, solo, sea", "A girl, alone, at the sea.", "1girl, solo, sea\nA girl, alone, at the sea."),
    ):
        (tmp_path / "a.txt").write_text(older)
        for _ in range(2):
            write([[row(tmp_path / "a.jpg", reply)]], Sidecars("txt", "append"))
            assert (tmp_path / "a.txt").read_text() == newer


@pytest.mark.parametrize("blank", ["", " \r\n", "\ufeff", "\0"])
def test_an_empty_file_is_no_caption(tmp_path: Path, blank: str) -> None:
    for existing in EXISTING:
        (tmp_path / "a.txt").write_bytes(blank.encode())
        places = Sidecars("txt", existing)
        assert not places.has_caption(tmp_path / "a.jpg")
        places.check([tmp_path / "a.jpg"])
        assert write([[row(tmp_path / "a.jpg")]], places).files == 1
        assert (tmp_path / "a.txt").read_text() == "A cat."
        assert places.has_caption(tmp_path / "a.jpg")


def test_what_was_cut_or_refused_is_in_no_file_and_counted(tmp_path: Path) -> None:
    rows = [
        row(tmp_path / "a.jpg", "The boat is") | {"error_code": CUT},
        row(tmp_path / "b.jpg", "I'm sorry, but I can't help with that.") | {"error_code": REFUSAL},
        row(tmp_path / "c.jpg") | {"error_code": None},
    ]
    assert write([rows], Sidecars("txt", "overwrite")) == (1, {CUT: 1, REFUSAL: 1})
    assert texts(tmp_path) == {"c.txt": "A cat."}


# --- before any paid work ---


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        ("dead link", EXISTING),
        ("link to a caption", EXISTING[1:]),
        ("link to an empty file", EXISTING),
        ("link to a folder", EXISTING),
        ("folder", EXISTING),
        ("pipe", EXISTING),
        ("read-only caption", EXISTING[1:]),
        ("read-only empty file", EXISTING),
        ("long name", EXISTING),
    ],
)
def test_what_cannot_be_written_is_found_before_anything_is_paid(
    tmp_path: Path, kind: str, refused: tuple[Existing, ...]
) -> None:
    picture = tmp_path / ("x" * 252 + ".jpg" if kind == "long name" else "a.jpg")
    sidecar, outside = tmp_path / "a.txt", tmp_path / "outside"
    if "read-only" in kind:
        sidecar.write_text("" if "empty" in kind else "mine")
        sidecar.chmod(0o444)
    if kind in ("link to a caption", "link to an empty file"):
        outside.write_text("" if "empty" in kind else "mine")
    make: dict[str, Callable[[], None]] = {
        "dead link": lambda: sidecar.symlink_to(outside),
        "link to a caption": lambda: sidecar.symlink_to(outside),
        "link to an empty file": lambda: sidecar.symlink_to(outside),
        "link to a folder": lambda: sidecar.symlink_to(tmp_path),
        "folder": sidecar.mkdir,
        "pipe": lambda: os.mkfifo(sidecar),
    }
    if kind in make:
        make[kind]()
    ending = "caption" if kind == "long name" else "txt"
    for existing in EXISTING:
        places = Sidecars(ending, existing)
        if existing in refused:
            with pytest.raises(InputError, match="cannot be written: "):
                places.check([picture])
        else:
            places.check([picture])
            assert places.has_caption(picture)


def test_pictures_that_can_all_have_sidecars_pass_the_check_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    urls = ["https://example.com/a.jpg", "https://example.com/a.png"]
    same: list[str | Path] = [str(tmp_path / "a.jpg"), tmp_path / "deep" / ".." / "a.jpg"]
    Sidecars("txt", "skip").check(
        [
            *same,
            str(tmp_path / "deep" / "a.jpg"),
            str(tmp_path / "missing" / "a.jpg"),
            "x" * 300 + "/a.jpg",
            *urls,
            "",
            ".",
        ]
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["deep"]


@pytest.mark.parametrize(
    ("names", "sidecars"),
    [
        (["a.jpg", "a.png", "b.jpg"], ["a.jpg.txt", "a.png.txt", "b.txt"]),
        (["a.jpg", "a.png", "a.jpg.gif"], ["a.jpg.txt", "a.png.txt", "a.jpg.gif.txt"]),
        (["a.jpg", "deep/a.png"], ["a.txt", "deep/a.txt"]),
        (["a.jpg", "a.jpg"], ["a.txt", "a.txt"]),
        (["a", "a.jpg"], ["a.txt", "a.jpg.txt"]),
        (["a.jpg", "a.bak"], ["a.txt", "a.bak.txt"]),
        (["a.jpg", "a.dng", "a.png"], ["a.jpg.txt", "a.dng.txt", "a.png.txt"]),
        (["a.jpg", "a.png", "a.jpg.bak"], ["a.jpg.txt", "a.png.txt", "a.jpg.bak.txt"]),
    ],
)
def test_pictures_that_would_share_a_sidecar_keep_their_endings_in_it(
    tmp_path: Path, names: list[str], sidecars: list[str]
) -> None:
    paths = [tmp_path / name for name in names]
    places = Sidecars("txt", "skip", shared(paths, "txt"))
    assert [places.of(path) for path in paths] == [tmp_path / name for name in sidecars]


@pytest.mark.parametrize("names", [["a.txt"], ["a.jpg", "a.b.txt", "a.b.c"], ["a.b.c", "a.b.txt"], ["a.b", "a.txt"]])
def test_a_caption_never_goes_over_a_picture_that_is_named_like_text(tmp_path: Path, names: list[str]) -> None:
    paths = [tmp_path / name for name in names]
    places = Sidecars("txt", "skip", shared(paths, "txt"))
    if len({places.of(path) for path in paths} - {*paths}) < len(paths):
        with pytest.raises(InputError, match=r"over the picture .*\.txt"):
            places.check(paths)
    else:
        places.check(paths)


@pytest.mark.skipif(not os.access("/proc/self", os.R_OK), reason="a folder where even root may write nothing")
def test_a_folder_that_cannot_be_written_is_found_before_and_after_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^/proc/self cannot be written: .+; nothing was sent. Move it away"):
        Sidecars("txt", "skip").check([tmp_path / "a.jpg", "/proc/self/a.jpg"])
    rows = [[row(tmp_path / "a.jpg"), row("/proc/self/a.jpg"), row(tmp_path / "c.jpg")]]
    with pytest.raises(InputError, match=r"^/proc/self/a.txt cannot be written: .+; captions stay in the database"):
        write(rows, Sidecars("txt", "skip"))
    assert texts(tmp_path) == {"a.txt": "A cat."}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_neither_followed_nor_read_nor_replaced(tmp_path: Path, kind: str) -> None:
    victim, sidecar = tmp_path / "victim", tmp_path / "photos" / "a.txt"
    victim.write_text("precious")
    sidecar.parent.mkdir()
    make: dict[str, Callable[[], None]] = {
        "link": lambda: sidecar.symlink_to(victim),
        "folder": sidecar.mkdir,
        "pipe": lambda: os.mkfifo(sidecar),
    }
    make[kind]()
    for existing in EXISTING[1:]:
        with pytest.raises(InputError, match=r"a\.txt cannot be written: it is a link, a folder or a device"):
            write([[row(tmp_path / "photos" / "a.jpg")]], Sidecars("txt", existing))
    assert write([[row(tmp_path / "photos" / "a.jpg")]], Sidecars("txt", "skip")).files == 0
    assert victim.read_text() == "precious"
    assert [path.name for path in sidecar.parent.iterdir()] == ["a.txt"]


def test_a_sidecar_of_json_holds_json(tmp_path: Path) -> None:
    write([[row(tmp_path / "a.jpg", ' {"tags": ["cat"]}')]], Sidecars("json", "skip"))
    assert texts(tmp_path) == {"a.json": '{"tags": ["cat"]}'}
