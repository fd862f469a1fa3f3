"""Postgres and Valkey: workers killed and frozen, the broker flushed and killed, Postgres crashed, all in one run."""

import signal
import time
from collections.abc import Callable

import psutil

from tests.chaos.checker import check
from tests.chaos.site import LEASE_SECONDS, WINDOW, Site
from tests.waiting import limit, wait_until

PROMPTS = [f"shared chaos {number}" for number in range(1_000)]


def test_whatever_befalls_workers_and_servers_every_prompt_is_answered_once(site: Site) -> None:
    happenings: list[Callable[[], None]] = [
        *(site.kill_a_worker, site.kill_a_worker, site.kill_a_worker, site.kill_a_worker),
        *(site.freeze_a_worker, site.freeze_a_worker),
        *(site.flush_the_broker, site.flush_the_broker),
        *(site.kill_the_broker, site.crash_postgres),
    ]
    site.chance.shuffle(happenings)
    path = site.user.prompts("chaos.jsonl", PROMPTS)
    with site.user.started("ask", "-i", path, "-o", "answers.jsonl", "--transport", "http") as asking:
        moments = sorted(site.chance.sample(range(50, 900), len(happenings)))
        for moment, happening in zip(moments, happenings, strict=True):
            asking.until(lambda: _reached(site, moment), f"{moment} calls are paid")  # noqa: B023
            site.log.append(f"{happening.__name__} at {moment}")
            happening()
        wait_until(lambda: _all_awake(site), "nobody is frozen")
        ran = asking.ended()
    assert ran.code == 0, ran
    site.provider.wait_until_idle()
    wait_until(lambda: _all_ended(site), "stale calls are in the ledger too")
    print(check(site.user, site.provider.paid(), PROMPTS))


def _reached(site: Site, moment: int) -> bool:
    site.thaw()
    return bool(site.provider.counters()["paid"] >= moment)


def _all_awake(site: Site) -> bool:
    site.thaw()
    return not site.frozen


def _all_ended(site: Site) -> bool:
    return not site.user.query("SELECT job_id FROM attempts WHERE outcome IS NULL LIMIT 1")


def _all_wait(site: Site) -> bool:
    before = site.provider.counters()
    time.sleep(0.5)
    now = site.provider.counters()
    return bool(now["in_flight"] == site.processes * WINDOW and now["total"] == before["total"])


def test_a_frozen_worker_that_wakes_changes_nothing_and_pays_for_nothing_new(site: Site) -> None:
    site.provider.control(faults={})
    prompts = PROMPTS[:400]
    path = site.user.prompts("frozen.jsonl", prompts)
    with site.user.started("ask", "-i", path, "-o", "answers.jsonl", "--transport", "http") as asking:
        asking.until(lambda: _reached(site, 200), "it is under way")
        # Between a call's last look at its lease and its first byte a freeze goes unseen: all calls are past that.
        site.provider.control(latency_ms=3_000, latency_shape="fixed")
        asking.until(lambda: _all_wait(site), "all calls wait for their answers")
        frozen = psutil.Process(site.workers[1].process.pid).children()[0]
        frozen.suspend()
        site.provider.control(latency_ms=200)
        try:
            began = time.monotonic()
            ran = asking.ended()  # while it is frozen
            took = time.monotonic() - began
        finally:
            frozen.resume()
    assert ran.code == 0, ran
    print(f"the others had done its work after {took:.1f} s")
    assert took < limit(6 * LEASE_SECONDS)
    paid = site.provider.counters()["paid"]
    wait_until(lambda: _all_ended(site), "its calls are in the ledger")
    books = check(site.user, site.provider.paid(), prompts)
    print(books)
    site.provider.wait_until_idle()
    assert site.provider.counters()["paid"] == paid, "calls that it had not begun were paid after it woke"
    assert books.paid_more_than_once <= 2 * WINDOW  # in flight, or answered and not yet stored


def test_the_jobs_of_a_killed_worker_are_done_by_others_within_seconds(site: Site) -> None:
    site.provider.control(faults={}, latency_ms=400, latency_shape="fixed")
    prompts = PROMPTS[:300]
    path = site.user.prompts("killed.jsonl", prompts)
    with site.user.started("ask", "-i", path, "-o", "answers.jsonl", "--transport", "http") as asking:
        asking.until(lambda: _reached(site, 60), "it is under way")
        for process in site.celery_processes()[:2]:
            process.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        taken = "SELECT count(*) FROM attempts WHERE outcome = 'lost'"
        wait_until(lambda: site.user.query(taken)[0][0] > 0, "the others notice", 2 * LEASE_SECONDS)
        print(f"noticed after {time.monotonic() - killed_at:.1f} s")
        ran = asking.ended()
    assert ran.code == 0, ran
    site.provider.wait_until_idle()
    books = check(site.user, site.provider.paid(), prompts)
    print(books)
    assert books.paid_more_than_once <= 2 * 2 * WINDOW
