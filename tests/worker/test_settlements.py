"""An answer is kept as the server wrote it: its text, its calls, and what must go back with them."""

import json
from typing import Any, get_args

import pytest

from tests.rows import MODEL, add_batch, add_jobs, put, take
from tidemill.models import bill
from tidemill.models.claims import Claimed
from tidemill.models.database import reading
from tidemill.models.message_shapes import ITEMS
from tidemill.models.options import Options
from tidemill.models.provider import CallError, ErrorKind, Usage
from tidemill.models.replies import RawReply, parse_chat, parse_responses
from tidemill.worker import settlements
from tidemill.worker.questions import build

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
THOUGHT = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"}
ITEM = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
PROMPT: list[dict[str, Any]] = [{"role": "user", "content": "q"}]
LOOP = [*PROMPT, CALLED, {"role": "tool", "tool_call_id": "c1", "content": "12"}]


def kept(payload: dict[str, Any], asked: list[dict[str, Any]]) -> dict[str, Any]:
    """The last message of the dialogue, after this reply to these messages."""
    parse = parse_responses if "output" in payload else parse_chat
    reply = parse(RawReply(200, {}, json.dumps({"model": MODEL, **payload}).encode()))
    question = build(Options(MODEL), {"messages": asked})
    ended = settlements.of_reply(Claimed(1, 1, "b", {}, 0, 0.0), question, reply, Usage(1, 1), 0.1)
    assert ended.answer is not None
    assert [message.whole for message in ended.answer.messages[:-1]] == asked
    return ended.answer.messages[-1].whole


def chat(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("payload", "asked", "message"),
    [
        (chat(content=None, tool_calls=[CALL], refusal=None, annotations=[]), PROMPT, CALLED),
        (chat(content="x", tool_calls=[CALL]), PROMPT, CALLED | {"content": "x"}),
        (chat(content="x", tool_calls=[]), LOOP, {"role": "assistant", "content": "x"}),
        (
            chat(content=None, function_call={"name": "f", "arguments": "{}"}),
            PROMPT,
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        ),
        (
            chat(content="x", annotations=[{"a": 1}]),
            PROMPT,
            {"role": "assistant", "content": "x", "annotations": [{"a": 1}]},
        ),
        # what was thought is kept beside the messages; here only where some servers must have it back
        (chat(content="x", reasoning_content="hm", reasoning="hm"), PROMPT, {"role": "assistant", "content": "x"}),
        (chat(content=None, tool_calls=[CALL], reasoning_content="hm"), PROMPT, CALLED | {"reasoning_content": "hm"}),
        (
            chat(content="x", reasoning_content="hm"),
            LOOP,
            {"role": "assistant", "content": "x", "reasoning_content": "hm"},
        ),
        ({"output": [THOUGHT, ITEM]}, PROMPT, CALLED | {ITEMS: [THOUGHT, ITEM]}),
    ],
)
def test_an_answer_is_kept_as_the_server_wrote_it(
    payload: dict[str, Any], asked: list[dict[str, Any]], message: dict[str, Any]
) -> None:
    assert kept(payload, asked) == message


def test_a_dialogue_goes_on_at_the_other_endpoint_in_its_words() -> None:
    reply = parse_responses(RawReply(200, {}, json.dumps({"output": [THOUGHT, ITEM | {"id": "fc"}]}).encode()))
    question = build(Options(MODEL, "responses"), {"prompt": "q"})
    ended = settlements.of_reply(Claimed(1, 1, "b", {}, 0, 0.0), question, reply, Usage(1, 1), 0.1)
    assert ended.answer is not None
    result = {"type": "function_call_output", "call_id": "c1", "output": "12"}
    line = {"url": "/v1/responses", "body": {"input": [result]}}
    again = build(Options(MODEL, "responses"), line, history=ended.answer.messages)
    thought = {name: value for name, value in THOUGHT.items() if name != "id"}
    assert again.body["input"] == [*PROMPT, thought, ITEM, result]
    assert again.messages[0].whole == LOOP[2]
    assert "f" in again.texts[1]  # its tokens are counted
    elsewhere = build(Options(MODEL), {"messages": LOOP[2:]}, history=ended.answer.messages)
    assert elsewhere.body["messages"] == LOOP


@pytest.mark.parametrize("kind", get_args(ErrorKind))
def test_a_cap_and_the_bill_agree_on_which_errors_may_have_been_paid(embedded_home: object, kind: ErrorKind) -> None:
    add_batch()
    (job,) = take(add_jobs(1))
    error = CallError(kind, "why")
    ended = settlements.of_error(job, error, settlements.verdict_on(error, job), 0.1, MODEL)
    put(ended)
    with reading() as connection:
        (line,) = bill.read(connection, bill.Span())
    assert ended.is_doubtful == (line.fate in (bill.LOST, bill.REFUSED))
