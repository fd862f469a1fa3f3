"""There is one way to open either database, and a plain sentence when that fails."""

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from tidemill.models.database_errors import ConflictError, explain_errors
from tidemill.models.errors import DatabaseError, SettingsError
from tidemill.models.settings import settings

_SQLITE_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "busy_timeout=30000",
    "foreign_keys=ON",
)

READ_SECONDS = 60.0
"""How long a server may take over one statement that only reads."""

LONG_SECONDS = 3600.0
"""The same for statements over all rows of a batch or of the database."""


_PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.4)
"""The longest pauses before work that others broke off starts anew."""

T = TypeVar("T")
_opening = threading.Lock()


def engine() -> Engine:
    """This process's engine on the configured database, opened on first use; never share it across a fork."""
    with _opening:
        return _engine()


@cache
def _engine() -> Engine:
    return open_engine(settings().effective_database_url)


def close() -> None:
    """Close this process's connections, if there are any; the last one to close folds SQLite's -wal file in.

    The next use opens the database that the settings name then.
    """
    with _opening:
        if _engine.cache_info().currsize:
            _engine().dispose()
            _engine.cache_clear()


def open_engine(url_text: str) -> Engine:
    """An engine on SQLite or Postgres, set up as the state machine needs it.

    Raises:
        SettingsError: the URL cannot be read or names another kind of database.
    """
    url = _parse(url_text)
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url)
    from tidemill.models.postgres import open_postgres  # the driver takes a fifth of a second to import

    return open_postgres(url)


def _parse(url_text: str) -> URL:
    try:
        url = make_url(url_text.replace("postgres://", "postgresql://", 1))
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError):
        raise SettingsError(
            "TIDEMILL_DATABASE_URL is not a database URL; an example is postgresql://user@host/tidemill."
        ) from None
    if backend not in ("sqlite", "postgresql"):
        raise SettingsError(f"TIDEMILL_DATABASE_URL names {backend}; tidemill keeps its rows in sqlite or postgresql.")
    return url.set(drivername="postgresql+psycopg") if backend == "postgresql" else url


def _open_sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(f"The folder {folder} cannot be made: {error.strerror}. Set TIDEMILL_HOME.") from None
    opened = create_engine(url, hide_parameters=True, connect_args={"timeout": 30})
    event.listen(opened, "connect", _set_pragmas)
    event.listen(opened, "begin", _begin)
    return opened


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in _SQLITE_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A transaction that reads and then writes needs the lock from the start: upgrading fails at once when busy.
    only_reads = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")


def write_seconds() -> float:
    """How long a server may take over one statement of a worker, which must notice in time to renew its leases."""
    return max(10.0, settings().lease_seconds / 2)


@contextmanager
def writing(seconds: float | None = None) -> Iterator[Connection]:
    """One transaction that may write; committed at the end, rolled back on an error.

    Args:
        seconds: how long a server may be silent over one statement; `write_seconds()` by default.

    Raises:
        DatabaseError: as `transact`.
    """
    with _connection(answer_seconds=seconds or write_seconds()) as connection, connection.begin():
        yield connection


@contextmanager
def reading(seconds: float = READ_SECONDS) -> Iterator[Connection]:
    """One transaction that only reads; takes no write lock. `seconds` and errors as for `writing`."""
    with _connection(answer_seconds=seconds, reading=True) as connection:
        yield connection


@contextmanager
def _connection(**options: object) -> Iterator[Connection]:
    opened = engine()
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
