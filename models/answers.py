"""A paid answer is recorded once, and copied for each twin that shares it.

It becomes a row of `dialogues`, whose id is the job's, and the messages of that turn. `models.transitions` decides
whose answer may be recorded; the primary key is the second wall.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, Insert, Select, Table, literal, select

from tidemill.models import pictures
from tidemill.models.bulk import BulkRows, insert_for, run
from tidemill.models.clock import now
from tidemill.models.job_requests import read_ask_request
from tidemill.models.json_types import JsonObject
from tidemill.models.message_shapes import ITEMS, calls_of
from tidemill.models.pictures import PictureMessage
from tidemill.models.tables import batches, dialogues, fit, jobs, messages
from tidemill.models.text import dumps, encode, is_json, loads

_DIALOGUES = BulkRows(
    id="int",
    batch_id="text",
    model="text",
    finish_reason="text",
    root_id="int",
    reasoning="text",
    sentiment="text",
    sentiment_score="float",
    language="text",
)
_MESSAGES = BulkRows(dialogue_id="int", position="int", role="text", content="text", rest="text")
_PARTS = ("text", "image_url", "input_text", "input_image", "input_audio", "input_file", "file")


class Message(NamedTuple):
    """What somebody said in a dialogue, in the words of Chat Completions.

    `content` is its text. `rest` is all else that the message has, by field; where the content is no text, but null or
    a list of parts, it is there too. Without it, a content that looks like parts is parts: older versions stored them
    so, and pictures still are.
    """

    role: str
    content: str
    rest: JsonObject = {}  # noqa: RUF012  # nobody changes it

    @staticmethod
    def of(turn: JsonObject) -> "Message":
        """The message that a body or a reply has in the shape of Chat Completions."""
        content = turn.get("content")
        rest = {name: value for name, value in turn.items() if name not in ("role", "content")}
        role, text = str(turn.get("role") or "user"), content if isinstance(content, str) else _words(content)
        if not isinstance(content, str) or (text.startswith("[{") and _looks_like_parts(role, text)):
            rest["content"] = content
        return Message(role, text, rest)

    @property
    def whole(self) -> JsonObject:
        """All of it, also what only the endpoint understands that it came from."""
        return {"role": self.role, "content": self.parts or self.content, **self.rest}

    @property
    def as_json(self) -> JsonObject:
        """The message for people and files: what a chat's body could hold."""
        return {name: value for name, value in self.whole.items() if name != ITEMS}

    @property
    def parts(self) -> list[JsonObject] | None:
        """The parts of its content; None for plain text, and for null."""
        if "content" in self.rest:
            content = self.rest["content"]
            return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else None
        return _parts(self.role, self.content)

    @property
    def picture(self) -> PictureMessage | None:
        """Its picture and the words about it, if Tidemill made it ready."""
        return None if "content" in self.rest or self.role != "user" else pictures.load_message(self.content)

    @property
    def calls(self) -> list[JsonObject]:
        """The tools that it calls."""
        return calls_of(self.rest)

    @property
    def words(self) -> str:
        """Its text, without pictures."""
        if "content" in self.rest or not self.content.startswith("[{"):
            return self.content
        if (picture := self.picture) is not None:
            return picture.text
        return self.content if (parts := self.parts) is None else _words(parts)

    @property
    def read(self) -> str:
        """All that a model reads of it as text, tool calls included: what its tokens are counted of."""
        calls = self.calls if self.rest else []
        return f"{self.words}{dumps(calls)}" if calls else self.words


def _words(content: object) -> str:
    if not isinstance(content, list):
        return "" if content is None else str(content)
    return "\n".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)


def _looks_like_parts(role: str, content: str) -> bool:
    return _parts(role, content) is not None or pictures.load_message(content) is not None


def _parts(role: str, content: str) -> list[JsonObject] | None:
    """The parts of a content that was stored as JSON; None for plain text, which every model's answer is."""
    if role == "assistant" or not content.startswith("[{"):
        return None
    try:
        parts = loads(content)
    except ValueError:
        return None
    return parts if all(isinstance(part, dict) and part.get("type") in _PARTS for part in parts) else None


class Answer(NamedTuple):
    """What a succeeded job leaves behind: a turn of a dialogue with its messages."""

    model: str
    finish_reason: str
    messages: tuple[Message, ...]
    root_id: int | None = None
    """The dialogue that it continues."""
    reasoning: str | None = None
    """What the model thought before it answered."""
    sentiment: str | None = None
    """None: not judged yet."""
    sentiment_score: float | None = None
    language: str | None = None


def record(connection: Connection, answered: Sequence[tuple[int, str, Answer]]) -> None:
    """Store answers, each with its job's id and its batch's; an answer that is stored already stays as it is."""
    dialogue_rows, message_rows = [], []
    for job_id, batch_id, answer in answered:
        model, reason = fit(answer.model, dialogues.c.model), fit(answer.finish_reason, dialogues.c.finish_reason)
        sentiment = answer.sentiment if answer.messages[-1].content else "unknown"  # only tool calls: nothing to judge
        judgement = sentiment, answer.sentiment_score, answer.language
        reasoning = None if answer.reasoning is None else encode(answer.reasoning)
        dialogue_rows.append((job_id, batch_id, model, reason, answer.root_id, reasoning, *judgement))
        message_rows += [
            (job_id, position, fit(message.role, messages.c.role), encode(message.content), _rest(message))
            for position, message in enumerate(answer.messages)
        ]
    run(connection, _add_dialogues, _DIALOGUES.filled(dialogue_rows))
    run(connection, _add_messages, _MESSAGES.filled(message_rows))


def copy(connection: Connection, twin_id: int, job_id: int) -> None:
    """Give a job the answer of its twin, with its judgement; the messages name the job's own file."""
    columns = [column for column in dialogues.c if column.name not in ("id", "created_at")]
    names = ["id", "created_at", *(column.name for column in columns)]
    twin_dialogue = select(literal(job_id), now(), *columns).where(dialogues.c.id == twin_id)
    connection.execute(_add_once(connection, dialogues, names, twin_dialogue))
    request = connection.execute(select(jobs.c.request).where(jobs.c.id == job_id)).scalar_one()
    picture = read_ask_request(request).picture
    columns = [messages.c.position, messages.c.role, messages.c.content, messages.c.rest]
    message_rows = []
    for position, *fields in connection.execute(select(*columns).where(messages.c.dialogue_id == twin_id)):
        message = stored_message(*fields)
        shown = message.picture
        own = message.content if shown is None or picture is None else pictures.dump_message(shown.text, picture)
        message_rows.append((job_id, position, message.role, encode(own), _rest(message)))
    run(connection, _add_messages, _MESSAGES.filled(message_rows))


def stored_message(role: str, content: str, rest: JsonObject | None) -> Message:
    """A row of `messages`."""
    return Message(role, content, rest or {})


def _rest(message: Message) -> str | None:
    """The column `rest`. A field that JSON has no form for must not cost the answer."""
    if not message.rest:
        return None
    try:
        return dumps(message.rest)
    except (TypeError, ValueError):
        return dumps({name: value for name, value in message.rest.items() if is_json(value)})


def _add_dialogues(connection: Connection) -> Insert:
    rows = _DIALOGUES.values(connection)
    assistant = select(batches.c.assistant_id).where(batches.c.id == rows.c.batch_id).scalar_subquery()
    new_rows = select(*rows.c, assistant.label("assistant_id"), now().label("created_at")).where(rows.c.id > 0)
    return _add_once(connection, dialogues, [*_DIALOGUES.columns, "assistant_id", "created_at"], new_rows)


def _add_messages(connection: Connection) -> Insert:
    rows = _MESSAGES.values(connection)
    return _add_once(connection, messages, list(_MESSAGES.columns), select(*rows.c).where(rows.c.position >= 0))


def _add_once(connection: Connection, table: Table, columns: list[str], rows: Select[*tuple[object, ...]]) -> Insert:
    # The epoch has kept everybody else out already. This does not raise: a row that should not be there must not keep
    # a hundred paid answers from being stored.
    insert = insert_for(connection)(table).from_select(columns, rows, include_defaults=False)
    return insert.on_conflict_do_nothing()
