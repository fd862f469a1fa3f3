"""Prompts come in many shapes, and each must become a request or one clear sentence.

Three steps. `intake.formats` says what a file or pipe is, and a reader of `_READERS` turns it into records: pairs of a
number and a dict of the source's columns. `intake.requests` turns a record into a request. `_rows` joins the two and
decides what becomes of a bad row. All of it streams, except Excel and `.json`, which can only be read whole. Lines are
read in `intake.lines`, binary tables in `intake.packed`, other tables here.

pandas takes a second to import, so only CSV and DataFrames do it.
"""

import csv
import io
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeGuard, cast

from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.producer.intake.arrow_tables import as_table
from tidemill.producer.intake.begun import begun, spooled
from tidemill.producer.intake.cells import CHUNK_ROWS, cells_of, frame_records, plain, unique
from tidemill.producer.intake.compressed import ending_of, is_compressed, opened, unpack_errors
from tidemill.producer.intake.formats import (
    FORMATS,
    HEAD_BYTES,
    HEADED,
    PACKED,
    WORKBOOKS,
    Wanted,
    WrongFormatError,
    reads_like_prompt,
    recognise,
)
from tidemill.producer.intake.formats import shown as shown_format
from tidemill.producer.intake.headers import without_lost_header
from tidemill.producer.intake.lines import (
    ByteStream,
    decoded,
    encoding,
    encoding_error,
    json_file,
    json_lines,
    text_lines,
    undecodable_file,
)
from tidemill.producer.intake.packed import parquet_records, workbook_records
from tidemill.producer.intake.records import BadRowError, Input, Records
from tidemill.producer.intake.requests import PROMPT_COLUMNS, Asker, Request, custom_id, parse_template, spelled_id
from tidemill.producer.intake.sources import Files, files_of, local, shown
from tidemill.producer.intake.spoiled import SpoiledRows, texts_of

if TYPE_CHECKING:
    import pandas as pd

FIRST_CHUNK_ROWS = 32  # small, so that workers start at once
CHUNK_SECONDS = 1.0  # a slow pipe does not keep workers waiting for a full chunk
PAUSE_SECONDS = 0.2  # after which a pipe that says nothing more is taken to pause

ANY_TABLE = Wanted(of_prompts=False)
"""What training takes: rows with columns."""

Source: TypeAlias = (
    "str | Path | Files | pd.DataFrame | Iterable[str] | Iterable[Path] | Iterable[Mapping[str, object]]"
)


class ArrowTable(Protocol):
    """A frame or column of polars, an Arrow table, or anything else that gives its rows as an Arrow stream."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


_NAMED_DELIMITER = re.compile(r'"?sep=(.)"?[,;\t]*\s*', re.IGNORECASE)
_SPARE_CELLS = 4  # cells looked at beyond the header's last, to tell a row that is too long


class Row(NamedTuple):
    """One row of the input, ready to be submitted.

    `custom_id` is the input's own, as text; None when it has none. `columns` are the input's other columns, as JSON
    can hold them, to be shown again next to the answer (a batch line shows neither method, url nor body). `request` is
    `{"prompt": str}`, `{"messages": [..]}` or `{"url": str, "body": {..}}`. `line` counts from 1: the line of a text
    or JSON Lines file, the row of a table as a spreadsheet numbers it (a header is row 1).

    For a picture, `content` is what is asked about it, without the file's name: the row is known by it, and rows with
    the same content share one call. `refusal` is the code and sentence of a file that is no usable picture.
    """

    custom_id: str | None
    columns: JsonObject
    request: Request
    line: int
    content: str | None = None
    refusal: tuple[str, str] | None = None
    asked: object = None
    """What the row is known by where that is not the request: the request as if values were spelled in one way."""
    spelled_id: str | None = None
    """The id as the input spells it, where that is not `custom_id`."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read: the prompt's `column`, or a `template` with `{column}` placeholders; and which rows to take.

    In a template `{{` and `}}` are literal braces. `limit` counts usable rows; nothing is read after the last of them.
    """

    column: str | None = None
    template: str | None = None
    skip_bad_rows: bool = False
    limit: int | None = None
    format: str | None = None
    """One of `formats.FORMATS`, for a file or a pipe; None: by name and content."""
    sheet: str | None = None
    """Name or number of a workbook's sheet; None: the first one."""

    @property
    def wanted(self) -> Wanted:
        """What the input has to be for these options."""
        if self.template is not None and self.column is None:
            names = tuple(parse_template(self.template).names)
            return Wanted(self.format, names, PROMPT_COLUMNS, named_by="-t", sheet=self.sheet)
        columns = () if self.column is None else (self.column,)
        return Wanted(self.format, columns, PROMPT_COLUMNS, sheet=self.sheet)


def read(
    source: Source,
    how: ReadOptions,
    *,
    on_bad_row: Callable[[str], None],
    on_note: Callable[[str], None] = lambda _sentence: None,
) -> Iterator[list[Row]]:
    """Stream a source as lists of at most 1,000 rows; the first holds at most 32.

    A source is a path, glob or URL, `-` for stdin, several of them, a DataFrame, or an iterable of prompts or of
    mappings. `on_bad_row` gets one sentence for each row that `how.skip_bad_rows` skips, `on_note` one for what was
    taken for what.

    Raises InputError, a sentence that names source, line and remedy, while it is iterated.
    """
    if how.limit is not None and how.limit < 1:
        raise InputError(f"the limit is {how.limit}, but it counts rows: give 1 or more")
    inputs = open_source(source, how.skip_bad_rows, on_bad_row, on_note, how.wanted)
    rows = islice(_all_rows(inputs, how), how.limit)
    files = files_of(source)
    yield from chunks_of(_with_pauses(rows) if files is not None and files.is_stdin else rows)


class Opened(NamedTuple):
    """One of the inputs of a source: its name for sentences, its records, and the folder that it is in."""

    input: Input
    records: Records
    folder: Path = Path()


def open_source(
    source: Source,
    skip_bad_rows: bool,
    on_bad_row: Callable[[str], None],
    on_note: Callable[[str], None],
    wanted: Wanted,
) -> list[Opened]:
    """The inputs of a source: each file that it names, or the frame or list that it is."""
    if wanted.format not in (None, *FORMATS):
        raise InputError(f"The format is {wanted.format!r}; it must be one of {', '.join(FORMATS)}.")
    files = files_of(source)
    if files is not None:
        opened = []
        for each in files.expand():
            name = "standard input" if each == "-" else shown(each)
            input_ = Input(name, skip_bad_rows, on_bad_row, on_note=on_note)
            records = standard_records(input_, wanted) if each == "-" else file_records(each, input_, wanted)
            opened.append(Opened(input_, records, Path() if each == "-" else Path(each).parent))
        return opened
    if wanted.format is not None or wanted.sheet is not None:
        kind = "format" if wanted.format is not None else "sheet"
        raise InputError(f"A {kind} was given, and it is about files and pipes only; drop it for a frame or a list.")
    name = "the DataFrame" if is_frame(source) else "the input"
    input_ = Input(name, skip_bad_rows, on_bad_row, unit="row", on_note=on_note)
    if not is_frame(source):
        return [Opened(input_, _item_records(cast("Iterable[object]", source), input_))]
    if len(source.columns) == 1 and not wanted.columns and reads_like_prompt(name := str(source.columns[0])):
        input_.note(f"has one column, {name[:60]!r}; if that is a prompt, read its file with header=None.")
    return [Opened(input_, frame_records(source))]


def chunks_of(rows: Iterable[Row | None]) -> Iterator[list[Row]]:
    """Rows in lists of 32, 256, 1,000, 1,000 and so on at most; of a slow source, what has come within a second.

    None among the rows says that the source pauses.
    """
    chunk: list[Row] = []
    size, due = FIRST_CHUNK_ROWS, math.inf
    for row in rows:
        if row is not None:
            due = due if chunk else time.monotonic() + CHUNK_SECONDS
            chunk.append(row)
        if chunk and (row is None or len(chunk) >= size or time.monotonic() >= due):
            yield chunk
            chunk, size = [], min(8 * size, CHUNK_ROWS)
    if chunk:
        yield chunk


def _with_pauses(rows: Iterator[Row]) -> Iterator[Row | None]:
    """The rows of a pipe, and None where none has come for a while: those that are there need not wait for the next."""
    arrived: Queue[Row | BaseException | None] = Queue(CHUNK_ROWS)

    def take_all() -> None:
        try:
            for row in rows:
                arrived.put(row)
            arrived.put(None)
        except BaseException as error:  # noqa: BLE001  # it is raised again where the rows are read
            arrived.put(error)

    threading.Thread(target=take_all, name="pipe", daemon=True).start()
    while True:
        try:
            row = arrived.get(timeout=PAUSE_SECONDS)
        except Empty:
            yield None
            continue
        if row is None:
            return
        if isinstance(row, BaseException):
            raise row
        yield row


def _all_rows(inputs: Sequence[Opened], how: ReadOptions) -> Iterator[Row]:
    """The rows of one input after the other; of several, those without a row are named and left out."""
    has_rows = False
    for input_, records, _ in inputs:
        asker = Asker(input_, how.column, how.template)
        for row in _rows(records, asker, input_, is_alone=len(inputs) == 1):
            has_rows = True
            yield row
    if not has_rows:
        raise InputError("None of the inputs has a row that can be used.")


def _rows(records: Records, asker: Asker, input_: Input, *, is_alone: bool) -> Iterator[Row]:
    has_rows, spoiled = False, SpoiledRows(input_)
    for line, record in records:
        try:
            request, asked = asker.request(record)
            own_id, spelled = custom_id(record.get("custom_id")), spelled_id(record.pop("custom_id", None))
        except BadRowError as error:
            input_.report_bad_row(line, error)
            continue
        if "url" in request:
            record = {name: value for name, value in record.items() if name not in ("method", "url", "body")}  # noqa: PLW2901
        has_rows = True
        spoiled.look(line, texts_of(request))
        yield Row(own_id, record, request, line, asked=asked, spelled_id=spelled)
    spoiled.say_counts()
    if has_rows:
        return
    bad = f"has no row that can be used: all {input_.bad_rows:,} are bad"
    why = bad if input_.bad_rows else "is empty: it holds no prompt"
    if is_alone:
        raise input_.fault(why)
    input_.note(f"{why}; it is left out.")


def file_records(file: str | Path, input_: Input, wanted: Wanted = ANY_TABLE) -> Records:
    """The records of a file or URL; says in `input_` what its numbers count, and reports bad rows there."""
    with local(file) as path:
        yield from _local_records(path, input_, wanted)


def _local_records(path: Path, input_: Input, wanted: Wanted) -> Records:
    try:
        if path.is_dir():
            raise input_.fault("is a folder; name a file in it, or its files with a glob such as 'folder/*.csv'")
        with opened(path, HEAD_BYTES) as file:
            must_copy = is_compressed(path) or not path.is_file()
            yield from _records(file, ending_of(path), input_, wanted, must_copy=must_copy)
    except UnicodeDecodeError as error:
        raise undecodable_file(path, error, input_) from error
    except BrokenPipeError:
        raise  # the caller's own, from on_bad_row
    except FileNotFoundError as error:
        raise input_.fault("does not exist; check the path") from error
    except unpack_errors() as error:
        raise input_.fault(f"is no whole archive ({error}): get it anew, or unpack it with gunzip or 7-Zip") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise input_.fault(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def standard_records(input_: Input, wanted: Wanted = ANY_TABLE) -> Records:
    """The records of standard input."""
    if sys.stdin is None:
        raise input_.fault("is closed; name a file")
    try:
        yield from _records(sys.stdin.buffer, "", input_, wanted, must_copy=True)
    except UnicodeDecodeError as error:
        raise encoding_error(input_, error) from error


def _records(stream: Any, ending: str, input_: Input, wanted: Wanted, *, must_copy: bool) -> Records:
    """`must_copy`: the stream is no plain file, in which a reader could jump about."""
    head, file = begun(stream) if must_copy else (stream.peek(HEAD_BYTES), stream)
    if not head.strip():
        return
    try:
        format_, note = recognise(head, ending, wanted)
    except WrongFormatError as error:
        raise input_.fault(str(error)) from None
    if note is not None:
        input_.note(note)
    input_.unit, reader = _READERS[format_]
    if reader is json_file:
        reader = partial(json_file, of_prompts=wanted.of_prompts)
    if wanted.sheet is not None:
        if format_ not in WORKBOOKS:
            raise input_.fault(f"is read as {shown_format(format_)}, and --sheet is about workbooks: drop it")
        reader = partial(workbook_records, sheet=wanted.sheet)
    with spooled(file) if must_copy and format_ in PACKED else nullcontext(file) as readable:
        records = reader(readable, input_)
        yield from without_lost_header(records, input_, wanted) if format_ in HEADED else records


class _Headed:
    """A text stream behind a first line of our own."""

    def __init__(self, head: str, rest: io.TextIOWrapper) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int = -1) -> str:
        head, self._head = self._head, ""
        return head or self._rest.read(size)

    def __iter__(self) -> Iterator[str]:  # pandas asks for it, and never calls it
        return chain([self._head], self._rest)


def _csv_records(file: ByteStream, input_: Input, delimiter: str = ",") -> Records:
    """Cells stay exactly as written. A missing cell at a row's end is "", as pandas' C parser has it.

    That parser mistakes a first row that is too long for an index, and later ones for errors that end the chunk. So the
    header is read here, and the parser gets one of numbers, wider by `_SPARE_CELLS`: what lands there is too much.
    """
    with decoded(file, encoding(file, input_), newline="") as text:
        header, header_row, delimiter = _csv_header(text, input_, delimiter)
        numbers = range(len(header) + _SPARE_CELLS)
        stream = _Headed(delimiter.join(map(str, numbers)) + "\n", text)
        names, first = unique(header), header_row + 1
        for columns in _csv_chunks(stream, numbers, delimiter, input_, header_row) if names else ():
            for number, cells in enumerate(zip(*columns, strict=True), first):
                if any(cells[len(names) :]):
                    input_.report_bad_row(
                        number, f"has more cells than the header has columns ({len(names)}); quote cells with commas"
                    )
                elif any(cells):
                    yield number, dict(zip(names, cells, strict=False))
            first += len(columns[0])


def _csv_chunks(
    stream: Any, numbers: range, delimiter: str, input_: Input, header_row: int
) -> Iterator[list[list[str]]]:
    import pandas as pd

    # Blank lines are kept, so that rows are counted as a spreadsheet does.
    options: dict[str, Any] = {"dtype": object, "na_filter": False, "skip_blank_lines": False, "index_col": False}
    try:
        for frame in pd.read_csv(stream, sep=delimiter, usecols=numbers, chunksize=CHUNK_ROWS, **options):
            yield cells_of(frame)
    except pd.errors.ParserError as error:
        unclosed = re.search(r"EOF inside string starting at row (\d+)", str(error))
        if unclosed is None:
            raise input_.fault(f"cannot be read as CSV: {error}") from error
        raise input_.fault("a quote that opens here is never closed", int(unclosed[1]) + header_row) from error


def _csv_header(text: io.TextIOWrapper, input_: Input, delimiter: str) -> tuple[list[str], int, str]:
    """The first row that is not blank, its number, and the delimiter: Excel writes `;` in half of Europe."""
    number, header = 0, list[str]()
    first = text.readline()
    if named := _NAMED_DELIMITER.fullmatch(first):  # Excel's own first line, which it does not count as a row
        delimiter, first = named[1], ""
    lines = chain([first] if first else [], text)
    try:
        for number, header in enumerate(csv.reader(lines, delimiter=delimiter), 1):  # noqa: B007
            if header:
                break
    except csv.Error as error:
        raise input_.fault(f"has a header that cannot be read ({error}); is a quote in it never closed?") from error
    if len(header) == 1 and "\n" not in header[0] and named is None:
        for other in (";", "\t"):
            if len(cells := next(csv.reader(header, delimiter=other), [])) > 1:
                return cells, number, other
    return header, number, delimiter


def _item_records(items: Iterable[object], input_: Input) -> Records:
    if isinstance(items, bytes | Mapping) or not isinstance(items, Iterable):
        raise InputError(
            f"prompts cannot be read from the type {type(items).__name__}; give a path, a DataFrame or a list"
        )
    for number, item in enumerate(items, 1):
        if isinstance(item, str):
            yield number, {"prompt": item}
        elif isinstance(item, Mapping):
            yield number, {str(name): plain(value) for name, value in item.items()}
        else:
            input_.report_bad_row(number, f"is of type {type(item).__name__}, neither text nor a mapping")


def is_frame(source: object) -> "TypeGuard[pd.DataFrame]":
    """Whether a source is a DataFrame."""
    pandas = sys.modules.get("pandas")  # a frame exists only where pandas was imported
    return pandas is not None and isinstance(source, pandas.DataFrame)


def as_frame(source: "Source | pd.Series | ArrowTable", column: str = "prompt") -> Source:
    """A Series as the frame of its values, with its index; rows of polars or Arrow; any other source as it is.

    Args:
        source: what a Python caller passes.
        column: what the values of a lone column are called.
    """
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(source, pandas.Series):
        return cast("pd.DataFrame", source.to_frame(column))
    if isinstance(source, (str, Path, list)) or is_frame(source):
        return source
    table = as_table(source, column)
    return cast("Source", source) if table is None else table


_READERS: dict[str, tuple[str, Callable[[ByteStream, Input], Records]]] = {
    "csv": ("row", _csv_records),
    "tsv": ("row", partial(_csv_records, delimiter="\t")),
    "json": ("row", json_file),
    "jsonl": ("line", json_lines),
    "text": ("line", text_lines),
    "parquet": ("row", parquet_records),
    **dict.fromkeys(WORKBOOKS, ("row", workbook_records)),
}
"""Format -> what its numbers count, and what reads it."""
