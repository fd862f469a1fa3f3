"""Whichever database it is: who writes holds the lock from the start, who reads takes none, and a failure is told."""

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import insert, text

from tests.conftest import UseEnvironment
from tests.rows import add_batch, add_jobs, count
from tests.servers import Postgres
from tidemill.models.clock import now
from tidemill.models.database import engine, open_engine, reading, writing
from tidemill.models.errors import DatabaseError, SettingsError
from tidemill.models.settings import settings
from tidemill.models.tables import jobs, workers


@pytest.mark.usefixtures("database")
def test_a_transaction_that_fails_leaves_nothing() -> None:
    with pytest.raises(KeyError), writing() as connection:
        connection.execute(
            insert(workers).values(
                id="w", host="h", machine="m", pid=1, window=1, version="0", started_at=now(), seen_at=now()
            )
        )
        raise KeyError
    assert count(workers) == 0


@pytest.mark.usefixtures("database")
def test_threads_that_write_at_once_wait_for_each_other() -> None:
    add_batch()
    (job_id,) = add_jobs(1)

    def add() -> None:
        for _ in range(20):
            with writing() as connection:
                count = connection.scalar(text("SELECT attempts FROM jobs WHERE id = :id" + for_update), {"id": job_id})
                connection.execute(text("UPDATE jobs SET attempts = :n WHERE id = :id"), {"n": count + 1, "id": job_id})

    for_update = " FOR UPDATE" if engine().dialect.name == "postgresql" else ""
    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(jobs, jobs.c.attempts == 80) == 1


@pytest.mark.usefixtures("embedded_home")
def test_a_reader_is_not_kept_waiting_by_a_writer() -> None:
    add_batch()
    with writing() as writer:
        writer.execute(text("UPDATE batches SET name = 'new'"))
        with reading() as reader:
            assert reader.scalar(text("SELECT name FROM batches")) == "b"


def test_sqlite_is_opened_the_way_that_many_processes_need(embedded_home: Path) -> None:
    with reading() as connection:
        pragmas = {
            name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "busy_timeout", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "busy_timeout": 30_000, "foreign_keys": 1}
    assert settings().effective_database_url == f"sqlite:///{embedded_home}/tidemill.db"


def test_the_folder_of_an_embedded_database_is_made(tmp_path: Path, use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_HOME": str(tmp_path / "a" / "b c")})
    with reading() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    assert (tmp_path / "a" / "b c" / "tidemill.db").exists()


# --- sentences ---


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, use_environment: UseEnvironment) -> None:
    (tmp_path / "file").write_text("in the way")
    use_environment({"TIDEMILL_HOME": str(tmp_path / "file" / "home")})
    with pytest.raises(DatabaseError, match=r"cannot be made: .*\. Set TIDEMILL_HOME\."):
        engine()


def test_a_file_that_is_no_database_is_said(embedded_home: Path) -> None:
    (embedded_home / "tidemill.db").write_bytes(b"this is a diary, not a database" * 100)
    with (
        pytest.raises(DatabaseError, match=r"not a database\. The file is not ours or is damaged"),
        reading() as connection,
    ):
        connection.execute(text("SELECT 1 FROM jobs"))


def test_a_locked_database_is_said(embedded_home: Path, use_environment: UseEnvironment) -> None:
    holder = sqlite3.connect(embedded_home / "tidemill.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with reading() as connection:
            connection.execute(text("PRAGMA busy_timeout = 50"))  # of a pooled connection: the writer gets it next
        with pytest.raises(DatabaseError, match=r"locked\. Another process is using it"), writing():
            pass
    finally:
        holder.close()


def test_a_full_disk_is_said_and_what_was_stored_is_safe(embedded_home: Path) -> None:
    add_batch()
    with reading() as connection:
        connection.execute(text("PRAGMA max_page_count = 1"))  # no page more than there are
    with pytest.raises(DatabaseError, match=r"disk is full\. Free space, then run the same command again"):
        add_jobs(5_000)
    assert count(jobs) == 0


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nonsense", "is not a database URL"),
        ("mysql://u@h/d", "names mysql"),
        ("unheard-of://x", "is not a database URL"),
        ("http://user:hunter2@host/", "names http"),
    ],
)
def test_a_url_that_cannot_work_is_said(url: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as raised:
        open_engine(url)
    assert "hunter2" not in str(raised.value)


def test_a_server_that_is_down_is_said_without_its_password(use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": "postgres://user:hunter2@127.0.0.1:1/tidemill"})
    with pytest.raises(DatabaseError, match=r"Start the database or fix TIDEMILL_DATABASE_URL") as raised, reading():
        pass
    assert "hunter2" not in str(raised.value)


def test_a_database_that_does_not_exist_is_said(postgres_server: Postgres, use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_server.url("nobody_made_it")})
    with (
        pytest.raises(DatabaseError, match=r"does not exist\. Create the database, then run `tidemill db upgrade`"),
        reading(),
    ):
        pass


@pytest.mark.parametrize("prefix", ["postgres://", "postgresql://", "postgresql+psycopg://"])
def test_every_spelling_of_postgres_means_the_same_driver(prefix: str) -> None:
    opened = open_engine(f"{prefix}user@host/name")
    assert opened.url.drivername == "postgresql+psycopg"
    opened.dispose()


def test_a_crashed_server_is_found_again(
    postgres_server: Postgres, postgres_url: str, use_environment: UseEnvironment
) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    add_batch()
    postgres_server.restart_at_once()
    add_jobs(3)
    assert count(jobs) == 3
