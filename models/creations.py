"""What is created at the provider cannot be part of our transactions, so it is written down before it is sent.

Every creation has a token, which is committed before it is sent and goes out with it: in a file's name, in a job's
metadata. Whatever dies in between, the next worker looks for the token and adopts what it finds.

A creation is known by its owner and its place. All functions work on a connection in the caller's transaction. Those
that write do so only while this worker has the owner.
"""

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, select, update

from tidemill.models.bulk import insert_for
from tidemill.models.clock import now, seconds_since
from tidemill.models.tables import creations


class LostError(Exception):
    """The owner is no longer this worker's; the worker that has it now continues from what is written down."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What creations are made for, in the hands of one worker."""

    key: str
    """Short and the same for every worker, e.g. "job 17"."""
    check: Callable[[Connection], None]
    """Lock what makes it this worker's until the transaction ends. Raises LostError when it is another's."""


class Place(NamedTuple):
    """Which one of its owner's creations it is."""

    step: str
    """What is created, e.g. "training" for that file."""
    round: int
    """Raised to create the same anew, beside what earlier rounds have created."""


@dataclass(frozen=True, slots=True)
class Creation:
    """One creation at the provider: its token, and what is known of it."""

    token: str
    remote_id: str | None
    """What was created; None until that is known."""
    doubt_seconds: float | None
    """How long ago it was sent, or its reply was lost; None when nothing is under way."""
    sends: int
    """How often it was sent; after a second time, a duplicate may turn up late."""


Creations = Mapping[Place, Creation]
"""All creations of one owner."""


def load(connection: Connection, key: str) -> dict[Place, Creation]:
    """What is known of the creations of the owner with this key."""
    doubt = seconds_since(connection, creations.c.sent_at).label("doubt")
    rows = connection.execute(select(creations, doubt).where(creations.c.owner == key))
    return {
        Place(row.step, row.round): Creation(
            row.token, row.remote_id, None if row.doubt is None else float(row.doubt), row.sends
        )
        for row in rows
    }


def is_begun(connection: Connection, key: str, step: str) -> bool:
    """Whether this was ever about to be sent, in any round."""
    intended = select(creations.c.token).where(creations.c.owner == key, creations.c.step == step)
    return connection.execute(intended.limit(1)).first() is not None


def earlier_ids(known: Creations, place: Place) -> set[str]:
    """Ids at the provider of what earlier rounds created in the same step."""
    return {
        creation.remote_id
        for each, creation in known.items()
        if each.step == place.step and each.round < place.round and creation.remote_id is not None
    }


def intend(connection: Connection, owner: Owner, place: Place) -> str:
    """Note that this creation is about to be sent; returns its token. Commit before sending. Raises LostError."""
    owner.check(connection)
    new = {"owner": owner.key, "step": place.step, "round": place.round, "token": secrets.token_hex(12)}
    connection.execute(insert_for(connection)(creations).values(**new).on_conflict_do_nothing())
    sent = update(creations).where(*_at(owner, place)).values(sent_at=now(), sends=creations.c.sends + 1)
    return str(connection.scalar(sent.returning(creations.c.token)))


def doubt(connection: Connection, owner: Owner, place: Place) -> None:
    """Note that the reply is lost: what was just created may be missing from lists for a while. Raises LostError."""
    owner.check(connection)
    connection.execute(update(creations).where(*_at(owner, place)).values(sent_at=now()))


def withdraw(connection: Connection, owner: Owner, place: Place) -> None:
    """Note that what was intended has certainly created nothing. Raises LostError."""
    owner.check(connection)
    unsent = {"sent_at": None, "sends": creations.c.sends - 1}
    connection.execute(update(creations).where(*_at(owner, place)).values(**unsent))


def record(connection: Connection, owner: Owner, place: Place, remote_id: str) -> None:
    """Note the id of what was created or adopted. Raises LostError."""
    owner.check(connection)
    connection.execute(update(creations).where(*_at(owner, place)).values(remote_id=remote_id, sent_at=None))


def forget(connection: Connection, keys: Collection[str]) -> None:
    """Delete what is known of the creations of owners that are deleted."""
    for each in keys:
        connection.execute(delete(creations).where(creations.c.owner == each))


def _at(owner: Owner, place: Place) -> tuple[ColumnElement[bool], ...]:
    return creations.c.owner == owner.key, creations.c.step == place.step, creations.c.round == place.round
