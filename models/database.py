"""There is one way to open either database, and a plain sentence when that fails."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from tidemill.models.database_errors import ConflictError, explain_errors
from tidemill.models.errors import SettingsError
from tidemill.models.settings import Settings, settings
from tidemill.models.sqlite import PAGES_KB, READER_PAGES_KB, open_sqlite, write_turn

READ_SECONDS = 30.0
"""How long a server may take over one statement that only reads."""

LONG_SECONDS = 3600.0
"""The same for statements over all rows of a batch or of the database."""

_PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.4)
"""The longest pauses before work that others broke off starts anew."""

T = TypeVar("T")


class Piece(NamedTuple):
    """What one transaction of a long work has changed, and after which id or position the next one begins."""

    rows: int
    last: int | None = None
    """None: this was all."""


_opening = threading.Lock()


def engine() -> Engine:
    """This process's engine on the configured database, opened on first use; a fork opens its own."""
    with _opening:
        return _engine()


@cache
def _engine() -> Engine:
    return open_engine(_configured_url())


@cache
def _readers() -> Engine:
    """The engine of transactions that only read: with SQLite they need few pages in memory, and are many at once."""
    opened = _engine()
    return open_sqlite(opened.url, _own_home, READER_PAGES_KB) if opened.dialect.name == "sqlite" else opened


def close() -> None:
    """Close this process's connections, if there are any; the last one to close folds SQLite's -wal file in.

    The next use opens the database that the settings name then.
    """
    with _opening:
        for opened in (_readers, _engine):
            if opened.cache_info().currsize:
                opened().dispose()
                opened.cache_clear()


_inherited: list[Engine] = []


def _begin_anew() -> None:
    """A fork uses none of its parent's connections, and does not close them either: it would close them for both."""
    global _opening
    _opening = threading.Lock()
    for opened in (_readers, _engine):
        if opened.cache_info().currsize:
            _inherited.append(opened())
            opened.cache_clear()


os.register_at_fork(after_in_child=_begin_anew)


def open_engine(database: str | URL) -> Engine:
    """An engine on SQLite or Postgres, set up as the state machine needs it.

    Raises:
        SettingsError: the URL cannot be read or names another kind of database.
    """
    url = _parse(database) if isinstance(database, str) else database
    if url.get_backend_name() == "sqlite":
        return open_sqlite(url, _own_home, PAGES_KB)
    from tidemill.models.postgres import open_postgres  # the driver takes a fifth of a second to import

    return open_postgres(url)


def _own_home() -> Path:
    home: Path = Settings.model_fields["home"].get_default(call_default_factory=True)
    return home


def _configured_url() -> URL:
    if settings().database_url:
        return _parse(settings().database_url)
    return URL.create("sqlite", database=str(settings().home / "tidemill.db"))


def _parse(text: str) -> URL:
    try:
        url = make_url(text.strip().replace("postgres://", "postgresql://", 1))
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise SettingsError(
            "TIDEMILL_DATABASE_URL is not a database URL; an example is postgresql://user@host/tidemill."
        ) from None
    if backend not in ("sqlite", "postgresql"):
        raise SettingsError(f"TIDEMILL_DATABASE_URL names {backend}; tidemill keeps its rows in sqlite or postgresql.")
    if backend == "sqlite":
        return url
    if "#" in (url.host or "") or not _is_certain(text):
        raise SettingsError(
            "TIDEMILL_DATABASE_URL can be read in two ways; in user and password, write @ as %40, # as %23, / as %2F, "
            "? as %3F and % as %25."
        )
    return url.set(drivername="postgresql+psycopg")


def _is_certain(text: str) -> bool:
    """Whether it is plain where the password ends; else a part of it would be taken for the host, and shown."""
    before, _, query = text.partition("?")
    is_query = all("=" in each for each in query.split("&") if each)
    return text.count("@") <= 1 or (before.count("@") <= 1 and is_query)


def write_seconds(lease_seconds: float | None = None) -> float:
    """How long a server may take over one statement of a worker, which must notice in time to renew its leases.

    Args:
        lease_seconds: of that worker; by default the configured one.
    """
    return max(10.0, (lease_seconds or settings().lease_seconds) / 2)


def stuck_seconds(lease_seconds: float | None = None) -> float:
    """After so long without a renewal or a write a worker with such a lease ends itself; one that fails is one, too."""
    return 2 * max(lease_seconds or settings().lease_seconds, write_seconds(lease_seconds))


@contextmanager
def writing(seconds: float | None = None) -> Iterator[Connection]:
    """One transaction that may write; committed at the end, rolled back on an error.

    Args:
        seconds: how long a server may be silent over one statement; `write_seconds()` by default.

    Raises:
        DatabaseError: as `transact`.
    """
    opened = engine()
    # The turn first: whoever waits for it needs no connection, each of which would keep pages in memory.
    turn = write_turn() if opened.dialect.name == "sqlite" else nullcontext()
    with turn, _connection(opened, answer_seconds=seconds or write_seconds()) as connection, connection.begin():
        yield connection


@contextmanager
def reading(seconds: float = READ_SECONDS) -> Iterator[Connection]:
    """One transaction that only reads; takes no write lock. `seconds` and errors as for `writing`."""
    with _opening:
        opened = _readers()
    with _connection(opened, answer_seconds=seconds, reading=True) as connection:
        yield connection


@contextmanager
def _connection(opened: Engine, **options: object) -> Iterator[Connection]:
    with explain_errors(opened.url), opened.connect() as connection:
        yield connection.execution_options(**options)


def transact(work: Callable[[Connection], T], seconds: float | None = None) -> T:
    """Run `work` in one transaction that may write; the database may break it off and have it start anew.

    Args:
        work: is called with the connection, more than once if other transactions are in its way. Only what it wrote
            through the connection is undone then.
        seconds: as for `writing`.

    Raises:
        ConflictError: others were in its way each time.
        DatabaseError: the database is away, or refuses everybody.
        Exception: what `work` raises; or the error of a row that the database cannot store.
    """
    for longest_pause in _PAUSES_SECONDS:
        try:
            with writing(seconds) as connection:
                return work(connection)
        except ConflictError:
            time.sleep(random.uniform(0.2, 1) * longest_pause)  # noqa: S311  # so that two do not meet again
    with writing(seconds) as connection:
        return work(connection)


def transact_in_pieces(
    work: Callable[[Connection, int], Piece], on_rows: Callable[[int], None] = lambda _rows: None
) -> int:
    """Run `work` in one transaction after another, so that others can write in between; returns how many rows it took.

    A kill leaves whole pieces, so `work` must be such that beginning again does the rest.

    Args:
        work: is called with the connection and where its last piece ended; 0 at first.
        on_rows: is called after each piece with how many rows were taken so far.
    """
    rows, after = 0, 0
    while True:
        piece = transact(partial(_begin_after, work, after), LONG_SECONDS)
        rows += piece.rows
        on_rows(rows)
        if piece.last is None:
            return rows
        after = piece.last


def _begin_after(work: Callable[[Connection, int], Piece], after: int, connection: Connection) -> Piece:
    return work(connection, after)
