"""A copy is whole, of one moment, and the same database when it is put back; nothing else is ever overwritten."""

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import UseEnvironment
from tests.rows import add_batch, add_jobs, count, put, success, take
from tests.waiting import wait_until
from tidemill.models import sqlite
from tidemill.models.database import engine
from tidemill.models.errors import InputError
from tidemill.models.tables import dialogues, jobs
from tidemill.producer.cli.backing_up import backup


def text_of(path: Path | str) -> list[str]:
    with closing(sqlite3.connect(path)) as copied:
        return list(copied.iterdump())


@pytest.fixture
def target(embedded_home: Path, tmp_path: Path) -> Path:
    """A place for the copy of a database with a few rows."""
    add_batch()
    put(*map(success, take(add_jobs(5))))
    return tmp_path / "copy.db"


def test_a_copy_put_back_is_the_same_database(
    target: Path, embedded_home: Path, use_environment: UseEnvironment, capsys: pytest.CaptureFixture[str]
) -> None:
    backup(str(target), force=False, as_json=False)
    assert str(embedded_home / "tidemill.db") in capsys.readouterr().err
    assert text_of(target) == text_of(embedded_home / "tidemill.db")
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.glob("*copy*")] == ["copy.db"]
    assert list(target.parent.glob(".tidemill*")) == []
    use_environment({"TIDEMILL_DATABASE_URL": f"sqlite:///{target}"})
    add_jobs(1, prefix="later")
    assert (count(jobs), count(dialogues)) == (6, 5)


def test_a_copy_is_of_one_moment_while_others_write(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_PAGES", 1)
    enough = threading.Event()

    def write() -> None:
        number = 0
        while not enough.is_set():
            add_jobs(20, prefix=f"w{number}-")
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until(lambda: count(jobs) > 5, "it writes")
        for _ in range(3):
            backup(str(target), force=True, as_json=True)
            with closing(sqlite3.connect(target)) as copied:
                rows = copied.execute("SELECT count(*) FROM jobs").fetchone()
                assert rows == copied.execute("SELECT sum(row_count) FROM tallies").fetchone()
                assert rows[0] > 5 and (rows[0] - 5) % 20 == 0
                assert copied.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        enough.set()
        writer.join()


def test_what_is_there_stays_unless_it_may_be_replaced(target: Path, embedded_home: Path) -> None:
    target.write_text("another one")
    with pytest.raises(InputError, match="is there already; --force replaces it"):
        backup(str(target), force=False, as_json=False)
    assert target.read_text() == "another one"
    backup(str(target), force=True, as_json=True)
    assert text_of(target)
    (target.parent / "link.db").symlink_to(embedded_home / "tidemill.db")
    for own in (embedded_home / "tidemill.db", embedded_home / "tidemill.db-wal", target.parent / "link.db"):
        with pytest.raises(InputError, match="belongs to the database itself"):
            backup(str(own), force=True, as_json=False)
    for no_file in (target.parent, Path(os.devnull)):
        with pytest.raises(InputError, match="is no file that could be replaced"):
            backup(str(no_file), force=True, as_json=False)


def test_a_copy_that_fails_leaves_the_older_one(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backup(str(target), force=False, as_json=True)
    older = target.read_bytes()
    add_jobs(1_000, prefix="more")
    limit_pages = "PRAGMA max_page_count = 10"
    connect = sqlite3.connect

    def connect_to_a_full_disk(*args: object, **how: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **how)  # type: ignore[call-overload]
        connection.execute(limit_pages)
        return connection

    with monkeypatch.context() as patched, pytest.raises(InputError, match=r"was not made: .*full"):
        patched.setattr(sqlite3, "connect", connect_to_a_full_disk)
        backup(str(target), force=True, as_json=True)
    assert target.read_bytes() == older
    assert list(target.parent.glob(".tidemill*")) == []


def test_a_folder_that_is_not_there_and_a_database_that_is_not_there_are_said(
    target: Path, tmp_path: Path, use_environment: UseEnvironment
) -> None:
    with pytest.raises(InputError, match="No such file or directory"):
        backup(str(tmp_path / "nowhere" / "copy.db"), force=False, as_json=False)
    use_environment({"TIDEMILL_HOME": str(tmp_path / "new")})
    with pytest.raises(InputError, match="There is no database yet"):
        backup(str(tmp_path / "other.db"), force=False, as_json=False)
    assert not (tmp_path / "other.db").exists()


def test_for_a_shared_database_the_right_command_is_shown_without_the_password(use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": "postgresql://anna:geheim@db:5433/mill?sslmode=require&password=auch"})
    with pytest.raises(InputError) as refused:
        backup("/backups/a b.dump", force=False, as_json=False)
    sentence = str(refused.value)
    assert "pg_dump --format=custom --file='/backups/a b.dump' --username=USER postgresql://db:5433/mill" in sentence
    assert "geheim" not in sentence
    assert "auch" not in sentence
    assert engine().url.get_backend_name() == "postgresql"
