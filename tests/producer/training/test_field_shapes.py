"""Training data comes in the shapes that people have: dialects of messages, layouts of files, traces of programs."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.producer.training.columns import Columns
from tidemill.producer.training.example_files import InputSummary, examples_of
from tidemill.producer.training.examples import BadRow, Example, faults, normalised

TOOLS = json.dumps([{"name": "look", "description": "Look it up.", "parameters": {"type": "object", "properties": {}}}])
U, A = {"role": "user", "content": "P"}, {"role": "assistant", "content": "R"}


def read(*paths: object) -> tuple[list[Example], list[BadRow]]:
    rows = list(examples_of([str(path) for path in paths], Columns(), "supervised", InputSummary()))
    return [each for each in rows if isinstance(each, Example)], [each for each in rows if isinstance(each, BadRow)]


def asked(*paths: object) -> list[tuple[str, str]]:
    """Where each example is from, and what it asks."""
    examples, bad = read(*paths)
    assert bad == []
    return [(f"{each.place.unit} {each.place.line}", each.body["messages"][0]["content"]) for each in examples]


def share(*turns: tuple[str, str]) -> list[JsonObject]:
    return [{"from": speaker, "value": text} for speaker, text in turns]


CALL, RESULT = '{"name": "look", "arguments": {"q": "é"}}', '{"temperature": 20}'
HF_CALL = {"type": "function", "function": {"name": "look", "arguments": {"q": "é"}}}
DIALECTS: dict[str, list[Any]] = {
    "LLaMA-Factory": share(("human", "P"), ("function_call", CALL), ("observation", RESULT), ("gpt", "R")),
    "LLaMA-Factory, a list": share(
        ("human", "P"), ("function_call", f"[{CALL}]"), ("observation", RESULT), ("gpt", "R")
    ),
    "ShareGPT, tool": share(("human", "P"), ("tool_call", CALL), ("tool_response", RESULT), ("gpt", "R")),
    "ShareGPT, with a hyphen": share(
        ("human", "P"), ("function-call", CALL), ("function-response", RESULT), ("gpt", "R")
    ),
    "ShareGPT, function": share(("user", "P"), ("function", CALL), ("observation", RESULT), ("assistant", "R")),
    "ShareGPT, role and content": [
        U,
        {"role": "function_call", "content": CALL},
        {"role": "observation", "content": RESULT},
        A,
    ],
    "Hermes": share(
        ("human", "P"),
        ("gpt", f"<tool_call>\n{CALL}\n</tool_call>"),
        ("tool", f"<tool_response>\n{RESULT}\n</tool_response>"),
        ("gpt", "R"),
    ),
    "OpenAI's old form": [
        U,
        {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{"q": "é"}'}},
        {"role": "function", "name": "look", "content": RESULT},
        A,
    ],
    "Hugging Face": [
        U,
        {"role": "assistant", "tool_calls": [HF_CALL]},
        {"role": "tool", "name": "look", "content": RESULT},
        A,
    ],
    "OpenAI": [
        U,
        {"role": "assistant", "content": None, "tool_calls": [HF_CALL | {"id": "call_1"}]},
        {"role": "tool", "tool_call_id": "call_1", "content": RESULT},
        A,
    ],
}


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])  # Arrow gives each message the keys of all
def test_a_call_of_a_tool_is_the_same_in_every_dialect(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{ending}"
    rows = [{"conversations": turns, "tools": TOOLS, "system": "S"} for turns in DIALECTS.values()]
    if ending == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    examples, bad = read(path)
    assert bad == []
    for dialect, example in zip(DIALECTS, examples, strict=True):
        body, notes = normalised(example.body, "supervised")
        assert [*notes, *faults(body, "supervised")] == [], dialect
        system, user, call, result, reply = body["messages"]
        assert (system["content"], user, reply) == ("S", U, A), dialect
        (only,) = call["tool_calls"]
        assert (only["type"], only["function"]["name"]) == ("function", "look"), dialect
        assert json.loads(only["function"]["arguments"]) == {"q": "é"}, dialect
        assert result == {"role": "tool", "tool_call_id": only["id"], "content": RESULT}, dialect


def test_several_calls_at_once_keep_their_results(tmp_path: Path) -> None:
    other = '{"name": "count", "arguments": {}}'
    path = tmp_path / "rows.jsonl"
    rows = [
        share(("human", "P"), ("function_call", f"[{CALL}, {other}]"), *[("observation", "1"), ("observation", "2")]),
        share(("human", "P"), ("function_call", CALL), ("function_call", other), *[("observation", n) for n in "12"]),
        share(("human", "P"), ("function_call", f"[{CALL}, {other}]"), ("observation", "[1, 2]")),
        share(
            ("human", "P"),
            ("gpt", f"Let me see. <tool_call>{CALL}</tool_call><tool_call>{other}</tool_call>"),
            ("tool", "<tool_response>1</tool_response>\n<tool_response>2</tool_response>"),
        ),
    ]
    path.write_text("".join(json.dumps({"conversations": [*row, *share(("gpt", "R"))]}) + "\n" for row in rows))
    examples, bad = read(path)
    assert (len(examples), bad) == (len(rows), [])
    for example in examples:
        body, _ = normalised(example.body, "supervised")
        assert faults(body, "supervised") == []
        _, call, *results, _ = body["messages"]
        names = {each["id"]: each["function"]["name"] for each in call["tool_calls"]}
        told = {names[each["tool_call_id"]]: each["content"] for each in results}
        assert told == {"look": "1", "count": "2"}
    assert examples[-1].body["messages"][1]["content"] == "Let me see."


def test_a_call_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for value in ("look(q)", "{}", "[]", '{"arguments": {}}'):
        turns = share(("human", "P"), ("function_call", value), ("observation", "1"), ("gpt", "R"))
        path.write_text(json.dumps({"conversations": turns}))
        assert [each.code for each in read(path)[1]] == ["bad_row"], value


def test_what_another_trainer_does_not_learn_has_weight_0(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for key, value in (("loss", False), ("train", 0), ("weight", 0)):
        turns = [U | {key: value} if key != "weight" else U, A | {key: value}, U, A | {key: 1}]
        path.write_text(json.dumps({"messages": turns}))
        body, notes = normalised(read(path)[0][0].body, "supervised")
        assert [each.get("weight") for each in body["messages"]] == [None, 0, None, 1]
        assert [*notes, *faults(body, "supervised")] == []


ROWS = [{"prompt": f"P{number}", "completion": "R"} for number in (1, 2)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
LAYOUTS = {
    "lines": (LINES, "line"),
    "lines with blank ones": (f"\n{LINES.replace(chr(10), chr(10) * 2)}", "line"),
    "a list": (json.dumps(ROWS), "row"),
    "a list over lines": (json.dumps(ROWS, indent=2), "row"),
    "a list, an object a line": ("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n", "row"),
}


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".ndjson", ".jsonl.gz", ".json.bz2", ".jsonl.xz"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_json_is_read_whatever_its_layout_and_ending(layout: str, ending: str, tmp_path: Path) -> None:
    text, unit = LAYOUTS[layout]
    packers: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    pack = packers.get(Path(ending).suffix, bytes)
    path = tmp_path / f"rows{ending}"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes(pack(text.encode(encoding)))
        found = asked(path)
        assert [prompt for _, prompt in found] == ["P1", "P2"]
        assert found[0][0].startswith(unit)


def test_a_list_that_is_no_json_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([*ROWS, {"prompt": "P", "completion": float("nan")}], indent=1))
    with pytest.raises(InputError, match=r"rows\.json is not valid JSON \(NaN is not a JSON number\)"):
        read(path)


def test_a_folder_of_json_is_read_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS[0], indent=1))
    (tmp_path / "b.json").write_text(json.dumps(ROWS))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    (tmp_path / "dataset_info.json").write_text('{"rows": {"file_name": "a.json"}}')
    examples, bad = read(tmp_path)
    assert [each.body["messages"][0]["content"] for each in examples] == ["P1", "P1", "P2", "P1", "P2"]
    assert [(each.code, Path(each.place.file).name) for each in bad] == [("unused", "dataset_info.json")]
    with pytest.raises(InputError, match="has no columns with usual names"):
        read(tmp_path / "dataset_info.json")


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nprompt;completion\n{}",
        "sep=;\r\nprompt;completion\r\n{}",
        '"sep=;"\nprompt;completion\n{}',
        "sep=|\nprompt|completion\n{}",
        "sep=\t\nprompt\tcompletion\n{}",
        "SEP=;\nprompt;completion\n{}",
        "sep=,\nprompt,completion\n{}",
        "prompt;completion\n{}",
        "prompt\tcompletion\n{}",
        "prompt,completion\n{}",
    ],
)
def test_a_delimiter_is_named_or_seen(text: str, tmp_path: Path) -> None:
    header = text.splitlines()[-2]
    delimiter = header.removeprefix("prompt").removesuffix("completion")
    rows = "".join(f'"P, {n}; {n}"{delimiter}R\n' for n in (1, 2))
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path = tmp_path / "rows.csv"
        path.write_bytes(text.format(rows).encode(encoding))
        assert asked(path) == [("row 2", "P, 1; 1"), ("row 3", "P, 2; 2")]


def test_compressed_tables_are_read_and_broken_ones_are_one_sentence(tmp_path: Path) -> None:
    whole = gzip.compress(("prompt,completion\n" + "".join(f"P{n},{n * n}\n" for n in range(9_999))).encode())
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(whole)
    assert len(read(path)[0]) == 9_999
    for broken in (whole[: len(whole) // 2], whole[:20] + b"\0\0\0\0" + whole[24:], b"no archive", whole[:-3]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"rows\.csv\.gz (is no whole archive|cannot be read)"):
            read(path)
    (tmp_path / "rows.xlsx.gz").write_bytes(whole)
    with pytest.raises(InputError, match="is text, and not a workbook"):
        read(tmp_path / "rows.xlsx.gz")


def test_cells_that_a_spreadsheet_has_cut_are_a_warning_each(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    cells = ["x" * 32_767, "x" * 32_766, "é" * 32_767, "🦀" * 16_383 + "x", "x" * 50_000, "x" * 65_535, "x" * 32_768]
    path.write_text("prompt,completion\n" + "".join(f"P,{cell}\n" for cell in cells))
    examples, bad = read(path)
    assert len(examples) == len(cells)
    assert [(each.code, each.place.line) for each in bad] == [("cut_cell", row) for row in (2, 4, 5, 6, 7)]
    lines = tmp_path / "rows.jsonl"
    lines.write_text(json.dumps({"messages": [U, A | {"content": cells[0]}]}))
    assert [each.code for each in read(lines)[1]] == ["cut_cell"]
