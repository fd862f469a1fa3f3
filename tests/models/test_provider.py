"""One conformance suite for both transports: the same bytes on the wire mean the same reply or the same error.

The server is a socket that sends exactly the bytes a test scripts, so that nothing is tidied up on the way.
"""

import asyncio
import gzip
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import SecretStr

from tests.tls import tls_before
from tidemill.models import transports
from tidemill.models.call_settings import check_headers
from tidemill.models.endpoints import CHAT, ENDPOINTS
from tidemill.models.errors import SettingsError
from tidemill.models.provider import (
    CallError,
    ErrorKind,
    Provider,
    Reply,
    Transport,
    UnwantedError,
    Usage,
)
from tidemill.models.provider_looks import list_models
from tidemill.models.replies import RawReply, error_from_status, parse_chat, safe_line
from tidemill.models.settings import Settings, checked_url, settings
from tidemill.models.waits import retry_after_seconds

TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
KEY = "sk-test-4f7a9c2e8b"
BODY = {"model": "m", "messages": [{"role": "user", "content": "naïve 🌊\n"}], "temperature": 0}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
NL = b"\r\n"


def reply_bytes(body: object, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
    head = f"HTTP/1.1 {status}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode("latin-1") + NL + content


def chat(content: object = "Hi", finish: str = "stop", usage: object = USAGE, **message: object) -> dict[str, Any]:
    answer = {"role": "assistant", "content": content, **message}
    return {
        "id": "c1",
        "model": "m-1",
        "choices": [{"index": 0, "message": answer, "finish_reason": finish}],
        "usage": usage,
    }


def response(*parts: dict[str, Any], status: str = "completed", **more: object) -> dict[str, Any]:
    output = [{"type": "reasoning", "summary": []}, {"type": "message", "role": "assistant", "content": list(parts)}]
    usage = {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 3}}
    return {"id": "r1", "model": "m-1", "status": status, "error": None, "output": output, "usage": usage, **more}


def text_item(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


@dataclass
class Script:
    """A server that answers its n-th request with the n-th scripted bytes (the last one again and again)."""

    replies: list[bytes | None]  # None: reset the connection instead of answering
    hang: bool = False  # keep the connection open after the bytes, though they are no whole reply
    close: bool = False
    url: str = ""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := (await reader.readline()).decode():
                headers = {}
                while (header := (await reader.readline()).decode().strip()) != "":
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((line.strip(), headers, body))
                data = self.replies[min(len(self.requests), len(self.replies)) - 1]
                if data is None:
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    writer.transport.abort()
                    return
                writer.write(data)
                await writer.drain()
                if self.close:
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


Start = Callable[..., Awaitable[Script]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(*replies: bytes | None, **options: Any) -> Script:
            script = Script(list(replies), **options)
            server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
            stack.callback(server.close)
            script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            return script

        yield begin


def open_provider(transport: Transport, url: str, key: str | None = KEY, **options: Any) -> Provider:
    options = {"timeout_seconds": 20.0, "connections": 4, **options}
    return Provider(base_url=url, api_key=SecretStr(key) if key else None, transport=transport, **options)


async def outcome(transport: Transport, url: str, endpoint: str = "chat", **options: Any) -> Reply | CallError:
    provider = open_provider(transport, url, **options)
    try:
        return await provider.call(ENDPOINTS[endpoint], BODY)
    except CallError as error:
        return error
    finally:
        await provider.aclose()


async def both(start: Start, *replies: bytes | None, endpoint: str = "chat", **options: Any) -> Reply | CallError:
    """The outcome over every transport, after checking that they agree and that each sent one request."""
    outcomes: list[Reply | CallError] = []
    for transport in TRANSPORTS:
        timeout = options.pop("timeout_seconds", 20.0)
        script = await start(*replies, **options)
        got = await outcome(transport, script.url, endpoint, timeout_seconds=timeout)
        options["timeout_seconds"] = timeout
        assert len(script.requests) == 1, f"{transport} sent {len(script.requests)} requests"
        if isinstance(got, CallError):
            got.message = got.message.replace(script.url, "URL")
        outcomes.append(got)
    first, second = outcomes
    if isinstance(first, CallError):
        assert isinstance(second, CallError)
        assert vars(first) == vars(second)
    else:
        assert first == second
    return first


async def failed(start: Start, *replies: bytes | None, endpoint: str = "chat", **options: Any) -> CallError:
    error = await both(start, *replies, endpoint=endpoint, **options)
    assert isinstance(error, CallError), error
    assert "\n" not in error.message
    assert error.message == str(error) != ""
    return error


async def replied(start: Start, body: object, endpoint: str = "chat", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = await both(start, reply_bytes(body, headers=named), endpoint=endpoint)
    assert isinstance(reply, Reply), reply
    return reply


# --- the request ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("endpoint", ENDPOINTS.names())
async def test_a_request_is_the_body_and_the_key_and_nothing_of_ours(
    start: Start, transport: Transport, endpoint: str, slash: str
) -> None:
    script = await start(reply_bytes(chat() if endpoint == "chat" else response(text_item("Hi"))))

    await outcome(transport, script.url + slash, endpoint, organization="org-1", project="proj_1")

    [(line, headers, body)] = script.requests
    assert line == f"POST /v1{ENDPOINTS[endpoint].path} HTTP/1.1"
    assert json.loads(body) == BODY
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"
    assert headers["accept-encoding"] == "gzip"
    assert headers["openai-organization"] == "org-1"
    assert headers["openai-project"] == "proj_1"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_organization_and_project_come_from_settings_alone(
    start: Start, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "stray")
    script = await start(reply_bytes(chat()))
    await outcome(transport, script.url)
    assert "stray" not in str(script.requests)
    assert "openai-organization" not in script.requests[0][1]


@pytest.mark.parametrize(("transport", "sent"), [("http", None), ("sdk", "Bearer no-key")])
async def test_without_a_key_the_call_is_still_made(
    start: Start, transport: Transport, sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    script = await start(reply_bytes(chat()))
    assert isinstance(await outcome(transport, script.url, key=None), Reply)
    assert script.requests[0][1].get("authorization") == sent


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_that_a_call_is_not_wanted_says_nothing_about_other_calls_of_its_task(
    start: Start, transport: Transport
) -> None:
    script = await start(reply_bytes(chat()))
    provider = open_provider(transport, script.url)
    with pytest.raises(UnwantedError):
        await provider.call(CHAT, BODY, lambda: False)
    assert script.requests == []
    assert await provider.fetch("/files/c1") == chat()
    await provider.aclose()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_connection_is_used_again(start: Start, transport: Transport) -> None:
    script = await start(reply_bytes(chat()))
    provider = open_provider(transport, script.url, connections=1)
    replies = await asyncio.gather(*(provider.call(CHAT, BODY) for _ in range(20)))
    await provider.aclose()
    assert {reply.text for reply in replies} == {"Hi"}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_orjson_cannot_write_is_sent_all_the_same(start: Start, transport: Transport) -> None:
    script = await start(reply_bytes(chat()))
    provider = open_provider(transport, script.url)
    body = {"model": "m", "messages": [{"role": "user", "content": "\ud83d alone"}], "seed": 2**70}
    await provider.call(CHAT, body)
    await provider.aclose()
    assert json.loads(script.requests[0][2]) == body


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("extra", [{"stream": True}, {"temperature": {1, 2}}], ids=["stream", "no-json"])
async def test_a_body_that_cannot_be_one_json_request_is_not_sent(
    start: Start, transport: Transport, extra: dict[str, Any]
) -> None:
    script = await start(reply_bytes(chat()))
    provider = open_provider(transport, script.url)
    with pytest.raises(CallError) as caught:
        await provider.call(CHAT, BODY | extra)
    await provider.aclose()
    assert caught.value.kind == "request"
    assert script.requests == []


# --- replies --------------------------------------------------------------------------------------------------------


async def test_a_chat_reply_has_text_model_usage_and_rate_headers(start: Start) -> None:
    reply = await replied(
        start,
        chat("Ahoj 🌊"),
        x_request_id="req_1",
        X_RateLimit_Remaining_Tokens="99",
        retry_after_ms="5",
        x_other="no",
    )
    headers = {"x-ratelimit-remaining-tokens": "99", "retry-after-ms": "5"}
    message = {"role": "assistant", "content": "Ahoj 🌊"}
    assert reply == Reply("Ahoj 🌊", "m-1", "stop", Usage(9, 4, 3), "req_1", headers, 200, message=message)


async def test_a_response_has_text_model_usage_and_rate_headers(start: Start) -> None:
    reply = await replied(start, response(text_item("Hel"), text_item("lo")), "responses", x_request_id="req_1")
    message = {"role": "assistant", "content": "Hello"}
    assert reply == Reply("Hello", "m-1", "stop", Usage(9, 4, 3), "req_1", {}, 200, message=message)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (chat([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), ("ab", "stop", Usage(9, 4, 3))),
        (chat(usage=None), ("Hi", "stop", None)),
        (chat(usage={}), ("Hi", "stop", None)),
        (chat(usage={"prompt_tokens": 7, "completion_tokens": -1}), ("Hi", "stop", Usage(7, 0))),
        (chat("cut o", "length"), ("cut o", "length", Usage(9, 4, 3))),
        ({"choices": [{"message": {"content": "bare"}}]}, ("bare", "", None)),
        (chat(error=None) | {"error": None}, ("Hi", "stop", Usage(9, 4, 3))),
        (chat("nul \0 stays"), ("nul \0 stays", "stop", Usage(9, 4, 3))),
        (chat("lone \ud83d surrogate"), ("lone \ud83d surrogate", "stop", Usage(9, 4, 3))),
        (b"\xef\xbb\xbf" + json.dumps(chat("bom")).encode(), ("bom", "stop", Usage(9, 4, 3))),
        (json.dumps(chat("x?x")).encode().replace(b"?", b"\xff"), ("x\ufffdx", "stop", Usage(9, 4, 3))),
        (json.dumps(chat("tab?")).encode().replace(b"?", b"\t"), ("tab\t", "stop", Usage(9, 4, 3))),
    ],
    ids=[
        "parts", "usage-null", "usage-empty", "usage-odd", "length-with-text", "bare", "error-null", "nul", "surrogate",
        "bom", "broken-utf8", "raw-tab",
    ],
)  # fmt: skip
async def test_unusual_but_good_replies_are_kept(start: Start, body: object, expected: tuple[object, ...]) -> None:
    reply = await replied(start, body)
    assert (reply.text, reply.finish_reason, reply.usage) == expected


async def test_tool_calls_are_an_answer_without_text(start: Start) -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    reply = await replied(start, chat(None, "tool_calls", tool_calls=[call]))
    assert (reply.text, reply.finish_reason, reply.tool_calls) == ("", "tool_calls", (call,))
    item = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "t1"}
    reply = await replied(start, response() | {"output": [item]}, "responses")
    assert (reply.text, reply.finish_reason, reply.tool_calls) == ("", "tool_calls", (item,))


async def test_a_response_cut_at_the_token_limit_keeps_its_text(start: Start) -> None:
    body = response(text_item("cut o"), status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    reply = await replied(start, body, "responses")
    assert (reply.text, reply.finish_reason) == ("cut o", "length")


async def test_compressed_and_chunked_replies_are_read(start: Start) -> None:
    packed = gzip.compress(json.dumps(chat()).encode())
    assert isinstance(await both(start, reply_bytes(packed, headers={"Content-Encoding": "gzip"})), Reply)
    body = json.dumps(chat()).encode()
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert isinstance(await both(start, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks), Reply)


async def test_an_event_stream_that_nobody_asked_for_is_read(start: Start) -> None:
    choices: tuple[list[dict[str, Any]], ...] = (
        [{"delta": {"content": "Hel"}}],
        [{"delta": {"content": "lo"}, "finish_reason": "stop"}],
        [],
    )
    chunks = [{"model": "m-1", "choices": each, "usage": None if each else USAGE} for each in choices]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    reply = await both(start, reply_bytes(body.encode(), headers={"Content-Type": "text/event-stream"}))
    message = {"content": "Hello"}
    assert reply == Reply("Hello", "m-1", "stop", Usage(9, 4, 3), None, {}, 200, message=message)


# --- a success status that is no success ----------------------------------------------------------------------------

PAID = Usage(9, 4, 3)
NOT_REPLIES: list[tuple[str, object, ErrorKind, str | None, int, Usage | None, str]] = [
    ("chat", b"", "malformed", None, 200, None, ""),
    ("chat", b"<html><title>Log in</title></html>", "malformed", "web_page", 200, None, ""),
    ("chat", b'{"choices": [', "malformed", None, 200, None, ""),
    ("chat", [chat(), chat()], "malformed", None, 200, None, ""),
    ("chat", b'"hi"', "malformed", None, 200, None, ""),
    ("chat", b"[" * 100_000, "malformed", None, 200, None, ""),
    ("chat", {"id": "c1"}, "malformed", None, 200, None, ""),
    ("chat", {"choices": "none"}, "malformed", None, 200, None, ""),
    ("chat", {"choices": [None]}, "malformed", None, 200, None, ""),
    ("chat", {"choices": [{"index": 0}], "usage": USAGE}, "malformed", None, 200, PAID, ""),
    ("chat", {"choices": [], "usage": USAGE}, "empty", None, 200, PAID, ""),
    ("chat", chat(None), "empty", None, 200, PAID, ""),
    ("chat", chat(""), "empty", None, 200, PAID, ""),
    ("chat", chat(None, "length"), "length", None, 200, PAID, ""),
    ("chat", chat("Some", "content_filter"), "content_filter", None, 200, PAID, "Some"),
    ("chat", chat(None, refusal="I can't."), "refused", None, 200, PAID, "I can't."),
    ("chat", chat([{"type": "refusal", "refusal": "No."}]), "refused", None, 200, PAID, "No."),
    ("chat", {"error": {"code": 429, "message": "busy"}}, "status", "429", 429, None, ""),
    ("chat", {"error": {"code": 502, "message": "down"}, "usage": USAGE}, "status", "502", 502, PAID, ""),
    ("chat", {"error": {"code": 402, "message": "credits"}}, "status", "402", 402, None, ""),
    ("chat", {"error": {"code": 12, "message": "odd"}}, "status", "12", 200, None, ""),
    ("chat", {"error": {"code": "server_error", "message": "odd"}}, "status", "server_error", 200, None, ""),
    ("chat", {"error": "out of memory"}, "status", None, 200, None, ""),
    ("chat", {"object": "error", "message": "bad", "code": 400}, "status", "400", 400, None, ""),
    ("chat", chat("Half") | {"error": {"code": 502, "message": "died"}}, "status", "502", 502, PAID, "Half"),
    ("responses", {"id": "r1"}, "malformed", None, 200, None, ""),
    ("responses", response(), "empty", None, 200, PAID, ""),
    ("responses", response({"type": "refusal", "refusal": "No."}), "refused", None, 200, PAID, "No."),
    ("responses", response(status="queued"), "unfinished", "response_queued", 200, PAID, ""),
    ("responses", response(text_item("a"), status="cancelled"), "unfinished", "response_cancelled", 200, PAID, "a"),
    ("responses", {"error": {"code": 429, "message": "busy"}}, "status", "429", 429, None, ""),
    (
        "responses",
        response(status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        "length", None, 200, PAID, "",
    ),
    (
        "responses",
        response(text_item("a"), status="incomplete", incomplete_details={"reason": "content_filter"}),
        "content_filter", None, 200, PAID, "a",
    ),
    (
        "responses",
        response(text_item("a"), status="failed", error={"code": "server_error", "message": "sorry"}),
        "failed", "server_error", 200, PAID, "a",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("endpoint", "body", "kind", "code", "status", "usage", "text"), NOT_REPLIES)
async def test_200_with_something_else_than_an_answer_is_an_outcome_of_its_own(
    start: Start,
    endpoint: str,
    body: object,
    kind: ErrorKind,
    code: str | None,
    status: int,
    usage: Usage | None,
    text: str,
) -> None:
    error = await failed(start, reply_bytes(body, headers={"x-request-id": "req_9"}), endpoint=endpoint)
    assert (error.kind, error.code, error.status, error.usage, error.text) == (kind, code, status, usage, text)
    assert error.request_id == "req_9"


# --- errors with a status -------------------------------------------------------------------------------------------

FULL = {"error": {"message": "Too\nfast", "type": "tokens", "param": "p", "code": "rate_limit_exceeded"}}
SHAPES: list[tuple[str, object, tuple[str, str | None, str | None, str | None]]] = [
    ("429 Too Many", FULL, ("Too fast", "rate_limit_exceeded", "tokens", "p")),
    ("400 Bad", {"error": {"message": "m", "code": 400, "type": "T"}}, ("m", "400", "T", None)),
    ("400 Bad", {"object": "error", "message": "m", "type": "T", "code": 400}, ("m", "400", "T", None)),
    ("404 No", {"detail": "Not Found"}, ("Not Found", None, None, None)),
    ("422 No", {"detail": [{"loc": ["body", "n"], "msg": "bad"}]}, ("body.n: bad", None, None, None)),
    ("404 No", {"error": "model 'x' not found"}, ("model 'x' not found", None, None, None)),
    ("503 Wait", {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
     ("Loading model", "503", "unavailable_error", None)),
    ("429 Wait", [{"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}],
     ("m", "429", "RESOURCE_EXHAUSTED", None)),
    ("502 Bad", {"error": {"code": 502, "message": "Provider returned error", "metadata": {"raw": "boom"}}},
     ("Provider returned error: boom", "502", None, None)),
    ("502 Bad", b"<html><head><title>502 Bad\nGateway</title></head><body>x</body></html>",
     ("502 Bad Gateway", None, None, None)),
    ("500 Oops", b"", ("HTTP 500 Internal Server Error", None, None, None)),
    ("529 Busy", b"{}", ("HTTP 529", None, None, None)),
    ("500 Oops", b'"oops"', ("oops", None, None, None)),
    ("500 Oops", b"[]", ("HTTP 500 Internal Server Error", None, None, None)),
    ("500 Oops", b'{"error": null}', ("HTTP 500 Internal Server Error", None, None, None)),
    ("500 Oops", b'{"error": [1], "code": true}', ("HTTP 500 Internal Server Error", None, None, None)),
    ("500 Oops", b"plain \xff words", ("plain words", None, None, None)),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "expected"), SHAPES)
async def test_every_known_shape_of_an_error_is_read(
    start: Start, status: str, body: object, expected: tuple[str, str | None, str | None, str | None]
) -> None:
    error = await failed(start, reply_bytes(body, status))
    assert (error.message.replace(" \ufffd ", " "), error.code, error.type, error.param) == expected
    assert (error.kind, error.status) == ("status", int(status[:3]))


async def test_an_error_keeps_what_the_headers_say(start: Start) -> None:
    headers = {
        "x-request-id": "req_2", "Retry-After": "7", "retry-after-ms": "1500", "x-should-retry": "false",
        "x-ratelimit-limit-requests": "10", "Server": "x",
    }  # fmt: skip
    error = await failed(start, reply_bytes(FULL, "429 Slow", headers))
    assert (error.retry_after_seconds, error.should_retry, error.request_id) == (1.5, False, "req_2")
    assert error.headers == {"retry-after": "7", "retry-after-ms": "1500", "x-ratelimit-limit-requests": "10"}


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529])
async def test_no_status_makes_a_transport_retry(start: Start, status: int) -> None:
    error = await failed(start, reply_bytes(FULL, f"{status} X", {"x-should-retry": "true", "retry-after": "0"}))
    assert (error.status, error.should_retry) == (status, True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(start: Start, status: int) -> None:
    elsewhere = await start(reply_bytes(chat()))
    error = await failed(start, reply_bytes(b"", f"{status} Moved", {"Location": elsewhere.url}))
    assert (error.status, error.message) == (status, f"The server redirects to {elsewhere.url}")
    assert elsewhere.requests == []


async def test_no_secret_is_in_an_error(start: Start) -> None:
    body = {"error": {"message": f"Bad key {KEY}, sk-proj-abcDEF123456 or Bearer abcdef123456", "code": f"c-{KEY}"}}
    error = await failed(start, reply_bytes(body, "401 No"))
    assert error.message == "Bad key [key], [key] or [key]"
    assert KEY not in repr(vars(error))
    error = await failed(start, reply_bytes(f"{'x' * 490} {KEY} ".encode() * 9, "500 No"))
    assert len(error.message) <= 500
    assert KEY[:8] not in error.message


# --- lost connections -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (None, "reset"),
        (b"", "reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "reset"),
        (reply_bytes(chat())[:-5], "cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot hex\r\n", "malformed"),
        (reply_bytes(b"not gzip at all", headers={"Content-Encoding": "gzip"}), "cut"),
        (reply_bytes(FULL, "500 Oops")[:-5], "cut"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "malformed"),
    ],
    ids=["rst", "fin", "half-head", "short", "chunk-short", "chunk-bad", "gzip", "error-short", "no-http", "no-body"],
)
async def test_a_lost_connection_says_how_far_the_call_came(start: Start, data: bytes | None, kind: ErrorKind) -> None:
    error = await failed(start, data, close=True)
    assert error.kind == kind


@pytest.mark.parametrize("data", [b"", reply_bytes(chat())[:-5]], ids=["silent", "stuck"])
async def test_the_whole_reply_has_one_time_limit(start: Start, data: bytes) -> None:
    error = await failed(start, data, timeout_seconds=0.3)
    assert (error.kind, error.message) == ("timeout", "no complete reply from URL within 0.3 s")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_nothing_listens(transport: Transport, unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}/v1"
    error = await outcome(transport, url)
    assert isinstance(error, CallError)
    assert (error.kind, error.code) == ("connect", "connection_refused")
    assert error.message == f"cannot connect to {url}: connection refused"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_host_without_a_name_in_dns(transport: Transport) -> None:
    error = await outcome(transport, "http://no-such-host.invalid/v1")
    assert isinstance(error, CallError)
    assert (error.kind, error.code) == ("connect", "dns_failure")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_tls_to_a_server_without_tls(start: Start, transport: Transport) -> None:
    script = await start(b"HTTP/1.1 400 Bad\r\n\r\n", close=True)
    error = await outcome(transport, script.url.replace("http:", "https:"), timeout_seconds=5.0)
    assert isinstance(error, CallError)
    assert error.kind == "connect"
    assert "cannot connect to https://127.0.0.1" in error.message


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_server_that_never_accepts(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "CONNECT_SECONDS", 0.3)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(8)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        error = await outcome(transport, f"http://127.0.0.1:{address[1]}/v1", timeout_seconds=5.0)
        for filler in fillers:
            filler.close()
    assert isinstance(error, CallError)
    assert (error.kind, error.code) == ("connect", "connect_timeout")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_proxy_of_the_environment_is_used(
    start: Start, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = await start(reply_bytes(chat()))
    monkeypatch.setenv("http_proxy", script.url.removesuffix("/v1").replace("//", "//wonder:l%C3%A4nd@"))
    monkeypatch.setenv("no_proxy", "")
    assert isinstance(await outcome(transport, "http://model.invalid/v1"), Reply)
    line, headers, _ = script.requests[0]
    assert line == "POST http://model.invalid/v1/chat/completions HTTP/1.1"
    assert headers["proxy-authorization"] == "Basic d29uZGVyOmzDpG5k"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_proxy_that_refuses_is_named_and_alone_gets_its_password(
    start: Start, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = await start(reply_bytes("", "407 Proxy Authentication Required"), close=True)
    proxy = script.url.removesuffix("/v1")
    monkeypatch.setenv("HTTPS_PROXY", proxy.replace("//", "//wonder:land@"))
    error = await outcome(transport, "https://model.invalid/v1")
    assert isinstance(error, CallError)
    assert (error.kind, error.code) == ("connect", "proxy_failure")
    named = f"through the proxy {proxy}, which HTTPS_PROXY names: the proxy answered 407"
    assert error.message == f"cannot connect to https://model.invalid/v1 {named}"
    [(line, headers, _)] = script.requests
    assert line == "CONNECT model.invalid:443 HTTP/1.1"
    assert headers["proxy-authorization"] == "Basic d29uZGVyOmxhbmQ="
    assert KEY not in str(headers)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
async def test_certificates_of_the_environment_are_trusted(
    start: Start, transport: Transport, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = await start(reply_bytes(chat()))
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    with tls_before(int(script.url.rpartition(":")[2].partition("/")[0]), tmp_path) as port:
        monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
        assert isinstance(await outcome(transport, f"https://localhost:{port}/v1"), Reply)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_cancelled_call_is_cancelled(start: Start, transport: Transport) -> None:
    script = await start(b"")
    provider = open_provider(transport, script.url)
    call = asyncio.create_task(provider.call(CHAT, BODY))
    while not script.requests:
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await provider.aclose()


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_models_are_read_over_all_pages(start: Start, transport: Transport) -> None:
    pages = [
        {"data": [{"id": "a&1", "shutdown_date": "2026-12-11"}], "has_more": True},
        {"data": [{"id": "b"}], "has_more": False},
    ]
    script = await start(*(reply_bytes(page) for page in pages))
    provider = open_provider(transport, script.url)
    assert await provider.list_all("models") == [{"id": "a&1", "shutdown_date": "2026-12-11"}, {"id": "b"}]
    await provider.aclose()
    assert [line for line, _, _ in script.requests] == [
        "GET /v1/models HTTP/1.1", "GET /v1/models?after=a%261 HTTP/1.1"
    ]  # fmt: skip


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("page", "count"), [({"data": None}, 0), ({"data": [{"id": "a"}], "has_more": True}, 1)], ids=["null", "endless"]
)
async def test_odd_lists_of_models_end(start: Start, transport: Transport, page: object, count: int) -> None:
    script = await start(reply_bytes(page))
    provider = open_provider(transport, script.url)
    assert len(await provider.list_all("models")) == count
    await provider.aclose()


async def test_the_command_line_lists_models_without_a_loop(start: Start) -> None:
    script = await start(reply_bytes({"data": [{"id": "a"}]}))
    configured = Settings(OPENAI_BASE_URL=script.url, OPENAI_API_KEY=KEY)  # type: ignore[call-arg]
    assert await asyncio.to_thread(list_models, configured) == [{"id": "a"}]
    assert "OpenAI" in script.requests[0][1]["user-agent"]  # the client that runs use, if they name none


# --- what needs no server -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *(
            "localhost:8000/v1",
            "http://",
            "http:///v1",
            "http://:8000/v1",
            "http:/h/v1",
            "ftp://h/v1",
            "ws://h/v1",
            "//h/v1",
        ),
        *("http://h:99999/v1", "http://h:0/v1", "http://h:80x/v1", "http://h h/v1", "http://h/v 1", "http://h/v1\n/x"),
        *("http://a..b/v1", f"http://{'x' * 64}/v1", "http://[::1/v1", '"http://h/v1"', "http://h\u200b/v1", "<URL>"),
        *(
            "http://user:pass@h/v1",
            "http://user@h/v1",
            "http://@h/v1",
            "http://h/v1?",
            "http://h/v1?k=1",
            "http://h/v1#x",
        ),
        *("http://h/v1/chat/completions", "https://h/v1/Responses/", "http://h/v1/completions"),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_url_that_can_never_work_is_refused_at_once(transport: Transport, url: str) -> None:
    with pytest.raises(SettingsError, match=r"^OPENAI_BASE_URL: ") as caught:
        open_provider(transport, url)
    assert "user" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://h", " https://H:443/v1/ ", "http://[::1]:8000/v1", "http://my_host./", "https://h/models"]
)
def test_other_urls_are_taken(url: str) -> None:
    assert checked_url(url) == url.strip().rstrip("/")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("sk-two\nlines", "no HTTP header"),
        ("sk-\r\nHost: evil", "no HTTP header"),
        ("schlüssel", "no HTTP header"),
        ("sk-a b", "no HTTP header"),
        ("sk-a\tb", "no HTTP header"),
        ("\ufeffsk-a", "no HTTP header"),
        ("sk-a\x7f", "no HTTP header"),
        ("“sk-a”", "no HTTP header"),
        ("Bearer sk-a", "`Bearer`"),
        ("bearer\tsk-a", "`Bearer`"),
        ("Authorization: Bearer sk-a", "`Bearer`"),
        ('"sk-a"', "a quote"),
        ("'sk-a", "a quote"),
        ("sk-a`", "a quote"),
        ("NAME=sk-a", "its own name"),
    ],
    ids=ascii,
)
@pytest.mark.parametrize(
    ("option", "variable"),
    [("key", "OPENAI_API_KEY"), ("organization", "OPENAI_ORG_ID"), ("project", "OPENAI_PROJECT_ID")],
)
async def test_a_header_that_can_never_work_is_refused_at_once(
    option: str, variable: str, value: str, why: str
) -> None:
    wrong: dict[str, Any] = {option: value.replace("NAME", variable)}
    with pytest.raises(SettingsError, match=f"^{variable}: .*{why}") as caught:
        open_provider("http", "http://h/v1", **wrong)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize("lines", ["X-A: é", "no colon", "bad name: x", ": x", "X-A: 1\nX-B\x00: 2", "X-A: 1\r"])
def test_custom_headers_that_can_never_be_sent_are_refused(monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: tide\n\nX-Empty:")
    check_headers(settings())
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", lines.replace("\x00", "\x01"))
    with pytest.raises(SettingsError, match="OPENAI_CUSTOM_HEADERS"):
        check_headers(settings())


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_whatever_fails_while_a_client_is_built_is_a_sentence(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(SettingsError, match=r"^The client for the provider cannot be set up \(ModuleNotFoundError"):
        open_provider(transport, "http://h/v1")


def test_neither_library_is_imported_before_it_is_needed() -> None:
    code = "import sys, models.provider; print([m for m in ('openai', 'aiohttp', 'httpx2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_the_http_transport_never_imports_openai(start: Start) -> None:
    script = await start(reply_bytes(chat()))
    code = (
        "import asyncio, sys\nfrom tidemill.models.endpoints import CHAT\n"
        "from tidemill.models.provider import Provider\n"
        "async def main():\n"
        f"    p = Provider(base_url={script.url!r}, api_key=None, transport='http', timeout_seconds=9, connections=1)\n"
        "    await p.call(CHAT, {})\n    await p.aclose()\n"
        "asyncio.run(main())\nprint('openai' in sys.modules)"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "3"}, 3.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT", "date": "Sun, 22 Nov 2026 10:00:00 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:00 GMT", "date": "Sun, 22 Nov 2026 10:00:30 GMT"}, None),
        ({"retry-after": "Sun, 99 Nov 2026 10:00:00 GMT"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_or_nothing(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers) == seconds


def test_one_line_is_one_line() -> None:
    assert safe_line("a\x1b[31m\n\tb\ud83d c\0") == "a [31m b c"


def test_parsing_is_pure_and_takes_any_status_of_success() -> None:
    assert parse_chat(RawReply(201, {}, json.dumps(chat()).encode())).status == 201
    assert error_from_status(RawReply(418, {}, b"\0" * 100_000)).message == "HTTP 418 I'm a Teapot"
