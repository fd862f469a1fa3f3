"""Rows become jobs, once each, while workers are already busy with the first of them.

COMMIT batch + jobs, a thousand at a time, then feed. The same command on the same input finds its batch again: done
rows stay done, open rows stay open, failed rows are tried again, new or changed rows are new jobs.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain

from sqlalchemy import Connection

from tidemill.models import batches, budgets, call_settings, embedded, shutdown
from tidemill.models.bookings import BATCH
from tidemill.models.database import LONG_SECONDS, reading, transact, transact_in_pieces
from tidemill.models.errors import BrokerError, InputError
from tidemill.models.json_types import JsonObject
from tidemill.models.routes import AUTO
from tidemill.models.scope import Scope
from tidemill.models.server_names import is_same_host, server_name
from tidemill.models.settings import settings
from tidemill.models.transitions import Enqueued, enqueue
from tidemill.producer.batches import affording
from tidemill.producer.batches.keys import Occurrences, Prepared
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.routing import check_route, choose_route, says_enough
from tidemill.producer.intake.tables import Row

_FEED_SECONDS = 0.25
"""Between two looks at what the broker can take."""


@dataclass(slots=True)
class Tally:
    """What a submission has stored so far: how many rows, how many of them had their answer already.

    `keys` has the number of each row in its source with the row's key, in order; None: they are not kept.
    """

    rows: int = 0
    answered: int = 0
    keys: list[tuple[int, str]] | None = None


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
    example: JsonObject
    """The first row's request."""
    first_rows: int
    """Rows of the first chunk: others follow only if it is full."""
    tally: Tally = field(default_factory=Tally)

    @property
    def scope(self) -> Scope:
        """What a worker inside this command may send: this submission's rows, nobody else's."""
        return Scope(self.batch_id, self.submission, self.order.options.dialogue)


def open_batch(order: Order) -> OpenBatch:
    """Read the first rows, and find the batch that they belong to or make one.

    Raises:
        SettingsError: no call could ever be made with these settings, or to this model; nothing has been stored.
        InputError: the input cannot be read, or there is no batch that could have moved; nothing has been stored.
        DatabaseError: the database cannot be used.
    """
    (call_settings.check_client if settings().embedded else call_settings.check)(settings())
    check_model(order)
    check_route(order)
    chunks = order.rows.chunks(order.options, order.on_bad_row)
    first = next(chunks)
    affording.check_prices(order, first)
    submission = _submission(order, first)
    sought = order.sought([Prepared.of(row) for row in first])

    def find_or_make(connection: Connection) -> OpenBatch:
        batches.lock_question(connection, submission.question_hash)
        stored = None if order.new else find(connection, order, sought)
        if stored and stored.provider != sought.provider:
            begun = batches.find(connection, sought)
            batches.move(connection, stored.id, sought.provider, begun.id if begun else None)
        if stored is None:
            affording.check_room(order, first)
        batch_id = stored.id if stored else batches.create(connection, submission)
        is_its_own = stored is None or (stored.source is not None and order.source_name is not None)
        if stored and is_its_own and order.source_name is not None and stored.source != order.source_name:
            batches.rename_source(connection, stored.id, order.source_name)
        number = batches.begin_submission(connection, batch_id, submission) if stored else 1
        if stored:
            batches.come_back(connection, batch_id, submission.provider)
        if order.spending.budget_usd_e9 is not None:
            budgets.set_cap(connection, BATCH, batch_id, order.spending.budget_usd_e9)
        resumed, all_rows = stored is not None, chain([first], chunks)
        return OpenBatch(batch_id, number, resumed, is_its_own, order, all_rows, first[0].request, len(first))

    opened = transact(find_or_make, LONG_SECONDS)
    if not (opened.resumed or order.new):
        _say_elsewhere(order, sought, opened.batch_id)
    return opened


def find(connection: Connection, order: Order, sought: batches.Sought) -> batches.StoredBatch | None:
    """The batch that the order goes on with, also one that has yet to be taken from the server's former address.

    Raises:
        InputError: the order names a former address, and there is none.
    """
    stored = batches.find(connection, sought)
    if order.moved_from is None:
        return stored
    for server in _servers_at(connection, order.moved_from):
        moved = None if server == sought.provider else batches.find(connection, replace(sought, provider=server))
        if moved is not None:
            return moved
    if stored is None:
        there = ", ".join(batches.servers(connection)) or "none"
        raise InputError(
            f"There is no batch of these questions and rows for {order.moved_from}; servers with batches: {there}."
        )
    return stored


def _servers_at(connection: Connection, address: str) -> list[str]:
    """The servers of batches that an address means: the one of that name or, without a path, all at that host."""
    try:
        name = server_name(address)
    except ValueError as error:
        raise InputError(f"--moved-from is {address!r}, but {error}; an example is localhost:8000/v1.") from None
    known = batches.servers(connection)
    return [name] if name in known else [each for each in known if name.endswith("/") and is_same_host(each, name)]


def _say_elsewhere(order: Order, sought: batches.Sought, batch_id: str) -> None:
    """Say that another server was asked the same, for it may be this one at its former address."""
    with reading() as connection:
        other = batches.find(connection, sought, elsewhere=True)
    if other is not None:
        order.on_bad_row(
            f"{other.id} asked {other.provider} the same; {batch_id} asks {sought.provider}. If that is the same "
            f"server at another address, stop, and add --moved-from {other.provider} (in Python: moved_from) to go on."
        )


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
        route=order.spending.route,
        deadline_seconds=order.spending.deadline_seconds,
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
    occurrences = Occurrences()
    columns: dict[str, None] = {}
    tally, fed_at = opened.tally, -math.inf
    pause = 0.0 if settings().embedded else _FEED_SECONDS
    is_open = opened.order.spending.route == AUTO
    for chunk, names in _prepared(opened.chunks):
        columns |= names
        _store(opened, chunk, occurrences)
        if is_open and says_enough(opened.order, tally.rows - tally.answered):
            choose_route(opened.order, opened.batch_id, tally.rows - tally.answered)
            is_open = False
        on_rows(tally.rows)
        if time.monotonic() - fed_at >= pause:
            _feed(opened)
            fed_at = time.monotonic()
    # A pipe or a frame has no name: it may be only a part of what came before, so that no row has left it.
    if opened.order.is_whole and opened.is_its_own and opened.resumed:
        transact_in_pieces(
            lambda connection, after: batches.drop_rows(connection, opened.batch_id, opened.submission, after)
        )
    if transact(lambda connection: batches.end_submission(connection, opened.batch_id, list(columns))) == AUTO:
        choose_route(opened.order, opened.batch_id, tally.rows - tally.answered)
    _feed(opened)
    return tally.rows


def _feed(opened: OpenBatch) -> None:
    if settings().embedded:
        return embedded.wake()
    from tidemill.models.feed import feed  # with it comes Celery, a tenth of a second of CPU

    try:
        feed()
    except BrokerError as error:
        opened.order.on_bad_row(str(error))
    return None


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


def _store(opened: OpenBatch, chunk: Sequence[Prepared], occurrences: Occurrences) -> None:
    """Commit one chunk, and count it in the batch's tally and in `occurrences`."""
    tally = opened.tally

    def store(connection: Connection) -> tuple[set[str], int]:
        """Store the chunk, or return the digests that an earlier chunk had and store nothing; and how many are done."""
        keys = occurrences.keys(chunk)
        if opened.resumed:
            _rename_keys(connection, opened.batch_id, chunk, keys, occurrences)
        rows = [
            Enqueued(
                key,
                row.custom_id or key,
                tally.rows + i,
                row.request,
                row.columns,
                row.content,
                *(row.refusal or ()),
            )
            for i, (key, row) in enumerate(zip(keys, chunk, strict=True))
        ]
        stored = enqueue(connection, opened.batch_id, opened.submission, rows, opened.order.options.dialogue)
        came_before = {row.digest for key, row in zip(keys, chunk, strict=True) if key not in stored}
        if came_before:
            connection.rollback()
        elif opened.resumed:
            batches.revive(connection, opened.batch_id, keys)
            return came_before, len(batches.answered_keys(connection, opened.batch_id, keys))
        return came_before, 0

    while (ended := transact(store, LONG_SECONDS))[0]:
        occurrences.note_earlier(ended[0], chunk)
    if tally.keys is not None:
        tally.keys += zip((row.line for row in chunk), occurrences.keys(chunk), strict=True)
    occurrences.count(chunk)
    tally.rows += len(chunk)
    tally.answered += ended[1]


def _rename_keys(
    connection: Connection, batch_id: str, chunk: Sequence[Prepared], keys: Sequence[str], occurrences: Occurrences
) -> None:
    """Give rows that version 0.1 stored their keys of today, where those are others."""
    renamed = {old: new for old, new in zip(occurrences.spelled_keys(chunk), keys, strict=True) if old != new}
    if renamed:
        batches.rename_keys(connection, batch_id, renamed)
