"""A caption lies beside its picture, and nobody's own words are lost to it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tidemill.models.errors import InputError, SettingsError
from tidemill.models.json_types import JsonObject
from tidemill.producer.describing.sidecars import Existing, caption_of, check, sidecar_of, write

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
    assert write(iter(chunks), "txt", "skip") == 2
    assert texts(tmp_path) == {"a.txt": "One.", "g.txt": "猫"}


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    rows = [[{"file": str(tmp_path / "a.jpg"), "status": "succeeded", "answer": "One."}]]
    assert write(rows, "txt", "skip", path_column="file", reply_column="answer") == 1
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
    assert write([[row(tmp_path / "a.jpg")]], "txt", existing) == (existing == "overwrite" or older != newer)
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
    write(rows, "txt", existing)
    after_one = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write(rows, "txt", existing)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == after_one


def test_bytes_that_are_no_utf8_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    write([[row(tmp_path / "a.jpg", "猫 \ud800")]], "txt", "append")
    assert (tmp_path / "a.txt").read_bytes() == b"caf\xe9\n" + "猫 \\ud800".encode()


@pytest.mark.parametrize(
    ("reply", "caption"),
    [
        ('{"tags": ["a cat", " sofa ", "猫"]}', "a cat, sofa, 猫"),
        (' {"tags":[]}\n', ""),
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


# --- before any paid work ---


def test_pictures_that_can_all_have_sidecars_pass_the_check_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    urls = ["https://example.com/a.jpg", "https://example.com/a.png"]
    same: list[str | Path] = [str(tmp_path / "a.jpg"), tmp_path / "deep" / ".." / "a.jpg"]
    check(
        [
            *same,
            str(tmp_path / "deep" / "a.jpg"),
            str(tmp_path / "missing" / "a.jpg"),
            "x" * 300 + "/a.jpg",
            *urls,
            "",
            ".",
        ],
        "txt",
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["deep"]


def test_two_pictures_with_one_sidecar_are_refused_by_name(tmp_path: Path) -> None:
    one, two = tmp_path / "a.jpg", tmp_path / "a.png"
    with pytest.raises(InputError) as caught:
        check([one, tmp_path / "b.jpg", two], "txt")
    assert (
        str(caught.value)
        == f"{one} and {two} would share the caption file {tmp_path / 'a.txt'}; rename one of the two."
    )


@pytest.mark.parametrize("names", [["a.txt"], ["a.jpg", "a.b.txt", "a.b.c"], ["a.b.c", "a.b.txt"]])
def test_a_caption_never_goes_over_a_picture_that_is_named_like_text(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(InputError, match=r"over the picture .*\.txt|would share the caption file"):
        check([tmp_path / name for name in names], "txt")


@pytest.mark.skipif(not os.access("/proc/self", os.R_OK), reason="a folder where even root may write nothing")
def test_a_folder_that_cannot_be_written_is_found_before_and_after_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^/proc/self cannot be written: .+; captions stay in the database: fix that"):
        check([tmp_path / "a.jpg", "/proc/self/a.jpg"], "txt")
    rows = [[row(tmp_path / "a.jpg"), row("/proc/self/a.jpg"), row(tmp_path / "c.jpg")]]
    with pytest.raises(InputError, match=r"^/proc/self/a.txt cannot be written: .+; captions stay in the database"):
        write(rows, "txt", "skip")
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
            write([[row(tmp_path / "photos" / "a.jpg")]], "txt", existing)
    assert write([[row(tmp_path / "photos" / "a.jpg")]], "txt", "skip") == 0
    assert victim.read_text() == "precious"
    assert [path.name for path in sidecar.parent.iterdir()] == ["a.txt"]


def test_a_sidecar_of_json_holds_json(tmp_path: Path) -> None:
    write([[row(tmp_path / "a.jpg", ' {"tags": ["cat"]}')]], "json", "skip")
    assert texts(tmp_path) == {"a.json": '{"tags": ["cat"]}'}
