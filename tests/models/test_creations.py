"""A creation is written down before it is sent, by its owner alone, and what is known of it is there for the next."""

import pytest
from sqlalchemy import Connection, update

from tests.waiting import limit
from tidemill.models import creations
from tidemill.models.clock import now_after
from tidemill.models.creations import Creation, LostError, Owner, Place
from tidemill.models.database import reading, writing
from tidemill.models.tables import creations as table

pytestmark = pytest.mark.usefixtures("database")

FILE, BATCH = Place("file", 0), Place("batch", 1)


def check(_: Connection) -> None:
    """It is still this worker's."""


def fail(_: Connection) -> None:
    raise LostError


OWNER, OTHER = Owner("upstream 1", check), Owner("upstream 11", check)
LOST = Owner(OWNER.key, fail)


def intend(place: Place = FILE, owner: Owner = OWNER) -> str:
    with writing() as connection:
        return creations.intend(connection, owner, place)


def withdraw(place: Place = FILE) -> None:
    with writing() as connection:
        creations.withdraw(connection, OWNER, place)


def record(remote_id: str, place: Place = FILE) -> None:
    with writing() as connection:
        creations.record(connection, OWNER, place, remote_id)


def known(owner: Owner = OWNER) -> dict[Place, Creation]:
    with reading() as connection:
        return creations.load(connection, owner.key)


def is_begun(step: str, owner: Owner = OWNER) -> bool:
    with reading() as connection:
        return creations.is_begun(connection, owner.key, step)


def test_what_is_intended_is_in_doubt_until_it_is_recorded() -> None:
    assert known() == {}
    token = intend()
    (creation,) = known().values()
    assert (creation.token, creation.remote_id, creation.sends) == (token, None, 1)
    assert creation.doubt_seconds == pytest.approx(0, abs=limit(5))
    record("file-1")
    assert known() == {FILE: Creation(token, "file-1", None, 1)}


def test_doubt_grows_with_the_time_since_the_last_sending() -> None:
    intend()
    with writing() as connection:
        connection.execute(update(table).values(sent_at=now_after(-900.0)))
    assert known()[FILE].doubt_seconds == pytest.approx(900, abs=limit(5))
    intend()
    assert known()[FILE].doubt_seconds == pytest.approx(0, abs=limit(5))


def test_a_creation_keeps_its_token_however_often_it_is_sent() -> None:
    tokens = {intend() for _ in range(3)}
    assert known()[FILE].sends == 3
    assert tokens == {known()[FILE].token}


def test_what_was_withdrawn_is_not_in_doubt_and_was_never_sent() -> None:
    token = intend()
    withdraw()
    assert known() == {FILE: Creation(token, None, None, 0)}
    assert intend() == token
    assert known()[FILE].sends == 1


def test_every_owner_step_and_round_has_a_creation_of_its_own() -> None:
    again = Place(BATCH.step, 2)
    tokens = [intend(), intend(BATCH), intend(again), intend(FILE, OTHER)]
    assert len(set(tokens)) == 4
    record("batch-1", BATCH)
    assert {place: creation.remote_id for place, creation in known().items()} == {
        FILE: None,
        BATCH: "batch-1",
        again: None,
    }
    assert known(OTHER)[FILE].remote_id is None


def test_earlier_ids_are_those_of_the_same_step_in_rounds_before() -> None:
    for place, remote_id in ((FILE, "file-1"), (BATCH, "batch-1"), (Place("batch", 2), "batch-2")):
        intend(place)
        record(remote_id, place)
    intend(Place("batch", 3))
    assert creations.earlier_ids(known(), BATCH) == set()
    assert creations.earlier_ids(known(), Place("batch", 2)) == {"batch-1"}
    assert creations.earlier_ids(known(), Place("batch", 4)) == {"batch-1", "batch-2"}


def test_a_step_is_begun_once_it_was_intended_in_any_round() -> None:
    assert not is_begun("batch")
    intend(Place("batch", 3))
    assert is_begun("batch")
    assert not is_begun("file")
    assert not is_begun("batch", OTHER)


def test_who_has_lost_the_owner_writes_nothing() -> None:
    token = intend()
    with writing() as connection:
        with pytest.raises(LostError):
            creations.intend(connection, LOST, FILE)
        with pytest.raises(LostError):
            creations.withdraw(connection, LOST, FILE)
        with pytest.raises(LostError):
            creations.record(connection, LOST, FILE, "file-2")
    (creation,) = known().values()
    assert (creation.token, creation.remote_id, creation.sends) == (token, None, 1)
    assert creation.doubt_seconds is not None
