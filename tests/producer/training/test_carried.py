"""Nothing that a row carries beside its messages vanishes, in any shape: it is in the example or it is a finding."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tidemill.models.json_types import JsonObject
from tidemill.producer.training.columns import Columns
from tidemill.producer.training.datasets import DatasetOptions, build
from tidemill.producer.training.example_files import InputSummary, examples_of
from tidemill.producer.training.examples import BadRow, faults, normalised

U, A = {"role": "user", "content": "P"}, {"role": "assistant", "content": "R"}
N = {"role": "assistant", "content": "N"}
FUNCTION = {"name": "look", "description": "Look it up.", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
FLAT = {"type": "function"} | FUNCTION  # as the Responses API has it

# shape -> method, row
SHAPES: dict[str, tuple[str, JsonObject]] = {
    "messages": ("supervised", {"messages": [U, A]}),
    "messages as text": ("supervised", {"messages": json.dumps([U, A])}),
    "prompt and completion": ("supervised", {"prompt": "P", "completion": "R"}),
    "question and answer": ("supervised", {"question": "P", "answer": "R"}),
    "TRL, message lists": ("supervised", {"prompt": [U], "completion": [A]}),
    "TRL, message lists as text": ("supervised", {"prompt": json.dumps([U]), "completion": json.dumps([A])}),
    "TRL, single messages": ("supervised", {"prompt": U, "completion": A}),
    "ShareGPT": (
        "supervised",
        {"conversations": [{"from": "human", "value": "P"}, {"from": "gpt", "value": "R"}]},
    ),
    "ShareGPT, role and content": ("supervised", {"conversations": [U, A]}),
    "Alpaca": ("supervised", {"instruction": "P", "input": "", "output": "R"}),
    "preference, text": ("dpo", {"prompt": "P", "chosen": "R", "rejected": "N"}),
    "preference, message lists": ("dpo", {"prompt": [U], "chosen": [A], "rejected": [N]}),
    "preference, list and text": ("dpo", {"prompt": [U], "chosen": "R", "rejected": "N"}),
    "preference, whole dialogues": ("dpo", {"chosen": [U, A], "rejected": [U, N]}),
    "preference, whole dialogues and a prompt": ("dpo", {"prompt": "P", "chosen": [U, A], "rejected": [U, N]}),
    "preference, OpenAI's": (
        "dpo",
        {"input": {"messages": [U]}, "preferred_output": [A], "non_preferred_output": [N]},
    ),
    "preference, ShareGPT": (
        "dpo",
        {
            "conversations": [{"from": "human", "value": "P"}],
            "chosen": {"from": "gpt", "value": "R"},
            "rejected": {"from": "gpt", "value": "N"},
        },
    ),
    "preference, Alpaca": ("dpo", {"instruction": "P", "input": "", "chosen": "R", "rejected": "N"}),
}
TOOLS = {"tools": [TOOL]}
SYSTEM = {"messages": [{"role": "system", "content": "S"}]}
NOTHING: JsonObject = {}
# what is carried -> columns, what the example has of it
CARRIED: dict[str, tuple[JsonObject, JsonObject]] = {
    "system": ({"system": "S"}, SYSTEM),
    "system_prompt": ({"system_prompt": "S"}, SYSTEM),
    "tools": ({"tools": [TOOL]}, TOOLS),
    "tools as text": ({"Tools": json.dumps([TOOL])}, TOOLS),
    "tools as bare functions": ({"tools": json.dumps([FUNCTION])}, TOOLS),
    "tools as a list of texts": ({"tools": [json.dumps(TOOL)]}, TOOLS),
    "tools in the flat form": ({"tools": [FLAT]}, TOOLS),
    "tools padded by Arrow": ({"tools": [TOOL | {"strict": None}]}, TOOLS),
    "functions": ({"functions": [FUNCTION]}, TOOLS),
    "both": ({"system": "S", "tools": [TOOL], "functions": [FUNCTION]}, SYSTEM | TOOLS),
    "parallel_tool_calls": ({"tools": [TOOL], "parallel_tool_calls": False}, TOOLS | {"parallel_tool_calls": False}),
    "empty": ({"system": " ", "tools": "", "functions": "[]", "history": ""}, NOTHING),
    "null": (dict.fromkeys(("system", "tools", "functions", "parallel_tool_calls", "history", "context")), NOTHING),
    "null as text": ({"system": "None", "tools": "null", "history": "NaN"}, NOTHING),
}


def taken(row: JsonObject, method: str, folder: Path, **columns: Any) -> tuple[JsonObject | None, list[str]]:
    """The example of a row, and the codes of what is said about it."""
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    made = list(examples_of([str(path)], Columns(**columns), method, InputSummary()))
    codes = [each.code for each in made if isinstance(each, BadRow)]
    for example in made:
        if not isinstance(example, BadRow):
            body, notes = normalised(example.body, method)
            return body, codes + [code for code, _ in (*notes, *faults(body, method))]
    return None, codes


def replies(body: JsonObject) -> list[str]:
    last = [body["messages"]] if "messages" in body else [body["preferred_output"], body["non_preferred_output"]]
    return [each[-1]["content"] for each in last]


def test_what_is_carried_is_in_the_example_whatever_its_shape(tmp_path: Path) -> None:
    for (shape, (method, row)), (carried, (cells, has)) in product(SHAPES.items(), CARRIED.items()):
        body, codes = taken(row | cells, method, tmp_path)
        told = (shape, carried, codes, body)
        assert body is not None, told
        assert codes == [], told
        offered = body if method == "supervised" else body["input"]
        prompt = offered["messages"] if method == "dpo" else offered["messages"][:-1]
        assert prompt == [*has.get("messages", []), U], told
        assert {key: value for key, value in offered.items() if key != "messages"} == {
            key: value for key, value in has.items() if key != "messages"
        }, told
        assert replies(body) == (["R", "N"] if method == "dpo" else ["R"]), told


def test_what_an_example_cannot_hold_is_a_warning_in_every_shape(tmp_path: Path) -> None:
    for (shape, (method, row)), name in product(SHAPES.items(), ("context", "images", "documents", "label")):
        body, codes = taken(row | {name: "something", "id": "7"}, method, tmp_path)
        assert (body is not None, codes) == (True, ["unused"]), (shape, name, codes)
    for shape in ("messages", "ShareGPT"):  # whose dialogue is whole already
        assert taken(SHAPES[shape][1] | {"history": [["Q", "B"]]}, "supervised", tmp_path)[1] == ["unused"]


def test_a_system_text_that_is_there_twice_is_one_or_an_error(tmp_path: Path) -> None:
    system = {"role": "system", "content": "S"}
    rows: list[tuple[str, JsonObject]] = [
        ("supervised", {"messages": [system, U, A]}),
        ("supervised", {"conversations": [{"from": "system", "value": " S "}, *[U, A]]}),
        ("supervised", {"prompt": [system, U], "completion": "R"}),
        ("dpo", {"prompt": [system, U], "chosen": [A], "rejected": [N]}),
        ("dpo", {"chosen": [system, U, A], "rejected": [system, U, N]}),
        ("dpo", {"input": {"messages": [U], "system": "S"}, "preferred_output": [A], "non_preferred_output": [N]}),
    ]
    for method, row in rows:
        body, codes = taken(row | {"system": "S"}, method, tmp_path)
        assert body is not None, row
        assert codes == [], row
        messages = body["messages"] if method == "supervised" else body["input"]["messages"]
        assert [each["role"] for each in messages].count("system") == 1
        assert taken(row | {"system": "another"}, method, tmp_path) == (None, ["bad_row"]), row
        assert taken(row, method, tmp_path, system_text="for those without")[1] == [], row


def test_alpaca_s_history_comes_before_the_instruction(tmp_path: Path) -> None:
    for history in ([["Q", "B"]], '[["Q", "B"]]', [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "B"}]):
        row = {"instruction": "P", "input": "more", "output": "R", "history": history, "system": "S"}
        body, codes = taken(row, "supervised", tmp_path)
        assert codes == []
        assert body is not None
        assert [each["content"] for each in body["messages"]] == ["S", "Q", "B", "P\n\nmore", "R"]
    assert taken(SHAPES["Alpaca"][1] | {"history": [["Q"]]}, "supervised", tmp_path) == (None, ["bad_row"])


@pytest.mark.parametrize("mark", [True, False, "True", "false"])
def test_rows_that_are_marked_good_or_bad_are_refused(mark: object, tmp_path: Path) -> None:
    for shape in ("prompt and completion", "TRL, message lists", "ShareGPT"):
        for name in ("label", "kto_tag"):
            assert taken(SHAPES[shape][1] | {name: mark}, "supervised", tmp_path) == (None, ["bad_row"])


def test_text_that_looks_like_json_stays_text(tmp_path: Path) -> None:
    for text in ('[{"a": 1}]', '{"role": "admin", "name": "Jo"}', '{"name": "x"}', "[1, 2]", '[{"role": "admin"}]'):
        body, codes = taken({"prompt": text, "completion": text}, "supervised", tmp_path)
        assert codes == []
        assert body is not None
        assert [each["content"] for each in body["messages"]] == [text, text]


def test_a_whole_dialogue_that_is_about_another_prompt_is_an_error(tmp_path: Path) -> None:
    other = {"role": "user", "content": "another"}
    row = {"prompt": "P", "chosen": [other, A], "rejected": [other, N]}
    assert taken(row, "dpo", tmp_path) == (None, ["bad_row"])
    earlier = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "B"}]
    body, _ = taken({"prompt": "P", "chosen": [*earlier, U, A], "rejected": [*earlier, U, N]}, "dpo", tmp_path)
    assert body is not None
    assert body["input"]["messages"] == [*earlier, U]  # the dialogue says more than its prompt


def test_unused_columns_are_named_once_in_the_report(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,question,answer,context,source\n" + "".join(f"{n},Q {n},A {n}.,C,web\n" for n in range(12)))
    inputs = InputSummary()
    rows = examples_of([str(path)], Columns(), "supervised", inputs)
    report = build(rows, DatasetOptions(), tmp_path, inputs=inputs).report
    assert "not used: id, context, source" in report.text()
    assert report.findings.counts["unused"] == 1
    assert [str(each.place) for each in report.findings.kept["unused"]] == [f"{path} row 2"]
    assert report.to_json()["files"][0]["unused"] == ["id", "context", "source"]
