"""A file of calls is read line by line, and each line is right or wrong by itself.

Codes: OpenAI's API reference.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from tidemill.simulator.batches import Batch, Tally
from tidemill.simulator.calls import BadCallError, Call, read_call
from tidemill.simulator.contents import Body
from tidemill.simulator.faults import scripted

MOST_LINES = 50_000
# Faults of a prompt for which the whole file is refused -> whether the server says in which line it is.
BAD_LINES = {"bad_line": True, "bad_line_unnamed": False}


class BadLineError(BadCallError):
    """The line is one for which the whole file is refused."""

    def __init__(self, code: str, message: str, param: str | None = None, *, is_named: bool = True) -> None:
        super().__init__(message, param, code)
        self.is_named = is_named


def error_of(code: str | None, message: str, param: str | None = None, line: int | None = None) -> dict[str, Any]:
    """One of a batch's `errors`; lines are counted from 1."""
    return {"code": code, "message": message, "param": param, "line": line}


def starts(content: Body) -> Iterator[int]:
    """Where each line begins; empty ones do not count."""
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        if content[start : min(end, start + 2)].strip():
            yield start
        start = end + 1


def _line_at(content: Body, start: int) -> bytes:
    end = content.find(b"\n", start)
    return content[start : len(content) if end < 0 else end]


def read_line(content: Body, start: int, endpoint: str) -> tuple[str, Call]:
    """Its custom_id and its call. Raises BadLineError."""
    try:
        line = orjson.loads(_line_at(content, start))
    except orjson.JSONDecodeError:
        raise BadLineError("invalid_json_line", "This line is not parseable as valid JSON.") from None
    if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
        raise BadLineError("missing_required_parameter", "Missing required parameter: 'custom_id'.", "custom_id")
    if line.get("method") != "POST":
        raise BadLineError("invalid_method", "The method must be POST.", "method")
    if line.get("url") != endpoint:
        raise BadLineError("invalid_url", "The URL provided for this request does not match the batch endpoint.", "url")
    try:
        call = read_call(endpoint, line.get("body"))
    except BadCallError as error:
        raise BadLineError(error.code or "invalid_request", error.message, error.param) from None
    if call.streams:
        raise BadLineError("invalid_request", "Streaming is not supported in the Batch API.", "body.stream")
    return line["custom_id"], call


def check_line(custom_id: str, call: Call, known: set[str], model: str) -> None:
    """Raise BadLineError for a line that does not go with those before it."""
    bad = scripted(call.prompt, 0)
    if bad in BAD_LINES:
        raise BadLineError("invalid_request", "This request is not valid.", is_named=BAD_LINES[bad])
    if custom_id in known:
        raise BadLineError("duplicate_custom_id", f"The custom_id '{custom_id}' is used more than once.", "custom_id")
    if call.model != model:
        message = f"The model '{call.model}' differs from '{model}': a file is for one model."
        raise BadLineError("mismatched_model", message, "body.model")


def tally(sums: Tally, is_good: bool, line: dict[str, Any]) -> None:
    """Add what came of one line."""
    sums.completed += is_good
    sums.failed += not is_good
    body = (line["response"] or {}).get("body")
    usage = (body.get("usage") if isinstance(body, dict) else None) or {}
    sums.input_tokens += usage.get("prompt_tokens", usage.get("input_tokens", 0))
    sums.output_tokens += usage.get("completion_tokens", usage.get("output_tokens", 0))


def tally_of(files: list[Body]) -> tuple[set[str], Tally]:
    """The custom_ids that are in the files of a batch already, and the sums of their lines."""
    done, sums = set[str](), Tally()
    for content in files:
        for start in starts(content):
            try:
                line = orjson.loads(_line_at(content, start))
            except orjson.JSONDecodeError:  # a fault, or a kill
                continue
            if line["custom_id"] not in done and line["response"] is not None:
                tally(sums, 200 <= line["response"]["status_code"] < 300, line)
            done.add(line["custom_id"])
    return done, sums


def name_of(kind: str, batch: Batch) -> str:
    """The id of its file of outputs or errors."""
    return f"file-{kind}-{batch.id}"


def over_queue(model: str | None, limit: int) -> str:
    return (
        f"Enqueued token limit reached for {model} in organization org-tidemill. Limit: {limit:,} enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    )
