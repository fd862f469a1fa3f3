"""A picture's row is known by its content, shows its file, and comes after its bytes are stored."""

from pathlib import Path

import pytest

from tests.pictures import encoded, photo, write
from tidemill.models import blobs
from tidemill.models.options import Options
from tidemill.producer.batches.keys import Prepared
from tidemill.producer.batches.order import Order, Rows
from tidemill.producer.describing.picture_files import Pictures
from tidemill.producer.describing.picture_rows import PictureRows
from tidemill.producer.intake.tables import Row

OPTIONS = Options("gpt-4o", prompt="What is {name}?", max_side=64)
JPEG = encoded(photo(90, 60), "JPEG")


def rows(pictures: Pictures, options: Options = OPTIONS) -> list[Row]:
    return [row for chunk in PictureRows(pictures).chunks(options, lambda _note: None) for row in chunk]


def key(row: Row) -> tuple[str, str | None]:
    prepared = Prepared.of(row)
    return prepared.digest, prepared.content


# --- of an order ---


def test_one_picture_is_shown_alone_and_a_folder_is_not(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG})
    of_file: Rows = PictureRows(Pictures((str(tmp_path / "a.jpg"),)))
    of_folder: Rows = PictureRows(Pictures((str(tmp_path),)))
    assert (of_file.kind, of_file.is_one, of_folder.is_one) == ("describe", True, False)


def test_a_limit_and_pictures_that_are_done_leave_some_out(tmp_path: Path) -> None:
    folder = (str(tmp_path),)
    assert not PictureRows(Pictures(folder)).is_partial
    assert PictureRows(Pictures(folder, limit=3)).is_partial
    assert PictureRows(Pictures(folder, is_done=lambda _place: False)).is_partial


def test_of_the_files_only_a_table_could_be_overwritten() -> None:
    assert PictureRows(Pictures(table="list.csv")).files == [Path("list.csv")]
    assert PictureRows(Pictures(table="-")).files == []
    assert PictureRows(Pictures(("a.jpg",))).files == []


@pytest.mark.usefixtures("database")
def test_a_dry_run_prices_the_pictures_and_stores_none(tmp_path: Path, embedded_home: Path) -> None:
    write(tmp_path, {"a.jpg": JPEG, "b.jpg": JPEG})
    order = Order(OPTIONS, PictureRows(Pictures((str(tmp_path),))))
    estimate = order.rows.estimate(order)
    assert estimate.text().startswith("2 pictures for gpt-4o: 0 done, 2 to send")
    assert estimate.to_json()["rows"] == 2
    assert not (embedded_home / "blobs").exists()


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
def test_a_file_that_is_no_picture_is_a_row_with_its_reason_and_no_content(tmp_path: Path) -> None:
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
