"""Rows become jobs, once each, while workers are already busy with the first of them.

COMMIT batch + jobs, a thousand at a time, then feed. The same command on the same input finds its batch again: done
rows stay done, open rows go on, failed rows are tried again, new or changed rows are new jobs.
"""

import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Connection, case, func, insert, select, update

from tidemill.models import holds, provider, shutdown
from tidemill.models.broker import BrokerError
from tidemill.models.bulk import BulkRows
from tidemill.models.clock import now
from tidemill.models.database import writing
from tidemill.models.feed import feed
from tidemill.models.options import Options
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.tables import batches, jobs
from tidemill.models.transitions import Enqueued, cancel, enqueue, give_time, revive
from tidemill.producer.batches.keys import Prepared, note, number
from tidemill.producer.intake.tables import Reading, Row, Source, read

if TYPE_CHECKING:
    from tidemill.producer.describing.picture_rows import Pictures

CHECKED_FIRST_BYTES = 4_000_000
"""Files up to this size are read through once before the first row is submitted, so that a bad row costs nothing."""

_FEED_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody asks for: questions, how to ask them, and how to read them.

    `source_name` tells inputs apart: the path of a file, or a name given by the user; None for pipes and frames, which
    are known by their rows alone.
    """

    options: Options
    source: Source = ()
    reading: Reading = field(default_factory=Reading)
    pictures: "Pictures | None" = None
    """What is described, in place of a source that is read."""
    rows: Sequence[Row] = ()
    """Rows that are there already, in place of a source that is read."""
    kind: str = "ask"
    name: str = "prompts"
    source_name: str | None = None
    priority: int = 0
    new: bool = False
    assistant_id: int | None = None
    """The assistant that some of the options are from."""
    on_bad_row: Callable[[str], None] = print

    @property
    def is_whole(self) -> bool:
        """Whether rows that it does not hold have left the input: not when it holds only some, or has no name."""
        some = self.reading.limit is not None or (self.pictures is not None and self.pictures.is_partial)
        return self.source_name is not None and not some


@dataclass(frozen=True, slots=True)
class Opened:
    """A batch that is ready to take rows, and the rows still to be read."""

    batch_id: str
    submission: int
    resumed: bool
    is_its_own: bool
    """Whether the batch is this input's: only then do rows that the input no longer holds leave it."""
    order: Order
    chunks: Iterator[list[Row]]

    @property
    def scope(self) -> Scope:
        """What a worker inside this command may send: this submission's rows, nobody else's."""
        return Scope(self.batch_id, self.submission, self.order.options.dialogue)


def open_batch(order: Order) -> Opened:
    """Read the first rows, find the batch that they belong to or make one.

    Raises:
        SettingsError: no call could ever be made with these settings, or to this model; nothing has been stored.
        InputError: the input cannot be read; nothing has been stored.
        DatabaseError: the database cannot be used.
    """
    provider.check(settings())
    check_model(order)
    chunks = rows_in(order)
    first = next(chunks)
    question_hash = order.options.question_hash(order.kind)
    keys = number([Prepared.of(row).digest for row in first], Counter())
    with writing() as connection:
        _let_nobody_else_open(connection, question_hash)
        found = None if order.new else find_batch(connection, question_hash, order.source_name, keys)
        batch_id = found.id if found else _create(connection, order, question_hash)
        is_its_own = found is None or (found.source is not None and order.source_name is not None)
        if found and is_its_own and found.source != order.source_name:  # its file has been moved
            connection.execute(update(batches).where(batches.c.id == found.id).values(source=order.source_name))
        submission = _begin_submission(connection, order, batch_id, _columns(first))
        if found:
            holds.probe_at_once(connection, settings().provider)
            give_time(connection, batches.c.id == batch_id)
    return Opened(batch_id, submission, found is not None, is_its_own, order, chain([first], chunks))


def check_model(order: Order) -> None:
    """Say that the order's model is about to end; SettingsError when it has ended."""
    if warning := shutdown.check(order.options.model, settings().provider):
        order.on_bad_row(warning)


def submit(opened: Opened, on_rows: Callable[[int], None] = lambda _rows: None) -> int:
    """Store all rows of an opened batch as jobs and feed them; returns how many rows the input holds.

    Args:
        opened: from `open_batch`.
        on_rows: is told after each commit how many rows are stored so far.

    Raises:
        InputError: the input breaks off; the rows before it are stored and running.
        DatabaseError: the database stopped answering; the rows that were committed are safe.
    """
    seen: Counter[str] = Counter()
    columns: dict[str, None] = {}
    position, fed_at = 0, 0.0
    for chunk, names in _prepared(opened.chunks):
        columns |= names
        _store(opened, chunk, position, seen)
        position += len(chunk)
        on_rows(position)
        if time.monotonic() - fed_at > _FEED_SECONDS:
            _feed(opened)
            fed_at = time.monotonic()
    with writing() as connection:
        _end_submission(connection, opened, columns)
    _feed(opened)
    return position


def _feed(opened: Opened) -> None:
    try:
        feed(opened.scope if settings().embedded else Scope())
    except BrokerError as error:
        opened.order.on_bad_row(str(error))


# --- the batch ---

KEYS = BulkRows(key="text")


class Known(NamedTuple):
    """A batch that is there already, and what its rows came from."""

    id: str
    source: str | None


def find_batch(connection: Connection, question_hash: str, source: str | None, keys: Sequence[str]) -> Known | None:
    """Id and source of the latest batch of the same questions on the same input: the same source, or else mostly the
    same first rows.

    Two inputs that both have a source are two, however alike, unless one is a file that is no longer where it was.
    `keys` are those of the first rows of the input.
    """
    same_questions = batches.c.question_hash == question_hash
    newest = batches.c.created_at.desc(), batches.c.id.desc()
    wanted = select(batches.c.id, batches.c.source).where(same_questions).order_by(*newest)
    if source is not None and (found := connection.execute(wanted.where(batches.c.source == source).limit(1)).first()):
        return Known(*found)
    given = KEYS.table(connection)
    first_rows = (jobs.c.batch_id == batches.c.id) & (jobs.c.position < len(keys))
    known = select(func.count()).where(first_rows, jobs.c.key.in_(select(given.c.key))).scalar_subquery()
    held = select(func.count()).where(first_rows).scalar_subquery()
    alike = wanted.where(known * 2 >= len(keys), known * 2 >= held)
    found_alike = connection.execute(alike, KEYS.parameters(connection, [(key,) for key in keys]))
    return next((Known(*batch) for batch in found_alike if _may_be(batch.source, source)), None)


def _may_be(known: str | None, given: str | None) -> bool:
    """Whether two sources with the same rows may be one: one has no name, or is a file that has been moved."""
    if known is None or given is None:
        return True
    return Path(known).is_absolute() and Path(given).is_absolute() and not Path(known).exists()


def _let_nobody_else_open(connection: Connection, question_hash: str) -> None:
    """Until the commit, keep a second copy of the command from making the same batch; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(question_hash))))


def _create(connection: Connection, order: Order, question_hash: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", order.name.lower()).strip("-")[:40] or "batch"
    batch_id = f"{slug}-{secrets.token_hex(3)}"
    connection.execute(
        insert(batches).values(
            id=batch_id,
            kind=order.kind,
            name=order.name[:200],
            source=order.source_name,
            question_hash=question_hash,
            provider=settings().provider,
            options=order.options.to_json(),
            columns=[],
            assistant_id=order.assistant_id,
            created_at=now(),
        )
    )
    return batch_id


def _begin_submission(connection: Connection, order: Order, batch_id: str, columns: Iterable[str]) -> int:
    """Count the submission, and let what may change between two of them change: how fast, not what is asked."""
    reopened = case((batches.c.state == "cancelled", "open"), else_=batches.c.state)
    return int(
        connection.execute(
            update(batches)
            .where(batches.c.id == batch_id)
            .values(
                submission=batches.c.submission + 1,
                options=order.options.to_json(),
                columns=list(columns),
                priority=order.priority,
                provider=settings().provider,
                assistant_id=func.coalesce(order.assistant_id, batches.c.assistant_id),
                state=reopened,
                read_at=None,
            )
            .returning(batches.c.submission)
        ).scalar_one()
    )


def _end_submission(connection: Connection, opened: Opened, columns: Iterable[str]) -> None:
    """The input has been read to its end: rows that it no longer holds leave the results, and do not run any more.

    A pipe or a frame has no name by which it could have lost rows: it may as well be a part of what came before.
    """
    if opened.order.is_whole and opened.is_its_own:
        gone = (jobs.c.batch_id == opened.batch_id) & (jobs.c.submission < opened.submission)
        connection.execute(update(jobs).where(gone).values(position=None))
        cancel(connection, opened.batch_id, older_than=opened.submission)
    connection.execute(
        update(batches).where(batches.c.id == opened.batch_id).values(columns=list(columns), read_at=now())
    )


def _columns(rows: Iterable[Row]) -> dict[str, None]:
    """Names of the input's columns, in the order in which they first come."""
    return {name: None for row in rows for name in row.columns}


# --- rows ---


def rows_in(order: Order) -> Iterator[list[Row]]:
    """The input's chunks; a file that is not too big has been read through before the first one comes."""
    if order.rows:
        return iter([list(order.rows)])
    if order.pictures is not None:
        from tidemill.producer.describing import picture_rows as pictures  # Pillow is not for those who ask

        return pictures.read(order.pictures, order.options, order.on_bad_row)
    if isinstance(order.source, str | Path) and _is_small_file(Path(order.source)):
        for _ in read(order.source, order.reading, on_bad_row=lambda _sentence: None):
            pass
    return read(order.source, order.reading, on_bad_row=order.on_bad_row)


def _prepared(chunks: Iterator[list[Row]]) -> Iterator[tuple[list[Prepared], dict[str, None]]]:
    """Each chunk ready to be stored, with its columns; while the database stores one, the next is made on a thread."""

    def prepare_next() -> tuple[list[Prepared], dict[str, None]] | None:
        chunk = next(chunks, None)
        return None if chunk is None else ([Prepared.of(row) for row in chunk], _columns(chunk))

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read") as reader:
        coming = reader.submit(prepare_next)
        while (prepared := coming.result()) is not None:
            coming = reader.submit(prepare_next)
            yield prepared


def _is_small_file(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= CHECKED_FIRST_BYTES


def _store(opened: Opened, chunk: Sequence[Prepared], position: int, seen: Counter[str]) -> None:
    """Commit one chunk; `seen` is kept as `producer.keys` says."""
    digests = [row.digest for row in chunk]
    while True:
        keys = number(digests, seen)
        rows = [
            Enqueued(
                key,
                row.custom_id or key,
                position + i,
                row.request,
                row.columns,
                row.content,
                *(row.refusal or ()),
            )
            for i, (key, row) in enumerate(zip(keys, chunk, strict=True))
        ]
        with writing() as connection:
            stored = enqueue(connection, opened.batch_id, opened.submission, rows, opened.order.options.dialogue)
            again = {digest for key, digest in zip(keys, digests, strict=True) if key not in stored}
            if not again:
                if opened.resumed:
                    revive(connection, opened.batch_id, keys)
                break
            # Contents of an earlier chunk have come again: number them from where the earlier ones ended.
            connection.rollback()
        for digest in again:
            seen[digest] += 1
    note(digests, seen)
