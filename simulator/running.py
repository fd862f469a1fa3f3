"""The lines of a batch are run while nobody looks, in pieces so short that calls are answered meanwhile.

The life of a batch is one generator: it yields the time before which nothing happens to it, and does a little whenever
it is woken. After a restart it begins at the status that was written down; lines that are in a file are not run again.
"""

import heapq
import math
import random
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

import orjson

from tidemill.simulator.batch_lines import (
    MOST_LINES,
    BadLineError,
    check_line,
    error_of,
    name_of,
    over_queue,
    read_line,
    starts,
    tally,
    tally_of,
)
from tidemill.simulator.batches import RAN, VALIDATED, Batch
from tidemill.simulator.calls import Call
from tidemill.simulator.options import Options
from tidemill.simulator.shelf import Shelf

SLICE_SECONDS = 0.02
MOST_ERRORS = 50
EXPIRED = "This request could not be executed before the completion window expired."
CANCELLED = "This request could not be executed because the batch was cancelled."
NO_CREDIT = {
    "message": "You have run out of credits. Add credits to continue.",
    "type": "insufficient_quota",
    "param": None,
    "code": "insufficient_quota",
}
# fault -> the status in which the batch ends half-way
HALFWAY = {"expired": "expired", "cancelled_there": "cancelled", "failed_halfway": "failed"}

LineRunner = Callable[[Batch, Call, str], tuple[str | None, int, str, bytes]]
"""Answers a line and books it: (batch, call, custom_id) -> (fault, status, request_id, body)."""


class Running:
    """All batches that are not over. `advance` is called often, and does little each time."""

    def __init__(self, shelf: Shelf, run_line: LineRunner, options: Callable[[], Options]) -> None:
        self._shelf, self._run_line, self._options = shelf, run_line, options
        self._lives: dict[str, Iterator[float]] = {}
        self._due: list[tuple[float, str]] = []
        self.look()

    def look(self) -> None:
        """Begin with batches that are new, and wake those that are cancelled."""
        for batch in self._shelf.take_touched():
            if batch.id not in self._lives:
                self._lives[batch.id] = self._life(batch)
            heapq.heappush(self._due, (0.0, batch.id))

    def forget(self) -> None:
        self._lives, self._due = {}, []

    def advance(self) -> None:
        """Do what is due, for at most SLICE_SECONDS."""
        end = time.monotonic() + SLICE_SECONDS
        while self._due and self._due[0][0] <= time.time() and time.monotonic() < end:
            _at, identity = heapq.heappop(self._due)
            if (life := self._lives.get(identity)) is None:
                continue
            due = 0.0
            for due in life:
                if due > time.time() or time.monotonic() >= end:
                    break
            else:
                self._lives.pop(identity, None)
                continue
            if due < math.inf:
                heapq.heappush(self._due, (due, identity))

    # --- a life ---

    def _life(self, batch: Batch) -> Iterator[float]:
        yield from self._wait(batch, "validating", VALIDATED * batch.seconds, stuck="stuck_validating")
        lines = array("Q")
        if batch.total:  # it is validated already
            lines.extend(starts(self._content(batch)))
        elif batch.is_wanted:
            yield from self._validate(batch, lines)
            if batch.errors:
                self._end(batch, "failed")
                return
            if batch.status == "validating":
                self._move(batch, "in_progress")
        yield from self._run(batch, lines)
        if batch.status == "in_progress":
            self._move(batch, "finalizing")
        yield from self._wait(batch, "finalizing", batch.seconds, stuck="stuck_finalizing")
        while batch.status == "finalizing" and self._options().batch_gate == "shut":
            yield time.time() + SLICE_SECONDS
        if batch.status == "cancelling":
            yield from self._wait(batch, "cancelling", self._cancelled_after(batch))
        ends = HALFWAY.get(batch.fault or "", "completed")
        self._end(batch, ends if batch.is_wanted else "cancelled")

    def _cancelled_after(self, batch: Batch) -> float:
        return batch.times["cancelling"] - batch.created_at + batch.cancel_seconds

    def _wait(self, batch: Batch, status: str, seconds: float, stuck: str = "") -> Iterator[float]:
        """Until so many seconds after its creation, while it has this status."""
        until = math.inf if stuck and batch.fault == stuck else batch.created_at + seconds
        while batch.status == status and time.time() < until:
            yield until

    def _move(self, batch: Batch, status: str) -> None:
        self._shelf.change(batch, status=status, times={**batch.times, status: time.time()})

    def _end(self, batch: Batch, status: str) -> None:
        """Its files become files, and it gets its last status, in one line of the shelf each."""
        now = time.time()
        files = {}
        for kind in ("output", "error"):
            name, keeps = f"{batch.id}_{kind}.jsonl", batch.fault == "empty_error_file" and kind == "error"
            stored = self._shelf.publish(name_of(kind, batch), name, "batch_output", now, even_empty=keeps)
            files[f"{kind}_file_id"] = stored.id if stored else None
        times, sums = {**batch.times, status: now}, asdict(batch.tally)
        self._shelf.change(batch, status=status, times=times, tally=sums, **files)

    def _content(self, batch: Batch) -> Any:
        return self._shelf.all_files[batch.input_file_id].content

    # --- validating ---

    def _validate(self, batch: Batch, lines: "array[int]") -> Iterator[float]:
        """Fill in where each line starts; `errors` of the batch say what is wrong with the file."""
        content, errors, known = self._content(batch), list[dict[str, Any]](), set[str]()
        model, tokens = None, 0
        for start in starts(content):
            lines.append(start)
            yield 0.0
            if not batch.is_wanted:
                return
            try:
                custom_id, call = read_line(content, start, batch.endpoint)
                model = model or call.model
                check_line(custom_id, call, known, model)
                known.add(custom_id)
                tokens += call.input_tokens
            except BadLineError as error:
                errors.append(error_of(error.code, error.message, error.param, len(lines) if error.is_named else None))
                if len(errors) == MOST_ERRORS:
                    break
        self._shelf.change(batch, total=len(lines), model=model, tokens=tokens, errors=errors)
        if not errors and (whole := self._file_error(batch)):
            self._shelf.change(batch, errors=[whole])

    def _file_error(self, batch: Batch) -> dict[str, Any] | None:
        options, limit = self._options(), self._options().batch_queue_tokens
        if not batch.total:
            return error_of("empty_file", "The input file is empty.")
        if options.models and batch.model not in options.models:
            return error_of("model_not_found", f"The provided model '{batch.model}' is not supported.")
        if batch.total > MOST_LINES:
            return error_of("too_many_requests", f"The input file has more than {MOST_LINES} requests.")
        if limit is None or self._shelf.enqueued_tokens(batch.model) <= limit:
            return None
        return error_of("token_limit_exceeded", over_queue(batch.model, limit))

    # --- running ---

    def _run(self, batch: Batch, lines: "array[int]") -> Iterator[float]:
        """Run the lines in an order of the batch's own, evenly over its time."""
        content, contents = self._content(batch), self._shelf.contents
        names = [name_of(kind, batch) for kind in ("output", "error")]
        done, batch.tally = tally_of([contents.view(name) for name in names])
        order = list(range(len(lines)))
        random.Random(batch.id).shuffle(order)  # noqa: S311  # no secret
        half = len(order) // 2 if batch.fault in {*HALFWAY, "quota_midway"} else len(order)
        begun, lasts = batch.created_at + VALIDATED * batch.seconds, (RAN - VALIDATED) * batch.seconds
        with contents.appending(names[0]) as output, contents.appending(names[1]) as errors:
            for nth, number in enumerate(order):
                if batch.is_wanted:
                    yield begun + lasts * nth / len(order) if batch.status == "in_progress" else 0.0
                custom_id, call = read_line(content, lines[number], batch.endpoint)
                if custom_id not in done:
                    is_good, line = self._line(batch, custom_id, call, is_late=nth >= half)
                    (output if is_good else errors).write(line)

    def _line(self, batch: Batch, custom_id: str, call: Call, *, is_late: bool) -> tuple[bool, bytes]:
        """Whether it goes to the file of outputs, and what to write."""
        identity = f"batch_req_{blake2b(f'{batch.id}/{custom_id}'.encode(), digest_size=12).hexdigest()}"
        line: dict[str, Any] = {"id": identity, "custom_id": custom_id, "response": None, "error": None}
        if not batch.is_wanted or (is_late and batch.fault == "cancelled_there"):
            line["error"] = {"code": "batch_cancelled", "message": CANCELLED}
            return False, orjson.dumps(line) + b"\n"
        if is_late and batch.fault in HALFWAY:
            line["error"] = {"code": "batch_expired", "message": EXPIRED}
            return False, orjson.dumps(line) + b"\n"
        if is_late:
            fault, status, request_id, body = None, 429, "", orjson.dumps({"error": NO_CREDIT})
        else:
            fault, status, request_id, body = self._run_line(batch, call, custom_id)
        line["response"] = {"status_code": status, "request_id": request_id, "body": _readable(body)}
        is_good = 200 <= status < 300
        if fault not in ("missing", "not_run"):
            tally(batch.tally, is_good, line)
        lines = [orjson.dumps(line)]
        if fault in FAULTY_LINES:
            is_good, lines = FAULTY_LINES[fault](line)
        return is_good, b"".join(each + b"\n" for each in lines)


def _readable(body: bytes) -> Any:
    """As JSON; what is none is a text in the line."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:10_000].decode("utf-8", "replace")


def _refused(line: dict[str, Any], status: int, body: object) -> list[bytes]:
    return [orjson.dumps(line | {"response": {"status_code": status, "request_id": "", "body": body}})]


def _not_run(line: dict[str, Any]) -> tuple[bool, list[bytes]]:
    error = {"code": "batch_expired", "message": EXPIRED}
    return False, [orjson.dumps(line | {"response": None, "error": error})]


BAD_REQUEST = {"error": {"message": "Invalid value.", "type": "invalid_request_error", "param": None, "code": None}}
FAULTY_LINES: dict[str, Callable[[dict[str, Any]], tuple[bool, list[bytes]]]] = {
    "twice": lambda line: (True, [orjson.dumps(line)] * 2),
    "missing": lambda _line: (True, []),
    "promised": lambda _line: (True, []),
    "foreign": lambda line: (True, [orjson.dumps(line), orjson.dumps(line | {"custom_id": "of-another-file"})]),
    "broken": lambda line: (True, [orjson.dumps(line)[:-40]]),
    "error_in_output": lambda line: (True, _refused(line, 400, BAD_REQUEST)),
    "status0": lambda line: (True, _refused(line, 0, None)),
    "not_run": _not_run,
}
