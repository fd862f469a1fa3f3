"""What a person could read in a reply that was paid for is read, and what is not whole is never taken for whole."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tidemill.models.endpoints import ParseReply
from tidemill.models.provider import CallError, Reply, Usage
from tidemill.models.replies import WEB_PAGE, RawReply, parse_chat, parse_responses

PAID = Usage(9, 4)


def chat(content: object = "Hi", finish: object = "stop", **message: object) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}


def response(*output: dict[str, Any], **more: object) -> dict[str, Any]:
    usage = {"input_tokens": 9, "output_tokens": 4}
    return {"model": "m", "status": "completed", "output": list(output), "usage": usage, **more}


def item(text: str) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text}]}


def events(*chunks: object, done: bool = True, name: str = "") -> bytes:
    lines = [f"event: {name}\n" * bool(name) + f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*lines, "data: [DONE]\n\n" * done]).encode()


def delta(finish: str | None = None, **fields: object) -> dict[str, Any]:
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def read(body: object, parse: ParseReply = parse_chat) -> Reply | CallError:
    try:
        return parse(RawReply(200, {}, body if isinstance(body, bytes) else json.dumps(body).encode()))
    except CallError as error:
        return error


def replied(body: object, parse: ParseReply = parse_chat) -> Reply:
    reply = read(body, parse)
    assert isinstance(reply, Reply), f"{reply.kind}: {reply}"
    return reply


def failed(body: object, parse: ParseReply = parse_chat) -> CallError:
    error = read(body, parse)
    assert isinstance(error, CallError), error
    return error


# --- how an answer ended ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finish", "with_text", "without"),
    [
        ("stop", ("stop", None), "empty"),
        ("end_turn", ("stop", None), "empty"),
        ("MAX_TOKENS", ("length", "length"), "length"),
        ("length", ("length", "length"), "length"),
        ("SAFETY", "content_filter", "content_filter"),
        ("content_filter", "content_filter", "content_filter"),
        ("abort", "broken", "broken"),
        ("error", "broken", "broken"),
        ("OTHER", ("OTHER", "unknown_finish_reason"), "unfinished"),
        ("pause_turn", ("pause_turn", "unknown_finish_reason"), "unfinished"),
        (None, ("", "no_finish_reason"), "empty"),
    ],
)
def test_an_answer_is_what_its_finish_reason_says(finish: str | None, with_text: object, without: str) -> None:
    first = read(chat("The three steps are: first, open the", finish))
    if isinstance(first, Reply):
        assert (first.finish_reason, first.mark) == with_text
    else:
        assert (first.kind, first.text) == (with_text, "The three steps are: first, open the")
    second = failed(chat(None, finish))
    assert (second.kind, first.usage, second.usage) == (without, PAID, PAID)


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"finish_reason": None, "finish_details": {"type": "max_tokens"}}, "length"),
        ({"native_finish_reason": "SAFETY"}, "content_filter"),
        ({"provider_specific_fields": {"native_finish_reason": "insufficient_system_resource"}}, "broken"),
        ({"content_filter_results": {"hate": {"filtered": True, "severity": "high"}}}, "content_filter"),
        ({"content_filter_results": {"hate": {"filtered": False}, "jailbreak": None}}, None),
        ({"content_filter_results": None, "native_finish_reason": "STOP"}, None),
    ],
)
def test_what_stands_beside_the_finish_reason_counts(more: dict[str, object], kind: str | None) -> None:
    body = chat("Some")
    body["choices"][0] |= more
    outcome = read(body)
    assert (outcome.mark if isinstance(outcome, Reply) else outcome.kind) == kind


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [], "prompt_filter_results": [{"content_filter_results": {"hate": {"filtered": True}}}]},
        {"choices": None, "promptFeedback": {"blockReason": "SAFETY"}},
    ],
)
def test_a_prompt_that_a_filter_stopped_is_filtered(body: object) -> None:
    assert failed(body).kind == "content_filter"


def test_a_server_without_finish_reasons_is_not_doubted() -> None:
    assert replied({"choices": [{"message": {"content": "Hi"}}]}).mark is None


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ("stop", None)),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, ("length", "length")),
        ({"status": "incomplete", "incomplete_details": None}, ("length", "length")),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"status": "incomplete", "incomplete_details": {"reason": "odd"}}, ("odd", "unknown_finish_reason")),
        ({"status": "cancelled"}, "unfinished"),
        ({"status": "in_progress"}, "unfinished"),
        ({"status": "COMPLETED"}, ("stop", None)),
        ({"status": "half_done"}, ("half_done", "unknown_finish_reason")),
        ({"status": None}, ("stop", None)),
    ],
)
def test_a_response_is_what_its_status_says(more: dict[str, object], expected: object) -> None:
    outcome = read(response(item("Some"), **more), parse_responses)
    assert (outcome.kind if isinstance(outcome, CallError) else (outcome.finish_reason, outcome.mark)) == expected


# --- fields of unexpected types ---------------------------------------------------------------------------------------

CALL = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "text", "text": "a"}, "b", {"type": "output_text", "text": {"value": "c"}}]}, "abc"),
        ({"content": {"type": "text", "text": "a"}}, "a"),
        ({"content": {"parts": [{"text": "a"}, {"text": "b"}]}}, "ab"),
        ({"content": {"n": 4}}, '{"n":4}'),
        ({"content": {"type": "invoice", "text": "a"}}, '{"type":"invoice","text":"a"}'),
        ({"content": "a", "reasoning": json.loads("[" * 900 + "]" * 900)}, "a"),
        ({"content": 42}, "42"),
        ({"content": None, "audio": {"transcript": "a"}}, "a"),
        ({"content": "a", "tool_calls": None, "function_call": None, "refusal": None}, "a"),
        ({"content": "a", "tool_calls": {}}, "a"),
    ],
)
def test_content_is_read_in_every_shape(message: dict[str, object], text: str) -> None:
    assert replied({"choices": [{"message": message, "finish_reason": "stop"}]}).text == text


@pytest.mark.parametrize(
    "body",
    [
        chat("Hi") | {"model": 4, "created": "yesterday", "usage": [1], "id": None},
        chat("Hi") | {"choices": {"0": chat("Hi")["choices"][0]}},
        chat("Hi") | {"choices": chat("Hi")["choices"][0]},
        chat("Hi") | {"choices": [None, chat("Hi")["choices"][0]]},
        {"choices": [{"text": "Hi", "finish_reason": "stop"}]},
        {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]},
        [chat("Hi")],
        json.dumps(chat("Hi")),
        {"statusCode": 200, "body": json.dumps(chat("Hi"))},
        {"choices": [{"message": {"content": None}, "text": "Hi", "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": "", "text": "Hi"}, "finish_reason": "stop"}]},
        {"output": [{"type": "output_text", "text": "Hi"}], "status": "completed"},
        {"result": chat("Hi"), "success": True},
        {"code": 0, "data": chat("Hi")},
        {"message": {"role": "assistant", "content": "Hi"}, "done": True, "done_reason": "stop"},
        response(item("Hi")),
        {"output": "Hi"},
        chat("Hi") | {"choices": [{"message": "Hi", "finish_reason": "stop"}]},
        chat("Hi") | {"error": {"code": 0, "message": "", "type": None}},
        chat("Hi") | {"error": None, "base_resp": {"status_code": 0, "status_msg": "success"}},
    ],
    ids=range(20),
)
def test_one_odd_field_does_not_cost_the_reply(body: object) -> None:
    assert replied(body).text == "Hi"


@pytest.mark.parametrize("calls", [[CALL], [None, CALL], CALL])
def test_tool_calls_are_read_in_every_shape(calls: object) -> None:
    assert replied(chat(None, "tool_calls", tool_calls=calls)).tool_calls == (CALL,)


def test_a_number_that_json_has_not_in_a_tool_call_is_null() -> None:
    body = json.dumps(chat(None, "tool_calls", tool_calls=[CALL | {"weight": float("inf")}])).encode()
    assert replied(body).tool_calls == (CALL | {"weight": None},)


ODD: tuple[object, ...] = (
    None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 10**30, "", "x", [], [None], ["a"], {}, {"a": 1},
    {"text": "t"}, [[["q"]]], [{"type": "text", "text": "t"}], {"type": {}}, {"parts": None},
)  # fmt: skip


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    for name, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*path, name))


def changed(value: object, path: tuple[str | int, ...], odd: object) -> object:
    whole: Any = copy.deepcopy({"": value})
    part: Any = whole
    for name in ("", *path)[:-1]:
        part = part[name]
    part[("", *path)[-1]] = odd
    return whole[""]


def rich_chat() -> dict[str, Any]:
    body = chat("Hi", reasoning_content="r", tool_calls=[CALL], refusal=None, audio={"transcript": "x"},
                reasoning_details=[{"type": "reasoning.text", "text": "x"}])  # fmt: skip
    body["choices"][0] |= {"content_filter_results": {"hate": {"filtered": False}}, "native_finish_reason": "STOP"}
    body["choices"][0] |= {"logprobs": {"content": []}, "provider_specific_fields": {"native_finish_reason": "x"}}
    body["usage"] |= {
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens_details": {}},
    }
    return body | {"service_tier": "flex", "x_groq": {"usage": {}}, "error": None, "base_resp": {"status_code": 0}}


def rich_response() -> dict[str, Any]:
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}], "content": None}
    return response(
        thought, item("Hi"), {"type": "function_call", "name": "f"}, incomplete_details=None, output_text=""
    )


STREAM = [
    delta(content="H", tool_calls=[CALL | {"index": 0}], reasoning_details=[{"text": "x"}]),
    delta("stop", content="i"),
]
EVENTS = [
    {"type": "response.output_item.done", "item": item("Hi")},
    {"type": "response.completed", "response": response()},
]


@pytest.mark.parametrize(
    "body", [rich_chat(), rich_response(), STREAM, EVENTS], ids=["chat", "response", "stream", "events"]
)
def test_no_field_of_any_type_is_a_defect(body: object) -> None:
    for place in places(body):
        for odd in ODD:
            other = changed(body, place, odd)
            read(events(*other) if isinstance(body, list) and isinstance(other, list) else json.dumps(other).encode())


NEEDED = {
    "choices",
    "message",
    "content",
    "output",
    "type",
    "text",
    "error",
    "refusal",
    "filtered",
    "finish_reason",
    "status",
    0,
    1,
}


@pytest.mark.parametrize("body", [rich_chat(), rich_response()], ids=["chat", "response"])
def test_no_field_but_the_answer_itself_costs_the_reply(body: dict[str, Any]) -> None:
    for place in places(body):
        if place and place[-1] not in NEEDED:
            assert [odd for odd in ODD if replied(json.dumps(changed(body, place, odd)).encode()).text != "Hi"] == [], (
                place
            )


# --- bytes ------------------------------------------------------------------------------------------------------------

BODY = json.dumps(chat("Hi")).encode()


@pytest.mark.parametrize(
    "body",
    [
        BODY.replace(b"{", b'{"timings": {"a": NaN, "b": -Infinity, "c": 1e999}, ', 1),
        BODY.replace(b"{", b'{"timings": {"a": nan, "b": -inf, "c": -nan}, ', 1),
        BODY.replace(b"{", b'{"n": ' + b"9" * 5_000 + b", ", 1),
        BODY.replace(b"{", b'{"id": "a\x01\n", ', 1),
        BODY.replace(b"{", b'{"id": "\\ud83d", ', 1),
        BODY.replace(b"{", b'{"id": "\xff", ', 1),
        BODY[:-1] + b",}",
        b"\xef\xbb\xbf" + BODY,
        BODY.decode().encode("utf-16"),
        b"\n\n  " + BODY + b"\n\0",
        BODY + b"data: [DONE]",
        BODY + BODY,
        b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n" + BODY,
        b"data: " + BODY + b"\n\n",
    ],
    ids=["NaN", "nan", "long", "control", "surrogate", "utf8", "comma", "bom", "utf16", "space", "behind", "twice",
         "comment", "event"],
)  # fmt: skip
def test_bytes_that_a_person_could_read_are_read(body: bytes) -> None:
    reply = replied(body)
    assert (reply.text, reply.usage) == ("Hi", PAID)


@pytest.mark.parametrize(
    ("charset", "word", "text"),
    [
        ("gbk", "巴黎".encode("gbk"), "巴黎"),
        ("ISO-8859-1", b"S\xe3o", "São"),
        ("rot13", b"S\xe3o", "S\ufffdo"),
        ("utf-8", b"S\xe3o", "S\ufffdo"),
        ("latin1", "São".encode(), "São"),
    ],
)
def test_a_body_in_another_encoding_is_read_if_the_server_names_it(charset: str, word: bytes, text: str) -> None:
    body = json.dumps(chat("?")).encode().replace(b"?", word)
    assert parse_chat(RawReply(200, {"content-type": f"application/json; charset={charset}"}, body)).text == text


def test_words_that_look_like_faults_stay_in_an_answer() -> None:
    text = "x: NaN, y: inf,} [1,]"
    assert replied(json.dumps(chat(text) | {"score": float("nan")}).replace('"stop"', '"stop",').encode()).text == text


@pytest.mark.parametrize("body", [BODY[:-1], BODY[:-2], BODY.replace(b'"stop"', b"stop")])
def test_a_reply_that_cannot_be_read_counts_what_was_billed(body: bytes) -> None:
    error = failed(body)
    assert (error.kind, error.usage) == ("malformed", PAID)


# --- thinking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        {"content": "Paris", "reasoning_content": "hm"},
        {"content": "Paris", "reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"content": "Paris", "reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}, {"data": "x"}]},
        {"content": "Paris", "thinking": "hm"},
        {"content": "Paris", "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": "Paris"}]},
        {"content": "<think>hm</think>\n\nParis", "reasoning_content": None},
        {"content": "hm\n</think>\n\nParis"},
    ],
)  # fmt: skip
def test_thinking_is_kept_apart_from_the_answer(message: dict[str, Any]) -> None:
    reply = replied(chat() | {"choices": [{"message": message, "finish_reason": "stop"}]})
    assert (reply.text, reply.reasoning, reply.mark) == ("Paris", "hm", None)


def test_a_response_s_thinking_is_kept_apart() -> None:
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "h"}, {"text": "m"}], "content": None}
    reply = replied(response(thought, item("Paris")), parse_responses)
    assert (reply.text, reply.reasoning) == ("Paris", "hm")


@pytest.mark.parametrize("content", [None, "", "\n\n", "<think></think>"])
def test_an_answer_in_the_place_of_thinking_is_kept_and_marked(content: str | None) -> None:
    reply = replied(chat(content, reasoning_content="Paris"))
    assert (reply.text, reply.reasoning, reply.mark) == ("Paris", "", "misplaced_answer")
    assert failed(chat(content, "length", reasoning_content="Par")).kind == "length"
    assert failed(chat(content, "abort", reasoning_content="Par")).kind == "broken"


def test_thinking_that_was_cut_is_no_answer() -> None:
    assert failed(chat("\n\n", "length")).kind == "length"
    assert failed(chat("<think>so, first", "length")).kind == "length"
    assert replied(chat("<think>Paris")).mark == "misplaced_answer"


def test_thinking_before_a_tool_call_is_no_misplaced_answer() -> None:
    reply = replied(chat(None, "tool_calls", tool_calls=[CALL], reasoning_content="hm"))
    assert (reply.text, reply.reasoning, reply.mark) == ("", "hm", None)


# --- streams nobody asked for -----------------------------------------------------------------------------------------

USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}, "service_tier": "flex"}
ENDED = {"type": "response.completed", "response": response(item("Hello"))}
TEXTS = [{"type": "response.output_text.delta", "delta": part} for part in ("Hel", "lo")]
LINES = [{"message": {"role": "assistant", "content": part}, "done": False} for part in ("Hel", "lo")]
LAST_LINE = {"message": {"content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 4}


@pytest.mark.parametrize(
    "body",
    [
        events(delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo"), delta("stop"), USAGE),
        events(delta(content="Hel"), delta(content="lo"), delta("stop"), USAGE, done=False),
        events(delta(content="Hel"), delta("stop", content="lo"), USAGE).replace(b"\n", b"\r\n"),
        events(delta(content="Hel"), delta("stop", content="lo"), USAGE).replace(b"\n\n", b"\n"),
        b": ping\n\n" + events(delta(content="Hel"), delta("stop", content="lo"), USAGE, name="message"),
        events(delta(content="Hel"), delta("stop", content="lo"), USAGE).replace(b"\n\n", b"\n\n: ping\n\nid: 1\n"),
        "".join(json.dumps(line) + "\n" for line in (*LINES, LAST_LINE)).encode(),
        events({"type": "response.created", "response": {"status": "in_progress"}}, *TEXTS, ENDED, done=False),
        events(*TEXTS, {"type": "response.completed", "response": response()}, done=False),
    ],
    ids=range(9),
)
def test_a_stream_is_put_together(body: bytes) -> None:
    reply = replied(body)
    assert (reply.text, reply.finish_reason, reply.mark) == ("Hello", "stop", None)
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (9, 4)


@pytest.mark.parametrize(
    "body",
    [
        events(delta(content="Hello"), done=False),
        events(delta(content="Hello"), delta(content="!"), done=False)[:-20],
        events(delta(content="Hello"), done=False) + b'data: {"choices": [{"del\n\n' + events(delta("stop")),
        "".join(json.dumps(line) + "\n" for line in LINES).encode(),
        events({"type": "response.created", "response": {"status": "in_progress"}}, *TEXTS, done=False),
    ],
    ids=range(5),
)
def test_a_stream_without_its_end_is_cut(body: bytes) -> None:
    error = failed(body)
    assert (error.kind, error.text) == ("cut", "Hello")


@pytest.mark.parametrize(
    "body",
    [
        events(delta(content="Hel"), {"error": {"code": 502, "message": "died"}}, done=False),
        events(delta(content="Hel")) [:-14] + events({"code": 502, "message": "died"}, name="error", done=False),
        events(*TEXTS[:1], {"type": "error", "code": "502", "message": "died"}, done=False),
    ],
    ids=range(3),
)  # fmt: skip
def test_an_error_in_a_stream_is_the_outcome(body: bytes) -> None:
    error = failed(body)
    assert (error.kind, error.status, error.message, error.text) == ("status", 502, "died", "Hel")


def test_what_a_stream_says_piece_by_piece_is_whole_again() -> None:
    part = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
    body = events(
        delta(reasoning_content="h"), delta(reasoning_content="m"), delta(tool_calls=[part]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
        delta(tool_calls=[{"index": 1, "id": "u", "function": {"name": "g", "arguments": "{}"}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]), delta("tool_calls"), USAGE,
    )  # fmt: skip
    reply = replied(body)
    assert [call["function"] for call in reply.tool_calls] == [
        {"name": "f", "arguments": '{"a": 1}'}, {"name": "g", "arguments": "{}"}
    ]  # fmt: skip
    assert (reply.reasoning, reply.finish_reason, reply.usage) == ("hm", "tool_calls", Usage(9, 4, tier="flex"))


# --- a success that is none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "Unexpected endpoint or method. (POST /chat/completions)"},
         "Unexpected endpoint or method. (POST /chat/completions)"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
         "insufficient balance"),
    ],
)  # fmt: skip
def test_an_error_in_a_success_has_the_server_s_words(body: object, message: str) -> None:
    error = failed(body)
    assert (error.kind, error.message) == ("status", message)


def test_a_web_page_is_known_as_one() -> None:
    error = failed(b"<html><title>Log in</title></html>")
    assert (error.kind, error.code, "Log in" in error.message) == ("malformed", WEB_PAGE, True)
