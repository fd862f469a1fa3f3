"""An SQLite file is opened the way that many threads and processes need, and is readable by its owner alone."""

import os
import sqlite3
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from tidemill.models.errors import DatabaseError, SettingsError

_BUSY_SECONDS = 30
"""How long a transaction waits for others that write."""

_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    f"busy_timeout={1000 * _BUSY_SECONDS}",
    "foreign_keys=ON",
    "wal_autocheckpoint=4000",
)

PAGES_KB = 8_192
"""Of pages in the memory of a connection that writes.

A row's key is a hash, so that a thousand new rows change a thousand pages of its index. They have room in 8 MB (2 by
default); with 16 MB in the -wal file (4), storing one of many rows costs a fifth less. Twice the memory saves no more.
"""
READER_PAGES_KB = 512
"""Of one that only reads.

Whenever others have written it throws its pages away. Several readers on several threads, with 2 MB each, leave holes
in the memory that grow to more than all that they keep.
"""


def open_sqlite(url: URL, own_home: Callable[[], Path], pages_kb: int) -> Engine:
    """An engine on SQLite. With the execution option `reading`, a transaction takes no write lock.

    Args:
        url: names the file.
        own_home: names a folder that is nobody's but ours; if older versions left it readable by others, that ends.
        pages_kb: of the file that each connection keeps in memory.

    Raises:
        SettingsError: the URL names no file, or has options.
        DatabaseError: the file's folder cannot be made.
    """
    if not url.database or url.database == ":memory:" or url.query:
        raise SettingsError(
            "TIDEMILL_DATABASE_URL: sqlite takes the path of a file and no options, as in sqlite:////folder/tidemill.db."
        )
    _make_private(Path(url.database), own_home)
    opened = create_engine(url, hide_parameters=True, connect_args={"timeout": _BUSY_SECONDS}, pool_use_lifo=True)
    event.listen(opened, "connect", partial(_set_pragmas, pages_kb))
    event.listen(opened, "begin", _begin)
    return opened


def _make_private(file: Path, own_home: Callable[[], Path]) -> None:
    """Make the file and its folder, if they are not there, with rights for their owner only; -wal and -shm follow."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(f"The folder {file.parent} cannot be made: {error.strerror}. Set TIDEMILL_HOME.") from None
    with suppress(OSError):  # what cannot be made is said when it is opened
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    for each in (file.parent, file, *(file.with_name(f"{file.name}-{end}") for end in ("wal", "shm"))):
        with suppress(OSError):  # not there, or somebody else's
            mode = stat.S_IMODE(each.stat().st_mode)
            if mode & 0o077 and file.parent == own_home():
                each.chmod(mode & 0o700)


_turns: deque[threading.Event] = deque()
"""The threads of this process that write or want to, in the order in which they came; the first one's is set."""
_turns_lock = threading.Lock()


@contextmanager
def write_turn() -> Iterator[None]:
    """A block in which it is this thread's turn to write.

    SQLite has no order: who waits for its lock looks again and again, and more seldom each time. A thread that stores
    a thousand rows after the other would keep all others waiting. After the time that SQLite would wait, it decides.
    """
    own = threading.Event()
    with _turns_lock:
        _turns.append(own)
        _turns[0].set()
    try:
        own.wait(_BUSY_SECONDS)
        yield
    finally:
        with _turns_lock:
            _turns.remove(own)
            if _turns:
                _turns[0].set()


def _begin_anew() -> None:
    """None of the threads that wait is in a fork."""
    global _turns, _turns_lock
    _turns, _turns_lock = deque(), threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)


def _set_pragmas(pages_kb: int, connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in (*_PRAGMAS, f"cache_size=-{pages_kb}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A transaction that reads and then writes needs the lock from the start: upgrading fails at once when busy.
    only_reads = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")


def copy(source: Connection, target: Path, on_bytes: Callable[[int], None]) -> int:
    """Copy a database, as it is at one moment, into an empty file, while others write. Returns how many bytes it has.

    Args:
        source: in a transaction that has read something: what others write from then on is not in the copy.
        target: a file of no bytes. When this returns the copy is checked, and needs no file beside it.
        on_bytes: is called every now and then with how much is copied.

    Raises:
        OSError: the disk is full, or the copy is damaged.
    """
    driver = source.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    copied = sqlite3.connect(target, isolation_level=None)
    try:
        (page_bytes,) = driver.execute("PRAGMA page_size").fetchone()
        copied.execute("PRAGMA locking_mode = EXCLUSIVE")  # so that no file for sharing it is made
        driver.backup(copied, pages=_PAGES, progress=lambda _, left, all_: on_bytes((all_ - left) * page_bytes))
        copied.execute("PRAGMA journal_mode = DELETE")
        size = target.stat().st_size
        copied.set_progress_handler(lambda: on_bytes(size), 100_000)  # a check of many gigabytes takes minutes
        if (verdict := copied.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise OSError(0, f"it is damaged: {verdict}")
    except sqlite3.Error as error:
        raise OSError(0, str(error)) from error  # else it would be said of the database itself
    finally:
        copied.close()
    return size


_PAGES = 2_048
"""Of four kilobytes, that are copied between two looks at the clock."""
