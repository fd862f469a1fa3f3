"""A reply that was paid for must never be lost because a database cannot store one character.

Postgres takes no NUL in text, and no database driver can encode lone surrogates, but models return both. They are
stored as escapes and come back as they were. Ordinary text is stored as it is.
"""

import json
import math
import re
from typing import Any, NoReturn

import orjson

_INTRODUCER = "\ufdd0"  # a Unicode noncharacter: storable everywhere, reserved for use inside a program
_UNSTORABLE = re.compile("[\x00\ud800-\udfff\ufdd0]")
_ESCAPED = re.compile("\ufdd0([0-9A-F]{4})")
_LONG_INTEGER = re.compile(r"[0-9]{19}")  # orjson would read an integer beyond 64 bits as a float
_LINE_ENDS = {end.encode(): f"\\u{ord(end):04x}".encode() for end in "\u0085\u2028\u2029"}
_TWO_DIGITS = re.compile(r"[0-9]{2}")
# Characters that move the cursor, reorder or hide text, or cannot be printed: C0, C1, bidi, invisible, surrogates
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def encode(text: str) -> str:
    """`text` as every database can store it; `decode` is the exact inverse, for every string."""
    if "\x00" not in text and _INTRODUCER not in text:
        try:
            text.encode()  # finds surrogates ten times as fast as the pattern
        except UnicodeEncodeError:
            pass
        else:
            return text
    return _UNSTORABLE.sub(lambda match: f"{_INTRODUCER}{ord(match[0]):04X}", text)


def decode(stored: str) -> str:
    """The text from which `encode` made `stored`. Text that `encode` never changed stays the same."""
    if stored.isascii() or _INTRODUCER not in stored:
        return stored
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), stored)


def dumps(value: object) -> str:
    """JSON of `value` on one line, storable in any text column: NUL and lone surrogates are ASCII escapes in it.

    Args:
        value: dicts with string keys, lists, tuples, strings, booleans, None, integers of any size, finite floats.

    Raises:
        ValueError: a float is NaN or infinite, or the nesting is too deep; JSON has no form for them.
        TypeError: JSON has no form for a value, or a key is not a string.
    """
    try:
        text = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS).decode()
    except (
        TypeError
    ):  # also raised for lone surrogates and integers beyond 64 bits, which the standard library can write
        return _dumps_slowly(value)
    # orjson writes NaN as null, so only a text with a null in it must be searched for NaN.
    return _dumps_slowly(value) if "null" in text and _has_nan(value) else text


def loads(text: str) -> Any:
    """The value of a JSON text; tuples that `dumps` wrote come back as lists.

    Raises:
        ValueError: the text is not JSON, or contains NaN, an infinity or a number that overflows to one.
    """
    # Every ninth character of the text hits two of 19 digits in a row: a quick search before the thorough one.
    if _TWO_DIGITS.search(text[::9]) is None or _LONG_INTEGER.search(text) is None:
        try:
            return orjson.loads(text)
        except ValueError:
            pass  # orjson alone does not read lone surrogates, written as escapes
    try:
        return json.loads(text, parse_constant=_reject_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("the JSON text is nested too deeply") from None


def is_json(value: object) -> bool:
    """Whether `dumps` has a form for it."""
    try:
        dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def unbroken(line: bytes) -> bytes:
    """A line of JSON with the same value that `str.splitlines` leaves whole; JSON has escaped all other line ends."""
    if not line.isascii():
        for end, escape in _LINE_ENDS.items():  # five times as fast as a pattern
            line = line.replace(end, escape)
    return line


def one_line(text: str, limit: int = 300) -> str:
    """`text` for a terminal or a log: one line of at most `limit` characters, all of them visible and harmless.

    White space is collapsed; control characters (and with them ANSI sequences), bidi and invisible characters are
    shown as escapes such as \\x1b; an ellipsis marks what is cut off.
    """
    head = " ".join(text.split(None, limit))[: limit + 1]  # no more than `limit` words have room
    line = _CONTROL.sub(_escape, head)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def printable(text: str) -> str:
    """`text` for a terminal, with its lines and tabs; characters that could act or hide become escapes."""
    return _CONTROL.sub(lambda match: match[0] if match[0] in "\n\t" else _escape(match), text.replace("\r\n", "\n"))


def printable_json(text: str) -> str:
    """A JSON text, on one line, with the same value and without characters that could act or hide on a terminal."""
    return _CONTROL.sub(lambda match: json.dumps(match[0])[1:-1], text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _dumps_slowly(value: object) -> str:
    try:
        _check_keys(value)
        return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError("the value is nested too deeply for JSON") from None


def _check_keys(value: object) -> None:
    """The standard library would write the key 1 as "1", and it would come back as another key."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a JSON key must be a string, not {type(key).__name__}")
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)


def _has_nan(value: object) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_nan, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_nan, value))


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("the JSON text has a number beyond the range of floats")
    return number
