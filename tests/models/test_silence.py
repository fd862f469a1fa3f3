"""A Postgres that says nothing ends a wait with a sentence, in time for a worker to keep what it has."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text

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


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.models.database.write_seconds", lambda: 0.5)
    monkeypatch.setattr(postgres, "_PING_SECONDS", 0.5)
    monkeypatch.setattr(postgres._Connection, "answer_seconds", 0.5)
    monkeypatch.setattr(postgres, "_CANCEL_SECONDS", 0.5)
    monkeypatch.setitem(postgres._CONNECTING, "connect_timeout", 2)


@pytest.fixture
def proxy(postgres_url: str, use_environment: UseEnvironment) -> Iterator[Proxy]:
    """A proxy before a migrated Postgres, with the settings that lead through it."""
    with Proxy(postgres_url) as each:
        use_environment({"TIDEMILL_DATABASE_URL": each.url})
        yield each


def seconds_until_refused(act: Callable[[], object], match: str) -> float:
    began = time.monotonic()
    with pytest.raises(DatabaseError, match=match):
        act()
    return time.monotonic() - began


def test_a_statement_that_is_not_answered_ends(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    def read() -> None:
        with writing() as connection:
            connection.execute(text("SELECT 1"))
            proxy.silence()
            connection.execute(text("SELECT 2"))

    assert seconds_until_refused(read, SILENT) < limit(6)
    proxy.speak()
    assert count(batches) == 0  # over a new connection
    assert [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")] == []


def test_a_commit_that_is_not_answered_ends(proxy: Proxy) -> None:
    def write() -> None:
        with writing() as connection:
            connection.execute(text("SELECT 1"))
            proxy.silence()

    assert seconds_until_refused(write, SILENT) < limit(6)


def test_a_connection_that_fell_silent_while_nobody_used_it_ends(proxy: Proxy) -> None:
    add_batch()
    proxy.silence()
    assert seconds_until_refused(lambda: count(batches), "timeout expired. Start the database") < limit(8)


def test_a_server_that_takes_connections_and_says_nothing_is_said(proxy: Proxy) -> None:
    proxy.silence()
    assert seconds_until_refused(lambda: count(batches), "timeout expired. Start the database") < limit(6)


def test_a_patient_transaction_waits_longer_than_others(proxy: Proxy) -> None:
    transact(lambda connection: connection.execute(text("SELECT pg_sleep(1)")), seconds=30)
    with reading() as connection:
        connection.execute(text("SELECT pg_sleep(1)"))


def test_bytes_that_come_slowly_are_not_silence(proxy: Proxy) -> None:
    with writing() as connection:
        rows = connection.execute(text("SELECT pg_sleep(0.2), repeat('x', 100000) FROM generate_series(1, 6)")).all()
    assert len(rows) == 6


def test_a_statement_that_took_too_long_keeps_no_row_locked(postgres_url: str, use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    add_batch()

    def write() -> None:
        with writing() as connection:
            connection.execute(text("UPDATE batches SET name = 'x'"))
            connection.execute(text("SELECT pg_sleep(60)"))

    seconds_until_refused(write, SILENT)
    with writing() as connection:
        connection.execute(text("UPDATE batches SET name = 'y'"))


def test_ctrl_c_ends_a_patient_wait_for_a_silent_server(proxy: Proxy) -> None:
    with pytest.raises(KeyboardInterrupt), reading(seconds=600) as connection:
        connection.execute(text("SELECT 1"))
        proxy.silence()
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        connection.execute(text("SELECT 2"))
    assert time.monotonic() - began < limit(4)


def test_a_server_that_is_stopped_ends_waits_and_is_used_again(
    postgres_server: Postgres, postgres_url: str, use_environment: UseEnvironment
) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    with writing() as connection:
        backend = connection.scalar(text("SELECT pg_backend_pid()"))
    stopped = [backend, postgres_server.pid]
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        assert seconds_until_refused(lambda: count(batches), "timeout expired") < limit(8)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    add_batch()


def test_a_backend_that_is_stopped_ends_the_wait(postgres_url: str, use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    backend = 0

    def write() -> None:
        nonlocal backend
        with writing() as connection:
            backend = connection.scalar(text("SELECT pg_backend_pid()"))
            os.kill(backend, signal.SIGSTOP)
            connection.execute(text("SELECT 1"))

    try:
        assert seconds_until_refused(write, SILENT) < limit(6)
        add_batch()
    finally:
        os.kill(backend, signal.SIGCONT)
