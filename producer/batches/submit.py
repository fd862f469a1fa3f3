"""Rows become jobs, once each, while workers are already busy with the first of them.

COMMIT batch + jobs, a thousand at a time, then feed. The same command on the same input finds its batch again: done
rows stay done, open rows stay open, failed rows are tried again, new or changed rows are new jobs.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

from sqlalchemy import Connection

from tidemill.models import batches, provider, shutdown
from tidemill.models.broker import BrokerError
from tidemill.models.database import LONG_SECONDS, transact
from tidemill.models.feed import feed
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.transitions import Enqueued, enqueue
from tidemill.producer.batches.keys import Prepared, count_stored, keys_of
from tidemill.producer.batches.order import Order
from tidemill.producer.intake.tables import Row

_FEED_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch that is ready to take rows, and the rows still to be read."""

    batch_id: str
    submission: int
    resumed: bool
    is_its_own: bool
    """Whether the batch belongs to this input: only then do rows that left the input leave the batch."""
    order: Order
    chunks: Iterator[list[Row]]

    @property
    def scope(self) -> Scope:
        """What a worker inside this command may send: this submission's rows, nobody else's."""
        return Scope(self.batch_id, self.submission, self.order.options.dialogue)


def open_batch(order: Order) -> OpenBatch:
    """Read the first rows, and find the batch that they belong to or make one.

    Raises:
        SettingsError: no call could ever be made with these settings, or to this model; nothing has been stored.
        InputError: the input cannot be read; nothing has been stored.
        DatabaseError: the database cannot be used.
    """
    (provider.check_client if settings().embedded else provider.check)(settings())
    check_model(order)
    chunks = order.rows.chunks(order.options, order.on_bad_row)
    first = next(chunks)
    submission = _submission(order, first)
    keys = keys_of([Prepared.of(row).digest for row in first], Counter())

    def find_or_make(connection: Connection) -> OpenBatch:
        batches.lock_question(connection, submission.question_hash)
        stored = None if order.new else batches.find(connection, submission.question_hash, order.source_name, keys)
        batch_id = stored.id if stored else batches.create(connection, submission)
        is_its_own = stored is None or (stored.source is not None and order.source_name is not None)
        if stored and is_its_own and order.source_name is not None and stored.source != order.source_name:
            batches.rename_source(connection, stored.id, order.source_name)
        number = batches.begin_submission(connection, batch_id, submission)
        if stored:
            batches.come_back(connection, batch_id, submission.provider)
        return OpenBatch(batch_id, number, stored is not None, is_its_own, order, chain([first], chunks))

    return transact(find_or_make, LONG_SECONDS)


def _submission(order: Order, first: Iterable[Row]) -> batches.Submission:
    return batches.Submission(
        kind=order.rows.kind,
        question_hash=order.question_hash,
        name=order.name,
        source=order.source_name,
        provider=settings().provider,
        options=order.options.to_json(),
        columns=list(_columns(first)),
        priority=order.priority,
        assistant_id=order.assistant_id,
    )


def check_model(order: Order) -> None:
    """Warn that the order's model will be shut down soon; raise SettingsError when it has been."""
    if warning := shutdown.check(order.options.model, settings().provider):
        order.on_bad_row(warning)


def submit(opened: OpenBatch, on_rows: Callable[[int], None] = lambda _rows: None) -> int:
    """Store all rows of an opened batch as jobs and feed them; returns how many rows the input holds.

    Args:
        opened: from `open_batch`.
        on_rows: is called after each commit with how many rows are stored so far.

    Raises:
        InputError: the input breaks off; the rows before it are stored and running.
        DatabaseError: the database stopped answering; the rows that were committed are safe.
    """
    repeated: Counter[str] = Counter()
    columns: dict[str, None] = {}
    position, fed_at = 0, 0.0
    for chunk, names in _prepared(opened.chunks):
        columns |= names
        _store(opened, chunk, position, repeated)
        position += len(chunk)
        on_rows(position)
        if time.monotonic() - fed_at > _FEED_SECONDS:
            _feed(opened)
            fed_at = time.monotonic()
    # A pipe or a frame has no name: it may be only a part of what came before, so that no row has left it.
    is_whole = opened.order.is_whole and opened.is_its_own
    transact(
        lambda connection: batches.end_submission(
            connection, opened.batch_id, opened.submission, list(columns), is_whole=is_whole
        ),
        LONG_SECONDS,
    )
    _feed(opened)
    return position


def _feed(opened: OpenBatch) -> None:
    try:
        feed(opened.scope if settings().embedded else Scope())
    except BrokerError as error:
        opened.order.on_bad_row(str(error))


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


def _columns(rows: Iterable[Row]) -> dict[str, None]:
    """Names of the input's columns, in the order in which they first come."""
    return {name: None for row in rows for name in row.columns}


def _store(opened: OpenBatch, chunk: Sequence[Prepared], position: int, repeated: Counter[str]) -> None:
    """Commit one chunk; `repeated` is updated as `batches.keys` says."""
    digests = [row.digest for row in chunk]

    def store(connection: Connection) -> set[str]:
        """Store the chunk, or return the digests that an earlier chunk had and store nothing."""
        keys = keys_of(digests, repeated)
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
        stored = enqueue(connection, opened.batch_id, opened.submission, rows, opened.order.options.dialogue)
        came_before = {digest for key, digest in zip(keys, digests, strict=True) if key not in stored}
        if came_before:
            connection.rollback()
        elif opened.resumed:
            batches.revive(connection, opened.batch_id, keys)
        return came_before

    while came_before := transact(store, LONG_SECONDS):
        for digest in came_before:
            repeated[digest] += 1  # contents of an earlier chunk have come again: number them after those
    count_stored(digests, repeated)
