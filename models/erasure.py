"""A person may ask for a dialogue to be deleted: its words go, and what it has cost stays in the books.

A job of it stays as a row without words. Its key, which is a hash, tells the same command that it was asked once, and
its attempts are the ledger.
"""

from typing import NamedTuple

from sqlalchemy import Connection, delete, or_, select

from tidemill.models import transitions, turns
from tidemill.models.database import Piece
from tidemill.models.errors import InputError
from tidemill.models.tables import OPEN_STATES, dataset_dialogues, datasets, dialogues, jobs, messages


class Extent(NamedTuple):
    """What a dialogue is made of, and what was made of it."""

    root_id: int
    turns: int
    batches: list[str]
    """Those that have a turn of it, also one that has failed."""
    datasets: list[str]
    """Names of the training data that it is in."""


def extent(connection: Connection, turn_id: int) -> Extent | None:
    """What belongs to the dialogue that this turn is of; None if there is no such turn."""
    root_id = turns.root_of(connection, turn_id)
    if root_id is None:
        return None
    of_dialogue = or_(jobs.c.id == root_id, jobs.c.dialogue_id == root_id)
    its_turns = select(dialogues.c.id).where(turns.of_dialogue(root_id))
    trained_on = select(dataset_dialogues.c.dataset_id).where(dataset_dialogues.c.dialogue_id.in_(its_turns))
    return Extent(
        root_id,
        turns.count_turns(connection, root_id),
        list(connection.scalars(select(jobs.c.batch_id).where(of_dialogue).distinct().order_by(jobs.c.batch_id))),
        list(connection.scalars(select(datasets.c.name).where(datasets.c.id.in_(trained_on)).order_by(datasets.c.id))),
    )


def erase(connection: Connection, root_id: int) -> Piece:
    """Delete a dialogue with all of its turns: a piece of them, the latest ones first, and the first turn at last.

    Raises:
        InputError: one of its turns is open. What earlier pieces have deleted is gone.
    """
    # Whoever claims a turn of a dialogue holds this lock.
    connection.execute(select(jobs.c.id).where(jobs.c.id == root_id).with_for_update())
    _check_not_open(connection, root_id)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete = ON")  # else the words stay readable in free pages
    later = select(jobs.c.id).where(jobs.c.dialogue_id == root_id).order_by(jobs.c.id.desc())
    ids = list(connection.scalars(later.limit(transitions.PIECE_ROWS)))
    is_last = len(ids) < transitions.PIECE_ROWS
    if is_last:
        ids.append(root_id)
    transitions.erase(connection, ids)
    for column in (dialogues.c.id, messages.c.dialogue_id, dataset_dialogues.c.dialogue_id):
        connection.execute(delete(column.table).where(column.in_(ids)))
    _check_not_open(connection, root_id)  # somebody may have gone on with it just now; then nothing has happened
    return Piece(len(ids), None if is_last else root_id)


def _check_not_open(connection: Connection, root_id: int) -> None:
    is_open = select(jobs.c.batch_id).where(jobs.c.dialogue_id == root_id, jobs.c.state.in_(OPEN_STATES))
    batch_id: str | None = connection.scalar(is_open.limit(1))
    if batch_id is not None:
        raise InputError(
            f"Dialogue {root_id} has an open turn in the batch {batch_id}; `tidemill cancel {batch_id}` ends it, then "
            "delete the dialogue."
        )
