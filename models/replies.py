"""What a server's bytes mean is decided here, for every transport and without a network.

Pure functions from (status, headers, body) to a `Reply` or a `CallError`. HTTP 200 alone proves nothing: servers answer
200 with an error, with no choices, with a refusal or with half a body. Each of these is a failure of its own kind.
Shapes: OpenAI's API reference; differences of vLLM, Ollama, llama.cpp, OpenRouter, Azure and Google as seen in use.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from json import loads
from typing import Any, Literal, NamedTuple, NoReturn

import orjson

from tidemill.models import error_words
from tidemill.models.error_words import ErrorWords
from tidemill.models.json_types import JsonObject
from tidemill.models.waits import concerns_waits, retry_after_seconds

ErrorKind = Literal[
    "status",  # the server reported an error: HTTP status >= 300, or a 200 whose body is an error
    "failed",  # Responses API: 200 with status "failed"; `code` is response.error.code
    "connect",  # the server was never reached (nothing listens, DNS, TLS, proxy): certainly not billed
    "local",  # this machine has no file descriptor or port left for a connection: nothing was sent
    "timeout",  # no complete reply within the time limit: maybe billed
    "reset",  # the connection was lost after sending, before the reply's headers: maybe billed
    "cut",  # the connection was lost, or the body was damaged, after the reply's headers: maybe billed
    "malformed",  # a success status whose body is not a reply: maybe billed
    "too_large",  # a success status with a body that is not read to its end: billed
    "empty",  # a reply without choices, text or tool calls: billed
    "length",  # cut off at the token limit before the first word of the answer (all reasoning): billed
    "refused",  # the model declined; `text` is its words: billed
    "content_filter",  # the provider's filter stopped the answer; `text` is what came before: billed
    "unfinished",  # Responses API: a status other than completed, incomplete or failed
    "request",  # the body cannot be sent as one plain JSON request; nothing was sent
    "store",  # the picture cannot be read at present; nothing was sent
]

CUT = "length"
"""Finish reason of an answer that was cut at the token limit, for both endpoints."""

MESSAGE_CHARACTERS = 500
MOST_PARTS = 4_000_000
"""Of a JSON body: each takes some 70 bytes of memory, and only 3 on the wire."""
MOST_TOKENS = 100_000_000
_KEY_LIKE = re.compile(r"\bsk-[\w*.\-]{6,}|\b(bearer|basic)\s+[\w.~+/*\-]{8,}=*", re.IGNORECASE)
_MARKUP = re.compile(r"<(script|style|head)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counted them; `cached_input_tokens` is the part of `input_tokens` billed as cached."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """A call that succeeded. Strings are exactly the server's, NUL and lone surrogates included (see `models.text`)."""

    text: str  # "" only when there are tool calls
    model: str  # as the server says; "" when it does not
    finish_reason: str  # "stop", "length", "tool_calls", ... in the words of Chat Completions, for both endpoints
    usage: Usage | None  # None when the server reports none
    request_id: str | None
    headers: dict[str, str]  # about limits and waits, and date; lower case
    status: int
    tool_calls: tuple[JsonObject, ...] = ()  # as the server wrote them


@dataclass(eq=False)
class CallError(Exception):
    """A call that failed, with all that `worker.retries.classify` needs.

    `message` is one line of at most about 500 characters, without secrets. For an error inside an HTTP 200 `status` is
    the error's own code where that is a number from 400 to 599. `usage` and `text` are kept because the failed call was
    billed for them.
    """

    kind: ErrorKind
    message: str = ""
    status: int | None = None
    code: str | None = None  # always a string, also where the server sends a number
    type: str | None = None
    param: str | None = None
    reasons: tuple[str, ...] = ()  # all labels of the error, also of the servers behind the server
    retry_after_seconds: float | None = None  # finite and >= 0, wherever the server says it
    should_retry: bool | None = None  # x-should-retry
    request_id: str | None = None
    usage: Usage | None = None
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""

    def __str__(self) -> str:
        return self.message


class RawReply(NamedTuple):
    """A reply as it came: all headers with lower-case names, and the whole body, decompressed."""

    status: int
    headers: dict[str, str]
    body: bytes


class _MalformedError(ValueError):
    """The body is not a JSON object."""


class _TooManyPartsError(_MalformedError):
    """The body would take gigabytes of memory."""


def parse_chat(raw: RawReply, *, secret: str = "") -> Reply:
    """Read a success status's body as a chat completion; the first choice counts.

    Raises:
        CallError: the body is an error or no usable answer.
    """
    body = _SuccessBody(raw, secret, ("prompt_tokens", "completion_tokens", "prompt_tokens_details"))
    choices = body.payload.get("choices")
    if choices is None:
        body.fail("malformed", "The reply has no choices")
    if choices == []:
        body.fail("empty", "The reply's list of choices is empty")
    choice = choices[0] if isinstance(choices, list) else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        body.fail("malformed", "The reply's first choice has no message")
    text, refusal = _content(message.get("content"))
    calls = _dicts(message.get("tool_calls"))
    if isinstance(message.get("function_call"), dict):
        calls += ({"type": "function", "function": message["function_call"]},)
    if _has_error(choice):
        body.fail_with_error_in(choice, text)
    return body.to_reply(text, _string(message.get("refusal")) or refusal, calls, _string(choice.get("finish_reason")))


def parse_responses(raw: RawReply, *, secret: str = "") -> Reply:
    """Read a success status's body as a Responses API object.

    `finish_reason` is "stop", "tool_calls" or "length" (for max_output_tokens), the words of the other endpoint.

    Raises:
        CallError: the response failed, was cut off before its first word, or is no usable answer.
    """
    body = _SuccessBody(raw, secret, ("input_tokens", "output_tokens", "input_tokens_details"))
    payload = body.payload
    output = payload.get("output")
    text, refusal, calls = _output(output)
    status = _string(payload.get("status")) or "completed"
    if status == "failed":
        body.fail_with_error_in(payload, text, kind="failed")
    if status not in {"completed", "incomplete"}:
        message = f"The response's status is {status!r}, and only finished responses are used"
        body.fail("unfinished", message, text, f"response_{status}")
    if not isinstance(output, list):
        body.fail("malformed", "The reply has no output")
    reason = "tool_calls" if calls else "stop"
    if status == "incomplete":
        details = payload.get("incomplete_details")
        why = _string(details.get("reason")) if isinstance(details, dict) else ""
        reason = CUT if why in {"", "max_output_tokens"} else why
    return body.to_reply(text, refusal, calls, reason)


def parse_page(raw: RawReply, *, secret: str = "") -> tuple[list[JsonObject], bool]:
    """Read one page of a list, such as GET /models: its entries, and whether there are more pages.

    Raises:
        CallError: the body is an error or no list.
    """
    body = _SuccessBody(raw, secret, ("", "", ""))
    entries = body.payload.get("data")
    if entries is None and "data" in body.payload:  # Ollama without a model
        return [], False
    if not isinstance(entries, list):
        body.fail("malformed", "The reply is not a list")
    return list(_dicts(entries)), body.payload.get("has_more") is True


def parse_object(raw: RawReply, *, secret: str = "") -> JsonObject:
    """Read a success status's body as one object of the API. An `error` in it may belong to the object (a failed job).

    Raises:
        CallError: the body is an error, or no object with an id.
    """
    try:
        payload = load_json(raw.body)
    except _MalformedError:
        payload = None
    if isinstance(payload, dict) and _string(payload.get("id")):
        return payload
    return _SuccessBody(raw, secret, ("", "", "")).fail("malformed", "The reply is not an object with an id")


def error_from_status(raw: RawReply, *, secret: str = "") -> CallError:
    """The error of a status >= 300; its body may be JSON of any server, HTML or empty."""
    try:
        payload = load_json(raw.body)
    except _MalformedError:
        payload = _prose(raw.body)
    words = error_words.read(payload, raw.headers)
    if 300 <= raw.status < 400:
        words = words._replace(message=f"The server redirects to {raw.headers.get('location', 'nowhere')}")
    return _error("status", raw, words, secret)


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers worth keeping with a call: those about limits and waits, and the time that they count from."""
    return {name: value for name, value in headers.items() if concerns_waits(name)}


def safe_line(text: str, secret: str = "") -> str:
    """`text` as one storable line of at most about 500 characters, without the key or anything like one."""
    if len(secret) >= 4:  # a shorter "key" is a placeholder, and taking it out would only garble the text
        text = text.replace(secret, "[key]")
    text = _KEY_LIKE.sub("[key]", text)
    text = " ".join("".join(char if char.isprintable() else " " for char in text[:8_192]).split())
    return text if len(text) <= MESSAGE_CHARACTERS else text[: MESSAGE_CHARACTERS - 3] + "..."


def load_json(body: bytes) -> Any:
    """The value of a body. What orjson cannot read but a person could is kept, because the reply was paid for.

    Lone surrogates stay as they are, broken UTF-8 becomes U+FFFD. NaN and Infinity are errors, as they are not JSON.
    """
    if len(body) > MOST_PARTS and sum(body.count(sign) for sign in (b"{", b"[", b",")) > MOST_PARTS:
        raise _TooManyPartsError
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return loads(body.decode("utf-8-sig", "replace"), parse_constant=_reject_constant, strict=False)
    except (ValueError, RecursionError) as error:
        raise _MalformedError(str(error)) from None


class _SuccessBody:
    """The body of a success on its way to a `Reply`; every failure carries what was billed."""

    def __init__(self, raw: RawReply, secret: str, usage_names: tuple[str, str, str]) -> None:
        self.raw, self.secret = raw, secret
        self.usage: Usage | None = None
        self.payload: JsonObject = {}
        try:
            payload = load_json(raw.body)
        except _TooManyPartsError:
            self.fail("too_large", f"The reply has more than {MOST_PARTS:,} parts", code="reply_too_large")
        except _MalformedError:
            self.fail("malformed", f"The reply is not JSON: {_prose(raw.body) or 'its body is empty'}")
        if not isinstance(payload, dict):
            self.fail("malformed", "The reply is JSON, but not an object")
        self.payload = payload
        self.usage = _usage(payload.get("usage"), *usage_names)
        if payload.get("status") != "failed" and _has_error(payload):
            self.fail_with_error_in(payload, _text_so_far(payload))

    def fail(self, kind: ErrorKind, message: str, text: str = "", code: str | None = None) -> NoReturn:
        """Raise a failure in our own words."""
        error = _error(kind, self.raw, ErrorWords(message, code), self.secret)
        error.usage, error.text = self.usage, text
        raise error

    def fail_with_error_in(self, part: JsonObject, text: str, kind: ErrorKind = "status") -> NoReturn:
        """Raise the error in a part of the body, with the error's own HTTP status if it names one."""
        raw = self.raw
        words = error_words.read(part, raw.headers)
        if kind == "status" and words.code and words.code.isdecimal() and 400 <= int(words.code[:9]) <= 599:
            raw = raw._replace(status=int(words.code))
        error = _error(kind, raw, words, self.secret)
        error.usage, error.text = self.usage, text
        raise error

    def to_reply(self, text: str, refusal: str, calls: tuple[JsonObject, ...], reason: str) -> Reply:
        """The `Reply` if this is an answer; a cut one with some text is, since the caller set the limit."""
        if reason == "content_filter":
            self.fail("content_filter", "The provider's content filter stopped the answer", text)
        if refusal:
            self.fail("refused", f"The model refused: {refusal}", text or refusal)
        if not text and not calls:
            if reason == CUT:
                self.fail("length", "The token limit was reached before the first word of the answer")
            self.fail("empty", "The reply has neither text nor tool calls")
        headers = self.raw.headers
        return Reply(
            text=text,
            model=_string(self.payload.get("model")),
            finish_reason=reason,
            usage=self.usage,
            request_id=headers.get("x-request-id"),
            headers=kept_headers(headers),
            status=self.raw.status,
            tool_calls=calls,
        )


def _error(kind: ErrorKind, raw: RawReply, words: ErrorWords, secret: str) -> CallError:
    headers = raw.headers
    return CallError(
        kind=kind,
        message=safe_line(words.message, secret) or _status_line(raw.status),
        status=raw.status,
        code=safe_line(words.code, secret) if words.code else None,
        type=safe_line(words.type, secret) if words.type else None,
        param=safe_line(words.param, secret) if words.param else None,
        reasons=tuple(safe_line(reason, secret) for reason in words.reasons),
        retry_after_seconds=retry_after_seconds(headers) if words.wait_seconds is None else words.wait_seconds,
        should_retry={"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower()),
        request_id=headers.get("x-request-id"),
        headers=kept_headers(headers),
    )


def _status_line(status: int) -> str:
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"


def _has_error(part: JsonObject) -> bool:
    return error_words.is_error(part)


def _prose(body: bytes) -> str:
    """The readable text of a body that is not JSON: an HTML page's title, else its words."""
    page = body[:8_192].decode("utf-8", "replace")
    title = _TITLE.search(page)
    return " ".join((title.group(1) if title else _MARKUP.sub(" ", page)).split())


def _content(content: object) -> tuple[str, str]:
    """Text and refusal of a chat message's content: a string, or a list of parts."""
    parts = _dicts(content)
    text = "".join(_string(part.get("text")) for part in parts if part.get("type") != "refusal")
    return _string(content) or text, "".join(_string(part.get("refusal")) for part in parts)


def _output(output: object) -> tuple[str, str, tuple[JsonObject, ...]]:
    """Text, refusal and tool calls of a response's output items."""
    items = _dicts(output)
    contents = [_content(item.get("content")) for item in items if item.get("type") == "message"]
    calls = tuple(item for item in items if item.get("type") in {"function_call", "custom_tool_call"})
    return "".join(text for text, _ in contents), "".join(refusal for _, refusal in contents), calls


def _text_so_far(payload: JsonObject) -> str:
    """The text beside an error: some servers send both when they break down halfway."""
    for choice in _dicts(payload.get("choices")):
        message = choice.get("message")
        return _content(message.get("content"))[0] if isinstance(message, dict) else ""
    return _output(payload.get("output"))[0]


def _usage(usage: object, input_name: str, output_name: str, details_name: str) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    read, written = _count(usage.get(input_name)), _count(usage.get(output_name))
    if read is None and written is None:
        return None
    details = usage.get(details_name)
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(read or 0, written or 0, min(cached or 0, read or 0))


def _count(value: object) -> int | None:
    """A number of tokens; None for anything else, and for more than any model could have read."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _dicts(value: object) -> tuple[JsonObject, ...]:
    return tuple(item for item in _list(value) if isinstance(item, dict))


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
