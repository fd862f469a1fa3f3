"""Equal pictures of a batch are called for once, each has a row and a dialogue; refused files never reach a worker."""

import pytest

from tests.rows import (
    MODEL,
    add_batch,
    calls,
    count,
    dialogue,
    failure,
    job_row,
    next_due,
    put,
    success,
    take,
    take_one,
)
from tidemill.models.answers import Answer, Message
from tidemill.models.database import writing
from tidemill.models.pictures import dump_message
from tidemill.models.tables import dialogues, jobs
from tidemill.models.text import dumps
from tidemill.models.transitions import Enqueued, cancel, enqueue, revive
from tidemill.models.twins import share

pytestmark = pytest.mark.usefixtures("database")


def picture(path: str) -> dict[str, object]:
    return {"path": path, "sha256": "ab" * 32, "format": "jpeg", "width": 4, "height": 3}


def add_pictures(*contents: str, batch_id: str = "b") -> list[int]:
    """A queued picture for each content, in files named after their positions; returns the jobs' ids."""
    rows = [
        Enqueued(f"k{i}", f"id{i}", i, dumps({"prompt": "?", "picture": picture(f"{i}.jpg")}), dumps({}), content)
        for i, content in enumerate(contents)
    ]
    add_batch(batch_id)
    with writing() as connection:
        enqueue(connection, batch_id, 1, rows)
    return list(range(1, len(contents) + 1))


def caption(text: str, path: str) -> Answer:
    return Answer(MODEL, "stop", (Message("user", dump_message("?", picture(path))), Message("assistant", text)))


def judge(*ids: int) -> None:
    with writing() as connection:
        connection.execute(dialogues.update().where(dialogues.c.id.in_(ids)).values(sentiment="neutral"))


def share_all() -> int:
    with writing() as connection:
        return share(connection)


def test_of_equal_pictures_one_is_sent_until_it_has_ended() -> None:
    first, second, other = add_pictures("same", "same", "other")
    assert next_due() == [first, other]
    put(success(take_one(first), answer=caption("a boat", "0.jpg")))
    assert next_due() == []  # not judged yet: there is nothing to share, and nothing to send
    judge(first)
    assert next_due() == []
    assert job_row(second).state == "succeeded"


def test_an_answer_is_shared_with_the_name_of_each_file_and_at_no_cost() -> None:
    first, second = add_pictures("same", "same")
    put(success(take_one(first), answer=caption("a boat", "0.jpg")))
    judge(first)
    assert share_all() == 1
    assert share_all() == 0
    assert dialogue(second) == [("user", dump_message("?", picture("1.jpg"))), ("assistant", "a boat")]
    job = job_row(second)
    assert (job.state, job.attempts, job.cost_usd, job.input_tokens, calls(second)) == ("succeeded", 0, 0.0, 0, [])
    assert job.finished_at is not None and job.epoch == 1


def test_a_failure_is_shared_and_both_can_be_tried_again() -> None:
    first, second = add_pictures("same", "same")
    put(failure(take_one(first), error_code="refused", error="no"))
    assert share_all() == 1
    assert (job_row(second).state, job_row(second).error_code, job_row(second).error) == ("failed", "refused", "no")
    with writing() as connection:
        assert len(revive(connection, "b")) == 2
    assert share_all() == 0
    assert next_due() == [first]


def test_a_cancelled_twin_leaves_its_turn_to_the_other() -> None:
    first, second = add_pictures("same", "same")
    with writing() as connection:
        connection.execute(jobs.update().where(jobs.c.id == second).values(submission=2))
        cancel(connection, "b", older_than=2)
    assert job_row(first).state == "cancelled"
    assert next_due() == [second]


def test_what_is_running_is_not_ended_by_its_twin() -> None:
    first, second = add_pictures("same", "same")
    one, _ = take([first, second])
    put(success(one, answer=caption("a boat", "0.jpg")))
    judge(first)
    assert share_all() == 0
    assert job_row(second).state == "running"


def test_batches_share_nothing() -> None:
    (first,) = add_pictures("same")
    put(success(take_one(first), answer=caption("a boat", "0.jpg")))
    judge(first)
    add_batch("other")
    row = Enqueued("k", "id", 0, dumps({"prompt": "?", "picture": picture("x.jpg")}), dumps({}), "same")
    with writing() as connection:
        enqueue(connection, "other", 1, [row])
    assert share_all() == 0


def test_a_file_refused_at_the_door_has_failed_without_a_call_and_stays_so() -> None:
    add_batch()
    refused = Enqueued("k", "id", 0, dumps({"prompt": "?"}), dumps({}), None, "not_a_picture", "x: is no picture.\x00")
    with writing() as connection:
        assert enqueue(connection, "b", 1, [refused]) == {"k"}
        assert len(revive(connection, "b")) == 0
    job = job_row(1)
    assert (job.state, job.attempts, job.epoch, job.error_code) == ("failed", 0, 0, "not_a_picture")
    assert job.error == "x: is no picture.\x00"
    assert job.finished_at is not None
    assert (next_due(), take([1]), count(dialogues)) == ([], [], 0)


def test_a_renamed_file_is_the_same_job_under_its_new_name() -> None:
    (first,) = add_pictures("same")
    renamed = Enqueued("k0", "id0", 0, dumps({"prompt": "?", "picture": picture("new.jpg")}), dumps({}), "same")
    with writing() as connection:
        enqueue(connection, "b", 2, [renamed])
    assert job_row(first).request["picture"]["path"] == "new.jpg"
