"""Columns are found by their usual names or as the user says, and what does not fit is a sentence with the way out."""

from typing import Any

import pytest

from tidemill.models.json_types import JsonObject
from tidemill.producer.intake.records import BadRowError
from tidemill.producer.training.columns import Columns, Shape, body_of, shape_of


def made(record: JsonObject, method: str = "supervised", **columns: str) -> Any:
    chosen = Columns(**columns)
    shape = shape_of(record, chosen, method)
    assert isinstance(shape, Shape), shape
    return body_of(record, shape, chosen)


def pair(prompt: str = "P", reply: str = "R", system: str | None = None) -> JsonObject:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    return {"messages": [{"role": "system", "content": system}, *messages] if system else messages}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "P", "completion": "R"},
        {"Question": "P", "ANSWER": "R", "id": "7"},
        {"input": "P", "output": "R"},
        {"instruction": "P", "response": "R"},
        {"instruction": "P", "input": "", "output": "R"},
        {" Prompt ": "P", "Reply": "R"},
        {"messages": pair()["messages"]},
        {"messages": '[{"role": "user", "content": "P"}, {"role": "assistant", "content": "R"}]'},
        {"conversations": [{"from": "human", "value": "P"}, {"from": "gpt", "value": "R"}]},
    ],
)
def test_usual_names_are_found(record: JsonObject) -> None:
    assert made(record) == pair()


def test_named_columns_go_before_usual_ones() -> None:
    record = {"prompt": "x", "completion": "y", "messages": "z", "Frage": "P", "Antwort": "R", "Rolle": "S"}
    assert made(record, prompt="Frage", reply="Antwort", system="Rolle") == pair(system="S")


def test_alpaca_s_input_goes_below_the_instruction() -> None:
    assert made({"instruction": "Sum up", "input": "a text", "output": "R"}) == pair("Sum up\n\na text")


def test_a_system_text_is_put_before_what_has_none() -> None:
    assert made({"prompt": "P", "completion": "R"}, system_text="S") == pair(system="S")
    assert made({"prompt": "P", "completion": "R", "system": "own"}, system_text="S") == pair(system="own")
    assert made({"prompt": "P", "completion": "R", "system": " "}, system_text="S") == pair(system="S")
    assert made(pair(system="own"), system_text="S") == pair(system="own")


def test_tools_come_along() -> None:
    assert made(pair() | {"tools": "[]", "parallel_tool_calls": True}) == pair() | {
        "tools": [],
        "parallel_tool_calls": True,
    }


def test_numbers_are_text_and_nothing_is_empty() -> None:
    assert made({"prompt": 7, "completion": None}) == pair("7", "")


PREFERENCE = {
    "input": {"messages": [{"role": "user", "content": "P"}]},
    "preferred_output": [{"role": "assistant", "content": "R"}],
    "non_preferred_output": [{"role": "assistant", "content": "N"}],
}


@pytest.mark.parametrize(
    "record",
    [
        PREFERENCE,
        {"prompt": "P", "preferred": "R", "non-preferred": "N"},
        {"question": "P", "chosen": "R", "rejected": "N"},
        {
            "prompt": "P",
            "chosen": [{"role": "user", "content": "P"}, {"role": "assistant", "content": "R"}],
            "rejected": [{"role": "user", "content": "P"}, {"role": "assistant", "content": "N"}],
        },
        {
            "chosen": [{"role": "user", "content": "P"}, {"role": "assistant", "content": "R"}],
            "rejected": [{"from": "human", "value": "P"}, {"from": "gpt", "value": "N"}],
        },
        {
            "chosen": '[{"role": "user", "content": "P"}, {"role": "assistant", "content": "R"}]',
            "rejected": "\n\nHuman: P\n\nAssistant: N",
        },
    ],
)
def test_preferences_are_found(record: JsonObject) -> None:
    assert made(record, "dpo") == PREFERENCE


def test_of_whole_dialogues_all_but_the_last_messages_is_the_prompt() -> None:
    dialogue = "\n\nHuman: P\n\nAssistant: well,\n\nthen?\n\nHuman: Q\n\nAssistant: R"
    body = made({"chosen": dialogue, "rejected": dialogue.replace("R", "N")}, "dpo", system_text="S")
    assert [each["content"] for each in body["input"]["messages"]] == ["S", "P", "well,\n\nthen?", "Q"]
    assert [body[key][0]["content"] for key in ("preferred_output", "non_preferred_output")] == ["R", "N"]


@pytest.mark.parametrize(
    ("rejected", "says"),
    [
        ("N", "there is no prompt, and 'rejected' is no list of messages"),
        ([{"role": "assistant", "content": "N"}], "there is no prompt, and 'rejected' is no list of messages"),
        ("\n\nHuman: Q\n\nAssistant: N", "'chosen' and 'rejected' differ before their last message"),
    ],
)
def test_whole_dialogues_without_a_common_prompt_are_a_bad_row(rejected: Any, says: str) -> None:
    with pytest.raises(BadRowError, match=says):
        made({"chosen": "\n\nHuman: P\n\nAssistant: R", "rejected": rejected}, "dpo")


@pytest.mark.parametrize(
    ("names", "columns", "method", "says"),
    [
        (["foo", "bar"], {}, "supervised", "say which to use with --prompt-column and --reply-column"),
        (["foo", "bar"], {}, "dpo", "--preferred-column and --non-preferred-column; its columns are: 'foo', 'bar'"),
        (["prompt"], {}, "supervised", "its columns are: 'prompt'"),
        (["prompt", "reply"], {"reply": "answer"}, "supervised", "no column 'answer', which --reply-column names"),
        (["prompt", "chosen", "rejected"], {}, "supervised", "use --method dpo"),
    ],
)
def test_what_does_not_fit_is_said_with_the_way_out(
    names: list[str], columns: dict[str, str], method: str, says: str
) -> None:
    reason = shape_of(names, Columns(**columns), method)
    assert isinstance(reason, str)
    assert says in reason


@pytest.mark.parametrize("record", [{"prompt": {}, "completion": "R"}, {"messages": "[{"}])
def test_a_cell_of_the_wrong_kind_is_a_bad_row(record: JsonObject) -> None:
    with pytest.raises(BadRowError):
        made(record)
