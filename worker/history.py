"""A later turn is asked with all that was said before it, as far as the model can take it."""

from tidemill.models import cost, pictures, turns
from tidemill.models.answers import Message
from tidemill.models.options import Options
from tidemill.models.provider import CallError
from tidemill.worker.questions import URL_TOKENS, Question, tokens_of

TOO_LONG = "context_length_exceeded"


def fitted(options: Options, question: Question) -> tuple[Message, ...]:
    """As much of a question's history as the model takes: all of it, or with `trim` without its oldest turns.

    Takes half a second when it counts for the first time, so it does not belong on the loop.

    Raises:
        CallError: code TOO_LONG: it is too much, and must not be trimmed or is too much even so.
    """
    most, needed = cost.context_tokens(question.model), question.room_tokens
    if most is None or needed + sum(map(cost.estimate_tokens, question.texts)) + question.picture_tokens <= most // 2:
        return question.history  # plainly enough; counting would take longer
    before = [_tokens(message, options, question.model) for message in question.history]
    asked = sum(_tokens(message, options, question.model) for message in question.messages)
    kept = list(zip(question.history, before, strict=True))
    fixed = needed + asked + cost.chat_overhead_tokens(0)
    while fixed + sum(tokens for _, tokens in kept) > most:
        open_to_trim = [number for number, (message, _) in enumerate(kept) if message.role not in turns.INSTRUCTIONS]
        if options.trim is None or not open_to_trim:
            raise CallError("request", turns.too_long(question.model, most, sum(before), asked, needed), code=TOO_LONG)
        asks = [number for number in open_to_trim[1:] if kept[number][0].role == "user"]
        gone = open_to_trim[: open_to_trim.index(asks[0])] if asks else open_to_trim
        kept = [each for number, each in enumerate(kept) if number not in gone]
    return tuple(message for message, _ in kept)


def _tokens(message: Message, options: Options, model: str) -> int:
    shown, parts = pictures.load_message(message.content), turns.parts(message.role, message.content) or ()
    picture_tokens = 0 if shown is None else tokens_of(options, shown.picture)
    picture_tokens += URL_TOKENS * sum("text" not in part for part in parts)
    in_words = cost.count_tokens(turns.words(message.role, message.content), model)
    return in_words + picture_tokens + cost.chat_overhead_tokens(1) - cost.chat_overhead_tokens(0)
