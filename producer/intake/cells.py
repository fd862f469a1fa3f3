"""A cell of any table becomes a value that JSON can hold, and a column gets a name of its own."""

import base64
import datetime
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tidemill.producer.intake.records import Records

if TYPE_CHECKING:
    import pandas as pd

CHUNK_ROWS = 1_000


def frame_records(frame: "pd.DataFrame", first: int = 1) -> Records:
    """A frame's rows; the first one has this number."""
    names = [str(name) for name in frame.columns]
    for start in range(0, len(frame), CHUNK_ROWS):
        yield from table(names, cells_of(frame.iloc[start : start + CHUNK_ROWS]), first + start)


def table(names: list[str], columns: list[list[object]], first: int) -> Records:
    """The rows of these columns; the first one has this number."""
    own_names = unique(names)
    values = [[plain(value) for value in column] for column in columns]
    yield from enumerate((dict(zip(own_names, row, strict=True)) for row in zip(*values, strict=True)), first)


def cells_of(frame: "pd.DataFrame") -> list[list[Any]]:
    """A frame's columns as lists."""
    return [frame.iloc[:, place].tolist() for place in range(frame.shape[1])]


def unique(names: list[str]) -> list[str]:
    """Name columns as `pandas.read_csv` does: `Unnamed: 2` for a blank one, `a.1` for a second `a`."""
    own, taken = set(names), set[str]()
    copies: dict[str, int] = {}
    unique = []
    for place, header in enumerate(names):
        base = name = header or f"Unnamed: {place}"
        while name in taken or (name != base and name in own):
            copies[base] = copies.get(base, 0) + 1
            name = f"{base}.{copies[base]}"
        taken.add(name)
        unique.append(name)
    return unique


class Base64(str):
    """Bytes that are no text, as a results file can show them; nobody is asked about them."""

    __slots__ = ()


def plain(value: object) -> object:  # noqa: PLR0911
    """A cell as JSON can hold it: NaN, NaT and NA become None, times ISO 8601, numpy's types Python's.

    Bytes become the text that they are in UTF-8, as other programs write text into Parquet; else base64.
    """
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None if math.isnan(value) else str(value)
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return _text_or_base64(bytes(value))
    if type(value).__name__ == "datetime64":  # in nanoseconds it would be a mere number
        return plain(value.astype("datetime64[us]").tolist())  # type: ignore[attr-defined]
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def _text_or_base64(content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return Base64(base64.b64encode(content).decode())
    is_text = all(each >= " " or each in "\t\n\r\f" for each in text)
    return text if is_text else Base64(base64.b64encode(content).decode())
