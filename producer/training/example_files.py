"""Files and folders of tables become training examples, whatever they call their columns.

Rows are read by `producer.intake`, so all that it reads can be trained on. It streams; of replies that are not to be
given, where they are to be paired with good ones, the text waits on disk.
"""

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from tidemill.models.errors import InputError
from tidemill.models.text import dumps, loads
from tidemill.producer.intake.lines import standard_objects
from tidemill.producer.intake.records import BadRowError, Input, Record
from tidemill.producer.intake.tables import file_records
from tidemill.producer.training.columns import Columns, Shape, body_of, namesakes, shape_of
from tidemill.producer.training.examples import Bad, Body, Example, Message, Place, faults, key_of, normalised
from tidemill.producer.training.findings import KEPT

TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".parquet", ".jsonl", ".ndjson")  # what is taken from a folder


@dataclass(slots=True)
class Read:
    """What was read of one file, filled while it is read: its rows, and the columns that made examples."""

    file: str
    use: str
    rows: int = 0
    columns: str = ""


@dataclass(slots=True)
class FilesRead:
    """What was read in all, for the report. `left_out` are names of files in folders that are no tables."""

    files: list[Read] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def opened(self, file: str, use: str) -> Read:
        """Note a file that is about to be read."""
        self.files.append(Read(file, use))
        return self.files[-1]


def examples_of(
    paths: Sequence[str],
    columns: Columns,
    method: str,
    reading: FilesRead,
    *,
    negatives: Sequence[str] = (),
    without: Sequence[str] = (),
    use: str = "examples",
) -> Iterator[Example | Bad]:
    """The examples in files and folders, in their order; `-` is standard input.

    `use` is what the report calls them. `negatives` are files of replies that are not to be given. Supervised training
    gets them with weight 0; preferences (dpo) are made of a good and a bad reply to the same prompt, and what finds no
    twin is left out and said so.

    Files `without` are left out of folders: they are read for something else.

    Raises InputError while it is iterated: a file cannot be read, or its columns do not fit.
    """
    uses = (("--negative", negatives), ("--validation", without))
    elsewhere = {Path(each).resolve(): option for option, given in uses for each in given}
    for path in paths:
        if option := elsewhere.get(Path(path).resolve()):
            raise InputError(
                f"{path} was named twice, as examples and with {option}; name another file for one of them."
            )
    files = [each for each in tables_in(paths, reading) if each == "-" or Path(each).resolve() not in elsewhere]
    good_rows = chain.from_iterable(_rows(file, columns, method, reading.opened(file, use)) for file in files)
    bad_rows = chain.from_iterable(
        _rows(file, columns, method, reading.opened(file, "what not to say")) for file in tables_in(negatives, reading)
    )
    if method == "dpo":
        yield from _paired(good_rows, bad_rows, with_negatives=bool(negatives))
    else:
        yield from good_rows
        yield from map(_unlearned, bad_rows)
    if not files:
        raise InputError(f"{', '.join(paths)}: each table in it was also named with {' or '.join(elsewhere.values())}.")
    if not any(read.rows for read in reading.files if read.use == use):
        raise InputError(f"{', '.join(paths)}: there is no row in it; check the path.")


def tables_in(paths: Iterable[str], reading: FilesRead) -> list[str]:
    """The files to read: those named, and of a folder the tables in it, by name.

    Raises:
        InputError: a folder cannot be read or holds no table.
    """
    files: list[str] = []
    for path in paths:
        folder = Path(path)
        if path == "-" or not folder.is_dir():
            files.append(path)
            continue
        try:
            there = sorted(each for each in folder.iterdir() if each.is_file())
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from None
        tables = [str(each) for each in there if _is_table(each)]
        if not tables:
            raise InputError(f"{path}: there is no table in this folder ({', '.join(TABLES)}); name the files to read.")
        files += tables
        reading.left_out += [each.name for each in there if not _is_table(each)]
    return files


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLES and not path.name.startswith((".", "~$"))  # ~$: Excel's lock


def _unsaid(_sentence: str) -> None:
    """Bad rows are findings of the report, not sentences on the way."""


class _Collecting(Input):
    """Bad rows wait until they are asked for; beyond a thousand at once the last one stands for the rest."""

    waiting: deque[Bad]

    def report_bad_row(self, number: int, why: object) -> None:
        """Remember a bad row."""
        _append(self.waiting, Bad(Place(self.name, number, self.unit), str(why)))

    def drained(self) -> Iterator[Bad]:
        """Those that have come since."""
        while self.waiting:
            yield self.waiting.popleft()


def _append(waiting: MutableSequence[Bad], bad: Bad) -> None:
    if len(waiting) < KEPT:
        waiting.append(bad)
    else:
        last = waiting.pop()
        waiting.append(Bad(last.place, last.why, last.code, last.times + bad.times))


def _rows(file: str, columns: Columns, method: str, read: Read) -> Iterator[Example | Bad]:
    """The rows of one file. A table whose columns do not fit is refused; of JSON lines each has its own columns."""
    given = _Collecting("standard input" if file == "-" else file, skip_bad_rows=True, on_bad_row=_unsaid)
    given.waiting = deque()
    names: tuple[str, ...] | None = None
    shape: Shape | str = ""
    for number, record in standard_objects(given) if file == "-" else file_records(Path(file), given):
        for bad in given.drained():
            read.rows += bad.times
            yield bad
        read.rows += 1
        if tuple(record) != names:
            names = tuple(record)
            shape = shape_of(names, columns, method)
            if isinstance(shape, str) and given.unit == "row":
                raise given.fault(shape)
        if not isinstance(shape, str) and not read.columns:
            read.columns = str(shape)
            if told := namesakes(record, shape):
                yield Bad(Place(given.name, number, given.unit), told, "same_columns")
        yield _example(Place(given.name, number, given.unit), record, shape, columns)
    for bad in given.drained():
        read.rows += bad.times
        yield bad
    if isinstance(shape, str) and shape and not read.columns:  # no line fitted: the command is wrong, not the lines
        raise given.fault(shape)


def _example(place: Place, record: Record, shape: Shape | str, columns: Columns) -> Example | Bad:
    if isinstance(shape, str):
        return Bad(place, shape)
    try:
        return Example(place, body_of(record, shape, columns))
    except BadRowError as error:
        return Bad(place, str(error))


def _unlearned(row: Example | Bad) -> Example | Bad:
    """The same with weight 0 on every reply: the model reads it and does not learn to say it."""
    if isinstance(row, Bad) or not isinstance(row.body.get("messages"), list):
        return row
    messages = [
        each | {"weight": 0} if isinstance(each, dict) and each.get("role") == "assistant" else each
        for each in row.body["messages"]
    ]
    return Example(row.place, row.body | {"messages": messages})


# --- pairs of a good and a bad reply ---


def _paired(
    good: Iterable[Example | Bad], bad: Iterable[Example | Bad], *, with_negatives: bool
) -> Iterator[Example | Bad]:
    """Preferences: rows that are such already, and good replies with the bad ones to the same prompt.

    The first good reply to a prompt is paired with each bad one, a further good one with the first bad one.
    """
    with TemporaryFile("w+b") as file:
        rejected = _Rejected(bad, file)
        yield from rejected.bad
        for row in good:
            yield from _pairs(row, rejected if with_negatives else None)
        yield from rejected.unused()


def _pairs(row: Example | Bad, rejected: "_Rejected | None") -> Iterator[Example | Bad]:
    """The preferences that a row with a good reply makes; without bad ones anywhere it must be a preference already."""
    if isinstance(row, Bad) or "messages" not in row.body:
        yield row
        return
    body = _complete(row)
    if rejected is None:
        yield Bad(row.place, "there is one reply only", "no_rejected")
    elif isinstance(body, Bad):
        yield body
    else:
        found = rejected.of(body["messages"][:-1])
        yield from (Example(row.place, _preference(body, reply)) for reply in found)
        if not found:
            yield Bad(row.place, "a good reply, and no reply not to give to its prompt", "no_twin")


def _complete(row: Example | Bad) -> Body | Bad:
    """A row's body once it is sure that it has a prompt and a reply, or what is wrong with it."""
    if isinstance(row, Bad):
        return row
    body, _ = normalised(row.body, "supervised")
    found = faults(body, "supervised")
    return Bad(row.place, found[0].what, found[0].code) if found else body


def _preference(body: Body, rejected: Message) -> Body:
    outputs = [
        {key: value for key, value in each.items() if key != "weight"} for each in (body["messages"][-1], rejected)
    ]
    return {
        "input": body | {"messages": body["messages"][:-1]},
        "preferred_output": outputs[:1],
        "non_preferred_output": outputs[1:],
    }


class _Rejected:
    """Bad replies by their prompt: 17 bytes of memory each, the replies themselves in a temporary file."""

    def __init__(self, rows: Iterable[Example | Bad], file: IO[bytes]) -> None:
        import numpy as np

        self._file = file
        self.bad: list[Bad] = []
        keys, offsets = array("Q"), array("Q")
        for row in rows:
            checked = _complete(row)
            if isinstance(checked, Bad):
                _append(self.bad, checked)
                continue
            keys.append(key_of(checked["messages"][:-1]))
            offsets.append(self._file.tell())
            self._file.write(f"{dumps([row.place, checked['messages'][-1]])}\n".encode())
        order = np.argsort(np.frombuffer(keys, np.uint64), kind="stable") if keys else np.zeros(0, np.int64)
        self._keys = np.frombuffer(keys, np.uint64)[order] if keys else np.zeros(0, np.uint64)
        self._offsets = np.frombuffer(offsets, np.uint64)[order] if keys else np.zeros(0, np.uint64)
        self._used = bytearray(len(keys))

    def of(self, prompt: Sequence[Message]) -> list[Message]:
        """The replies to a prompt: all of them when it is asked for first, later on the first one."""
        import numpy as np

        key = np.uint64(key_of(prompt))
        first, end = (int(np.searchsorted(self._keys, key, side)) for side in ("left", "right"))
        taken = range(first, end if first < end and not self._used[first] else min(end, first + 1))
        self._used[first:end] = b"\1" * (end - first)
        return [self._at(place)[1] for place in taken]

    def unused(self) -> Iterator[Bad]:
        """Those whose prompt was never asked for."""
        for place, used in enumerate(self._used):
            if not used:
                yield Bad(self._at(place)[0], "a reply not to give, and no good reply to its prompt", "no_twin")

    def _at(self, place: int) -> tuple[Place, Message]:
        self._file.seek(int(self._offsets[place]))
        where, message = loads(self._file.readline().decode())
        return Place(*where), message
