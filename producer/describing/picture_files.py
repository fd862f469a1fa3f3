"""A user names files, folders or a table of paths; what goes out are pictures that are ready to be sent.

There are two steps, each a stream: find the files, and make them ready in child processes
(producer/describing/images.py). Each file becomes a row; a file that is no usable picture is refused with its reason.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import TypeAlias

from tidemill.models.canonical import canonical
from tidemill.models.errors import InputError, TidemillError
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Options
from tidemill.models.text import dumps
from tidemill.producer.batches.progress import counted
from tidemill.producer.describing.folders import Walk, excluding
from tidemill.producer.describing.images import PreparedPicture, Preparer, RefusedPicture
from tidemill.producer.intake.formats import Wanted
from tidemill.producer.intake.records import BadRowError
from tidemill.producer.intake.requests import Template, custom_id, listed, spelled_id
from tidemill.producer.intake.sources import files_of
from tidemill.producer.intake.tables import Opened, Row, Source, open_source

PATH_COLUMNS = ("path", "file", "filename", "image", "picture", "image_path", "url", "image_url")
"""Usual names of a table's column of paths, tried in this order."""

MAX_SIDE = 2048
_NOTED_REFUSALS = 10
"""Refused files that are reported at once; the results name all."""
_NOTED_EACH = 5
"""Pictures that are named for each kind of note."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Which pictures are described, and how they are found.

    `paths` are files, folders and URLs; or `table` is a source with a `column` of them. `limit` counts pictures.
    Pictures at a path for which `is_done` is true are left out, and those that a glob of `exclude` matches: by name, by
    path, or by a folder's name.
    """

    paths: tuple[str, ...] = ()
    table: "Source | None" = None
    column: str | None = None
    recursive: bool = False
    fetch: bool = False
    limit: int | None = None
    format: str | None = None
    """Of the table, as `--format` says it."""
    is_done: Callable[[str], bool] | None = None
    exclude: tuple[str, ...] = ()
    sheet: str | None = None
    """Of the table, where it is a workbook: name or number."""

    @property
    def files(self) -> Sequence[Path]:
        """The tables, where they are files."""
        tables = files_of(self.table)
        return tables.paths() if tables else []

    @property
    def is_one(self) -> bool:
        """Whether it is a single picture, whose answer alone is shown."""
        return len(self.paths) == 1 and not os.path.isdir(self.paths[0])  # noqa: PTH112  # Path's may raise


class NothingLeftError(TidemillError):
    """Every picture has its caption already."""

    exit_code = 0


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture that is to be made ready: its path as the user wrote it, where to open it, and what its row shows."""

    path: str
    place: str
    columns: JsonObject
    line: int

    @property
    def is_url(self) -> bool:
        """Whether it is on the web."""
        return re.match(r"https?://", self.path, re.IGNORECASE) is not None


PreparedFile: TypeAlias = tuple[PictureFile, PreparedPicture | RefusedPicture | None]
"""A file with its picture, ready or refused; None for a URL that the provider will fetch."""


def prepare(
    pictures: Pictures, options: Options, on_note: Callable[[str], None], *, likeness: bool = False
) -> Iterator[PreparedFile]:
    """Make each picture ready, in order; `on_note` gets a sentence for what a user should know of one."""
    files = islice(find(pictures, on_note), pictures.limit)
    notes = _Notes(on_note)
    with Preparer(options.model, options.detail or "auto", options.max_side or MAX_SIDE, likeness=likeness) as preparer:
        for way, run in groupby(files, lambda each: each.is_url and (_FETCHED if pictures.fetch else _PASSED)):
            for each, picture in _WAYS[way](preparer, run):
                if isinstance(picture, PreparedPicture):
                    notes.add(each.path, picture.notes)
                elif picture is not None and each.path and not pictures.is_one:
                    notes.refuse(picture.reason)
                yield each, picture
    notes.sum_up()


@dataclass(slots=True)
class _Notes:
    """Tells what a user should know of pictures: the first few of each kind one by one, all others by their number."""

    on_note: Callable[[str], None]
    refused: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, path: str, notes: Iterable[str]) -> None:
        for note in notes:
            kind = re.sub(r"\d+(?:[.,]\d+)*", "n", note)
            self.kinds[kind] += 1
            if self.kinds[kind] <= _NOTED_EACH:
                self.on_note(f"{path}: {note}")

    def refuse(self, reason: str) -> None:
        self.refused += 1
        if self.refused <= _NOTED_REFUSALS:
            self.on_note(reason)
        elif self.refused == _NOTED_REFUSALS + 1:
            self.on_note("More files are no usable pictures; the results name each with its reason.")

    def sum_up(self) -> None:
        for kind, count in self.kinds.items():
            if count > _NOTED_EACH:
                self.on_note(f"{counted(count - _NOTED_EACH, 'more picture')}: {kind}")


# --- find the files ---


def find(pictures: Pictures, on_note: Callable[[str], None]) -> Iterator[PictureFile]:
    """Every picture that the user means, in order; raises InputError if there is none."""
    left = done = 0
    for each in (
        _from_paths(pictures, on_note) if pictures.table is None else _from_table(pictures, pictures.table, on_note)
    ):
        if pictures.is_done is not None and not each.is_url and pictures.is_done(each.place):
            done += 1
            continue
        left += 1
        yield each
    if done and not left:
        raise NothingLeftError(f"{counted(done, 'picture')} found, each with its caption file already.")
    if not left:
        places = listed(pictures.paths or [str(each) for each in pictures.files] or ["the table"])
        raise InputError(f"There is no picture in {places}; name files, or a folder with -r for the folders in it too.")


def _from_paths(pictures: Pictures, on_note: Callable[[str], None]) -> Iterator[PictureFile]:
    walk = Walk(pictures.recursive, pictures.exclude, is_alone=len(pictures.paths) == 1)
    line = 0
    for argument in pictures.paths:
        for path in walk.files(argument):
            line += 1
            yield PictureFile(path, path, {"path": path}, line)
    for note in walk.notes():
        on_note(note)


def _from_table(pictures: Pictures, table: Source, on_note: Callable[[str], None]) -> Iterator[PictureFile]:
    """The rows of a table, or of several."""
    columns = (pictures.column,) if pictures.column else ()
    wanted = Wanted(pictures.format, columns, PATH_COLUMNS, of_prompts=False, sheet=pictures.sheet)
    for each in open_source(table, False, on_note, on_note, wanted):
        yield from _from_rows(pictures, each, on_note)


def _from_rows(pictures: Pictures, table: Opened, on_note: Callable[[str], None]) -> Iterator[PictureFile]:
    """The rows of one table. A path that does not exist is looked for beside the table."""
    source, records, folder = table
    column, excluded = pictures.column, 0
    for line, record in records:
        if column is None:
            column = next((name for name in PATH_COLUMNS if name in record), None)
        if column is None or column not in record:
            kind = "usual name for paths" if pictures.column is None else f"name {pictures.column!r}"
            raise source.fault(f"has no column with the {kind}; say which with --column: {listed(record)}", line)
        path = str(record[column] or "")
        if excluding(path, pictures.exclude) is not None:
            excluded += 1
            continue
        place = path if os.path.lexists(path) or not path else str(folder / path)
        yield PictureFile(path, place, record, line)
    if excluded:
        on_note(f"Left out by --exclude: {excluded:,} ({', '.join(pictures.exclude)}).")


# --- make pictures ready ---

_PASSED, _FETCHED = "passed", "fetched"


def _from_disk(
    preparer: Preparer, run: Iterable[PictureFile]
) -> Iterator[tuple[PictureFile, PreparedPicture | RefusedPicture]]:
    return preparer.prepare((each, each.place) for each in run)


def _from_web(
    preparer: Preparer, run: Iterable[PictureFile]
) -> Iterator[tuple[PictureFile, PreparedPicture | RefusedPicture]]:
    from tidemill.producer.describing.fetching import fetch_many

    contents = fetch_many((each, each.path) for each in run)
    for is_refused, group in groupby(contents, lambda pair: isinstance(pair[1], RefusedPicture)):
        if is_refused:
            yield from ((each, refused) for each, refused in group if isinstance(refused, RefusedPicture))
            continue
        sources = ((each, content) for each, content in group if isinstance(content, bytes))
        for each, picture in preparer.prepare(sources):
            if isinstance(picture, RefusedPicture):
                picture = RefusedPicture(picture.code, picture.reason.replace("the picture", each.path, 1))  # noqa: PLW2901
            yield each, picture


_WAYS: dict[str | bool, Callable[[Preparer, Iterable[PictureFile]], Iterator[PreparedFile]]] = {
    False: _from_disk,
    _FETCHED: _from_web,
    _PASSED: lambda _preparer, run: ((each, None) for each in run),
}
"""Where a picture comes from -> how it is made ready."""


# --- rows ---


def row_of(
    file: PictureFile, picture: PreparedPicture | RefusedPicture | None, template: Template, options: Options
) -> Row:
    """The row of a picture. Its content is question and picture, whatever the file's name; a refused one has none."""
    columns = dict(file.columns)
    spelled = spelled_id(columns.get("custom_id"))
    try:
        row_id = custom_id(columns.pop("custom_id", None))
        prompt = _prompt(file, template)
    except BadRowError as error:
        row_id, prompt, picture = None, "", RefusedPicture("bad_row", f"row {file.line}: {error}.")
    shown: JsonObject = {"path": file.path}
    if file.place != file.path:
        shown["place"] = file.place
    if isinstance(picture, RefusedPicture):
        request = {"prompt": prompt, "picture": shown, "refused": picture.code}
        return Row(row_id, columns, request, file.line, refusal=(picture.code, picture.reason))
    if picture is None:
        shown["url"] = identity = file.path
    else:
        identity = picture.sha256
        shown |= {"sha256": identity, "format": picture.format, "width": picture.width, "height": picture.height}
        if picture.notes:
            shown["notes"] = list(picture.notes)
    content = dumps([prompt, identity, options.detail])
    asked = [_prompt(file, template, by_value=True), identity, options.detail]
    return Row(
        row_id, columns, {"prompt": prompt, "picture": shown}, file.line, content, asked=asked, spelled_id=spelled
    )


def _prompt(file: PictureFile, template: Template, *, by_value: bool = False) -> str:
    if not file.path:
        raise BadRowError("its path is empty")
    path = Path(file.path)
    record = {"name": path.name, "stem": path.stem, "directory": path.parent.name} | file.columns
    missing: Sequence[str] = [name for name in template.names if name not in record]
    if missing:
        raise BadRowError(f"the prompt names {listed(missing)}, and there are {listed(record)}")
    return template.filled({name: canonical(value) for name, value in record.items()} if by_value else record)
