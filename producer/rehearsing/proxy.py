"""A server that is not ours is never touched; what stands between it and the workers is ours to cut.

`Proxy` passes bytes on between its own port on this machine and a server, until it is told otherwise. `database` and
`broker` say how a URL leads through one.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, Self, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from sqlalchemy import make_url
from sqlalchemy.engine import URL

HOST = "127.0.0.1"

Target: TypeAlias = str | tuple[str, int]
"""The path of a Unix socket, or host and port."""

Mode: TypeAlias = Literal["open", "shut", "silent", "slow"]

_CHUNK_BYTES = 16_384
_SLOW_SECONDS = 0.25
"""How late each chunk is while the connection is slow."""

_NO_LINGER = struct.pack("ii", 1, 0)  # closing then sends RST


class Proxy:
    """Passes bytes on, on a thread of its own; a context manager.

    Args:
        target: the server behind it.
    """

    def __init__(self, target: Target) -> None:
        self.port = 0
        self._target = target
        self._mode: Mode = "open"
        self._silenced: set[asyncio.StreamWriter] = set()
        self._links: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._loop = asyncio.new_event_loop()
        self._listening, self._stopped = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(5)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._listen())
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stopped.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # --- what can be done to it ---

    def cut(self) -> None:
        """Break every connection with RST, and refuse new ones until `open`."""
        self._loop.call_soon_threadsafe(self._set, "shut")

    def silence(self) -> None:
        """Let nothing through: what is connected now, or connects until `open`, never gets another byte."""
        self._loop.call_soon_threadsafe(self._set, "silent")

    def slow(self) -> None:
        """Let everything through late, until `open`."""
        self._loop.call_soon_threadsafe(self._set, "slow")

    def open(self) -> None:
        """Let everything through; connections that were silenced stay dead."""
        self._loop.call_soon_threadsafe(self._set, "open")

    def _set(self, mode: Mode) -> None:
        self._mode = mode
        if mode == "silent":
            self._silenced |= self._links.keys()
        if mode == "shut":
            for client in self._links.keys() - self._silenced:
                _reset(client)
                self._links[client].transport.abort()

    # --- connections ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "shut":
            return _reset(writer)
        try:
            server_reader, server_writer = await self._connect()
        except OSError:
            return _reset(writer)
        self._links[writer] = server_writer
        if self._mode == "silent":
            self._silenced.add(writer)
        ways = (reader, server_writer), (server_reader, writer)
        tasks = {asyncio.ensure_future(self._pass_on(source, sink, writer)) for source, sink in ways}
        with suppress(asyncio.CancelledError):  # the proxy is closed
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        del self._links[writer]
        self._silenced.discard(writer)
        for end in (writer, server_writer):
            end.transport.abort()
        return None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, str):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection(*self._target)

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        """Until one side ends. Of a silenced connection nobody hears that, either."""
        try:
            while chunk := await source.read(_CHUNK_BYTES):
                if self._mode == "slow":
                    await asyncio.sleep(_SLOW_SECONDS)
                if client in self._silenced:
                    break
                sink.write(chunk)
                await sink.drain()
        except OSError:
            pass
        if client in self._silenced:
            await asyncio.Event().wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()


# --- URLs ---

Route: TypeAlias = tuple[Target, Callable[[int], str]]
"""A server, and the URL that reaches it through a proxy on a port of this machine."""


def database(url_text: str) -> Route | None:
    """How a database is reached through a proxy; None where that cannot be."""
    url = make_url(url_text.replace("postgres://", "postgresql://", 1))
    host = url.host or url.query.get("host")
    if url.get_backend_name() != "postgresql" or not isinstance(host, str) or "," in host:
        return None
    port = url.port or 5432
    target: Target = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
    return target, lambda port: _with_address(url, port)


def _with_address(url: URL, port: int) -> str:
    """The same host, so that its certificate still fits, at an address of ours."""
    changed = url.set(port=port) if url.host else url.update_query_dict({"port": str(port)})
    return changed.update_query_dict({"hostaddr": HOST}).render_as_string(hide_password=False)


def broker(url: str) -> Route | None:
    """How a broker is reached through a proxy; None where that cannot be: a certificate would not fit."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    if parts.scheme == "redis+socket":
        number = parts.query.partition("virtual_host=")[2].partition("&")[0] or "0"
        return parts.path, lambda port: f"redis://{login}{at}{HOST}:{port}/{number}"
    ports = {"redis": 6379, "amqp": 5672, "pyamqp": 5672}
    if parts.scheme not in ports:
        return None
    target = parts.hostname or "localhost", parts.port or ports[parts.scheme]
    return target, lambda port: urlunsplit(parts._replace(netloc=f"{login}{at}{HOST}:{port}"))
