"""A window of calls on one loop: it is kept full and never overfilled, and whatever ends it leaves no job behind."""

import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url, text

from tests.conftest import UseEnvironment, WaitUntil
from tests.rows import add_batch, add_jobs, add_worker, batch_row, calls, count, job_row, set_batch, set_job, take
from tests.servers import Postgres
from tests.waiting import limit
from tidemill.models.claims import ALONE_AFTER
from tidemill.models.database import close, engine, writing
from tidemill.models.errors import DatabaseError
from tidemill.models.scope import Scope
from tidemill.models.tables import attempts, dialogues, jobs, workers
from tidemill.models.transitions import cancel
from tidemill.simulator import Simulator
from tidemill.worker.runner import Runner

MOST = 2 * 8  # jobs that a runner with this window claims


@pytest.fixture
def provider(database: str, simulator: Simulator, use_environment: UseEnvironment) -> Simulator:
    """The simulator, as the provider of whatever runs in this process."""
    # Nothing renews leases here: that is maintenance's.
    use_environment({"OPENAI_BASE_URL": simulator.url, "OPENAI_API_KEY": "test-key", "TIDEMILL_LEASE_SECONDS": "100"})
    engine()  # before there are threads: two that open one at once open two, and one of them is never closed
    return simulator


@pytest.fixture
def runner(provider: Simulator) -> Iterator[Runner]:
    made = Runner(8, Scope())
    yield made
    made.drain(limit())


def in_state(state: str) -> int:
    return count(jobs, jobs.c.state == state)


def test_jobs_are_claimed_asked_and_stored(runner: Runner, provider: Simulator, wait_until: WaitUntil) -> None:
    add_batch()
    ids = add_jobs(20)
    runner.admit(ids)
    wait_until(lambda: in_state("succeeded") == 20, "all are answered")
    assert len(provider.paid()) == 20
    assert set(provider.paid_by_prompt().values()) == {1}
    assert count(dialogues) == count(attempts, attempts.c.outcome == "succeeded") == 20
    wait_until(lambda: not runner.owned_jobs() and runner.in_flight == 0, "nothing is owned any more")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_client_that_cannot_be_made_fails_no_row(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/gone.pem")
    add_batch()
    (job_id,) = add_jobs(1)
    runner.admit([job_id])
    wait_until(lambda: job_row(job_id).state == "queued" and job_row(job_id).epoch == 1, "it is given back")
    assert (count(attempts), job_row(job_id).failures) == (0, 0)
    assert runner.trouble is not None
    assert runner.trouble.startswith("SSL_CERT_FILE names /gone.pem, which is not there.")
    assert runner.trouble in caplog.text
    monkeypatch.delenv("SSL_CERT_FILE")
    set_job(job_id, available_at=batch_row().created_at)
    runner.admit([job_id])
    wait_until(lambda: job_row(job_id).state == "succeeded", "it is answered")
    assert runner.trouble is None


def test_a_message_that_comes_twice_is_paid_for_once(
    runner: Runner, provider: Simulator, wait_until: WaitUntil
) -> None:
    add_batch()
    ids = add_jobs(10)
    threads = [threading.Thread(target=runner.admit, args=[ids]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit())
    wait_until(lambda: in_state("succeeded") == 10, "all are answered")
    assert len(provider.paid()) == 10


def test_the_window_is_never_overfilled_and_claims_stop_a_little_beyond_it(
    runner: Runner, provider: Simulator, wait_until: WaitUntil
) -> None:
    provider.control(latency_ms=100, latency_shape="fixed", gate="shut")
    add_batch()
    ids = add_jobs(MOST + 20)

    def admit_all() -> None:
        for start in range(0, len(ids), 4):
            runner.admit(ids[start : start + 4])

    admitting = threading.Thread(target=admit_all)
    admitting.start()
    wait_until(lambda: provider.counters()["in_flight"] == 8, "the window is full")
    assert runner.in_flight <= MOST
    assert in_state("running") <= MOST
    provider.control(gate="open")
    in_flight = {8}

    def all_answered() -> bool:
        in_flight.add(provider.counters()["in_flight"])
        assert runner.in_flight <= MOST
        return in_state("succeeded") == len(ids)

    wait_until(all_answered, "all are answered")
    admitting.join(limit())
    assert max(in_flight) <= 10  # a call may begin before the server has noted the end of the one before


def test_stopping_lets_calls_in_flight_end_and_gives_the_rest_back_unpaid(
    provider: Simulator, wait_until: WaitUntil
) -> None:
    provider.control(gate="shut")
    add_batch()
    ids = add_jobs(20)
    runner = Runner(5, Scope())
    admitting = threading.Thread(target=runner.admit, args=[ids])
    admitting.start()
    wait_until(lambda: provider.counters()["in_flight"] == 5, "the window is full")
    wait_until(lambda: in_state("running") == 10, "as many wait for it")
    runner.stop_admitting()
    provider.control(gate="open")
    runner.drain(limit())
    admitting.join(limit())
    done, given_back = in_state("succeeded"), in_state("queued")
    assert (done + given_back, in_state("running")) == (20, 0)
    assert given_back >= 5
    assert len(provider.paid()) == done
    assert count(attempts) == done  # what did not begin left no attempt
    runner.admit(ids)  # a message that comes after the end is no harm
    assert in_state("running") == 0


def test_a_call_that_outlasts_the_drain_is_given_back_and_said(
    provider: Simulator, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    provider.control(gate="shut")
    add_batch()
    (job_id,) = add_jobs(1)
    runner = Runner(5, Scope())
    runner.admit([job_id])
    wait_until(lambda: provider.counters()["in_flight"] == 1, "the call is under way")
    runner.drain(0.1)
    assert "1 calls did not end in time and are broken off" in caplog.text
    assert (job_row(job_id).state, job_row(job_id).losses) == ("queued", 0)
    assert [call.outcome for call in calls(job_id)] == ["lost"]


def test_a_process_that_was_frozen_beyond_its_lease_pays_for_nothing(
    runner: Runner, provider: Simulator, wait_until: WaitUntil
) -> None:
    runner.note_renewal(time.monotonic() - 101, {}, set())
    add_batch()
    ids = add_jobs(5)
    runner.admit(ids)
    wait_until(lambda: runner.in_flight == 0 and not runner.owned_jobs(), "all are given back")
    assert provider.paid() == []
    assert in_state("queued") == 5


def test_a_cancelled_job_in_flight_is_paid_but_not_recorded(
    runner: Runner, provider: Simulator, wait_until: WaitUntil
) -> None:
    provider.control(gate="shut")
    add_batch()
    (job_id,) = add_jobs(1)
    runner.admit([job_id])
    wait_until(lambda: provider.counters()["in_flight"] == 1, "the call is under way")
    with writing() as connection:
        cancel(connection, "b")
    provider.control(gate="open")
    wait_until(lambda: [call.outcome for call in calls(job_id)] == ["stale"], "the ledger knows how it ended")
    job = job_row(job_id)
    assert (job.state, job.input_tokens > 0, count(dialogues)) == ("cancelled", True, 0)


def test_a_wrong_key_holds_the_batch_after_the_calls_in_flight(
    runner: Runner, provider: Simulator, wait_until: WaitUntil
) -> None:
    provider.control(key="another-key")
    add_batch()
    ids = add_jobs(60)
    runner.admit(ids)
    wait_until(lambda: runner.in_flight == 0 and not runner.owned_jobs(), "all have ended")
    assert batch_row().hold_reason
    assert in_state("queued") == 60
    assert count(jobs, jobs.c.failures > 0) == 0
    assert count(attempts) <= 2 * 8


def test_jobs_of_batches_with_other_options_run_side_by_side(
    runner: Runner, provider: Simulator, wait_until: WaitUntil
) -> None:
    from tidemill.models.options import Options

    add_batch("chat")
    add_batch("responses", options=Options("gpt-6-luna", "responses", system="Be brief.", transport="http").to_json())
    ids = add_jobs(3, "chat") + add_jobs(3, "responses")
    runner.admit(ids)
    wait_until(lambda: in_state("succeeded") == 6, "all are answered")


def test_a_row_that_we_cannot_build_fails_alone(runner: Runner, wait_until: WaitUntil) -> None:
    add_batch()
    good, bad, foreign = add_jobs(3)
    set_job(bad, request={"nonsense": 1})
    set_job(foreign, request={"url": "/v1/nonsense", "body": {}})
    runner.admit([good, bad, foreign])
    wait_until(lambda: not runner.owned_jobs() and in_state("running") == 0, "all have ended")
    assert job_row(good).state == "succeeded"
    assert (job_row(bad).state, job_row(bad).error_code) == ("failed", "internal_error")
    assert (job_row(foreign).state, job_row(foreign).error_code) == ("failed", "not_supported")
    assert "no endpoint /v1/nonsense" in job_row(foreign).error


def test_paused_jobs_in_a_message_stay_where_they_are(runner: Runner, provider: Simulator) -> None:
    add_batch()
    ids = add_jobs(5)
    set_batch(state="paused")
    runner.admit(ids)
    assert (runner.in_flight, in_state("queued")) == (0, 5)
    assert provider.paid() == []


def test_hunger_is_felt_before_the_broker_runs_dry(runner: Runner) -> None:
    add_batch()
    ids = add_jobs(4)
    assert not runner.hungry.is_set()
    runner.admit(ids)
    assert runner.hungry.is_set()


def test_without_a_broker_due_jobs_are_claimed_when_there_is_room_for_enough(
    runner: Runner, provider: Simulator, wait_until: WaitUntil
) -> None:
    provider.control(gate="shut")
    add_batch()
    add_jobs(MOST + 9)
    assert runner.admit_due(Scope(), 100) == MOST
    assert not runner.hungry.is_set()
    assert runner.admit_due(Scope(), 100) == 0
    runner.expects_more = True
    provider.control(gate="open")
    wait_until(runner.hungry.is_set, "there is room again")
    claimed = 0
    while claimed < 9:
        wait_until(lambda: runner.free, "there is room for enough")
        claimed += runner.admit_due(Scope(), 100)
    wait_until(lambda: in_state("succeeded") == MOST + 9, "all are answered")
    assert set(provider.paid_by_prompt().values()) == {1}


def test_a_database_that_is_away_does_not_keep_a_worker_from_stopping(
    provider: Simulator, use_environment: UseEnvironment, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    runner = Runner(4, Scope())
    add_batch()
    ids = add_jobs(2)
    use_environment({"TIDEMILL_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"})
    admitting = threading.Thread(target=runner.admit, args=[ids])
    admitting.start()
    wait_until(lambda: "not claimed" in caplog.text, "it says why it waits")
    assert runner.in_flight == 0
    with pytest.raises(DatabaseError):
        take(ids)
    runner.drain(0)
    admitting.join(limit())
    assert "not given back" in caplog.text


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_message_is_claimed_once_the_database_is_back(
    runner: Runner,
    postgres_server: Postgres,
    postgres_url: str,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = make_url(postgres_url).database
    add_batch()
    ids = add_jobs(2)
    postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    close()
    admitting = threading.Thread(target=runner.admit, args=[ids])
    admitting.start()
    wait_until(lambda: "not claimed" in caplog.text, "it says why it waits")
    postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
    close()
    wait_until(lambda: in_state("succeeded") == 2, "both are answered")
    admitting.join(limit())


def test_a_message_with_more_ids_than_a_window_holds_is_worked_off(
    runner: Runner, provider: Simulator, wait_until: WaitUntil
) -> None:
    add_batch()
    runner.admit(add_jobs(MOST + 50))
    wait_until(lambda: in_state("succeeded") == MOST + 50, "all are answered")
    assert len(provider.paid()) == MOST + 50


def test_jobs_that_workers_vanished_with_run_one_by_one_beside_nothing_else(
    runner: Runner, provider: Simulator, wait_until: WaitUntil
) -> None:
    provider.control(latency_ms=50, latency_shape="fixed")
    add_batch()
    ids = add_jobs(12)
    for suspect in ids[3:5]:
        set_job(suspect, losses=ALONE_AFTER)
    threads = [threading.Thread(target=runner.admit, args=[part]) for part in (ids[:6], ids[6:])]
    for thread in threads:
        thread.start()
    wait_until(lambda: in_state("succeeded") == 12, "all are answered")
    for thread in threads:
        thread.join(limit())
    ledger = {job_id: calls(job_id)[0] for job_id in ids}  # from its claim until it was stored
    for suspect in ids[3:5]:
        began, ended = ledger[suspect].started_at, ledger[suspect].ended_at
        beside = [each for each in ids if ledger[each].started_at < ended and ledger[each].ended_at > began]
        assert beside == [suspect]


def test_a_stop_does_not_wait_for_a_job_that_waits_to_run_alone(
    runner: Runner, provider: Simulator, wait_until: WaitUntil
) -> None:
    provider.control(gate="shut")
    add_batch()
    under_way, suspect = add_jobs(2)
    set_job(suspect, losses=ALONE_AFTER)
    runner.admit([under_way])
    waiting = threading.Thread(target=runner.admit, args=[[suspect]])
    waiting.start()
    wait_until(lambda: runner.free == 0, "nothing else is admitted meanwhile")
    runner.stop_admitting()
    waiting.join(limit())
    assert not waiting.is_alive()
    assert job_row(suspect).state == "queued"
    provider.control(gate="open")


def test_no_more_calls_begin_than_answers_can_wait_to_be_stored(
    provider: Simulator, postgres_url: str, use_environment: UseEnvironment, wait_until: WaitUntil
) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    runner = Runner(4, Scope())
    add_batch()
    ids = add_jobs(30)
    admitting = threading.Thread(target=runner.admit, args=[ids])
    provider.control(gate="shut")
    admitting.start()
    wait_until(lambda: provider.counters()["in_flight"] == 4, "the window is full")
    wait_until(lambda: in_state("running") == 8, "as many wait for it")
    with writing() as holder:  # as a slow disk does it: every store waits
        holder.execute(text("LOCK TABLE dialogues IN EXCLUSIVE MODE"))
        provider.control(gate="open")
        wait_until(lambda: len(provider.paid()) == 2 * 4, "as many are paid as may wait")
        wait_until(lambda: runner.in_flight == 0, "none is under way")
        assert len(provider.paid()) == 2 * 4
    wait_until(lambda: in_state("succeeded") == 30, "all are answered")
    admitting.join(limit())
    runner.drain(limit())
    assert len(provider.paid()) == 30


def test_two_runners_share_the_work(provider: Simulator, wait_until: WaitUntil) -> None:
    add_batch()
    add_worker("unrelated")
    ids = add_jobs(40)
    runners = [Runner(4, Scope()), Runner(4, Scope())]
    threads = [threading.Thread(target=each.admit, args=[ids]) for each in runners]
    for thread in threads:
        thread.start()
    wait_until(lambda: in_state("queued") == 0, "all are claimed")
    wait_until(lambda: in_state("succeeded") == 40, "all are answered")
    for thread, each in zip(threads, runners, strict=True):
        thread.join(limit())
        each.drain(limit())
    assert len(provider.paid()) == 40
    assert count(workers) == 1
