"""A body that was paid for is read as far as a person could read it: JSON with faults, and streams nobody asked for.

orjson reads what is right. All else here is for servers that write JSON by hand, that answer with an event stream
(OpenAI's, chunk by chunk or event by event) or with one object a line (Ollama's).
"""

import json
import math
import re
from json import JSONDecoder
from typing import Any, NamedTuple

import orjson

from tidemill.models.json_types import JsonObject
from tidemill.models.streams import is_chunk, join_chunks

MOST_PARTS = 4_000_000
"""Of a JSON body: each takes some 70 bytes of memory, and only 3 on the wire."""

_BEFORE = re.compile(r"(?:[\s\0\ufeff]++|\)\]\}',?|:[^\r\n]*+[\r\n])*+")
"""What may stand before the first sign of a value: white space, marks, a stream's comments."""
_EVENT = re.compile(r"(?:data|event|id|retry):")
_CHARSET = re.compile(r"charset=[\"']?([\w.:-]+)", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\n|\r")
_FAULTS = re.compile(
    r'(?is)("[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z))|(-?\b(?:nan|inf|infinity|undefined)\b)|,(?=\s*+[}\]])'
)
"""A string, which stays as it is, and what is wrong outside of strings."""


class MalformedError(ValueError):
    """The body is no JSON."""


class TooManyPartsError(MalformedError):
    """The body would take gigabytes of memory."""


class Payload(NamedTuple):
    """The value of a body; `is_whole` is False for a stream that broke off, whose beginning is there."""

    value: Any
    is_whole: bool = True


def load_json(body: bytes) -> Any:
    """The value of a body. Lone surrogates stay as they are, broken UTF-8 becomes U+FFFD, NaN and infinities None.

    What stands behind the value is left out.

    Raises:
        MalformedError: it is no JSON, ends too early, or is nested too deeply.
    """
    value = _well_formed(body)
    if value is not _FAULTY:
        return value
    values = _values(_text(body), most=1)
    if not values:
        raise MalformedError
    return values[0]


def load_reply(body: bytes, content_type: str = "") -> Payload:
    """The value of a reply's body; a stream is put together to what it would have been without one. Errors as above.

    `content_type` is the reply's header: it names the encoding of a body that is not in UTF-8.
    """
    value = _well_formed(body)
    if value is not _FAULTY:
        return Payload(value)
    text = _text(body, content_type)
    if _EVENT.match(text):
        return _joined(*_events(text))
    values = _values(text)
    if not values:
        raise MalformedError
    chunks = [each for each in values if isinstance(each, dict)]
    return _joined(chunks, False) if is_chunk(chunks[0] if chunks else {}) else Payload(values[0])


_FAULTY = object()


def _well_formed(body: bytes) -> Any:
    if len(body) > MOST_PARTS and sum(body.count(sign) for sign in (b"{", b"[", b",")) > MOST_PARTS:
        raise TooManyPartsError
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return _FAULTY


def _text(body: bytes, content_type: str = "") -> str:
    named = _CHARSET.search(content_type)
    try:
        text = body.decode(json.detect_encoding(body), "strict" if named else "replace")
    except UnicodeDecodeError:
        try:
            text = body.decode(named[1] if named else "utf-8", "replace")
        except LookupError:  # no such encoding, or none of text
            text = body.decode("utf-8", "replace")
    return text[_BEFORE.match(text).end() :]  # type: ignore[union-attr]  # it matches the empty string, too


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _integer(digits: str) -> int | float | None:
    return int(digits) if len(digits) < 4_000 else None  # Python reads no longer ones


_DECODER = JSONDecoder(strict=False, parse_constant=lambda _: None, parse_float=_finite, parse_int=_integer)


def _values(text: str, most: int | None = None) -> list[Any]:
    """The JSON values at the beginning of a text, one after the other, as far as they can be read."""
    try:
        return _decoded(text, most) or _decoded(_FAULTS.sub(_without_fault, text), most)
    except RecursionError:
        return []


def _without_fault(match: re.Match[str]) -> str:
    return match[1] or ("null" if match[2] else "")


def _decoded(text: str, most: int | None) -> list[Any]:
    values: list[Any] = []
    place = 0
    while place < len(text) and len(values) != most:
        try:
            value, place = _DECODER.raw_decode(text, place)
        except ValueError:
            break
        values.append(value)
        while place < len(text) and text[place].isspace():
            place += 1
    return values


def _events(text: str) -> tuple[list[JsonObject], bool]:
    """The objects of an event stream, and whether it said that it was done. What follows an unreadable one is left."""
    chunks: list[JsonObject] = []
    name, lines = "", list[str]()
    for line in (*_LINE_END.split(text), ""):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value.strip()
        elif field == "data":
            lines.append(value)
        elif not line and lines:
            words = "\n".join(lines).strip()
            if words == "[DONE]":
                return chunks, True
            read = [each for each in _values(words) if isinstance(each, dict)]
            if not read and words.startswith("{"):
                return chunks, False
            is_error = name == "error" and not any("error" in each for each in read)
            chunks += [{"error": read[0] if read else words}] if is_error else read
            name, lines = "", []
            if "[DONE]" in words:  # without an empty line before it
                return chunks, True
    return chunks, False


def _joined(chunks: list[JsonObject], is_done: bool) -> Payload:
    if not chunks:
        raise MalformedError
    reply, has_ended = join_chunks(chunks)
    return Payload(reply, has_ended or is_done)
