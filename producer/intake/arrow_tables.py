"""polars frames and Arrow tables are inputs as pandas frames are, and neither library is needed for that.

Their rows are read as dicts of Python's own values, so that nulls stay nulls and whole numbers whole. What a table can
do tells what it is, so that other libraries that speak Arrow are read, too.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.producer.intake.cells import CHUNK_ROWS


class Table:
    """The rows of a table, which may be read more than once."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __iter__(self) -> Iterator[JsonObject]:
        if hasattr(self._table, "iter_rows"):  # polars
            yield from self._table.iter_rows(named=True)
            return
        for batch in self._table.to_batches(max_chunksize=CHUNK_ROWS):  # Arrow
            yield from batch.to_pylist()


def as_table(source: Any, column: str) -> Iterable[JsonObject] | None:
    """The rows of a frame or column of polars, or of anything that speaks Arrow; None for all else.

    Args:
        source: no frame of pandas, which speaks Arrow and has an index besides.
        column: what the values of a lone column are called.

    Raises:
        InputError: only pyarrow can read it, and is not installed.
    """
    if hasattr(source, "iter_rows") or hasattr(source, "to_batches"):
        return Table(source)
    if not (hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__")):
        return None
    for as_list in ("to_pylist", "to_list"):
        if hasattr(source, as_list):
            values = getattr(source, as_list)()
            return values if hasattr(source, "columns") else [{column: value} for value in values]
    try:
        import pyarrow as pa
    except ImportError:
        raise InputError(
            f"A table of the type {type(source).__name__} needs pyarrow to be read: pip install 'tidemill[parquet]'"
        ) from None
    return Table(pa.RecordBatchReader.from_stream(source).read_all())
