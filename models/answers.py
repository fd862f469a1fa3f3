"""A paid answer is recorded once, whatever calls it what, and copied where a twin shares it.

It becomes a row of `dialogues`, whose id is the job's, and the messages of that turn. Whose answer may be recorded is
`models.transitions`' affair; here the primary key is the second wall.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, Table, literal, select
from sqlalchemy.sql.dml import Insert

from tidemill.models import pictures
from tidemill.models.bulk import BulkRows, insert_for
from tidemill.models.clock import now
from tidemill.models.job_requests import asked
from tidemill.models.tables import batches, dialogues, fit, jobs, messages
from tidemill.models.text import encode

_DIALOGUES = BulkRows(id="int", batch_id="text", model="text", finish_reason="text", root_id="int")
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
    """The dialogue that it goes on."""


def record(connection: Connection, answered: Sequence[tuple[int, str, Answer]]) -> None:
    """Store answers, each given as job id, batch id, answer; one that is stored already stays as it is."""
    dialogue_rows, message_rows = [], []
    for job_id, batch_id, answer in answered:
        named = fit(answer.model, dialogues.c.model), fit(answer.finish_reason, dialogues.c.finish_reason)
        dialogue_rows.append((job_id, batch_id, *named, answer.root_id))
        message_rows += [
            (job_id, position, fit(message.role, messages.c.role), encode(message.content))
            for position, message in enumerate(answer.messages)
        ]
    connection.execute(_add_dialogues(connection), _DIALOGUES.parameters(connection, dialogue_rows))
    connection.execute(_add_messages(connection), _MESSAGES.parameters(connection, message_rows))


def copy(connection: Connection, twin_id: int, job_id: int) -> None:
    """Let a job have its twin's answer, judgement included, about its own file."""
    answered = [column for column in dialogues.c if column.name not in ("id", "created_at")]
    names = ["id", "created_at", *(column.name for column in answered)]
    picked = select(literal(job_id), now(), *answered).where(dialogues.c.id == twin_id)
    connection.execute(_add_once(connection, dialogues, names, picked))
    picture = asked(connection.execute(select(jobs.c.request).where(jobs.c.id == job_id)).scalar_one()).picture
    spoken = select(messages.c.position, messages.c.role, messages.c.content).where(messages.c.dialogue_id == twin_id)
    copied = []
    for position, role, content in connection.execute(spoken):
        shown = pictures.shown(content)  # the same picture, but this row's file
        own = content if shown is None or picture is None else pictures.message(shown.text, picture)
        copied.append((job_id, position, role, encode(own)))
    connection.execute(_add_messages(connection), _MESSAGES.parameters(connection, copied))


def _add_dialogues(connection: Connection) -> Insert:
    rows = _DIALOGUES.table(connection)
    assistant = select(batches.c.assistant_id).where(batches.c.id == rows.c.batch_id).scalar_subquery()
    picked = select(*rows.c, assistant.label("assistant_id"), now().label("created_at")).where(rows.c.id > 0)
    return _add_once(connection, dialogues, [*_DIALOGUES.columns, "assistant_id", "created_at"], picked)


def _add_messages(connection: Connection) -> Insert:
    rows = _MESSAGES.table(connection)
    return _add_once(connection, messages, list(_MESSAGES.columns), select(*rows.c).where(rows.c.position >= 0))


def _add_once(connection: Connection, table: Table, columns: list[str], picked: Select[Any]) -> Insert:
    # The epoch has kept everybody else out already, and this does not raise, lest one row that should not be there keep
    # a hundred paid answers from being stored.
    statement: Any = insert_for(connection)(table).from_select(columns, picked, include_defaults=False)
    added: Insert = statement.on_conflict_do_nothing()
    return added
