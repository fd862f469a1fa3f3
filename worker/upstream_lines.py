"""One line of a batch file is one question, and one line that comes back is its reply; both are pure functions here.

The id of a line is `JOB.EPOCH`, whatever ids the user's own rows have. Servers answer in any order, leave lines out and
send some twice, so a line that cannot be read costs itself alone.
Shapes: OpenAI's guide to the Batch API; differences of Together, Groq, Azure and Novita as seen in use.
"""

from typing import NamedTuple

import orjson

from tidemill.models.claims import Claimed
from tidemill.models.json_types import JsonObject
from tidemill.models.payloads import MalformedError, load_json
from tidemill.models.provider import CallError
from tidemill.models.replies import RawReply, Reply, error_from_status
from tidemill.models.text import dumps
from tidemill.worker.questions import Question

NEVER_RUN = frozenset({"batch_expired", "batch_cancelled", "batch_canceled", "batch_failed"})
"""Codes of lines that the provider has not asked, and not billed."""

_MOST_DIGITS = 19


class Line(NamedTuple):
    """A line that came back, as far as it can be read."""

    job_id: int
    epoch: int
    status: int
    """Of the reply; 0: the line has none."""
    body: object
    error: object
    request_id: str | None

    @property
    def claim(self) -> tuple[int, int]:
        """Job and epoch."""
        return self.job_id, self.epoch

    @property
    def was_run(self) -> bool:
        """Whether the provider has asked it: it says so of those that it has not."""
        code = self.error.get("code") if isinstance(self.error, dict) else None
        return self.status > 0 or code not in NEVER_RUN


def question_line(job: Claimed, question: Question, body: JsonObject) -> bytes:
    """The line of a batch file that asks this question. Raises CallError if it cannot be sent."""
    if body.get("stream"):
        raise CallError("request", 'The body asks for a stream; take out "stream"', code="unsupported_stream")
    line = {"custom_id": f"{job.id}.{job.epoch}", "method": "POST", "url": question.endpoint.url, "body": body}
    try:
        return orjson.dumps(line) + b"\n"
    except orjson.JSONEncodeError:
        pass
    try:  # lone surrogates and integers beyond 64 bits, which orjson cannot write
        return dumps(line).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise CallError("request", f"The body is not JSON: {error}", code="invalid_request_body") from None


def read_line(text: bytes) -> Line | None:
    """A line that came back; None if it is no JSON, or of nothing that we have asked."""
    line = load_line(text)
    if (claim := claim_in(line)) is None:
        return None
    response = line.get("response")
    reply = response if isinstance(response, dict) else {}
    status, request_id = reply.get("status_code"), reply.get("request_id")
    return Line(
        *claim,
        status if isinstance(status, int) and 100 <= status < 1000 else 0,
        reply.get("body"),
        line.get("error"),
        request_id if isinstance(request_id, str) else None,
    )


def load_line(text: bytes) -> JsonObject:
    """A line's object; an empty one where it is none."""
    try:
        line = load_json(text)
    except MalformedError:
        return {}
    return line if isinstance(line, dict) else {}


def claim_in(line: JsonObject) -> tuple[int, int] | None:
    """The job and the epoch that a line names; None if it is none of ours."""
    job_id, dot, epoch = str(line.get("custom_id")).partition(".")
    numbers = [each for each in (job_id, epoch) if each.isascii() and each.isdigit() and len(each) <= _MOST_DIGITS]
    return (int(job_id), int(epoch)) if dot and len(numbers) == 2 else None


def reply_of(line: Line, question: Question) -> Reply:
    """What a line answers. Raises CallError if that is an error, or no usable answer."""
    headers = {"content-type": "application/json", **({"x-request-id": line.request_id} if line.request_id else {})}
    body = line.body
    if not 200 <= line.status < 300:
        body = body or {"error": line.error or {"message": "The line has neither a reply nor an error"}}
        # Without a status it is the server's own failure, which says nothing about the question.
        raise error_from_status(RawReply(line.status or 500, headers, dumps(body).encode()))
    if not body and line.error:
        body = {"error": line.error}
    return question.endpoint.parse_reply(RawReply(line.status, headers, dumps(body).encode()))
