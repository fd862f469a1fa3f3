"""An answer has to be recognisable as the answer to its prompt, and look like the real thing down to its usage.

Every reply is a pure function of the prompt, so a test can foresee it and two benchmark runs store the same rows.
Body shapes: the OpenAI API specification, checked with the official SDK by simulator_test.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from tidemill.simulator.calls import Call, estimated_tokens, tag_of
from tidemill.simulator.schemas import example

SENTENCES = (
    "I love how clearly the question was put.",
    "This is a wonderful idea with a happy ending.",
    "The results were excellent and everybody was pleased.",
    "What a terrible mess the storm left behind.",
    "Sadly, the plan failed and the team was disappointed.",
    "It is an awful delay, and I hate to report it.",
    "The tide comes in twice a day.",
    "The mill stands beside the river and turns with the water.",
    "There are three parts to consider here.",
    "A table of the figures follows below.",
    "In short, the great success surprised us all.",
    "However, the risk of a bad outcome remains.",
    "The report covers the second quarter of the year.",
    "Thank you for the kind and helpful note!",
    "Nobody was hurt, which is a relief.",
    "The price is the same as it was last week.",
)
# Stands in for a lone surrogate, which orjson rightly refuses to write; swapped for its escape after encoding.
LONE_SURROGATE = "\ue000"


@dataclass(slots=True)
class Reply:
    """What the model said. `text` None is a null content; `sends_*` False leaves that part of the body out."""

    text: str | None
    input_tokens: int
    output_tokens: int
    finish: str = "stop"
    refusal: str | None = None
    sends_choices: bool = True
    sends_usage: bool = True


def _prose(digest: bytes, chars: int) -> str:
    sentences: list[str] = []
    length, turn = 0, 0
    while not sentences or length < chars:
        # Two digest bytes a step, so that a long reply does not repeat itself every 32 sentences.
        sentence = SENTENCES[(digest[turn % 32] + turn * digest[(turn + 7) % 32]) % len(SENTENCES)]
        sentences.append(sentence)
        length += len(sentence) + 1
        turn += 1
    return " ".join(sentences)


def _text(call: Call, chars: int) -> str:
    tag = tag_of(call.digest)
    if call.schema is not None:
        return orjson.dumps(example(call.schema, tag)).decode()
    # The last sentence overshoots by half of its 45 characters on average: aim that much lower.
    return f"{_prose(call.digest, chars - len(tag) - 22)} {tag}"


def generate(call: Call, chars: int) -> Reply:
    text = _text(call, chars)
    tokens = estimated_tokens(len(text))
    if call.max_tokens is None or tokens <= call.max_tokens:
        return Reply(text, call.input_tokens, tokens)
    return Reply(text[: call.max_tokens * 4], call.input_tokens, call.max_tokens, finish="length")


def _chat(call: Call, reply: Reply, identity: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": reply.refusal, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}
    body: dict[str, Any] = {
        "id": f"chatcmpl-{identity}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.model,
        "choices": [choice] if reply.sends_choices else [],
        "service_tier": call.tier,
        "system_fingerprint": None,
    }
    if reply.sends_usage:
        body["usage"] = {
            "prompt_tokens": reply.input_tokens,
            "completion_tokens": reply.output_tokens,
            "total_tokens": reply.input_tokens + reply.output_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }
    return body


# finish reason -> (status, incomplete_details.reason): the Responses API tells the same story in other words.
RESPONSE_STATUS: dict[str, tuple[str, str | None]] = {
    "stop": ("completed", None),
    "length": ("incomplete", "max_output_tokens"),
    "content_filter": ("incomplete", "content_filter"),
    "failed": ("failed", None),
}


def _response_parts(reply: Reply) -> list[dict[str, Any]]:
    if reply.refusal is not None:
        return [{"type": "refusal", "refusal": reply.refusal}]
    if reply.text is None:
        return []
    return [{"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}]


def _response(call: Call, reply: Reply, identity: str) -> dict[str, Any]:
    status, reason = RESPONSE_STATUS[reply.finish]
    failed = status == "failed"
    message: dict[str, Any] = {"type": "message", "id": f"msg_{identity}", "role": "assistant", "status": "completed"}
    body: dict[str, Any] = {
        "id": f"resp_{identity}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": {"code": "server_error", "message": "The model failed to generate a response."} if failed else None,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": None,
        "max_output_tokens": call.max_tokens,
        "metadata": {},
        "model": call.model,
        "output": [{**message, "content": _response_parts(reply)}] if reply.sends_choices and not failed else [],
        "parallel_tool_calls": True,
        "service_tier": call.tier,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
    }
    if reply.sends_usage:
        body["usage"] = {
            "input_tokens": reply.input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": reply.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": reply.input_tokens + reply.output_tokens,
        }
    return body


SHAPES: dict[str, Callable[[Call, Reply, str], dict[str, Any]]] = {"chat": _chat, "responses": _response}


def encode(call: Call, reply: Reply, identity: str) -> bytes:
    body = orjson.dumps(SHAPES[call.endpoint](call, reply, identity))
    if reply.text is not None and LONE_SURROGATE in reply.text:
        return body.replace(LONE_SURROGATE.encode(), b"\\ud83d")
    return body


def _sse(value: dict[str, Any], name: str | None = None) -> bytes:
    body = orjson.dumps(value).replace(LONE_SURROGATE.encode(), b"\\ud83d")
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + body + b"\n\n"


def _chat_events(call: Call, reply: Reply, identity: str) -> list[bytes]:
    whole = _chat(call, reply, identity)
    head = {name: whole[name] for name in ("id", "created", "model", "service_tier", "system_fingerprint")}
    head["object"] = "chat.completion.chunk"

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        return _sse({**head, "choices": choices if reply.sends_choices else []})

    said = [{"content": token} for token in _TOKEN.findall(reply.text or "")]
    refused = [{"refusal": reply.refusal}] if reply.refusal else []
    events = [chunk({"role": "assistant", "content": ""}), *map(chunk, [*said, *refused]), chunk({}, reply.finish)]
    if call.streams_usage and "usage" in whole:
        events.append(_sse({**head, "choices": [], "usage": whole["usage"]}))
    return [*events, b"data: [DONE]\n\n"]


def _response_events(call: Call, reply: Reply, identity: str) -> list[bytes]:
    whole = _response(call, reply, identity)
    begun = whole | {"status": "in_progress", "output": [], "incomplete_details": None, "usage": None}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    place = {"item_id": f"msg_{identity}", "output_index": 0, "content_index": 0}
    said = _TOKEN.findall(reply.text or "") if whole["output"] else []
    events += [{"type": "response.output_text.delta", **place, "delta": token} for token in said]
    events.append({"type": f"response.{whole['status']}", "response": whole})
    return [_sse({**event, "sequence_number": nth}, str(event["type"])) for nth, event in enumerate(events)]


_TOKEN = re.compile(r"\S+\s*|\s+")
EVENTS: dict[str, Callable[[Call, Reply, str], list[bytes]]] = {"chat": _chat_events, "responses": _response_events}


def stream(call: Call, reply: Reply, identity: str) -> list[bytes]:
    """The same reply in the events of a stream, a word in each."""
    return EVENTS[call.endpoint](call, reply, identity)


def error_body(message: str, kind: str | None, param: str | None = None, code: str | int | None = None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def model_card(name: str, shutdown_date: str | None) -> dict[str, Any]:
    card = {"id": name, "object": "model", "created": 1_780_000_000, "owned_by": "simulator"}
    return {**card, "shutdown_date": shutdown_date}
