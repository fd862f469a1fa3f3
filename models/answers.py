"""A paid answer is recorded once, and copied for each twin that shares it.

It becomes a row of `dialogues`, whose id is the job's, and the messages of that turn. `models.transitions` decides
whose answer may be recorded; the primary key is the second wall.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Insert, Select, Table, literal, select

from tidemill.models import pictures
from tidemill.models.bulk import BulkRows, insert_for
from tidemill.models.clock import now
from tidemill.models.job_requests import read_ask_request
from tidemill.models.tables import batches, dialogues, fit, jobs, messages
from tidemill.models.text import encode

_DIALOGUES = BulkRows(id="int", batch_id="text", model="text", finish_reason="text", root_id="int", reasoning="text")
_MESSAGES = BulkRows(dialogue_id="int", position="int", role="text", content="text")


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody said in a dialogue."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a succeeded job leaves behind: a turn of a dialogue with its messages."""

    model: str
    finish_reason: str
    messages: tuple[Message, ...]
    root_id: int | None = None
    """The dialogue that it continues."""
    reasoning: str | None = None
    """What the model thought before it answered."""


def record(connection: Connection, answered: Sequence[tuple[int, str, Answer]]) -> None:
    """Store answers, each with its job's id and its batch's; an answer that is stored already stays as it is."""
    dialogue_rows, message_rows = [], []
    for job_id, batch_id, answer in answered:
        model, reason = fit(answer.model, dialogues.c.model), fit(answer.finish_reason, dialogues.c.finish_reason)
        reasoning = None if answer.reasoning is None else encode(answer.reasoning)
        dialogue_rows.append((job_id, batch_id, model, reason, answer.root_id, reasoning))
        message_rows += [
            (job_id, position, fit(message.role, messages.c.role), encode(message.content))
            for position, message in enumerate(answer.messages)
        ]
    connection.execute(_add_dialogues(connection), _DIALOGUES.parameters(connection, dialogue_rows))
    connection.execute(_add_messages(connection), _MESSAGES.parameters(connection, message_rows))


def copy(connection: Connection, twin_id: int, job_id: int) -> None:
    """Give a job the answer of its twin, with its judgement; the messages name the job's own file."""
    columns = [column for column in dialogues.c if column.name not in ("id", "created_at")]
    names = ["id", "created_at", *(column.name for column in columns)]
    twin_dialogue = select(literal(job_id), now(), *columns).where(dialogues.c.id == twin_id)
    connection.execute(_add_once(connection, dialogues, names, twin_dialogue))
    request = connection.execute(select(jobs.c.request).where(jobs.c.id == job_id)).scalar_one()
    picture = read_ask_request(request).picture
    columns = [messages.c.position, messages.c.role, messages.c.content]
    message_rows = []
    for position, role, content in connection.execute(select(*columns).where(messages.c.dialogue_id == twin_id)):
        parts = pictures.load_message(content)
        own_content = content if parts is None or picture is None else pictures.dump_message(parts.text, picture)
        message_rows.append((job_id, position, role, encode(own_content)))
    connection.execute(_add_messages(connection), _MESSAGES.parameters(connection, message_rows))


def _add_dialogues(connection: Connection) -> Insert:
    rows = _DIALOGUES.table(connection)
    assistant = select(batches.c.assistant_id).where(batches.c.id == rows.c.batch_id).scalar_subquery()
    new_rows = select(*rows.c, assistant.label("assistant_id"), now().label("created_at")).where(rows.c.id > 0)
    return _add_once(connection, dialogues, [*_DIALOGUES.columns, "assistant_id", "created_at"], new_rows)


def _add_messages(connection: Connection) -> Insert:
    rows = _MESSAGES.table(connection)
    return _add_once(connection, messages, list(_MESSAGES.columns), select(*rows.c).where(rows.c.position >= 0))


def _add_once(connection: Connection, table: Table, columns: list[str], rows: Select[*tuple[object, ...]]) -> Insert:
    # The epoch has kept everybody else out already. This does not raise: a row that should not be there must not keep
    # a hundred paid answers from being stored.
    insert = insert_for(connection)(table).from_select(columns, rows, include_defaults=False)
    return insert.on_conflict_do_nothing()
