"""A dialogue is its first turn and all turns that continue it; they are put together here.

A turn is an answered job's row in `dialogues` with its messages. The first turn is the root: its id is the dialogue's.
Later turns name it in `root_id` and have only the messages that they added. The order of their ids is the order in
which they were asked: of one dialogue only the oldest open job may run (`models.claims`).
"""

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, func, or_, select

from tidemill.models.answers import Message, stored_message
from tidemill.models.json_types import JsonObject
from tidemill.models.tables import dialogues, messages

INSTRUCTIONS = ("system", "developer")
"""Roles of the instructions of a dialogue."""

_LAST_ID = 2**63 - 1
"""The largest id that a database takes in a query."""


class TurnMessage(NamedTuple):
    """One message, and the turn that it belongs to."""

    turn_id: int
    role: str
    content: str
    rest: JsonObject | None

    @property
    def message(self) -> Message:
        """What was said, whole."""
        return stored_message(self.role, self.content, self.rest)


def root_of(connection: Connection, turn_id: int) -> int | None:
    """The dialogue of a turn; None if there is no such turn."""
    if not 0 < turn_id <= _LAST_ID:
        return None
    statement = select(func.coalesce(dialogues.c.root_id, dialogues.c.id)).where(dialogues.c.id == turn_id)
    root_id: int | None = connection.scalar(statement)
    return root_id


def of_dialogue(root_id: int) -> ColumnElement[bool]:
    """Whether a row of `dialogues` is a turn of this dialogue."""
    return or_(dialogues.c.id == root_id, dialogues.c.root_id == root_id)


def count_turns(connection: Connection, root_id: int) -> int:
    """How many turns a dialogue has."""
    return connection.scalar(select(func.count()).select_from(dialogues).where(of_dialogue(root_id))) or 0


def messages_of(connection: Connection, root_id: int, before: int | None = None) -> list[TurnMessage]:
    """All messages of a dialogue in order; with `before`, only those of turns before this one."""
    statement = (
        select(messages.c.dialogue_id, messages.c.role, messages.c.content, messages.c.rest)
        .join(dialogues, dialogues.c.id == messages.c.dialogue_id)
        .where(of_dialogue(root_id))
        .order_by(messages.c.dialogue_id, messages.c.position)
    )
    if before is not None:
        statement = statement.where(dialogues.c.id < before)
    return [TurnMessage(*row) for row in connection.execute(statement)]


def history(connection: Connection, root_id: int, before: int | None = None) -> list[TurnMessage]:
    """What is sent before the next turn, or before a certain one: all messages, under the latest instructions.

    If the instructions have changed, only those of the last turn that has any are in force.
    """
    messages_before = messages_of(connection, root_id, before)
    instructions = [each for each in messages_before if each.role in INSTRUCTIONS]
    in_force = [each for each in instructions if each.turn_id == instructions[-1].turn_id]
    return in_force + [each for each in messages_before if each.role not in INSTRUCTIONS]


def too_long(model: str, most: int, before: int, prompt: int, needed: int) -> str:
    """The sentence for a dialogue that is too long for its model; all numbers are tokens."""
    answer = f" and leave {needed:,} for the answer" if needed else ""
    return (
        f"The dialogue has {before:,} tokens so far; with this prompt they are {before + prompt:,}{answer}, and "
        f"{model} takes {most:,}. --trim oldest leaves the oldest turns out, another --model may take more."
    )
