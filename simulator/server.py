"""A benchmark must measure Tidemill and not its stand-in, so HTTP is done by hand on one asyncio.Protocol.

Keep-alive, no pipelining (no client of ours does it). Reading is httptools, writing one `transport.write` a reply.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools
import orjson

from tidemill.simulator.calls import READERS, Call, caller_of
from tidemill.simulator.faults import Answer, rejection
from tidemill.simulator.ledger import Ledger
from tidemill.simulator.replies import stream
from tidemill.simulator.simulation import Simulation
from tidemill.simulator.wheel import Wheel

BACKLOG = 4096
DRIP_PIECES = 10
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus} | {529: b"Site is overloaded"}


class Connection(asyncio.Protocol):
    """One client connection; the callbacks in the middle are httptools'."""

    def __init__(self, simulation: Simulation, wheel: Wheel) -> None:
        self._simulation, self._wheel = simulation, wheel
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._clear()

    def _clear(self) -> None:
        self._url = self._authorization = self._content_type = b""
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _error: Exception | None) -> None:
        # A call in flight goes on: a real provider bills for it even if nobody waits any more.
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._close(reset=False)

    def on_message_begin(self) -> None:
        self._clear()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 13 and name.lower() == b"authorization":
            self._authorization = value
        elif len(name) == 12 and name.lower() == b"content-type":
            self._content_type = value
        elif len(name) == 6 and name.lower() == b"expect" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        path = self._url.split(b"?", 1)[0].decode("latin-1")
        if path in READERS and self._parser.get_method() == b"POST":
            self._on_call(path)
        else:
            self._on_other(path)

    def _on_call(self, path: str) -> None:
        simulation = self._simulation
        identity, started_at = simulation.next_identity(), time.time()
        ledger = simulation.ledger
        ledger.begin()
        refused = simulation.unauthorised(self._authorization)
        call: Call | None = None
        fault, seconds = None, 0.0
        if refused is not None:
            answer = refused
        else:
            call, fault, answer, seconds = simulation.answer(path, b"".join(self._body), identity)
        caller = caller_of(self._authorization.removeprefix(b"Bearer ").decode("latin-1"))
        finish = partial(self._finish, ledger, call, fault, answer, identity, started_at, caller)
        if simulation.options.gate == "shut":
            simulation.finish(finish)
        elif seconds > 0:
            self._wheel.call_later(seconds, finish)
        else:
            finish()

    def _finish(
        self,
        ledger: Ledger,
        call: Call | None,
        fault: str | None,
        answer: Answer,
        identity: str,
        started_at: float,
        caller: str,
    ) -> None:
        """Books first, bytes second: whoever has seen a reply finds it in the log."""
        gone = self._transport is None
        status = "reset" if answer.delivery == "reset" else str(answer.status)
        if answer.reply is not None and call is not None:
            ledger.bill(
                call, answer.reply, status=status, fault=fault, request_id=f"req_{identity}", started_at=started_at,
                gone=gone, caller=caller,
            )  # fmt: skip
        ledger.end(status, gone)
        limits = self._simulation.limit_headers()
        if call is not None and call.streams and answer.reply is not None and answer.streams:
            self._stream(stream(call, answer.reply, identity), answer, identity, limits)
        else:
            self._send(answer, identity, limits)

    def _stream(self, events: list[bytes], answer: Answer, identity: str, limit_headers: bytes) -> None:
        if answer.delivery == "reset" or self._transport is None:
            return self._close(reset=True)
        head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
            b"x-request-id: req_%b\r\n%b\r\n" % (identity.encode(), limit_headers)
        )
        self._write(head)
        pieces = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
        is_cut = answer.delivery == "cut"
        if is_cut:
            del pieces[len(pieces) // 2 :]
        pause = self._simulation.options.token_ms / 1000
        for turn, piece in enumerate([*pieces, b"" if is_cut else b"0\r\n\r\n"]):
            self._loop.call_later(turn * pause, self._write, piece)
        if is_cut or not self._parser.should_keep_alive():
            self._loop.call_later(len(pieces) * pause, partial(self._close, reset=False))
        return None

    def _on_other(self, path: str) -> None:
        method, simulation = self._parser.get_method().decode(), self._simulation
        simulation.ledger.other_requests[f"{method} {path}"] += not path.startswith("/_")
        identity, body, seconds = simulation.next_identity(), b"".join(self._body), 0.0
        if route := CONTROL_ROUTES.get((method, path)):
            answer = route(simulation, body, self._url)
        elif refused := simulation.unauthorised(self._authorization):
            answer = refused
        elif method == "GET" and (path == "/v1/models" or path.startswith("/v1/models/")):
            answer = simulation.models(unquote(path.removeprefix("/v1/models").removeprefix("/")) or None)
        else:
            query, content_type = self._url.partition(b"?")[2].decode("latin-1"), self._content_type.decode("latin-1")
            answer, seconds = simulation.serve(f"{method} {path}", query, content_type, body, identity)
        if seconds > 0:
            self._wheel.call_later(seconds, partial(self._send, answer, identity, b""))
        else:
            self._send(answer, identity, b"")

    def _send(self, answer: Answer, identity: str, limit_headers: bytes) -> None:
        if self._transport is None:
            return
        keep_alive = answer.delivery != "cut" and self._parser.should_keep_alive()
        head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\nx-request-id: req_%b\r\n%b%b%b\r\n" % (
            answer.status,
            REASONS.get(answer.status, b"Unknown"),
            answer.content_type,
            len(answer.body),
            identity.encode(),
            limit_headers,
            answer.headers,
            b"" if keep_alive else b"connection: close\r\n",
        )
        DELIVERIES[answer.delivery](self, head, answer.body)
        if not keep_alive and answer.delivery == "whole":
            self._close(reset=False)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _close(self, *, reset: bool) -> None:
        if self._transport is None:
            return
        if not reset:
            self._transport.close()
            return
        # Lingering for 0 s makes the kernel send RST instead of an orderly end.
        self._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self._transport.abort()

    def deliver_whole(self, head: bytes, body: bytes) -> None:
        self._write(head + body)

    def deliver_reset(self, _head: bytes, _body: bytes) -> None:
        self._close(reset=True)

    def deliver_cut(self, head: bytes, body: bytes) -> None:
        self._write(head + body[: len(body) // 2])
        self._close(reset=False)

    def deliver_drip(self, head: bytes, body: bytes) -> None:
        self._write(head)
        size, pause = len(body) // DRIP_PIECES + 1, self._simulation.options.drip_seconds / DRIP_PIECES
        for turn, start in enumerate(range(0, len(body), size)):
            self._loop.call_later(turn * pause, self._write, body[start : start + size])


DELIVERIES: dict[str, Callable[[Connection, bytes, bytes], None]] = {
    "whole": Connection.deliver_whole,
    "reset": Connection.deliver_reset,
    "cut": Connection.deliver_cut,
    "drip": Connection.deliver_drip,
}


def _control(simulation: Simulation, body: bytes, _url: bytes) -> Answer:
    try:
        simulation.control(orjson.loads(body))
    except (ValueError, TypeError, AttributeError) as error:
        return rejection(400, "invalid_request_error", str(error))
    return _log(simulation, b"", b"paid=0")


def _log(simulation: Simulation, _body: bytes, url: bytes) -> Answer:
    """`?paid=0` leaves the paid calls out: after 100,000 of them they weigh 40 MB."""
    log: dict[str, Any] = {"counters": simulation.ledger.counters(), "options": simulation.options}
    if b"paid=0" not in url:
        log["paid"] = simulation.ledger.paid
    return Answer(200, orjson.dumps(log))


def _shelf(simulation: Simulation, _body: bytes, _url: bytes) -> Answer:
    simulation.shelf.collect(time.time())
    return Answer(200, orjson.dumps(simulation.shelf.books()))


def _reset(simulation: Simulation, _body: bytes, _url: bytes) -> Answer:
    simulation.reset()
    return _log(simulation, b"", b"paid=0")


CONTROL_ROUTES: dict[tuple[str, str], Callable[[Simulation, bytes, bytes], Answer]] = {
    ("POST", "/_control"): _control,
    ("GET", "/_log"): _log,
    ("GET", "/_shelf"): _shelf,
    ("POST", "/_reset"): _reset,
}


async def listen(simulation: Simulation, host: str, port: int) -> asyncio.Server:
    """Raises OSError when the port is taken."""
    loop, wheel = asyncio.get_running_loop(), Wheel()
    return await loop.create_server(lambda: Connection(simulation, wheel), host, port, backlog=BACKLOG)
