"""What keeps a queue alive: who died is noticed, what they left runs on, and a duty that fails is tried again."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, text, update

from tests.conftest import UseEnvironment
from tests.rows import (
    add_batch,
    add_jobs,
    add_worker,
    arrived,
    calls,
    count,
    job_row,
    put,
    set_job,
    success,
    take,
    take_one,
)
from tests.servers import Broker
from tests.waiting import limit, wait_until
from tidemill.models.clock import now, now_after
from tidemill.models.database import engine, reading, writing
from tidemill.models.scope import Scope
from tidemill.models.tables import dialogues, jobs, workers
from tidemill.simulator import Simulator
from tidemill.worker import maintenance
from tidemill.worker.courier import Courier
from tidemill.worker.maintenance import Maintenance, machine
from tidemill.worker.own_claims import own_claims
from tidemill.worker.rounds import Rounds
from tidemill.worker.runner import Runner


@pytest.fixture
def provider(database: str, simulator: Simulator, use_environment: UseEnvironment) -> Simulator:
    lease = {"TIDEMILL_LEASE_SECONDS": str(limit(2))}  # short, but a worker must come to renewing it
    use_environment({"OPENAI_BASE_URL": simulator.url, "OPENAI_API_KEY": "test-key", **lease})
    engine()  # before there are threads: two that open one at once open two, and one of them is never closed
    return simulator


@pytest.fixture
def runner(provider: Simulator) -> Iterator[Runner]:
    made = Runner(8, Scope())
    yield made
    made.drain(limit(5))


@pytest.fixture
def duties(a_broker: None, runner: Runner) -> Iterator[Maintenance]:
    made = Maintenance(runner, Courier(runner).rounds())
    made._unbroken_since -= limit(1_000)  # as after a long time at work: nobody waits until it sees everybody
    yield made
    made.close()


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def take_surely(job_id: int, worker_id: str, lease_seconds: float) -> None:
    """Claim a job while duties run: on Postgres a claim passes over a row that is being fed just then."""
    wait_until(lambda: take([job_id], worker_id, lease_seconds), "the job is claimed")


def seen_at(worker_id: str) -> object:
    with reading() as connection:
        return connection.scalar(select(workers.c.seen_at).where(workers.c.id == worker_id))


def test_a_worker_signs_on_beats_and_signs_off(runner: Runner) -> None:
    duties = Maintenance(runner, [own_claims(runner)])
    wait_until(lambda: count(workers) == 1, "it is signed on")
    with reading() as connection:
        row = connection.execute(select(workers)).one()
    assert (row.id, row.pid, row.window, row.machine) == (runner.worker_id, os.getpid(), 8, machine())
    wait_until(lambda: seen_at(row.id) != row.seen_at, "it beats")
    duties.close()
    assert count(workers) == 0


@pytest.mark.usefixtures("duties")
def test_a_worker_that_was_forgotten_signs_on_again(runner: Runner) -> None:
    wait_until(lambda: count(workers) == 1, "it is signed on")
    with writing() as connection:
        connection.execute(delete(workers))
    wait_until(lambda: seen_at(runner.worker_id) is not None, "it is signed on again")


def is_past(moment: Any) -> bool:
    with reading() as connection:
        return bool(connection.scalar(select(now() > moment)))


@pytest.mark.usefixtures("duties")
def test_the_lease_of_a_long_call_goes_on(runner: Runner, provider: Simulator) -> None:
    provider.control(gate="shut")
    add_batch()
    (job_id,) = add_jobs(1)
    runner.admit([job_id])
    wait_until(lambda: provider.counters()["in_flight"] == 1, "the call is under way")
    first_lease = job_row(job_id).lease_until
    wait_until(lambda: is_past(first_lease), "its first lease would be over")
    provider.control(gate="open")
    wait_until(lambda: job_row(job_id).state == "succeeded", "it is answered")
    assert job_row(job_id).epoch == 1
    assert len(provider.paid()) == 1


@pytest.mark.usefixtures("duties")
def test_due_jobs_are_fed_without_being_asked() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    wait_until(lambda: arrived() == [[job_id]], "it is sent")
    assert job_row(job_id).sent_at is not None


@pytest.mark.usefixtures("duties")
def test_a_job_whose_lease_ran_out_is_queued_and_fed_again() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    take_surely(job_id, "vanished", 0.2)
    wait_until(lambda: job_row(job_id).epoch == 2, "it is rescued")
    assert (job_row(job_id).losses, calls(job_id)[0].outcome) == (1, "lost")
    wait_until(lambda: job_row(job_id).sent_at is not None, "it is sent again")


@pytest.mark.usefixtures("duties")
def test_a_claim_that_takes_longer_than_its_lease_is_not_rescued_by_its_own_process(runner: Runner) -> None:
    add_batch()
    own, others = add_jobs(2)
    runner._claiming[0] = [own]  # a huge row: stored as claimed, not yet read
    take_surely(own, runner.worker_id, 0.2)
    take_surely(others, "vanished", 0.2)
    wait_until(lambda: job_row(others).epoch == 2, "the other one is rescued")
    assert (job_row(own).state, job_row(own).epoch) == ("running", 1)


@pytest.mark.usefixtures("duties")
def test_jobs_of_a_dead_process_on_this_machine_need_not_wait_for_their_lease() -> None:
    add_batch()
    here, elsewhere, alive = add_jobs(3)
    for job_id, worker_id in ((here, "dead"), (elsewhere, "dead elsewhere"), (alive, "alive")):
        take_surely(job_id, worker_id, 300.0)
    add_worker("dead elsewhere", machine="another", pid=dead_pid())
    add_worker("alive", machine=machine(), pid=os.getpid())
    add_worker("dead", machine=machine(), pid=dead_pid())
    wait_until(lambda: job_row(here).epoch == 2, "it is rescued")
    assert (job_row(elsewhere).state, job_row(alive).state) == ("running", "running")
    assert count(workers, workers.c.id == "dead") == 0
    assert count(workers, workers.c.id.in_(["dead elsewhere", "alive"])) == 2


@pytest.mark.usefixtures("duties")
def test_a_lost_message_is_sent_again() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    set_job(job_id, sent_at=now_after(-4.0))  # and nothing is in the broker
    wait_until(lambda: arrived() == [[job_id]], "it is sent again")


@pytest.mark.usefixtures("duties")
def test_replies_that_a_dead_worker_left_unjudged_are_judged() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    put(success(take_one(job_id, "vanished"), "This is wonderful, I love it!"))
    with writing() as connection:
        connection.execute(update(dialogues).values(created_at=now_after(-120.0)))
    wait_until(lambda: count(dialogues, dialogues.c.sentiment == "positive") == 1, "it is judged")


def test_only_workers_that_are_long_gone_and_run_nothing_are_forgotten(provider: Simulator) -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    day = maintenance._FORGET_WORKERS_SECONDS
    add_worker("gone", seen_at=now_after(-day - 60))
    add_worker("gone with a job", seen_at=now_after(-day - 60))
    add_worker("recent", seen_at=now_after(-60.0))
    add_jobs(1, prefix="never claimed")
    take_one(job_id, "gone with a job", lease_seconds=1000.0)
    maintenance._prune()
    with reading() as connection:
        assert set(connection.scalars(select(workers.c.id))) == {"gone with a job", "recent"}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_duty_that_fails_is_tried_again_and_does_not_end_the_others(
    duties: Maintenance, runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    wait_until(lambda: count(workers) == 1, "it is signed on")
    with writing() as connection:
        connection.execute(text("ALTER TABLE jobs RENAME TO gone"))
    wait_until(lambda: "no such table" in caplog.text, "a duty has failed")
    with writing() as connection:
        connection.execute(text("ALTER TABLE gone RENAME TO jobs"))
    before = seen_at(runner.worker_id)
    wait_until(lambda: seen_at(runner.worker_id) != before, "it beats again")
    add_batch()
    (job_id,) = add_jobs(1)
    wait_until(lambda: job_row(job_id).sent_at is not None, "it feeds again")


def test_a_worker_that_stops_feeds_no_more(runner: Runner, duties: Maintenance) -> None:
    runner.stop_admitting()
    await_rounds(duties)
    add_batch()
    add_jobs(1)
    await_rounds(duties)
    assert count(jobs, jobs.c.sent_at.is_not(None)) == 0


def test_after_the_database_was_away_nobody_is_robbed_before_everybody_could_come_back(
    runner: Runner, use_environment: UseEnvironment
) -> None:
    use_environment({"TIDEMILL_LEASE_SECONDS": "3600"})
    duties = Maintenance(runner, [])
    duties._heartbeat.stop()
    duties._heartbeat.join(limit())  # from here on it beats when it is told
    add_batch()
    (job_id,) = add_jobs(1)
    take_surely(job_id, "a neighbour", 0.01)
    wait_until(lambda: is_past(job_row(job_id).lease_until), "its lease is over")
    duties._beaten_at -= 10_000  # so long was the database away; the next beat finds it again
    duties._unbroken_since -= 20_000
    for duty in (duties._rescue, duties._beat, duties._rescue):
        duty()
        assert job_row(job_id).state == "running"
    duties._unbroken_since -= 10_000
    duties._rescue()
    wait_until(lambda: job_row(job_id).epoch == 2, "it is rescued where its worker does not come back")
    duties.close()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_while_the_broker_is_away_due_jobs_are_claimed_all_the_same(
    provider: Simulator, broker_server: Broker, use_environment: UseEnvironment
) -> None:
    add_batch()
    sent, due = add_jobs(1), add_jobs(70, prefix="due")
    set_job(sent[0], sent_at=now_after(-60.0))
    use_environment({"TIDEMILL_BROKER_URL": "redis://127.0.0.1:1/0"})
    runner = Runner(8, Scope())
    duties = Maintenance(runner, Courier(runner).rounds())
    wait_until(lambda: count(jobs, jobs.c.state == "succeeded") == 1 + len(due), "all are answered")
    runner.drain(limit(5))
    duties.close()
    assert len(provider.paid()) == 1 + len(due)


_STUCK = """
import threading
from tidemill.models import database
from tidemill.models.scope import Scope
from tidemill.worker import maintenance
from tidemill.worker.runner import Runner
maintenance.stuck_seconds = lambda: 1.0
database._opening.acquire()  # whatever it may be that no time-out ends
maintenance.Maintenance(Runner(1, Scope()), [])
threading.Event().wait()
"""


def test_a_process_that_can_neither_renew_nor_store_ends_itself(embedded_home: Path) -> None:
    ran = subprocess.run([sys.executable, "-P", "-c", _STUCK], capture_output=True, timeout=limit(), check=False)
    assert (ran.returncode, b"nothing could be renewed" in ran.stderr) == (70, True), ran


def await_rounds(duties: Maintenance) -> None:
    """Wait until every thread with frequent duties has done each of them."""
    threads = duties._rounds[:-1]
    done = [each.finished for each in threads]
    passed = lambda: all(each.finished > before + 3 for each, before in zip(threads, done, strict=True))  # noqa: E731
    wait_until(passed, "rounds of duties have passed")


def test_closing_does_not_wait_for_the_next_round() -> None:
    done = threading.Event()
    rounds = Rounds("seldom", {done.set: 3600.0})
    assert done.wait(limit())
    rounds.stop()
    rounds.join(limit())
    assert not rounds._thread.is_alive()
