"""Postgres and Valkey: workers killed and frozen, the broker flushed and killed, Postgres crashed, all in one run."""

import random
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.chaos.checker import a_seed, check
from tests.conftest import _migrate
from tests.flows.tidemill import Running, Tidemill
from tests.servers import Broker, Postgres
from tests.waiting import limit, patience, wait_until
from tidemill.simulator import Simulator

PROMPTS = [f"shared chaos {number}" for number in range(2_000)]
LEASE_SECONDS = 3
WINDOW = 10


_QUESTIONS = (
    "SELECT state, sent_at IS NULL, error_code, max(error), count(*) FROM jobs GROUP BY 1, 2, 3",
    "SELECT id, pid, in_flight, now() - seen_at FROM workers",
    "SELECT pid, state, wait_event, now() - xact_start, left(query, 150) FROM pg_stat_activity"
    " WHERE datname = current_database() AND xact_start IS NOT NULL",
    "SELECT sentiment IS NULL, count(*) FROM dialogues GROUP BY 1",
)


@dataclass
class Site:
    """Two commands that keep workers (two and one), their servers, and what can befall them."""

    user: Tidemill
    provider: Simulator
    broker: Broker
    postgres: Postgres
    chance: random.Random
    workers: list[Running] = field(default_factory=list)
    frozen: list[tuple[float, psutil.Process]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def celery_processes(self) -> list[psutil.Process]:
        """The processes that run jobs: children of the commands."""
        return [
            child
            for command in self.workers
            if command.process.poll() is None
            for child in psutil.Process(command.process.pid).children()
        ]

    def kill_a_worker(self) -> None:
        """kill -9; whoever keeps it starts another."""
        with suppress(IndexError, psutil.NoSuchProcess):
            self.chance.choice(self.celery_processes()).kill()

    def freeze_a_worker(self) -> None:
        """SIGSTOP until its lease is long over."""
        with suppress(IndexError, psutil.NoSuchProcess):
            process = self.chance.choice(self.celery_processes())
            process.suspend()
            self.frozen.append((time.monotonic() + 2 * LEASE_SECONDS, process))

    def flush_the_broker(self) -> None:
        """FLUSHALL."""
        self.broker.flush()

    def kill_the_broker(self) -> None:
        """kill -9, and back a moment later with nothing in it."""
        self.broker.kill()
        time.sleep(self.chance.uniform(0.1, 1.5))
        self.broker.start()

    def crash_postgres(self) -> None:
        """All of its processes die; the server recovers."""
        self.postgres.restart_at_once()

    def report(self) -> None:
        """Print what may explain a failure."""
        print(", ".join(self.log))
        for command in self.workers:
            print(f"worker command ended with {command.process.poll()}:", command.err[-2_000:])
        with suppress(psutil.NoSuchProcess):
            print([(process.pid, process.status()) for process in self.celery_processes()])
        for question in _QUESTIONS:
            for row in self.user.query(question):
                print(*row)

    def thaw(self, everything: bool = False) -> None:
        """SIGCONT where it is time."""
        for at, process in list(self.frozen):
            if everything or time.monotonic() >= at:
                with suppress(psutil.NoSuchProcess):
                    process.resume()
                self.frozen.remove((at, process))
                self.log.append("thaw")


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Servers of the test's own, so that no other test feels what befalls them."""
    seed = a_seed()
    faults = {"500": 0.01, "reset": 0.005, "cut": 0.005, "429ms": 0.005}
    with ExitStack() as stack:
        provider = stack.enter_context(Simulator(latency_ms=200, seed=seed, faults=faults))
        broker = stack.enter_context(Broker())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel says that XDG_RUNTIME_DIR is not set
            postgres = stack.enter_context(Postgres())
        url = postgres.database()
        _migrate(url)
        environment = {
            "TIDEMILL_HOME": str(tmp_path / "home"),
            "TIDEMILL_DATABASE_URL": url,
            "TIDEMILL_BROKER_URL": broker.url,
            "TIDEMILL_LEASE_SECONDS": str(LEASE_SECONDS),
            "TIDEMILL_DOUBT_SECONDS": "3",
            "TIDEMILL_POLL_SECONDS": "1",
            "OPENAI_BASE_URL": provider.url,
        }
        made = Site(Tidemill(environment, tmp_path), provider, broker, postgres, random.Random(seed))
        for processes in ("2", "1"):
            command = made.user.started("worker", "--processes", processes, "--window", str(WINDOW))
            made.workers.append(stack.enter_context(command))
        stack.callback(made.thaw, everything=True)
        wait_until(lambda: made.user.query("SELECT count(*) FROM workers")[0][0] == 3, "three workers are up")
        yield made
        made.report()


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
        moments = sorted(site.chance.sample(range(50, 1_800), len(happenings)))
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


def test_a_frozen_worker_that_wakes_changes_nothing_and_pays_for_nothing_new(site: Site) -> None:
    site.provider.control(faults={})
    prompts = PROMPTS[:400]
    path = site.user.prompts("frozen.jsonl", prompts)
    with site.user.started("ask", "-i", path, "-o", "answers.jsonl", "--transport", "http") as asking:
        asking.until(lambda: _reached(site, 100), "it is under way")
        frozen = psutil.Process(site.workers[1].process.pid).children()[0]
        frozen.suspend()
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
    assert books.paid_more_than_once <= (1 + patience()) * WINDOW  # in flight, or answered and not yet stored


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
    assert books.paid_more_than_once <= 2 * (1 + patience()) * WINDOW
