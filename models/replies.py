"""What a server's bytes mean is decided here, for every transport and without a network.

Pure functions from (status, headers, body) to a `Reply` or a `CallError`. HTTP 200 alone proves nothing: servers answer
200 with an error, with no choices, with a refusal or with half a body. Each of these is a failure of its own kind.
Shapes: OpenAI's API reference; differences of vLLM, Ollama, llama.cpp, OpenRouter, Azure and Google as seen in use.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, NamedTuple, NoReturn

from tidemill.models import error_words
from tidemill.models.error_words import ErrorWords
from tidemill.models.finish import Ending, read_finish
from tidemill.models.json_types import JsonObject, dicts, string
from tidemill.models.message_shapes import reply_message
from tidemill.models.payloads import MOST_PARTS, MalformedError, TooManyPartsError, load_json, load_reply
from tidemill.models.spoken import (
    ABSENT,
    Spoken,
    decoded,
    finish_words,
    first_choice,
    is_blocked,
    message_of,
    read_message,
    read_output,
    text_so_far,
    unwrapped,
)
from tidemill.models.thinking import split_thinking
from tidemill.models.usage import Usage, read_usage, usage_in_fragment
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
    "broken",  # the server broke the answer off, and says so; `text` is what came before: billed
    "length",  # cut off at the token limit before the first word of the answer (all reasoning): billed
    "refused",  # the model declined; `text` is its words: billed
    "content_filter",  # the provider's filter stopped the answer; `text` is what came before: billed
    "unfinished",  # a status or finish reason that is no end we know, and no answer: maybe billed
    "request",  # the body cannot be sent as one plain JSON request; nothing was sent
    "store",  # the picture cannot be read at present; nothing was sent
]

Mark = Literal["length", "unknown_finish_reason", "no_finish_reason", "misplaced_answer"]
"""What is not as it should be with an answer that is kept, since it was paid for."""

WEB_PAGE = "web_page"
"""Code of a success that is no reply but a page for people."""

MESSAGE_CHARACTERS = 500
_KEY_LIKE = re.compile(r"\bsk-[\w*.\-]{6,}|\b(bearer|basic)\s+[\w.~+/*\-]{8,}=*", re.IGNORECASE)
_MARKUP = re.compile(r"<(script|style|head)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


class Reply(NamedTuple):
    """A call that succeeded. Strings are exactly the server's, NUL and lone surrogates included (see `models.text`)."""

    text: str  # "" only when there are tool calls
    model: str  # as the server says; "" when it does not
    finish_reason: str  # "stop", "length", "tool_calls", ... in the words of Chat Completions, for both endpoints
    usage: Usage | None  # None when the server reports none
    request_id: str | None
    headers: dict[str, str]  # about limits and waits, and date; lower case
    status: int
    tool_calls: tuple[JsonObject, ...] = ()  # as the server wrote them
    reasoning: str = ""  # what the model thought before it answered, as far as the server shows it
    mark: Mark | None = None  # what makes the answer doubtful
    message: JsonObject = {}  # noqa: RUF012  # nobody changes it
    """The same whole, with all that the server wrote, as `models.message_shapes.reply_message` makes it."""


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


def parse_chat(raw: RawReply, *, secret: str = "") -> Reply:
    """Read a success status's body as a chat completion; the first choice counts.

    Raises:
        CallError: the body is an error or no usable answer.
    """
    return _parse(raw, secret, "choices")


def parse_responses(raw: RawReply, *, secret: str = "") -> Reply:
    """Read a success status's body as a Responses API object.

    `finish_reason` is "stop", "tool_calls" or "length" (for max_output_tokens), the words of the other endpoint.

    Raises:
        CallError: the response failed, was cut off before its first word, or is no usable answer.
    """
    return _parse(raw, secret, "output")


def _parse(raw: RawReply, secret: str, expected: str) -> Reply:
    """Read an answer by the shape that it has; gateways answer with the other endpoint's."""
    body = _SuccessBody(raw, secret)
    payload = body.payload
    if payload.get("choices") is None and ("output" in payload or expected == "output"):
        return _response(body)
    choices = payload.get("choices")
    if not choices and is_blocked(payload):
        body.fail("content_filter", "The provider's content filter stopped the prompt")
    if choices is None and not isinstance(payload.get("message"), dict):  # Ollama's own shape is one choice
        body.fail_with_words_or(f"The reply has no {expected}")
    if choices == []:
        body.fail("empty", "The reply's list of choices is empty")
    choice = payload if choices is None else first_choice(choices)
    message = message_of(choice)
    if message is None:
        body.fail_with_words_or("The reply's first choice has no message")
    spoken = read_message(message)
    if not spoken.text:
        spoken = spoken._replace(text=string(choice.get("text")))
    if error_words.is_error(choice) and choice is not payload:
        body.fail_with_error_in(choice, spoken.text)
    return body.to_reply(spoken, *finish_words(choice))


def _response(body: "_SuccessBody") -> Reply:
    payload = body.payload
    output = payload.get("output")
    spoken = read_output(output)
    if not spoken.text:
        spoken = spoken._replace(text=string(payload.get("output_text")))
    items = [item for item in dicts(output) if item.get("type") == "message"]
    status = string(payload.get("status")) or string(items[-1].get("status") if items else None) or "completed"
    end = read_finish(status)
    if status == "failed":
        body.fail_with_error_in(payload, spoken.text, kind="failed")
    if end.ending == "broken" or (end.ending == "unknown" and not spoken.text):
        message = f"The response's status is {status!r}, and only finished responses are used"
        body.fail("unfinished", message, spoken.text, f"response_{status}")
    if not isinstance(output, list) and not spoken.text:
        body.fail_with_words_or("The reply has no output")
    word: object = "tool_calls" if spoken.calls else "stop"
    if status == "incomplete":
        details = payload.get("incomplete_details")
        word = (details.get("reason") if isinstance(details, dict) else None) or "max_output_tokens"
    elif end.ending != "complete":
        word = status
    return body.to_reply(spoken, word)


def parse_page(raw: RawReply, *, secret: str = "") -> tuple[list[JsonObject], bool]:
    """Read one page of a list, such as GET /models: its entries, and whether there are more pages.

    Raises:
        CallError: the body is an error or no list.
    """
    body = _SuccessBody(raw, secret)
    entries = body.payload.get("data")
    if entries is None and "data" in body.payload:  # Ollama without a model
        return [], False
    if not isinstance(entries, list):
        body.fail("malformed", "The reply is not a list")
    return list(dicts(entries)), body.payload.get("has_more") is True


def parse_object(raw: RawReply, *, secret: str = "") -> JsonObject:
    """Read a success status's body as one object of the API. An `error` in it may belong to the object (a failed job).

    Raises:
        CallError: the body is an error, or no object with an id.
    """
    try:
        payload = load_json(raw.body)
    except MalformedError:
        payload = None
    if isinstance(payload, dict) and string(payload.get("id")):
        return payload
    return _SuccessBody(raw, secret).fail("malformed", "The reply is not an object with an id")


def error_from_status(raw: RawReply, *, secret: str = "") -> CallError:
    """The error of a status >= 300; its body may be JSON of any server, HTML or empty."""
    try:
        payload = load_json(raw.body)
    except MalformedError:
        payload = _prose(raw.body)
    words = error_words.read(payload, raw.headers)
    if 300 <= raw.status < 400:
        words = words._replace(message=f"The server redirects to {raw.headers.get('location', 'nowhere')}")
    error = _error("status", raw, words, secret)
    error.text = _failed_generation(payload)
    return error


def _failed_generation(payload: object) -> str:
    """What the model wrote, where the server refuses it: Groq bills it and shows it beside its error."""
    error = payload.get("error") if isinstance(payload, dict) else None
    return string(error.get("failed_generation")) if isinstance(error, dict) else ""


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


class _SuccessBody:
    """The body of a success on its way to a `Reply`; every failure carries what was billed."""

    def __init__(self, raw: RawReply, secret: str) -> None:
        self.raw, self.secret = raw, secret
        self.usage: Usage | None = None
        self.payload: JsonObject = {}
        try:
            payload, is_whole = load_reply(raw.body, raw.headers.get("content-type", ""))
        except TooManyPartsError:
            self.fail("too_large", f"The reply has more than {MOST_PARTS:,} parts", code="reply_too_large")
        except MalformedError:
            self.usage = usage_in_fragment(raw.body)
            is_page = raw.body.lstrip()[:1] == b"<"
            self.fail("malformed", _no_json(raw), code=WEB_PAGE if is_page else None)
        if isinstance(payload, list) and len(payload) == 1:
            payload = payload[0]
        payload = decoded(payload)
        if not isinstance(payload, dict):
            self.fail("malformed", "The reply is JSON, but not an object")
        self.payload = unwrapped(payload)
        self.usage = read_usage(self.payload)
        if self.payload.get("status") != "failed" and error_words.is_error(self.payload):
            self.fail_with_error_in(self.payload, text_so_far(self.payload))
        if not is_whole:
            self.fail("cut", "The reply is an event stream that was cut off", text_so_far(self.payload))

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

    def fail_with_words_or(self, message: str) -> NoReturn:
        """Raise the error that a body without an answer tells of in any shape, else one in our own words."""
        if error_words.read(self.payload, self.raw.headers).message:
            self.fail_with_error_in(self.payload, "")
        self.fail("malformed", message)

    def to_reply(self, spoken: Spoken, word: object, native: object = None) -> Reply:
        """The `Reply` if this is an answer; one that is not whole is kept with a mark, since it was paid for."""
        finish = read_finish(None if word is ABSENT else word, native)
        if finish.ending == "filtered":
            self.fail("content_filter", "The provider's content filter stopped the answer", spoken.text)
        if spoken.refusal:
            self.fail("refused", f"The model refused: {spoken.refusal}", spoken.text or spoken.refusal)
        if finish.ending == "broken":
            message = f"The server broke the answer off (finish reason {finish.reason!r})"
            self.fail("broken", message, spoken.text or spoken.reasoning)
        thought = split_thinking(spoken.text)
        text, reasoning = thought.answer, "\n\n".join(filter(None, (spoken.reasoning, thought.reasoning)))
        mark = None if word is ABSENT and finish.ending == "unstated" else _MARKS.get(finish.ending)
        if not (text.strip() if reasoning or finish.ending == "cut" else text) and not spoken.calls:
            if finish.ending == "cut":
                self.fail("length", "The token limit was reached before the first word of the answer")
            if not reasoning:
                self._fail_empty(finish.reason if finish.ending == "unknown" else "")
            text, reasoning, mark = reasoning, "", mark or "misplaced_answer"
        headers = self.raw.headers
        model = self.payload.get("model")
        return Reply(
            text=text,
            model="" if model is None or isinstance(model, (dict, list)) else str(model),
            finish_reason=finish.reason,
            usage=self.usage,
            request_id=headers.get("x-request-id"),
            headers=kept_headers(headers),
            status=self.raw.status,
            tool_calls=spoken.calls,
            reasoning=reasoning,
            mark=mark,
            message=reply_message(self.payload),
        )

    def _fail_empty(self, reason: str) -> NoReturn:
        if reason:  # nobody knows what it means, and each further call would be billed
            self.fail("unfinished", f"The server ended the answer before its first word (finish reason {reason!r})")
        self.fail("empty", "The reply has neither text nor tool calls")


_MARKS: dict[Ending, Mark] = {
    "cut": "length",
    "unknown": "unknown_finish_reason",
    "unstated": "no_finish_reason",
}


def _no_json(raw: RawReply) -> str:
    return f"The reply is not JSON: {_prose(raw.body) or 'its body is empty'}"


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


def _prose(body: bytes) -> str:
    """The readable text of a body that is not JSON: an HTML page's title, else its words."""
    page = body[:8_192].decode("utf-8", "replace")
    title = _TITLE.search(page)
    return " ".join((title.group(1) if title else _MARKUP.sub(" ", page)).split())
