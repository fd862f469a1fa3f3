"""An endpoint is one row of a table, and only here is known how OpenAI's ways to ask differ.

A row says where a request goes, how a body is made of options and messages, how a body is read again, and how the
reply is read. Installed packages add rows of their own (`models.registry`); the core knows none by name.
Sources: OpenAI's API reference of Chat Completions and Responses.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from tidemill.models import message_shapes
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Options
from tidemill.models.registry import Registry
from tidemill.models.replies import RawReply, Reply, parse_chat, parse_responses

Turn = JsonObject
"""A message as a body holds it: `{"role": .., "content": ..}`."""


class ParseReply(Protocol):
    """Reads the body of a success; raises CallError if it is no usable answer. `secret` is kept out of texts."""

    def __call__(self, raw: RawReply, *, secret: str = "") -> Reply: ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to ask.

    Args:
        path: below the base URL, e.g. `/chat/completions`.
        make_body: makes the body of options and the turns of a request; model and further parameters are added.
        picture_parts: makes the content of a turn of a prompt, a picture's URL and the detail.
        parse_reply: reads the reply.
        turns_field: the body's field for the turns, a list or one prompt as text.
        instructions_field: the body's field for the instructions, where they are no turn.
        room_fields: fields of the body that limit the answer's tokens; the first one present counts.
        stream_fields: what a body says besides, so that its answer comes in pieces; None: that is not known.
        to_messages, of_messages: make messages, in the shape of Chat Completions, of turns, and turns of messages.
    """

    name: str
    path: str
    make_body: Callable[[Options, Sequence[Turn]], JsonObject]
    picture_parts: Callable[[str, str, str | None], list[JsonObject]]
    parse_reply: ParseReply
    turns_field: str
    instructions_field: str | None
    room_fields: tuple[str, ...]
    stream_fields: JsonObject | None = None
    to_messages: Callable[[Sequence[Turn]], list[Turn]] = list
    of_messages: Callable[[Sequence[Turn]], list[Turn]] = message_shapes.to_chat

    @property
    def url(self) -> str:
        """Its name in a line of OpenAI's batch files."""
        return f"/v1{self.path}"

    def turns(self, body: JsonObject) -> list[Turn]:
        """The turns of a body, instructions first."""
        content = body.get(self.turns_field)
        turns: list[Turn] = [{"role": "user", "content": content}] if isinstance(content, str) else []
        if isinstance(content, (list, tuple)):  # what is no object the provider refuses
            turns = [turn for turn in content if isinstance(turn, dict)]
        instructions = body.get(self.instructions_field) if self.instructions_field else None
        return turns if instructions is None else [{"role": "system", "content": str(instructions)}, *turns]

    def with_turns(self, body: JsonObject, turns: Sequence[Turn]) -> JsonObject:
        """The body with these turns in place of its own; instructions are among them."""
        kept = {name: value for name, value in body.items() if name != self.instructions_field}
        return {**kept, self.turns_field: list(turns)}

    def room(self, body: JsonObject) -> int:
        """Tokens that a body leaves for the answer; 0 when it sets no limit."""
        return next((body[name] for name in self.room_fields if isinstance(body.get(name), int)), 0)

    def options(self, body: JsonObject) -> dict[str, tuple[str, object]]:
        """The fields of a body that say the same as options of ours: field -> (option, value)."""
        same = {
            **{name: (name, body.get(name)) for name in ("model", "temperature", "reasoning_effort")},
            **{name: ("max_tokens", body.get(name)) for name in self.room_fields},
            "reasoning": ("reasoning_effort", _only(body.get("reasoning"), "effort")),
            "response_format": ("schema", _schema_in(body.get("response_format"))),
            "text": ("schema", _schema_in(_only(body.get("text"), "format"))),
        }
        return {field: each for field, each in same.items() if each[1] is not None}

    def further(self, body: JsonObject) -> JsonObject:
        """The fields of a body that are no turns, and belong to more than its one call, such as tools."""
        left_out = {self.turns_field, self.instructions_field, *_OF_ITS_CALL}
        return {field: value for field, value in body.items() if field not in left_out}


_OF_ITS_CALL = ("previous_response_id", "conversation", "stream", "stream_options")
"""Fields of a body that say what comes before it, or how its one answer comes."""


def _only(value: object, name: str) -> object:
    """A field of an object that has no other; None where it has."""
    return value[name] if isinstance(value, dict) and [*value] == [name] else None


def _schema_in(shape: object) -> object:
    """The JSON schema in a `response_format`, or in the flat form of the Responses API; None where there is none."""
    if not isinstance(shape, dict) or shape.get("type") != "json_schema":
        return None
    inner = shape.get("json_schema", shape)
    return inner.get("schema") if isinstance(inner, dict) else None


def _without_none(**fields: object) -> JsonObject:
    return {name: value for name, value in fields.items() if value is not None}


# --- Chat Completions ---

_TAKES_COMPLETION_TOKENS = re.compile(r"(.*/)?(gpt-[5-9]|o\d)")
"""Models that do not take `max_tokens`; other servers know only that name."""


@lru_cache(maxsize=64)
def _room_name(model: str) -> str:
    return "max_completion_tokens" if _TAKES_COMPLETION_TOKENS.match(model) else "max_tokens"


def _chat_body(options: Options, turns: Sequence[Turn]) -> JsonObject:
    if options.system is not None and all(turn.get("role") not in ("system", "developer") for turn in turns):
        turns = [{"role": "system", "content": options.system}, *turns]
    schema = options.schema and {"name": "reply", "schema": options.schema, "strict": True}
    return _without_none(
        messages=list(turns),
        temperature=options.temperature,
        reasoning_effort=options.reasoning_effort,
        response_format=schema and {"type": "json_schema", "json_schema": schema},
        **{_room_name(options.model): options.max_tokens},
    )


def _chat_parts(prompt: str, url: str, detail: str | None) -> list[JsonObject]:
    image_url = {"url": url} if detail is None else {"url": url, "detail": detail}
    return [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": image_url}]


CHAT = Endpoint(
    name="chat",
    path="/chat/completions",
    make_body=_chat_body,
    picture_parts=_chat_parts,
    parse_reply=parse_chat,
    turns_field="messages",
    instructions_field=None,
    room_fields=("max_completion_tokens", "max_tokens"),
    stream_fields={"stream": True, "stream_options": {"include_usage": True}},
)


# --- Responses ---


def _responses_body(options: Options, turns: Sequence[Turn]) -> JsonObject:
    schema = {"type": "json_schema", "name": "reply", "schema": options.schema, "strict": True}
    return _without_none(
        input=message_shapes.to_items(turns),
        instructions=options.system,
        temperature=options.temperature,
        max_output_tokens=options.max_tokens,
        reasoning=options.reasoning_effort and {"effort": options.reasoning_effort},
        text=options.schema and {"format": schema},
    )


def _responses_parts(prompt: str, url: str, detail: str | None) -> list[JsonObject]:
    image = {"type": "input_image", "image_url": url}
    return [{"type": "input_text", "text": prompt}, image if detail is None else {**image, "detail": detail}]


RESPONSES = Endpoint(
    name="responses",
    path="/responses",
    make_body=_responses_body,
    picture_parts=_responses_parts,
    parse_reply=parse_responses,
    turns_field="input",
    instructions_field="instructions",
    room_fields=("max_output_tokens",),
    stream_fields={"stream": True},
    to_messages=message_shapes.of_items,
    of_messages=message_shapes.to_items,
)


ENDPOINTS = Registry("tidemill.endpoints", "endpoint", {row.name: row for row in (CHAT, RESPONSES)})


def by_url(url: object) -> Endpoint | None:
    """The endpoint with this name in OpenAI's batch files; None if there is none."""
    return next((row for row in _rows() if row.url == url), None)


def urls() -> list[str]:
    """The names of all endpoints in OpenAI's batch files."""
    return [row.url for row in _rows()]


def _rows() -> Iterator[Endpoint]:
    return (ENDPOINTS[name] for name in ENDPOINTS.names())
