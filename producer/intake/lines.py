"""Text, JSON Lines and JSON are read here, line by line where they have lines, without pandas.

Standard input is one of the first two: JSON Lines when its first line is a JSON object, else one prompt a line.
"""

import codecs
import io
import math
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from tidemill.models.errors import InputError
from tidemill.producer.intake.compressed import opened
from tidemill.producer.intake.records import Input, Records, json_kind

LONGEST_LINE_BYTES = 256 * 2**20  # a line beyond it is no prompt but a wrong or hostile file

ByteStream: TypeAlias = io.BufferedReader

_LONG_NUMBER = re.compile(rb"[0-9]{19}")  # orjson turns integers beyond 64 bits into floats, silently
_MAGIC = {
    b"\x1f\x8b": "is a gzip archive: unpack it with gunzip, or let its name end in .gz",
    b"BZh": "is a bzip2 archive: unpack it with bunzip2, or let its name end in .bz2",
    b"\xfd7zXZ": "is an xz archive: unpack it with unxz, or let its name end in .xz",
    b"\x28\xb5\x2f\xfd": "is a zstd archive: unpack it with unzstd",
    b"7z\xbc\xaf": "is a 7z archive: unpack it",
    b"PK\x03\x04": "is a ZIP archive or an Office file: unpack it, or give a workbook its own ending, .xlsx or .ods",
    b"\xd0\xcf\x11\xe0": "is an old Office file: give a workbook its own ending, .xls",
    b"PAR1": "is a Parquet file: give it the ending .parquet",
    b"%PDF": "is a PDF, not text: extract its text first",
    b"\x89PNG": "is an image, not text",
    b"\xff\xd8\xff": "is an image, not text",
    b"\xff\xfe\0\0": "is UTF-32: convert it with iconv -f utf-32 -t utf-8",
    b"\0\0\xfe\xff": "is UTF-32: convert it with iconv -f utf-32 -t utf-8",
}


def standard_input(input_: Input) -> Records:
    """Prompts or objects, one a line; raises InputError, as all readers here do."""
    try:
        yield from sniffed_lines(_stdin(), input_)
    except UnicodeDecodeError as error:
        raise _encoding_error(input_, error) from error


def standard_objects(input_: Input) -> Records:
    """JSON objects, one a line; raises InputError at once when the first line is none."""
    lines = _lines(_stdin(), input_)
    first = next(lines, None)
    if first is not None and not first[1].lstrip().startswith((b"{", b"[")):
        raise input_.fault(
            "does not begin with a JSON object; for CSV and other formats give the file's name instead of -"
        )
    yield from _any_layout(chain([first] if first else [], lines), input_)


def _stdin() -> ByteStream:
    stream: Any = sys.stdin.buffer
    return stream if hasattr(stream, "peek") else io.BufferedReader(stream)


def sniffed_lines(file: ByteStream, input_: Input) -> Records:
    """JSON Lines when the first line is a JSON object, else one prompt a line."""
    lines = _lines(file, input_)
    first = next(lines, None)
    if first is None:
        return iter(())
    start = first[1].strip()
    is_object = _is_object(start)
    if start in (b"[", b"{") or start.startswith(b"[{"):  # as plain text, each line would be paid for
        raise input_.fault("is JSON over several lines; save it as a .json file, or write one object a line")
    lines = chain([first], lines)
    return _objects(_parsed(lines, input_), input_) if is_object else _prompts(lines, input_)


def text_lines(file: ByteStream, input_: Input) -> Records:
    """One prompt a line."""
    return _prompts(_lines(file, input_), input_)


def json_lines(file: ByteStream, input_: Input) -> Records:
    """One JSON object a line."""
    return _objects(_parsed(_lines(file, input_), input_), input_)


def json_file(file: ByteStream, input_: Input) -> Records:
    """A JSON list of objects, read whole."""
    name = encoding(file, input_)
    text = file.read().decode(name)
    if not text.strip():
        return
    try:
        rows = _json(text.encode())
    except (ValueError, RecursionError) as error:
        raise input_.fault(
            f"is not valid JSON ({_json_fault(error)}); if it holds one object a line, give it the ending .jsonl"
        ) from error
    if not isinstance(rows, list):
        raise input_.fault(f"holds {json_kind(rows)}; write a list of objects, or one object a line in a .jsonl file")
    yield from _objects(enumerate(rows, 1), input_)


def any_json(file: ByteStream, input_: Input) -> Records:
    """JSON as people save it, whatever its ending: one object a line, a list of objects, or a single object."""
    return _any_layout(_lines(file, input_), input_)


def _any_layout(lines: Iterator[tuple[int, bytes]], input_: Input) -> Records:
    """Objects, one a line; if the first line is none, all lines together may be a list of objects, or one."""
    first = next(lines, None)
    if first is None:
        return iter(())
    input_.unit = "line"
    if _is_object(first[1]):
        return _objects(_parsed(chain([first], lines), input_), input_)
    all_lines = [first, *lines]
    try:
        whole = _json(b"\n".join(line for _, line in all_lines))
    except (ValueError, RecursionError) as error:
        if len(all_lines) > 1 and not any(_is_object(line) for _, line in all_lines[1:]):
            raise input_.fault(f"is not valid JSON ({_json_fault(error)})") from error
        return _objects(_parsed(all_lines, input_), input_)
    input_.unit = "row"
    return _objects(enumerate(whole if isinstance(whole, list) else [whole], 1), input_)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(_json(line), dict)
    except (ValueError, RecursionError):
        return False


def encoding(file: ByteStream, input_: Input) -> str:
    """The encoding, judged by the first bytes; raises InputError when they are no text."""
    head = file.peek(4096)
    for magic, why in _MAGIC.items():
        if head.startswith(magic):
            raise input_.fault(why)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in head:
        raise input_.fault("is not text: it holds NUL bytes; give a CSV, JSON Lines, Parquet, Excel or plain text file")
    return "utf-8-sig"


@contextmanager
def decoded(file: ByteStream, encoding: str, newline: str) -> Iterator[io.TextIOWrapper]:
    """The file as text. It stays open at the end of the context: who opened it closes it."""
    text = io.TextIOWrapper(file, encoding, newline=newline)
    try:
        yield text
    finally:
        if not file.closed:
            text.detach()


def _encoding_error(input_: Input, error: UnicodeDecodeError, number: int | None = None) -> InputError:
    where = "" if number is None else f" in line {number}"
    if error.encoding.startswith("utf-16"):
        return input_.fault("begins like UTF-16 but is not; save it as UTF-8")
    return input_.fault(_why_not_utf8(error, where))


def _why_not_utf8(error: UnicodeDecodeError, where: str = "") -> str:
    return (
        f"is not UTF-8: there is a byte 0x{error.object[error.start]:02x}{where}; if it is Latin-1, convert it with "
        "iconv -f latin1 -t utf-8"
    )


def undecodable_file(path: Path, error: UnicodeDecodeError, input_: Input) -> InputError:
    """The error for a file that is not in the encoding that its first bytes promise; names the line if it can."""
    return _encoding_error(input_, error, _first_undecodable_line(path, error))


def _first_undecodable_line(path: Path, error: UnicodeDecodeError) -> int | None:
    """Read the file again: the parser knows the byte's place in its buffer only."""
    if not path.is_file() or error.encoding.startswith("utf-16"):
        return None
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None


def _lines(file: ByteStream, input_: Input) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, in UTF-8 (not yet checked), without their line end."""
    for number, raw in enumerate(_raw_lines(file, encoding(file, input_)), 1):
        line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if len(line) >= LONGEST_LINE_BYTES:
            raise input_.fault(f"the line is longer than {LONGEST_LINE_BYTES >> 20} MiB; split it", number)
        if line and not line.isspace():
            yield number, line.rstrip(b"\r\n")


def _raw_lines(file: ByteStream, encoding: str) -> Iterator[bytes]:
    if encoding != "utf-16":
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
            raise _encoding_error(input_, error, number) from error
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
    if _LONG_NUMBER.search(line) is None:
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
