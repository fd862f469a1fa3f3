"""The bill must be provable from outside, so the side that would charge for a call writes it down itself."""

import time
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from tidemill.simulator.calls import Call
from tidemill.simulator.replies import Reply

PROMPT_CHARS_KEPT = 200


def paid_entry(
    call: Call,
    reply: Reply,
    *,
    request_id: str,
    caller: str,
    route: str,
    status: str = "200",
    fault: str | None = None,
    started_at: float | None = None,
    gone: bool = False,
    custom_id: str | None = None,
) -> dict[str, Any]:
    """A line of the paid log. `route` is how it is paid: online, flex, priority, batch, or the window of a response in
    the background."""
    now = time.time()
    return {
        "prompt_hash": call.digest.hex(),
        "prompt": call.prompt[:PROMPT_CHARS_KEPT],
        "images": len(call.images),
        "endpoint": call.endpoint,
        "model": call.model,
        "at": now,
        "started_at": now if started_at is None else started_at,
        "status": status,
        "fault": fault,
        "gone": gone,
        "caller": caller,
        "route": route,
        "custom_id": custom_id,
        "request_id": request_id,
        "input_tokens": reply.input_tokens,
        "output_tokens": reply.output_tokens,
    }


class Ledger:
    """The paid log and the counters. With `path`, every paid call is in the file before its reply leaves.

    A file that exists already is read first: the log of a simulator that was killed goes on where it stopped.
    """

    def __init__(self, path: Path | None) -> None:
        self.paid: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        if path is not None:
            if path.exists():
                self.paid = [orjson.loads(line) for line in path.read_bytes().splitlines()]
            # Unbuffered: one write per line, whole or absent, whatever kills the process next.
            self._file = path.open("ab", buffering=0)
        self.in_flight = self.max_in_flight = self.total = self.limited = self.gone = 0
        self.paid_input_tokens = sum(entry["input_tokens"] for entry in self.paid)
        self.paid_output_tokens = sum(entry["output_tokens"] for entry in self.paid)
        self.paid_by_route = Counter(entry.get("route", "online") for entry in self.paid)
        self.by_status: Counter[str] = Counter()
        self.by_fault: Counter[str] = Counter()
        self.other_requests: Counter[str] = Counter()

    def closed(self) -> "Ledger":
        """New, empty books on the same file. A call that is still in flight ends in the books it began in."""
        books = Ledger(None)
        books._file = self._file
        return books

    def begin(self) -> None:
        self.total += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def end(self, status: str, gone: bool) -> None:
        self.in_flight -= 1
        self.by_status[status] += 1
        self.gone += gone

    def bill(self, entry: dict[str, Any]) -> None:
        """Book a call as `paid_entry` describes it."""
        self.paid.append(entry)
        self.paid_by_route[entry["route"]] += 1
        self.paid_input_tokens += entry["input_tokens"]
        self.paid_output_tokens += entry["output_tokens"]
        if self._file is not None:
            self._file.write(orjson.dumps(entry) + b"\n")

    def counters(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "limited": self.limited,
            "gone": self.gone,
            "paid": len(self.paid),
            "paid_by_route": dict(self.paid_by_route),
            "paid_input_tokens": self.paid_input_tokens,
            "paid_output_tokens": self.paid_output_tokens,
            "by_status": dict(self.by_status),
            "by_fault": dict(self.by_fault),
            "other_requests": dict(self.other_requests),
            "cpu_seconds": time.process_time(),
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
