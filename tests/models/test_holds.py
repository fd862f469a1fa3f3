"""A provider that serves nobody costs its jobs nothing but time: who is held, who may probe, and what ends it."""

import pytest
from sqlalchemy import select, update

from tests.rows import (
    PROVIDER,
    add_batch,
    add_jobs,
    batch_row,
    failure,
    job_row,
    put,
    set_batch,
    set_job,
    success,
    take,
    take_one,
)
from tests.waiting import limit, wait_until
from tidemill.models import holds
from tidemill.models.clock import now, now_after
from tidemill.models.database import reading, writing
from tidemill.models.holds import PROBE_SECONDS
from tidemill.models.tables import attempts, batches
from tidemill.models.transitions import release

pytestmark = pytest.mark.usefixtures("database")


def hold(reason: str = "no credit", seconds: float = 0.0) -> None:
    with writing() as connection:
        holds.hold(connection, PROVIDER, reason, seconds)


def lift(*calls: tuple[int, int]) -> None:
    with writing() as connection:
        holds.lift(connection, calls)


def due_in(batch_id: str = "b") -> float:
    """Seconds until the next probe, on the database's clock."""
    with reading() as connection:
        row = connection.execute(select(batches.c.held_until, now().label("now")).where(batches.c.id == batch_id)).one()
    return float((row.held_until - row.now).total_seconds())


def test_a_hold_takes_all_open_batches_of_one_provider() -> None:
    add_batch("a")
    add_batch("paused", state="paused")
    add_batch("cancelled", state="cancelled")
    add_batch("elsewhere", provider="other.test")
    hold()
    reasons = {name: batch_row(name).hold_reason for name in ("a", "paused", "cancelled", "elsewhere")}
    assert reasons == {"a": "no credit", "paused": "no credit", "cancelled": None, "elsewhere": None}
    assert due_in("a") == pytest.approx(PROBE_SECONDS[0], abs=limit(2))


def test_a_second_hold_brings_the_reason_up_to_date_and_leaves_the_pauses_alone() -> None:
    add_batch()
    hold()
    set_batch(hold_probes=3, held_until=now_after(100.0))
    before = batch_row()
    hold("bad key")
    after = batch_row()
    assert after.hold_reason == "bad key"
    assert (after.hold_probes, after.held_until, after.held_at) == (3, before.held_until, before.held_at)


def test_a_probe_begins_only_when_it_is_due_and_only_once() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    with writing() as connection:
        assert not holds.begin_probe(connection, PROVIDER, job_id)  # not held
    hold()
    with writing() as connection:
        assert not holds.begin_probe(connection, PROVIDER, job_id)  # not due
    set_batch(held_until=now_after(-0.01))
    with writing() as connection:
        assert holds.begin_probe(connection, PROVIDER, job_id)
        assert not holds.begin_probe(connection, PROVIDER, job_id)
    assert take_one(job_id).id == job_id


def test_an_answer_to_a_call_that_began_after_the_hold_lifts_it() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    hold()
    set_batch(probe_job_id=job_id, hold_probes=4, held_at=now_after(-1.0))
    probe = take_one(job_id)
    put(success(probe))
    lift((probe.id, probe.epoch))
    batch = batch_row()
    assert (batch.hold_reason, batch.held_at, batch.held_until, batch.hold_probes, batch.probe_job_id) == (
        None,
        None,
        None,
        0,
        None,
    )


def test_an_answer_to_a_call_that_began_before_the_hold_says_nothing_about_it() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    early = take_one(job_id)
    hold()
    set_batch(held_at=now_after(1.0))
    lift((early.id, early.epoch))
    assert batch_row().hold_reason == "no credit"


def test_only_calls_that_were_answered_count_not_another_call_of_the_same_job() -> None:
    add_batch()
    first, second = add_jobs(2)
    set_job(second, epoch=1)
    take([first, second])  # (first, 1) and (second, 2)
    with writing() as connection:
        release(connection, "w1")
        connection.execute(update(attempts).values(started_at=now_after(-5.0)))
    hold()
    set_batch(held_at=now_after(-1.0), probe_job_id=first)
    set_job(first, epoch=1)
    assert take_one(first).epoch == 2
    lift((first, 1), (second, 2))  # two old calls end; the probe, (first, 2), is still under way
    assert batch_row().hold_reason == "no credit"


def test_an_answer_lifts_the_hold_of_its_own_provider_only() -> None:
    add_batch("a")
    add_batch("b", provider="other.test")
    (job_id,) = add_jobs(1, "a")
    with writing() as connection:
        holds.hold(connection, PROVIDER, "no credit")
        holds.hold(connection, "other.test", "bad key")
    for name in ("a", "b"):
        set_batch(name, held_at=now_after(-1.0), probe_job_id=job_id)
    probe = take_one(job_id)
    lift((probe.id, probe.epoch))
    assert (batch_row("a").hold_reason, batch_row("b").hold_reason) == (None, "bad key")


def test_a_hold_from_before_the_clock_was_set_back_is_probed_now_and_lifted_by_any_answer() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    hold()
    set_batch(held_at=now_after(3600.0), held_until=now_after(3605.0))
    with writing() as connection:
        assert holds.begin_probe(connection, PROVIDER, job_id)
    probe = take_one(job_id)
    put(success(probe))
    lift((probe.id, probe.epoch))
    assert batch_row().hold_reason is None


def test_somebody_who_comes_back_makes_the_next_probe_due_now() -> None:
    add_batch()
    hold()
    set_batch(hold_probes=6)
    with writing() as connection:
        holds.probe_at_once(connection, PROVIDER)
    assert due_in() <= 0
    assert batch_row().hold_probes == 0


def test_probing_at_once_holds_nothing_that_was_free() -> None:
    add_batch()
    with writing() as connection:
        holds.probe_at_once(connection, PROVIDER)
    assert batch_row().held_until is None


def test_a_hold_lasts_as_long_as_the_provider_says() -> None:
    add_batch()
    hold("wait an hour", 3600.0)
    assert due_in() == pytest.approx(3600, abs=limit(2))
    hold("wait", 10.0)  # a shorter wait does not cut a longer one
    assert due_in() == pytest.approx(3600, abs=limit(2))
    hold("wait two hours", 7200.0)
    assert due_in() == pytest.approx(7200, abs=limit(2))
    assert batch_row().hold_reason == "wait two hours"


def test_a_job_is_at_fault_when_others_were_answered_after_each_of_its_holds() -> None:
    add_batch()
    refused, *others = add_jobs(5)

    def alone() -> bool:
        with reading() as connection:
            return holds.is_at_fault(connection, refused, "b", speaks_of_account=True)

    for other in others[:2]:
        assert not alone()
        put(failure(take_one(refused), "held", counted=False))
        assert not alone()
        put(success(take_one(other)))
    assert alone()
    with reading() as connection:
        assert not holds.is_at_fault(connection, others[2], "b", speaks_of_account=True)


def pass_a_moment() -> None:
    """Wait until the database's clock goes on: SQLite's knows milliseconds, and one call must begin after another."""
    with reading() as connection:
        began = connection.scalar(select(now()))
        wait_until(lambda: connection.scalar(select(now())) != began, "the database's clock goes on")


def at_fault(job_id: int, *, speaks_of_account: bool = False) -> bool:
    with reading() as connection:
        return holds.is_at_fault(connection, job_id, "b", speaks_of_account=speaks_of_account)


def test_another_batchs_answers_prove_a_job_at_fault_unless_the_account_is_named() -> None:
    add_batch()
    add_batch("elsewhere")
    (refused,) = add_jobs(1)
    others = add_jobs(2, "elsewhere")
    for other in others:
        put(failure(take_one(refused), "held", counted=False))
        pass_a_moment()
        put(success(take_one(other)))
    assert at_fault(refused)
    assert not at_fault(refused, speaks_of_account=True)


def test_the_last_open_job_is_at_fault_after_a_few_probes_if_others_of_its_batch_were_answered() -> None:
    add_batch()
    refused, answered, waiting = add_jobs(3)
    put(success(take_one(answered)))
    for _ in range(holds.LAST_AFTER):
        assert not at_fault(refused)
        put(failure(take_one(refused), "held", counted=False))
    assert not at_fault(refused)  # another one waits, and may prove it
    set_job(waiting, state="cancelled")
    assert at_fault(refused)
    assert not at_fault(refused, speaks_of_account=True)


def test_a_job_alone_in_its_batch_proves_nothing_and_waits() -> None:
    add_batch()
    (only,) = add_jobs(1)
    for _ in range(holds.LAST_AFTER + 1):
        put(failure(take_one(only), "held", counted=False))
    assert not at_fault(only)


def test_after_a_hold_the_time_for_retries_begins_anew() -> None:
    add_batch()
    tried, probe = add_jobs(2)
    put(failure(take_one(tried), "retried"))
    assert job_row(tried).first_attempt_at is not None
    hold()
    set_batch(probe_job_id=probe)
    claimed = take_one(probe)
    lift((claimed.id, claimed.epoch))
    assert batch_row().hold_reason is None
    assert (job_row(tried).first_attempt_at, job_row(tried).failures) == (None, 1)
