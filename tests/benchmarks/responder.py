"""The simulator costs a client's core as much as the client; this provider answers with prepared bytes.

`python responder.py PORT LOW_MS HIGH_MS` takes any POST for a chat completion and answers after a time between the
two, drawn evenly. `GET /calls` tells how many requests there were, itself included.
"""

import asyncio
import json
import random
import re
import sys
from typing import cast

SIGN = "The customer"
"""Every answer holds it and no prompt does, so it tells an answer that was stored from an error that was."""

REPLIES = (
    f"{SIGN} is disappointed about the late delivery. We are sorry, and a new one is on its way to you today.",
    f"{SIGN} is happy with the purchase! Thank you for the kind words, they made our whole team smile.",
    f"{SIGN} sounds angry, and rightly so. Please send it back at our cost, and we return your money at once.",
    f"{SIGN} loves the product but not its colour. Would you like to have it in another one, free of charge?",
    f"{SIGN} feels let down after two days of use. Our workshop repairs it this week, or you get a new one.",
    f"{SIGN} is pleased that it works better than before. Tell your friends, and both of you get a discount.",
    f"{SIGN} is worried about the scratch. It does no harm, but we gladly give back a fifth of the price.",
    f"{SIGN} writes calmly and wants a solution. Here is the label for the parcel; we answer within one day.",
)

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NUMBER = "0123456789"
_calls = 0


def reply_body(number: str, text: str) -> str:
    """The body of a chat completion, with its number in its id."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 44, "completion_tokens": 24, "total_tokens": 68}
    head = {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": 1_790_000_000, "model": "gpt-6-luna"}
    return json.dumps(head | {"choices": [choice], "usage": usage})


def _response(body: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


_RESPONSES = [tuple(_response(reply_body(_NUMBER, text)).split(_NUMBER.encode())) for text in REPLIES]


class _Connection(asyncio.Protocol):
    """One client's connection; a request is whole when the bytes that its head announces are there."""

    def __init__(self, latency: tuple[float, float]) -> None:
        self._latency = latency
        self._received = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own, which is no subclass of it

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < whole:
                return
            request, self._received = self._received[:whole], self._received[whole:]
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        global _calls
        _calls += 1
        if request.startswith(b"GET /calls"):
            self._transport.write(_response(str(_calls)))
            return
        head, tail = _RESPONSES[_calls % len(_RESPONSES)]
        response = b"%b%010d%b" % (head, _calls, tail)
        if self._latency[1]:
            self._loop.call_later(random.uniform(*self._latency), self._write, response)
        else:
            self._write(response)

    def _write(self, response: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(response)


async def _serve(port: int, latency: tuple[float, float]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(latency), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    port, low, high = map(int, sys.argv[1:])
    uvloop.run(_serve(port, (low / 1000, high / 1000)))
