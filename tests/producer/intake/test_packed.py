"""A workbook or Parquet file is read whatever it holds, or costs one clear sentence and no more."""

import os
import signal
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.waiting import limit, wait_until
from tidemill.models.errors import InputError, TidemillError
from tidemill.producer.intake import packed
from tidemill.producer.intake.records import Input
from tidemill.producer.intake.tables import ReadOptions, Row, file_records, read

SHEET = """<?xml version="1.0"?><worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">%s
<sheetData>%s</sheetData></worksheet>"""
PARTS = {
    "[Content_Types].xml": """<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="xml" ContentType="application/xml"/></Types>""",
    "_rels/.rels": """<?xml version="1.0"?><Relationships
xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1"
Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
Target="xl/workbook.xml"/></Relationships>""",
    "xl/workbook.xml": """<?xml version="1.0"?><workbook
xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"
xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets><sheet name="a" sheetId="1"
r:id="rId1"/></sheets></workbook>""",
    "xl/_rels/workbook.xml.rels": """<?xml version="1.0"?><Relationships
xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1"
Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet"
Target="worksheets/sheet1.xml"/></Relationships>""",
}


def workbook(path: Path, cells: str, before: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in PARTS.items():
            archive.writestr(name, content)
        archive.writestr("xl/worksheets/sheet1.xml", SHEET % (before, cells))
    return path


def cell(place: str, text: str) -> str:
    return f'<row><c r="{place}" t="inlineStr"><is><t>{text}</t></is></c></row>'


def rows(path: Path) -> list[Row]:
    return [row for chunk in read(path, ReadOptions(), on_bad_row=print) for row in chunk]


def children() -> list[psutil.Process]:
    """Readers that this process has started; it may have servers, too."""
    return [child for child in psutil.Process().children() if "intake.packed" in " ".join(child.cmdline())]


def test_a_plain_workbook_is_read(tmp_path: Path) -> None:
    (row,) = rows(workbook(tmp_path / "a.xlsx", cell("A1", "prompt") + cell("A2", "\u202ehello")))
    assert (row.line, row.request) == (2, {"prompt": "\u202ehello"})


def test_a_workbook_that_claims_to_be_endless_costs_a_sentence(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", cell("A1", "prompt") + cell("XFD1048576", "x"))
    assert path.stat().st_size < 2_000
    with pytest.raises(InputError) as raised:
        rows(path)
    assert str(raised.value).startswith(f"{path} ")
    assert "needs more than 2 GB of memory to be read; save it as CSV, or as several files" in str(raised.value)
    assert not children()


def test_a_workbook_that_unpacks_to_more_than_it_may_costs_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "MEMORY_BYTES", 100 * 2**20)
    long = "<c t='inlineStr'><is><t>" + "x" * 32_000 + "</t></is></c>"
    filled = f"<row>{long * 50}</row>" * 100
    path = workbook(tmp_path / "a.xlsx", cell("A1", "prompt") + filled)
    assert path.stat().st_size < 1_000_000
    before = psutil.Process().memory_info().rss
    with pytest.raises(InputError, match="2 GB"):
        rows(path)
    assert psutil.Process().memory_info().rss - before < 50_000_000


@pytest.mark.parametrize("ending", [".xlsx", ".xls", ".ods", ".parquet"])
def test_whatever_is_in_it_there_is_one_sentence(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    for content in (b"PK\x03\x04" + bytes(500), b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\xff" * 2000, b"PAR1" * 9):
        path.write_bytes(content)
        with pytest.raises(InputError) as raised:
            rows(path)
        assert str(raised.value).startswith(f"{path} ")
        assert "\n" not in str(raised.value)


def big(tmp_path: Path, ending: str) -> Path:
    path = tmp_path / f"big{ending}"
    frame = pd.DataFrame({"prompt": [f"{number} ü\ud7ff\x7f" for number in range(5_000)], "n": range(5_000)})
    frame.to_excel(path, index=False) if ending == ".xlsx" else frame.to_parquet(path)
    return path


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Iterator[tuple[int, dict[str, object]]]]:
    path = big(tmp_path, ".xlsx")
    reading = file_records(path, Input(str(path), skip_bad_rows=False, on_bad_row=print))
    yield reading
    reading.close()  # type: ignore[attr-defined]


def test_rows_that_nobody_takes_any_more_keep_no_child(records: Iterator[object]) -> None:
    next(records)
    assert len(children()) == 1
    records.close()  # type: ignore[attr-defined]
    assert not children()


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL, signal.SIGABRT])
def test_a_reader_that_stops_or_dies_costs_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    monkeypatch.setattr(packed, "SILENCE_SECONDS", limit(1))
    path = workbook(tmp_path / "a.xlsx", "".join(cell(f"A{place}", f"{place}") for place in range(1, 400_000)))
    errors: list[BaseException] = []

    def run() -> None:
        try:
            rows(path)
        except InputError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: children() and children()[0].rlimit(psutil.RLIMIT_AS)[0] > 0, "the child is ready")
    os.kill(children()[0].pid, how)
    thread.join(limit())
    assert "be read" in str(errors[0])
    assert not children()


@pytest.mark.parametrize("body", [b"[", b"{}", b"[1]", b"[[1,[]]]", b'[["a",{}]]', b"[" * 50_000])
def test_nothing_that_a_reader_sends_is_taken_for_granted(body: bytes) -> None:
    with pytest.raises(EOFError):
        packed._rows(body)


def test_a_reader_has_no_key_in_its_environment(records: Iterator[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    next(records)
    assert not [name for name in children()[0].environ() if name.startswith(("OPENAI_", "TIDEMILL_", "PG", "AWS_"))]


def test_where_no_child_can_start_the_sentence_says_how_to_see_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workbook(tmp_path / "a.xlsx", cell("A1", "prompt") + cell("A2", "hello"))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TidemillError, match="does not start"):
        rows(path)
