"""What the API would not accept is reported with its place in the example, and a good example has no faults."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.models.json_types import JsonObject
from tidemill.producer.training.examples import faults, key_of, may_be_cut, normalised, remarks
from tidemill.producer.training.findings import RULES

User = {"role": "user", "content": "Why?"}
REPLY = {"role": "assistant", "content": "Because."}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n and so on").decode()
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def call(name: str = "look", arguments: str = "{}", **more: Any) -> JsonObject:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}} | more


def calling(*calls: Any) -> JsonObject:
    return {"role": "assistant", "tool_calls": list(calls)}


def image(url: str = "https://example.org/a.png") -> JsonObject:
    return {"type": "image_url", "image_url": {"url": url}}


ANSWERED = [User, calling(call()), {"role": "tool", "tool_call_id": "c1", "content": "42"}, REPLY]


def codes(body: JsonObject, method: str = "supervised") -> list[str]:
    return [code for code, _ in faults(normalised(body, method)[0], method)]


@pytest.mark.parametrize(
    "messages",
    [
        [User, REPLY],
        [{"role": "system", "content": "Be kind."}, User, REPLY, User, REPLY | {"weight": 0}],
        [{"role": "developer", "content": "Be kind."}, User, REPLY | {"weight": 1}],
        ANSWERED,
        [User, calling(call())],
        [{"role": "user", "content": [{"type": "text", "text": "See:"}, image()]}, REPLY],
        [{"role": "user", "content": [image(f"data:image/png;base64,{PNG}")]}, REPLY],
        [User | {"name": "Jo_7-b"}, REPLY],
        [User, calling(call()), {"role": "tool", "tool_call_id": "c1", "content": ""}, REPLY],
        [REPLY, User, REPLY],
    ],
)
def test_a_good_example_has_no_faults(messages: list[Any]) -> None:
    assert codes({"messages": messages, "tools": [TOOL], "parallel_tool_calls": False}) == []


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("no_messages", {}),
        ("no_messages", {"messages": []}),
        ("no_messages", {"messages": "Why?"}),
        ("bad_message", {"messages": [7]}),
        ("bad_role", {"messages": [{"role": "human", "content": "Why?"}, REPLY]}),
        ("bad_role", {"messages": [{"role": ["user"], "content": "Why?"}, REPLY]}),
        ("bad_message", {"messages": [{"role": "user", "content": 7}, REPLY]}),
        ("bad_message", {"messages": [{"role": "user", "content": [7]}, REPLY]}),
        ("bad_message", {"messages": [{"role": "user", "content": [{"type": "text"}]}, REPLY]}),
        ("bad_message", {"messages": [{"role": "user", "content": [{"type": "audio"}]}, REPLY]}),
        ("bad_message", {"messages": [User, {"role": "assistant", "tool_calls": "look"}]}),
        ("bad_message", {"messages": [User, REPLY | {"refusal": 5}]}),
        ("last_turn", {"messages": [User]}),
        ("wrong_order", {"messages": [REPLY]}),
        ("empty_text", {"messages": [User, {"role": "assistant", "content": " \n"}]}),
        ("empty_text", {"messages": [{"role": "user"}, REPLY]}),
        ("bad_weight", {"messages": [User | {"weight": 1}, REPLY]}),
        ("bad_weight", {"messages": [User, REPLY | {"weight": 2}]}),
        ("bad_weight", {"messages": [User, REPLY | {"weight": True}]}),
        ("bad_tools", {"messages": [User, REPLY], "tools": "look"}),
        ("bad_tools", {"messages": [User, REPLY], "tools": [{"type": "function"}]}),
        ("bad_tools", {"messages": [User, REPLY], "tools": [{"type": "function", "function": {"name": "a b"}}]}),
        ("bad_tools", {"messages": [User, REPLY], "parallel_tool_calls": "yes"}),
        ("bad_tool_call", {"messages": [User, calling(call("other"))], "tools": [TOOL]}),
        ("bad_tool_call", {"messages": [User, calling(call(arguments="{x"))]}),
        ("bad_tool_call", {"messages": [User, calling(call(id=None))]}),
        ("bad_tool_call", {"messages": [User, calling(call()), {"role": "tool", "content": "42"}, REPLY]}),
        ("wrong_order", {"messages": [User, calling(call()), User, REPLY]}),
        ("wrong_order", {"messages": [User, {"role": "tool", "tool_call_id": "c1", "content": "42"}, REPLY]}),
        ("bad_image", {"messages": [User, {"role": "assistant", "content": [image()]}]}),
        ("bad_image", {"messages": [{"role": "user", "content": [image("http://example.org/a.png")]}, REPLY]}),
        ("bad_image", {"messages": [{"role": "user", "content": [image("data:image/gif;base64,AAAA")]}, REPLY]}),
        ("bad_image", {"messages": [{"role": "user", "content": [image("data:image/jpeg;base64,!!!!")]}, REPLY]}),
        ("bad_image", {"messages": [{"role": "user", "content": [image("data:image/jpeg;base64,AAAA")]}, REPLY]}),
        ("bad_name", {"messages": [User | {"name": "Jo Smith"}, REPLY]}),
        ("bad_name", {"messages": [User | {"name": ""}, REPLY]}),
        ("empty_text", {"messages": [User, calling(call()), {"role": "tool", "tool_call_id": "c1"}, REPLY]}),
        ("too_many_images", {"messages": [{"role": "user", "content": [image()] * 11}, REPLY]}),
    ],
)
def test_a_fault_is_found(code: str, body: JsonObject) -> None:
    assert code in codes(body)


def test_a_call_in_the_old_form_is_one_fault_with_the_new_one_as_the_way_out() -> None:
    old = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}}
    assert codes({"messages": [User, old]}) == ["function_call"]
    assert codes({"messages": [User, REPLY, {"role": "function", "name": "look", "content": "42"}, REPLY]}) == [
        "function_call"
    ]
    assert "tool_calls" in RULES["function_call"].remedy


def test_ten_pictures_are_allowed() -> None:
    assert codes({"messages": [{"role": "user", "content": [image()] * 10}, REPLY]}) == []


def preference(**change: Any) -> JsonObject:
    return {
        "input": {"messages": [User]},
        "preferred_output": [REPLY],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    } | change


@pytest.mark.parametrize(
    ("code", "change"),
    [
        (None, {}),
        ("no_messages", {"input": [User]}),
        ("no_messages", {"input": {}}),
        ("bad_output", {"preferred_output": []}),
        ("bad_output", {"preferred_output": [REPLY, REPLY]}),
        ("bad_output", {"non_preferred_output": "No."}),
        ("bad_output", {"non_preferred_output": [User]}),
        ("empty_text", {"non_preferred_output": [{"role": "assistant", "content": ""}]}),
    ],
)
def test_a_preference_is_checked(code: str | None, change: JsonObject) -> None:
    assert codes(preference(**change), "dpo") == ([code] if code else [])


def test_what_tables_leave_behind_is_put_right_and_the_rest_is_said() -> None:
    body = {"messages": [User | {"weight": None, "mood": "sad"}, REPLY | {"weight": 1.0, "tool_calls": []}], "id": 7}
    kept, left_out = normalised(body, "supervised")
    assert json.dumps(kept) == json.dumps({"messages": [User, REPLY | {"weight": 1}]})
    assert [(fault.code, fault.what) for fault in left_out] == [("left_out", "'mood' was left out")]


@pytest.mark.parametrize(
    ("code", "messages"),
    [
        ("teaches_nothing", [User, REPLY | {"weight": 0}]),
        ("cut_off", [User, {"role": "assistant", "content": "It is because of the..."}]),
        ("cut_off", [User, {"role": "assistant", "content": "First, it is an exam-"}]),
        ("says_nothing", [User, REPLY | {"content": "NaN"}]),
        ("says_nothing", [User | {"content": " N/A\n"}, REPLY]),
        ("odd_order", [REPLY, User, REPLY]),
        ("odd_order", [User, User, REPLY]),
        ("odd_order", [User, REPLY, {"role": "system", "content": "Be kind."}, User, REPLY]),
        ("personal", [User | {"content": "I am joe@example.com"}, REPLY]),
    ],
)
def test_what_costs_quality_is_remarked(code: str, messages: list[Any]) -> None:
    assert [fault.code for fault in remarks({"messages": messages}, "supervised")] == [code]


def test_equal_outputs_are_remarked() -> None:
    assert [each.code for each in remarks(preference(non_preferred_output=[REPLY]), "dpo")] == ["same_outputs"]


def test_prompts_are_the_same_letter_by_letter_and_folded_but_for_case_and_space() -> None:
    assert key_of([User]) == key_of([{"role": "user", "content": " Why?\n"}])
    assert key_of([User]) != key_of([{"role": "user", "content": "why?"}])
    assert key_of([User], folded=True) == key_of([{"role": "user", "content": " why? "}], folded=True)
    assert key_of([User]) != key_of([REPLY | {"content": "Why?"}])
    assert key_of([{"role": "user", "content": [image()]}]) != key_of(
        [{"role": "user", "content": [image("https://b")]}]
    )


WORDS = st.sampled_from(["", "a", "user", "assistant", "tool", "function", "image_url", "text", "{}", "https://a"])
KEYS = st.sampled_from(
    ["role", "content", "weight", "tool_calls", "tool_call_id", "id", "type", "function", "name", "arguments", "text",
     "image_url", "url", "messages", "tools", "input", "preferred_output", "non_preferred_output"]
)  # fmt: skip
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)
TURN = st.fixed_dictionaries({"role": WORDS, "content": ANY}, optional={"tool_calls": ANY, "weight": ANY, "name": ANY})


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries({"messages": st.lists(TURN | ANY, max_size=4) | ANY}, optional={"tools": ANY, "input": ANY}),
    st.sampled_from(["supervised", "dpo"]),
)
def test_no_body_makes_the_checks_fail(body: JsonObject, method: str) -> None:
    whole = {"input": body, "preferred_output": body["messages"], "non_preferred_output": body["messages"]}
    normal, _ = normalised(whole if method == "dpo" else body, method)
    if not faults(normal, method):
        remarks(normal, method)
        may_be_cut(normal, method)
