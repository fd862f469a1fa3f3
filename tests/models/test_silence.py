"""A Postgres that says nothing ends a wait with a sentence, in time for a worker to keep what it has."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.conftest import UseEnvironment
from tests.proxy import Proxy
from tests.rows import add_batch, count
from tests.servers import Postgres
from tests.waiting import limit
from tidemill.models import postgres
from tidemill.models.database import reading, transact, writing
from tidemill.models.errors import DatabaseError
from tidemill.models.tables import batches

SILENT = r"no answer for 0\.5 seconds\. Is it stopped, overloaded or cut off\?"


def driver_of(connection: Connection) -> postgres._Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, postgres._Connection)
    return driver


def lose_patience(connection: Connection) -> None:
    """From now on it waits half a second for each answer; until then a busy machine has time."""
    driver_of(connection).answer_seconds = 0.5


@contextmanager
def connecting_in_2_seconds() -> Iterator[None]:
    """While the block runs, whoever connects waits for as long as the driver does at the least."""
    connect = postgres._Connection.connect

    def soon(*arguments: Any, **options: Any) -> Any:
        return connect(*arguments, **options | {"connect_timeout": 2})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(postgres._Connection, "connect", soon)
        yield


@pytest.fixture
def no_cancelling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says nothing hears no request to stop either."""
    monkeypatch.setattr(postgres, "_CANCEL_SECONDS", 0.1)


@pytest.fixture
def proxy(postgres_url: str, use_environment: UseEnvironment) -> Iterator[Proxy]:
    """A proxy before a migrated Postgres, with the settings that lead through it."""
    with Proxy(postgres_url) as each:
        use_environment({"TIDEMILL_DATABASE_URL": each.url})
        yield each


@pytest.mark.usefixtures("no_cancelling")
def test_a_statement_that_is_not_answered_ends(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DatabaseError, match=SILENT), writing() as connection:
        connection.execute(text("SELECT 1"))
        proxy.silence()
        lose_patience(connection)
        connection.execute(text("SELECT 2"))
    proxy.speak()
    assert count(batches) == 0  # over a new connection
    assert [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")] == []


@pytest.mark.usefixtures("no_cancelling")
def test_a_commit_that_is_not_answered_ends(proxy: Proxy) -> None:
    with pytest.raises(DatabaseError, match=SILENT), writing() as connection:
        connection.execute(text("SELECT 1"))
        proxy.silence()
        lose_patience(connection)


@pytest.mark.usefixtures("no_cancelling")
def test_a_connection_that_fell_silent_while_nobody_used_it_ends(proxy: Proxy) -> None:
    with reading() as connection:
        driver = driver_of(connection)
    driver.answer_seconds = 0.5
    proxy.silence()
    with connecting_in_2_seconds(), pytest.raises(DatabaseError, match=r"timeout expired\. Start the database"):
        count(batches)


def test_a_server_that_takes_connections_and_says_nothing_is_said(proxy: Proxy) -> None:
    proxy.silence()
    with connecting_in_2_seconds(), pytest.raises(DatabaseError, match=r"timeout expired\. Start the database"):
        count(batches)


def test_a_patient_transaction_waits_longer_than_others(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.models.database.write_seconds", lambda: 0.5)
    transact(lambda connection: connection.execute(text("SELECT pg_sleep(1)")), seconds=limit(30))
    with reading() as connection:
        connection.execute(text("SELECT pg_sleep(1)"))


def test_bytes_that_come_slowly_are_not_silence(proxy: Proxy) -> None:
    slowly = f"SELECT pg_sleep({limit(0.15)}), repeat('x', 100000) FROM generate_series(1, 6)"
    with writing(seconds=limit(0.6)) as connection:
        assert len(connection.execute(text(slowly)).all()) == 6


def test_a_statement_that_took_too_long_keeps_no_row_locked(
    postgres_url: str, use_environment: UseEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_CANCEL_SECONDS", limit())
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    add_batch()
    with pytest.raises(DatabaseError, match=SILENT), writing() as connection:
        connection.execute(text("UPDATE batches SET name = 'x'"))
        lose_patience(connection)
        connection.execute(text("SELECT pg_sleep(600)"))
    with writing() as connection:
        connection.execute(text("UPDATE batches SET name = 'y'"))


@pytest.mark.usefixtures("no_cancelling")
def test_ctrl_c_ends_a_patient_wait_for_a_silent_server(proxy: Proxy) -> None:
    with pytest.raises(KeyboardInterrupt), reading(seconds=3600) as connection:
        connection.execute(text("SELECT 1"))
        proxy.silence()
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        connection.execute(text("SELECT 2"))


def test_a_server_that_is_stopped_ends_waits_and_is_used_again(
    postgres_server: Postgres, postgres_url: str, use_environment: UseEnvironment
) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    stopped = [postgres_server.pid]
    try:
        with reading() as connection:
            driver = driver_of(connection)
            stopped.append(driver.info.backend_pid)
        driver.answer_seconds = 0.5
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        with connecting_in_2_seconds(), pytest.raises(DatabaseError, match="timeout expired"):
            count(batches)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    add_batch()


def test_a_backend_that_is_stopped_ends_the_wait(postgres_url: str, use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    backend = 0
    try:
        with pytest.raises(DatabaseError, match=SILENT), writing() as connection:
            backend = connection.scalar(text("SELECT pg_backend_pid()"))
            os.kill(backend, signal.SIGSTOP)
            lose_patience(connection)
            connection.execute(text("SELECT 1"))
        add_batch()
    finally:
        os.kill(backend, signal.SIGCONT)
