"""A Postgres that is far away may fall silent, sit behind a pooler, or be one that cannot keep our rows.

A connection that moves no byte for as long as a statement may take is cut, so that whoever waits for it can go on.
Neither TCP's keepalives nor the server's own time-outs can promise this: a stopped server and a stuck proxy still
acknowledge every packet.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Dialect, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import ConnectionPoolEntry

from tidemill.models.errors import DatabaseError, SettingsError
from tidemill.models.settings import settings
from tidemill.models.urls import shown_url

_OLDEST_VERSION = 13
_LONGEST_PAUSE_SECONDS = 10.0
"""The longest pause between two statements of a transaction; ours are never idle for a tenth of it."""

_PING_SECONDS = 10.0
"""For an answer outside of a transaction: is the connection still there?"""

_CANCEL_SECONDS = 2.0
_CONNECTING: dict[str, str | int] = {
    "connect_timeout": 10,
    "client_encoding": "utf8",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # milliseconds
}
"""libpq's options, where the URL does not set them: a peer that is gone is noticed after 25 seconds."""

T = TypeVar("T")


def open_postgres(url: URL) -> Engine:
    """An engine on Postgres. The execution option `answer_seconds` says how long a transaction's statements may take.

    Raises:
        SettingsError: the URL has an option that the driver does not know.
    """
    _check_options(url)
    opened = create_engine(
        url,
        pool_size=8,
        max_overflow=8,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={name: value for name, value in _CONNECTING.items() if name not in url.query},
    )
    event.listen(opened, "do_connect", _connect)
    event.listen(opened, "begin", _begin)
    return opened


def _check_options(url: URL) -> None:
    try:
        make_conninfo("", **{name: str(value) for name, value in url.query.items()})
    except psycopg.Error as error:
        raise SettingsError(
            f"TIDEMILL_DATABASE_URL: {str(error).strip()}. The names behind the ? are libpq's; TLS is ?sslmode=require."
        ) from None


class _Connection(psycopg.Connection):
    """A connection that is cut when the server says nothing for `answer_seconds`."""

    answer_seconds = _PING_SECONDS
    is_pooled = False
    """Whether something like pgbouncer is between, which gives each transaction another session of the server."""

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Run the driver's generator to its end; OperationalError where no byte came or went for too long."""
        try:
            return waiting.wait(self._until_silent(gen), self.pgconn.socket, interval, timeout)
        except (KeyboardInterrupt, SystemExit):
            self._cut()  # the driver's own way asks for up to ten seconds
            raise

    def _until_silent(self, gen: PQGen[T]) -> PQGen[T]:
        moved_at = time.monotonic()
        try:
            waits_for = next(gen)
            while True:
                ready = yield waits_for  # 0 every `interval` in which nothing moved
                if ready:
                    moved_at = time.monotonic()
                elif time.monotonic() - moved_at > self.answer_seconds:
                    self._cut()
                    raise psycopg.OperationalError(f"no answer for {self.answer_seconds:g} seconds")
                waits_for = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result

    def _cut(self) -> None:
        with suppress(psycopg.Error):  # a server that lives is asked to stop, so that it keeps no row locked
            self.cancel_safe(timeout=_CANCEL_SECONDS)
        self.pgconn.finish()


def _connect(_dialect: Dialect, _entry: ConnectionPoolEntry, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    # Nothing is prepared: behind a pooler the next transaction's session would not know it, and the gain is too small
    # to be measured.
    connection = _Connection.connect(*arguments, **options, autocommit=True, prepare_threshold=None)
    try:
        _check_server(connection, shown_url(_url_of(options)))
        _set_up(connection)
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    return connection


def _url_of(options: dict[str, Any]) -> str:
    return f"postgresql://{options.get('host', '')}/{options.get('dbname', '')}"


def _check_server(connection: _Connection, shown: str) -> None:
    version, encoding = connection.info.server_version // 10_000, connection.info.parameter_status("server_encoding")
    if version < _OLDEST_VERSION:
        raise DatabaseError(f"The database {shown} is PostgreSQL {version}; tidemill needs {_OLDEST_VERSION} or newer.")
    if encoding != "UTF8":
        raise DatabaseError(
            f"The database {shown} has the encoding {encoding}, which cannot hold every answer. Create another one: "
            "CREATE DATABASE tidemill ENCODING 'UTF8' TEMPLATE template0"
        )


def _idle_milliseconds() -> str:
    """How long a frozen process may keep its rows locked: no longer than its lease."""
    return str(int(1000 * max(_LONGEST_PAUSE_SECONDS, settings().lease_seconds)))


def _set_up(connection: _Connection) -> None:
    # A pooler hands out process ids of its own. What is set for a session there would reach other people's.
    own = connection.execute(
        "SELECT set_config('idle_in_transaction_session_timeout', %s, false) WHERE pg_backend_pid() = %s",
        [_idle_milliseconds(), connection.info.backend_pid],
    ).fetchone()
    connection.is_pooled = own is None


def _begin(connection: Connection) -> None:
    driver = connection.connection.driver_connection
    assert isinstance(driver, _Connection)
    driver.answer_seconds = connection.get_execution_options().get("answer_seconds", _PING_SECONDS)
    if driver.is_pooled:
        connection.exec_driver_sql(
            "SELECT set_config('idle_in_transaction_session_timeout', %s, true)", (_idle_milliseconds(),)
        )
