"""A workbook of 1 kB may unpack to more than the machine holds, or kill its reader, so a child process reads it.

So are Parquet files. The child sends its rows as JSON; what becomes of the child becomes a sentence.
"""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec

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
_TOO_LARGE = f"needs more than {MEMORY_BYTES >> 30} GB of memory to be read; save it as CSV, or as several files"


def workbook_records(file: ByteStream, input_: Input) -> Records:
    """The first sheet; its first row is the header."""
    return _records(file, input_, "a workbook")


def parquet_records(file: ByteStream, input_: Input) -> Records:
    """All rows."""
    if find_spec("pyarrow") is None:
        raise input_.fault("needs pyarrow to be read: pip install 'tidemill[parquet]'")
    return _records(file, input_, "Parquet")


def _records(file: ByteStream, input_: Input, kind: str) -> Records:
    if not file.peek(1):
        return
    child = Child(f"from {__name__} import serve; serve()")
    try:
        child.wait_until_ready([kind, os.fsdecode(file.name), MEMORY_BYTES])
        while (head := (frame := child.receive(SILENCE_SECONDS))[0]) is not None:
            if head != "rows":
                raise input_.fault(one_line(str(head)))
            yield from _rows(frame[1])
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


def serve() -> None:
    """Be the child: read the file and send its rows."""
    parent = Parent(2 * SILENCE_SECONDS)
    kind, path, memory_bytes = parent.settings
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # the others reserve more address space than they use
    reader = _READERS[kind]()
    limit_memory(memory_bytes)
    parent.say_ready()
    try:
        for body in _bodies(reader(path)):
            parent.send("rows", body)
        parent.send(None)
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


def _workbook_reader() -> Callable[[str], Records]:
    import pandas as pd
    import python_calamine  # noqa: F401  # so that all is loaded when memory is limited

    def read(path: str) -> Records:
        frame = pd.read_excel(path, engine="calamine", dtype=object, keep_default_na=False)
        for number, record in frame_records(frame, first=2):
            row = {name: None if value == "" else value for name, value in record.items()}
            if any(value is not None for value in row.values()):  # rows that are only formatted are no rows
                yield number, row

    return read


def _parquet_reader() -> Callable[[str], Records]:
    from pyarrow import parquet

    def read(path: str) -> Records:
        first = 1
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=CHUNK_ROWS):
            yield from table(batch.schema.names, [column.to_pylist() for column in batch.columns], first)
            first += batch.num_rows

    return read


_READERS: dict[str, Callable[[], Callable[[str], Records]]] = {
    "a workbook": _workbook_reader,
    "Parquet": _parquet_reader,
}
"""What is read -> what loads its reader."""
