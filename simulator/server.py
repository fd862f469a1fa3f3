"""A benchmark must measure Tidemill and not its stand-in, so HTTP is done by hand on one asyncio.Protocol.

Keep-alive, no pipelining (no client of ours does it). Reading is httptools, writing one `transport.write` a reply.
"""

import asyncio
import mmap
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

import httptools
import orjson

from tidemill.simulator import costs
from tidemill.simulator.calls import READERS, Call, caller_of
from tidemill.simulator.contents import Body
from tidemill.simulator.faults import Answer, rejection
from tidemill.simulator.ledger import Ledger, paid_entry
from tidemill.simulator.replies import stream
from tidemill.simulator.simulation import Simulation
from tidemill.simulator.wheel import Wheel

BACKLOG = 4096
ADVANCE_SECONDS = 0.02
ONLINE = "online"
PIECE_BYTES = 1 << 18
DRIP_PIECES = 10
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus} | {529: b"Site is overloaded"}


class Connection(asyncio.Protocol):
    """One client connection; the callbacks in the middle are httptools'."""

    def __init__(self, simulation: Simulation, wheel: Wheel) -> None:
        self._simulation, self._wheel = simulation, wheel
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._is_full = False
        self._go_on: Callable[[], None] | None = None
        """The rest of a long reply, while the other side takes no more."""
        self._clear()

    def _clear(self) -> None:
        self._url = self._authorization = self._content_type = b""
        self._length = 0
        self._body: list[bytes] = []
        self._spool: BinaryIO | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _error: Exception | None) -> None:
        # A call in flight goes on: a real provider bills for it even if nobody waits any more.
        self._transport = None

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if (go_on := self._go_on) is not None:
            self._go_on = None
            go_on()

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
        elif len(name) == 14 and name.lower() == b"content-length":
            self._length = int(value)
        elif len(name) == 6 and name.lower() == b"expect" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_headers_complete(self) -> None:
        if not self._content_type.startswith(b"multipart/"):
            return
        most = self._simulation.options.most_upload_bytes
        if most is not None and self._length > most:
            self._is_refused = True
            page = b"<html><head><title>413 Request Entity Too Large</title></head></html>"
            self._send(Answer(413, page, content_type=b"text/html"), self._simulation.next_identity(), b"")
        else:
            self._spool = cast("BinaryIO", TemporaryFile())  # noqa: SIM115  # closed once it is whole

    def on_body(self, body: bytes) -> None:
        if self._spool is None:
            self._body.extend(() if self._is_refused else (body,))
            return
        self._spool.write(body)
        if rate := self._simulation.options.upload_bytes_per_second:
            self._transport_or_none("pause_reading")
            self._loop.call_later(len(body) / rate, self._transport_or_none, "resume_reading")

    def _transport_or_none(self, action: str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            getattr(self._transport, action)()

    def _whole_body(self) -> Body:
        """What was spooled is mapped: an upload may be hundreds of megabytes."""
        if self._spool is None or not self._spool.tell():
            return b"".join(self._body)
        self._spool.flush()
        with self._spool as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def on_message_complete(self) -> None:
        if self._is_refused:
            self._close(reset=False)
            return
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
            call, fault, answer, seconds = simulation.answer(path, b"".join(self._body), identity, self._caller())
        finish = partial(self._finish, ledger, call, fault, answer, identity, started_at, self._caller())
        if simulation.options.gate != "open":
            simulation.finish(finish)
        elif seconds > 0:
            self._wheel.call_later(seconds, finish)
        else:
            finish()

    def _caller(self) -> str:
        return caller_of(self._authorization.removeprefix(b"Bearer ").decode("latin-1"))

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
            entry = paid_entry(
                call, answer.reply, request_id=f"req_{identity}", caller=caller, status=status, fault=fault,
                route=ONLINE if call.tier == "default" else call.tier, started_at=started_at, gone=gone,
            )  # fmt: skip
            ledger.bill(entry)
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
        ends = is_cut or not self._parser.should_keep_alive()
        pieces.append(b"" if is_cut else b"0\r\n\r\n")
        half = len(pieces) // 2
        go_on = partial(self._pour, pieces[half:], partial(self._close, reset=False) if ends else None)
        self._pour(pieces[:half], partial(self._simulation.go_on, go_on))
        return None

    def _pour(self, pieces: list[bytes], then: Callable[[], None] | None) -> None:
        """Send one piece after the other, as slowly as words come, and do then what is left to do."""
        pause = self._simulation.options.token_ms / 1000
        for turn, piece in enumerate(pieces):
            self._loop.call_later(turn * pause, self._write, piece)
        if then is not None:
            self._loop.call_later(len(pieces) * pause, then)

    def _on_other(self, path: str) -> None:
        method, simulation = self._parser.get_method().decode(), self._simulation
        simulation.ledger.other_requests[f"{method} {path}"] += not path.startswith("/_")
        identity, body, seconds = simulation.next_identity(), self._whole_body(), 0.0
        if route := CONTROL_ROUTES.get((method, path)):
            answer = route(simulation, bytes(body), self._url)
        elif (method, path) == ("GET", costs.PATH):
            answer = simulation.costs(self._authorization, self._url.partition(b"?")[2].decode("latin-1"))
        elif refused := simulation.unauthorised(self._authorization):
            answer = refused
        elif method == "GET" and (path == "/v1/models" or path.startswith("/v1/models/")):
            answer = simulation.models(unquote(path.removeprefix("/v1/models").removeprefix("/")) or None)
        else:
            query, content_type = self._url.partition(b"?")[2].decode("latin-1"), self._content_type.decode("latin-1")
            answer, seconds = simulation.serve(f"{method} {path}", query, content_type, body, identity, self._caller())
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

    def deliver_whole(self, head: bytes, body: Body) -> None:
        if len(body) <= PIECE_BYTES:
            self._write(head + body[:])
        else:
            self._write(head)
            self._pump(body, 0, len(body))

    def _pump(self, body: Body, start: int, end: int) -> None:
        """Send the body in pieces, as fast as the other side takes them."""
        while start < end and self._transport is not None:
            if self._is_full:
                self._go_on = partial(self._pump, body, start, end)
                return
            self._write(body[start : min(start + PIECE_BYTES, end)])
            start += PIECE_BYTES

    def deliver_reset(self, _head: bytes, _body: Body) -> None:
        self._close(reset=True)

    def deliver_cut(self, head: bytes, body: Body) -> None:
        self._write(head + body[: len(body) // 2])
        self._close(reset=False)

    def deliver_drip(self, head: bytes, body: Body) -> None:
        self._write(head)
        size, pause = len(body) // DRIP_PIECES + 1, self._simulation.options.drip_seconds / DRIP_PIECES
        for turn, start in enumerate(range(0, len(body), size)):
            self._loop.call_later(turn * pause, self._write, body[start : start + size])


DELIVERIES: dict[str, Callable[[Connection, bytes, Body], None]] = {
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

    def advance() -> None:
        simulation.advance()
        loop.call_later(ADVANCE_SECONDS, advance)

    advance()
    return await loop.create_server(lambda: Connection(simulation, wheel), host, port, backlog=BACKLOG)
