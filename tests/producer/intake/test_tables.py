"""Every shape of input becomes the same rows; every bad one a single sentence that says where and what to do."""

import csv
import datetime
import io
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.models.errors import InputError
from tidemill.producer.intake.tables import ReadOptions, Row, read


def unexpected(sentence: str) -> None:
    raise AssertionError(sentence)


def rows(source: Any, **reading: Any) -> list[Row]:
    return [row for chunk in read(source, ReadOptions(**reading), on_bad_row=unexpected) for row in chunk]


def error_of(source: Any, **reading: Any) -> str:
    with pytest.raises(InputError) as caught:
        rows(source, **reading)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def skipping(source: Any, **reading: Any) -> tuple[list[Row], list[str]]:
    skipped: list[str] = []
    read_rows = read(source, ReadOptions(skip_bad_rows=True, **reading), on_bad_row=skipped.append)
    return [row for chunk in read_rows for row in chunk], skipped


def prompts(source: Any, **reading: Any) -> list[str]:
    return [row.request["prompt"] for row in rows(source, **reading)]


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


# The same three prompts in every format.

THREE = [{"id": "007", "prompt": 'a, "b"'}, {"id": "NA", "prompt": "two\r\nlines"}, {"id": " x ", "prompt": "ü 🦀"}]


def three_as(folder: Path, ending: str) -> Path:
    path, frame = folder / f"three{ending}", pd.DataFrame(THREE)
    if ending in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="," if ending == ".csv" else "\t")
    elif ending == ".xlsx":
        frame.to_excel(path, index=False)
    elif ending == ".parquet":
        frame.to_parquet(path)
    else:
        text = json.dumps(THREE, indent=1) if ending == ".json" else "\n".join(map(json.dumps, THREE))
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".dat", ""])
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    read_rows = rows(three_as(tmp_path, ending))
    assert [row.columns for row in read_rows] == THREE
    assert [row.request for row in read_rows] == [{"prompt": row["prompt"]} for row in THREE]
    assert [row.line for row in read_rows] == ([2, 3, 4] if ending in (".csv", ".tsv") else [1, 2, 3])
    assert {row.custom_id for row in read_rows} == {None}


def test_a_workbook_gives_its_first_sheet_without_blank_rows(tmp_path: Path) -> None:
    day = datetime.datetime(2026, 11, 22)  # noqa: DTZ001
    frame = pd.DataFrame({"prompt": ["a", None, "NA"], "n": [1, None, 2], "day": [day, None, day]})
    frame.to_excel(tmp_path / "book.xlsx", index=False)
    read_rows = rows(tmp_path / "book.xlsx")
    assert [(row.line, row.request["prompt"], row.columns["n"]) for row in read_rows] == [(2, "a", 1), (4, "NA", 2)]
    assert read_rows[0].columns["day"].startswith("2026-11-22")


def test_text_gives_one_prompt_a_line_and_skips_blank_ones(tmp_path: Path) -> None:
    path = file(tmp_path, "prompts.txt", "\ufeff one \r\n\n \u00a0\n{two}\nthree\u2028still three")
    assert [(row.line, row.request["prompt"]) for row in rows(path)] == [
        (1, " one "),
        (4, "{two}"),
        (5, "three\u2028still three"),
    ]


def test_frames_and_iterables_are_sources_too() -> None:
    assert prompts(["a", "b"]) == ["a", "b"]
    assert prompts(text for text in "ab") == ["a", "b"]
    assert rows([{"prompt": "a", "n": float("nan")}])[0].columns == {"prompt": "a", "n": None}
    frame = pd.DataFrame(
        {"prompt": ["a", "b"], 7: [1, 2], "f": [1.5, None], "t": [pd.Timestamp("2026-01-02"), pd.NaT], "l": [[1], None]}
    )
    assert [row.columns for row in rows(frame)] == [
        {"prompt": "a", "7": 1, "f": 1.5, "t": "2026-01-02T00:00:00", "l": [1]},
        {"prompt": "b", "7": 2, "f": None, "t": None, "l": None},
    ]
    assert json.dumps([row.columns for row in rows(frame)])
    assert "cannot be read from the type int" in error_of(7)
    assert "row 2: is of type int" in error_of(["a", 2])


def test_a_csv_and_its_frame_ask_the_same(tmp_path: Path) -> None:
    path = file(tmp_path, "p.csv", 'n,prompt,prompt,\n1,"x\r\ny",z,\n2,w,,\n')
    assert [row.request for row in rows(path)] == [row.request for row in rows(pd.read_csv(path))]
    assert list(rows(path)[0].columns) == ["n", "prompt", "prompt.1", "Unnamed: 3"]


# CSV: every cell exactly as written.

cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from(" ,\"'\n\r;\t"))


@given(table=st.lists(st.tuples(cells, cells.map("x".__add__), cells), min_size=1))
@settings(deadline=None)
def test_csv_cells_are_what_the_csv_module_reads(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    with path.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([("a", "b", "c"), *table])
    assert [tuple(row.columns.values()) for row in rows(path, column="b")] == table


def test_csv_values_stay_strings_and_short_rows_are_filled(tmp_path: Path) -> None:
    text = "\ufeffprompt,v,w\r\na,NA,null\r\nb, 007 ,1e5\r\nc\r\n\r\n,,\r\nd,True,#\r\n"
    read_rows = rows(file(tmp_path, "p.csv", text))
    assert [list(row.columns.values()) for row in read_rows] == [
        ["a", "NA", "null"],
        ["b", " 007 ", "1e5"],
        ["c", "", ""],
        ["d", "True", "#"],
    ]
    assert [row.line for row in read_rows] == [2, 3, 4, 7]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_with_excels_other_delimiters(tmp_path: Path, delimiter: str) -> None:
    path = file(tmp_path, "p.csv", delimiter.join(["id", '"prompt"']) + "\n" + delimiter.join(["1", '"a, b"']) + "\n")
    assert rows(path)[0].columns == {"id": "1", "prompt": "a, b"}


def test_a_row_with_too_many_cells_is_bad_wherever_it_stands(tmp_path: Path) -> None:
    wide = ",".join("abcdefghijkl")
    path = file(tmp_path, "p.csv", f"id,prompt\n{wide}\n1,good\n2,a,b\n" + "3,x\n" * 2000 + wide + "\n4,y\n5,z,,\n")
    read_rows, skipped = skipping(path)
    assert (len(read_rows), read_rows[0].line) == (2003, 3)
    assert (read_rows[-1].line, read_rows[-1].request) == (2007, {"prompt": "z"})
    assert [sentence.split(":")[0].rsplit("/", 1)[1] for sentence in skipped] == [
        "p.csv row 2",
        "p.csv row 4",
        "p.csv row 2005",
    ]
    assert "p.csv row 2: has more cells than the header has columns (2)" in error_of(path)


def test_a_quote_that_is_never_closed_is_named_by_its_row(tmp_path: Path) -> None:
    path = file(tmp_path, "p.csv", "id,prompt\n" + "1,x\n" * 1500 + '2,"open\n3,y\n')
    assert "p.csv row 1502: a quote that opens here is never closed" in error_of(path)
    assert "never closed" in error_of(file(tmp_path, "h.csv", 'id,"prompt\n' + "1,x\n" * 50_000))


def test_large_cells_and_ten_thousand_columns(tmp_path: Path) -> None:
    large = "x, " * 2_000_000
    assert prompts(file(tmp_path, "p.csv", f'prompt\n"{large}"\n')) == [large]
    assert prompts(file(tmp_path, "p.jsonl", json.dumps({"prompt": large}))) == [large]
    names = [f"c{number}" for number in range(10_000)]
    path = file(tmp_path, "wide.csv", ",".join(names) + "\n" + ",".join(names) + "\n")
    assert len(rows(path, column="c9999")[0].columns) == 10_000
    assert "and 9,970 more" in error_of(path)


# JSON.


def test_messages_and_batch_lines_are_told_apart_row_by_row(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": "m", "messages": messages}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    lines = [line, {"messages": messages, "custom_id": 7}, {"prompt": "p", "messages": None, "custom_id": None}]
    read_rows = rows(file(tmp_path, "p.jsonl", "\n".join(map(json.dumps, lines))))
    assert [row.request for row in read_rows] == [
        {"url": "/v1/chat/completions", "body": body},
        {"messages": messages},
        {"prompt": "p"},
    ]
    assert [row.custom_id for row in read_rows] == ["a", "7", None]
    assert [list(row.columns) for row in read_rows] == [[], ["messages"], ["prompt", "messages"]]
    assert rows([{"chat": messages}], column="chat")[0].request == {"messages": messages}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": "GET"}, "method of a batch line must be POST, not 'GET'"),
        ({"url": "/v1/embeddings"}, "url of a batch line must be /v1/chat/completions or /v1/responses"),
        ({"url": ["x"]}, "url of a batch line"),
        ({"body": "x"}, "body of a batch line must be a JSON object, not a JSON string"),
        ({"body": {"stream": True}}, "asks for a stream"),
        ({"custom_id": ["a"]}, "custom_id must be text, not a JSON list"),
    ],
)
def test_a_batch_line_that_cannot_be_sent_is_a_bad_row(change: dict[str, Any], reason: str) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"input": "x"}}
    assert rows([line])[0].request == {"url": "/v1/responses", "body": {"input": "x"}}
    assert reason in error_of([line | change])


BROKEN = {
    b'{"prompt": "x"': "is not valid JSON",
    b'{"prompt": NaN}': "NaN is not a JSON number",
    b'{"prompt": 1e999}': "1e999 is not a JSON number",
    b'{"prompt": ' + b"9" * 5000 + b"}": "is not valid JSON",
    b'{"prompt": ' + b"[" * 200_000: "nested too deeply",
    b'["x"]': "is a JSON list, not an object",
    b"7": "is a number, not an object",
    b"{'prompt': 'x'}": "is not valid JSON",
    b'{"prompt": null}': "the column 'prompt' is empty",
    b'{"prompt": " "}': "the column 'prompt' is empty",
    b'{"text": "x"}': "the column 'prompt' is missing",
    b'{"prompt": {"a": 1}}': "holds a JSON object, neither text nor a list of messages",
    b'{"prompt": []}': "must be a list of one or more messages",
    b'{"messages": [{"content": "x"}]}': "must be a list of one or more messages",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda line: line[:24].decode())
def test_a_broken_line_is_named_and_the_others_are_read_only_when_asked(tmp_path: Path, broken: bytes) -> None:
    path = file(tmp_path, "p.jsonl", b'{"prompt": "a"}\n\n' + broken + b'\r\n{"prompt": "b"}')
    sentence = error_of(path)
    assert sentence.startswith(f"{path} line 3: ")
    assert BROKEN[broken] in sentence
    assert "--skip-bad-rows" in sentence
    read_rows, skipped = skipping(path)
    assert [(row.line, row.request["prompt"]) for row in read_rows] == [(1, "a"), (4, "b")]
    assert [f"{path} line 3: "] == [sentence[: len(f"{path} line 3: ")] for sentence in skipped]


def test_json_keeps_long_integers_and_lone_surrogates(tmp_path: Path) -> None:
    path = file(tmp_path, "p.jsonl", '{"prompt": "\\ud800 12", "n": 123456789012345678901234567890}')
    assert rows(path)[0].columns == {"prompt": "\ud800 12", "n": 123456789012345678901234567890}
    assert prompts(path, template="{n}") == ["123456789012345678901234567890"]


def test_a_json_file_is_a_list_of_objects(tmp_path: Path) -> None:
    assert "holds a JSON object; write a list" in error_of(file(tmp_path, "a.json", '{"rows": [{"prompt": "x"}]}'))
    assert prompts(file(tmp_path, "b.json", '{"prompt": "x"}\n{"prompt": "y"}\n')) == ["x", "y"]
    assert "row 2: is a JSON string" in error_of(file(tmp_path, "c.json", '[{"prompt": "x"}, "y"]'))


# Stdin.


def test_stdin_is_json_lines_when_its_first_line_is_an_object_and_text_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdin(monkeypatch, b'\xef\xbb\xbf\n{"prompt": "a"}\n{"prompt": "b"}\n')
    assert prompts("-") == ["a", "b"]
    stdin(monkeypatch, b'a\n{"prompt": "b"}\n{c\n')
    assert prompts("-") == ["a", '{"prompt": "b"}', "{c"]
    stdin(monkeypatch, b"{a} is no JSON\nb\n")
    assert prompts("-") == ["{a} is no JSON", "b"]
    stdin(monkeypatch, b'{"prompt": "a"}\n{b\n')
    assert error_of("-").startswith("standard input line 2: is not valid JSON")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "standard input is empty"),
        (b"\n \n", "standard input is empty"),
        (b"\x89PNG\0\0", "standard input is an image, not text"),
        (b"a\0", "standard input is not text"),
        (b'[{"prompt": "a"},\n{"prompt": "b"]', "standard input is not valid JSON"),
        (b"[\n1]", "standard input row 1: is a number"),
        (b'{\n"prompt": "a"}', "standard input holds a JSON object"),
        ("a\né\n".encode("latin-1"), "there is a byte 0xe9 in line 2"),
    ],
)
def test_stdin_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str) -> None:
    stdin(monkeypatch, content)
    assert reason in error_of("-")


def test_rows_of_a_pipe_come_before_the_next_ones() -> None:
    code = (
        "from tidemill.producer.intake.tables import *\n"
        "for chunk in read('-', ReadOptions(), on_bad_row=print): print(len(chunk), flush=True)\n"
        "import sys; assert 'pandas' not in sys.modules"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b'{"prompt": "x"}\n' * 40)
        process.stdin.flush()
        assert [process.stdout.readline() for _ in range(2)] == [b"32\n", b"8\n"]
        process.stdin.write(b'{"prompt": "y"}\n')
        process.stdin.flush()
        assert process.stdout.readline() == b"1\n"
        process.stdin.close()
        assert process.stdout.readline() == b""
    assert process.returncode == 0


# Which column, which template.


def test_the_prompt_column_is_named_usual_or_the_only_one() -> None:
    assert prompts([{"text": "no", "question": "yes"}]) == ["yes"]
    assert prompts([{"id": "no", "Prompt ": "yes"}]) == ["yes"]
    assert prompts([{"custom_id": "no", "whatever": "yes"}]) == ["yes"]
    assert prompts([{"prompt": "no", "b": "yes"}], column="b") == ["yes"]
    assert prompts([{"prompt": 7}]) == ["7"]
    assert "say which holds the prompt with --column, its columns are: 'a', 'b'" in error_of([{"a": "x", "b": "y"}])
    assert error_of([{"a": "x"}], column="c") == "the input has no column 'c'; its columns are: 'a'"


def test_an_unknown_column_is_an_error_even_when_bad_rows_are_skipped(tmp_path: Path) -> None:
    path = file(tmp_path, "p.csv", "a,prompt\n1,x\n")
    for reading in ({"column": "b"}, {"template": "{b}"}):
        with pytest.raises(InputError, match=r"p\.csv has no .*'b'.*; its columns are: 'a', 'prompt'"):
            skipping(path, **reading)


def test_an_empty_cell_is_named_by_row_and_column(tmp_path: Path) -> None:
    path = file(tmp_path, "prompts.csv", "a,prompt\n" + "1,x\n" * 15 + "2,\n")
    assert "prompts.csv row 17: the column 'prompt' is empty" in error_of(path)


def test_a_template_fills_in_columns() -> None:
    row = {"a b": "x", "n": 7, "none": None, "l": [1, {"k": "ü"}], "custom_id": "c"}
    assert prompts([row], template="{{{a b}}} {n}{none} {l} {custom_id}!") == ['{x} 7 [1,{"k":"ü"}] c!']
    assert prompts(["x"], template="Say {prompt}") == ["Say x"]
    assert "row 2: the column 'a b' is missing" in error_of([row, {"n": 1}], template="{a b}")
    assert "row 1: every column of the template is empty" in error_of([row], template="Say {none}")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{b}", "has no column 'b', which the template names; its columns are: 'a'"),
        ("{a.x}", "'a.x'"),
        ("{a[0]}", "'a[0]'"),
        ("{a!r}", "{a!r} is not a plain column name"),
        ("{a:>9}", "{a:>9} is not a plain column name"),
        ('{"k": {a}}', "is not a plain column name"),
        ("{}", "{} is not a plain column name"),
        ("{a", "{{ and }} for literal braces"),
        ("a}", "{{ and }} for literal braces"),
        ("a", "no {column} placeholder"),
    ],
)
def test_a_template_that_cannot_work_says_why(template: str, reason: str) -> None:
    assert reason in error_of([{"a": "x"}], template=template)


def test_column_and_template_exclude_each_other() -> None:
    assert "drop one" in error_of(["x"], template="{prompt}", column="prompt")


# Files that are not what they seem.


@pytest.mark.parametrize("ending", [".csv", ".txt", ".jsonl", ".json", ".parquet", ".xlsx", ".bin"])
def test_a_binary_or_empty_file_is_an_error(tmp_path: Path, ending: str) -> None:
    binary = file(tmp_path, f"binary{ending}", bytes(range(256)) * 9)
    assert str(binary) in error_of(binary)
    empty = file(tmp_path, f"empty{ending}", b"")
    assert error_of(empty) == f"{empty} is empty: it holds no prompt"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"prompt,b\n", "is empty"),
        ("b.json", b"[]", "is empty"),
        ("c.jsonl", b"\n\n", "is empty"),
        ("d.csv.gz", b"\x1f\x8b\x08\0", "unpack it with gunzip"),
        ("e.txt", b"PK\x03\x04x", "give a workbook its own ending"),
        ("f.pdf", b"%PDF-1.7", "is a PDF"),
        ("g.txt", "a".encode("utf-32"), "UTF-32"),
        (
            "h.csv",
            "prompt\na\né\n".encode("latin-1"),
            "byte 0xe9 in line 3; if it is Windows-1252, as it seems, convert it with iconv -f WINDOWS-1252",
        ),
        ("i.jsonl", '{"prompt": "é"}'.encode("latin-1"), "iconv -f WINDOWS-1252 -t UTF-8"),
        ("j.json", '[{"prompt":\n"é"}]'.encode("latin-1"), "in line 2"),
        ("k.txt", b"\xff\xfea\0\x00\xd8b\0", "begins like UTF-16 but is not"),
    ],
)
def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    sentence = error_of(file(tmp_path, name, content))
    assert sentence.startswith(str(tmp_path / name))
    assert reason in sentence


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert "does not exist" in error_of(tmp_path / "missing.csv")
    assert "is a folder" in error_of(tmp_path)
    assert "cannot be read" in error_of("nul\0.csv")
    assert "cannot be read" in error_of(tmp_path / ("x" * 300))


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".txt", ".json"])
def test_utf_16_with_a_mark_is_read(tmp_path: Path, ending: str) -> None:
    text = {".csv": 'id,prompt\n1,"ü\r\n\u2028🦀"\n', ".txt": "ü 🦀\r\n"}.get(ending, '[{"prompt": "ü"}]')
    text = text[1:-1] if ending == ".jsonl" else text
    assert prompts(file(tmp_path, f"p{ending}", text.encode("utf-16"))) == prompts(file(tmp_path, f"q{ending}", text))


# Streaming.


def endless() -> Iterator[str]:
    while True:
        yield "x"


def test_the_first_chunks_are_small_the_others_hold_a_thousand_and_a_limit_stops_the_reading() -> None:
    chunks = list(read(endless(), ReadOptions(limit=2500), on_bad_row=unexpected))
    assert [len(chunk) for chunk in chunks] == [32, 256, 1000, 1000, 212]
    assert len(skipping(["", "a", "", "b", "c"], limit=2)[0]) == 2
    assert "give 1 or more" in error_of(["a"], limit=0)


def test_rows_that_are_all_bad_are_an_error_in_the_end() -> None:
    with pytest.raises(InputError, match="no row that can be used: all 3 are bad"):
        skipping(["", "", ""])


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, ending: str) -> None:
    def lines() -> Iterable[str]:
        yield "id,prompt\n" if ending == ".csv" else ""
        text = "x" * 200
        for number in range(60_000):
            yield f"{number},{text}\n" if ending == ".csv" else f'{{"id": {number}, "prompt": "{text}"}}\n'

    path = tmp_path / f"p{ending}"
    with path.open("w") as opened:
        opened.writelines(lines())
    reading = read(path, ReadOptions(), on_bad_row=unexpected)
    next(reading)
    tracemalloc.start()
    try:
        assert sum(map(len, reading)) == 60_000 - 32
        assert tracemalloc.get_traced_memory()[1] < 6_000_000  # bytes, of a file of 13 MB
    finally:
        tracemalloc.stop()


def test_a_source_that_nobody_reads_any_more_is_closed(tmp_path: Path) -> None:
    for ending in (".csv", ".jsonl", ".txt"):
        reading = read(three_as(tmp_path, ending), ReadOptions(), on_bad_row=unexpected)
        next(reading)
        reading.close()  # type: ignore[attr-defined]  # an open file would be a ResourceWarning, hence an error


def test_mappings_of_any_kind_are_rows() -> None:
    class Frozen(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            return {"prompt": b"x"}[key]

        def __iter__(self) -> Iterator[str]:
            return iter(["prompt"])

        def __len__(self) -> int:
            return 1

    assert rows([Frozen()])[0].columns == {"prompt": "x"}
