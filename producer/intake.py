"""Why this module exists: prompts come in many shapes, and each must become a request or one clear sentence.

Three steps. A reader of `_READERS` turns a source into records: pairs of a number and a dict of the source's columns.
`_Asker` turns a record into a request. `_rows` joins the two and decides what becomes of a bad row. All of it streams,
except Excel and `.json`, which can only be read whole.

pandas takes a second to import, so only CSV, Excel and DataFrames do it.
"""

import base64
import codecs
import csv
import datetime
import io
import math
import re
import string
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from json import JSONDecodeError, dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import orjson

from models.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

CHUNK_ROWS = 1_000
FIRST_CHUNK_ROWS = 32  # small, so that workers start at once
CHUNK_SECONDS = 1.0  # a slow pipe does not keep workers waiting for a full chunk
LONGEST_LINE_BYTES = 256 * 2**20  # of text and JSON Lines: a line beyond it is no prompt but a wrong or hostile file
PROMPT_COLUMNS = ("prompt", "question", "text", "input", "instruction", "query")  # tried in this order
BATCH_LINE_URLS = ("/v1/chat/completions", "/v1/responses")

Request: TypeAlias = dict[str, Any]
Source: TypeAlias = "str | Path | pd.DataFrame | Iterable[str] | Iterable[Mapping[Any, Any]]"
_File: TypeAlias = "io.BufferedReader[Any]"
_Record: TypeAlias = tuple[int, dict[str, Any]]

_SPARE_CELLS = 4  # cells looked at beyond the header's last, to tell a row that is too long
_SHOWN_COLUMNS = 30
_LONG_NUMBER = re.compile(rb"[0-9]{19}")  # orjson turns integers beyond 64 bits into floats, silently
_MAGIC = {
    b"\x1f\x8b": "is a gzip archive: unpack it with gunzip",
    b"PK\x03\x04": "is a ZIP archive or an Office file: unpack it, or give a workbook its own ending, .xlsx or .ods",
    b"\xd0\xcf\x11\xe0": "is an old Office file: give a workbook its own ending, .xls",
    b"PAR1": "is a Parquet file: give it the ending .parquet",
    b"%PDF": "is a PDF, not text: extract its text first",
    b"\x89PNG": "is an image, not text",
    b"\xff\xd8\xff": "is an image, not text",
    b"\xff\xfe\0\0": "is UTF-32: convert it with iconv -f utf-32 -t utf-8",
    b"\0\0\xfe\xff": "is UTF-32: convert it with iconv -f utf-32 -t utf-8",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the input, ready to be submitted.

    `custom_id` is the input's own, as text; None when it has none. `columns` are the input's other columns, as JSON
    can hold them, to be shown again next to the answer (a batch line shows neither method, url nor body). `request` is
    `{"prompt": str}`, `{"messages": [..]}` or `{"url": str, "body": {..}}`. `line` counts from 1: the line of a text
    or JSON Lines file, the row of a table as a spreadsheet numbers it (a header is row 1).
    """

    custom_id: str | None
    columns: dict[str, Any]
    request: Request
    line: int


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read: the prompt's `column` or a `template` with `{column}` placeholders, and which rows to take.

    In a template `{{` and `}}` are literal braces. `limit` counts usable rows; nothing is read after the last of them.
    """

    column: str | None = None
    template: str | None = None
    skip_bad_rows: bool = False
    limit: int | None = None


class _BadRowError(Exception):
    """One row cannot be used; the text says why and is completed with the source's name and the row's number."""


@dataclass(slots=True)
class _Input:
    """A source's name, how it is read, and what became of its bad rows so far."""

    name: str
    reading: Reading
    on_bad_row: Callable[[str], None]
    unit: str = "line"
    bad_rows: int = 0

    def bad(self, number: int, why: object) -> None:
        """Report a bad row and go on, or raise InputError when bad rows are not to be skipped."""
        sentence = f"{self.name} {self.unit} {number}: {why}"
        if not self.reading.skip_bad_rows:
            raise InputError(f"{sentence}; mend it, or go on without such rows with --skip-bad-rows")
        self.bad_rows += 1
        self.on_bad_row(sentence)

    def fault(self, why: str, number: int | None = None) -> InputError:
        """The error for what no skipping can mend."""
        return InputError(f"{self.name} {why}" if number is None else f"{self.name} {self.unit} {number}: {why}")


def prompt(text: str) -> Row:
    """One prompt from the command line as a row; raises InputError when it is blank."""
    if not text.strip():
        raise InputError("the prompt is empty; write it in quotes, or name a file of prompts with -i")
    return Row(None, {"prompt": text}, {"prompt": text}, 1)


def read(source: Source, reading: Reading, *, on_bad_row: Callable[[str], None]) -> Iterator[list[Row]]:
    """Stream a source as lists of at most 1,000 rows; the first holds at most 32.

    A source is a path, `-` for stdin, a DataFrame, or an iterable of prompts or of mappings. The ending of a path
    says its format; stdin and unknown endings are JSON Lines when their first line is a JSON object, else one prompt a
    line. `on_bad_row` gets one sentence for each row that `reading.skip_bad_rows` skips.

    Raises InputError, a sentence that names source, line and remedy, while it is iterated.
    """
    if reading.limit is not None and reading.limit < 1:
        raise InputError(f"the limit is {reading.limit}, but it counts rows: give 1 or more")
    if isinstance(source, (str, Path)):
        given = _Input("standard input" if source == "-" else str(source), reading, on_bad_row)
        records = _stdin_records(given) if source == "-" else _file_records(Path(source), given)
    else:
        given = _Input("the DataFrame" if _is_frame(source) else "the input", reading, on_bad_row, unit="row")
        records = _frame_records(source) if _is_frame(source) else _item_records(source, given)
    yield from _chunks(islice(_rows(records, given), reading.limit))


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    size, due = FIRST_CHUNK_ROWS, math.inf
    for row in rows:
        if not chunk:
            due = time.monotonic() + CHUNK_SECONDS
        chunk.append(row)
        if len(chunk) >= size or time.monotonic() >= due:
            yield chunk
            chunk, size = [], CHUNK_ROWS
    if chunk:
        yield chunk


def _rows(records: Iterator[_Record], given: _Input) -> Iterator[Row]:
    asker, found = _Asker(given), False
    for line, record in records:
        try:
            request = asker.request(record)
            custom_id = _custom_id(record.pop("custom_id", None))
        except _BadRowError as error:
            given.bad(line, error)
            continue
        if "url" in request:
            record = {name: value for name, value in record.items() if name not in ("method", "url", "body")}  # noqa: PLW2901
        found = True
        yield Row(custom_id, record, request, line)
    if not found and given.bad_rows:
        raise given.fault(f"has no row that can be used: all {given.bad_rows:,} are bad")
    if not found:
        raise given.fault("is empty: it holds no prompt")


# Records to requests.


class _Asker:
    """Makes requests of records. Which columns to use is settled on the first record that needs them: there a missing
    column is the whole input's fault (InputError), later on it is one bad row."""

    def __init__(self, given: _Input) -> None:
        self._given = given
        self._column = given.reading.column
        self._template = None if given.reading.template is None else _template(given.reading.template)
        self._settled = False
        if self._template is not None and self._column is not None:
            raise InputError("--column and a template were both given; a template names its columns itself: drop one")

    def request(self, record: dict[str, Any]) -> Request:
        if self._template is not None:
            return {"prompt": self._filled(record, *self._template)}
        if self._given.reading.column is None:
            if "body" in record and ("url" in record or "method" in record):
                return _batch_line(record)
            if isinstance(record.get("messages"), list):
                return {"messages": _messages(record["messages"], "messages")}
            if self._column is None:
                self._column = self._default_column(record)
        assert self._column is not None
        self._require(self._column, record)
        return _cell_request(record[self._column], self._column)

    def _filled(self, record: dict[str, Any], literals: list[str], names: list[str]) -> str:
        for name in names:
            self._require(name, record, ", which the template names")
        values = [_as_text(record[name]) for name in names]
        if not any(value.strip() for value in values):
            raise _BadRowError(f"every column of the template is empty ({_listed(names)})")
        return "".join(chain.from_iterable(zip(literals, [*values, ""], strict=True)))

    def _require(self, name: str, record: dict[str, Any], why: str = "") -> None:
        if name in record:
            self._settled = True
        elif self._settled:
            raise _BadRowError(f"the column {name!r} is missing")
        else:
            raise self._given.fault(f"has no column {name!r}{why}; its columns are: {_listed(record)}")

    def _default_column(self, record: dict[str, Any]) -> str:
        by_name = {name.strip().casefold(): name for name in reversed(record)}
        for name in PROMPT_COLUMNS:
            if name in record or name in by_name:
                return name if name in record else by_name[name]
        others = [name for name in record if name != "custom_id"]
        if len(others) == 1:
            return others[0]
        raise self._given.fault(
            f"has no column with a usual name ({', '.join(PROMPT_COLUMNS)}); say which holds the prompt with --column, "
            f"its columns are: {_listed(record)}"
        )


def _template(template: str) -> tuple[list[str], list[str]]:
    """Split `a {x} b` into literals `["a ", " b"]` and names `["x"]`: always one literal more than names."""
    literals, names = [""], []
    try:
        for literal, name, spec, conversion in string.Formatter().parse(template):
            literals[-1] += literal
            if name is None:
                continue
            if not name or spec or conversion:
                shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise InputError(
                    f"the template's placeholder {{{shown}}} is not a plain column name; "
                    "write {column}, and {{ and }} for literal braces"
                )
            names.append(name)
            literals.append("")
    except ValueError as error:
        raise InputError(f"the template cannot be read ({error}); write {{{{ and }}}} for literal braces") from error
    if not names:
        raise InputError("the template has no {column} placeholder, so every row would ask the same; add one")
    return literals, names


def _cell_request(value: Any, column: str) -> Request:
    if isinstance(value, str) and value and not value.isspace():
        return {"prompt": value}
    if value is None or isinstance(value, str):
        raise _BadRowError(f"the column {column!r} is empty")
    if isinstance(value, list):
        return {"messages": _messages(value, column)}
    if isinstance(value, dict | bool):
        raise _BadRowError(f"the column {column!r} holds {_json_kind(value)}, neither text nor a list of messages")
    return {"prompt": _as_text(value)}


def _messages(value: list[Any], column: str) -> list[Any]:
    if not value or not all(isinstance(item, dict) and isinstance(item.get("role"), str) for item in value):
        raise _BadRowError(f"{column!r} must be a list of one or more messages, objects with a role and a content")
    return value


def _batch_line(record: dict[str, Any]) -> Request:
    """Source of the shape: https://platform.openai.com/docs/api-reference/batch/request-input."""
    body = record["body"]
    if record.get("method") != "POST":
        raise _BadRowError(f"the method of a batch line must be POST, not {record.get('method')!r}")
    if record.get("url") not in BATCH_LINE_URLS:
        raise _BadRowError(f"the url of a batch line must be {' or '.join(BATCH_LINE_URLS)}, not {record.get('url')!r}")
    if not isinstance(body, dict):
        raise _BadRowError(f"the body of a batch line must be a JSON object, not {_json_kind(body)}")
    if body.get("stream"):
        raise _BadRowError("the body asks for a stream, which a queue cannot deliver; remove 'stream'")
    return {"url": record["url"], "body": body}


def _custom_id(value: Any) -> str | None:
    if isinstance(value, list | dict | bool):
        raise _BadRowError(f"custom_id must be text, not {_json_kind(value)}")
    return None if value is None or value == "" else str(value)


def _as_text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # lone surrogates, integers beyond 64 bits
        return dumps(value, ensure_ascii=False, separators=(",", ":"))


def _json_kind(value: Any) -> str:
    kinds = {
        dict: "a JSON object",
        list: "a JSON list",
        str: "a JSON string",
        bool: "true or false",
        type(None): "null",
    }
    return kinds.get(type(value), "a number")


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    shown = ", ".join(repr(name if len(name) <= 80 else f"{name[:80]}…") for name in known[:_SHOWN_COLUMNS])
    more = len(known) - _SHOWN_COLUMNS
    return f"{shown} and {more:,} more" if more > 0 else shown or "none"


# Sources to records.


def _file_records(path: Path, given: _Input) -> Iterator[_Record]:
    unit, reader = _READERS.get(path.suffix.lower(), ("line", _sniffed_records))
    given.unit = unit
    try:
        if path.is_dir():
            raise given.fault("is a folder; name a file in it")
        with path.open("rb") as file:
            yield from reader(file, given)
    except UnicodeDecodeError as error:
        raise _not_utf8(given, error, _first_undecodable_line(path, error)) from error
    except BrokenPipeError:
        raise  # the caller's own, from on_bad_row
    except FileNotFoundError as error:
        raise given.fault("does not exist; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise given.fault(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _stdin_records(given: _Input) -> Iterator[_Record]:
    stream: Any = sys.stdin.buffer
    file: _File = stream if hasattr(stream, "peek") else io.BufferedReader(stream)
    try:
        yield from _sniffed_records(file, given)
    except UnicodeDecodeError as error:
        raise _not_utf8(given, error, None) from error


def _encoding(file: _File, given: _Input) -> str:
    """Name the encoding by the first bytes; raise InputError when they are not text's."""
    head = file.peek(4096)
    for magic, why in _MAGIC.items():
        if head.startswith(magic):
            raise given.fault(why)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in head:
        raise given.fault("is not text: it holds NUL bytes; give a CSV, JSON Lines, Parquet, Excel or plain text file")
    return "utf-8-sig"


def _not_utf8(given: _Input, error: UnicodeDecodeError, number: int | None) -> InputError:
    where = "" if number is None else f" in line {number}"
    if error.encoding.startswith("utf-16"):
        return given.fault("begins like UTF-16 but is not; save it as UTF-8")
    return given.fault(
        f"is not UTF-8: there is a byte 0x{error.object[error.start]:02x}{where}; if it is Latin-1, convert it with "
        "iconv -f latin1 -t utf-8"
    )


def _first_undecodable_line(path: Path, error: UnicodeDecodeError) -> int | None:
    """Read the file again: the parser knows the byte's place in its buffer only."""
    if not path.is_file() or error.encoding.startswith("utf-16"):
        return None
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None


def _lines(file: _File, given: _Input) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, in UTF-8 (not yet checked), without their line end."""
    for number, raw in enumerate(_raw_lines(file, _encoding(file, given)), 1):
        line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if len(line) >= LONGEST_LINE_BYTES:
            raise given.fault(f"the line is longer than {LONGEST_LINE_BYTES >> 20} MiB; split it", number)
        if line and not line.isspace():
            yield number, line.rstrip(b"\r\n")


def _raw_lines(file: _File, encoding: str) -> Iterator[bytes]:
    if encoding != "utf-16":
        yield from iter(partial(file.readline, LONGEST_LINE_BYTES), b"")
        return
    with _decoded(file, encoding, newline="\n") as text:
        for line in text:
            yield line.encode()


@contextmanager
def _decoded(file: _File, encoding: str, newline: str) -> Iterator[io.TextIOWrapper]:
    text = io.TextIOWrapper(file, encoding, newline=newline)
    try:
        yield text
    finally:
        text.detach()  # who opened the file closes it


def _sniffed_records(file: _File, given: _Input) -> Iterator[_Record]:
    lines = _lines(file, given)
    first = next(lines, None)
    if first is None:
        return iter(())
    start = first[1].strip()
    try:
        is_object = isinstance(_json(start), dict)
    except (ValueError, RecursionError):
        is_object = False
    if start in (b"[", b"{") or start.startswith(b"[{"):  # would be paid for line by line as plain text
        raise given.fault("is JSON over several lines; save it as a .json file, or write one object a line")
    return (_json_lines if is_object else _text_lines)(chain([first], lines), given)


def _text_lines(lines: Iterable[tuple[int, bytes]], given: _Input) -> Iterator[_Record]:
    for number, line in lines:
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(given, error, number) from error
        if not text.isspace():
            yield number, {"prompt": text}


def _json_lines(lines: Iterable[tuple[int, bytes]], given: _Input) -> Iterator[_Record]:
    for number, line in lines:
        try:
            value = _json(line)
        except UnicodeDecodeError as error:
            raise _not_utf8(given, error, number) from error
        except (ValueError, RecursionError) as error:
            given.bad(number, f"is not valid JSON ({_json_fault(error)})")
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            given.bad(number, f'is {_json_kind(value)}, not an object such as {{"prompt": ".."}}')


def _json_file(file: _File, given: _Input) -> Iterator[_Record]:
    encoding = _encoding(file, given)
    text = file.read().decode(encoding)
    if not text.strip():
        return
    try:
        rows = _json(text.encode())
    except (ValueError, RecursionError) as error:
        raise given.fault(
            f"is not valid JSON ({_json_fault(error)}); if it holds one object a line, give it the ending .jsonl"
        ) from error
    if not isinstance(rows, list):
        raise given.fault(f"holds {_json_kind(rows)}; write a list of objects, or one object a line in a .jsonl file")
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield number, row
        else:
            given.bad(number, f'is {_json_kind(row)}, not an object such as {{"prompt": ".."}}')


def _json(line: bytes) -> Any:
    """Parse strictly; the slow parser takes over for what orjson refuses (lone surrogates) or rounds (long integers).

    Raises ValueError or, for deep nesting, RecursionError.
    """
    if _LONG_NUMBER.search(line) is None:
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError:
            pass
    return loads(line.decode(), parse_constant=_refuse_number, parse_float=_finite)


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _refuse_number(text)


def _json_fault(error: Exception) -> str:
    if isinstance(error, JSONDecodeError):
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        return f"{error.msg} at {line}character {error.colno}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


class _Headed:
    """A text stream behind a first line of our own."""

    def __init__(self, head: str, rest: io.TextIOWrapper) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int = -1) -> str:
        head, self._head = self._head, ""
        return head or self._rest.read(size)

    def __iter__(self) -> Iterator[str]:  # pandas asks for it, and never calls it
        return chain([self._head], self._rest)


def _csv_records(file: _File, given: _Input, delimiter: str = ",") -> Iterator[_Record]:
    """Cells stay exactly as written. A missing cell at a row's end is "", as pandas' C parser has it.

    That parser takes a first row that is too long for an index, and later ones for errors that end the chunk. So the
    header is read here and the parser is given one of numbers, wider by `_SPARE_CELLS`: what lands there is too much.
    """
    with _decoded(file, _encoding(file, given), newline="") as text:
        header, header_row, delimiter = _csv_header(text, given, delimiter)
        numbers = range(len(header) + _SPARE_CELLS)
        stream = _Headed(delimiter.join(map(str, numbers)) + "\n", text)
        names, first = _unique(header), header_row + 1
        for columns in _csv_chunks(stream, numbers, delimiter, given, header_row) if names else ():
            for number, cells in enumerate(zip(*columns, strict=True), first):
                if any(cells[len(names) :]):
                    given.bad(
                        number, f"has more cells than the header has columns ({len(names)}); quote cells with commas"
                    )
                elif any(cells):
                    yield number, dict(zip(names, cells, strict=False))
            first += len(columns[0])


def _csv_chunks(
    stream: Any, numbers: range, delimiter: str, given: _Input, header_row: int
) -> Iterator[list[list[str]]]:
    import pandas as pd

    # Blank lines are kept, so that rows are counted as a spreadsheet does.
    options: dict[str, Any] = {"dtype": object, "na_filter": False, "skip_blank_lines": False, "index_col": False}
    try:
        for frame in pd.read_csv(stream, sep=delimiter, usecols=numbers, chunksize=CHUNK_ROWS, **options):
            yield _cells(frame)
    except pd.errors.ParserError as error:
        unclosed = re.search(r"EOF inside string starting at row (\d+)", str(error))
        if unclosed is None:
            raise given.fault(f"cannot be read as CSV: {error}") from error
        raise given.fault("a quote that opens here is never closed", int(unclosed[1]) + header_row) from error


def _csv_header(text: io.TextIOWrapper, given: _Input, delimiter: str) -> tuple[list[str], int, str]:
    """The first row that is not blank, its number, and the delimiter: Excel writes `;` in half of Europe."""
    number, header = 0, list[str]()
    try:
        for number, header in enumerate(csv.reader(text, delimiter=delimiter), 1):  # noqa: B007
            if header:
                break
    except csv.Error as error:
        raise given.fault(f"has a header that cannot be read ({error}); is a quote in it never closed?") from error
    if len(header) == 1 and "\n" not in header[0]:
        for other in (";", "\t"):
            if len(cells := next(csv.reader(header, delimiter=other), [])) > 1:
                return cells, number, other
    return header, number, delimiter


def _excel_records(file: _File, given: _Input) -> Iterator[_Record]:
    """The first sheet; its first row is the header."""
    import pandas as pd

    if not file.peek(1):
        return
    try:
        frame = pd.read_excel(file, engine="calamine", dtype=object, keep_default_na=False)
    except Exception as error:  # the reader of a hostile file may raise anything
        raise given.fault(f"cannot be read as a workbook: {error}") from error
    for number, record in _frame_records(frame, first=2):
        row = {name: None if value == "" else value for name, value in record.items()}
        if any(value is not None for value in row.values()):  # rows that are only formatted are no rows
            yield number, row


def _parquet_records(file: _File, given: _Input) -> Iterator[_Record]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise given.fault("needs pyarrow to be read: pip install 'tidemill[parquet]'") from error
    if not file.peek(1):
        return
    first = 1
    try:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=CHUNK_ROWS):
            yield from _table(batch.schema.names, [column.to_pylist() for column in batch.columns], first)
            first += batch.num_rows
    except (InputError, GeneratorExit):
        raise
    except Exception as error:
        raise given.fault(f"cannot be read as Parquet: {error}") from error


def _frame_records(frame: "pd.DataFrame", first: int = 1) -> Iterator[_Record]:
    names = [str(name) for name in frame.columns]
    for start in range(0, len(frame), CHUNK_ROWS):
        yield from _table(names, _cells(frame.iloc[start : start + CHUNK_ROWS]), first + start)


def _table(names: list[str], columns: list[list[Any]], first: int) -> Iterator[_Record]:
    unique = _unique(names)
    plain = [[_plain(value) for value in column] for column in columns]
    yield from enumerate((dict(zip(unique, cells, strict=True)) for cells in zip(*plain, strict=True)), first)


def _item_records(items: Iterable[Any], given: _Input) -> Iterator[_Record]:
    if isinstance(items, bytes | Mapping) or not isinstance(items, Iterable):
        raise InputError(
            f"prompts cannot be read from the type {type(items).__name__}; give a path, a DataFrame or a list"
        )
    for number, item in enumerate(items, 1):
        if isinstance(item, str):
            yield number, {"prompt": item}
        elif isinstance(item, Mapping):
            yield number, {str(name): _plain(value) for name, value in item.items()}
        else:
            given.bad(number, f"is of type {type(item).__name__}, neither text nor a mapping")


def _is_frame(source: object) -> "TypeGuard[pd.DataFrame]":
    pandas = sys.modules.get("pandas")  # whoever holds a frame has imported it
    return pandas is not None and isinstance(source, pandas.DataFrame)


def _cells(frame: "pd.DataFrame") -> list[list[Any]]:
    return [frame.iloc[:, place].tolist() for place in range(frame.shape[1])]


def _unique(names: list[str]) -> list[str]:
    """Name columns as `pandas.read_csv` does: `Unnamed: 2` for a blank one, `a.1` for a second `a`."""
    own, taken = set(names), set[str]()
    copies: dict[str, int] = {}
    unique = []
    for place, given_name in enumerate(names):
        base = name = given_name or f"Unnamed: {place}"
        while name in taken or (name != base and name in own):
            copies[base] = copies.get(base, 0) + 1
            name = f"{base}.{copies[base]}"
        taken.add(name)
        unique.append(name)
    return unique


def _plain(value: Any) -> Any:  # noqa: PLR0911
    """A cell as JSON can hold it: NaN, NaT and NA become None, times ISO 8601, bytes base64, numpy's types Python's."""
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None if math.isnan(value) else str(value)
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)


_READERS: dict[str, tuple[str, Callable[[_File, _Input], Iterator[_Record]]]] = {
    ".csv": ("row", _csv_records),
    ".tsv": ("row", partial(_csv_records, delimiter="\t")),
    ".json": ("row", _json_file),
    ".jsonl": ("line", lambda file, given: _json_lines(_lines(file, given), given)),
    ".ndjson": ("line", lambda file, given: _json_lines(_lines(file, given), given)),
    ".txt": ("line", lambda file, given: _text_lines(_lines(file, given), given)),
    ".md": ("line", lambda file, given: _text_lines(_lines(file, given), given)),
    ".parquet": ("row", _parquet_records),
    ".xlsx": ("row", _excel_records),
    ".xls": ("row", _excel_records),
    ".ods": ("row", _excel_records),
}
