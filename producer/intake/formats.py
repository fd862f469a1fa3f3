"""What an input is, is decided here alone: by its name, by how it begins, and by what is wanted of it.

Nothing is guessed in silence. What is certain is read, what is likely is read and said, and what may be two things at
once is refused.
"""

import csv
import json
import re
from collections.abc import Iterable
from typing import NamedTuple

HEAD_BYTES = 2**16
"""So much of an input's beginning is looked at, if it has so much."""

WORKBOOKS = ("xlsx", "xls", "ods")
PACKED = ("parquet", *WORKBOOKS)
"""Formats that cannot be read from a pipe as they come."""
HEADED = ("csv", "tsv", *WORKBOOKS)
"""Formats whose first row is a header by custom only."""

ENDINGS = {
    **{f".{name}": name for name in ("csv", "tsv", "json", "jsonl", "parquet", "xlsx", "xls", "ods")},
    ".tab": "tsv",
    ".ndjson": "jsonl",
    ".txt": "text",
    ".md": "text",
    ".xlsm": "xlsx",
}
FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", *WORKBOOKS, "text")
"""What `--format` takes."""

SHOWN = {"csv": "CSV", "tsv": "TSV", "json": "JSON", "jsonl": "JSON Lines", "parquet": "Parquet", "text": "text"}

_IMAGE, _RECORDING = "is an image, not text", "is a recording, not text"
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PAR1", "parquet"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "xls"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "is an empty ZIP archive"),
    (0, b"\x1f\x8b", "is a gzip archive: unpack it with gunzip, or let its name end in .gz"),
    (0, b"BZh", "is a bzip2 archive: unpack it with bunzip2, or let its name end in .bz2"),
    (0, b"\xfd7zXZ\0", "is an xz archive: unpack it with unxz, or let its name end in .xz"),
    (0, b"\x28\xb5\x2f\xfd", "is a zstd archive: unpack it with unzstd, or let its name end in .zst"),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive: unpack it"),
    (0, b"Rar!\x1a\x07", "is a RAR archive: unpack it"),
    (257, b"ustar", "is a tar archive: unpack it with tar -xf"),
    (0, b"SQLite format 3\0", "is an SQLite database: export the table as CSV, with sqlite3 -csv -header"),
    (0, b"%PDF", "is a PDF, not text: extract its text first"),
    (0, b"%!PS", "is PostScript, not text: extract its text first"),
    (0, b"{\\rtf", "is rich text (RTF): save it as plain text"),
    (0, b"\x89PNG", _IMAGE),
    (0, b"\xff\xd8\xff", _IMAGE),
    (0, b"GIF8", _IMAGE),
    (8, b"WEBP", _IMAGE),
    (0, b"II*\0", _IMAGE),
    (0, b"MM\0*", _IMAGE),
    (0, b"8BPS", _IMAGE),
    (4, b"ftypheic", _IMAGE),
    (4, b"ftypavif", _IMAGE),
    (4, b"ftyp", _RECORDING),
    (8, b"WAVE", _RECORDING),
    (0, b"ID3", _RECORDING),
    (0, b"OggS", _RECORDING),
    (0, b"fLaC", _RECORDING),
    (0, b"\x1aE\xdf\xa3", _RECORDING),
    (0, b"ARROW1", "is an Arrow file: save it as Parquet"),
    (0, b"FEA1", "is a Feather file: save it as Parquet"),
    (0, b"ORC", "is an ORC file: save it as Parquet"),
    (0, b"Obj\x01", "is an Avro file: save it as Parquet"),
    (0, b"\x89HDF", "is an HDF5 file: save its table as Parquet"),
    (0, b"\x93NUMPY", "is a NumPy file: save it as CSV"),
    *(
        (0, b"\x80" + bytes([number]), "is a pickle, which is never opened: save it as Parquet")
        for number in range(2, 6)
    ),
    (0, b"\x7fELF", "is a program, not text"),
    (0, b"\xff\xfe\0\0", "is UTF-32: convert it with iconv -f UTF-32 -t UTF-8"),
    (0, b"\0\0\xfe\xff", "is UTF-32: convert it with iconv -f UTF-32 -t UTF-8"),
)
"""Offset, bytes, and what they mean: a format, or why the input cannot be read."""

_WEB_PAGE = re.compile(rb"\s*<(!doctype\s+html|html[\s>])", re.IGNORECASE)
_MOST_OF_A_NAME = 60
_SENTENCE = re.compile(r"[.?!:…。？！：]\s*$|\n")  # ends of sentences in Chinese and Japanese, too
_MOST_WORDS_OF_A_NAME = 4


class Wanted(NamedTuple):
    """What a caller wants of an input.

    `format` is what the user says that it is, `columns` those that have to be there, `usual` names of columns that are
    taken unasked. `of_prompts`: a row may be a mere text. `sheet` is the name of a workbook's sheet, or its number,
    counted from 1.
    """

    format: str | None = None
    columns: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()
    of_prompts: bool = True
    named_by: str = "--column"
    sheet: str | None = None


class Recognised(NamedTuple):
    """What an input is read as; `note` says why, where that is not certain."""

    format: str
    note: str | None = None


class WrongFormatError(ValueError):
    """The input cannot be read; the text says why and what to do, after the input's name."""


def recognise(head: bytes, ending: str, wanted: Wanted) -> Recognised:
    """What an input is read as.

    Args:
        head: how it begins, at least its first line that is not blank.
        ending: of its name, such as ".csv"; "" where it has none.
        wanted: what is to be found in it.

    Raises:
        WrongFormatError: it is nothing that can be read, or may be two things.
    """
    named = wanted.format or ENDINGS.get(ending)
    packed = _packed_format(head)
    if packed == "zip":
        if named in WORKBOOKS:
            return Recognised(named)
        raise WrongFormatError("is a ZIP archive: unpack it, or give a workbook its own ending, .xlsx or .ods")
    if packed is not None:
        if named in (None, packed) or (named in WORKBOOKS and packed in WORKBOOKS and wanted.format is None):
            return Recognised(packed, None if named else f"is read as {shown(packed)}, as its first bytes say.")
        if wanted.format is not None:
            raise WrongFormatError(f"is {shown(packed)} by its first bytes, and not {shown(named)}: drop --format")
        return Recognised(packed, f"is read as {shown(packed)}, as its first bytes say, whatever its ending.")
    if named in PACKED:
        if _is_text(head):
            raise WrongFormatError(f"is text, and not {shown(named)}; say what it is with --format, such as csv")
        return Recognised(named)
    if named is None and _WEB_PAGE.match(head):
        raise WrongFormatError("is a web page (HTML): extract its text first, or read it by lines with --format text")
    line = first_line(head)
    if wanted.format is not None:
        return Recognised(wanted.format)
    return _by_line(line, named, wanted)


def _packed_format(head: bytes) -> str | None:
    """The format of a file that is no text, or "zip"; raises WrongFormatError for one that is never read."""
    kind = next((kind for offset, magic, kind in _SIGNATURES if head.startswith(magic, offset)), None)
    if kind == "zip":
        kind = _zip_format(head)
    if kind is None or kind in (*PACKED, "zip"):
        return kind
    raise WrongFormatError(kind)


def _zip_format(head: bytes) -> str:
    if b"opendocument.spreadsheet" in head[:200]:
        return "ods"
    if b"xl/" in head:
        return "xlsx"
    if b"word/" in head or b"ppt/" in head or b"opendocument" in head[:200]:
        return "is a document of an office program, not text: save it as plain text or CSV"
    if b"[Content_Types].xml" in head:
        return "xlsx"
    return "zip"


def _is_text(head: bytes) -> bool:
    return b"\0" not in head and all(byte >= 32 or byte in b"\t\n\r\f" for byte in head[:1000])


def _by_line(line: str, named: str | None, wanted: Wanted) -> Recognised:  # noqa: PLR0911  # a table in words
    """By the first line, for what is text."""
    is_object, is_list = _begins_object(line), line.startswith("[{") or line == "["
    if named == "jsonl" and (line.startswith("[") or line == "{"):
        return Recognised("json")
    if named in ("csv", "tsv") and is_object:
        return Recognised(
            "jsonl", f"is read as JSON Lines, because its first line is an object, and not as {shown(named)}."
        )
    if named == "text":
        return _text_or_table(line, wanted)
    if named is not None:
        return Recognised(named)
    if is_object:
        return Recognised("jsonl")
    if is_list or line == "{":
        return Recognised("json")
    return _table_or_text(line, wanted)


def _text_or_table(line: str, wanted: Wanted) -> Recognised:
    """What is text by its ending, and perhaps a table."""
    if wanted.columns:
        return _table_or_text(line, wanted)
    if any(looks_like_header(header(line, delimiter), wanted.usual) for delimiter in ",\t;"):
        return Recognised(
            "text", "is read as text, one prompt a line; if its first line is a header, add --format csv."
        )
    if _begins_object(line):
        return Recognised("text", "is read as text, one prompt a line; if it is JSON Lines, add --format jsonl.")
    return Recognised("text")


def _table_or_text(line: str, wanted: Wanted) -> Recognised:
    """What has neither a known ending nor JSON in its first line: a table with a header, or a prompt a line."""
    headers = {"csv": header(line, ","), "tsv": header(line, "\t"), "csv;": header(line, ";")}
    if wanted.columns:
        for name, names in headers.items():
            if set(wanted.columns) <= set(names):
                return _as_table(name.rstrip(";"), names)
        if wanted.columns == ("prompt",) and wanted.named_by != "--column" and wanted.of_prompts:
            return Recognised("text", "is read as text, one prompt a line.")
        shown_line = line if len(line) <= _MOST_OF_A_NAME else f"{line[:_MOST_OF_A_NAME]}…"
        missing = next(name for name in wanted.columns if name not in headers["csv"])
        raise WrongFormatError(
            f"has no column {missing!r}: it is no JSON, and its first line is no header with it ({shown_line!r}); "
            f"drop {wanted.named_by} for a prompt a line, or say with --format what it is"
        )
    for name, names in headers.items():
        if looks_like_header(names, wanted.usual) or (not wanted.of_prompts and len(names) > 1):
            return _as_table(name.rstrip(";"), names)
    if not wanted.of_prompts:
        raise WrongFormatError(
            "does not begin with a JSON object or a header; say what it is with a file's name and ending"
        )
    return Recognised("text", "is read as text, one prompt a line; --format says it if that is something else.")


def _as_table(name: str, names: list[str]) -> Recognised:
    listed = ", ".join(repr(each) for each in names[:4]) + (", …" if len(names) > 4 else "")
    return Recognised(
        name, f"is read as {shown(name)}, because its first line names columns ({listed}); --format text reads lines."
    )


def header(line: str, delimiter: str) -> list[str]:
    """The cells of a line."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def looks_like_header(names: list[str], usual: Iterable[str]) -> bool:
    """Whether these are names of columns, one of them a usual one."""
    known = {*usual, "custom_id"}
    return any(name.strip().casefold() in known for name in names) and not any(
        reads_like_prompt(name) for name in names
    )


def reads_like_prompt(name: str) -> bool:
    """Whether it is no name of a column: a sentence, or longer than a name is."""
    return (
        len(name) > _MOST_OF_A_NAME or _SENTENCE.search(name) is not None or len(name.split()) > _MOST_WORDS_OF_A_NAME
    )


def _begins_object(line: str) -> bool:
    """Whether a line is a whole JSON object."""
    if not line.startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def first_line(head: bytes) -> str:
    """The first line that is not blank, as far as it can be decoded."""
    text = head.decode(text_encoding(head) or "utf-8-sig", errors="replace").lstrip("\ufeff")
    lines = (each.strip() for each in text.split("\n"))
    return next((each for each in lines if each), "")


def text_encoding(head: bytes) -> str | None:
    """The encoding that the first bytes promise; None when they are no text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    sample = head[:4096]
    if b"\0" not in sample:
        return "utf-8-sig"
    pairs = len(sample) // 2
    for name, zeros, others in (("utf-16-le", sample[1::2], sample[::2]), ("utf-16-be", sample[::2], sample[1::2])):
        # Of a text in Latin letters every other byte is 0.
        if pairs >= 8 and zeros.count(0) > pairs * 0.4 and others.count(0) == 0:
            text = sample[: 2 * pairs].decode(name, errors="ignore")
            return name if all(each.isprintable() or each.isspace() for each in text) else None
    return None


def shown(name: str | None) -> str:
    """A format in words for a sentence."""
    return SHOWN.get(name or "", "a workbook")
