"""Text, JSON Lines and JSON are read here, line by line where they have lines, without pandas."""

import codecs
import io
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from json import JSONDecodeError, loads
from pathlib import Path
from typing import TypeAlias

import orjson

from tidemill.models.errors import InputError
from tidemill.producer.intake.compressed import opened
from tidemill.producer.intake.encodings import SAMPLE_BYTES, advice
from tidemill.producer.intake.formats import text_encoding
from tidemill.producer.intake.records import Input, Records, json_kind

LONGEST_LINE_BYTES = 256 * 2**20  # a line beyond it is no prompt but a wrong or hostile file

ByteStream: TypeAlias = io.BufferedReader

_LONG_NUMBER = re.compile(rb"[0-9]{19}")  # orjson turns integers beyond 64 bits into floats, silently
_TWO_DIGITS = re.compile(rb"[0-9]{2}")


def text_lines(file: ByteStream, input_: Input) -> Records:
    """One prompt a line."""
    return _prompts(_lines(file, input_), input_)


def json_lines(file: ByteStream, input_: Input) -> Records:
    """One JSON object a line."""
    return _objects(_parsed(_lines(file, input_), input_), input_)


def json_file(file: ByteStream, input_: Input, *, of_prompts: bool = True) -> Records:
    """JSON as people save it: a list of objects, or one object a line.

    With `of_prompts` also a list of strings, which are prompts; without, also a single object.
    """
    may_be_one = not of_prompts
    lines = _lines(file, input_)
    head = list(islice(lines, 2))
    if not head:
        return
    if _is_object(head[0][1]) and (len(head) > 1 or may_be_one):
        input_.unit = "line"
        yield from _objects(_parsed(chain(head, lines), input_), input_)
        return
    all_lines = [*head, *lines]
    try:
        rows = _json(b"\n".join(line for _, line in all_lines))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        if not any(_is_object(line) for _, line in all_lines):
            raise input_.fault(f"is not valid JSON ({_json_fault(error)})") from error
        input_.unit = "line"
        yield from _objects(_parsed(all_lines, input_), input_)
        return
    if isinstance(rows, dict) and may_be_one:
        rows = [rows]
    if not isinstance(rows, list):
        raise input_.fault(f"holds {json_kind(rows)}; write a list of objects, or one object a line")
    if of_prompts and rows and isinstance(rows[0], str):
        yield from _strings(rows, input_)
    else:
        yield from _objects(enumerate(rows, 1), input_)


def _strings(rows: list[object], input_: Input) -> Records:
    for number, row in enumerate(rows, 1):
        if isinstance(row, str):
            yield number, {"prompt": row}
        else:
            input_.report_bad_row(number, f"is {json_kind(row)}, and the first is a string; let all be of one kind")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(_json(line), dict)
    except (ValueError, RecursionError):
        return False


def encoding(file: ByteStream, input_: Input) -> str:
    """The encoding, judged by the first bytes; raises InputError when they are no text."""
    name = text_encoding(file.peek(4096))
    if name is None:
        raise input_.fault("is not text: it holds NUL bytes; give a CSV, JSON Lines, Parquet, Excel or plain text file")
    return name


@contextmanager
def decoded(file: ByteStream, encoding: str, newline: str) -> Iterator[io.TextIOWrapper]:
    """The file as text. It stays open at the end of the context: who opened it closes it."""
    text = io.TextIOWrapper(file, encoding, newline=newline)
    try:
        yield text
    finally:
        if not file.closed:
            text.detach()


def encoding_error(
    input_: Input, error: UnicodeDecodeError, number: int | None = None, sample: bytes = b""
) -> InputError:
    """The error for bytes that are not in the encoding that the first ones promise."""
    where = "" if number is None else f" in line {number}"
    if error.encoding.startswith("utf-16"):
        return input_.fault("begins like UTF-16 but is not; save it as UTF-8")
    return input_.fault(_why_not_utf8(error, where, sample))


def _why_not_utf8(error: UnicodeDecodeError, where: str = "", sample: bytes = b"") -> str:
    byte = error.object[error.start]
    return f"is not UTF-8: there is a byte 0x{byte:02x}{where}; {advice(sample or error.object)}"


def undecodable_file(path: Path, error: UnicodeDecodeError, input_: Input) -> InputError:
    """The error for a file that is not in the encoding that its first bytes promise; names the line if it can."""
    return encoding_error(input_, error, *_first_undecodable_line(path, error))


def _first_undecodable_line(path: Path, error: UnicodeDecodeError) -> tuple[int | None, bytes]:
    """Its number and what follows; the file is read again, for the parser knows the byte's place in its buffer only."""
    if not path.is_file() or error.encoding.startswith("utf-16"):
        return None, b""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number, line + file.read(SAMPLE_BYTES)
    return None, b""


def _lines(file: ByteStream, input_: Input) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, in UTF-8 (not yet checked), without their line end."""
    for number, raw in enumerate(_raw_lines(file, encoding(file, input_)), 1):
        line = raw.removeprefix(codecs.BOM_UTF8)  # files that were put together have one in their middle, too
        if len(line) >= LONGEST_LINE_BYTES:
            raise input_.fault(f"the line is longer than {LONGEST_LINE_BYTES >> 20} MiB; split it", number)
        if line and not line.isspace():
            yield number, line.rstrip(b"\r\n")


def _raw_lines(file: ByteStream, encoding: str) -> Iterator[bytes]:
    if not encoding.startswith("utf-16"):
        yield from iter(partial(file.readline, LONGEST_LINE_BYTES), b"")
        return
    with decoded(file, encoding, newline="\n") as text:
        for line in text:
            yield line.encode()


def _prompts(lines: Iterable[tuple[int, bytes]], input_: Input) -> Records:
    for number, line in lines:
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise encoding_error(input_, error, number) from error
        if not text.isspace():
            yield number, {"prompt": text}


def _parsed(lines: Iterable[tuple[int, bytes]], input_: Input) -> Iterator[tuple[int, object]]:
    for number, line in lines:
        try:
            value = _json(line)
        except UnicodeDecodeError as error:
            input_.report_bad_row(number, _why_not_utf8(error))
        except (ValueError, RecursionError) as error:
            input_.report_bad_row(number, f"is not valid JSON ({_json_fault(error)})")
        else:
            yield number, value


def _objects(values: Iterable[tuple[int, object]], input_: Input) -> Records:
    for number, value in values:
        if isinstance(value, dict):
            yield number, value
        else:
            input_.report_bad_row(number, f'is {json_kind(value)}, not an object such as {{"prompt": ".."}}')


def _json(line: bytes) -> object:
    """Parse strictly; the slow parser reads what orjson cannot (lone surrogates) or would round (long integers).

    Raises ValueError or, for deep nesting, RecursionError.
    """
    # Every ninth byte hits two of 19 digits in a row: a quick search before the thorough one, ten times as fast.
    if _TWO_DIGITS.search(line[::9]) is None or _LONG_NUMBER.search(line) is None:
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError:
            pass
    return loads(line.decode(), parse_constant=_reject_number, parse_float=_finite)


def _reject_number(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _reject_number(text)


def _json_fault(error: Exception) -> str:
    if isinstance(error, JSONDecodeError):
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        return f"{error.msg} at {line}character {error.colno}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
