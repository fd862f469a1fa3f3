"""Every way in which providers were seen to fail needs a name that a test, a prompt or a rate can ask for.

FAULTS maps each name to a function that turns a call into the Answer which the server then delivers, well or badly.
Error shapes: OpenAI's API reference.
"""

import gzip
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson

from tidemill.simulator.calls import Call, tag_of
from tidemill.simulator.contents import Body
from tidemill.simulator.options import Options
from tidemill.simulator.replies import LONE_SURROGATE, Reply, encode, error_body, generate

HUGE_CHARS = 5_000_000
BOMB = gzip.compress(b" " * 10_000_000) * 100  # 1 MB that is a gigabyte


@dataclass(slots=True)
class Answer:
    """What goes over the wire. `reply` is set when the call is billed; `delivery` names a way in server.DELIVERIES."""

    status: int
    body: Body
    reply: Reply | None = None
    headers: bytes = b""
    content_type: bytes = b"application/json"
    delivery: str = "whole"
    # Refusals come back at once, as from a real provider; whatever the model worked on takes the latency.
    takes_latency: bool = True
    extra_seconds: float = 0.0
    streams: bool = True
    """Whether it comes in the events of a stream where the call asks for one."""


FaultFunction = Callable[[Call, Options, str], Answer]


def good(call: Call, options: Options, identity: str) -> Answer:
    reply = generate(call, options.reply_chars)
    return Answer(200, encode(call, reply, identity), reply)


def rejection(status: int, kind: str, message: str, param: str | None = None, code: str | int | None = None) -> Answer:
    return Answer(status, error_body(message, kind, param, code), takes_latency=False)


# name -> (status, type, message, param, code)
ERRORS: dict[str, tuple[int, str, str, str | None, str | int | None]] = {
    "402": (402, "insufficient_credits", "Insufficient credits. Add more to continue.", None, 402),
    "403": (403, "invalid_request_error", "Country, region, or territory not supported", None,
            "unsupported_country_region_territory"),
    "404": (404, "invalid_request_error", "There is no such object.", None, None),
    "408": (408, "timeout_error", "The request timed out.", None, "request_timeout"),
    "409": (409, "conflict_error", "The resource is being changed by another request.", None, "conflict"),
    "422": (422, "invalid_request_error", "The request could not be processed.", None, "unprocessable_entity"),
    "500": (500, "server_error", "The server had an error while processing your request. Sorry about that!", None,
            None),
    "503": (503, "service_unavailable_error", "The engine is currently overloaded, please try again later.", None,
            "server_is_overloaded"),
    "529": (529, "overloaded_error", "Overloaded", None, None),
    "slow_down": (429, "rate_limit_error", "Your requests grew too fast. Please slow down.", None, "slow_down"),
    "quota": (429, "insufficient_quota", "You have run out of credits. Add credits to continue.", None,
              "credit_balance_exhausted"),
    "queue_full": (429, "invalid_request_error", "Enqueued token limit reached for this model in organization "
                   "org-tidemill. Limit: 90,000 enqueued tokens.", None, "token_limit_exceeded"),
    "badkey": (401, "invalid_request_error", "Incorrect API key provided: sk-proj-********************abcd. You can "
               "find your API key at https://platform.openai.com/account/api-keys.", None, "invalid_api_key"),
}  # fmt: skip
SERVER_BROKE = {"408", "500", "503", "529"}


def _from_table(name: str) -> FaultFunction:
    status, kind, message, param, code = ERRORS[name]

    def fail(_call: Call, _options: Options, _identity: str) -> Answer:
        return replace(rejection(status, kind, message, param, code), takes_latency=name in SERVER_BROKE)

    return fail


def _rate_limited(headers: Callable[[Options], str]) -> FaultFunction:
    def fail(call: Call, options: Options, _identity: str) -> Answer:
        message = f"Rate limit reached for {call.model} on requests per min (RPM). Please try again later."
        answer = rejection(429, "requests", message, None, "rate_limit_exceeded")
        answer.headers = headers(options).encode()
        return answer

    return fail


def _changed(**changes: object) -> FaultFunction:
    """A generated, billed reply with fields of the Reply replaced."""

    def fail(call: Call, options: Options, identity: str) -> Answer:
        reply = replace(generate(call, options.reply_chars), **changes)  # type: ignore[arg-type]
        return Answer(200, encode(call, reply, identity), reply)

    return fail


def _delivered(delivery: str) -> FaultFunction:
    return lambda call, options, identity: replace(good(call, options, identity), delivery=delivery)


def _reset(_call: Call, _options: Options, _identity: str) -> Answer:
    return Answer(0, b"", delivery="reset")


def _slow(call: Call, options: Options, identity: str) -> Answer:
    return replace(good(call, options, identity), extra_seconds=options.slow_seconds)


def _last(call: Call, options: Options, identity: str) -> Answer:
    """An answer after which nothing remains for hours."""
    headers = b"x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 5h12m0s\r\n"
    return replace(good(call, options, identity), headers=headers)


def _no_stream(call: Call, options: Options, identity: str) -> Answer:
    if not call.streams:
        return good(call, options, identity)
    message = "Your organization must be verified to stream this model."
    return rejection(400, "invalid_request_error", message, "stream", "unsupported_value")


def _unstreamed(call: Call, options: Options, identity: str) -> Answer:
    return replace(good(call, options, identity), streams=False)


def _thinks(call: Call, options: Options, identity: str) -> Answer:
    reply = generate(call, options.reply_chars)
    reply.text = f"<think>\nLet me think about <b>that</b>.\n</think>\n\n{reply.text}"
    return Answer(200, encode(call, reply, identity), reply)


def _bad_gateway(_call: Call, _options: Options, _identity: str) -> Answer:
    page = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1>cloudflare</body></html>"
    return Answer(502, page, content_type=b"text/html; charset=UTF-8")


def _wrong_json(_call: Call, _options: Options, _identity: str) -> Answer:
    return Answer(200, b'{"id": "chatcmpl-1", "choices": [{"message": upstream timed out')


def _error_200(_call: Call, _options: Options, _identity: str) -> Answer:
    error = {"code": 502, "message": "Provider returned error", "metadata": {"provider_name": "Tide"}}
    return Answer(200, orjson.dumps({"error": error}))


def _failed(call: Call, options: Options, identity: str) -> Answer:
    """Only the Responses API can say so within a 200; over chat it is error200."""
    if call.endpoint == "chat":
        return _error_200(call, options, identity)
    return Answer(200, encode(call, Reply(None, 0, 0, finish="failed"), identity))


def _length(call: Call, options: Options, identity: str) -> Answer:
    reply = generate(call, options.reply_chars)
    half = max(1, reply.output_tokens // 2)
    reply = replace(reply, text=(reply.text or "")[: half * 4], output_tokens=half, finish="length")
    return Answer(200, encode(call, reply, identity), reply)


def _nul(call: Call, options: Options, identity: str) -> Answer:
    reply = generate(call, options.reply_chars)
    reply.text = f"\x00{LONE_SURROGATE}{reply.text}"
    return Answer(200, encode(call, reply, identity), reply)


def _german(call: Call, options: Options, identity: str) -> Answer:
    reply = generate(call, options.reply_chars)
    reply.text = f"Die Mühle steht am Fluss und dreht sich mit dem Wasser. {tag_of(call.digest)}"
    return Answer(200, encode(call, reply, identity), reply)


def _huge(call: Call, options: Options, identity: str) -> Answer:
    return good(call, replace(options, reply_chars=HUGE_CHARS), identity)


def _bomb(call: Call, options: Options, identity: str) -> Answer:
    return replace(good(call, options, identity), body=BOMB, headers=b"content-encoding: gzip\r\n")


def _context(call: Call, _options: Options, _identity: str) -> Answer:
    message = (
        "This model's maximum context length is 128000 tokens. However, your messages resulted in "
        f"{128_000 + call.input_tokens} tokens. Please reduce the length of the messages."
    )
    return rejection(400, "invalid_request_error", message, "messages", "context_length_exceeded")


def model_not_found(call: Call, _options: Options, _identity: str) -> Answer:
    message = f"The model `{call.model}` does not exist or you do not have access to it."
    return rejection(404, "invalid_request_error", message, None, "model_not_found")


def _flat(_call: Call, _options: Options, _identity: str) -> Answer:
    body = {"object": "error", "message": "bad request", "type": "BadRequestError", "param": None, "code": 400}
    return Answer(400, orjson.dumps(body), takes_latency=False)


def _of_flex(failure: FaultFunction) -> FaultFunction:
    """A fault of calls on the flex tier; others are answered well."""
    return lambda call, options, identity: (failure if call.tier == "flex" else good)(call, options, identity)


def _flex_refused(status: int, kind: str, message: str, param: str | None, code: str | None) -> FaultFunction:
    return _of_flex(lambda _call, _options, _identity: rejection(status, kind, message, param, code))


def _served_on_the_standard_tier(call: Call, options: Options, identity: str) -> Answer:
    call.tier = "default"
    return good(call, options, identity)


FLEX_FAULTS: dict[str, FaultFunction] = {
    "flex429": _flex_refused(429, "resource_unavailable", "Resource Unavailable", None, "resource_unavailable"),
    "flex498": _flex_refused(498, "capacity_exceeded", "Flex tier capacity exceeded. Please try again later.", None,
                             "capacity_exceeded"),
    "flex400": _flex_refused(400, "invalid_request_error", "Invalid service_tier argument: flex is not available for "
                             "this model.", "service_tier", "invalid_value"),
    "flexslow": _of_flex(_slow),
    "flexfallback": _served_on_the_standard_tier,
}  # fmt: skip

# What can go wrong with a line of a batch, as its prompt, the mode or a rate asks; a call online is answered well.
LINE_FAULTS = (
    "twice",  # it is in the output twice
    "missing",  # it is in neither file, and was not run
    "promised",  # the same, and the counts say that it is done
    "foreign",  # a line of another file follows it
    "broken",  # its line is cut off
    "error_in_output",  # status 400 in the file of outputs, with `error` null
    "status0",  # status 0 in the file of outputs, with `error` null
    "not_run",  # as a line that was not run in time
    "bad_line",  # the whole file is refused for it
    "bad_line_unnamed",  # the same, and the server does not say for which line
)
UNPAID = ("missing", "promised", "error_in_output", "status0", "not_run")
# What can go wrong with a batch: scripts={"POST /v1/batches": "!!expired*1"}, the mode or a rate.
BATCH_FAULTS = (
    "expired",  # half of its lines were run
    "cancelled_there",  # the same, and the server cancels it
    "failed_halfway",  # the same, and it fails
    "quota_midway",  # half of its lines are out of credit
    "stuck_validating",
    "stuck_finalizing",
    "late_cancel",  # is cancelling until all of its lines were run, and is completed then
    "late_ids",  # its output is not named at the first looks after its end
    "no_output_id",  # its output is never named
    "empty_ids",  # what is not there is "" and not null
    "empty_error_file",  # there is one, with nothing in it
    "null_counts",
    "no_counts",
    "all_completed",  # lines that failed are counted as completed
    "no_batch_usage",
    "odd_status",  # a status that nobody knows while it runs
)

# What can go wrong with the content of a file: scripts={"GET /v1/files/{id}/content": "!!short*2"}, for each file anew.
CONTENT_FAULTS = (
    "nobytes",  # nothing in it
    "short",  # the second half of its lines is not there yet
)
# What can go wrong with the content of a file:
# scripts={"GET /v1/files/{id}/content": "!!short*2"}, for each file anew.
CONTENT_FAULTS = (
    "nobytes",  # nothing in it
    "short",  # the second half of its lines is not there yet
)

FAULTS: dict[str, FaultFunction] = {
    **dict.fromkeys((*LINE_FAULTS, *BATCH_FAULTS, *CONTENT_FAULTS), good),
    **FLEX_FAULTS,
    **{name: _from_table(name) for name in ERRORS},
    "429": _rate_limited(lambda options: f"retry-after: {math.ceil(options.retry_after_seconds)}\r\n"),
    "429ms": _rate_limited(lambda options: f"retry-after-ms: {options.retry_after_ms}\r\n"),
    "502html": _bad_gateway,
    "reset": _reset,
    "reset_after": _delivered("reset"),
    "cut": _delivered("cut"),
    "drip": _delivered("drip"),
    "slow": _slow,
    "last": _last,
    "wrongjson": _wrong_json,
    "error200": _error_200,
    "failed": _failed,
    "empty": _changed(sends_choices=False),
    "nullcontent": _changed(text=None),
    "refusal": _changed(text=None, refusal="I'm sorry, but I can't help with that.", output_tokens=11),
    "content_filter": _changed(text="", finish="content_filter"),
    "length": _length,
    "nul": _nul,
    "german": _german,
    "huge": _huge,
    "bomb": _bomb,
    "nousage": _changed(sends_usage=False),
    "context": _context,
    "notfound": model_not_found,
    "flat": _flat,
    "nostream": _no_stream,
    "unstreamed": _unstreamed,
    "thinks": _thinks,
}
# What a test writes when it means a state of the server rather than a fault of a call.
MODES: dict[str, str] = {"down503": "503", "down502": "502html", "gone": "reset", **{name: name for name in FAULTS}}
# A server in one of these modes is no better for `GET /models`; the others concern a prompt or the money.
WHOLE_SERVER = {"403", "500", "502html", "503", "529", "badkey", "reset"}

_SCRIPT = re.compile(r"!!(\w+)(?:\*(\d+))?")


def unknown_in(script: str) -> list[str]:
    """Names in a script that are no faults, and a script that names none: text in a prompt, mistakes elsewhere."""
    names = [name for name, _times in _SCRIPT.findall(script)]
    return [name for name in names if name not in FAULTS] if names else [script]


def scripted(prompt: str, nth: int) -> str | None:
    """The fault that the prompt itself asks for on its `nth` call (from 0). Unknown names are just text."""
    for name, times in _SCRIPT.findall(prompt):
        if name not in FAULTS:
            continue
        if not times or nth < int(times):
            return str(name)
        nth -= int(times)
    return None


def has_script(prompt: str) -> bool:
    return "!!" in prompt and any(name in FAULTS for name, _times in _SCRIPT.findall(prompt))
