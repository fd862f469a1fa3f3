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
