"""A file of paid answers is written whole or not at all, and no character in a reply can break it.

A row is a flat dict, made by `merge`: the input's columns first, then `RESULT_COLUMNS`.
"""

import csv
import importlib.util
import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import orjson
from sqlalchemy import RowMapping, ScalarSelect, Select, Table, Text, and_, func, or_, select, type_coerce

from tidemill.models.database import reading
from tidemill.models.errors import InputError
from tidemill.models.files import replacing, status, temporary
from tidemill.models.job_requests import read_ask_request
from tidemill.models.json_types import JsonObject
from tidemill.models.message_shapes import CALLS, calls_of
from tidemill.models.tables import batches, dialogues, jobs, messages
from tidemill.models.text import unbroken
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
"""One more column, of batches in which an answer calls tools; where it has no text, they are the reply, too."""

PARQUET_GROUP_ROWS = 8_192  # rows held in memory at most, besides the chunk that completes them

_WHOLE = ("input_tokens", "output_tokens", "attempts")
_FRACTION = ("sentiment_score", "cost_usd")

_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
"""How cells begin that Excel, LibreOffice or Google Sheets may run (OWASP, CSV Injection)."""
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)*(e[+-]?[0-9]+)?%?", re.IGNORECASE)

Chunks: TypeAlias = Iterable[list[JsonObject]]


def merge(columns: JsonObject, result: JsonObject) -> JsonObject:
    """One output row: the input's columns, then every one of `RESULT_COLUMNS` (None where `result` has none).

    An input column with the name of a result column becomes `input_<name>`. `merge(dict.fromkeys(names), {})` has the
    names of all columns in their order.
    """
    row: JsonObject = {}
    for column, value in columns.items():
        name = column
        while name in (*RESULT_COLUMNS, TOOL_CALLS) or (name != column and name in columns):
            name = f"input_{name}"
        row[name] = value
    return row | {name: result.get(name) for name in RESULT_COLUMNS}


def check_destination(path: str) -> None:
    """Raise InputError when `path` cannot take results; called before any paid work.

    `-` is JSON Lines on stdout. A path must end in .jsonl, .csv or .parquet, in a folder that exists and is writable.
    """
    if path == "-":
        return
    if Path(path).suffix.lower() not in _WRITERS:
        raise InputError(f"{path!r} has no known ending; name the results .jsonl, .csv or .parquet, or - for stdout")
    try:
        target = Path(path).resolve()  # through a symlink
        _check_place(path, target)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a name too long, a loop of symlinks
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path!r} cannot be written: {reason}; choose another destination with -o") from error
    if Path(path).suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"{path} needs pyarrow to be written: pip install 'tidemill[parquet]', or name it .jsonl")


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


def write(chunks: Chunks, path: str, columns: Sequence[str], *, escape_formulas: bool = False) -> int:
    """Write the rows' `columns`, in that order, and return how many rows there were.

    A row without a column gets null (an empty cell in CSV); what is not in `columns` is left out. With
    `escape_formulas`, text in CSV that a spreadsheet would run gets a `'` before it. A file appears under its name only
    when it is complete and on disk; until then an older one stays as it was. A symlink is written through to its
    target. Memory is constant.

    Raises InputError when the destination fails; BrokenPipeError when the reader of stdout has gone.
    """
    check_destination(path)
    try:
        if path == "-":
            out = JsonLines()
            rows = _write_jsonl(out, chunks, columns)
            out.flush()
            return rows
        ending = Path(path).suffix.lower()
        writer = _WRITERS["escaped" if escape_formulas and ending == ".csv" else ending]
        with replacing(Path(path).resolve()) as file:
            return writer(file, chunks, columns)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(
            f"{'stdout' if path == '-' else path} cannot be written: {error.strerror or error}; "
            "the answers stay in the database: free space, then `tidemill results BATCH -o ...`"
        ) from error


def to_frame(chunks: Chunks) -> "pd.DataFrame":
    """All rows as a DataFrame, in memory; tokens and attempts are pandas' nullable Int64."""
    import pandas as pd

    frame = pd.DataFrame([row for chunk in chunks for row in chunk])
    if frame.empty:
        frame = pd.DataFrame(columns=list(RESULT_COLUMNS))
    types = dict.fromkeys(_WHOLE, "Int64") | dict.fromkeys(_FRACTION, "float64")
    return frame.astype({name: kind for name, kind in types.items() if name in frame})


def _write_jsonl(file: BinaryIO | JsonLines, chunks: Chunks, columns: Sequence[str]) -> int:
    rows = 0
    for chunk in chunks:
        file.write(b"".join(unbroken(_json(_line(row, columns))) + b"\n" for row in chunk))
        rows += len(chunk)
    return rows


def _line(row: JsonObject, columns: Sequence[str]) -> JsonObject:
    line = {name: row.get(name) for name in columns}
    return line if REASONING not in row else {**line, REASONING: row[REASONING]}


class _Lines:
    """Takes csv's records, which end with \\r\\n, and ends them with \\n.

    Before Python 3.13, csv that ends them with \\n itself leaves a cell with a lone \\r unquoted, and readers take that
    for the end of the row.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text

    def write(self, record: str) -> None:
        self._text.write(record.removesuffix("\r\n") + "\n")


def _write_csv(cell_of: Callable[[object], object], file: BinaryIO, chunks: Chunks, columns: Sequence[str]) -> int:
    """UTF-8, quoted where needed. Lone surrogates, which UTF-8 cannot hold, become text such as `\\ud800`."""
    text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
    try:
        writer = csv.writer(_Lines(text), lineterminator="\r\n")
        writer.writerow(map(cell_of, columns))
        rows = 0
        for chunk in chunks:
            writer.writerows([cell_of(row.get(name)) for name in columns] for row in chunk)
            rows += len(chunk)
        text.flush()
        return rows
    finally:
        with suppress(OSError):  # of a flush after a failed one
            text.detach()


def _write_parquet(file: BinaryIO, chunks: Chunks, columns: Sequence[str]) -> int:
    """Result columns have types of their own; the input's columns are text, with nested values as compact JSON."""
    import pyarrow as pa
    from pyarrow import parquet

    types = dict.fromkeys(_WHOLE, pa.int64()) | dict.fromkeys(_FRACTION, pa.float64())
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    rows = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in _groups(chunks):
            arrays = [
                pa.array([_typed(name, row.get(name)) for row in group], schema.field(name).type) for name in columns
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            rows += len(group)
    return rows


def _typed(name: str, value: Any) -> str | int | float | None:
    if value is None:
        return None
    if name in _WHOLE:
        return int(value)
    return float(value) if name in _FRACTION else str(_cell(value)).encode(errors="backslashreplace").decode()


def _groups(chunks: Chunks) -> Iterator[list[JsonObject]]:
    group: list[JsonObject] = []
    for chunk in chunks:
        group += chunk
        if len(group) >= PARQUET_GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _json(value: object) -> bytes:
    try:
        return orjson.dumps(value, default=_default)
    except TypeError:  # lone surrogates, integers beyond 64 bits
        return dumps(value, separators=(",", ":"), default=_default).encode("ascii")


def _default(value: object) -> float | str:
    return float(value) if isinstance(value, Decimal) else str(value)


def _cell(value: object) -> object:
    """A CSV cell: text and numbers as they are, None empty, all else as compact JSON (in ASCII only if it must be)."""
    return value if value is None or type(value) in (str, int, float, Decimal) else _json(value).decode()


def _inert_cell(value: object) -> object:
    """A CSV cell that no spreadsheet runs as a formula: `'` stands before text that could be one."""
    cell = _cell(value)
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


_WRITERS: dict[str, Callable[[BinaryIO, Chunks, Sequence[str]], int]] = {
    ".jsonl": _write_jsonl,
    ".csv": partial(_write_csv, _cell),
    "escaped": partial(_write_csv, _inert_cell),
    ".parquet": _write_parquet,
}


# --- rows of a batch ---

READ_ROWS = 1_000


def latest_turn(batch_id: str) -> int | None:
    """The last turn that a batch has added to a dialogue or begun one with; `--dialogue` continues it."""
    with reading() as connection:
        turn: int | None = connection.scalar(select(func.max(dialogues.c.id)).where(dialogues.c.batch_id == batch_id))
    return turn


def columns_of(batch_id: str) -> list[str]:
    """Names of a batch's result columns: the input's, then `RESULT_COLUMNS`, then `TOOL_CALLS` if any were made."""
    rest = type_coerce(messages.c.rest, Text)
    calling = (
        select(dialogues.c.id)
        .select_from(dialogues)
        .join(messages, messages.c.dialogue_id == dialogues.c.id)
        .where(messages.c.position == _last_position(dialogues))
        .where(dialogues.c.batch_id == batch_id, or_(*(rest.contains(f'"{name}":') for name in CALLS)))
    )
    with reading() as connection:
        names = connection.execute(select(batches.c.columns).where(batches.c.id == batch_id)).scalar_one()
        calls = [TOOL_CALLS] if connection.execute(calling.limit(1)).first() else []
    return [*merge(dict.fromkeys(names), {}), *calls]


def rows_of(batch_id: str, submission: int = 0, *, pictures: bool = False) -> Iterator[list[JsonObject]]:
    """The rows of a batch in input order, a thousand at a time; memory is constant.

    With `submission`, only rows that this submission or a later one held. With `pictures`, rows also have what is known
    of their picture: path, place (where the file is, from here), sha256, format, width, height.
    """
    statement = _rows_statement(batch_id, submission, pictures=pictures)
    after = (-1, 0)
    while True:
        behind = or_(jobs.c.position > after[0], and_(jobs.c.position == after[0], jobs.c.id > after[1]))
        with reading() as connection:
            rows = connection.execute(statement.where(behind)).mappings().all()
        if not rows:
            return
        yield [_row(row, with_picture=pictures) for row in rows]
        after = (rows[-1]["position"], rows[-1]["id"])


def rows_with_keys(batch_id: str, submission: int, keys: Sequence[str]) -> list[JsonObject]:
    """The rows with these keys, in the order of the keys, wherever later submissions have put them."""
    statement = _rows_statement(batch_id, submission, pictures=False).order_by(None).order_by(jobs.c.id)
    by_key: dict[str, JsonObject] = {}
    after = 0
    while True:
        with reading() as connection:
            rows = connection.execute(statement.where(jobs.c.id > after)).mappings().all()
        if not rows:
            return [by_key[key] for key in keys]
        by_key |= {row["key"]: _row(row, with_picture=False) for row in rows}
        after = rows[-1]["id"]


def _rows_statement(batch_id: str, submission: int, *, pictures: bool) -> Select[Any]:
    return (
        select(
            jobs.c.id,
            jobs.c.position,
            jobs.c.key,
            jobs.c.columns,
            *((jobs.c.request,) if pictures else ()),
            jobs.c.custom_id,
            jobs.c.state.label("status"),
            messages.c.content.label("reply"),
            dialogues.c.reasoning,
            messages.c.rest,
            dialogues.c.sentiment,
            dialogues.c.sentiment_score,
            func.coalesce(dialogues.c.model, "").label("model"),
            jobs.c.input_tokens,
            jobs.c.output_tokens,
            jobs.c.cost_usd,
            jobs.c.attempts,
            jobs.c.error_code,
            jobs.c.error,
        )
        .outerjoin(dialogues, dialogues.c.id == jobs.c.id)
        .outerjoin(messages, (messages.c.dialogue_id == dialogues.c.id) & (messages.c.position == _last_position(jobs)))
        .where(jobs.c.batch_id == batch_id, jobs.c.submission >= submission)
        .order_by(jobs.c.position, jobs.c.id)  # two pipes that went into one batch have rows of the same position
        .limit(READ_ROWS)
    )


def _last_position(of: Table) -> ScalarSelect[int]:
    """The position of the answer in a turn, whose id is the one of this table."""
    turns = messages.alias()
    return select(func.max(turns.c.position)).where(turns.c.dialogue_id == of.c.id).correlate(of).scalar_subquery()


def _row(stored: RowMapping, *, with_picture: bool) -> JsonObject:
    calls = calls_of(stored["rest"] or {})
    reply = stored["reply"] or (_json(calls).decode() if calls else stored["reply"])
    row = merge(stored["columns"], dict(stored) | {"model": stored["model"] or None, "reply": reply})
    if calls:
        row[TOOL_CALLS] = calls
    if stored["reasoning"] is not None:
        row.setdefault(REASONING, stored["reasoning"])
    if not with_picture:
        return row
    picture = read_ask_request(stored["request"]).picture or {}
    return {"place": picture.get("path")} | picture | row
