"""Who watches over the queue is told what waits, and for what; both databases say the same."""

import pytest
from sqlalchemy import update

from tests.rows import PROVIDER, add_batch, add_jobs, add_worker, put_out, take
from tests.waiting import limit
from tidemill.models import backlog, batches, budgets, holds
from tidemill.models.clock import now, now_after
from tidemill.models.database import reading, transact
from tidemill.models.tables import jobs

pytestmark = pytest.mark.usefixtures("database")

NONE = dict.fromkeys(backlog.STATES, 0)


def test_open_rows_are_told_by_what_they_wait_for() -> None:
    for batch in ("b", "paused", "ended"):
        add_batch(batch)
    ids = add_jobs(6, "b")
    add_jobs(3, "paused")
    take(ids[:1])
    add_worker()

    def change(connection: object) -> None:
        later = {"available_at": now_after(50.0)}, {"available_at": now_after(-90.0), "sent_at": now()}
        for job_id, values in zip(ids[1:3], later, strict=True):
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))  # type: ignore[attr-defined]
        batches.pause(connection, "paused")  # type: ignore[arg-type]

    transact(change)
    with reading() as connection:
        backlogs = backlog.read(connection, ["another"])
    assert backlogs.keys() == {PROVIDER, "another"}
    here = backlogs[PROVIDER]
    assert here.rows == NONE | {"due": 4, "later": 1, "running": 1, "paused": 3}
    assert 90 <= here.oldest_due_seconds < 90 + limit(30), "one that is with the broker waits, too"
    assert (here.workers, here.batches_on_hold, here.hold_reason) == (1, 0, None)
    assert backlogs["another"] == backlog.Backlog()


def test_rows_for_the_providers_batch_api_are_not_due_and_those_that_it_has_do_not_run() -> None:
    add_batch("b", route="batch")
    ids = add_jobs(6, "b")
    put_out(ids[:3])
    take(ids[3:4])
    with reading() as connection:
        here = backlog.read(connection)[PROVIDER]
    assert here.rows == NONE | {"to_pack": 2, "at_provider": 3, "running": 1}
    assert here.oldest_due_seconds == 0.0


def test_rows_that_wait_for_room_in_a_budget_are_not_due() -> None:
    add_batch("b")
    ids = add_jobs(3, "b")
    transact(lambda connection: budgets.set_cap(connection, "batch", "b", 1))
    assert take(ids) == []
    with reading() as connection:
        here = backlog.read(connection)[PROVIDER]
    assert here.rows == NONE | {"budget": 3}
    assert here.oldest_due_seconds == 0.0


def test_rows_of_a_provider_on_hold_are_not_due() -> None:
    add_batch("b")
    add_jobs(2, "b")
    add_batch("ended")
    transact(lambda connection: holds.hold(connection, PROVIDER, "no credit", 600.0))
    with reading() as connection:
        here = backlog.read(connection)[PROVIDER]
    assert here.rows == NONE | {"held": 2}
    assert (here.batches_on_hold, here.hold_reason, here.oldest_due_seconds) == (1, "no credit", 0.0)
    assert 590 < here.next_probe_seconds <= 600


def test_a_batch_that_has_ended_waits_for_nothing() -> None:
    add_batch("b")
    transact(lambda connection: holds.hold(connection, PROVIDER, "no credit"))
    with reading() as connection:
        assert backlog.read(connection) == {}
