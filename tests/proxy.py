"""Between a program and its server: a proxy that can fall silent, as networks, poolers and stopped machines do."""

import contextlib
import os
import re
import socket
import threading
from types import TracebackType
from typing import Self

from sqlalchemy import URL, make_url

_AT_ONCE = 65_536
_OWN_ID = re.compile(rb"(K\0\0\0\x0c)....", re.DOTALL)
"""In what a server says once to a new client: the message with its process id."""


class Proxy:
    """A TCP proxy to the server of a Postgres URL; a context manager."""

    def __init__(self, url: str) -> None:
        self._to = make_url(url)
        self._is_silent, self._is_pooler = threading.Event(), threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        """How many were accepted so far."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The same URL, by way of this proxy."""
        port = self._listener.getsockname()[1]
        through = URL.create("postgresql", self._to.username, self._to.password, "127.0.0.1", port, self._to.database)
        return through.render_as_string(hide_password=False)

    def be_a_pooler(self) -> None:
        """Hand out process ids of its own, by which a client can tell pgbouncer from Postgres."""
        self._is_pooler.set()

    def silence(self) -> None:
        """Take connections and bytes, acknowledge them, and pass nothing on."""
        self._is_silent.set()

    def speak(self) -> None:
        """Pass on what comes from now on; what was swallowed is lost."""
        self._is_silent.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = self._connect()
                self._sockets += (client, server)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _connect(self) -> socket.socket:
        host = str(self._to.query.get("host") or self._to.host)
        port = int(str(self._to.query.get("port") or self._to.port or 5432))
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(os.path.join(host, f".s.PGSQL.{port}"))  # noqa: PTH118
        return server

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_AT_ONCE):
                if self._is_pooler.is_set():
                    data = _OWN_ID.sub(lambda match: match[1] + b"\x7f" * 4, data)
                if not self._is_silent.is_set():
                    target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for each in self._sockets:
            each.close()
