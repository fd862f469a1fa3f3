"""A file of paid answers is written whole or not at all, and no character in a reply can break it.

Its name says the format, whether it is compressed, and whether it is here or at an address: `s3://bucket/a.csv.gz`.
A row is a flat dict, made by `merge`: the input's columns first, then `RESULT_COLUMNS`.
"""

import csv
import importlib.util
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from decimal import Decimal
from functools import lru_cache, partial
from json import dumps
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import orjson

from tidemill.models.errors import InputError, TidemillError
from tidemill.models.files import GrowingFile, replacing, status, temporary
from tidemill.models.json_types import JsonObject
from tidemill.models.remote_files import RemoteFileError, check_writable, is_url, path_of
from tidemill.models.remote_files import replacing as replacing_remote
from tidemill.models.text import unbroken
from tidemill.producer.batches.workbooks import xlsx
from tidemill.producer.intake.compressed import ending_of, packing
from tidemill.producer.intake.sources import shown
from tidemill.producer.screen.printing import JsonLines

if TYPE_CHECKING:
    import pandas as pd

RESULT_COLUMNS = (
    "custom_id",
    "status",
    "reply",
    "sentiment",
    "sentiment_score",
    "model",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "attempts",
    "error_code",
    "error",
)
REASONING = "reply_reasoning"
"""What the model thought before it answered: a field of rows that have it, in JSON lines and in frames."""
TOOL_CALLS = "tool_calls"
"""The same for tools that an answer calls; of CSV and Parquet one more column, if a row has it."""

PARQUET_GROUP_ROWS = 8_192  # rows held in memory at most, besides the chunk that completes them

_WHOLE = ("input_tokens", "output_tokens", "attempts")
_FRACTION = ("sentiment_score", "cost_usd")
NUMBERS = (*_WHOLE, *_FRACTION)
"""Of `RESULT_COLUMNS`, those that are numbers."""

_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
"""How cells begin that Excel, LibreOffice or Google Sheets may run (OWASP, CSV Injection)."""
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)*(e[+-]?[0-9]+)?%?", re.IGNORECASE)

Chunks: TypeAlias = Iterable[list[JsonObject]]
Output: TypeAlias = "BinaryIO | JsonLines | GrowingFile"
Put: TypeAlias = Callable[[list[JsonObject]], object]
"""Writes the next rows."""
Format: TypeAlias = Callable[[Output, Sequence[str]], AbstractContextManager[Put]]
"""Writes rows with these columns, the header first; what the block has put is complete when it ends."""

STDOUT = "-"


def merge(columns: JsonObject, result: JsonObject) -> JsonObject:
    """One output row: the input's columns, then every one of `RESULT_COLUMNS` (None where `result` has none).

    `merge(dict.fromkeys(names), {})` has the names of all columns in their order.
    """
    return named(columns) | {name: result.get(name) for name in RESULT_COLUMNS}


def named(columns: JsonObject) -> JsonObject:
    """The input's columns as the results call them: one with the name of a result column is `input_<name>`."""
    return dict(zip(_names(tuple(columns)), columns.values(), strict=True))


@lru_cache
def _names(columns: tuple[str, ...]) -> list[str]:
    names = []
    for column in columns:
        name = column
        while name in (*RESULT_COLUMNS, TOOL_CALLS) or (name != column and name in columns):
            name = f"input_{name}"
        names.append(name)
    return names


def check_destination(path: str) -> None:
    """Raise InputError when `path` cannot take results; called before any paid work.

    `-` is JSON Lines on stdout. A path must end in one of `_FORMATS`, perhaps compressed (`.csv.gz`), in a folder that
    exists and is writable. At an address a few bytes are written and removed.
    """
    if path == STDOUT:
        return
    _check_ending(path)
    if is_url(path):
        check_writable(path)
        return
    try:
        target = Path(path).resolve()  # through a symlink
        _check_place(path, target)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a name too long, a loop of symlinks
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path!r} cannot be written: {reason}; choose another destination with -o") from error


def _check_ending(path: str) -> None:
    if _ending(path) not in _FORMATS:
        raise InputError(
            f"{shown(path)!r} has no known ending; name the results .jsonl, .csv or .parquet (or .tsv, .xlsx), "
            "also compressed (.csv.gz), or - for stdout"
        )
    if _ending(path) == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError(
            f"{shown(path)} needs pyarrow to be written: pip install 'tidemill[parquet]', or name it .jsonl"
        )


def _ending(path: str) -> str:
    """What says the format: `.csv` of answers.csv and of s3://bucket/answers.csv.gz."""
    return ending_of(_name(path))


def _name(path: str) -> Path:
    """The path in an address; any other as it is."""
    return Path(path_of(path) if is_url(path) else path)


def _check_place(path: str, target: Path) -> None:
    there, folder = status(target), status(target.parent)
    if there and stat.S_ISDIR(there.st_mode):
        raise InputError(f"{path} is a folder; name a file in it")
    if not folder or not stat.S_ISDIR(folder.st_mode):
        raise InputError(f"{path} cannot be written: the folder {target.parent} does not exist; create it first")
    if there and not stat.S_ISREG(there.st_mode):
        raise InputError(f"{path} is a device or a pipe, not a file; use -o - and redirect stdout")
    if not os.access(target.parent, os.W_OK | os.X_OK) or (there and not os.access(target, os.W_OK)):
        raise InputError(f"{path} cannot be written: permission denied; choose another destination with -o")
    probe = temporary(target)  # to root, and on some disks, everything seems writable until it is tried
    probe.touch(exist_ok=False)
    probe.unlink()


@contextmanager
def writing(
    path: str, columns: Sequence[str], *, escape_formulas: bool = False, growing: GrowingFile | None = None
) -> Iterator[Put]:
    """What writes rows, piece by piece, to stdout or to a file that appears under its name when the block ends well.

    It is complete then, on disk or at its address; until then an older one stays as it was. A symlink is written
    through to its target. A row's `columns` are written in that order; one that it has not gets null (an empty cell in
    CSV), and what is not in `columns` is left out. With `escape_formulas`, text in CSV that a spreadsheet would run
    gets a `'` before it. Memory is constant. With `growing`, which is the file of this path, rows appear as they are
    put (see `grows`).

    Raises InputError when the destination fails; BrokenPipeError when the reader of stdout has gone.
    """
    (_check_ending if is_url(path) else check_destination)(path)  # an address says itself whether it can be written
    ending = ".jsonl" if path == STDOUT else _ending(path)
    write = _FORMATS[_ESCAPED.get(ending, ending) if escape_formulas else ending]
    try:
        with nullcontext(growing) if growing else _destination(path) as file, write(file, columns) as put:
            yield put
    except RemoteFileError as error:
        raise InputError(f"{error}; the answers stay in the database: `tidemill results BATCH -o ...`") from error
    except (BrokenPipeError, TidemillError):  # a time-out of the run is an OSError, too
        raise
    except OSError as error:
        raise InputError(
            f"{'stdout' if path == STDOUT else shown(path)} cannot be written: {error.strerror or error}; "
            "the answers stay in the database: free space, then `tidemill results BATCH -o ...`"
        ) from error


@contextmanager
def _destination(path: str) -> Iterator[Output]:
    """What takes the bytes before they are compressed."""
    if path == STDOUT:
        lines = JsonLines()
        yield lines
        lines.flush()
        return
    place = replacing_remote(path) if is_url(path) else replacing(Path(path).resolve())
    with place as file, packing(file, _name(path)) as packed:
        yield packed


def has_header(path: str) -> bool:
    """Whether all columns must be known before the first row: a line of JSON names its own."""
    return path != STDOUT and _ending(path) != ".jsonl"


def grows(path: str) -> bool:
    """Whether rows can be appended one by one, so that whoever reads the file meanwhile sees whole ones."""
    return path == STDOUT or (not is_url(path) and Path(path).suffix.lower() in (".jsonl", ".csv", ".tsv"))


def to_frame(chunks: Chunks) -> "pd.DataFrame":
    """All rows as a DataFrame, in memory; tokens and attempts are pandas' nullable Int64."""
    import pandas as pd

    frame = pd.DataFrame([row for chunk in chunks for row in chunk])
    if frame.empty:
        frame = pd.DataFrame(columns=list(RESULT_COLUMNS))
    types = dict.fromkeys(_WHOLE, "Int64") | dict.fromkeys(_FRACTION, "float64")
    return frame.astype({name: kind for name, kind in types.items() if name in frame})


@contextmanager
def _jsonl(file: Output, columns: Sequence[str]) -> Iterator[Put]:
    names = list(columns)
    yield lambda rows: file.write(unbroken(b"".join([to_json(_line(row, names)) + b"\n" for row in rows])))


def _line(row: JsonObject, names: list[str]) -> JsonObject:
    if list(row) == names:  # as almost all rows
        return row
    line = {name: row.get(name) for name in names}
    for name in (TOOL_CALLS, REASONING):
        if name in row:
            line[name] = row[name]
    return line


@contextmanager
def _csv(
    cell_of: Callable[[object], object], file: Output, columns: Sequence[str], *, delimiter: str = ","
) -> Iterator[Put]:
    """UTF-8, quoted where needed. Lone surrogates, which UTF-8 cannot hold, become text such as `\\ud800`.

    Before Python 3.13, csv that ends records with \\n itself leaves a cell with a lone \\r unquoted, and readers take
    that for the end of the row. So it ends them with \\r\\n, and we make that \\n.
    """
    records: list[str] = []
    writer = csv.writer(SimpleNamespace(write=records.append), lineterminator="\r\n", delimiter=delimiter)

    def put(rows: list[JsonObject]) -> None:
        writer.writerows(map(cell_of, map(row.get, columns)) for row in rows)
        text = "".join(record.removesuffix("\r\n") + "\n" for record in records)
        file.write(text.encode("utf-8", "backslashreplace"))
        records.clear()

    put([dict(zip(columns, columns, strict=True))])
    yield put


@contextmanager
def _parquet(file: Output, columns: Sequence[str]) -> Iterator[Put]:
    """Result columns have types of their own; the input's columns are text, with nested values as compact JSON."""
    import pyarrow as pa
    from pyarrow import parquet

    types = dict.fromkeys(_WHOLE, pa.int64()) | dict.fromkeys(_FRACTION, pa.float64())
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    group: list[JsonObject] = []

    def put(rows: list[JsonObject], *, all_of_them: bool = False) -> None:
        group.extend(rows)
        while len(group) >= PARQUET_GROUP_ROWS or (all_of_them and group):
            some = group[:PARQUET_GROUP_ROWS]
            arrays = [
                pa.array([_typed(name, row.get(name)) for row in some], schema.field(name).type) for name in columns
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            del group[:PARQUET_GROUP_ROWS]

    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        yield put
        put([], all_of_them=True)


def _typed(name: str, value: Any) -> str | int | float | None:
    if value is None:
        return None
    if name in _WHOLE:
        return int(value)
    return float(value) if name in _FRACTION else str(_cell(value)).encode(errors="backslashreplace").decode()


def to_json(value: object) -> bytes:
    """A value of a row as compact JSON: in UTF-8, or in ASCII where it must be."""
    try:
        return orjson.dumps(value, default=_default)
    except TypeError:  # lone surrogates, integers beyond 64 bits
        return dumps(value, separators=(",", ":"), default=_default).encode("ascii")


def _default(value: object) -> float | str:
    return float(value) if isinstance(value, Decimal) else str(value)


def _cell(value: object) -> object:
    """A CSV cell: text and numbers as they are, None empty, all else as compact JSON (in ASCII only if it must be)."""
    return value if value is None or type(value) in (str, int, float, Decimal) else to_json(value).decode()


def text_of_cell(value: object) -> str:
    """A cell as CSV shows it."""
    cell = _cell(value)
    return "" if cell is None else str(cell)


def _inert_cell(value: object) -> object:
    """A CSV cell that no spreadsheet runs as a formula: `'` stands before text that could be one."""
    cell = _cell(value)
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


_FORMATS: dict[str, Format] = {
    ".jsonl": _jsonl,
    ".csv": partial(_csv, _cell),
    "escaped": partial(_csv, _inert_cell),
    ".tsv": partial(_csv, _cell, delimiter="\t"),
    "escaped tsv": partial(_csv, _inert_cell, delimiter="\t"),
    ".parquet": _parquet,
    ".xlsx": cast("Format", partial(xlsx, _cell)),
}
_ESCAPED = {".csv": "escaped", ".tsv": "escaped tsv"}
"""Formats in which a spreadsheet runs text; a workbook says which cells are text."""
