"""Files and folders of tables become training examples, whatever their columns are called.

producer/intake reads the rows, so a model can be trained on everything that it reads. Examples stream. Only replies not
to give wait, on disk, if they will be paired with good ones.
"""

import os
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import IO

from tidemill.models.errors import InputError
from tidemill.models.text import dumps, loads
from tidemill.producer.intake.compressed import ending_of
from tidemill.producer.intake.records import BadRowError, Input, Record
from tidemill.producer.intake.sources import Files, shown
from tidemill.producer.intake.spoiled import spoiling
from tidemill.producer.intake.tables import file_records, standard_records
from tidemill.producer.training.columns import (
    Columns,
    Shape,
    body_of,
    cells_of,
    is_telling,
    namesakes,
    shape_of,
    unused,
)
from tidemill.producer.training.examples import BadRow, Body, ChatMessage, Example, Place, faults, key_of, normalised
from tidemill.producer.training.findings import KEPT

# What is taken from a folder, also compressed
TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".parquet", ".json", ".jsonl", ".ndjson")
_LIMITS = {
    32_767: "Excel's cells",
    50_000: "the cells of Google Sheets",
    65_535: "the columns and result grids of SQL databases",
}
"""Characters (of UTF-16) or bytes at which programs cut a text -> what holds no more."""
_LEAST_LIMIT = min(_LIMITS) // 3  # a character has at most so many bytes that count here
_UNUSED_KEPT = 100


@dataclass(slots=True)
class FileSummary:
    """What one file was read for, its rows, and which columns made examples or did not; filled while it is read."""

    file: str
    use: str
    rows: int = 0
    columns: str = ""
    unused: list[str] = field(default_factory=list)


@dataclass(slots=True)
class InputSummary:
    """What was read in all, for the report. `left_out` has the names of files in folders that are no tables."""

    files: list[FileSummary] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, file: str, use: str) -> FileSummary:
        """Note a file that is about to be read."""
        self.files.append(FileSummary(shown(file), use))
        return self.files[-1]


def examples_of(
    paths: Sequence[str],
    columns: Columns,
    method: str,
    inputs: InputSummary,
    *,
    negatives: Sequence[str] = (),
    without: Sequence[str] = (),
    use: str = "examples",
    called: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Example | BadRow]:
    """The examples in files and folders, in their order; `-` is standard input.

    Args:
        inputs: gets a summary of each file.
        negatives: files of replies not to give. Supervised training gets them with weight 0. Preferences (dpo) are
            made of a good and a negative reply to the same prompt; rows without a pair are left out and reported.
        without: files to leave out of folders, because they are read for something else.
        use: what the report calls the examples.
        called: path -> what the report calls that file, if not by its path.

    Raises:
        InputError: while it is iterated: a file cannot be read, or its columns do not fit.
    """
    elsewhere = _elsewhere(paths, {"--negative": negatives, "--validation": without})
    files = [each for each in tables_in(paths, inputs) if each == "-" or Path(each).resolve() not in elsewhere]
    named = set(paths)
    good_rows = chain.from_iterable(
        _rows(file, columns, method, inputs.add(called.get(file, file), use), is_named=file in named) for file in files
    )
    negative_rows = chain.from_iterable(
        _rows(file, columns, method, inputs.add(file, "what not to say")) for file in tables_in(negatives, inputs)
    )
    if method == "dpo":
        yield from _paired(good_rows, negative_rows, with_negatives=bool(negatives))
    else:
        yield from good_rows
        yield from map(_without_weight, negative_rows)
    if not files:
        raise InputError(
            f"{', '.join(map(shown, paths))}: each table in it was also named with {' or '.join(elsewhere.values())}."
        )
    if not any(each.rows for each in inputs.files if each.use == use):
        raise InputError(f"{', '.join(map(shown, paths))}: there is no row in it; check the path.")


def _elsewhere(paths: Iterable[str], uses: Mapping[str, Sequence[str]]) -> dict[Path, str]:
    """The option that names each file for another use; raises InputError if a path is among the files."""
    elsewhere = {Path(each).resolve(): option for option, files in uses.items() for each in files}
    for path in paths:
        if option := elsewhere.get(Path(path).resolve()):
            raise InputError(
                f"{shown(path)} was named twice, as examples and with {option}; name another file for one of them."
            )
    return elsewhere


def tables_in(paths: Iterable[str], inputs: InputSummary) -> list[str]:
    """The files to read: those that the user named, also by globs, and the tables of folders, by name.

    Raises:
        InputError: a folder cannot be read or holds no table, or a glob fits nothing.
    """
    files: list[str] = []
    for path in (each for name in paths for each in Files((name,)).expand()):
        folder = Path(path)
        if path == "-" or not os.path.isdir(folder):  # noqa: PTH112  # Path's may raise
            files.append(path)
            continue
        try:
            entries = sorted(each for each in folder.iterdir() if each.is_file())
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from None
        tables = [str(each) for each in entries if _is_table(each)]
        if not tables:
            raise InputError(f"{path}: there is no table in this folder ({', '.join(TABLES)}); name the files to read.")
        files += tables
        inputs.left_out += [each.name for each in entries if not _is_table(each)]
    return files


def _is_table(path: Path) -> bool:
    return ending_of(path) in TABLES and not path.name.startswith((".", "~$"))  # ~$: Excel's lock


def _ignore(_sentence: str) -> None:
    """Bad rows are findings of the report, not sentences while it is read."""


class _Collecting(Input):
    """Bad rows wait until they are drained; of more than a thousand at once, the last one stands for the rest."""

    waiting: deque[BadRow]

    def report_bad_row(self, number: int, why: object) -> None:
        """Remember a bad row."""
        _append(self.waiting, BadRow(Place(self.name, number, self.unit), str(why)))

    def drain(self) -> Iterator[BadRow]:
        """Take out the bad rows since the last call."""
        while self.waiting:
            yield self.waiting.popleft()


def _append(waiting: MutableSequence[BadRow], bad: BadRow) -> None:
    if len(waiting) < KEPT:
        waiting.append(bad)
    else:
        last = waiting.pop()
        waiting.append(BadRow(last.place, last.why, last.code, last.times + bad.times))


def _rows(
    file: str, columns: Columns, method: str, summary: FileSummary, *, is_named: bool = True
) -> Iterator[Example | BadRow]:
    """The rows of one file. A table whose columns do not fit is an error; each JSON line has columns of its own.

    JSON that nobody named, in a folder, may be about something else: it is left out, with a warning.
    """
    notes: list[str] = []
    source = _Collecting(
        "standard input" if file == "-" else summary.file, skip_bad_rows=True, on_bad_row=_ignore, on_note=notes.append
    )
    source.waiting = deque()
    names: tuple[str, ...] | None = None
    shape: Shape | str = ""
    for number, record in standard_records(source) if file == "-" else file_records(file, source):
        for bad in source.drain():
            summary.rows += bad.times
            yield bad
        summary.rows += 1
        place = Place(source.name, number, source.unit)
        while notes:
            yield BadRow(place, notes.pop(0), "read_as")
        if tuple(record) != names:
            names = tuple(record)
            shape = shape_of(names, columns, method)
            if isinstance(shape, str) and not is_named and summary.rows == 1 and ending_of(Path(file)) == ".json":
                yield BadRow(place, f"the file is left out: it {shape}", "unused")
                return
            if isinstance(shape, str) and source.unit == "row":
                raise source.fault(shape)
        if isinstance(shape, str):
            yield BadRow(place, shape)
            continue
        yield from _remarks(place, record, shape, summary)
        yield _example(place, record, shape, columns)
    for bad in source.drain():
        summary.rows += bad.times
        yield bad
    if isinstance(shape, str) and shape and not summary.columns:  # no line fits: the fault is in the command
        raise source.fault(shape)


def _remarks(place: Place, record: Record, shape: Shape, summary: FileSummary) -> Iterator[BadRow]:
    """What is to be said of a row besides its example: columns that are not used, each once, and cells that are cut."""
    if not summary.columns:
        summary.columns = str(shape)
        if sentence := namesakes(record, shape):
            yield BadRow(place, sentence, "same_columns")
    for name in unused(record, shape, summary.unused):
        if is_telling(name):
            yield BadRow(place, f"the column {name!r} is not used", "unused")
        elif len(summary.unused) >= _UNUSED_KEPT:
            continue
        summary.unused.append(name)
    for name, text in cells_of(record, shape):
        if (kind := spoiling(text)) is not None:
            yield BadRow(place, f"the column {name!r} holds {kind.kind}; {kind.remedy}", "spoiled")
        if holder := _cut_by(text):
            yield BadRow(place, f"the column {name!r} has as many characters as {holder} can hold", "cut_cell")


def _cut_by(text: str) -> str | None:
    """What may have cut a text, because it holds no more."""
    if len(text) < _LEAST_LIMIT:
        return None
    units = len(text.encode("utf-16-le", "surrogatepass")) // 2
    return _LIMITS.get(units) or _LIMITS.get(len(text.encode(errors="surrogatepass")))


def _example(place: Place, record: Record, shape: Shape, columns: Columns) -> Example | BadRow:
    try:
        return Example(place, body_of(record, shape, columns))
    except BadRowError as error:
        return BadRow(place, str(error))


def _without_weight(row: Example | BadRow) -> Example | BadRow:
    """The row with weight 0 on every reply: the model reads it and does not learn it."""
    if isinstance(row, BadRow) or not isinstance(row.body.get("messages"), list):
        return row
    messages = [
        each | {"weight": 0} if isinstance(each, dict) and each.get("role") == "assistant" else each
        for each in row.body["messages"]
    ]
    return Example(row.place, row.body | {"messages": messages})


# --- pairs of a good and a negative reply ---


def _paired(
    good: Iterable[Example | BadRow], negative: Iterable[Example | BadRow], *, with_negatives: bool
) -> Iterator[Example | BadRow]:
    """Preferences: rows that are such already, and good replies with the negative ones to the same prompt.

    The first good reply to a prompt is paired with each negative one, a further good one with the first of them.
    """
    with TemporaryFile("w+b") as file:
        negatives = _Negatives(negative, file)
        yield from negatives.bad_rows
        for row in good:
            yield from _pairs(row, negatives if with_negatives else None)
        yield from negatives.unused()


def _pairs(row: Example | BadRow, negatives: "_Negatives | None") -> Iterator[Example | BadRow]:
    """The preferences that a row with a good reply makes; without any negatives it must be a preference already."""
    if isinstance(row, BadRow) or "messages" not in row.body:
        yield row
        return
    body = _complete(row)
    if negatives is None:
        yield BadRow(row.place, "there is one reply only", "no_rejected")
    elif isinstance(body, BadRow):
        yield body
    else:
        replies = negatives.replies_to(body["messages"][:-1])
        yield from (Example(row.place, _preference(body, reply)) for reply in replies)
        if not replies:
            yield BadRow(row.place, "a good reply, and no reply not to give to its prompt", "no_pair")


def _complete(row: Example | BadRow) -> Body | BadRow:
    """A row's body if it has a prompt and a reply, or what is wrong with it."""
    if isinstance(row, BadRow):
        return row
    body, _ = normalised(row.body, "supervised")
    errors = faults(body, "supervised")
    return BadRow(row.place, errors[0].what, errors[0].code) if errors else body


def _preference(body: Body, negative: ChatMessage) -> Body:
    outputs = [
        {key: value for key, value in each.items() if key != "weight"} for each in (body["messages"][-1], negative)
    ]
    return {
        "input": body | {"messages": body["messages"][:-1]},
        "preferred_output": outputs[:1],
        "non_preferred_output": outputs[1:],
    }


class _Negatives:
    """Replies not to give, by their prompt: 17 bytes of memory each; their text is in a temporary file."""

    def __init__(self, rows: Iterable[Example | BadRow], file: IO[bytes]) -> None:
        import numpy as np

        self._file = file
        self.bad_rows: list[BadRow] = []
        keys, offsets = array("Q"), array("Q")
        for row in rows:
            checked = _complete(row)
            if isinstance(checked, BadRow):
                _append(self.bad_rows, checked)
                continue
            keys.append(key_of(checked["messages"][:-1]))
            offsets.append(self._file.tell())
            self._file.write(f"{dumps([row.place, checked['messages'][-1]])}\n".encode())
        order = np.argsort(np.frombuffer(keys, np.uint64), kind="stable") if keys else np.zeros(0, np.int64)
        self._keys = np.frombuffer(keys, np.uint64)[order] if keys else np.zeros(0, np.uint64)
        self._offsets = np.frombuffer(offsets, np.uint64)[order] if keys else np.zeros(0, np.uint64)
        self._used = bytearray(len(keys))

    def replies_to(self, prompt: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The replies to a prompt: all of them at the first call, later the first one."""
        import numpy as np

        key = np.uint64(key_of(prompt))
        first, end = (int(np.searchsorted(self._keys, key, side)) for side in ("left", "right"))
        taken = range(first, end if first < end and not self._used[first] else min(end, first + 1))
        self._used[first:end] = b"\1" * (end - first)
        return [self._at(place)[1] for place in taken]

    def unused(self) -> Iterator[BadRow]:
        """A finding for each reply that was never paired."""
        for place, used in enumerate(self._used):
            if not used:
                yield BadRow(self._at(place)[0], "a reply not to give, and no good reply to its prompt", "no_pair")

    def _at(self, place: int) -> tuple[Place, ChatMessage]:
        self._file.seek(int(self._offsets[place]))
        where, message = loads(self._file.readline().decode())
        return Place(*where), message
