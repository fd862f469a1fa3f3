"""What an input is taken for: a table of beginnings, endings and wishes; and what is done with a pipe."""

import io
import os
import socket
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tidemill.models.errors import InputError
from tidemill.producer.asking.prompts import order_for
from tidemill.producer.intake import piped
from tidemill.producer.intake.encodings import guess
from tidemill.producer.intake.formats import Wanted, WrongFormatError, recognise
from tidemill.producer.intake.requests import PROMPT_COLUMNS
from tidemill.producer.intake.spoiled import CONTROLS, LOST, MISREAD, spoiling
from tidemill.producer.intake.tables import ReadOptions, read

BY_COLUMN = Wanted(columns=("prompt",), usual=PROMPT_COLUMNS)
BY_TEMPLATE = Wanted(columns=("a", "b"), usual=PROMPT_COLUMNS, named_by="-t")
BY_PROMPT = Wanted(columns=("prompt",), usual=PROMPT_COLUMNS, named_by="-t")
UNNAMED = Wanted(usual=PROMPT_COLUMNS)
TRAINING = Wanted(of_prompts=False)
ZIPPED = b"PK\x03\x04" + bytes(26)


@pytest.mark.parametrize(
    ("head", "ending", "wanted", "name", "is_said"),
    [
        # by ending
        (b"anything\n", ".txt", UNNAMED, "text", False),
        (b"anything\n", ".csv", UNNAMED, "csv", False),
        (b"anything\n", ".TSV".lower(), UNNAMED, "tsv", False),
        (b'{"prompt": "a"}\n', ".jsonl", UNNAMED, "jsonl", False),
        (b'{"prompt": "a"}\n', ".csv", UNNAMED, "jsonl", True),
        (b'[{"prompt": "a"}]', ".jsonl", UNNAMED, "json", False),
        (b'{"prompt": "a"}\n', ".txt", UNNAMED, "text", True),
        (b"id,prompt\n1,a\n", ".txt", UNNAMED, "text", True),
        (b"id,prompt\n1,a\n", ".txt", BY_COLUMN, "csv", True),
        (b"Why, tell me?\n", ".txt", BY_PROMPT, "text", True),
        # by what it begins with
        (b'\xef\xbb\xbf\n{"prompt": "a"}\n', "", UNNAMED, "jsonl", False),
        (b"[\n", "", UNNAMED, "json", False),
        (b"id,prompt\n1,a\n", "", UNNAMED, "csv", True),
        (b"id;question\n1;a\n", "", UNNAMED, "csv", True),
        (b"id\tPrompt\n1\ta\n", ".dat", UNNAMED, "tsv", True),
        (b"prompt\na\n", "", UNNAMED, "csv", True),
        (b"a,b,c\n1,2,3\n", "", BY_TEMPLATE, "csv", True),
        ("id,prompt\n".encode("utf-16"), "", UNNAMED, "csv", True),
        ("id,prompt\n1,a\n".encode("utf-16-le"), "", UNNAMED, "csv", True),
        ("id,prompt\n1,a\n".encode("utf-16-be"), "", UNNAMED, "csv", True),
        (b"Why is the sky blue?\n", "", UNNAMED, "text", True),
        (b"Tell me a question, please\n", "", UNNAMED, "text", True),
        (b"My text, and your question?\n", "", UNNAMED, "text", True),
        (b"a,b\n1,2\n", "", TRAINING, "csv", True),
        # by signature
        (b"PAR1" + bytes(9), ".parquet", UNNAMED, "parquet", False),
        (b"PAR1" + bytes(9), "", UNNAMED, "parquet", True),
        (b"PAR1" + bytes(9), ".csv", UNNAMED, "parquet", True),
        (ZIPPED + b"xl/workbook.xml", ".xlsx", UNNAMED, "xlsx", False),
        (ZIPPED + b"xl/workbook.xml", ".txt", UNNAMED, "xlsx", True),
        (ZIPPED + b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet", ".csv", UNNAMED, "ods", True),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ".xlsx", UNNAMED, "xls", False),
        # by name
        (b"a,b\n", ".txt", Wanted("csv"), "csv", False),
        (b"a,b\n", ".csv", Wanted("text"), "text", False),
        (b"<html>", "", Wanted("text"), "text", False),
        (b"prompt\n", "", Wanted("text"), "text", False),
    ],
)
def test_an_input_is_taken_for(head: bytes, ending: str, wanted: Wanted, name: str, is_said: bool) -> None:
    recognised = recognise(head, ending, wanted)
    assert (recognised.format, recognised.note is not None) == (name, is_said)


@pytest.mark.parametrize(
    ("head", "ending", "wanted", "why"),
    [
        (b"Why?\nHow?\n", "", BY_COLUMN, "no header with it"),
        (b"Why?\nHow?\n", ".txt", BY_COLUMN, "no header with it"),
        (b"Why?\n", "", BY_TEMPLATE, "drop -t"),
        (b"Why?\n", "", TRAINING, "does not begin with a JSON object or a header"),
        (b"a,b\n", ".xlsx", UNNAMED, "is text, and not a workbook"),
        (b"<table><tr>\n", ".xls", UNNAMED, "is text, and not a workbook"),
        (b"PAR1", ".csv", Wanted("csv"), "is Parquet by its first bytes, and not CSV"),
        (ZIPPED + b"a.csv", ".csv", UNNAMED, "unpack it"),
        (ZIPPED + b"word/document.xml", ".docx", UNNAMED, "document of an office program"),
        (b"SQLite format 3\0" + bytes(80), ".csv", UNNAMED, "sqlite3 -csv"),
        (b"<!DOCTYPE html>\n", ".html", UNNAMED, "web page"),
        (b"{\\rtf1", ".txt", UNNAMED, "RTF"),
        (b"GIF89a", "", UNNAMED, "image"),
        (b"RIFF\0\0\0\0WEBP", ".jsonl", UNNAMED, "image"),
        (b"RIFF\0\0\0\0WAVE", "", UNNAMED, "recording"),
        (b"\x80\x05pickle", ".pkl", UNNAMED, "never opened"),
        (b"ARROW1\0\0", "", UNNAMED, "save it as Parquet"),
        (bytes(257) + b"ustar", ".tar", UNNAMED, "tar -xf"),
    ],
)
def test_what_cannot_be_read_is_refused(head: bytes, ending: str, wanted: Wanted, why: str) -> None:
    with pytest.raises(WrongFormatError, match=why):
        recognise(head, ending, wanted)


def told(source: Any, **how: Any) -> tuple[list[str], list[str]]:
    """The prompts, and what is said of the input."""
    notes: list[str] = []
    chunks = read(source, ReadOptions(**how), on_bad_row=notes.append, on_note=notes.append)
    return [row.request["prompt"] for chunk in chunks for row in chunk], notes


def test_a_table_of_one_column_does_not_lose_its_first_prompt(tmp_path: Path) -> None:
    frame = pd.DataFrame({"Why is the sky blue?": ["Why is grass green?"]})
    frame.to_csv(tmp_path / "p.csv", index=False)
    frame.to_excel(tmp_path / "p.xlsx", index=False)
    for name in ("p.csv", "p.xlsx"):
        prompts, (note,) = told(tmp_path / name)
        assert prompts == ["Why is the sky blue?", "Why is grass green?"]
        assert "has no header" in note
        assert told(tmp_path / name, column="Why is the sky blue?") == (["Why is grass green?"], [])
    (tmp_path / "w.csv").write_text("Berlin\nParis\n")
    prompts, (note,) = told(tmp_path / "w.csv")
    assert (prompts, "'Berlin'" in note) == (["Paris"], True)
    assert "header=None" in told(frame)[1][0]
    (tmp_path / "s.csv").write_text("sep=;\nid;prompt\n1;a\n")
    assert told(tmp_path / "s.csv") == (["a"], [])


@pytest.mark.parametrize("name", ["p.parquet", "p.xlsx"])
def test_packed_tables_come_through_a_pipe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, frame = tmp_path / name, pd.DataFrame({"prompt": ["a", "b"]})
    (frame.to_parquet if name.endswith("t") else frame.to_excel)(path, index=False)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    prompts, (note,) = told("-")
    assert (prompts, "by its first bytes" in note or "as its first bytes say" in note) == (["a", "b"], True)


def test_bytes_in_a_table_are_text_or_are_not_asked(tmp_path: Path) -> None:
    pd.DataFrame({"prompt": ["ü".encode()], "picture": [b"\xff\xd8\xff"]}).to_parquet(tmp_path / "p.parquet")
    for source in (tmp_path / "p.parquet", pd.DataFrame({"prompt": [b"\xc3\xbc"], "picture": [b"\xff"]})):
        assert told(source) == (["ü"], [])
        for how in ({"column": "picture"}, {"template": "{prompt} {picture}"}):
            with pytest.raises(InputError, match="holds bytes that are no text"):
                told(source, **how)


def test_an_archive_with_a_table_in_it_is_no_table(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.csv", "w") as archive:
        archive.writestr("inner.csv", "prompt\na\n")
    with pytest.raises(InputError, match="ZIP archive"):
        told(tmp_path / "p.csv")


# --- beside a prompt ---


@contextmanager
def piped_in(content: bytes, monkeypatch: pytest.MonkeyPatch, *, is_open: bool = False) -> Iterator[None]:
    """A pipe as standard input, closed after its content unless it stays open."""
    reading, writing = os.pipe()
    os.write(writing, content)
    if not is_open:
        os.close(writing)
    with os.fdopen(reading) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield
    if is_open:
        os.close(writing)


def asked(prompt: str) -> Any:
    order: Any = order_for(prompt, None, {"model": "m"})
    return order.rows.source[0]


@pytest.mark.usefixtures("embedded_home")
def test_what_is_piped_goes_before_the_prompt(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for content, before in (
        (b"text\r\n", "text\n\n"),
        ("\ufeffü\n\nv\n".encode(), "ü\n\nv\n\n"),
        (b"", ""),
        (b" \n", ""),
    ):
        with piped_in(content, monkeypatch):
            assert asked("Summarise") == f"{before}Summarise"
        assert ("goes before the prompt" in capsys.readouterr().err) is bool(before)
    for nothing in (None, io.StringIO("no file")):
        monkeypatch.setattr(sys, "stdin", nothing)
        assert asked("Summarise") == "Summarise"
    with Path(os.devnull).open() as null:
        monkeypatch.setattr(sys, "stdin", null)
        assert asked("Summarise") == "Summarise"


@pytest.mark.usefixtures("embedded_home")
def test_an_open_pipe_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piped, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(piped, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(piped, "_MOST_BYTES", 1_000)
    for content in (b"", b"some text"):
        with piped_in(content, monkeypatch, is_open=True), pytest.raises(InputError, match="open and silent"):
            asked("Summarise")
    with piped_in(b"x" * 2_000, monkeypatch, is_open=True), pytest.raises(InputError, match="has more than"):
        asked("Summarise")
    ours, theirs = socket.socketpair()
    with ours, theirs, os.fdopen(os.dup(ours.fileno())) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert asked("Summarise") == "Summarise"
    monkeypatch.setattr(os, "getppid", os.getpid)  # as if we had started ourselves
    with piped_in(b"", monkeypatch, is_open=True):
        assert asked("Summarise") == "Summarise"


@pytest.mark.parametrize("content", [b"\x89PNG\r\n", b"%PDF-1.7", b"a\0b", "café".encode("cp1252")])
def test_what_is_no_text_does_not_go_before_a_prompt(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with piped_in(content, monkeypatch), pytest.raises(InputError, match="standard input is"):
        asked("Summarise")


@pytest.mark.parametrize(
    ("prompt", "how", "why"),
    [
        ("-", {}, "write -i -"),
        (__file__, {}, "asks its rows"),
        ("a", {"column": "prompt"}, "--column is about"),
        ("a", {"template": "{prompt}"}, "-t is about"),
        ("a", {"format": "csv"}, "--format is about"),
    ],
)
def test_what_is_two_things_at_once_is_refused(prompt: str, how: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        order_for(prompt, None, {"model": "m"}, ReadOptions(**how))


# --- encodings ---


TEXTS = {
    "Il a dit : « C'est l'été… ça coûte 5 € » — déjà vu, où ?": ("cp1252", "mac_roman"),
    "Die Größe der Straße überraschte Herrn Müller": ("cp1252", "mac_roman", "cp850", "latin-1"),
    "It’s a “quoted” text – nothing more… don’t you think?": ("cp1252", "mac_roman"),
    "café": ("cp1252", "latin-1", "mac_roman"),
    "Příliš žluťoučký kůň úpěl ďábelské ódy": ("cp1250",),
    "Почему небо голубое? Расскажи мне сказку.": ("cp1251", "koi8-r"),
    "空はなぜ青いのですか。東京の天気を教えてください。": ("cp932", "euc-jp"),
    "하늘은 왜 파란가요? 오늘 날씨가 어떻습니까.": ("cp949",),
    "天空为什么是蓝色的？请用简单的话解释一下。": ("gb18030",),
    "天空為什麼是藍色的？請用簡單的話解釋一下。": ("big5",),
}
NAMES = {"latin-1": "WINDOWS-1252", "cp1252": "WINDOWS-1252", "cp1251": "WINDOWS-1251", "cp1250": "WINDOWS-1250"}


def test_the_encoding_that_a_text_most_likely_has_is_named() -> None:
    for text, encodings in TEXTS.items():
        for name in encodings:
            likely = guess(f"prompt\n{text}\n".encode(name))
            assert likely is not None
            assert likely[0] == NAMES.get(name, "MACINTOSH" if name == "mac_roman" else name.upper()), (text, name)
    assert guess(b"\xff") is None or guess(b"\xff") == ("WINDOWS-1252", "Windows-1252")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("plain", None),
        ("é “quoted” — naïve, São, MAÇÃ, Âge, « où »", None),
        ("â l'été; 10 €; 25 °C; Ünal & Çelik; Ñandú; ÅÄÖ™", None),
        ("Привет, мир! 空は青い 🦀", None),
        ("It\x92s", CONTROLS),
        ("It’s".encode().decode("cp1252"), MISREAD),
        ("café".encode().decode("latin-1"), MISREAD),
        ("“so”".encode().decode("cp1252", errors="ignore"), MISREAD),
        ("Привет".encode().decode("latin-1"), MISREAD),
        ("\ufeffa".encode().decode("cp1252"), MISREAD),
        ("caf\ufffd", LOST),
        ("锟斤拷", LOST),
    ],
)
def test_what_an_encoding_has_done_to_a_text_is_noticed(text: str, kind: Any) -> None:
    assert spoiling(text) == kind


def test_spoiled_rows_are_named_once_and_counted(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt\nfine\nIt\x92s\nIt\x92s more\ncafÃ©\n", encoding="utf-8")
    _, notes = told(tmp_path / "p.csv")
    assert [note.removeprefix(f"{tmp_path}/p.csv ") for note in notes] == [
        "holds C1 control characters (U+0080 to U+009F), first in row 3. Windows-1252 was read as Latin-1: convert the "
        "original with iconv -f WINDOWS-1252 -t UTF-8.",
        "holds what looks like UTF-8 read as Windows-1252 (Ã©, â€™), first in row 5. Read the original as UTF-8, and "
        "save it as UTF-8 once only.",
        "holds C1 control characters (U+0080 to U+009F) in 2 rows.",
    ]
