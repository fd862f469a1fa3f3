"""Batches that ended long ago are deleted in one go, and then the stored files that no row names any more."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row

from tidemill import migrations
from tidemill.models import batches as batch_verbs
from tidemill.models import blobs, pruning
from tidemill.models.blobs import StoredFile
from tidemill.models.database import LONG_SECONDS, Piece, engine, reading, transact_in_pieces
from tidemill.models.durations import seconds_of
from tidemill.models.errors import InputError, OptionError
from tidemill.models.json_types import JsonObject
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.producer.batches.deletion import ask_first
from tidemill.producer.batches.progress import counted, progress
from tidemill.producer.screen.display import Ticker, say, ticked
from tidemill.producer.screen.printing import print_json, print_line, print_table
from tidemill.producer.screen.tables import Column

_FILES_AT_ONCE = 100_000
"""Files whose names are looked up in one pass over the rows: 20 MB of memory."""
_MOST_SHOWN = 20
COLUMNS = (Column("batch", 1), Column("created", 3), Column("rows", 2), Column("cost", 4))


class Plan(NamedTuple):
    """What would go, and what stays although it is old."""

    before: datetime
    batches: list[Row[Any]]
    """The latest first, so that a dialogue's later turns go before its first one."""
    rows: int
    bytes: int
    staying: list[str]
    """A sentence for each old batch that stays."""

    @property
    def ids(self) -> list[str]:
        """Those of the batches."""
        return [batch.id for batch in self.batches]


class Files(NamedTuple):
    """So many files of the store, with so many bytes."""

    number: int
    bytes: int

    def __str__(self) -> str:
        return f"{counted(self.number, 'stored file')} ({_shown(self.bytes)})"


def prune(older_than: str, *, keep_costs: bool, dry_run: bool, is_sure: bool, as_json: bool) -> None:
    """Delete what is older than a duration such as `90d`, once somebody has said yes.

    Raises:
        OptionError: it is no duration.
        InputError: nobody has said yes.
        BlobError: the store cannot be used; where somebody was sure, the batches are gone by then.
    """
    migrations.ensure()
    plan = _plan(older_than)
    for sentence in [*plan.staying[:_MOST_SHOWN], *_more(len(plan.staying) - _MOST_SHOWN)]:
        print_line(f"tidemill: {sentence}", err=True)
    if dry_run or not is_sure:
        files = _add_up(_unnamed_files(plan.ids))
        if dry_run:
            return _show(plan, files, as_json)
        if not plan.batches and not files.number:
            return _report(plan, files, as_json)
        print_line(f"{_summary(plan, files)} {_COSTS[keep_costs]}", err=True)
        ask_first("Delete all that?", "Nothing was deleted", is_sure)
    plan = _delete(plan, keep_costs)
    try:
        files = _add_up(file for file in _unnamed_files(()) if blobs.remove(file.sha256))
    except blobs.BlobError as error:
        raise blobs.BlobError(f"Deleted {_batches(plan)}, but not all stored files. {error}") from None
    return _report(plan, files, as_json)


_COSTS = {
    True: "What their calls cost is kept.",
    False: "What their calls cost is forgotten; --keep-costs keeps it.",
}


# --- batches ---


def _plan(older_than: str) -> Plan:
    try:
        seconds = seconds_of(older_than)
    except ValueError as error:
        raise OptionError("older_than", older_than, f"{error}.") from None
    chosen: list[Row[Any]] = []
    staying, ids = list[str](), set[str]()
    with reading(LONG_SECONDS) as connection:
        before = pruning.cutoff(connection, seconds)
        for batch in ticked(pruning.old_batches(connection, before), Ticker("looked at", "batches")):
            try:
                batch_verbs.check_deletable(connection, batch, ids)
            except InputError as error:
                staying.append(str(error))
            else:
                chosen.append(batch)
                ids.add(batch.id)
        rows = sum(pruning.count_rows(connection, batch.id) for batch in chosen)
        share = rows / max(pruning.count_rows(connection), 1)
        return Plan(before, chosen, rows, int(share * pruning.size(connection)), staying)


def _delete(plan: Plan, keep_costs: bool) -> Plan:
    """Delete the batches, each in pieces; those in which something has happened meanwhile stay. Returns what went."""
    ticker, gone, rows = Ticker("deleted"), list[Row[Any]](), 0

    def delete(batch_id: str, connection: Connection, after: int) -> Piece:
        return pruning.delete_old(connection, batch_id, plan.before, after, keep_costs=keep_costs)

    def say_how_far(rows_before: int, rows_of_batch: int) -> None:
        ticker(rows_before + rows_of_batch)

    for batch in plan.batches:
        try:
            rows += transact_in_pieces(partial(delete, batch.id), partial(say_how_far, rows))
        except InputError as error:
            print_line(f"tidemill: {error}", err=True)
            plan.staying.append(str(error))
        else:
            gone.append(batch)
    return plan._replace(batches=gone, rows=rows)


# --- files of the store ---


def _unnamed_files(gone: Sequence[str]) -> Iterator[StoredFile]:
    """Old files that no row names, once the batches of `gone` are gone; each pass over the rows looks for many."""
    if (other := _other_database()) is not None:
        say(f"{blobs.shown_url()} stays: it may hold files of {other}. Set TIDEMILL_BLOBS_URL to a store of its own.")
        return
    files = ticked(blobs.old_files(), Ticker("looked at", "stored files"))
    while some := {file.sha256: file for file in islice(files, _FILES_AT_ONCE)}:
        for sha256 in sorted(pruning.unnamed(some, set(gone), Ticker("looked at"))):
            yield some[sha256]


def _other_database() -> Path | None:
    """The embedded database beside the usual store, where it is not the one in use: the files may be its own."""
    beside = settings().home / "tidemill.db"
    is_another = settings().database_url and not settings().blobs_url and beside.exists()
    return beside if is_another and Path(str(engine().url.database)) != beside else None


def _add_up(files: Iterable[StoredFile]) -> Files:
    number = size = 0
    for file in files:
        number, size = number + 1, size + file.bytes
    return Files(number, size)


# --- what is said ---


def _show(plan: Plan, files: Files, as_json: bool) -> None:
    if as_json:
        return print_json(_as_json(plan, files))
    if plan.batches:
        of_batch = ((batch, progress(Scope(batch.id))) for batch in plan.batches)
        print_table(
            COLUMNS,
            [(batch.id, f"{batch.created_at:%Y-%m-%d}", f"{it.rows:,}", it.cost()) for batch, it in of_batch],
        )
    print_line(f"{_summary(plan, files)} Nothing was deleted.", err=True)
    return None


def _summary(plan: Plan, files: Files) -> str:
    day = f"{plan.before:%Y-%m-%d %H:%M} UTC"
    batches = f"{_batches(plan)} with {counted(plan.rows, 'row')} (about {_shown(plan.bytes)}) ended before {day}."
    sentence = batches if plan.batches else f"No batch that ended before {day} can go."
    return f"{sentence} No row names {files} in {blobs.shown_url()}." if files.number else sentence


def _report(plan: Plan, files: Files, as_json: bool) -> None:
    if as_json:
        return print_json(_as_json(plan, files))
    print_line(f"deleted: {_batches(plan)} with {counted(plan.rows, 'row')}, and {files}.")
    if plan.rows:
        print_line("tidemill: the database uses the room again; its files do not shrink.", err=True)
    return None


def _as_json(plan: Plan, files: Files) -> JsonObject:
    return {
        "before": plan.before.isoformat(),
        "batches": plan.ids,
        "rows": plan.rows,
        "bytes": plan.bytes,
        "files": files.number,
        "file_bytes": files.bytes,
        "staying": plan.staying,
    }


def _batches(plan: Plan) -> str:
    return f"{len(plan.batches):,} batch{'' if len(plan.batches) == 1 else 'es'}"


def _shown(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 or not size else f"{size / 1e3:,.1f} kB"


def _more(number: int) -> list[str]:
    return [f"and {number:,} more stay."] if number > 0 else []
