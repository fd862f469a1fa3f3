"""Rows that are out at the provider's Batch API stay its own, whatever is done to their batch meanwhile (R16)."""

from typing import Any

import pytest

from tests.rows import (
    PROVIDER,
    add_batch,
    add_jobs,
    batch_row,
    calls,
    change_batch,
    check_tallies,
    count,
    dialogue,
    end_upstream,
    failure,
    job_row,
    put,
    put_out,
    rescuer,
    set_batch,
    success,
    take,
)
from tidemill.models import batches, whereabouts
from tidemill.models.clock import now
from tidemill.models.database import reading, transact, transact_in_pieces, writing
from tidemill.models.errors import InputError
from tidemill.models.scope import Scope
from tidemill.models.tables import jobs, upstream_batches
from tidemill.models.transitions import release, rescue
from tidemill.models.whereabouts import Upstream
from tidemill.producer.batches.progress import progress

pytestmark = pytest.mark.usefixtures("database")


def upstream() -> Upstream:
    with reading() as connection:
        (one,) = whereabouts.of_batch(connection, "b", ended=True)
    return one


def states() -> list[str]:
    with reading() as connection:
        return list(connection.scalars(jobs.select().with_only_columns(jobs.c.state).order_by(jobs.c.id)))


def cancel() -> int:
    return transact_in_pieces(lambda connection, after: batches.cancel(connection, "b", after))


def test_cancelling_leaves_rows_that_are_out_with_the_provider_and_tells_it() -> None:
    add_batch(route="batch")
    ids = add_jobs(6)
    out = put_out(ids[:3])
    take(ids[3:4])
    assert cancel() == 3
    assert states() == ["running"] * 3 + ["cancelled"] * 3
    assert upstream().wanted == "cancel"
    assert cancel() == 0
    put(success(out[0]), failure(out[1], "retried"), failure(out[2], "held", counted=False))
    assert states()[:3] == ["succeeded", "cancelled", "cancelled"], "what was paid is stored, nothing is asked again"
    assert dialogue(ids[0]) is not None and calls(ids[0])[-1].cost_usd == 0.25
    assert job_row(ids[1]).finished_at is not None
    check_tallies()


@pytest.mark.parametrize("again", ["retry", "the same command"])
def test_a_cancelled_batch_that_is_taken_up_again_keeps_what_the_provider_was_not_told_of(again: str) -> None:
    add_batch(route="batch")
    ids = add_jobs(2)
    out = put_out(ids[:1])
    cancel()
    if again == "retry":
        change_batch("retry")
    else:
        own: dict[str, Any] = {"kind": "ask", "question_hash": "h", "name": "b", "source": None, "provider": PROVIDER}
        sent = batches.Submission(**own, options=batch_row().options, columns=[])
        transact(lambda connection: batches.begin_submission(connection, "b", sent))
    assert (upstream().wanted, batch_row().state, batch_row().route) == (None, "open", "batch")
    put(failure(out[0], "retried"))
    assert states()[0] == "queued"


def test_a_row_that_left_the_input_while_it_was_out_is_paid_but_never_asked_again() -> None:
    add_batch(route="batch")
    ids = add_jobs(4)
    out = put_out(ids[:3])
    set_batch(submission=2)
    assert transact_in_pieces(lambda connection, after: batches.drop_rows(connection, "b", 2, after)) == 4
    assert states() == ["running"] * 3 + ["cancelled"]
    assert progress(Scope("b")).rows == 0
    put(success(out[0]), failure(out[1], "held", counted=False))
    with writing() as connection:
        assert rescue(connection, rescuer(dead=["up-t0"])) == 1
    assert states() == ["succeeded", "cancelled", "cancelled", "cancelled"]
    assert calls(ids[0])[-1].cost_usd == 0.25
    check_tallies()


def test_what_a_stopping_worker_releases_is_its_own() -> None:
    add_batch(route="batch")
    ids = add_jobs(3)
    put_out(ids[:2])
    take(ids[2:], "w1")
    with writing() as connection:
        assert release(connection, "w1") == 1
    assert states() == ["running", "running", "queued"]


def test_progress_tells_what_is_at_the_provider_from_what_workers_run() -> None:
    add_batch(route="batch")
    ids = add_jobs(5)
    put_out(ids[:2])
    take(ids[2:3])
    so_far = progress(Scope("b"))
    assert (so_far.states["running"], so_far.at_provider, so_far.states["queued"], so_far.route) == (3, 2, 2, "batch")
    assert "5 open (2 at the provider)" in so_far.summary() and not so_far.is_out


def test_a_batch_with_rows_out_is_not_deleted_and_later_goes_with_its_upstream_batches() -> None:
    add_batch(route="batch", read_at=now())
    (job,) = put_out(add_jobs(1))
    with pytest.raises(InputError, match=r"1 row of b is at the provider; `tidemill cancel b` ends that"):
        transact(lambda connection: batches.delete(connection, "b"))
    put(success(job))
    with pytest.raises(InputError, match="at the provider"):  # files may be left there
        transact(lambda connection: batches.delete(connection, "b"))
    end_upstream()
    transact_in_pieces(lambda connection, after: batches.delete(connection, "b", after))
    assert count(upstream_batches) == 0 == count(jobs)


def test_what_is_out_moves_along_with_its_server() -> None:
    add_batch(route="batch")
    put_out(add_jobs(1))
    transact(lambda connection: batches.move(connection, "b", "there.test/v1", None))
    assert upstream().provider == "there.test/v1"


@pytest.mark.parametrize(
    ("remote", "counts", "done"),
    [
        (None, (None, None), 0),
        ({"request_counts": None}, (None, None), 0),
        ({"request_counts": {"total": 4, "completed": 2, "failed": 1}}, (2, 1), 3),
        ({"request_counts": {"completed": 9, "failed": None}}, (9, None), 4),
        ({"progress": 50.0}, (2, None), 2),
        ({"progress": "half", "request_counts": "many"}, (None, None), 0),
    ],
)
def test_how_much_is_done_is_read_as_any_server_says_it(remote: Any, counts: Any, done: int) -> None:
    add_batch()
    put_out(add_jobs(4), remote=remote)
    assert ((upstream().completed, upstream().failed), upstream().done) == (counts, done)
