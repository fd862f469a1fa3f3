"""Postgres and Valkey: workers killed and frozen, the broker flushed and killed, Postgres crashed, all in one run."""

import signal
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.chaos.checker import check
from tests.chaos.site import WINDOW, Site, open_site
from tests.waiting import wait_until

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
    """Whether every window is full: no call can begin."""
    return bool(site.provider.counters()["in_flight"] == site.processes * WINDOW)


def test_a_frozen_worker_that_wakes_changes_nothing_and_pays_for_nothing_new(site: Site) -> None:
    site.provider.control(faults={}, gate=200)
    prompts = PROMPTS[:400]
    path = site.user.prompts("frozen.jsonl", prompts)
    with site.user.started("ask", "-i", path, "-o", "answers.jsonl", "--transport", "http") as asking:
        asking.until(lambda: _reached(site, 200), "it is under way")
        # Between a call's last look at its lease and its first byte a freeze goes unseen: all calls are past that.
        asking.until(lambda: _all_wait(site), "all calls wait for their answers")
        frozen = psutil.Process(site.workers[1].process.pid).children()[0]
        frozen.suspend()
        site.provider.control(gate="open")
        try:
            ran = asking.ended()  # while it is frozen
        finally:
            frozen.resume()
    assert ran.code == 0, ran
    paid = site.provider.counters()["paid"]
    wait_until(lambda: _all_ended(site), "its calls are in the ledger")
    books = check(site.user, site.provider.paid(), prompts)
    print(books)
    site.provider.wait_until_idle()
    assert site.provider.counters()["paid"] == paid, "calls that it had not begun were paid after it woke"
    assert books.paid_more_than_once <= 2 * WINDOW  # in flight, or answered and not yet stored


def test_the_jobs_of_a_killed_worker_are_done_by_others_who_wait_for_no_lease(tmp_path: Path) -> None:
    with open_site(tmp_path, TIDEMILL_LEASE_SECONDS="3600") as site:
        _kill_two_whose_jobs_others_do(site)


def _kill_two_whose_jobs_others_do(site: Site) -> None:
    site.provider.control(gate=60)
    prompts = PROMPTS[:300]
    path = site.user.prompts("killed.jsonl", prompts)
    with site.user.started("ask", "-i", path, "-o", "answers.jsonl", "--transport", "http") as asking:
        asking.until(lambda: _reached(site, 60), "it is under way")
        asking.until(lambda: _all_wait(site), "all calls wait for their answers")
        for process in site.celery_processes()[:2]:
            process.send_signal(signal.SIGKILL)
        taken = "SELECT count(*) FROM attempts WHERE outcome = 'lost'"
        wait_until(lambda: site.user.query(taken)[0][0] > 0, "the others notice")
        site.provider.control(gate="open")
        ran = asking.ended()
    assert ran.code == 0, ran
    site.provider.wait_until_idle()
    books = check(site.user, site.provider.paid(), prompts)
    print(books)
    assert books.paid_more_than_once <= 2 * 2 * WINDOW
