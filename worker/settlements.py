"""A reply or an error becomes a settlement here, by whatever route and however late it comes back.

Pure functions from a question and its result to a `Settlement`. The live call uses them a moment after it asked;
another route may use them hours later.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from tidemill.models import cost
from tidemill.models.answers import Answer, Message
from tidemill.models.json_types import JsonObject
from tidemill.models.provider import CallError, Reply, Usage
from tidemill.models.replies import CUT
from tidemill.models.settings import settings
from tidemill.models.text import dumps, loads, one_line
from tidemill.models.transitions import Claimed, Outcome, Settlement
from tidemill.worker.questions import Question
from tidemill.worker.retries import Verdict, announced_hold, classify
from tidemill.worker.rules import Action

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_OUTCOME_OF: dict[Action, Outcome] = {"retry": "retried", "hold": "held", "fail": "failed"}
"""What follows from a failed call -> how the job ends this time."""

_CUT_SENTENCE = "The answer was cut at the limit of tokens; a higher --max-tokens asks anew for all of it."
_SCHEMA_TRIES = 3


def of_snooze(job: Claimed, delay_seconds: float = 0.0) -> Settlement:
    """No call was made, because it is too early for the job or nobody wants it at present."""
    return Settlement(job.id, job.epoch, job.batch_id, "snoozed", delay_seconds)


def of_step(job: Claimed, delay_seconds: float = 0.0) -> Settlement:
    """One of the job's steps was made; the next one follows after the delay."""
    return Settlement(job.id, job.epoch, job.batch_id, "stepped", delay_seconds)


def of_defect(job: Claimed, code: str, error: str) -> Settlement:
    """No call can ever be made; `code` and a sentence say why."""
    return Settlement(job.id, job.epoch, job.batch_id, "failed", counted=True, error_code=code, error=error)


def of_reply(job: Claimed, question: Question, reply: Reply, usage: Usage, seconds: float) -> Settlement:
    """The question was answered. If the answer breaks its schema, it is asked again, or fails."""
    complaint = _schema_complaint(question.schema, reply.text)
    again = complaint is not None and job.failures + 1 < _SCHEMA_TRIES
    outcome: Outcome = "succeeded" if complaint is None else "retried" if again else "failed"
    # A cut answer was paid for, so it is kept and marked.
    cut = (CUT, _CUT_SENTENCE) if reply.finish_reason == CUT else (None, None)
    code, error = cut if complaint is None else ("schema_mismatch", complaint)
    answer_message = Message("assistant", reply.text or dumps(reply.tool_calls))
    answer = Answer(
        reply.model or question.model, reply.finish_reason, (*question.messages, answer_message), job.dialogue_id
    )
    hold_reason, hold_seconds = announced_hold(reply.headers) or (None, 0.0)
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
        cost_usd=_cost_usd(reply.model, question.model, usage),
        answer=answer if complaint is None else None,
        hold_reason=hold_reason,
        hold_seconds=hold_seconds,
    )


def of_error(job: Claimed, error: CallError, verdict: Verdict, seconds: float, model: str = "") -> Settlement:
    """A call failed after `seconds`; the verdict says what follows. `model` gives the price if it was billed."""
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
        error=verdict.message,
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        cost_usd=_cost_usd(model, model, usage),
        refused=verdict.refused,
    )


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
    return Usage(prompt + overhead, cost.count_tokens(reply.text, question.model))


def _cost_usd(model: str, requested_model: str, usage: Usage | None) -> float | None:
    price = cost.price(model) or cost.price(requested_model) if usage else None
    if price is None or usage is None:
        return None
    return price.cost(usage.input_tokens, usage.output_tokens, usage.cached_input_tokens)


def _schema_complaint(schema: JsonObject | None, text: str) -> str | None:
    """Why the reply breaks the schema; None if it does not."""
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
def _validator(schema: str) -> "Validator":
    from jsonschema.validators import validator_for  # imported here, because most batches have no schema

    parsed = loads(schema)
    return validator_for(parsed)(parsed)
