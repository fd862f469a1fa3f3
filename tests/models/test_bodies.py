"""What a hostile or broken server can do to memory: over either transport, with the bytes on the wire."""

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import repeat

import pytest

from tests.models.test_provider import TRANSPORTS, chat, open_provider, outcome, reply_bytes
from tidemill.models.bodies import MB, MOST_ERROR_BYTES, MOST_FILE_BYTES, MOST_REPLY_BYTES
from tidemill.models.endpoints import ENDPOINTS
from tidemill.models.provider import CallError, Provider, Reply, Transport

HEAD = "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{more}\r\n\r\n"
BOMB = gzip.compress(b" " * 10 * MB) * 100
"""1 MB that is 1,000 MB."""


class Wire:
    """A server that answers everything with these pieces, for as long as somebody reads; it counts what it sent."""

    def __init__(self, head: str, pieces: Callable[[], Iterator[bytes]]) -> None:
        self.head, self.pieces = head, pieces
        self.sent = self.calls = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.calls += 1
            writer.write(self.head.encode())
            for piece in self.pieces():
                writer.write(piece)
                await writer.drain()
                self.sent += len(piece)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def wire(status: str, more: str, pieces: Callable[[], Iterator[bytes]]) -> AsyncIterator[Wire]:
    """A `Wire` that listens."""
    answering = Wire(HEAD.format(status=status, more=more), pieces)
    async with await asyncio.start_server(answering.serve, "127.0.0.1", 0) as server:
        answering.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        yield answering


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_bomb_of_gzip_is_too_large_and_memory_stays_flat(transport: Transport) -> None:
    pieces = [BOMB[at : at + 65_536] for at in range(0, len(BOMB), 65_536)]
    async with wire("200 OK", "Content-Encoding: gzip\r\nConnection: close", lambda: iter(pieces)) as server:
        await outcome(transport, server.url)  # whatever is imported and kept the first time
        tracemalloc.start()
        error = await outcome(transport, server.url)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert isinstance(error, CallError)
    assert (error.kind, error.code) == ("too_large", "reply_too_large")
    assert "larger than 64 MB" in error.message
    assert peak < 16 * MB


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_body_without_an_end_is_read_up_to_the_limit_only(transport: Transport) -> None:
    async with wire("200 OK", "Connection: close", lambda: repeat(b" " * MB)) as server:
        error = await outcome(transport, server.url)
    assert isinstance(error, CallError)
    assert error.kind == "too_large"
    assert server.sent <= MOST_REPLY_BYTES + 16 * MB  # what the sockets hold


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_body_that_says_that_it_is_too_large_is_not_read_at_all(transport: Transport) -> None:
    async with wire("200 OK", "Content-Length: 600000000", lambda: repeat(b" " * MB, 572)) as server:
        error = await outcome(transport, server.url)
    assert isinstance(error, CallError)
    assert error.kind == "too_large"
    assert server.sent <= 16 * MB


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_gzip_that_yields_nothing_for_ever_ends_too(transport: Transport) -> None:
    empty = gzip.compress(b"") * 1000
    async with wire("200 OK", "Content-Encoding: gzip\r\nConnection: close", lambda: repeat(empty)) as server:
        error = await outcome(transport, server.url)
    assert isinstance(error, CallError)
    assert error.kind == "cut"


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("encoding", ["", "Content-Encoding: gzip\r\n"])
async def test_of_an_error_only_the_beginning_is_read(transport: Transport, encoding: str) -> None:
    text = b'{"error": {"message": "Too much."}}' + b" " * 2**20
    pieces = repeat(gzip.compress(text) if encoding else text)
    async with wire("400 Bad Request", f"{encoding}Connection: close", lambda: pieces) as server:
        error = await outcome(transport, server.url)
    assert isinstance(error, CallError)
    assert (error.kind, error.status) == ("status", 400)
    assert error.message == "Too much."
    assert server.sent <= MOST_ERROR_BYTES + 16 * MB


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_encoding_that_was_not_asked_for_is_refused(transport: Transport) -> None:
    async with wire("200 OK", "Content-Encoding: br\r\nConnection: close", lambda: iter([b"\x0b\x02\x80"])) as server:
        error = await outcome(transport, server.url)
    assert isinstance(error, CallError)
    assert error.code == "unsupported_encoding"
    assert "encoded as br" in error.message


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_gzip_in_several_members_is_one_answer_and_half_of_it_is_none(transport: Transport) -> None:
    body = reply_bytes(chat()).partition(b"\r\n\r\n")[2]
    whole = gzip.compress(body[:20]) + gzip.compress(body[20:])
    more = "Content-Encoding: gzip\r\nConnection: close"
    async with wire("200 OK", more, lambda: (whole[at : at + 7] for at in range(0, len(whole), 7))) as server:
        assert isinstance(await outcome(transport, server.url), Reply)
    async with wire("200 OK", more, lambda: iter([whole[:-9]])) as server:
        error = await outcome(transport, server.url)
    assert isinstance(error, CallError)
    assert error.kind == "cut"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_list_is_limited_as_a_whole(transport: Transport) -> None:
    page = b'{"object": "list", "has_more": true, "data": [{"id": "%d"}]' + b" " * (20 * MB) + b"}"
    numbers = iter(range(100))
    more = f"Content-Length: {len(page) - 1}\r\nConnection: close"  # %d becomes one digit
    async with wire("200 OK", more, lambda: iter([page % next(numbers)])) as server:
        provider: Provider = open_provider(transport, server.url)
        with pytest.raises(CallError) as caught:
            await provider.list_all("models")
        await provider.aclose()
    assert caught.value.kind == "too_large"
    assert server.calls == 4


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_file_has_a_limit_of_its_own(transport: Transport) -> None:
    async with wire("200 OK", "Connection: close", lambda: repeat(b"1,2\n" * 2**18)) as server:
        provider: Provider = open_provider(transport, server.url)
        with pytest.raises(CallError, match="larger than 32 MB"):
            await provider.content("file-1")
        await provider.aclose()
    assert server.sent <= MOST_FILE_BYTES + 16 * MB


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("header", [f"X-Long: {'a' * 20_000}", "\r\n".join(f"X-{n}: a" for n in range(1_000))])
async def test_headers_have_limits_too(transport: Transport, header: str) -> None:
    body = reply_bytes(chat()).partition(b"\r\n\r\n")[2]
    async with wire("200 OK", f"{header}\r\nConnection: close", lambda: iter([body])) as server:
        error = await outcome(transport, server.url)
    assert isinstance(error, CallError)
    assert error.kind == "malformed"


@pytest.mark.parametrize("endpoint", ENDPOINTS.names())
async def test_a_body_of_millions_of_parts_is_too_large_though_it_is_short(endpoint: str) -> None:
    body = gzip.compress(b'{"choices": [' + b"{}," * 4_000_001 + b"{}]}", 1)
    more = f"Content-Encoding: gzip\r\nContent-Length: {len(body)}"
    async with wire("200 OK", more, lambda: iter([body])) as server:
        error = await outcome("http", server.url, endpoint)
    assert isinstance(error, CallError)
    assert (error.kind, error.code) == ("too_large", "reply_too_large")
