"""A batch is found by what it asks of what, and what is done to it acts at once and says how much it did."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.rows import (
    MODEL,
    PROVIDER,
    add_batch,
    add_jobs,
    batch_row,
    change_batch,
    check_tallies,
    count,
    failure,
    job_row,
    next_due,
    put,
    set_batch,
    set_job,
    success,
    take,
    take_one,
)
from tidemill.models import batches, tables, transitions
from tidemill.models.clock import now_after
from tidemill.models.database import reading, transact, transact_in_pieces, writing
from tidemill.models.errors import InputError
from tidemill.models.options import Options
from tidemill.models.tables import attempts, dialogues, jobs, messages

pytestmark = pytest.mark.usefixtures("database")


def put_failed(rows: int, **how: object) -> None:
    ids = add_jobs(rows, prefix=f"f{count(jobs)}-")
    state = batch_row().state
    set_batch(state="open")
    put(*(failure(job, **how) for job in take(ids)))
    set_batch(state=state)


def failures() -> list[batches.FailureReason]:
    with reading() as connection:
        return batches.failures(connection, "b")


def submission(**values: Any) -> batches.Submission:
    defaults: dict[str, Any] = {
        "kind": "ask",
        "question_hash": "h",
        "name": "My Prompts!",
        "source": "a name",
        "provider": PROVIDER,
        "options": Options(MODEL).to_json(),
        "columns": ["prompt"],
    }
    return batches.Submission(**(defaults | values))


def find_id(source: str | None, keys: Sequence[str], question_hash: str = "h") -> str | None:
    with reading() as connection:
        stored = batches.find(connection, batches.Sought({question_hash}, PROVIDER, source, keys, len(keys)))
    return stored.id if stored else None


# --- find ---


def test_a_batch_is_found_by_its_question_and_its_source() -> None:
    add_batch("b", source="mine")
    add_jobs(2)
    assert find_id("mine", ["other"]) == "b"
    assert find_id("mine", ["other"], "another question") is None
    assert find_id("yours", ["other"]) is None


@pytest.mark.parametrize(
    ("keys", "is_same"), [(["r0", "r1"], True), (["r0", "x"], True), (["x", "y", "r0"], False), (["x"], False)]
)
def test_without_a_source_a_batch_is_found_by_half_of_its_first_rows(keys: list[str], is_same: bool) -> None:
    add_batch("b")
    add_jobs(2)
    assert (find_id(None, keys) == "b") is is_same


def test_the_same_rows_from_another_file_are_another_batch_unless_the_file_was_moved(tmp_path: Path) -> None:
    here = tmp_path / "a.txt"
    here.touch()
    add_batch("b", source=str(here))
    add_jobs(2)
    assert find_id(str(tmp_path / "b.txt"), ["r0", "r1"]) is None
    here.unlink()
    assert find_id(str(tmp_path / "b.txt"), ["r0", "r1"]) == "b"
    assert find_id("a name", ["r0", "r1"]) is None


def test_rows_with_an_answer_are_known_by_their_keys() -> None:
    add_batch()
    ids = add_jobs(3)
    put(success(take_one(ids[1])))
    with reading() as connection:
        assert batches.answered_keys(connection, "b", ["r0", "r1", "elsewhere"]) == {"r1"}


# --- submit ---


def test_a_submission_changes_how_fast_is_asked_and_opens_a_cancelled_batch() -> None:
    with writing() as connection:
        batch_id = batches.create(connection, submission())
        batches.cancel(connection, batch_id)
        faster = submission(options=Options(MODEL, rpm=9).to_json(), priority=7, columns=["prompt", "more"])
        assert batches.begin_submission(connection, batch_id, faster) == 2
    batch = batch_row(batch_id)
    assert batch_id.startswith("my-prompts-")
    assert (batch.kind, batch.source, batch.state) == ("ask", "a name", "open")
    assert (batch.options["rpm"], batch.priority, batch.columns) == (9, 7, ["prompt", "more"])
    assert batch.read_at is None


@pytest.mark.parametrize("is_whole", [True, False])
def test_rows_that_a_whole_input_no_longer_holds_leave_it(is_whole: bool) -> None:
    add_batch()
    gone, kept = add_jobs(1, prefix="gone"), add_jobs(1, submission=2, prefix="kept")
    if is_whole:
        assert transact_in_pieces(lambda connection, after: batches.drop_rows(connection, "b", 2, after)) == 1
    with writing() as connection:
        batches.end_submission(connection, "b", ["prompt"])
    assert (job_row(gone[0]).state, job_row(kept[0]).state) == ("cancelled" if is_whole else "queued", "queued")
    assert (job_row(gone[0]).position is None) is is_whole
    assert batch_row().read_at is not None


def test_whoever_comes_back_to_a_held_batch_has_its_provider_looked_at_now() -> None:
    add_batch(hold_reason="no credit", held_at=now_after(0), held_until=now_after(300.0))
    add_jobs(1)
    assert next_due() == []
    with writing() as connection:
        batches.come_back(connection, "b", PROVIDER)
    assert len(next_due()) == 1


# --- have a say ---


def test_pause_keeps_what_was_sent_from_being_claimed_and_resume_sends_it_again() -> None:
    add_batch()
    ids = add_jobs(3)
    assert next_due() == ids
    assert change_batch("pause") == 1
    assert change_batch("pause") == 0
    assert take(ids) == []  # its message is used up
    assert next_due() == []
    assert change_batch("resume") == 1
    assert change_batch("resume") == 0
    assert len(next_due()) == 3
    assert len(take(ids)) == 3


def test_a_call_in_flight_ends_although_its_batch_is_paused() -> None:
    add_batch()
    job = take_one(add_jobs(1)[0])
    change_batch("pause")
    assert put(success(job)) == {job.id}


def test_cancel_closes_the_batch_and_retry_opens_it_again() -> None:
    add_batch()
    ids = add_jobs(3)
    put(success(take_one(ids[0])))
    assert change_batch("cancel") == 2
    assert batch_row().state == "cancelled"
    assert next_due() == []
    assert change_batch("retry") == 2
    assert batch_row().state == "open"
    assert [job_row(each).state for each in ids] == ["succeeded", "queued", "queued"]
    assert len(next_due()) == 2


def test_a_cancelled_batch_is_neither_paused_nor_resumed() -> None:
    add_batch()
    change_batch("cancel")
    assert (change_batch("pause"), change_batch("resume")) == (0, 0)
    assert batch_row().state == "cancelled"


def test_retry_leaves_a_paused_batch_paused() -> None:
    add_batch(state="paused")
    put_failed(1)
    assert change_batch("retry") == 1
    assert batch_row().state == "paused"


def test_failures_are_grouped_the_most_frequent_first() -> None:
    add_batch()
    put_failed(1, error_code="content_filter", error="refused")
    put_failed(3, error_code="server_error", error="broken")
    put_failed(1, error_code=None, error=None)
    assert failures()[0] == (3, "server_error", "broken")
    assert set(failures()[1:]) == {(1, "content_filter", "refused"), (1, "unknown", "")}


def test_failures_of_rows_that_left_the_input_are_not_shown_as_failures_of_the_batch() -> None:
    add_batch()
    put_failed(2, error_code="server_error", error="broken")
    set_job(1, position=None)
    assert [count for count, *_ in failures()] == [1]


# --- delete ---


def delete(batch_id: str = "b") -> int:
    return transact_in_pieces(lambda connection, after: batches.delete(connection, batch_id, after))


def test_a_batch_that_has_ended_is_deleted_with_all_that_belongs_to_it_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for batch_id in ("b", "other"):
        add_batch(batch_id, read_at=now_after(0.0))
        put(*map(success, take(add_jobs(5, batch_id))))
    monkeypatch.setattr(transitions, "PIECE_ROWS", 2)
    transact(lambda connection: batches.delete(connection, "b"))  # a kill after the first piece
    assert count(jobs, jobs.c.batch_id == "b") == 3
    assert delete() == 3
    for table, rows in ((jobs, 5), (attempts, 5), (dialogues, 5), (messages, 10), (tables.batches, 1)):
        assert count(table) == rows
    assert count(tables.tallies, tables.tallies.c.batch_id == "b") == 0
    assert delete() == 0


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ({"read_at": now_after(0.0)}, "b has not ended; `tidemill cancel b` ends it"),
        ({}, "b has not ended"),
        ({"kind": "train", "state": "cancelled"}, "b is a fine-tune"),
    ],
    ids=["open rows", "still being read", "a fine-tune"],
)
def test_what_is_not_over_is_not_deleted(batch: dict[str, Any], sentence: str) -> None:
    add_batch(**batch)
    add_jobs(1 if "read_at" in batch else 0)
    with pytest.raises(InputError, match=sentence):
        delete()


@pytest.mark.parametrize("turn", ["the first", "a later one"])
def test_a_dialogue_that_another_batch_goes_on_with_stays(turn: str) -> None:
    for batch_id in ("b", "second", "third"):
        add_batch(batch_id, read_at=now_after(0.0))
    (first,) = add_jobs(1)
    second, third = *add_jobs(1, "second"), *add_jobs(1, "third")
    for later in (second, third):
        set_job(later, dialogue_id=first)
    change_batch("cancel", "second")
    change_batch("cancel", "b")
    with pytest.raises(InputError, match=r"third continues dialogues of it\. Delete that one first"):
        delete("b" if turn == "the first" else "second")
    change_batch("cancel", "third")
    assert [delete(each) for each in ("third", "second", "b")] == [1, 1, 1]


def test_a_million_rows_are_cancelled_and_tried_again_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "PIECE_ROWS", 2)
    add_batch()
    ids = add_jobs(7)
    put(failure(take_one(ids[0])), success(take_one(ids[1])))
    assert transact(lambda connection: batches.cancel(connection, "b")) == (2, 0)
    assert change_batch("cancel") == 3
    assert change_batch("retry") == 6
    assert count(jobs, jobs.c.state == "queued") == 6
    check_tallies()
