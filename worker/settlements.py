"""A reply or an error becomes a settlement here, by whatever route and however late it comes back.

Pure functions from a question and its result to a `Settlement`. The live call uses them a moment after it asked;
another route may use them hours later.
"""

from tidemill.models import cost
from tidemill.models.answers import Answer, Message
from tidemill.models.claims import Claimed
from tidemill.models.finish import CUT
from tidemill.models.message_shapes import NOT_KEPT, THOUGHTS, calls_of
from tidemill.models.provider import CallError, ErrorKind, Reply, Usage
from tidemill.models.routes import ONLINE, ROUTES
from tidemill.models.schemas import Complaint, json_text
from tidemill.models.settings import settings
from tidemill.models.settling import Outcome, Settlement
from tidemill.models.text import one_line
from tidemill.worker.marks import mark_of
from tidemill.worker.questions import Question
from tidemill.worker.retries import Verdict, announced_hold, classify
from tidemill.worker.rules import Action

_OUTCOME_OF: dict[Action, Outcome] = {"retry": "retried", "hold": "held", "fail": "failed"}
"""What follows from a failed call -> how the job ends this time."""

_MAYBE_BILLED: tuple[ErrorKind, ...] = (
    *("timeout", "reset", "cut", "malformed", "too_large", "empty", "broken", "length", "refused", "content_filter"),
    "unfinished",
)
"""Kinds of errors after which the server may have billed what it did not count in its reply."""

_SCHEMA_TRIES = 3
_KEPT_CHARACTERS = 1_000
"""Of a text that was paid for and cannot be used: its beginning stays in the error."""


def of_snooze(job: Claimed, delay_seconds: float = 0.0) -> Settlement:
    """No call was made, because it is too early for the job or nobody wants it at present."""
    return Settlement(job.id, job.epoch, job.batch_id, "snoozed", delay_seconds)


def of_step(job: Claimed, delay_seconds: float = 0.0) -> Settlement:
    """One of the job's steps was made; the next one follows after the delay."""
    return Settlement(job.id, job.epoch, job.batch_id, "stepped", delay_seconds)


def of_defect(job: Claimed, code: str, error: str) -> Settlement:
    """No call can ever be made; `code` and a sentence say why."""
    return Settlement(job.id, job.epoch, job.batch_id, "failed", counted=True, error_code=code, error=error)


def text_to_check(question: Question, reply: Reply) -> str | None:
    """The JSON in an answer that must match a schema; None where there is nothing to match.

    A reply that calls a tool is no answer yet: the one after the tool's result is.
    """
    return None if question.schema is None or reply.tool_calls else json_text(reply.text)


def of_reply(
    job: Claimed,
    question: Question,
    reply: Reply,
    usage: Usage,
    seconds: float,
    *,
    complaint: Complaint | None = None,
    route: str = ONLINE,
) -> Settlement:
    """The question was answered by this route. If the answer breaks its schema, it is asked again, or fails."""
    code, error = mark_of(reply, question, usage)
    is_cut = code == CUT  # a cut answer was paid for, so it is kept and marked
    again = complaint is not None and not (complaint.is_final or is_cut) and job.failures + 1 < _SCHEMA_TRIES
    outcome: Outcome = "succeeded" if complaint is None else "retried" if again else "failed"
    if complaint is not None:
        sentence = f"{error} {complaint.sentence}" if is_cut else complaint.sentence
        code, error = CUT if is_cut else "schema_mismatch", _with_text(sentence, reply.text)
    spoken = (*question.messages, _answer_message(question, reply))
    model = reply.model or question.model
    answer = Answer(model, reply.finish_reason, spoken, job.dialogue_id, reply.reasoning or None)
    hold_reason, hold_seconds = announced_hold(reply.headers) or (None, 0.0)
    asked_tier = str(question.body.get("service_tier") or "")
    return Settlement(
        job.id,
        job.epoch,
        job.batch_id,
        outcome,
        counted=complaint is not None,
        seconds=seconds,
        http_status=reply.status,
        request_id=reply.request_id,
        error_code=code,
        error=error,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_usd=_cost_usd(reply.model, question.model, usage, _tier(route, usage, asked_tier)),
        standard_usd=_cost_usd(reply.model, question.model, usage, ""),
        route=_booked(route, usage),
        answer=answer if complaint is None else None,
        hold_reason=hold_reason,
        hold_seconds=hold_seconds,
        is_doubtful=reply.usage is None,  # what was thought, or read from pictures, nobody here can count
    )


_DROPPED = {"role", "content", *NOT_KEPT}
_DROPPED_AT_THE_END = {*_DROPPED, *THOUGHTS}


def _answer_message(question: Question, reply: Reply) -> Message:
    """The reply as the dialogue keeps it. What the model thought is part of it only where servers must have it back."""
    text = text_to_check(question, reply) or reply.text
    in_loop = bool(reply.tool_calls) or any(message.role == "tool" for message in question.messages[-1:])
    dropped = _DROPPED if in_loop else _DROPPED_AT_THE_END
    rest = {name: value for name, value in reply.message.items() if name not in dropped}
    if reply.tool_calls and not calls_of(rest):
        rest["tool_calls"] = list(reply.tool_calls)
    return Message.of({"role": "assistant", "content": text or None, **rest})


def of_error(
    job: Claimed,
    error: CallError,
    verdict: Verdict,
    seconds: float,
    model: str = "",
    *,
    route: str = ONLINE,
    asked_tier: str = "",
) -> Settlement:
    """A call by this route failed after `seconds`; the verdict says what follows.

    `model` and `asked_tier` give the price if it was billed.
    """
    usage = error.usage
    return Settlement(
        job.id,
        job.epoch,
        job.batch_id,
        _OUTCOME_OF[verdict.action],
        delay_seconds=verdict.delay_seconds,
        counted=verdict.counted,
        seconds=seconds,
        http_status=error.status,
        request_id=error.request_id,
        error_code=verdict.code,
        error=_with_text(verdict.message, error.text) if error.kind == "status" else verdict.message,
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        cost_usd=_cost_usd(model, model, usage, _tier(route, usage, asked_tier)),
        refused=verdict.refused,
        route=_booked(route, usage),
        standard_usd=_cost_usd(model, model, usage, ""),
        is_doubtful=usage is None and error.kind in _MAYBE_BILLED,
    )


def _with_text(sentence: str, text: str) -> str:
    """A sentence and the beginning of the text that was paid for."""
    return f"{sentence.rstrip('.')}: {one_line(text, _KEPT_CHARACTERS)}" if text.strip() else sentence


def verdict_on(error: CallError, job: Claimed) -> Verdict:
    """What follows from an error for this job, within the configured limits of attempts and time."""
    return classify(
        error,
        failures=job.failures,
        age_seconds=job.age_seconds,
        max_attempts=settings().max_attempts,
        retry_seconds=settings().retry_seconds,
    )


def usage_of(question: Question, reply: Reply) -> Usage:
    """Tokens as the server counted them, else our own count."""
    if reply.usage is not None:
        return reply.usage
    prompt = sum(cost.count_many(question.texts, question.model)) + question.picture_tokens
    overhead = cost.chat_overhead_tokens(len(question.texts))
    return Usage(prompt + overhead, sum(cost.count_many([reply.text, reply.reasoning], question.model)))


def _tier(route: str, usage: Usage | None, asked_tier: str = "") -> str:
    """Whose price counts: at the Batch API its own, whatever its lines say; online that of the tier that is named."""
    if ROUTES[route].is_upstream:
        return ROUTES[route].tier
    return (usage.tier if usage else "") or asked_tier or ROUTES[route].tier


def _booked(route: str, usage: Usage | None) -> str | None:
    """The route in the ledger: online (None) also where the server has served a flex call at another tier."""
    is_other = not ROUTES[route].is_upstream and usage is not None and usage.tier not in ("", ROUTES[route].tier)
    return None if route == ONLINE or is_other else route


def _cost_usd(model: str, requested_model: str, usage: Usage | None, tier: str) -> float | None:
    """By the model that the reply names, else by that which was asked for."""
    if usage is None:
        return None
    price = cost.price(model, tier) or cost.price(requested_model, tier)
    if price is None:
        return None
    written, written_long = usage.cache_write_tokens, usage.long_cache_write_tokens
    return price.cost(usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, written, written_long)
