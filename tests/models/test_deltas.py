"""What is shown while an answer is written is the answer that is stored, whatever a stream is parted into."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from tidemill.models.deltas import Deltas
from tidemill.models.endpoints import ENDPOINTS
from tidemill.models.options import Transport
from tidemill.models.provider import CallError, Provider, Reply
from tidemill.models.replies import RawReply, parse_chat
from tidemill.models.thinking import split_thinking
from tidemill.simulator import Simulator, prompt_hash

ANSWER = "Tide é\u2028 \U0001f30a\r\n<b>in</b> and out."


def chunk(text: str, field: str = "content") -> str:
    value = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {field: text}}]}
    return json.dumps(value, ensure_ascii=False)


END = json.dumps({"object": "chat.completion.chunk", "choices": [{"delta": {}, "finish_reason": "stop"}]})


def sse(*chunks: str, end: str = "\n") -> bytes:
    return "".join(f"data: {each}{end}{end}" for each in (*chunks, END, "[DONE]")).encode()


STREAMS = {
    "words": sse(*map(chunk, ANSWER)),
    "Windows": sse(*map(chunk, ANSWER), end="\r\n"),
    "Macintosh": sse(*map(chunk, ANSWER), end="\r"),
    "with comments and names": b": ping\n\nevent: chunk\nid: 1\n" + sse(chunk("Hi"), chunk(" you")),
    "with a thought in a field": sse(chunk("hm", "reasoning_content"), chunk("Hi")),
    "with a thought in marks": sse(*map(chunk, "<think>\nhm <b>\n</think>\n\nHi <think>x</think>")),
    "of two thoughts": sse(*map(chunk, "<think>one</think>\n<think>two</think>\nParis")),
    "of a list": sse(*map(chunk, "[1] is a number, and [2] another; more follow, as many as you like.")),
    "other choices": sse(chunk("Hi"), json.dumps({"choices": [{"index": 1, "delta": {"content": "Ho"}}]})),
    "lines": b'{"message": {"content": "Hi"}, "done": false}\n{"message": {"content": " you"}, "done": true}\n',
}


def heard(body: bytes, size: int) -> str:
    texts: list[str] = []
    deltas = Deltas(texts.append)
    for start in range(0, len(body), size):
        deltas(body[start : start + size])
    return "".join(texts)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("size", [1, 2, 7, 100_000])
def test_what_is_heard_is_what_the_whole_body_says(name: str, size: int) -> None:
    body = STREAMS[name]
    raw = RawReply(200, {"content-type": "text/event-stream"}, body)
    assert heard(body, size) == parse_chat(raw).text


@pytest.mark.parametrize(
    "output",
    [
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Paris<|return|>",
        "analysisWe think.assistantfinalParis",
        "<think>it never ends",
        "<think>",
        "◁think▷hm◁/think▷Paris",
        "   \n ",
    ],
)
def test_of_what_cannot_be_told_apart_yet_nothing_is_heard_too_early(output: str) -> None:
    assert split_thinking(output).answer.startswith(heard(sse(*map(chunk, output)), 1000))


@pytest.mark.parametrize("body", [b'{"choices": [{"message": {"content": "plain"}}]}', b"<html>", b"data: {\n\n", b""])
def test_of_what_is_no_stream_nothing_is_heard(body: bytes) -> None:
    assert heard(body, 3) == ""


@pytest.fixture
def texts() -> Iterator[list[str]]:
    """What was heard."""
    yield []


def ask(simulator: Simulator, prompt: str, how: tuple[Transport, str], hear: list[str] | None) -> Reply | CallError:
    transport, endpoint = how

    async def call() -> Reply | CallError:
        provider = Provider(
            base_url=simulator.url, api_key=SecretStr("k"), transport=transport, timeout_seconds=20, connections=1
        )
        field = {"messages": [{"role": "user", "content": prompt}]} if endpoint == "chat" else {"input": prompt}
        listener = None if hear is None else hear.append
        try:
            return await provider.call(ENDPOINTS[endpoint], {"model": "m", **field}, None, listener)
        except CallError as error:
            return error
        finally:
            await provider.aclose()

    return asyncio.run(call())


@pytest.mark.parametrize("how", [("sdk", "chat"), ("http", "chat"), ("http", "responses")])
def test_a_streamed_reply_means_what_a_plain_one_means(
    how: tuple[Transport, str], simulator: Simulator, texts: list[str]
) -> None:
    for fault in ("", "thinks", "nul", "length", "unstreamed", "nostream", "nousage", "429", "500", "error200"):
        prompt = f"!!{fault} tide" if fault else "tide"
        plain, streamed = ask(simulator, prompt, how, None), ask(simulator, prompt, how, texts)
        if isinstance(plain, Reply):
            assert isinstance(streamed, Reply), streamed
            for name in ("text", "model", "finish_reason", "usage", "reasoning", "mark", "tool_calls"):
                assert getattr(streamed, name) == getattr(plain, name), (fault, name)
            is_stream = fault not in ("unstreamed", "nostream")
            assert "".join(texts) == (plain.text if is_stream else ""), fault
        else:
            assert isinstance(streamed, CallError)
            assert (streamed.kind, streamed.status, streamed.code) == (plain.kind, plain.status, plain.code)
        texts.clear()
    for fault in ("refusal", "content_filter", "empty", "cut", "failed"):
        plain, streamed = ask(simulator, f"!!{fault}", how, None), ask(simulator, f"!!{fault}", how, texts)
        assert isinstance(plain, CallError)
        assert isinstance(streamed, CallError)
        assert streamed.kind == plain.kind, fault
    assert simulator.paid_by_prompt()[prompt_hash("!!nostream tide")] == 2
