"""Why this module exists: a dialogue is its first turn and all turns that went on from it, put together in one place.

A turn is an answered job's row in `dialogues` with its messages. The first turn is the root: its id is the dialogue's.
Later turns name it in `root_id`, hold only what they added, and follow by id, which is also the order in which they
were asked: of one dialogue only the oldest open job may run (`transitions.claim`).
"""

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, func, or_, select

from models.tables import dialogues, messages


class Said(NamedTuple):
    """One message, and the turn that it belongs to."""

    turn_id: int
    role: str
    content: str


def root_of(connection: Connection, turn_id: int) -> int | None:
    """The dialogue that a turn is of; None when there is no such turn."""
    wanted = select(func.coalesce(dialogues.c.root_id, dialogues.c.id)).where(dialogues.c.id == turn_id)
    found: int | None = connection.scalar(wanted)
    return found


def of_dialogue(root_id: int) -> ColumnElement[bool]:
    """Whether a row of `dialogues` is a turn of this one."""
    return or_(dialogues.c.id == root_id, dialogues.c.root_id == root_id)


def answered(connection: Connection, root_id: int) -> int:
    """How many turns a dialogue has."""
    return connection.scalar(select(func.count()).select_from(dialogues).where(of_dialogue(root_id))) or 0


def said(connection: Connection, root_id: int, before: int | None = None) -> list[Said]:
    """All messages of a dialogue in order; with `before`, of the turns that came before this one."""
    wanted = (
        select(messages.c.dialogue_id, messages.c.role, messages.c.content)
        .join(dialogues, dialogues.c.id == messages.c.dialogue_id)
        .where(of_dialogue(root_id))
        .order_by(messages.c.dialogue_id, messages.c.position)
    )
    if before is not None:
        wanted = wanted.where(dialogues.c.id < before)
    return [Said(*row) for row in connection.execute(wanted)]
