"""Files, folders and files of what not to say become examples, each with the place by which its owner knows it."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tidemill.models.errors import InputError
from tidemill.producer.training.columns import Columns
from tidemill.producer.training.example_files import InputSummary, examples_of, tables_in
from tidemill.producer.training.examples import BadRow, Example


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield


def table(name: str, *rows: tuple[Any, Any], header: str = "prompt,completion") -> str:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *(f"{prompt},{reply}" for prompt, reply in rows)]) + "\n")
    return name


def lines(name: str, *objects: Any) -> str:
    Path(name).write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in objects))
    return name


def read(
    *paths: str, method: str = "supervised", negatives: tuple[str, ...] = ()
) -> tuple[list[Example], list[BadRow], InputSummary]:
    inputs = InputSummary()
    rows = list(examples_of(paths, Columns(), method, inputs, negatives=negatives))
    return (
        [each for each in rows if isinstance(each, Example)],
        [each for each in rows if isinstance(each, BadRow)],
        inputs,
    )


def replies(examples: list[Example]) -> list[Any]:
    return [(str(each.place), each.body["messages"][-1]["content"]) for each in examples]


def test_a_folder_is_read_by_name_and_what_is_no_table_is_left_out() -> None:
    table("folder/b.csv", ("q2", "a2"))
    table("folder/a.tsv", header="prompt\tcompletion\nq1\ta1")
    pd.DataFrame({"question": ["q3", None], "answer": [18, "a4"]}).to_excel("folder/c.xlsx", index=False)
    lines("folder/d.jsonl", {"instruction": "q5", "output": "a5"})
    for name in ("folder/notes.docx", "folder/.hidden.csv", "folder/~$c.xlsx"):
        Path(name).write_bytes(b"x")
    Path("folder/inner.csv").mkdir()
    examples, bad, inputs = read("folder")
    assert replies(examples) == [
        ("folder/a.tsv row 2", "a1"),
        ("folder/b.csv row 2", "a2"),
        ("folder/c.xlsx row 2", "18"),
        ("folder/c.xlsx row 3", "a4"),
        ("folder/d.jsonl line 1", "a5"),
    ]
    assert bad == []
    assert [(each.file, each.rows, each.columns) for each in inputs.files][-1] == (
        "folder/d.jsonl",
        1,
        "instruction → output",
    )
    assert inputs.left_out == [".hidden.csv", "notes.docx", "~$c.xlsx"]


def test_bad_lines_are_reported_in_their_places_and_the_rest_is_read() -> None:
    good = {"prompt": "q", "completion": "a"}
    examples, bad, inputs = read(lines("x.jsonl", "{broken", good, "[1]", {"other": 1}, good))
    assert [str(each.place) for each in examples] == ["x.jsonl line 2", "x.jsonl line 5"]
    assert [str(each.place) for each in bad] == ["x.jsonl line 1", "x.jsonl line 3", "x.jsonl line 4"]
    assert inputs.files[0].rows == 5


def test_many_bad_lines_at_once_are_counted_and_not_kept() -> None:
    _, bad, _ = read(lines("x.jsonl", *["{broken"] * 3_000, {"prompt": "q", "completion": "a"}))
    assert len(bad) == 1_000
    assert sum(each.times for each in bad) == 3_000


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", "foo,bar\n1,2\n", "x.csv has no columns with usual names"),
        ("x.jsonl", '{"foo": 1}\n{"foo": 2}\n', "x.jsonl has no columns with usual names"),
        ("x.csv", "", "there is no row in it"),
        ("x.csv", "prompt,completion\n", "there is no row in it"),
        ("x.csv", 'prompt,completion\n"open,x\n', "never closed"),
        ("x.csv", b"prompt,completion\ncaf\xe9,a\n", "is not UTF-8"),
        ("y.csv", "", "does not exist"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(name: str, content: str | bytes, says: str) -> None:
    if name.startswith("x"):
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=says):
        read(name)


def test_a_byte_that_is_not_utf8_costs_its_line_only() -> None:
    good = b'{"prompt": "q", "completion": "a"}\n'
    Path("x.jsonl").write_bytes(good + b'{"prompt": "caf\xe9", "completion": "a"}\n' + good)
    examples, bad, _ = read("x.jsonl")
    assert len(examples) == 2
    assert [(str(each.place), each.why[:39]) for each in bad] == [
        ("x.jsonl line 2", "is not UTF-8: there is a byte 0xe9; if ")
    ]


def test_a_file_that_was_named_twice_is_said() -> None:
    table("d.csv", ("q", "a"))
    with pytest.raises(InputError, match=r"d\.csv was named twice, as examples and with --negative"):
        read("./d.csv", negatives=("d.csv",))
    with pytest.raises(InputError, match=r"d\.csv was named twice, as examples and with --validation"):
        list(examples_of(["d.csv"], Columns(), "supervised", InputSummary(), without=["d.csv"]))
    table("folder/e.csv", ("q", "a"))
    with pytest.raises(InputError, match="folder: each table in it was also named with --negative"):
        read("folder", negatives=("folder/e.csv",))


def test_from_a_pipe_json_lines_and_csv_are_read_and_text_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def piped(content: bytes) -> list[str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        examples, bad, _ = read("-")
        return [str(each.place) for each in examples] + [str(each.place) for each in bad if each.code == "bad_row"]

    good = b'{"prompt": "q", "completion": "a"}\n'
    assert piped(b"\xef\xbb\xbf" + good + b"{broken\n" + good) == [
        "standard input line 1",
        "standard input line 3",
        "standard input line 2",
    ]
    assert piped(b"prompt,completion\nq,a\n") == ["standard input row 2"]
    with pytest.raises(InputError, match="standard input does not begin with a JSON object or a header"):
        piped(b"Why is the sky blue?\n")
    with pytest.raises(InputError, match="no row in it"):
        piped(b"")


def test_two_columns_of_one_name_are_noted_and_the_first_is_used() -> None:
    Path("x.csv").write_text("prompt,note,Completion,completion,note\nq,1,a,b,2\nq2,1,a2,b2,2\n")
    examples, notes, _ = read("x.csv")
    assert [reply for _, reply in replies(examples)] == ["a", "a2"]
    assert [(each.code, each.why) for each in notes] == [
        ("same_columns", "more than one column is called 'Completion'; the first is used")
    ]
    Path("y.csv").write_text("prompt,completion,completion\nq,a,b\n")
    assert [each.code for each in read("y.csv")[1]] == ["same_columns"]


def test_a_folder_without_tables_is_said() -> None:
    Path("empty").mkdir()
    with pytest.raises(InputError, match="no table in this folder"):
        read("empty")


def test_a_file_of_what_not_to_say_has_weight_0_and_is_read_once_in_a_folder() -> None:
    table("folder/good.csv", ("q", "a"))
    bad = table("folder/bad.csv", ("q", "no"))
    examples, _, inputs = read("folder", negatives=(bad,))
    assert [(str(each.place), each.body["messages"][-1].get("weight")) for each in examples] == [
        ("folder/good.csv row 2", None),
        ("folder/bad.csv row 2", 0),
    ]
    assert [each.use for each in inputs.files] == ["examples", "what not to say"]


def test_preferences_are_made_of_pairs_and_the_rest_is_left_out_and_said() -> None:
    good = table("good.csv", ("q1", "a1"), ("q2", "a2"), ("q1 ", "a1 again"), ("Q1", "a1 in capitals"), ("q4", ""))
    bad = table("bad.csv", ("q1", "n1"), ("q3", "n3"), ("q1", "n2"))
    examples, left, _ = read(good, method="dpo", negatives=(bad,))
    assert [
        (each.body["preferred_output"][0]["content"], each.body["non_preferred_output"][0]["content"])
        for each in examples
    ] == [("a1", "n1"), ("a1", "n2"), ("a1 again", "n1")]
    assert examples[0].body["input"] == {"messages": [{"role": "user", "content": "q1"}]}
    assert [(str(each.place), each.code) for each in left] == [
        ("good.csv row 3", "no_pair"),
        ("good.csv row 5", "no_pair"),
        ("good.csv row 6", "empty_text"),
        ("bad.csv row 3", "no_pair"),
    ]


def test_one_reply_is_no_preference() -> None:
    _, bad, _ = read(table("good.csv", ("q1", "a1")), method="dpo")
    assert [each.code for each in bad] == ["no_rejected"]


def test_a_glob_names_tables_and_nothing_secret_of_an_address_is_in_the_report() -> None:
    for name in ("t10.csv", "t2.csv", "other.txt"):
        Path(name).touch()
    assert tables_in(["t*.csv"], InputSummary()) == ["t2.csv", "t10.csv"]
    with pytest.raises(InputError, match=r"u\*\.csv fits no file"):
        tables_in(["u*.csv"], InputSummary())
    assert InputSummary().add("https://me:canary@host/a.csv?key=canary", "examples").file == "https://host/a.csv"
