"""A message goes out whole, in the shape of its endpoint, without what a strict server refuses."""

from typing import Any

import pytest

from tidemill.models.answers import Message
from tidemill.models.message_shapes import ITEMS, of_items, reply_message, to_chat, to_items

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CUSTOM = {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "x"}}
ITEM = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "12"}
ASKED = {"role": "user", "content": "q"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "secret", "status": "completed"}

WHOLE: list[dict[str, Any]] = [
    ASKED,
    ASKED | {"name": "ann"},
    {"role": "developer", "content": ""},
    CALLED,
    CALLED | {"content": "Let me see."},
    RESULT,
    {"role": "function", "name": "f", "content": "12"},
    {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
    {"role": "assistant", "content": None, "refusal": "No."},
    {"role": "assistant", "content": None, "audio": {"id": "a", "data": "AAAA", "transcript": "hm"}},
    {"role": "assistant", "content": "x", "tool_calls": None, "annotations": [], "weight": 0},
    {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image_url", "image_url": {"url": "u"}}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]},
    {"role": "user", "content": [{"type": "something", "new": 1}, "odd"]},
    {"role": "user", "content": []},
    {"role": "user", "content": 7},
    # text that looks like what is stored as JSON
    {"role": "user", "content": '[{"type":"text","text":"q"}]'},
    {"role": "user", "content": '[{"type":"text","text":"q"},{"type":"picture","path":"a.jpg"}]'},
    {"role": "assistant", "content": '[{"type":"text","text":"q"},{"type":"picture","path":"a.jpg"}]'},
    {"role": "user", "content": "null"},
    {"role": "user", "content": "nul \x00 and half \ud83d"},
]


@pytest.mark.parametrize("message", WHOLE)
def test_a_message_is_kept_whole(message: dict[str, Any]) -> None:
    kept = Message.of(message)
    assert kept.whole == kept.as_json == message
    assert kept.picture is None
    assert Message.of(kept.whole) == kept


@pytest.mark.parametrize(
    ("content", "words", "is_parts"),
    [
        (
            [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}],
            "a\nb",
            True,
        ),
        (None, "", False),
        ('[{"type":"text","text":"q"}]', '[{"type":"text","text":"q"}]', False),
        ("plain", "plain", False),
    ],
)
def test_what_people_read_of_a_message_is_its_text(content: object, words: str, is_parts: bool) -> None:
    message = Message.of({"role": "user", "content": content})
    assert (message.words, message.content, message.parts is not None) == (words, words, is_parts)


def test_a_message_of_an_older_version_stays_readable() -> None:
    assert Message("user", '[{"type":"text","text":"q"}]').whole["content"] == [{"type": "text", "text": "q"}]
    old_call = '[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]'
    assert Message("assistant", old_call).whole == {"role": "assistant", "content": old_call}  # it may be what was said


# --- chat ---

NOISE = {
    "refusal": None,
    "annotations": [{"type": "url"}],
    "function_call": None,
    "reasoning": "hm",
    "executed_tools": [1],
}


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ([ASKED, CALLED, RESULT], [ASKED, CALLED, RESULT]),
        ([{"role": "assistant", "content": "x", "tool_calls": [], **NOISE}], [{"role": "assistant", "content": "x"}]),
        ([CALLED | NOISE], [CALLED]),
        (
            [{"role": "assistant", "content": "x", "audio": {"id": "a", "data": "A"}}],
            [{"role": "assistant", "content": "x", "audio": {"id": "a"}}],
        ),
        ([ASKED | {"cache_control": {"type": "x"}}], [ASKED | {"cache_control": {"type": "x"}}]),
        (
            [{"role": "assistant", "content": "x", "of_this_server": 1}],
            [{"role": "assistant", "content": "x", "of_this_server": 1}],
        ),
        # thoughts go back only where a tool was called
        ([{"role": "assistant", "content": "x", "reasoning_content": "hm"}], [{"role": "assistant", "content": "x"}]),
        (
            [CALLED | {"reasoning_content": "hm", "reasoning_details": [1]}],
            [CALLED | {"reasoning_content": "hm", "reasoning_details": [1]}],
        ),
        (
            [RESULT, {"role": "assistant", "content": "x", "reasoning_content": "hm"}],
            [RESULT, {"role": "assistant", "content": "x", "reasoning_content": "hm"}],
        ),
        # from the other endpoint
        ([{"role": "assistant", "content": None, ITEMS: [{"type": "web_search_call"}]}], []),
        ([CALLED | {ITEMS: [THOUGHT, ITEM]}], [CALLED]),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "q"},
                        {"type": "input_image", "image_url": "u", "detail": "low"},
                    ],
                }
            ],
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "q"},
                        {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
                    ],
                }
            ],
        ),
    ],
)
def test_a_chat_takes_back_what_it_needs(messages: list[dict[str, Any]], turns: list[dict[str, Any]]) -> None:
    assert to_chat(messages) == turns


# --- responses ---


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ([ASKED, ITEM, {"type": "function_call_output", "call_id": "c1", "output": "12"}], [ASKED, CALLED, RESULT]),
        (
            [ITEM | {"id": "fc", "status": "completed"}, ITEM | {"call_id": "c3"}],
            [CALLED | {"tool_calls": [CALL, CALL | {"id": "c3"}]}],
        ),
        (
            [
                {"type": "message", "role": "assistant", "id": "m", "content": [{"type": "output_text", "text": "x"}]},
                ITEM,
            ],
            [CALLED | {"content": "x"}],
        ),
        ([{"type": "reasoning", "id": "rs", "summary": []}, ITEM], [CALLED]),
        ([THOUGHT, ITEM], [CALLED | {ITEMS: [THOUGHT, ITEM]}]),
        (
            [{"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "x"}],
            [CALLED | {"tool_calls": [CUSTOM]}],
        ),
        (
            [{"type": "item_reference", "id": "m1"}, ASKED],
            [{"role": "assistant", "content": None, ITEMS: [{"type": "item_reference", "id": "m1"}]}, ASKED],
        ),
    ],
)
def test_items_of_one_answer_are_one_message(items: list[dict[str, Any]], messages: list[dict[str, Any]]) -> None:
    assert of_items(items) == messages


@pytest.mark.parametrize(
    ("messages", "items"),
    [
        ([ASKED, CALLED, RESULT], [ASKED, ITEM, {"type": "function_call_output", "call_id": "c1", "output": "12"}]),
        ([CALLED | {"content": "x", "annotations": [1]}], [{"role": "assistant", "content": "x"}, ITEM]),
        ([ASKED | {"name": "ann"}], [ASKED]),
        (
            [CALLED | {"tool_calls": [CUSTOM]}],
            [{"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "x"}],
        ),
        # a server that stores nothing knows no ids, and no thoughts that are not in the item
        (
            [CALLED | {ITEMS: [THOUGHT, ITEM | {"id": "fc"}]}],
            [{"type": "reasoning", "summary": [], "encrypted_content": "secret"}, ITEM],
        ),
        (
            [CALLED | {ITEMS: [{"type": "reasoning", "id": "rs"}, {"type": "web_search_call", "id": "ws"}]}],
            [{"type": "web_search_call", "id": "ws"}],
        ),
        (
            [
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "12"},
            ],
            [ITEM | {"call_id": "call_f"}, {"type": "function_call_output", "call_id": "call_f", "output": "12"}],
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "file", "file": {"file_id": "f"}}]}],
            [
                {
                    "role": "user",
                    "content": [{"type": "input_text", "text": "q"}, {"type": "input_file", "file_id": "f"}],
                }
            ],
        ),
    ],
)
def test_messages_go_out_as_items(messages: list[dict[str, Any]], items: list[dict[str, Any]]) -> None:
    assert to_items(messages) == items


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (
            {"choices": [{"message": CALLED | {"refusal": None, "annotations": []}}]},
            {"role": "assistant", "tool_calls": [CALL]},
        ),
        ({"output": [ITEM]}, CALLED),
        ({"output": [THOUGHT, ITEM, 7]}, CALLED | {ITEMS: [THOUGHT, ITEM]}),
        ({"choices": []}, {"role": "assistant", "content": None}),
        ({"choices": [{"message": "x"}], "output": {}}, {"role": "assistant", "content": None}),
    ],
)
def test_the_message_of_a_reply_is_what_the_server_wrote(payload: dict[str, Any], message: dict[str, Any]) -> None:
    assert reply_message(payload) == message
