"""A doubtful answer was paid for: it is kept, and its row says what is doubtful about it."""

from tidemill.models.provider import Reply, Usage
from tidemill.models.refusals import REFUSAL, SENTENCE, is_refusal
from tidemill.models.replies import Mark
from tidemill.models.text import one_line
from tidemill.worker.questions import Question

_SENTENCES: dict[Mark, str] = {
    "length": "The answer was cut at the limit of tokens; a higher --max-tokens asks anew for all of it.",
    "unknown_finish_reason": "The answer may not be whole: the server gives a reason for its end that is unknown: {}.",
    "no_finish_reason": "The answer may not be whole: the server does not say how it ended.",
    "misplaced_answer": (
        "The server sent only what the model thought, and that stands here as the answer; look at the server's "
        "setting of how thinking is told from answers (its reasoning parser)."
    ),
}


def mark_of(reply: Reply, question: Question, usage: Usage) -> tuple[str, str] | tuple[None, None]:
    """The code and the sentence for an answer that may not be whole, or refuses a picture; else (None, None)."""
    mark = reply.mark
    if not reply.finish_reason and 0 < question.room_tokens <= usage.output_tokens:
        mark = "length"  # a server without finish reasons, at the limit that was set
    if mark is not None:
        return mark, _SENTENCES[mark].format(one_line(reply.finish_reason, 60))
    if question.picture is not None and is_refusal(reply.text):
        return REFUSAL, SENTENCE
    return None, None
