"""Servers, workers and what can befall them, for tests that break them."""

import random
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.checker import a_seed
from tests.conftest import _migrate
from tests.flows.tidemill import Running, Tidemill
from tests.servers import Broker, Postgres
from tests.waiting import wait_until
from tidemill.simulator import Simulator

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
    processes: int
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

    def all_are_up(self) -> bool:
        """Whether each process that was killed has been replaced, and the new one is at work."""
        known = {row.pid for row in self.user.query("SELECT pid FROM workers")}
        running = {process.pid for process in self.celery_processes()}
        return len(running) == self.processes and running <= known

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


@contextmanager
def open_site(
    folder: Path, workers: tuple[int, ...] = (2, 1), window: int = WINDOW, **environment: str
) -> Iterator[Site]:
    """Servers of the test's own, so that no other test feels what befalls them, and a command for each of `workers`."""
    seed = a_seed()
    with ExitStack() as stack:
        provider = stack.enter_context(Simulator(latency_ms=200, seed=seed))
        broker = stack.enter_context(Broker())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel says that XDG_RUNTIME_DIR is not set
            postgres = stack.enter_context(Postgres())
        url = postgres.database()
        _migrate(url)
        variables = {
            "TIDEMILL_HOME": str(folder / "home"),
            "TIDEMILL_DATABASE_URL": url,
            "TIDEMILL_BROKER_URL": broker.url,
            "TIDEMILL_LEASE_SECONDS": str(LEASE_SECONDS),
            "TIDEMILL_DOUBT_SECONDS": "3",
            "TIDEMILL_POLL_SECONDS": "1",
            "OPENAI_BASE_URL": provider.url,
        }
        user = Tidemill(variables | environment, folder)
        made = Site(user, provider, broker, postgres, random.Random(seed), sum(workers))
        for processes in workers:
            command = made.user.started("worker", "--processes", str(processes), "--window", str(window))
            made.workers.append(stack.enter_context(command))
        stack.callback(made.thaw, everything=True)
        wait_until(made.all_are_up, "the workers are up")
        yield made
        made.report()
