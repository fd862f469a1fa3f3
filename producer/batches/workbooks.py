"""Answers as a workbook: text stays text, and what a sheet cannot hold is refused or said."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO

from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.producer.screen.display import say

if TYPE_CHECKING:
    from xlsxwriter.worksheet import Worksheet

MOST_ROWS, MOST_COLUMNS, MOST_CHARACTERS = 2**20, 2**14, 2**15 - 1
"""What Excel takes of a sheet and of a cell, which it counts in UTF-16."""
_MOST_DIGITS = 2**53
"""Above it Excel's numbers are no longer exact."""
_CUT = "… [cut]"
_ELSEWHERE = "write .csv, .jsonl or .parquet"


@contextmanager
def xlsx(
    cell_of: Callable[[object], object], file: BinaryIO, columns: Sequence[str]
) -> Iterator[Callable[[list[JsonObject]], object]]:
    """Write rows to one sheet, below a header. Memory is constant: rows wait on disk, in a folder of their own.

    Raises:
        InputError: there are more rows or columns than a sheet holds.
    """
    from xlsxwriter import Workbook

    if len(columns) > MOST_COLUMNS:
        raise InputError(f"A sheet holds {MOST_COLUMNS:,} columns, and there are {len(columns):,}: {_ELSEWHERE}.")
    with TemporaryDirectory(prefix="tidemill-") as folder:
        path = Path(folder, "answers.xlsx")  # what is compressed on its way cannot be written out of order
        book = Workbook(str(path), {"constant_memory": True, "tmpdir": folder})
        sheet = book.add_worksheet("answers")
        sheet.freeze_panes(1, 0)
        written = cut = 0

        def put(rows: list[JsonObject], style: object = None) -> None:
            nonlocal written, cut
            if written + len(rows) > MOST_ROWS:
                raise InputError(f"A sheet holds {MOST_ROWS - 1:,} rows and its header; there are more: {_ELSEWHERE}.")
            for row in rows:
                for place, name in enumerate(columns):
                    cut += _write(sheet, written, place, cell_of(row.get(name)), style)
                written += 1

        try:
            put([dict(zip(columns, columns, strict=True))], book.add_format({"bold": True}))
            yield put
        except BaseException:
            sheet.row_data_fh.close()
            book.fileclosed = True  # or it would be written when it is forgotten
            raise
        book.close()
        with path.open("rb") as whole:
            shutil.copyfileobj(whole, file)
    if cut:
        cells = "1 cell is" if cut == 1 else f"{cut:,} cells are"
        say(f"{cells} longer than Excel takes ({MOST_CHARACTERS:,} characters) and cut; for all of it, {_ELSEWHERE}.")


def _write(sheet: "Worksheet", row: int, place: int, cell: object, style: object) -> bool:
    """Write a cell; returns whether it had to be cut."""
    if cell is None:
        return False
    if isinstance(cell, int | float | Decimal) and -_MOST_DIGITS <= cell <= _MOST_DIGITS:
        sheet.write_number(row, place, float(cell), style)
        return False
    text = str(cell).encode(errors="backslashreplace").decode()
    fitting = _fitting(text)
    sheet.write_string(row, place, fitting, style)
    return fitting is not text


def _fitting(text: str) -> str:
    """The text, or as much of it as a cell holds, with a mark at its end."""
    if 2 * len(text) <= MOST_CHARACTERS:
        return text
    units = text.encode("utf-16-le")
    if len(units) <= 2 * MOST_CHARACTERS:
        return text
    return units[: 2 * (MOST_CHARACTERS - len(_CUT))].decode("utf-16-le", errors="ignore") + _CUT
