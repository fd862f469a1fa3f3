"""A later turn is sent with all messages before it, as far as the model can take them."""

from tidemill.models import cost, turns
from tidemill.models.answers import Message
from tidemill.models.options import Options
from tidemill.models.provider import CallError
from tidemill.worker.questions import Question, part_tokens, tokens_of

TOO_LONG = "context_length_exceeded"


def fit_history(options: Options, question: Question) -> tuple[Message, ...]:
    """As much of a question's history as the model takes: all of it, or with `trim` without its oldest turns.

    The first count takes half a second, so this does not belong on the loop.

    Raises:
        CallError: code TOO_LONG: it is too long and must not be trimmed, or is too long even then.
    """
    most, needed = cost.context_tokens(question.model), question.room_tokens
    if most is None or needed + sum(map(cost.estimate_tokens, question.texts)) + question.picture_tokens <= most // 2:
        return question.history  # clearly short enough; counting would take longer
    before = [_tokens(message, options, question.model) for message in question.history]
    prompt = sum(_tokens(message, options, question.model) for message in question.messages)
    kept = list(zip(question.history, before, strict=True))
    fixed = needed + prompt + cost.chat_overhead_tokens(0)
    while fixed + sum(tokens for _, tokens in kept) > most:
        trimmable = [number for number, (message, _) in enumerate(kept) if message.role not in turns.INSTRUCTIONS]
        questions = [number for number in trimmable[1:] if kept[number][0].role == "user"]
        # A tool's result is nothing without the call that it answers
        is_bound = not questions and any(message.role in {"tool", "function"} for message in question.messages[:1])
        if options.trim is None or not trimmable or is_bound:
            raise CallError("request", turns.too_long(question.model, most, sum(before), prompt, needed), code=TOO_LONG)
        trimmed = trimmable[: trimmable.index(questions[0])] if questions else trimmable
        kept = [each for number, each in enumerate(kept) if number not in trimmed]
    return tuple(message for message, _ in kept)


def _tokens(message: Message, options: Options, model: str) -> int:
    shown = message.picture
    picture_tokens = part_tokens(message) if shown is None else tokens_of(options, shown.picture)
    text_tokens = cost.count_tokens(message.read, model)
    return text_tokens + picture_tokens + cost.chat_overhead_tokens(1) - cost.chat_overhead_tokens(0)
