"""Which files of a folder, a list or a table are looked at, and in which order."""

from pathlib import Path

import pytest

from tests.pictures import encoded, photo, write
from tidemill.models.errors import InputError
from tidemill.models.options import Options
from tidemill.producer.describing.images import PreparedPicture
from tidemill.producer.describing.picture_files import NothingLeftError, Pictures, find, prepare

JPEG = encoded(photo(90, 60), "JPEG")


def names(pictures: Pictures) -> list[str]:
    return [each.path for each in find(pictures, lambda _note: None)]


def test_a_folder_is_read_by_name_and_its_folders_only_when_asked(tmp_path: Path) -> None:
    for path in ("b.jpg", "a.png", "deep/c.gif", ".hidden/d.jpg", ".e.jpg", "notes.txt", "list.csv", "no-ending"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    notes: list[str] = []
    paths = [each.path for each in find(Pictures((str(tmp_path),)), notes.append)]
    assert paths == [f"{tmp_path}/{name}" for name in ("a.png", "b.jpg", "no-ending")]
    assert notes == ["3 files beside the pictures left out (.csv, .jpg, .txt)."]
    deep = names(Pictures((str(tmp_path),), recursive=True))
    assert deep == [f"{tmp_path}/{name}" for name in ("a.png", "b.jpg", "deep/c.gif", "no-ending")]


OTHERS = ("@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "deep/@EADIR/x.jpg", "#recycle/b.jpg", ".@__thumb/a.jpg", "._a.jpg")
MORE = ("__MACOSX/._a.jpg", "C.lrdata/7/x.jpg", "Thumbs.db", ".thumbnails/a.jpg", "P.photoslibrary/resources/x.jpg")


def test_copies_of_other_programs_are_left_out_and_said(tmp_path: Path) -> None:
    for path in ("a.jpg", "deep/b.jpg", "P.photoslibrary/originals/c.jpg", *OTHERS, *MORE):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).write_bytes(JPEG)
    notes: list[str] = []
    found = [each.path for each in find(Pictures((str(tmp_path),), recursive=True), notes.append)]
    assert found == [f"{tmp_path}/{name}" for name in ("P.photoslibrary/originals/c.jpg", "a.jpg", "deep/b.jpg")]
    names = "#recycle, .@__thumb, ._*, .thumbnails, @EADIR, @eaDir, C.lrdata, Thumbs.db, __MACOSX, resources"
    assert notes == [f"Left out, as copies and leftovers of other programs: 10 ({names})."]
    for alone in ("C.lrdata", "@eaDir"):  # it is meant
        assert len(names_in(tmp_path / alone)) == 1
    by_shell = Pictures(tuple(str(path) for path in sorted(tmp_path.iterdir())), recursive=True)
    assert [each.path for each in find(by_shell, lambda _note: None)] == found


@pytest.mark.parametrize("argument", ["photos", "photos/", ".", "./photos/a.jpg", "photos/../photos"])
def test_a_folder_may_be_named_from_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(JPEG)
    monkeypatch.chdir(tmp_path)
    (path,) = [each.path for each in find(Pictures((argument,), recursive=True), lambda _note: None)]
    assert Path(path).samefile(tmp_path / "photos" / "a.jpg")


def names_in(folder: Path) -> list[str]:
    return [each.path for each in find(Pictures((str(folder),), recursive=True), lambda _note: None)]


@pytest.mark.parametrize(
    ("globs", "left"),
    [
        (("*_small.jpg",), ["a.jpg", "deep/b.jpg", "raw/d.jpg"]),
        (("raw", "deep"), ["a.jpg", "c_small.jpg"]),
        (("deep/*",), ["a.jpg", "c_small.jpg", "raw/d.jpg"]),
        (("raw/", "b.*"), ["a.jpg", "c_small.jpg"]),
        (("A.JPG",), ["a.jpg", "c_small.jpg", "deep/b.jpg", "raw/d.jpg"]),
    ],
)
def test_what_is_excluded_is_left_out_and_said(tmp_path: Path, globs: tuple[str, ...], left: list[str]) -> None:
    for path in ("a.jpg", "c_small.jpg", "deep/b.jpg", "raw/d.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(JPEG)
    notes: list[str] = []
    found = [each.path for each in find(Pictures((str(tmp_path),), recursive=True, exclude=globs), notes.append)]
    assert found == [f"{tmp_path}/{name}" for name in left]
    assert bool(notes) == (len(left) < 4)
    assert all(note.startswith("Left out by --exclude: ") and globs[0] in note for note in notes)


def test_of_each_kind_of_note_a_few_are_said_and_the_others_counted(tmp_path: Path) -> None:
    for number in range(9):
        frames = [photo(16, 16, number + each) for each in range(2 + number % 2)]
        write(tmp_path, {f"{number}.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])})
    notes: list[str] = []
    assert len(list(prepare(Pictures((str(tmp_path),)), Options("gpt-4o"), notes.append))) == 9
    assert notes[0] == f"{tmp_path}/0.gif: first of 2 frames"
    assert (len(notes), notes[-1]) == (6, "4 more pictures: first of n frames")


def test_what_is_named_is_looked_at_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "picture.txt").write_bytes(JPEG)
    named = Pictures((str(tmp_path / "picture.txt"),))
    ((_, picture),) = prepare(named, Options("gpt-4o"), lambda _note: None)
    assert isinstance(picture, PreparedPicture)


def test_links_to_folders_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    paths = names(Pictures((str(tmp_path),), recursive=True))
    assert paths == [f"{tmp_path}/a.jpg", f"{tmp_path}/loop"]  # the loop is refused when it is opened


def test_a_path_that_is_not_there_is_looked_for_beside_its_table(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG})
    (tmp_path / "list.jsonl").write_text('{"image": "a.jpg", "n": 1}\n{"image": "gone.jpg", "n": 2}\n')
    files = list(find(Pictures(table=str(tmp_path / "list.jsonl")), lambda _note: None))
    assert [(each.path, each.place, each.columns["n"]) for each in files] == [
        ("a.jpg", str(tmp_path / "a.jpg"), 1),
        ("gone.jpg", str(tmp_path / "gone.jpg"), 2),
    ]


def test_a_table_without_such_a_column_is_said(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("colour\nred\n")
    with pytest.raises(InputError, match=r"list\.csv row 2: has no column .* --column: 'colour'"):
        names(Pictures(table=str(tmp_path / "list.csv")))


def test_no_picture_at_all_is_said_and_nothing_left_is_no_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no picture in"):
        names(Pictures((str(tmp_path),)))
    (tmp_path / "a.jpg").write_bytes(JPEG)
    with pytest.raises(NothingLeftError, match="1 picture found") as raised:
        names(Pictures((str(tmp_path),), is_done=lambda _place: True))
    assert raised.value.exit_code == 0
