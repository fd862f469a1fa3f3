"""A job's request, its batch's options and its dialogue become one question, ready to go out by any route.

Nothing here makes a call. A `Question` is a request and what the dialogue will keep of it; `worker.settlements` says
how its answer is recorded.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tidemill.models import cost, pictures, turns
from tidemill.models.answers import Message
from tidemill.models.endpoints import ENDPOINTS, Endpoint, Turn, by_url
from tidemill.models.errors import SettingsError
from tidemill.models.job_requests import AskRequest, BatchLine, read_ask_request
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Options
from tidemill.models.pictures import Picture
from tidemill.models.vision import picture_tokens

URL_TOKENS = 1_000
"""The tokens reserved for a picture, or another part that is no text, that only the provider will see."""


class Question(NamedTuple):
    """A request as it goes out: where to, the body, and the messages that the dialogue will hold."""

    endpoint: Endpoint
    body: JsonObject
    messages: tuple[Message, ...]
    picture: Picture | None = None
    """The picture in it: the job's own, or that of its dialogue."""
    picture_tokens: int = 0
    history: tuple[Message, ...] = ()
    """What is sent before the messages: for a later turn, the dialogue so far."""
    schema: JsonObject | None = None
    """JSON schema that the answer must match."""

    @property
    def texts(self) -> list[str]:
        """What the model reads of all messages as text, those of the history first."""
        return [message.read for message in (*self.history, *self.messages)]

    @property
    def model(self) -> str:
        """The model that is asked."""
        return str(self.body.get("model", ""))

    @property
    def room_tokens(self) -> int:
        """What it leaves for the answer; 0 when it sets no limit."""
        return self.endpoint.room(self.body)

    @property
    def most_tokens(self) -> int:
        """What a provider counts against tokens a minute: the estimated prompt and the room for the answer."""
        texts = self.texts
        prompt = sum(map(cost.estimate_tokens, texts)) + self.picture_tokens
        return prompt + cost.chat_overhead_tokens(len(texts)) + self.room_tokens


def build(options: Options, request: JsonObject, picture_url: str = "", history: tuple[Message, ...] = ()) -> Question:
    """The question of a job: its own request, then its batch's options, then further parameters.

    The body has no picture until `picture_url` is set. A later turn is sent after the dialogue's `history`.
    """
    question = _first_turn(options, read_ask_request(request), picture_url)
    return _later_turn(question, options, history, picture_url) if history else question


def _first_turn(options: Options, own: AskRequest, picture_url: str) -> Question:
    if own.line is not None:
        return _of_line(options, own.line)
    endpoint = ENDPOINTS[options.endpoint]
    asking = list(own.messages)
    if own.prompt is not None:
        parts = endpoint.picture_parts(own.prompt, picture_url, options.detail) if own.picture else own.prompt
        asking = [{"role": "user", "content": parts}]
    body = {"model": options.model, **endpoint.make_body(options, asking), **options.params}
    kept = _kept(endpoint, body)
    if own.picture is None:
        return Question(endpoint, body, kept, picture_tokens=sum(map(part_tokens, kept)), schema=options.schema)
    kept = (*kept[:-1], Message("user", pictures.dump_message(own.prompt or "", own.picture)))
    return Question(endpoint, body, kept, own.picture, tokens_of(options, own.picture), schema=options.schema)


def _of_line(options: Options, line: BatchLine) -> Question:
    """A batch line has its whole body; only the model may be missing."""
    endpoint = by_url(line.url)
    if endpoint is None:
        raise SettingsError(f"This worker knows no endpoint {line.url}; install the package that has it.")
    body = {"model": options.model, **line.body}
    kept = _kept(endpoint, body)
    return Question(endpoint, body, kept, picture_tokens=sum(map(part_tokens, kept)), schema=options.schema)


def _later_turn(question: Question, options: Options, history: tuple[Message, ...], picture_url: str) -> Question:
    """A question with its history, under its own instructions if it has any, else those of the history.

    The dialogue keeps its own instructions only if they are new in it.
    """
    in_force, before = split(history)
    own, rest = split(question.messages)
    if not own and options.system is not None:  # as a first turn, a batch line takes none from its batch
        own = (Message("system", options.system),)
    if not own or own == in_force:
        before, own = history, ()
    endpoint = question.endpoint
    asking = [turn for turn in endpoint.turns(question.body) if turn.get("role") not in turns.INSTRUCTIONS]
    earlier = endpoint.of_messages([_with_pixels(each, endpoint, options, picture_url) for each in (*own, *before)])
    body = endpoint.with_turns(question.body, [*earlier, *asking])
    about = _picture_of(before)
    tokens = question.picture_tokens + (0 if about is None else tokens_of(options, about))
    return Question(endpoint, body, (*own, *rest), question.picture or about, tokens, before, question.schema)


def split(messages: Sequence[Message]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """(instructions, all others)."""
    instructions = tuple(message for message in messages if message.role in turns.INSTRUCTIONS)
    return instructions, tuple(message for message in messages if message.role not in turns.INSTRUCTIONS)


def tokens_of(options: Options, picture: Picture) -> int:
    """The tokens that the provider will count for a picture, or our best guess."""
    if "url" in picture:
        return URL_TOKENS
    return picture_tokens(options.model, picture["width"], picture["height"], options.detail or "auto").tokens


def part_tokens(message: Message) -> int:
    """Our guess at the tokens of those parts of a message that are no text."""
    return URL_TOKENS * sum("text" not in part for part in message.parts or ())


def _with_pixels(message: Message, endpoint: Endpoint, options: Options, picture_url: str) -> Turn:
    """A stored message, whole, with its picture."""
    shown = message.picture
    if shown is None:
        return message.whole
    return {**message.whole, "content": endpoint.picture_parts(shown.text, picture_url, options.detail)}


def _picture_of(messages: Sequence[Message]) -> Picture | None:
    """The picture of a dialogue, if it has one."""
    with_pictures = (message.picture for message in messages)
    return next((each.picture for each in with_pictures if each is not None), None)


def _kept(endpoint: Endpoint, body: JsonObject) -> tuple[Message, ...]:
    """The turns of a body as the dialogue keeps them."""
    return tuple(map(Message.of, endpoint.to_messages(endpoint.turns(body))))
