"""Of a deleted dialogue no word stays, and every cent does; nobody asks it again."""

from pathlib import Path

import pytest

from tests.rows import (
    add_batch,
    add_jobs,
    check_tallies,
    count,
    dialogue,
    failure,
    job_row,
    put,
    set_job,
    success,
    take_one,
)
from tidemill.models import batches, erasure, transitions
from tidemill.models.answers import Answer, Message
from tidemill.models.clock import now_after
from tidemill.models.database import engine, transact, transact_in_pieces, writing
from tidemill.models.errors import InputError
from tidemill.models.tables import attempts, dataset_dialogues, datasets, dialogues, jobs, messages
from tidemill.models.text import dumps
from tidemill.models.transitions import Enqueued

pytestmark = pytest.mark.usefixtures("database")

SECRET = "Anna lives at Elm Street"


def erase(root_id: int) -> int:
    return transact_in_pieces(lambda connection, _: erasure.erase(connection, root_id))


def enqueue_secret() -> int:
    """The row that holds the secret, as the same command stores it each time."""
    words = dumps({"prompt": SECRET})
    with writing() as connection:
        transitions.enqueue(connection, "b", 1, [Enqueued("secret", SECRET, 0, words, words)])
    return 1


def add_turns(number: int) -> list[int]:
    """A dialogue whose first turn is in the batch b, and all others in `later`; one of these has failed."""
    add_batch("b", read_at=now_after(0.0))
    add_batch("later", read_at=now_after(0.0))
    root = enqueue_secret()
    said = Answer("m", "stop", (Message("user", SECRET), Message("assistant", SECRET)), reasoning=SECRET)
    put(success(take_one(root), answer=said))
    ids = add_jobs(number - 1, "later")
    for each in ids:
        set_job(each, dialogue_id=root)
    for each in ids[:-1]:
        put(success(take_one(each), answer=said._replace(root_id=root)))
    put(failure(take_one(ids[-1]), error=SECRET, cost_usd=0.25, input_tokens=10))
    return [root, *ids]


def money() -> tuple[float, int]:
    rows = [job_row(each) for each in range(1, count(jobs) + 1)]
    return sum(row.cost_usd or 0 for row in rows), sum(row.input_tokens for row in rows)


def test_all_turns_go_in_pieces_from_the_last_one_and_what_they_cost_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "PIECE_ROWS", 2)
    ids, paid = add_turns(5), money()
    with writing() as connection:
        assert erasure.extent(connection, ids[2]) == (ids[0], 4, ["b", "later"], [])
        erasure.erase(connection, ids[0])
    assert dialogue(ids[0]) is not None, "a kill after the first piece leaves what begins again"
    assert erase(ids[0]) == 3
    assert (count(dialogues), count(messages)) == (0, 0)
    rows = [job_row(each) for each in ids]
    assert {(row.state, row.error_code, row.custom_id, row.dialogue_id) for row in rows} == {
        ("failed", "deleted", "", None)
    }
    assert all(SECRET not in str(tuple(row)) for row in rows)
    assert count(attempts) == 5
    assert count(attempts, attempts.c.error.is_not(None)) == 0
    assert money() == paid
    for batch_id in ("b", "later"):
        check_tallies(batch_id)


def test_the_same_command_neither_asks_it_again_nor_brings_its_words_back() -> None:
    root = add_turns(2)[0]
    erase(root)
    with writing() as connection:
        batches.revive(connection, "b", ["secret"])
        assert batches.retry(connection, "b").rows == 0
        assert batches.retry(connection, "later").rows == 0
    enqueue_secret()
    row = job_row(root)
    assert (row.state, row.error_code, row.columns, row.request) == ("failed", "deleted", {}, {"prompt": ""})


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_no_batch_waits_for_turns_that_were_deleted() -> None:
    root = add_turns(2)[0]
    with pytest.raises(InputError, match="later continues dialogues of it"):
        transact_in_pieces(lambda connection, after: batches.delete(connection, "b", after))
    erase(root)
    assert transact_in_pieces(lambda connection, after: batches.delete(connection, "b", after)) == 1


def test_a_dialogue_with_an_open_turn_stays_whole() -> None:
    ids = add_turns(3)
    (open_,) = add_jobs(1, "later", prefix="open")
    set_job(open_, dialogue_id=ids[0])
    with pytest.raises(InputError, match=r"open turn in the batch later; `tidemill cancel later` ends it"):
        erase(ids[0])
    assert count(messages) == 4


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_it_is_said_what_was_trained_on_it() -> None:
    root = add_turns(3)[0]
    with writing() as connection:
        a_set = {"method": "supervised", "training": {"sha256": "a"}, "report": {}, "created_at": now_after(0.0)}
        connection.execute(datasets.insert().values(id="d", name="support", **a_set))
        connection.execute(dataset_dialogues.insert().values(dataset_id="d", dialogue_id=root + 1))
        extent = erasure.extent(connection, root)
    assert extent is not None
    assert extent.datasets == ["support"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_there_is_no_dialogue_of_a_row_without_an_answer() -> None:
    add_batch()
    (queued,) = add_jobs(1)
    assert transact(lambda connection: erasure.extent(connection, queued)) is None


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_its_words_are_overwritten_in_the_file() -> None:
    erase(add_turns(3)[0])
    path = Path(str(engine().url.database))
    engine().dispose()
    assert SECRET.encode() not in path.read_bytes()
