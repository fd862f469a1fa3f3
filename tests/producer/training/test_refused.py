"""What a provider refuses is an error before anything is sent, and what only tables have put there is put right."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tidemill.models.json_types import JsonObject
from tidemill.producer.training.columns import Columns
from tidemill.producer.training.datasets import DatasetOptions, build
from tidemill.producer.training.example_files import InputSummary, examples_of
from tidemill.producer.training.examples import Example, Place, faults, key_of, normalised, remarks

U, A = {"role": "user", "content": "P"}, {"role": "assistant", "content": "R"}
PARAMETERS: JsonObject = {"type": "object", "properties": {"a": {"type": "string"}}}


def tool(parameters: object = PARAMETERS, name: str = "look") -> JsonObject:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def call(arguments: object = "{}", own_id: str = "c1", name: str = "look") -> JsonObject:
    return {"id": own_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def checked(body: JsonObject, method: str = "supervised") -> tuple[JsonObject, list[str]]:
    """The body as it is written, and the codes of its notes and faults."""
    tidy, notes = normalised(body, method)
    return tidy, [code for code, _ in (*notes, *faults(tidy, method))]


SPECIAL = (
    *("<|endoftext|>", "<|startoftext|>", "<|endofprompt|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>"),
    *("<|constrain|>", "<|return|>", "<|call|>", "<|reserved_200013|>"),
)


@pytest.mark.parametrize("token", SPECIAL)
def test_special_tokens_are_an_error_wherever_they_stand(token: str) -> None:
    text = f"see {token} here"
    described = {"type": "function", "function": {"name": "look", "description": text, "parameters": PARAMETERS}}
    bodies: list[JsonObject] = [
        {"messages": [U | {"content": text}, A]},
        {"messages": [U, A | {"content": text}]},
        {"messages": [{"role": "system", "content": text}, U, A]},
        {"messages": [U | {"content": [{"type": "text", "text": text}]}, A]},
        {"messages": [U, {"role": "assistant", "refusal": text}]},
        {"messages": [U, {"role": "assistant", "tool_calls": [call(json.dumps({"a": text}))]}]},
        {"messages": [U, A], "tools": [described]},
    ]
    for body in bodies:
        assert checked(body)[1] == ["special_token"], body
    preference = {"input": {"messages": [U]}, "preferred_output": [A], "non_preferred_output": [A | {"content": text}]}
    assert checked(preference, "dpo")[1] == ["special_token"]


def test_what_only_looks_like_a_special_token_is_none() -> None:
    for text in ("a <| b |> c", "<|", "|>", "x <|> y", "if (a <|b|> c)", "<| endoftext |>", "< |im_end| >"):
        assert checked({"messages": [U, A | {"content": text}]})[1] == []


@pytest.mark.parametrize("text", ["<|eot_id|>", "<|user|>\nHi", "[INST] Hi [/INST]", "<｜end▁of▁sentence｜>"])
def test_the_frame_of_another_model_is_a_warning(text: str) -> None:
    assert [each.code for each in remarks({"messages": [U, A | {"content": f"{text}."}]}, "supervised")] == ["template"]


@pytest.mark.parametrize(
    "parameters",
    [
        "a string",
        [],
        {"a": {"type": "string"}},
        {},
        {"type": "string"},
        {"type": "object", "properties": {"a": {"type": "str"}}},
        {"type": "object", "properties": {"a": {"type": "List[int]"}}},
        {"type": "object", "properties": ["a"]},
        {"type": "object", "properties": {"a": "string"}},
        {"type": "object", "properties": {"a": {"type": "string", "required": True}}},
        {"type": "object", "required": "a"},
        {"type": "object", "properties": {"a": {"enum": "x"}}},
        {"type": "object", "properties": {"a": {"type": "array"}}},
        {"type": "object", "properties": {"a": {"anyOf": [{"type": "array"}, {"type": "null"}]}}},
        {"$schema": 7, "type": "object"},
    ],
)
def test_parameters_that_are_no_schema_are_an_error(parameters: object) -> None:
    assert checked({"messages": [U, A], "tools": [tool(parameters)]})[1] == ["bad_tools"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"a": {"type": ["string", "null"], "default": None}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"enum": ["x", None]}}, "additionalProperties": False},
        {"type": "object", "properties": {"a": True, "b": {"const": None}, "c": {"default": None}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "integer"}}},
        {"type": "object", "properties": {"type": {"type": "string"}, "items": {"type": "array", "items": {}}}},
    ],
)
def test_sound_parameters_stay_as_they_are(parameters: JsonObject) -> None:
    body = {"messages": [U, A], "tools": [tool(parameters)]}
    assert checked(body) == (body, [])


def test_a_description_that_is_no_text_is_an_error() -> None:
    described = {"type": "function", "function": {"name": "look", "description": 7}}
    assert checked({"messages": [U, A], "tools": [described]})[1] == ["bad_tools"]


def test_null_that_arrow_fills_in_is_left_out_and_said(tmp_path: Path) -> None:
    other = {"type": "object", "properties": {"b": {"type": "integer", "enum": [1, 2]}}, "required": ["b"]}
    row = {
        "messages": [
            {"role": "user", "content": "P", "name": None},
            {"role": "assistant", "tool_calls": [call({"a": "x", "n": None}), call({"b": 1}, "c2", "count")]},
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
            {"role": "tool", "tool_call_id": "c2", "content": "2"},
            A,
        ],
        "tools": [tool(), tool(other, "count"), {"type": "function", "function": {"name": "stop"}}],
    }
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist([row]), path)
    (example,) = examples_of([str(path)], Columns(), "supervised", InputSummary())
    assert isinstance(example, Example)
    assert '"b": null' in json.dumps(example.body)  # Arrow has done it
    body, codes = checked(example.body)
    assert codes == ["nulls"]
    assert "null" not in json.dumps(body)
    assert body["tools"] == row["tools"]
    arguments = [each["function"]["arguments"] for each in body["messages"][1]["tool_calls"]]
    assert list(map(json.loads, arguments)) == [{"a": "x"}, {"b": 1}]


def test_null_stays_where_a_tool_takes_it() -> None:
    nullable = {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}
    body = {
        "messages": [U, {"role": "assistant", "tool_calls": [call({"a": None, "z": None})]}],
        "tools": [tool(nullable)],
    }
    tidy, codes = checked(body)
    assert codes == ["nulls"]
    assert tidy["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a":null}'


@pytest.mark.parametrize(
    ("calls", "code"),
    [
        ([call("[1]")], "bad_tool_call"),
        ([call('"{}"')], "bad_tool_call"),
        ([call("{'a': 1}")], "bad_tool_call"),
        ([call(name="no name")], "bad_tool_call"),
        ([call(name="x" * 65)], "bad_tool_call"),
        ([call(), call()], "bad_tool_call"),
    ],
)
def test_calls_that_the_api_refuses(calls: list[Any], code: str) -> None:
    assert code in checked({"messages": [U, {"role": "assistant", "tool_calls": calls}]})[1]


def test_a_part_too_large_to_upload_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.producer.training.datasets._LARGEST_FILE_BYTES", 1_000)
    rows = (
        Example(Place("x", n), {"messages": [U | {"content": f"P {n}"}, A | {"content": f"R {n}"}]}) for n in range(20)
    )
    report = build(rows, DatasetOptions(skip_bad_rows=True), tmp_path).report
    assert report.findings.counts["too_large"] == 1
    assert report.stops()


def test_rows_with_other_tools_are_other_examples() -> None:
    assert key_of([U]) != key_of([U], tools=[tool()])
    assert key_of([U], tools=[tool()]) == key_of([U], tools=[tool()])


@pytest.mark.parametrize(
    ("reply", "is_cut"),
    [
        ("等等……", False),
        ("他没有说完…", False),
        ("そうですね...", False),
        ("以上です。", False),
        ("Не знаю…", False),
        ("그렇군요...", False),
        ("لا أعرف...", False),
        ("It is because of the…", True),
        ("Das ist, weil...", True),
        ("首先，", True),
        ("First, it is an exam-", True),
    ],
)
def test_an_ellipsis_cuts_only_where_it_is_no_way_to_end(reply: str, is_cut: bool) -> None:
    codes = [each.code for each in remarks({"messages": [U, A | {"content": reply}]}, "supervised")]
    assert codes == (["cut_off"] if is_cut else [])


def test_written_lines_survive_every_splitter(tmp_path: Path) -> None:
    ends = "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e\r\n"
    rows = (
        Example(Place("x", n), {"messages": [U | {"content": f"a{ends}{n}"}, A | {"content": f"b{ends}c{n}."}]})
        for n in range(12)
    )
    train = build(rows, DatasetOptions(), tmp_path).train
    written = train.path.read_bytes()
    assert len(written.decode().splitlines()) == len(written.splitlines()) == len(list(io.BytesIO(written))) == 12
    assert json.loads(written.splitlines()[0])["messages"][0]["content"] == f"a{ends}0"
