"""There is one way to open either database, and a plain sentence when that fails."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from tidemill.models.errors import DatabaseError, SettingsError
from tidemill.models.settings import settings

_SQLITE_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "busy_timeout=30000",
    "foreign_keys=ON",
)

_LONGEST_PAUSE_SECONDS = 10.0
"""The longest pause between two statements of a transaction; ours are never idle for a tenth of it."""


@cache
def engine() -> Engine:
    """This process's engine on the configured database, opened on first use; never share it across a fork."""
    return open_engine(settings().effective_database_url)


def close() -> None:
    """Close this process's connections, if there are any; the last one to close folds SQLite's -wal file in."""
    if engine.cache_info().currsize:
        engine().dispose()


def open_engine(url_text: str) -> Engine:
    """An engine on SQLite or Postgres, set up as the state machine needs it.

    Raises:
        SettingsError: the URL cannot be read or names another kind of database.
    """
    url = _parse(url_text)
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url)
    opened = create_engine(url, pool_size=8, max_overflow=8, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    event.listen(opened, "connect", _limit_idle_transactions)
    return opened


def _limit_idle_transactions(connection: DBAPIConnection, _record: object) -> None:
    """Keep a process that is frozen inside a transaction from locking its rows for longer than its lease."""
    milliseconds = int(1000 * max(_LONGEST_PAUSE_SECONDS, settings().lease_seconds))
    with closing(connection.cursor()) as cursor:
        cursor.execute("SELECT set_config('idle_in_transaction_session_timeout', %s, false)", [str(milliseconds)])
    connection.commit()


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
    opened = create_engine(url, connect_args={"timeout": 30})
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


@contextmanager
def writing() -> Iterator[Connection]:
    """One transaction that may write; committed at the end, rolled back on an error."""
    with explain_errors(), engine().begin() as connection:
        yield connection


@contextmanager
def reading() -> Iterator[Connection]:
    """One transaction that only reads; takes no write lock."""
    with explain_errors(), engine().connect().execution_options(reading=True) as connection:
        yield connection


@contextmanager
def explain_errors() -> Iterator[None]:
    """Turn the driver's errors about a database that cannot be used into a sentence for the user."""
    try:
        yield
    except DBAPIError as error:
        if not isinstance(error, OperationalError | InterfaceError) and type(error.orig) is not sqlite3.DatabaseError:
            raise  # of a damaged or foreign file sqlite3 says no more than DatabaseError
        raise DatabaseError(_sentence(error)) from error


def _sentence(error: DBAPIError) -> str:
    reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    where = _parse(settings().effective_database_url)
    shown = where.database if where.get_backend_name() == "sqlite" else where.render_as_string(hide_password=True)
    for sign, way_out in _WAYS_OUT.items():
        if sign in reason:
            return f"The database {shown}: {reason}. {way_out}"
    return f"The database {shown} cannot be used: {reason}. `tidemill doctor` checks the settings."


_WAYS_OUT = {
    "disk is full": "Free space, then run the same command again; what was stored is safe.",
    "No space left": "Free space, then run the same command again; what was stored is safe.",
    "unable to open": "Set TIDEMILL_HOME to a folder that you can write to.",
    "readonly database": "Set TIDEMILL_HOME to a folder that you can write to.",
    "not a database": "The file is not ours or is damaged; set TIDEMILL_HOME to another folder.",
    "malformed": "The file is damaged; put a copy back, or set TIDEMILL_HOME to another folder.",
    "refused": "Start the database or fix TIDEMILL_DATABASE_URL.",
    "authentication failed": "Fix user and password in TIDEMILL_DATABASE_URL.",
    "does not exist": "Create the database, then run `tidemill db upgrade`.",
    "locked": "Another process is using it; try again.",
}
