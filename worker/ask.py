"""One prompt's way through the worker, from a claimed job to how it ended.

body -> limits.reserve -> provider.call -> outcome. Nothing here touches the database.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tidemill.models import cost, pictures, turns
from tidemill.models.answers import Answer, Message
from tidemill.models.options import Options
from tidemill.models.provider import CallError, Provider, Reply, Usage
from tidemill.models.replies import CUT
from tidemill.models.settings import Endpoint, settings
from tidemill.models.text import dumps, loads, one_line
from tidemill.models.transitions import Claimed, Outcome, Settlement
from tidemill.worker import describe
from tidemill.worker.history import as_sent, fitted, picture_in, room, split
from tidemill.worker.limits import Limiter
from tidemill.worker.pace import Limits
from tidemill.worker.retries import Action, Verdict, classify

MAX_WAIT_SECONDS = 20.0
"""A job whose turn is further away than this goes back to the table and makes room for others."""

_CUT_SENTENCE = "The answer was cut at the limit of tokens; a higher --max-tokens asks anew for all of it."
_SCHEMA_TRIES = 3
_ENDPOINT_OF: dict[str, Endpoint] = {"/v1/chat/completions": "chat", "/v1/responses": "responses"}
_TAKES_COMPLETION_TOKENS = re.compile(r"(.*/)?(gpt-[5-9]|o\d)")
"""Models that refuse `max_tokens`; other servers know only that name."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request as it goes out: where to, the body, and the messages that the dialogue will hold."""

    endpoint: Endpoint
    body: dict[str, Any]
    messages: tuple[Message, ...]
    picture_tokens: int = 0
    history: tuple[Message, ...] = ()
    """What is sent before the messages: of a later turn the dialogue so far."""

    @property
    def texts(self) -> list[str]:
        """What it says in words."""
        own = ((message.content, pictures.shown(message.content)) for message in self.messages)
        before = [turns.words(message.role, message.content) for message in self.history]
        return before + [content if taken_apart is None else taken_apart.text for content, taken_apart in own]

    @property
    def model(self) -> str:
        """The model asked for."""
        return str(self.body.get("model", ""))


async def ask(
    job: Claimed,
    options: Options,
    provider: Provider,
    limiter: Limiter,
    bucket: str,
    *,
    may_call: Callable[[], bool],
) -> Settlement:
    """Run one claimed job; never raises for what the provider does.

    Args:
        bucket: names the rate budget without the model, which this adds.
        may_call: whether the call is still wanted, once its turn has come.
    """
    began = time.monotonic()
    question = build(options, job.request, history=job.history)
    if job.history:
        try:
            question = build(options, job.request, history=await asyncio.to_thread(fitted, options, question))
        except CallError as error:
            return _failed(job, question, error, _verdict(error, job), time.monotonic() - began)
    bucket = f"{bucket}|{question.model}"
    reserved = _tokens(question)
    limits = Limits(options.rpm, options.tpm)
    grant = await limiter.reserve(bucket, reserved, limits, MAX_WAIT_SECONDS)
    while grant.granted and grant.wait_seconds > 0:
        await asyncio.sleep(grant.wait_seconds)
        if not may_call():
            await limiter.refund(bucket, reserved)
            return snoozed(job)
        if not await limiter.held(bucket):
            break
        # The provider refused somebody meanwhile, which voids the turns given out before.
        grant = await limiter.reserve(bucket, reserved, limits, MAX_WAIT_SECONDS)
    if not grant.granted:
        return snoozed(job, grant.wait_seconds)
    began = time.monotonic()
    body = question.body
    try:
        if (picture := picture_in(job.request, question.history)) is not None:
            url = await asyncio.to_thread(describe.url_of, picture)
            body = build(options, job.request, url, question.history).body
        reply = await provider.call(question.endpoint, body)
    except CallError as error:
        await _slow_down(limiter, bucket, error, verdict := _verdict(error, job))
        return _failed(job, question, error, verdict, time.monotonic() - began)
    await limiter.observe(bucket, reply.headers, served=True)
    seconds = time.monotonic() - began
    usage = reply.usage or _counted(question, reply)
    await limiter.refund(bucket, reserved - usage.input_tokens - usage.output_tokens)
    complaint = _schema_complaint(options.schema, reply.text)
    return _answered(job, question, reply, usage, complaint=complaint, seconds=seconds)


# --- the body ---


def build(
    options: Options, request: Mapping[str, Any], picture_url: str = "", history: tuple[Message, ...] = ()
) -> Question:
    """The call that a job stands for: what it asks itself, then what its batch says, then further parameters.

    A picture is a hole in the body until `picture_url` fills it. Before a later turn goes the dialogue's `history`.
    """
    question = _first(options, request, picture_url)
    return _later(question, options, history, picture_url) if history else question


def _later(question: Question, options: Options, history: tuple[Message, ...], picture_url: str) -> Question:
    """A call with what was said before it, under its own instructions if it brings any, else those of the history.

    Its own are part of what the dialogue will hold only where they are new in it.
    """
    shown, before = split(history)
    own, said = split(question.messages)
    if not own and options.system is not None:  # a batch line takes none from its batch as a first turn
        own = (Message("system", options.system),)
    if not own or own == shown:
        before, own = history, ()
    endpoint, body = question.endpoint, dict(question.body)
    asked = [turn for turn in _turns(body, endpoint) if turn.get("role") not in turns.INSTRUCTIONS]
    body.pop("instructions", None)
    body[_TURNS[endpoint]] = [*(as_sent(each, options, picture_url) for each in (*own, *before)), *asked]
    about = picture_in({}, before)
    tokens = question.picture_tokens + (0 if about is None else describe.tokens(options, about))
    return Question(endpoint, body, (*own, *said), tokens, before)


def _first(options: Options, request: Mapping[str, Any], picture_url: str) -> Question:
    given = request.get("body")
    if given is not None:
        endpoint = _ENDPOINT_OF[request["url"]]
        body = {"model": options.model, **given}
        return Question(endpoint, body, _messages_of(body, endpoint))
    picture = request.get("picture")
    if picture is not None:
        messages = describe.messages(options, request, picture_url)
    else:
        messages = list(request.get("messages") or [{"role": "user", "content": request["prompt"]}])
    body = {"model": options.model, **_SHAPES[options.endpoint](options, messages), **options.params}
    said = _messages_of(body, options.endpoint)
    if picture is None:
        return Question(options.endpoint, body, said)
    said = (*said[:-1], Message("user", pictures.message(request["prompt"], picture)))
    return Question(options.endpoint, body, said, describe.tokens(options, dict(picture)))


def _chat_body(options: Options, messages: list[dict[str, Any]]) -> dict[str, Any]:
    if options.system is not None and all(message.get("role") != "system" for message in messages):
        messages = [{"role": "system", "content": options.system}, *messages]
    name = "max_completion_tokens" if _TAKES_COMPLETION_TOKENS.match(options.model) else "max_tokens"
    schema = {"name": "reply", "schema": options.schema, "strict": True}
    return _said(
        messages=messages,
        temperature=options.temperature,
        reasoning_effort=options.reasoning_effort,
        response_format=options.schema and {"type": "json_schema", "json_schema": schema},
        **{name: options.max_tokens},
    )


def _responses_body(options: Options, messages: list[dict[str, Any]]) -> dict[str, Any]:
    schema = {"type": "json_schema", "name": "reply", "schema": options.schema, "strict": True}
    return _said(
        input=messages,
        instructions=options.system,
        temperature=options.temperature,
        max_output_tokens=options.max_tokens,
        reasoning=options.reasoning_effort and {"effort": options.reasoning_effort},
        text=options.schema and {"format": schema},
    )


_SHAPES = {"chat": _chat_body, "responses": _responses_body}
_TURNS: dict[Endpoint, str] = {"chat": "messages", "responses": "input"}


def _said(**given: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _messages_of(body: Mapping[str, Any], endpoint: Endpoint) -> tuple[Message, ...]:
    """The turns that a body asks with, as the dialogue keeps them."""
    told = [Message("system", str(body["instructions"]))] if body.get("instructions") is not None else []
    return (
        *told,
        *(Message(str(turn.get("role", "user")), _text(turn.get("content"))) for turn in _turns(body, endpoint)),
    )


def _turns(body: Mapping[str, Any], endpoint: Endpoint) -> list[dict[str, Any]]:
    given = body.get(_TURNS[endpoint], ())
    return [{"role": "user", "content": given}] if isinstance(given, str) else list(given)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else dumps(content)


# --- tokens and money ---


def _tokens(question: Question) -> int:
    """What a provider counts against tokens a minute: the prompt, and the room that is asked for the reply."""
    asked = sum(map(cost.estimate_tokens, question.texts)) + question.picture_tokens
    return asked + cost.chat_overhead_tokens(len(question.texts)) + room(question.body)


def _counted(question: Question, reply: Reply) -> Usage:
    """Our own count, for servers that report no usage."""
    asked = sum(cost.count_many(question.texts, question.model)) + question.picture_tokens
    overhead = cost.chat_overhead_tokens(len(question.texts))
    return Usage(asked + overhead, cost.count_tokens(reply.text, question.model))


def _cost_usd(model: str, asked_model: str, usage: Usage | None) -> float | None:
    price = cost.price(model) or cost.price(asked_model) if usage else None
    if price is None or usage is None:
        return None
    return price.cost(usage.input_tokens, usage.output_tokens, usage.cached_input_tokens)


# --- outcomes ---


def snoozed(job: Claimed, delay_seconds: float = 0.0) -> Settlement:
    """No call was made: it is not the job's turn, or nobody wants it at present."""
    return Settlement(job.id, job.epoch, job.batch_id, "snoozed", delay_seconds)


def _answered(
    job: Claimed, question: Question, reply: Reply, usage: Usage, *, complaint: str | None, seconds: float
) -> Settlement:
    """A call that was answered; `complaint` says why the answer is not what the schema asks for."""
    again = complaint is not None and job.failures + 1 < _SCHEMA_TRIES
    outcome = "succeeded" if complaint is None else "retried" if again else "failed"
    # Kept, for it was paid for, and marked.
    cut = (CUT, _CUT_SENTENCE) if reply.finish_reason == CUT else (None, None)
    code, error = cut if complaint is None else ("schema_mismatch", complaint)
    said = Message("assistant", reply.text or dumps(reply.tool_calls))
    answer = Answer(reply.model or question.model, reply.finish_reason, (*question.messages, said), job.dialogue_id)
    return Settlement(
        job.id,
        job.epoch,
        job.batch_id,
        outcome,  # type: ignore[arg-type]  # one of three literals
        counted=complaint is not None,
        seconds=seconds,
        http_status=reply.status,
        request_id=reply.request_id,
        error_code=code,
        error=error,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_usd=_cost_usd(reply.model, question.model, usage),
        answer=answer if complaint is None else None,
    )


def _schema_complaint(schema: dict[str, Any] | None, text: str) -> str | None:
    """Why the reply is not what the schema asks for, or None when it is."""
    if schema is None:
        return None
    try:
        value = loads(text)
    except ValueError:
        return f"the reply is not JSON: {one_line(text, 1_000)}"
    worst = next(iter(_validator(dumps(schema)).iter_errors(value)), None)
    return (
        None if worst is None else f"the reply breaks the schema at {worst.json_path}: {one_line(worst.message, 200)}"
    )


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    from jsonschema.validators import validator_for  # most batches have no schema

    parsed = loads(schema)
    return validator_for(parsed)(parsed)


def _verdict(error: CallError, job: Claimed) -> Verdict:
    return classify(
        error,
        failures=job.failures,
        age_seconds=job.age_seconds,
        max_attempts=settings().max_attempts,
        retry_seconds=settings().retry_seconds,
    )


async def _slow_down(limiter: Limiter, bucket: str, error: CallError, verdict: Verdict) -> None:
    """Tell every worker of this model what the provider has just said about its limits."""
    await limiter.observe(bucket, error.headers, served=False if verdict.pause_seconds > 0 else None)
    if verdict.pause_seconds > 0:
        await limiter.pause(bucket, verdict.pause_seconds)


OUTCOME_OF: dict[Action, Outcome] = {"retry": "retried", "hold": "held", "fail": "failed"}


def _failed(job: Claimed, question: Question, error: CallError, verdict: Verdict, seconds: float) -> Settlement:
    usage = error.usage
    return Settlement(
        job.id,
        job.epoch,
        job.batch_id,
        OUTCOME_OF[verdict.action],
        delay_seconds=verdict.delay_seconds,
        counted=verdict.counted,
        seconds=seconds,
        http_status=error.status,
        request_id=error.request_id,
        error_code=verdict.code,
        error=verdict.message,
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        cost_usd=_cost_usd(question.model, question.model, usage),
    )
