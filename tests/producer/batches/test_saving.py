"""Rows that fit go to every file that is named, and what a format cannot hold is said."""

import bz2
import gzip
import json
import lzma
import sys
from pathlib import Path
from typing import Any

import fsspec
import openpyxl  # type: ignore[import-untyped]
import pandas as pd
import pytest

from tests.rows import add_batch, add_jobs, failure, put, set_job, success, take
from tidemill.models.database import engine
from tidemill.models.errors import InputError
from tidemill.models.tables import STATES
from tidemill.producer.batches import saving, workbooks
from tidemill.producer.batches.results import RESULT_COLUMNS, merge, writing
from tidemill.producer.batches.saving import Condition, Selection, check_destinations, save
from tidemill.producer.batches.stored_rows import rows_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROWS = [
    merge({"prompt": f"p{number}", "n": number}, {"custom_id": str(number), "reply": "=1+1", "cost_usd": 0.5})
    for number in range(3)
]
COLUMNS = list(ROWS[0])


def write(path: object, rows: list[dict[str, Any]], columns: list[str] = COLUMNS) -> None:
    with writing(str(path), columns) as put_rows:
        put_rows(rows)


OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": zstd.open}


@pytest.mark.parametrize("ending", list(OPENERS))
@pytest.mark.parametrize("at", ["here", "at an address"])
def test_an_answer_file_may_be_compressed_and_at_an_address(tmp_path: Path, ending: str, at: str) -> None:
    folder = str(tmp_path) if at == "here" else f"memory://{tmp_path.name}"
    for name in ("a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.xlsx"):
        check_destinations([f"{folder}/{name}{ending}"])
        write(f"{folder}/{name}{ending}", ROWS)
        with fsspec.open(f"{folder}/{name}{ending}") as file, OPENERS[ending](file) as unpacked:  # type: ignore[operator]
            content = unpacked.read()
        (tmp_path / name).write_bytes(content)
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == ROWS
    frames = [
        *(pd.read_csv(tmp_path / "a.csv"), pd.read_csv(tmp_path / "a.tsv", sep="\t")),
        *(pd.read_parquet(tmp_path / "a.parquet"), pd.read_excel(tmp_path / "a.xlsx", engine="calamine")),
    ]
    for frame in frames:
        assert list(frame["prompt"]) == ["p0", "p1", "p2"]
        assert list(frame["reply"]) == ["=1+1"] * 3


def test_in_a_workbook_text_stays_text_and_numbers_are_numbers(tmp_path: Path) -> None:
    nasty = ["=1+1", "@x", "https://a.b", "0012", "a\r\nb\x01", "_x0041_", "ü🦀", " x ", "\ud800"]
    rows = [{"text": text, "n": 2**53 + 1 if text == "=1+1" else 7, "none": None, "list": [1]} for text in nasty]
    write(tmp_path / "a.xlsx", rows, ["text", "n", "none", "list"])
    sheet = openpyxl.load_workbook(tmp_path / "a.xlsx").active
    assert sheet is not None
    cells = list(sheet.iter_rows(min_row=2))
    assert {row[0].data_type for row in cells} == {"s"}
    shown = [openpyxl.utils.escape.unescape(str(row[0].value)) for row in cells]
    assert shown == [*nasty[:4], "a\r\nb\x01", *nasty[5:8], "\\ud800"]
    assert [row[1].value for row in cells[:2]] == [str(2**53 + 1), 7]
    assert [cells[0][2].value, cells[0][3].value] == [None, "[1]"]


def test_what_a_sheet_cannot_hold_is_cut_with_a_sentence_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.xlsx", [{"t": "🦀" * 20_000}, {"t": "x" * 32_767}], ["t"])
    values = [row[0] for row in openpyxl.load_workbook(tmp_path / "a.xlsx").active.values]
    assert str(values[1]).endswith("🦀… [cut]")
    assert len(str(values[1]).encode("utf-16-le")) // 2 <= 32_767
    assert values[2] == "x" * 32_767
    assert "1 cell is longer than Excel takes" in capsys.readouterr().err
    monkeypatch.setattr(workbooks, "MOST_ROWS", 3)
    with pytest.raises(InputError, match=r"A sheet holds 2 rows and its header; there are more: write \.csv"):
        write(tmp_path / "b.xlsx", ROWS)
    with pytest.raises(InputError, match="16,384 columns"):
        write(tmp_path / "b.xlsx", [], [str(number) for number in range(20_000)])
    assert not (tmp_path / "b.xlsx").exists()


def test_a_file_that_cannot_be_sent_leaves_the_old_one_and_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{tmp_path.name}/a.csv"
    write(url, ROWS[:1])
    files = fsspec.filesystem("memory")
    before = files.cat(url)

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(type(files), "put_file", refuse)
    with pytest.raises(InputError, match=r"cannot be reached, .* the answers stay in the database: `tidemill results"):
        write(url, ROWS)
    assert files.cat(url) == before


# --- which rows and columns ---


@pytest.fixture(name="batch")
def _batch(database: str) -> None:
    """Five rows: three answers, one failure, one that waits."""
    add_batch(columns=["n", "date", "input"])
    ids = add_jobs(5)
    for number, job_id in enumerate(ids):
        set_job(job_id, columns={"n": number * 10, "date": f"2026-01-0{number + 1}", "input": f"Text {number}"})
    taken = take(ids[:4])
    put(*(success(job, f"reply {number}") for number, job in enumerate(taken[:3])), failure(taken[3]))
    for job_id, sentiment in zip(ids[:3], ("positive", "negative", "unknown"), strict=True):
        with engine().begin() as connection:
            connection.exec_driver_sql(f"update dialogues set sentiment = '{sentiment}' where id = {job_id}")


def chosen(tmp_path: Path, **selection: Any) -> list[int]:
    save("b", [str(tmp_path / "out.jsonl")], Selection(**selection))
    return [json.loads(line)["n"] // 10 for line in (tmp_path / "out.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("batch")
def test_rows_that_fit_are_written(tmp_path: Path) -> None:
    assert chosen(tmp_path) == [0, 1, 2, 3, 4]
    assert chosen(tmp_path, statuses=["failed,queued"]) == chosen(tmp_path, statuses=["failed", "queued"]) == [3, 4]
    cases = {
        "sentiment=negative": [1],
        "sentiment!=negative": [0, 2, 3, 4],
        "sentiment=": [3, 4],
        "status=failed": [3],
        "n>10": [2, 3, 4],
        "n >= 10.0": [1, 2, 3, 4],
        "n=20": [2],
        "n<9": [0],
        "date<=2026-01-02": [0, 1],
        "reply~REPLY 2": [2],
        "input=Text 3": [3],
        "reply!=": [0, 1, 2],
    }
    assert {where: chosen(tmp_path, where=[where]) for where in cases} == cases
    assert chosen(tmp_path, where=["n>0", "status=succeeded"], limit=1) == [1]


@pytest.mark.usefixtures("batch")
def test_the_database_reads_no_row_that_cannot_fit() -> None:
    far = add_jobs(2, prefix="far")
    set_job(far[0], position=70_000)
    set_job(far[1], position=90_000)

    def read(typed: str) -> list[str]:
        condition = Condition("status" if typed in STATES else "sentiment", "=", typed).in_database
        assert condition is not None
        return [row["custom_id"] for page in rows_of("b", condition=condition) for row in page]

    assert {each: read(each) for each in ("failed", "queued", "negative")} == {
        "failed": ["id-r3"],
        "queued": ["id-r4", "id-far0", "id-far1"],
        "negative": ["id-r1"],
    }
    assert Condition("reply", "=", "x").in_database is Condition("sentiment", "=", "").in_database is None


@pytest.mark.usefixtures("batch")
def test_columns_are_those_that_are_named_in_every_file(tmp_path: Path) -> None:
    outputs = [str(tmp_path / name) for name in ("a.jsonl", "b.parquet", "c.csv")]
    assert save("b", outputs, Selection(columns=["reply,n", "status"], statuses=["succeeded"])) == 3
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0]) == {
        "reply": "reply 0",
        "n": 0,
        "status": "succeeded",
    }
    assert list(pd.read_parquet(tmp_path / "b.parquet").columns) == ["reply", "n", "status"]
    assert list(pd.read_csv(tmp_path / "c.csv").columns) == ["reply", "n", "status"]
    save("b", outputs)
    assert list(pd.read_parquet(tmp_path / "b.parquet").columns) == ["n", "date", "input", *RESULT_COLUMNS]


@pytest.mark.usefixtures("batch")
def test_what_is_not_there_is_refused_with_what_there_is(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "There is no column 'nope'; the batch has these: 'n', 'date', 'input', 'custom_id'": {
            "columns": ["reply,nope"]
        },
        "There is no column 'nope'": {"where": ["nope=1"]},
        "compares nothing; an example is": {"where": ["sentiment"]},
        "There is no status 'bad'; rows are queued, running": {"statuses": ["failed,bad"]},
        "cost_usd is a number, and 'cheap' is none": {"where": ["cost_usd<cheap"]},
    }
    for reason, selection in cases.items():
        with pytest.raises(InputError, match=reason):
            save("b", [str(tmp_path / "out.jsonl")], Selection(**selection))
    for outputs in (["a.csv", "a.csv"], ["-", "a.csv"]):
        with pytest.raises(InputError, match="Each -o needs a file of its own"):
            check_destinations(outputs)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.usefixtures("database")
def test_a_tool_that_is_called_late_has_its_column_in_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_batch()
    add_jobs(3)
    rows = [[{"custom_id": "1"}], [{"custom_id": "2", "tool_calls": [{"id": "x"}]}]]
    monkeypatch.setattr(saving, "PAGE_ROWS", 1)
    monkeypatch.setattr(saving, "rows_of", lambda *_, **__: iter(rows))
    assert save("b", [str(tmp_path / "a.csv"), str(tmp_path / "a.jsonl")]) == 2
    assert pd.read_csv(tmp_path / "a.csv")["tool_calls"][1] == '[{"id":"x"}]'
