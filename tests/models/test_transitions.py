"""Every arrow of the state machine, with what must keep each from happening, on both databases.

The second half drives the same SQL at random, beside a model in memory that says what each step may do.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import IntegrityError

from tests.rows import (
    add_batch,
    add_jobs,
    answer,
    calls,
    claimant,
    count,
    dialogue,
    failure,
    job_row,
    put,
    rescuer,
    set_batch,
    set_job,
    success,
    take,
    take_one,
)
from tests.waiting import limit, wait_until
from tidemill.models import batches
from tidemill.models.claims import ALONE_AFTER, MAX_LOSSES, left_to_run_alone, renew
from tidemill.models.clock import now, now_after
from tidemill.models.database import reading, writing
from tidemill.models.settling import LONGEST_DELAY_SECONDS, WITHOUT_ATTEMPT, Outcome
from tidemill.models.tables import attempts, dialogues, jobs, messages
from tidemill.models.text import dumps
from tidemill.models.transitions import Enqueued, cancel, correct_due_times, enqueue, release, rescue, revive

pytestmark = pytest.mark.usefixtures("database")

UGLY = "nul \x00, half a pair \ud83d, its other half \udc00, noncharacter \ufdd0, emoji \U0001f600"


def one_job() -> int:
    add_batch()
    return add_jobs(1)[0]


# --- enqueue ---


def test_enqueue_stores_queued_jobs_that_are_due_at_once() -> None:
    job = job_row(one_job())
    assert (job.state, job.epoch, job.attempts, job.position, job.custom_id) == ("queued", 0, 0, 0, "id-r0")
    assert job.request == {"prompt": "question r0"}
    assert job.lease_until is None and job.sent_at is None and job.cost_usd is None


def test_enqueue_again_keeps_state_and_takes_the_new_position() -> None:
    add_batch()
    first, _second = add_jobs(2)
    put(success(take_one(first)))
    rows = [Enqueued("r0", "id-r0", 7, dumps({"prompt": "question r0"}), dumps({"colour": "red"}))]
    with writing() as connection:
        assert enqueue(connection, "b", 2, rows) == {"r0"}
    job = job_row(first)
    assert (job.state, job.position, job.submission, job.columns) == ("succeeded", 7, 2, {"colour": "red"})
    assert count(jobs) == 2


def test_enqueue_leaves_out_a_key_that_this_submission_holds_at_another_position() -> None:
    one_job()
    rows = [
        Enqueued(key, "x", position, dumps({"prompt": "p"}), dumps({})) for key, position in (("r0", 5), ("new", 6))
    ]
    with writing() as connection:
        assert enqueue(connection, "b", 1, rows) == {"new"}


def test_the_same_rows_enqueued_twice_at_the_same_positions_are_found() -> None:
    one_job()
    with writing() as connection:
        assert enqueue(connection, "b", 1, [Enqueued("r0", "x", 0, dumps({"prompt": "p"}), dumps({}))]) == {"r0"}


def test_ids_and_requests_with_unstorable_characters_come_back_as_they_were() -> None:
    add_batch()
    with writing() as connection:
        enqueue(
            connection, "b", 1, [Enqueued("k", UGLY, 0, dumps({"prompt": UGLY}), dumps({"column": UGLY, "n": 2**70}))]
        )
        row = connection.execute(select(jobs)).one()
    assert row.custom_id == UGLY
    assert row.request == {"prompt": UGLY}
    assert row.columns == {"column": UGLY, "n": 2**70}
    assert take_one(row.id).request == {"prompt": UGLY}


def test_no_rows_are_enqueued_without_harm() -> None:
    add_batch()
    with writing() as connection:
        assert enqueue(connection, "b", 1, []) == set()


# --- claim ---


def test_a_claim_takes_the_job_with_a_lease_and_begins_an_attempt() -> None:
    job_id = one_job()
    set_job(job_id, sent_at=now_after(0))
    claimed = take_one(job_id, "worker-7")
    assert (claimed.epoch, claimed.batch_id, claimed.failures, claimed.age_seconds) == (1, "b", 0, 0.0)
    assert claimed.request == {"prompt": "question r0"}
    job = job_row(job_id)
    assert (job.state, job.epoch, job.worker_id, job.sent_at) == ("running", 1, "worker-7", None)
    (call,) = calls(job_id)
    assert (call.epoch, call.worker_id, call.outcome, call.ended_at) == (1, "worker-7", None, None)
    assert 20 < (job.lease_until - call.started_at).total_seconds() < 40


def test_a_message_that_comes_twice_loses_its_second_claim() -> None:
    job_id = one_job()
    take_one(job_id)
    assert take([job_id], "w2") == []
    assert job_row(job_id).worker_id == "w1"
    assert len(calls(job_id)) == 1


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_job_that_has_ended_is_not_claimed(state: str) -> None:
    job_id = one_job()
    set_job(job_id, state=state)
    assert take([job_id]) == []


def test_a_job_is_not_claimed_before_it_is_due() -> None:
    job_id = one_job()
    set_job(job_id, available_at=now_after(60.0))
    assert take([job_id]) == []
    set_job(job_id, available_at=now_after(-0.01))
    assert len(take([job_id])) == 1


@pytest.mark.parametrize("state", ["paused", "cancelled"])
def test_jobs_of_a_closed_batch_are_not_claimed(state: str) -> None:
    job_id = one_job()
    set_batch(state=state)
    assert take([job_id]) == []
    assert job_row(job_id).state == "queued"


def test_of_a_held_batch_only_the_probe_is_claimed() -> None:
    add_batch()
    first, second = add_jobs(2)
    set_batch(hold_reason="no credit", probe_job_id=second)
    assert [job.id for job in take([first, second])] == [second]


def test_unknown_ids_are_no_harm() -> None:
    job_id = one_job()
    assert [job.id for job in take([job_id, 10**9])] == [job_id]
    assert take([]) == []


def test_the_claim_says_how_long_ago_the_first_call_was() -> None:
    job_id = one_job()
    put(failure(take_one(job_id), "retried"))
    set_job(job_id, first_attempt_at=now_after(-90.0))
    again = take_one(job_id)
    assert again.failures == 1
    assert 89 < again.age_seconds < 90 + limit(10)


# --- renew ---


def test_only_the_owner_of_a_running_job_renews_its_lease() -> None:
    add_batch()
    ours, theirs, queued = add_jobs(3)
    take_one(ours, "w1", 5.0)
    take_one(theirs, "w2", 5.0)
    before = job_row(ours).lease_until, job_row(theirs).lease_until
    with writing() as connection:
        assert renew(connection, [ours, theirs, queued], claimant("w1", 100.0)) == {ours}
        assert renew(connection, [], claimant("w1", 100.0)) == set()
    assert (job_row(ours).lease_until - before[0]).total_seconds() > 60
    assert job_row(theirs).lease_until == before[1]
    assert job_row(queued).lease_until is None


# --- settle ---


def test_success_stores_state_attempt_dialogue_and_money_together() -> None:
    job_id = one_job()
    claimed = take_one(job_id)
    assert put(success(claimed)) == {job_id}
    job = job_row(job_id)
    assert (job.state, job.epoch, job.attempts, job.failures, job.error) == ("succeeded", 1, 1, 0, None)
    assert (job.input_tokens, job.output_tokens, job.cost_usd) == (10, 5, 0.25)
    assert job.lease_until is None and job.finished_at is not None and job.first_attempt_at is not None
    (call,) = calls(job_id)
    assert (call.outcome, call.http_status, call.request_id, call.seconds) == ("succeeded", 200, "req-1", 0.5)
    assert (call.input_tokens, call.output_tokens, call.cost_usd) == (10, 5, 0.25)
    assert call.ended_at is not None
    assert dialogue(job_id) == [("user", "why?"), ("assistant", "because")]
    with reading() as connection:
        opened = connection.execute(select(dialogues)).one()
    assert (opened.batch_id, opened.finish_reason, opened.sentiment) == ("b", "stop", None)


def test_a_retry_queues_the_job_for_later_and_counts_the_failure() -> None:
    job_id = one_job()
    put(failure(take_one(job_id), "retried", delay_seconds=60.0, input_tokens=3, output_tokens=0))
    job = job_row(job_id)
    assert (job.state, job.attempts, job.failures, job.error_code, job.error) == (
        "queued",
        1,
        1,
        "server_error",
        "no luck",
    )
    assert (job.input_tokens, job.cost_usd, job.finished_at) == (3, None, None)
    assert take([job_id]) == []  # not due
    assert calls(job_id)[0].outcome == "retried"


def test_a_failure_that_is_not_counted_leaves_the_cap_alone() -> None:
    job_id = one_job()
    put(failure(take_one(job_id), "retried", counted=False))
    assert (job_row(job_id).attempts, job_row(job_id).failures) == (1, 0)


def test_a_failure_ends_the_job_without_a_dialogue() -> None:
    job_id = one_job()
    put(failure(take_one(job_id)))
    job = job_row(job_id)
    assert (job.state, job.attempts, job.failures, job.error) == ("failed", 1, 1, "no luck")
    assert job.finished_at is not None
    assert dialogue(job_id) is None


@pytest.mark.parametrize("outcome", WITHOUT_ATTEMPT)
def test_a_snooze_leaves_no_attempt_and_counts_nothing(outcome: Outcome) -> None:
    job_id = one_job()
    put(failure(take_one(job_id), outcome, counted=False, delay_seconds=30.0, http_status=None, error=None))
    job = job_row(job_id)
    assert (job.state, job.attempts, job.failures, job.first_attempt_at) == ("queued", 0, 0, None)
    assert calls(job_id) == []
    assert take([job_id]) == []
    set_job(job_id, available_at=now_after(0))
    assert take_one(job_id).epoch == 2


def test_a_held_call_keeps_its_attempt_and_counts_nothing() -> None:
    job_id = one_job()
    put(failure(take_one(job_id), "held", counted=False, http_status=401))
    job = job_row(job_id)
    assert (job.state, job.attempts, job.failures, job.first_attempt_at) == ("queued", 0, 0, None)
    assert calls(job_id)[0].outcome == "held"


def test_money_adds_up_over_attempts_and_stays_unknown_until_a_price_is_known() -> None:
    job_id = one_job()
    put(failure(take_one(job_id), "retried", input_tokens=7, output_tokens=1, cost_usd=None))
    assert job_row(job_id).cost_usd is None
    put(failure(take_one(job_id), "retried", input_tokens=10, output_tokens=2, cost_usd=0.5))
    put(success(take_one(job_id)))
    job = job_row(job_id)
    assert (job.input_tokens, job.output_tokens, job.cost_usd, job.attempts) == (27, 8, 0.75, 3)


def test_many_jobs_with_different_outcomes_are_settled_in_one_statement() -> None:
    add_batch()
    ids = add_jobs(250)
    claimed = take(ids)
    ends = [
        (success(job), failure(job), failure(job, "retried"), failure(job, "snoozed"))[i % 4]
        for i, job in enumerate(claimed)
    ]
    assert put(*ends) == set(ids)
    assert count(jobs, jobs.c.state == "succeeded") == count(dialogues) == 63
    assert count(messages) == 126
    assert count(jobs, jobs.c.state == "failed") == 63
    assert count(attempts) == 63 + 63 + 62


def test_settling_nothing_is_no_harm() -> None:
    assert put() == set()


def test_a_stale_epoch_writes_no_state_and_no_answer_but_its_money_is_counted_once() -> None:
    job_id = one_job()
    old = take_one(job_id, "w1", lease_seconds=-1.0)
    with writing() as connection:
        assert rescue(connection, rescuer()) == 1
    new = take_one(job_id, "w2")
    for _ in range(2):  # a commit whose reply was lost is written again
        assert put(success(old, "the ghost's answer")) == set()
        job = job_row(job_id)
        assert (job.state, job.epoch, job.worker_id) == ("running", new.epoch, "w2")
        assert (job.input_tokens, job.output_tokens, job.cost_usd) == (10, 5, 0.25)
        assert dialogue(job_id) is None
        assert [call.outcome for call in calls(job_id)] == ["stale", None]
        assert calls(job_id)[0].cost_usd == 0.25
    assert put(success(new, "the owner's answer")) == {job_id}
    assert job_row(job_id).cost_usd == 0.5
    assert dialogue(job_id) == [("user", "why?"), ("assistant", "the owner's answer")]


def test_a_ghost_cannot_change_a_job_that_has_been_answered_meanwhile() -> None:
    job_id = one_job()
    old = take_one(job_id, "w1", lease_seconds=-1.0)
    with writing() as connection:
        rescue(connection, rescuer())
    put(success(take_one(job_id, "w2"), "first"))
    for late in (failure(old), failure(old, "retried"), success(old, "second")):
        assert put(late) == set()
        assert job_row(job_id).state == "succeeded"
    assert dialogue(job_id) == [("user", "why?"), ("assistant", "first")]
    assert count(messages) == 2


def test_a_commit_whose_reply_was_lost_changes_nothing_when_it_is_written_again() -> None:
    add_batch()
    first, second, third = take(add_jobs(3))
    ends = (success(first), failure(second, input_tokens=4, cost_usd=0.5), failure(third, "retried", cost_usd=0.25))
    put(*ends)
    with reading() as connection:
        before = [connection.execute(select(table).order_by(*table.primary_key)).all() for table in (jobs, attempts)]
    assert put(*ends) == {first.id, second.id}, "they are recorded, and their answers can be judged"
    with reading() as connection:
        after = [connection.execute(select(table).order_by(*table.primary_key)).all() for table in (jobs, attempts)]
    assert after == before
    assert (count(dialogues), count(messages)) == (1, 2)


def test_replies_and_errors_with_unstorable_characters_come_back_as_they_were() -> None:
    add_batch()
    first, second = take(add_jobs(2))
    put(
        success(first, UGLY, request_id=UGLY, answer=answer(UGLY, UGLY)),
        failure(second, error=UGLY, error_code="code \x00"),
    )
    assert dialogue(first.id) == [("user", UGLY), ("assistant", UGLY)]
    assert job_row(second.id).error == calls(second.id)[0].error == UGLY


def test_a_very_long_reply_is_stored_whole() -> None:
    job_id = one_job()
    text = "a long answer, " * 200_000
    put(success(take_one(job_id), text))
    assert (dialogue(job_id) or [])[-1] == ("assistant", text)


# --- release, rescue ---


def test_release_gives_back_what_one_worker_runs_and_nothing_else() -> None:
    add_batch()
    ours, theirs, queued = add_jobs(3)
    mine = take_one(ours, "w1")
    take_one(theirs, "w2")
    with writing() as connection:
        assert release(connection, "w1") == 1
    job = job_row(ours)
    assert (job.state, job.epoch, job.losses, job.attempts, job.lease_until) == ("queued", 2, 0, 1, None)
    assert calls(ours)[0].outcome == "lost"
    assert (job_row(theirs).state, job_row(queued).state) == ("running", "queued")
    assert put(success(mine)) == {ours}, "the answer came all the same"
    assert take([ours]) == []


def test_rescue_takes_only_jobs_whose_lease_has_run_out() -> None:
    add_batch()
    out, valid = add_jobs(2)
    take_one(out, lease_seconds=-1.0)
    take_one(valid, lease_seconds=30.0)
    with writing() as connection:
        assert rescue(connection, rescuer()) == 1
        assert rescue(connection, rescuer()) == 0
    job = job_row(out)
    assert (job.state, job.epoch, job.losses, job.failures, job.attempts) == ("queued", 2, 1, 0, 1)
    assert calls(out)[0].outcome == "lost" and calls(out)[0].ended_at is not None
    assert job_row(valid).state == "running"


def test_rescue_takes_the_jobs_of_workers_known_to_be_dead_before_their_lease_ends() -> None:
    add_batch()
    dead, alive = add_jobs(2)
    take_one(dead, "dead")
    take_one(alive, "alive")
    with writing() as connection:
        assert rescue(connection, rescuer(dead=["dead"])) == 1
    assert (job_row(dead).state, job_row(alive).state) == ("queued", "running")


def test_a_rescued_answer_that_comes_late_is_in_the_ledger_once() -> None:
    job_id = one_job()
    late = take_one(job_id, lease_seconds=-1.0)
    with writing() as connection:
        rescue(connection, rescuer())
    owner = take_one(job_id)
    put(success(late))
    assert (calls(job_id)[0].outcome, calls(job_id)[0].input_tokens, calls(job_id)[0].cost_usd) == ("stale", 10, 0.25)
    assert (job_row(job_id).state, job_row(job_id).attempts, job_row(job_id).epoch) == ("running", 1, owner.epoch)


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
@pytest.mark.parametrize("take_back", ["rescue", "release"])
def test_a_paid_answer_that_comes_late_counts_as_long_as_nobody_has_the_job(outcome: str, take_back: str) -> None:
    job_id = one_job()
    late = take_one(job_id, lease_seconds=-1.0)
    with writing() as connection:
        _ = rescue(connection, rescuer()) if take_back == "rescue" else release(connection, "w1")
    ending = success(late, "late") if outcome == "succeeded" else failure(late, cost_usd=0.25)
    for _ in range(2):  # a commit whose reply was lost is written again
        assert put(ending) == {job_id}
        (call,) = calls(job_id)
        job = job_row(job_id)
        assert (call.outcome, job.state, job.attempts, job.cost_usd) == (outcome, outcome, 1, 0.25)
        assert job.epoch == late.epoch + 2, "no message of the rescued job may find it"
    assert dialogue(job_id) == ([("user", "why?"), ("assistant", "late")] if outcome == "succeeded" else None)
    assert take([job_id]) == []


@pytest.mark.parametrize("outcome", ["retried", "snoozed", "held"])
def test_a_late_call_without_an_end_changes_nothing(outcome: str) -> None:
    job_id = one_job()
    late = take_one(job_id, lease_seconds=-1.0)
    with writing() as connection:
        rescue(connection, rescuer())
    assert put(failure(late, outcome, counted=False)) == set()
    assert (job_row(job_id).state, job_row(job_id).epoch) == ("queued", 2)


def test_nobody_rescues_what_is_its_own_but_a_claim_that_it_never_heard_of() -> None:
    add_batch()
    own, unheard_of = add_jobs(2)
    take([own, unheard_of], "rescuer", lease_seconds=-1.0)
    with writing() as connection:
        assert rescue(connection, rescuer(own=[own])) == 1
    assert (job_row(own).state, job_row(unheard_of).state) == ("running", "queued")
    assert job_row(unheard_of).losses == 0, "it lives"


def test_a_lease_says_nothing_while_the_database_was_away() -> None:
    job_id = one_job()
    take_one(job_id, "w1", lease_seconds=-1.0)
    with writing() as connection:
        assert rescue(connection, replace(rescuer(), by_lease=False)) == 0
        assert rescue(connection, replace(rescuer(dead=["w1"]), by_lease=False)) == 1


def test_a_worker_that_lives_but_was_silent_loses_its_jobs_and_no_job_is_to_blame() -> None:
    add_batch()
    frozen, vanished = add_jobs(2)
    take_one(frozen, "frozen", lease_seconds=-1.0)
    take_one(vanished, "vanished", lease_seconds=-1.0)
    with writing() as connection:
        assert rescue(connection, rescuer(living=["frozen"])) == 2
    assert (job_row(frozen).losses, job_row(vanished).losses) == (0, 1)


def test_leases_are_judged_by_workers_of_the_same_provider() -> None:
    add_batch(provider="another.test")
    (job_id,) = add_jobs(1)
    set_job(job_id, state="running", lease_until=now_after(-1.0), worker_id="theirs")
    with writing() as connection:
        assert rescue(connection, rescuer()) == 0
        assert rescue(connection, rescuer(dead=["theirs"])) == 1


def test_a_job_that_two_workers_vanished_with_is_claimed_by_one_that_runs_nothing_else() -> None:
    add_batch()
    suspect, innocent = add_jobs(2)
    set_job(suspect, losses=ALONE_AFTER)
    assert [job.id for job in take([suspect, innocent])] == [innocent]
    with writing() as connection:
        assert left_to_run_alone(connection, [suspect, innocent]) == [suspect]
    assert [job.id for job in take([suspect], alone=True)] == [suspect]


def test_a_worker_claims_jobs_of_its_own_provider_alone() -> None:
    add_batch("a", provider="a.test")
    add_batch("b")
    (other,), (own,) = add_jobs(1, "a"), add_jobs(1, "b")
    assert [job.id for job in take([other, own])] == [own]


def test_a_job_that_takes_worker_after_worker_with_it_is_failed() -> None:
    job_id = one_job()
    for loss in range(1, MAX_LOSSES + 1):
        take([job_id], lease_seconds=-1.0, alone=loss > ALONE_AFTER)
        with writing() as connection:
            assert rescue(connection, rescuer()) == 1
        assert job_row(job_id).state == ("queued" if loss < MAX_LOSSES else "failed")
    job = job_row(job_id)
    assert (job.error_code, job.losses, job.attempts, job.failures) == ("worker_lost", MAX_LOSSES, MAX_LOSSES, 0)
    assert job.finished_at is not None and job.lease_until is None
    assert {call.outcome for call in calls(job_id)} == {"lost"}


@pytest.mark.parametrize(("outcome", "losses"), [("retried", 2), ("held", 2), ("stepped", 0), ("snoozed", 2)])
def test_losses_are_counted_anew_for_each_step_of_a_job(outcome: Outcome, losses: int) -> None:
    job_id = one_job()
    set_job(job_id, losses=2)
    (job,) = take([job_id], alone=True)
    put(failure(job, outcome))
    assert job_row(job_id).losses == losses


# --- cancel, revive ---


def test_cancel_ends_open_jobs_those_in_flight_included() -> None:
    add_batch()
    add_batch("other")
    queued, running, done = add_jobs(3)
    elsewhere = add_jobs(1, "other")[0]
    put(success(take_one(done)))
    flying = take_one(running)
    with writing() as connection:
        assert cancel(connection, "b") == 2
        assert cancel(connection, "b") == 0
    assert [job_row(each).state for each in (queued, running, done, elsewhere)] == [
        "cancelled",
        "cancelled",
        "succeeded",
        "queued",
    ]
    assert job_row(running).lease_until is None and job_row(running).epoch == flying.epoch + 1
    assert (job_row(running).attempts, job_row(queued).attempts) == (1, 0)
    # the call ends after all: its money is counted, its answer is not kept
    assert put(success(flying)) == set()
    assert (job_row(running).state, job_row(running).cost_usd, dialogue(running)) == ("cancelled", 0.25, None)
    assert calls(running)[0].outcome == "stale"


def test_cancel_of_rows_that_an_input_no_longer_holds_spares_the_others() -> None:
    add_batch()
    old, kept = add_jobs(2)
    set_job(kept, submission=2)
    with writing() as connection:
        assert cancel(connection, "b", older_than=2) == 1
    assert (job_row(old).state, job_row(kept).state) == ("cancelled", "queued")


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_revive_queues_an_ended_job_again_with_a_fresh_count(state: str) -> None:
    job_id = one_job()
    put(failure(take_one(job_id), input_tokens=9, output_tokens=1, cost_usd=0.5))
    set_job(job_id, state=state, losses=3)
    with writing() as connection:
        assert len(revive(connection, "b")) == 1
        assert len(revive(connection, "b")) == 0
    job = job_row(job_id)
    assert (job.state, job.epoch, job.failures, job.losses, job.error, job.finished_at) == (
        "queued",
        2,
        0,
        0,
        None,
        None,
    )
    assert job.attempts == 1 and job.cost_usd == 0.5  # what was paid stays paid
    claimed = take_one(job_id)
    assert (claimed.failures, claimed.age_seconds) == (0, 0.0)
    put(success(claimed))
    assert job_row(job_id).cost_usd == 0.75


def test_revive_leaves_open_and_answered_jobs_and_other_keys_alone() -> None:
    add_batch()
    queued, running, done, failed, cancelled = ids = add_jobs(5)
    take_one(running)
    put(success(take_one(done)), failure(take_one(failed)))
    set_job(cancelled, state="cancelled")
    with writing() as connection:
        assert len(revive(connection, "b", ["r0", "r1", "r2", "r4"])) == 1
    assert [job_row(each).state for each in ids] == ["queued", "running", "succeeded", "failed", "queued"]
    assert job_row(queued).epoch == 0


def test_a_call_from_before_a_cancel_and_a_revive_cannot_end_the_revived_job() -> None:
    job_id = one_job()
    flying = take_one(job_id)
    with writing() as connection:
        cancel(connection, "b")
        revive(connection, "b")
    again = take_one(job_id)
    assert again.epoch > flying.epoch + 1
    assert put(success(flying)) == set()
    assert job_row(job_id).state == "running"


# --- the database's own walls ---


@pytest.mark.parametrize(
    "values",
    [{"state": "running"}, {"state": "unheard of"}, {"lease_until": now_after(5.0)}],
    ids=["running without a lease", "an unknown state", "a lease without running"],
)
def test_the_database_itself_refuses_impossible_jobs(values: dict[str, object]) -> None:
    job_id = one_job()
    with pytest.raises(IntegrityError), writing() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))


def test_two_workers_that_claim_at_once_never_share_a_job() -> None:
    """Threads, because a claim is one statement and the database must be the one that decides."""
    from concurrent.futures import ThreadPoolExecutor

    add_batch()
    ids = add_jobs(400)

    def greedy(worker_id: str) -> Sequence[int]:
        return [job.id for start in range(0, 400, 20) for job in take(ids[start : start + 20], worker_id)]

    with ThreadPoolExecutor(4) as pool:
        taken = [job for share in pool.map(greedy, ["w1", "w2", "w3", "w4"]) for job in share]
    # On Postgres a claim skips rows that another is just about to take, so some may be left; none is taken twice.
    assert len(taken) == len(set(taken))
    assert count(attempts) == len(taken) == count(jobs, jobs.c.state == "running")
    assert len(taken) + len(take(ids, "w5")) == 400


def test_a_ghost_and_the_owner_of_the_same_job_settled_together_are_told_apart() -> None:
    """One worker can hold both: its lease ran out, and the job came back to it while the first call was under way."""
    job_id = one_job()
    old = take_one(job_id, lease_seconds=-1.0)
    with writing() as connection:
        rescue(connection, rescuer())
    new = take_one(job_id)
    assert put(success(old, "the ghost's answer"), success(new, "the owner's answer")) == {job_id}
    assert dialogue(job_id) == [("user", "why?"), ("assistant", "the owner's answer")]
    assert [call.outcome for call in calls(job_id)] == ["stale", "succeeded"]
    job = job_row(job_id)
    assert (job.input_tokens, job.output_tokens, job.cost_usd, job.attempts) == (20, 10, 0.5, 2)


def test_two_ghosts_of_the_same_job_settled_together_are_both_paid_for() -> None:
    job_id = one_job()
    ghosts = []
    for _ in range(2):
        ghosts.append(take_one(job_id, lease_seconds=-1.0))
        with writing() as connection:
            rescue(connection, rescuer())
    assert put(*map(success, reversed(ghosts))) == {job_id}  # the second one's, for nobody has had the job since
    assert [call.outcome for call in calls(job_id)] == ["stale", "succeeded"]
    assert (job_row(job_id).input_tokens, job_row(job_id).cost_usd) == (20, 0.5)


def test_jobs_that_wait_only_because_the_clock_was_set_back_are_due_at_once() -> None:
    add_batch()
    new, retried, waiting = add_jobs(3)
    set_job(new, available_at=now_after(3600.0))
    set_job(retried, available_at=now_after(3605.0), epoch=1)
    set_job(waiting, available_at=now_after(LONGEST_DELAY_SECONDS), epoch=1)
    with writing() as connection:
        assert correct_due_times(connection) == 2
    assert {job.id for job in take([new, retried, waiting])} == {new, retried}


def test_no_job_waits_for_longer_than_the_longest_delay() -> None:
    job_id = one_job()
    put(failure(take_one(job_id), "snoozed", counted=False, delay_seconds=86_400.0))
    with writing() as connection:
        assert correct_due_times(connection) == 0


# --- locks, on Postgres ---


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_lease_begins_when_its_row_could_be_locked(database: str) -> None:
    job_id = one_job()
    take_one(job_id, "w1", lease_seconds=30.0)
    with ThreadPoolExecutor(1) as pool:
        with writing() as holder:
            holder.execute(select(jobs.c.id).where(jobs.c.id == job_id).with_for_update())
            renewing = pool.submit(_renew, job_id)
            wait_until(_somebody_waits_for_a_lock, "renewing waits for the row")
            released_at = holder.scalar(select(now()))
        assert renewing.result() == {job_id}
    assert released_at is not None
    assert job_row(job_id).lease_until >= released_at + timedelta(seconds=30)


def _renew(job_id: int) -> set[int]:
    with writing() as connection:
        return renew(connection, [job_id], claimant("w1", 30.0))


def _somebody_waits_for_a_lock() -> bool:
    with reading() as connection:
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(connection.scalar(waiting))


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_cancelling_what_is_being_settled_renewed_and_claimed_is_no_deadlock(database: str) -> None:
    for number in range(10):
        batch_id = add_batch(f"b{number}")
        ids = add_jobs(200, batch_id)
        claimed = take(ids)
        with ThreadPoolExecutor(4) as pool:
            chunks = [claimed[start::4] for start in range(4)]
            settling = [pool.submit(put, *map(success, reversed(chunk))) for chunk in chunks[:3]]
            renewing = pool.submit(_renew, claimed[3].id)
            with writing() as connection:
                cancelled = batches.cancel(connection, batch_id).rows
            written = sum(len(each.result()) for each in settling)
            renewing.result()
        assert written + cancelled == 200
