"""What is old goes: batches that ended long ago, and files of the store that no row names any more.

All functions work on a connection in the caller's transaction, except `unnamed`, which reads page by page.
"""

import re
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Text, func, select, text, type_coerce

from tidemill.models import batches as batch_verbs
from tidemill.models.clock import now_after
from tidemill.models.database import LONG_SECONDS, Piece, reading
from tidemill.models.tables import batches, datasets, jobs, tallies

_IDS_AT_ONCE = 5_000
_SHA256 = re.compile(r'"sha256": ?"([0-9a-f]{64})"')
_SIZE = {
    "sqlite": "SELECT (pages.page_count - free.freelist_count) * size.page_size "
    "FROM pragma_page_count AS pages, pragma_freelist_count AS free, pragma_page_size AS size",
    "postgresql": "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class "
    "WHERE oid = ANY (ARRAY['jobs', 'attempts', 'dialogues', 'messages']::regclass[])",
}


# --- batches ---


def cutoff(connection: Connection, seconds: float) -> datetime:
    """So many seconds ago, on the database's clock."""
    at: datetime = connection.execute(select(now_after(-seconds))).scalar_one()
    return at


def old_batches(connection: Connection, before: datetime) -> Iterator[Row[Any]]:
    """Batches that were made before this time and in which nothing has happened since, the latest first.

    Fine-tunes are none of them: their rows say what there is at the provider.
    """
    made = select(batches).where(batches.c.created_at < before, batches.c.kind != "train")
    for batch in connection.execute(made.order_by(batches.c.created_at.desc(), batches.c.id)).all():
        if _is_old(connection, batch, before):
            yield batch


def _is_old(connection: Connection, batch: Row[Any], before: datetime) -> bool:
    if batch.read_at is not None and batch.read_at >= before:
        return False
    since = select(jobs.c.id).where(jobs.c.batch_id == batch.id, jobs.c.finished_at >= before).limit(1)
    return connection.scalar(since) is None


def delete_old(connection: Connection, batch_id: str, before: datetime, after: int, *, keep_costs: bool) -> Piece:
    """As `batches.delete`, if nothing has happened in the batch since it was looked at."""
    if not after:
        batch = connection.execute(select(batches).where(batches.c.id == batch_id).with_for_update()).first()
        if batch is None or not _is_old(connection, batch, before):
            return Piece(0)
    return batch_verbs.delete(connection, batch_id, after, keep_costs=keep_costs)


def count_rows(connection: Connection, batch_id: str | None = None) -> int:
    """The rows of a batch's input, or of all batches."""
    rows = select(func.sum(tallies.c.row_count))
    return int(connection.scalar(rows if batch_id is None else rows.where(tallies.c.batch_id == batch_id)) or 0)


def size(connection: Connection) -> int:
    """How many bytes of the database are in use, roughly."""
    return int(connection.scalar(text(_SIZE[connection.dialect.name])) or 0)


# --- files of the store ---


def unnamed(
    hashes: Collection[str], gone: Collection[str] = (), on_ids: Callable[[int], None] = lambda _: None
) -> set[str]:
    """Those of these files (SHA-256 in hex) that no row names, once the batches of `gone` are gone.

    Pictures are named by jobs, files of training by datasets, always in a field `sha256`. `on_ids` is called with the
    id up to which jobs were read.
    """
    left = set(hashes)
    with reading(LONG_SECONDS) as connection:
        for files in connection.execute(select(datasets.c.training, datasets.c.validation)):
            left -= {each["sha256"] for each in files if each is not None}
    request = type_coerce(jobs.c.request, Text)
    naming = select(jobs.c.batch_id, request).where(request.contains('"sha256"'))
    after = 0
    while left:
        with reading(LONG_SECONDS) as connection:
            first = connection.scalar(select(func.min(jobs.c.id)).where(jobs.c.id > after))
            if first is None:
                break
            after = first + _IDS_AT_ONCE
            page = connection.execute(naming.where(jobs.c.id.between(first, after))).all()
        for batch_id, words in page:
            if batch_id not in gone:
                left.difference_update(_SHA256.findall(words))
        on_ids(after)
    return left
