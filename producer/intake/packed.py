"""A workbook of 1 kB may unpack to more than the machine holds, or kill its reader, so a child process reads it.

So are Parquet files. The child sends its rows as JSON; what becomes of the child becomes a sentence.
"""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TypeAlias

from tidemill.models.child import LARGEST_FRAME_BYTES, Child, Parent, limit_memory
from tidemill.models.json_types import JsonObject
from tidemill.models.text import dumps, loads, one_line
from tidemill.producer.intake.cells import CHUNK_ROWS, Base64, frame_records, table
from tidemill.producer.intake.lines import ByteStream
from tidemill.producer.intake.records import Input, Records

SILENCE_SECONDS = 120.0
"""A child that sends nothing for longer is killed."""
MEMORY_BYTES = 2 * 2**30
"""Address space that a child may use beyond what it has when it is ready."""

_FRAME_BYTES = 4 * 2**20
_NOTE_LENGTH = 400
_TOO_LARGE = f"needs more than {MEMORY_BYTES >> 30} GB of memory to be read; save it as CSV, or as several files"


def workbook_records(file: ByteStream, input_: Input, sheet: str | None = None) -> Records:
    """The rows of a sheet, named or counted from 1, or of the first one; its first row is the header."""
    return _records(file, input_, "a workbook", sheet)


def parquet_records(file: ByteStream, input_: Input) -> Records:
    """All rows."""
    if find_spec("pyarrow") is None:
        raise input_.fault("needs pyarrow to be read: pip install 'tidemill[parquet]'")
    return _records(file, input_, "Parquet")


def _records(file: ByteStream, input_: Input, kind: str, sheet: str | None = None) -> Records:
    if not file.peek(1):
        return
    child = Child(f"from {__name__} import serve; serve()")
    try:
        child.wait_until_ready([kind, os.fsdecode(file.name), MEMORY_BYTES, sheet])
        while (head := (frame := child.receive(SILENCE_SECONDS))[0]) is not None:
            if head == "note":
                input_.note(one_line(frame[1].decode(errors="replace"), _NOTE_LENGTH))
            elif head == "rows":
                yield from _rows(frame[1])
            else:
                raise input_.fault(one_line(str(head)))
    except TimeoutError:
        raise input_.fault(f"takes longer than {SILENCE_SECONDS:.0f} seconds to be read; save it as CSV") from None
    except EOFError:
        raise input_.fault(
            f"cannot be read as {kind}: its reader died of it, perhaps because it {_TOO_LARGE}"
        ) from None
    finally:
        child.end()


def _rows(body: bytes) -> list[tuple[int, JsonObject]]:
    """What a child has sent; EOFError if it is not what our own code would send."""
    try:
        pairs = loads(body.decode())
    except ValueError:
        raise EOFError from None
    if not isinstance(pairs, list) or not all(_is_row(pair) for pair in pairs):
        raise EOFError
    return [(number, {name: _unmarked(value) for name, value in record.items()}) for number, record in pairs]


def _marked(value: object) -> object:
    """A cell as it is sent: JSON has one kind of text only."""
    return {"base64": value} if isinstance(value, Base64) else value


def _unmarked(value: object) -> object:
    """A cell as it was."""
    if isinstance(value, dict) and value.keys() == {"base64"} and isinstance(value["base64"], str):
        return Base64(value["base64"])
    return value


def _is_row(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int and isinstance(pair[1], dict)


# --- in the child ---

Reader: TypeAlias = Callable[[str, str | None, Callable[[str], None]], Records]
"""Reads the file at a path, of a workbook this sheet; the function gets sentences about the whole."""


def serve() -> None:
    """Be the child: read the file and send its rows."""
    parent = Parent(2 * SILENCE_SECONDS)
    kind, path, memory_bytes, sheet = parent.settings
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # the others reserve more address space than they use
    reader = _READERS[kind]()
    limit_memory(memory_bytes)
    parent.say_ready()
    try:
        for body in _bodies(reader(path, sheet, lambda note: parent.send("note", note.encode(errors="replace")))):
            parent.send("rows", body)
        parent.send(None)
    except _NoSuchSheetError as error:
        parent.send(str(error))
    except MemoryError:
        parent.send(_TOO_LARGE)
    except BaseException as error:  # noqa: BLE001  # the reader of a hostile file may raise anything, a panic of Rust included
        parent.send(f"cannot be read as {kind}: {error}")


def _bodies(records: Records) -> Iterator[bytes]:
    """Records in pieces that are worth sending."""
    piece, size = list[bytes](), 0
    for number, record in records:
        line = dumps((number, {name: _marked(value) for name, value in record.items()})).encode()
        if len(line) > LARGEST_FRAME_BYTES // 2:
            raise ValueError(f"row {number} is longer than {LARGEST_FRAME_BYTES >> 21} MB")
        piece.append(line)
        size += len(line)
        if len(piece) >= CHUNK_ROWS or size >= _FRAME_BYTES:
            yield b"[%b]" % b",".join(piece)
            piece, size = [], 0
    if piece:
        yield b"[%b]" % b",".join(piece)


class _NoSuchSheetError(Exception):
    """The workbook has no such sheet; the text names those that it has."""


def _workbook_reader() -> Reader:
    import pandas as pd
    import python_calamine  # noqa: F401  # so that all is loaded when memory is limited

    def read(path: str, sheet: str | None, on_note: Callable[[str], None]) -> Records:
        with pd.ExcelFile(path, engine="calamine") as book:
            name = _sheet_name([str(each) for each in book.sheet_names], sheet, on_note)
            frame = book.parse(name, dtype=object, keep_default_na=False)
        for number, record in frame_records(frame, first=2):
            row = {name: None if value == "" else value for name, value in record.items()}
            if any(value is not None for value in row.values()):  # rows that are only formatted are no rows
                yield number, row

    return read


def _sheet_name(names: list[str], sheet: str | None, on_note: Callable[[str], None]) -> str:
    if sheet is None:
        if len(names) > 1:
            others = ", ".join(map(repr, names[1:]))
            on_note(f"is read from its first sheet, {names[0]!r}; --sheet names another one: {others}.")
        return names[0]
    if sheet in names:
        return sheet
    if sheet.isdecimal() and 0 < int(sheet) <= len(names):
        return names[int(sheet) - 1]
    raise _NoSuchSheetError(f"has no sheet {sheet!r}; its sheets are: {', '.join(map(repr, names))}")


def _parquet_reader() -> Reader:
    from pyarrow import parquet

    def read(path: str, _sheet: str | None, _on_note: Callable[[str], None]) -> Records:
        first = 1
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=CHUNK_ROWS):
            yield from table(batch.schema.names, [column.to_pylist() for column in batch.columns], first)
            first += batch.num_rows

    return read


_READERS: dict[str, Callable[[], Reader]] = {
    "a workbook": _workbook_reader,
    "Parquet": _parquet_reader,
}
"""What is read -> what loads its reader."""
