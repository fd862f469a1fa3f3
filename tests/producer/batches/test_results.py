"""A file of answers is whole or absent, and no reply can break it."""

import csv
import importlib.util
import io
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.models.errors import InputError
from tidemill.producer.batches import results
from tidemill.producer.batches.results import RESULT_COLUMNS, Chunks, check_destination, merge, to_frame, writing

NASTY = 'a,"b"\r\nc\rd\ne;\t\u2028\0 ü 🦀 \ud800'


def row(number: int, **columns: Any) -> dict[str, Any]:
    result = {"custom_id": str(number), "status": "succeeded", "reply": f"reply {number}", "input_tokens": 12}
    return merge(columns, result | {"output_tokens": 3, "cost_usd": 1.5e-05, "attempts": 1, "sentiment_score": 0.5})


def write(chunks: Chunks, path: str, columns: Sequence[str], *, escape_formulas: bool = False) -> int:
    rows = 0
    with writing(path, columns, escape_formulas=escape_formulas) as put:
        for chunk in chunks:
            put(chunk)
            rows += len(chunk)
    return rows


def names(**columns: Any) -> list[str]:
    return list(merge(columns, {}))


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def listed(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_inputs_columns_come_first_and_are_renamed_where_they_would_hide_a_result() -> None:
    merged = merge({"prompt": "p", "reply": "theirs", "input_reply": "also theirs"}, {"reply": "ours", "extra": 1})
    assert list(merged)[3:] == list(RESULT_COLUMNS)
    assert (merged["input_input_reply"], merged["input_reply"], merged["reply"]) == ("theirs", "also theirs", "ours")
    assert merged["error"] is None
    assert "extra" not in merged


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_rows_are_written_in_the_columns_order_and_counted(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    chunks = (
        [row(number, prompt=f"p{number}", id=number) for number in range(start, start + 1000)]
        for start in (0, 1000, 2000)
    )
    assert write(chunks, str(path), names(prompt=0, id=0)) == 3000
    rows = READ[ending](path)
    assert list(rows[0]) == ["prompt", "id", *RESULT_COLUMNS]
    assert [str(r["id"]) for r in rows] == [str(number) for number in range(3000)]
    assert float(rows[7]["cost_usd"]) == 1.5e-05
    assert listed(tmp_path) == [path.name]


def csv_rows(path: Path) -> list[dict[str, Any]]:
    header, *rows = read_csv(path)
    return [dict(zip(header, cells, strict=True)) for cells in rows]


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows


READ: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    ".jsonl": lambda path: [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]],
    ".csv": csv_rows,
    ".parquet": parquet_rows,
}


def test_jsonl_gives_back_every_character_and_nested_value(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    columns = {"text": NASTY, "nested": {"a": [1, None, "ü"]}, "long": 2**70, "none": None}
    write([[row(1, **columns)]], str(path), names(**columns))
    assert path.read_bytes().count(b"\n") == 1
    assert READ[".jsonl"](path)[0] | columns == READ[".jsonl"](path)[0]


def test_csv_quotes_what_must_be_quoted_and_shows_lone_surrogates_as_text(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    columns = {"text": NASTY, "nested": {"a": [1, "ü"]}, "yes": True, "none": None, "spaced": " 007 "}
    write([[row(1, **columns)]], str(path), names(**columns))
    cells = READ[".csv"](path)[0]
    assert cells["text"] == NASTY.replace("\ud800", "\\ud800")
    assert [cells[name] for name in ("nested", "yes", "none", "spaced")] == ['{"a":[1,"ü"]}', "true", "", " 007 "]
    assert path.read_bytes().startswith(b"text,nested,yes,none,spaced,custom_id")


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_csv_round_trips_any_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    write([[{"a": text, "b": "x"} for text in texts]], str(path), ["a", "b"])
    assert [cells[0] for cells in read_csv(path)[1:]] == texts


def test_parquet_has_fixed_types_whatever_the_rows_hold(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    write([[row(1, x=1, y=None)], [row(2, x="a\ud800", y=[1])]], str(path), names(x=0, y=0))
    table = parquet.read_table(path)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["x"] == kinds["reply"] == kinds["error"] == "string"
    assert (kinds["input_tokens"], kinds["cost_usd"]) == ("int64", "double")
    assert table.column("x").to_pylist() == ["1", "a\\ud800"]
    assert table.column("y").to_pylist() == [None, "[1]"]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_file_is_the_same_however_its_rows_come(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PARQUET_GROUP_ROWS", 100)
    rows = [row(number, text=NASTY) for number in range(250)]
    files = []
    for size in (1, 7, 100, 250):
        write(
            (rows[start : start + size] for start in range(0, 250, size)), str(tmp_path / f"out{ending}"), names(text=0)
        )
        files.append((tmp_path / f"out{ending}").read_bytes())
    assert len(set(files)) == 1


def test_a_failure_keeps_the_older_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("older")

    def chunks() -> Iterator[list[dict[str, Any]]]:
        yield [row(1)]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(chunks(), str(path), RESULT_COLUMNS)
    assert path.read_text() == "older"
    assert listed(tmp_path) == ["out.jsonl"]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    before, old = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        rows = [[row(number, text=os.urandom(50).hex()) for number in range(1000)]]
        with pytest.raises(InputError, match="the answers stay in the database: free space, then `tidemill results"):
            write(rows, str(tmp_path / f"out{ending}"), names(text=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert listed(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and symlinks")
def test_a_new_file_obeys_the_umask_an_older_one_keeps_its_mode_and_a_symlink_its_target(tmp_path: Path) -> None:
    link, target = tmp_path / "link.csv", tmp_path / "folder" / "target.csv"
    target.parent.mkdir()
    link.symlink_to(target)
    old = os.umask(0o027)
    try:
        write([[row(1)]], str(link), RESULT_COLUMNS)
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        target.chmod(0o604)
        write([[row(1), row(2)]], str(link), RESULT_COLUMNS)
    finally:
        os.umask(old)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o604
    assert len(read_csv(target)) == 3


def test_stdout_gets_json_lines_and_a_broken_pipe_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stdout)
    assert write([[row(1)], [row(2)]], "-", RESULT_COLUMNS) == 2
    assert stdout.buffer.getvalue().count(b"\n") == 2

    class Gone(io.BytesIO):
        def write(self, _: Any) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Gone()))
    with pytest.raises(BrokenPipeError):
        write([[row(1)]], "-", RESULT_COLUMNS)


@pytest.mark.parametrize("predicates", ["this Python's", "Python 3.14's"])
def test_every_destination_that_cannot_work_is_an_error_before_any_work(
    predicates: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if predicates == "Python 3.14's":  # they never raise
        for name, of_os in (("exists", os.path.exists), ("is_dir", os.path.isdir), ("is_file", os.path.isfile)):
            monkeypatch.setattr(Path, name, of_os)
    (tmp_path / "folder.csv").mkdir()
    unusable = {
        "out.xlsb": "no known ending",
        "out.csv.zip": "no known ending",
        "out": "no known ending",
        "folder.csv": "is a folder",
        "missing/out.csv": "does not exist; create it first",
        "nul\0.csv": "cannot be written",
        "x" * 300 + ".csv": "cannot be written",
        "loop.csv": "cannot be written",
        "folder.csv/out.csv/x.csv": "does not exist; create it first",
    }
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    for name, reason in unusable.items():
        with pytest.raises(InputError, match=reason):
            check_destination(str(tmp_path / name))
    for good in ("out.csv", "out.JSONL", "folder.csv/x.parquet"):
        check_destination(str(tmp_path / good))
    check_destination("-")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="permission denied"):
        check_destination(str(tmp_path / "out.csv"))
    assert listed(tmp_path) == ["folder.csv", "loop.csv"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match="a device or a pipe"):
        check_destination(str(tmp_path / "pipe.jsonl"))


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'tidemill\[parquet\]'"):
        check_destination("out.parquet")


def test_a_frame_has_the_rows_and_nullable_counts() -> None:
    frame = to_frame([[row(1, prompt="a")], [row(2, prompt="b") | {"input_tokens": None}]])
    assert list(frame.columns) == names(prompt=0)
    assert str(frame["input_tokens"].dtype) == "Int64"
    assert frame["input_tokens"].isna().tolist() == [False, True]
    assert list(to_frame([]).columns) == list(RESULT_COLUMNS)


def test_formulas_are_escaped_in_csv_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    formulas = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "＠x", "-"]
    plain = ["-5", "+3.5", "-1,000.5", "1e-5", "-12%", "a=b", "'=1", "", "ü"]
    rows = [row(number, prompt=text) | {"=id": 1} for number, text in enumerate([*formulas, *plain])]
    columns = [*names(prompt=0), "=id"]
    assert write([rows], str(path), columns, escape_formulas=True) == len(rows)
    header, *cells = read_csv(path)
    assert header[-1] == "'=id"
    assert [each[0] for each in cells] == [*(f"'{text}" for text in formulas), *plain]
    assert cells[0][header.index("sentiment_score")] == "0.5"
    write([rows], str(path), columns)
    assert [each[0] for each in read_csv(path)[1:]] == [*formulas, *plain]
    write([rows], str(tmp_path / "out.jsonl"), columns, escape_formulas=True)
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["prompt"] == "=1+1"


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="Linux has files without a name")
def test_an_unfinished_file_has_no_name_so_that_a_kill_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(str(tmp_path / "out.csv"), RESULT_COLUMNS) as put:
        put([row(1)])
        assert listed(tmp_path) == []
    monkeypatch.delattr(os, "O_TMPFILE")  # as on other systems
    with writing(str(tmp_path / "out.csv"), RESULT_COLUMNS) as put:
        put([row(1), row(2)])
        assert len(listed(tmp_path)) == 2
    assert listed(tmp_path) == ["out.csv"]
    assert len(read_csv(tmp_path / "out.csv")) == 3
