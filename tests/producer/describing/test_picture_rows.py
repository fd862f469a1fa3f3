"""What of a folder, a list or a table is looked at, in which order, and by what a picture's row is known."""

from pathlib import Path

import pytest

from tests.pictures import encoded, photo, write
from tidemill.models import blobs
from tidemill.models.errors import InputError
from tidemill.models.options import Options
from tidemill.producer.batches.keys import Prepared
from tidemill.producer.describing.picture_rows import NothingLeftError, Pictures, find, read
from tidemill.producer.intake.tables import Row

OPTIONS = Options("gpt-4o", prompt="What is {name}?", max_side=64)
JPEG = encoded(photo(90, 60), "JPEG")


def names(wanted: Pictures) -> list[str]:
    return [each.path for each in find(wanted, lambda _note: None)]


def rows(wanted: Pictures, options: Options = OPTIONS) -> list[Row]:
    return [row for chunk in read(wanted, options, lambda _note: None) for row in chunk]


def key(row: Row) -> tuple[str, str | None]:
    prepared = Prepared.of(row)
    return prepared.digest, prepared.content


# --- find ---


def test_a_folder_is_read_by_name_and_its_folders_only_when_asked(tmp_path: Path) -> None:
    for path in ("b.jpg", "a.png", "deep/c.gif", ".hidden/d.jpg", ".e.jpg", "notes.txt", "list.csv", "no-ending"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    said: list[str] = []
    found = [each.path for each in find(Pictures((str(tmp_path),)), said.append)]
    assert found == [f"{tmp_path}/{name}" for name in ("a.png", "b.jpg", "no-ending")]
    assert said == ["3 files beside the pictures left out (.csv, .jpg, .txt)."]
    deep = names(Pictures((str(tmp_path),), recursive=True))
    assert deep == [f"{tmp_path}/{name}" for name in ("a.png", "b.jpg", "deep/c.gif", "no-ending")]


def test_what_is_named_is_looked_at_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "picture.txt").write_bytes(JPEG)
    assert [row.refusal for row in rows(Pictures((str(tmp_path / "picture.txt"),)))] == [None]


def test_links_to_folders_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    found = names(Pictures((str(tmp_path),), recursive=True))
    assert found == [f"{tmp_path}/a.jpg", f"{tmp_path}/loop"]  # the loop is refused when it is opened


def test_a_path_that_is_not_there_is_looked_for_beside_its_table(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG})
    (tmp_path / "list.jsonl").write_text('{"image": "a.jpg", "n": 1}\n{"image": "gone.jpg", "n": 2}\n')
    found = list(find(Pictures(table=str(tmp_path / "list.jsonl")), lambda _note: None))
    assert [(each.path, each.place, each.columns["n"]) for each in found] == [
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


# --- rows ---


@pytest.mark.usefixtures("embedded_home")
def test_a_row_names_the_picture_and_the_store_has_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (row,) = rows(Pictures((str(tmp_path / "a.jpg"),)))
    picture = row.request["picture"]
    assert row.request["prompt"] == "What is a.jpg?"
    assert (picture["path"], picture["format"], picture["width"], picture["height"]) == (
        *(str(tmp_path / "a.jpg"), "jpeg"),
        *(64, 43),
    )
    assert blobs.get(picture["sha256"]).startswith(b"\xff\xd8")
    assert row.columns == {"path": str(tmp_path / "a.jpg")}


@pytest.mark.usefixtures("embedded_home")
def test_a_picture_is_known_by_what_is_asked_of_it_and_not_by_its_file(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG, "b.jpg": JPEG, "c.jpg": encoded(photo(90, 60, 2), "JPEG")})
    alike = Options("gpt-4o", prompt="What is it?", max_side=64)
    a, b, c = map(key, rows(Pictures((str(tmp_path),)), alike))
    assert a == b != c
    named = list(map(key, rows(Pictures((str(tmp_path),)))))
    assert len(set(named)) == 3  # another question each


@pytest.mark.usefixtures("embedded_home")
def test_a_file_that_is_no_picture_is_a_row_with_its_reason_and_no_twin(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": b"no", "b.jpg": b"no"})
    first, second = rows(Pictures((str(tmp_path),)))
    assert first.refusal is not None and second.refusal is not None
    assert first.refusal[0] == "not_a_picture"
    assert first.refusal[1].startswith(f"{tmp_path}/a.jpg: ")
    assert key(first)[0] != key(second)[0]
    assert key(first)[1] is None


@pytest.mark.usefixtures("embedded_home")
def test_a_prompt_that_names_no_column_of_the_row_fails_the_row(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG})
    (tmp_path / "list.jsonl").write_text('{"path": "a.jpg", "title": "Sea"}\n{"path": "a.jpg"}\n')
    options = Options("gpt-4o", prompt="{title}?")
    first, second = rows(Pictures(table=str(tmp_path / "list.jsonl")), options)
    assert first.request["prompt"] == "Sea?"
    assert second.refusal is not None
    assert second.refusal[0] == "bad_row"
    assert "names 'title'" in second.refusal[1]


def test_a_store_that_cannot_be_used_stops_before_any_row(tmp_path: Path, embedded_home: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG})
    (embedded_home / "blobs").write_text("a file in the way")
    with pytest.raises(blobs.BlobError, match="cannot be used"):
        rows(Pictures((str(tmp_path / "a.jpg"),)))


@pytest.mark.usefixtures("embedded_home")
def test_a_row_without_a_path_says_so(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"path": ""}\n')
    (row,) = rows(Pictures(table=str(tmp_path / "list.jsonl")))
    assert row.refusal == ("bad_row", "row 1: its path is empty.")
