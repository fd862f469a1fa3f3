"""Whichever database it is: who writes holds the lock from the start, who reads takes none, and a failure is told."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from tests.conftest import UseEnvironment
from tests.rows import add_batch, add_jobs, count
from tests.servers import Postgres
from tests.waiting import limit, wait_until
from tidemill.models import sqlite
from tidemill.models.clock import now
from tidemill.models.database import engine, open_engine, reading, transact, writing
from tidemill.models.database_errors import ConflictError
from tidemill.models.errors import DatabaseError, SettingsError
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
def test_who_writes_again_and_again_lets_the_others_go_first() -> None:
    order: list[str] = []

    def write(name: str) -> None:
        with writing():
            order.append(name)

    others = [threading.Thread(target=write, args=(name,)) for name in ("second", "third")]
    with writing():
        for number, other in enumerate(others, 2):
            other.start()
            wait_until(lambda: len(sqlite._turns) == number, "it stands in line")  # noqa: B023
    write("again")
    assert order == ["second", "third", "again"]
    for other in others:
        other.join()


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
    assert engine().url.database == f"{embedded_home}/tidemill.db"


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


def test_a_locked_database_is_said(embedded_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_PRAGMAS", (*sqlite._PRAGMAS, "busy_timeout=0"))
    holder = sqlite3.connect(embedded_home / "tidemill.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(DatabaseError, match=r"locked\. Another process is using it"), writing():
            pass
    finally:
        holder.close()


def test_a_full_disk_is_said_and_what_was_stored_is_safe(embedded_home: Path) -> None:
    add_batch()
    with writing() as connection:  # which the next one to write has, too
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


# --- whose fault ---


@pytest.fixture
def postgres(postgres_url: str, use_environment: UseEnvironment) -> str:
    """A migrated Postgres database behind `models.database`; the value is its URL."""
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    return postgres_url


READ_ONLY = "SET LOCAL default_transaction_read_only = on; SET LOCAL transaction_read_only = on"
REFUSALS = {
    "read only": (READ_ONLY, "read-only transaction. Wait until it takes writes again"),
    "no rights": ("CREATE ROLE nobody; SET LOCAL ROLE nobody", "permission denied for table batches. Grant what"),
    "no table": ("DROP TABLE batches CASCADE", 'relation "batches" does not exist. Run `tidemill db upgrade`'),
    "no column": ("ALTER TABLE batches DROP COLUMN name CASCADE", "does not exist. Run `tidemill db upgrade`"),
    "no schema": (
        "SET LOCAL search_path = nowhere; CREATE TABLE x (y int)",
        "to create in. Create the schema",
    ),
    "too slow": (
        "SET LOCAL statement_timeout = 1; SELECT pg_sleep(5)",
        "statement timeout. Raise statement_timeout for this user",
    ),
    "locked": ("DO $$ BEGIN RAISE lock_not_available; END $$", "lock_not_available. Try again in a moment"),
    "disk full": ("DO $$ BEGIN RAISE disk_full; END $$", "disk_full. Free space"),
    "too many": ("DO $$ BEGIN RAISE too_many_connections; END $$", "too_many_connections. Raise its max_connections"),
    "bad disk": ("DO $$ BEGIN RAISE io_error; END $$", "io_error. Look into the server's log"),
    "stopped": ("SELECT pg_terminate_backend(pg_backend_pid())", "administrator command. Try again in a moment"),
    "stopping": ("DO $$ BEGIN RAISE cannot_connect_now; END $$", "cannot_connect_now. Try again in a moment"),
    "unheard of": ("DO $$ BEGIN RAISE SQLSTATE 'ZZ999'; END $$", "cannot be used: ZZ999"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.usefixtures("postgres")
def test_what_postgres_refuses_everybody_is_the_database_s_fault(refusal: str) -> None:
    before, sentence = REFUSALS[refusal]
    with pytest.raises(DatabaseError) as raised, writing() as connection:
        connection.exec_driver_sql(before)
        connection.execute(text("UPDATE batches SET name = :prompt"), {"prompt": "my secret prompt"})
    assert sentence in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "UPDATE batches" not in str(raised.value)


@pytest.mark.usefixtures("postgres")
def test_a_transaction_that_was_broken_off_stays_the_database_s_fault() -> None:
    with pytest.raises(DatabaseError, match="Try again in a moment"), writing() as connection:
        with pytest.raises(SQLAlchemyError):
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        connection.exec_driver_sql("SELECT 1")


@pytest.mark.usefixtures("postgres")
def test_a_pool_without_a_free_connection_is_the_database_s_fault() -> None:
    pool = engine().pool
    pool._timeout = 0.01  # type: ignore[attr-defined]  # else the test waits for half a minute
    taken = [engine().connect() for _ in range(16)]
    try:
        with pytest.raises(DatabaseError, match="cannot be used: QueuePool limit"), reading():
            pass
    finally:
        for connection in taken:
            connection.close()


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("statement", "value", "kind"),
    [
        ("INSERT INTO workers (id) VALUES (:value)", "my secret prompt", IntegrityError),
        ("UPDATE batches SET priority = :value", 2**80, (DataError, OverflowError)),
        ("UPDATE batches SET name = :value", "my secret prompt\ud800", UnicodeEncodeError),
    ],
)
def test_what_cannot_be_stored_is_the_row_s_own_fault(statement: str, value: object, kind: type[Exception]) -> None:
    add_batch()
    with pytest.raises(kind) as raised, writing() as connection:
        connection.execute(text(statement), {"value": value})
    if isinstance(raised.value, DBAPIError):
        shown = f"{raised.value} {raised.value.orig}"
        assert "secret" not in shown
        assert "INSERT" not in shown


@pytest.mark.usefixtures("database")
def test_a_value_that_a_column_cannot_write_is_the_row_s_own_fault() -> None:
    with (
        pytest.raises(SQLAlchemyError, match=r"^Out of range float values are not JSON compliant$") as raised,
        writing() as connection,
    ):
        connection.execute(insert(jobs).values(request={"prompt": "my secret prompt", "n": float("nan")}))
    assert not isinstance(raised.value, DatabaseError)


# --- others in the way ---


@pytest.mark.usefixtures("postgres")
def test_a_deadlock_is_tried_again_until_both_have_written() -> None:
    add_batch()
    ids = add_jobs(2)
    both_hold_one = threading.Barrier(2)
    tries = []

    def swap(order: list[int]) -> None:
        def work(connection: Connection) -> None:
            tries.append(order)
            for n, job_id in enumerate(order):
                connection.execute(text("UPDATE jobs SET attempts = attempts + 1 WHERE id = :id"), {"id": job_id})
                if n == 0 and len(tries) <= 2:
                    both_hold_one.wait(limit())

        transact(work)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(swap, [ids, ids[::-1]]))
    assert count(jobs, jobs.c.attempts == 2) == 2
    assert len(tries) == 3


@pytest.mark.parametrize(("code", "tries"), [("40001", 5), ("40P01", 5), ("25006", 1)])
@pytest.mark.usefixtures("postgres")
def test_only_what_others_caused_is_tried_again_and_not_for_ever(code: str, tries: int) -> None:
    counted = 0

    def work(connection: Connection) -> None:
        nonlocal counted
        counted += 1
        connection.exec_driver_sql(f"DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$")

    with pytest.raises(DatabaseError) as raised:
        transact(work)
    assert counted == tries
    assert isinstance(raised.value, ConflictError) == (tries > 1)


def test_threads_that_open_the_database_at_once_open_it_once(embedded_home: Path) -> None:
    start = threading.Barrier(8)

    def first_use(_n: int) -> int:
        start.wait(limit())
        return id(engine())

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(first_use, range(8)))) == 1
