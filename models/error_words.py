"""An error means the same in whatever shape a server writes it down.

Nested (OpenAI), flat (old vLLM), a string (Ollama, xAI), a list (Google, Cloudflare), detail (FastAPI), error_msg
(Baidu), base_resp (MiniMax), and the error of a server behind the server as JSON in a string (OpenRouter, LiteLLM).
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import orjson

from tidemill.models.json_types import JsonObject
from tidemill.models.waits import asked_seconds

_DEPTH, _MOST_FIELDS, _MOST_TEXT = 8, 400, 64_000
_SENTENCES = 2_000
"""Characters of a message that are searched for a wait."""

_LABELS = frozenset({"code", "type", "status", "reason", "quotaid", "limitsource", "errorcode", "errortype"})
"""Names of fields, without case and underscores, whose values say what kind of error it is."""

_ECHOES = frozenset({"input", "request", "body", "messages", "prompt"})
"""Names of fields that hold what was sent."""


class ErrorWords(NamedTuple):
    """An error in the server's words.

    `reasons` are all its labels, of the servers behind the server too: codes, quotas, what limits.
    """

    message: str = ""
    code: str | None = None
    type: str | None = None
    param: str | None = None
    reasons: tuple[str, ...] = ()
    wait_seconds: float | None = None


def read(payload: object, headers: Mapping[str, str]) -> ErrorWords:
    """The error in a body of any known shape; `headers` are the reply's."""
    words = _words(payload)
    known = list(fields(payload))
    labels = [value for name, value in known if name.lower().replace("_", "") in _LABELS]
    labels += [headers.get("x-ratelimit-type", ""), headers.get("x-amzn-errortype", "").partition(":")[0]]
    reasons = tuple(dict.fromkeys(each[:200] for each in map(_label, labels) if each))
    return words._replace(reasons=reasons, wait_seconds=asked_seconds(headers, known, words.message[:_SENTENCES]))


def is_error(payload: JsonObject) -> bool:
    """Whether the object that came with a success status is an error all the same."""
    error = payload.get("error")
    if any(error.values()) if isinstance(error, dict) else error:
        return True
    if payload.get("object") == "error" or payload.get("error_code"):
        return True
    base = payload.get("base_resp")
    if isinstance(base, dict) and base.get("status_code") and not payload.get("choices"):
        return True
    return payload.get("success") is False and bool(payload.get("errors"))


def fields(body: object) -> Iterator[tuple[str, object]]:
    """Names and values at any depth of a body, also within strings that are JSON; never what was sent."""
    left = _MOST_FIELDS
    nodes = [("", body, _DEPTH)]
    while nodes and left > 0:
        name, node, depth = nodes.pop(0)
        left -= 1
        if name:
            yield name, node
        node = _opened(node) if isinstance(node, str) else node
        if depth and isinstance(node, dict):
            items = islice(node.items(), _MOST_FIELDS)
            nodes += [(str(key), each, depth - 1) for key, each in items if str(key).lower() not in _ECHOES]
        elif depth and isinstance(node, list):
            nodes += [("", each, depth - 1) for each in node[:_MOST_FIELDS]]


def _words(payload: object, depth: int = _DEPTH) -> ErrorWords:
    if isinstance(payload, list) and payload:  # Google wraps its error in a list
        payload = payload[0]
    if isinstance(payload, str):
        return _unpacked(ErrorWords(payload), depth)
    if not isinstance(payload, dict) or depth <= 0:
        return ErrorWords()
    error = payload.get("error")
    errors = payload.get("errors")
    if isinstance(error, dict):
        inner = _words_of_error(error, depth)
    elif isinstance(errors, list) and errors and not error and isinstance(errors[0], dict):  # Cloudflare
        inner = _words_of_error(errors[0], depth)
    elif isinstance(errors, list) and errors and not error:
        inner = ErrorWords(_text(errors[0]) or _text(payload.get("message")))
    else:
        base = payload.get("base_resp")  # MiniMax
        base = base if isinstance(base, dict) else {}
        names = "message", "error_msg", "msg", "Message"
        said = next(filter(None, (_text(payload.get(name)) for name in names)), "") or _text(base.get("status_msg"))
        said = said or _detail(payload.get("detail")) or _text(payload.get("title"))
        message = ": ".join(dict.fromkeys(filter(None, (_text(error), said))))
        code = _label(payload.get("code")) or _label(payload.get("error_code")) or _label(base.get("status_code"))
        kind = _label(payload.get("type")) or _label(payload.get("__type"))
        inner = ErrorWords(message, code, kind, _label(payload.get("param")))
    return _unpacked(inner, depth)


def _words_of_error(error: JsonObject, depth: int) -> ErrorWords:
    metadata = error.get("metadata")
    behind = metadata.get("raw") if isinstance(metadata, dict) else None  # OpenRouter: from the server behind it
    parts = _message(error.get("message"), depth), _message(behind, depth)
    message = ": ".join(filter(None, parts)) or _words(error, depth - 1).message
    kind = _label(error.get("type")) or _label(error.get("status"))  # Google calls it status
    return ErrorWords(message, _label(error.get("code")), kind, _label(error.get("param")))


def _message(value: object, depth: int) -> str:
    return value if isinstance(value, str) else _words(value, depth - 1).message


def _unpacked(words: ErrorWords, depth: int) -> ErrorWords:
    """With a message that holds another error as JSON read as that error's own."""
    begin = re.search(r"\{|\[\{", words.message)
    if begin is None:
        return words
    start, end = begin.start(), words.message.rfind("}" if begin[0] == "{" else "]") + 1
    inner = _words(_opened(words.message[start:end]), depth - 1)
    if not inner.message:
        return words
    outer = words.message[:start].rstrip(" :-{")
    message = f"{outer}: {inner.message}" if outer else inner.message
    return words._replace(message=message, code=words.code or inner.code, type=words.type or inner.type)


def _opened(text: str) -> object:
    """The object or list in a string that is JSON; None for any other."""
    text = text.strip()
    if not text.startswith(("{", "[")) or len(text) > _MOST_TEXT:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _detail(detail: object) -> str:
    """FastAPI's detail: a string, an object, or a list of {"loc", "msg"}."""
    if isinstance(detail, dict):
        return _text(detail.get("message")) or _text(detail.get("msg")) or _words(detail).message
    items = [item for item in detail if isinstance(item, dict)] if isinstance(detail, list) else []
    parts = [f"{'.'.join(map(str, _list(item.get('loc'))))}: {item.get('msg')}" for item in items]
    return _text(detail) or "; ".join(parts)


def _label(value: object) -> str | None:
    """A code, type or param as a string; None without one."""
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value) or None
    return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
