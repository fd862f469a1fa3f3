"""Stores that refuse, fall silent or go away, and jobs that end their worker: nothing is lost or paid for again."""

import signal
import time
from pathlib import Path

from tests.chaos.checker import check
from tests.chaos.site import LEASE_SECONDS, Site, open_site
from tests.waiting import wait_until
from tidemill.simulator import prompt_hash

PROMPTS = [f"ground {number}" for number in range(300)]
ASK = ("ask", "-i", "prompts.jsonl", "-o", "answers.jsonl", "--transport", "http")


def test_a_database_that_only_reads_costs_no_answer_and_no_lease(tmp_path: Path) -> None:
    """A failover, or a full disk, for longer than a lease: every store fails, and no job may change hands."""
    with open_site(tmp_path, workers=(1, 1)) as site:
        site.user.prompts("prompts.jsonl", PROMPTS)
        site.provider.control(gate=50)
        with site.user.started(*ASK) as asking:
            asking.until(lambda: _paid(site) == 50, "it is under way")
            _set_read_only(site, "on")
            site.provider.control(gate="open")
            began = time.monotonic()
            wait_until(lambda: time.monotonic() - began > 2 * LEASE_SECONDS, "every lease is over")
            paid = _paid(site)
            _set_read_only(site, "off")
            ran = asking.ended()
        assert ran.code == 0, ran
        books = check(site.user, site.provider.paid(), PROMPTS)
    assert paid < len(PROMPTS), "no call begins whose answer could not be stored"
    assert (books.paid_more_than_once, books.taken) == (0, 0)


def _set_read_only(site: Site, value: str) -> None:
    site.postgres.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    site.postgres.execute("SELECT pg_reload_conf()")


def _paid(site: Site) -> int:
    return int(site.provider.counters()["paid"])


def test_a_silent_broker_costs_no_lease_and_a_dead_one_no_time(tmp_path: Path) -> None:
    with open_site(tmp_path, workers=(1,)) as site:
        site.user.prompts("prompts.jsonl", PROMPTS[:100])
        site.provider.control(gate="shut")
        with site.user.started(*ASK) as asking:
            asking.until(lambda: site.provider.counters()["in_flight"] == 10, "the window is full")
            site.broker.freeze()
            began = time.monotonic()
            wait_until(lambda: time.monotonic() - began > 3 * LEASE_SECONDS, "every lease would be over")
            site.provider.control(gate="open")
            asking.until(lambda: _paid(site) >= 50, "jobs are claimed without the broker")
            site.broker.kill()
            ran = asking.ended()
        assert ran.code == 0, ran
        books = check(site.user, site.provider.paid(), PROMPTS[:100])
    assert (books.paid_more_than_once, books.taken) == (0, 0)


def test_batches_are_cancelled_in_flight_without_a_deadlock(tmp_path: Path) -> None:
    with open_site(tmp_path, workers=(2,), window=30) as site:
        for number in range(3):
            prompts = site.user.prompts(f"cancelled-{number}.jsonl", [f"{number}: {each}" for each in PROMPTS])
            site.user("ask", "-i", prompts, "--detach").ok()
            wait_until(lambda: _paid(site) >= 60 * (number + 1), "calls are in flight")  # noqa: B023
            ran = site.user("cancel", "latest")
            assert (ran.code, "cancelled" in ran.out) == (0, True), ran
        in_flight = "SELECT count(*) FROM attempts WHERE outcome IS NULL"
        wait_until(lambda: site.user.query(in_flight)[0][0] == 0, "every call is in the ledger")
        assert not any("deadlock" in worker.err for worker in site.workers)


def test_a_row_that_kills_its_worker_takes_no_other_row_with_it(tmp_path: Path) -> None:
    poison, innocent = "!!drip*9 the first bytes of this reply end its worker", PROMPTS[:8]
    with open_site(tmp_path, workers=(1,)) as site:
        site.provider.control(latency_ms=400, latency_shape="fixed", drip_seconds=30)
        site.user.prompts("prompts.jsonl", [*innocent[:4], poison, *innocent[4:]])
        deaths = 0

        def kill_for_poison() -> bool:
            nonlocal deaths
            if site.provider.paid_by_prompt()[prompt_hash(poison)] > deaths:
                for process in site.celery_processes():
                    process.send_signal(signal.SIGKILL)
                deaths += 1
            return asking.process.poll() is not None

        with site.user.started(*ASK) as asking:
            wait_until(kill_for_poison, "the command has ended")
            ran = asking.ended()
        assert "runs alone" in site.workers[0].err
        failed = site.user.query("SELECT error_code, attempts FROM jobs WHERE state = 'failed'")
        paid = site.provider.paid_by_prompt()
    assert (ran.code, deaths) == (1, 3), ran
    assert failed == [("worker_lost", 3)]
    assert max(paid[prompt_hash(each)] for each in innocent) <= 3


def test_a_worker_of_another_server_leaves_a_batch_alone_and_the_command_says_so(tmp_path: Path) -> None:
    with open_site(tmp_path, workers=(1,)) as site:
        site.user.prompts("prompts.jsonl", PROMPTS[:5])
        with site.user.started(*ASK, OPENAI_BASE_URL="http://another.test:1/v1") as asking:
            asking.says("No worker for another.test:1")
        assert _paid(site) == 0
        assert site.user.query("SELECT state, count(*) FROM jobs GROUP BY 1") == [("queued", 5)]
