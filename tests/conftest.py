"""Every test gets a world of its own (settings, database, broker, provider) and leaves nothing behind.

The servers are real, started once a session and only when a test asks for one. Nothing of the developer's shell or
`.env` file reaches a test: the working folder is empty, and OPENAI_* and TIDEMILL_* variables are taken away.
"""

import contextlib
import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest
from hypothesis import HealthCheck
from sqlalchemy import make_url

from tests.flows import warm
from tests.schedule import Schedule, turn
from tests.servers import Broker, Postgres
from tests.waiting import LIMIT_SECONDS, limit, measure, wait_until
from tidemill import migrations
from tidemill.models import bounds, cost
from tidemill.models import broker as broker_desk
from tidemill.models import database as database_desk
from tidemill.models.database import open_engine
from tidemill.models.settings import settings
from tidemill.simulator import Simulator

__all__ = ["RunCli", "UseEnvironment", "WaitUntil", "wait_until"]

# Hundreds of processes are started from these sources, and each that runs tests reads all of them: compiled once.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Thousands of tests are collected and kept: Python's 700 objects between two looks for garbage would be a sixth of it.
gc.set_threshold(50_000, 20, 20)
# A shell's background job ignores Ctrl-C, and so would every command that tests start in it.
signal.signal(signal.SIGINT, signal.default_int_handler)


_CACHE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Limits follow the machine, which is measured once, where the session begins."""
    if not hasattr(config, "workerinput"):
        measure()
        os.environ["XDG_CACHE_HOME"] = config.stash[_CACHE] = tempfile.mkdtemp(prefix="tidemill-cache-")
    config.option.timeout = limit(float(config.getini("timeout")))
    hypothesis.settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    hypothesis.settings.load_profile("no clock")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what was kept for the session."""
    if folder := config.stash.get(_CACHE, None):
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_finish() -> None:
    """What is imported and collected stays to the end, and need not be looked through for garbage over and over."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long; within that the order stays random."""
    items.sort(key=lambda item: turn(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Schedule:
    """Share tests out piece by piece."""
    config.option.loadscopereorder = False
    return Schedule(config, log)


class RunCli(Protocol):
    """Run `tidemill` with these arguments in a process of its own."""

    def __call__(
        self,
        args: list[str],
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002  # as subprocess.run calls it
        timeout: float = LIMIT_SECONDS,
    ) -> subprocess.CompletedProcess[str]: ...


class WaitUntil(Protocol):
    """Wait until the predicate holds; TimeoutError with the description where it does not in time."""

    def __call__(self, predicate: Callable[[], object], description: str, seconds: float = LIMIT_SECONDS) -> None: ...


UseEnvironment = Callable[[Mapping[str, str]], None]
"""Set these variables for the test and forget what was made from the old ones."""


def forget() -> None:
    """Close and forget what this process made from its settings."""
    database_desk.close()
    for handler in logging.getLogger().handlers:  # a command that ran in here shows a sentence once in a while only
        handler.filters.clear()
    if broker_desk.app.cache_info().currsize:
        with contextlib.suppress(Exception):
            broker_desk.app().close()
    for cached in (settings, broker_desk.app, cost.price_at, cost.overrides, cost.context_tokens):
        cached.cache_clear()
    cost.forget_tiers()
    bounds.forget_rates()


@pytest.fixture(name="wait_until")
def _wait_until() -> WaitUntil:
    return wait_until


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No variable and no .env file of the developer's; an empty working folder; TIDEMILL_HOME that is the test's."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "TIDEMILL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    folder = tmp_path_factory.mktemp("away")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TIDEMILL_HOME", str(folder / "home"))
    forget()
    yield
    forget()


@pytest.fixture
def use_environment(monkeypatch: pytest.MonkeyPatch) -> UseEnvironment:
    """A function that sets variables for the test and forgets what was made from the old ones."""

    def use(variables: Mapping[str, str]) -> None:
        forget()
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return use


# --- servers ---


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A Postgres cluster; `.database()` is empty, `.database(postgres_template)` has our tables."""
    server = Postgres()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel says that XDG_RUNTIME_DIR is not set
        server.start()
    try:
        # A crash of its processes, which tests cause, loses nothing by this; only a power cut would.
        server.execute("ALTER SYSTEM SET fsync = off")
        server.execute("SELECT pg_reload_conf()")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Postgres) -> str:
    """Name of a migrated database to copy."""
    url = postgres_server.database()
    _migrate(url)
    return make_url(url).database or ""


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Contents of a migrated database file."""
    path = tmp_path_factory.mktemp("template") / "tidemill.db"
    _migrate(f"sqlite:///{path}")
    return path.read_bytes()


def _migrate(url: str) -> None:
    from alembic import command

    opened = open_engine(url)
    with opened.begin() as connection:
        command.upgrade(migrations.configuration(connection), "head")
    opened.dispose()


@pytest.fixture(scope="session")
def _broker_process() -> Iterator[Broker]:
    with Broker() as server:
        yield server


@pytest.fixture
def broker_server(_broker_process: Broker) -> Broker:
    """A Valkey server with nothing in it."""
    _broker_process.flush()
    return _broker_process


@pytest.fixture
def a_broker(broker_server: Broker, use_environment: UseEnvironment) -> None:
    """The broker of whatever runs in this process, with nothing in it."""
    use_environment({"TIDEMILL_BROKER_URL": broker_server.url})


@pytest.fixture(scope="session")
def _simulator_process() -> Iterator[Simulator]:
    with Simulator() as server:
        yield server


@pytest.fixture
def simulator(_simulator_process: Simulator) -> Simulator:
    """A provider with empty books and nothing switched on."""
    _simulator_process.start()  # where a test has killed it
    _simulator_process.reset()
    return _simulator_process


# --- databases ---


@contextlib.contextmanager
def _postgres_copy(server: Postgres, template: str) -> Iterator[str]:
    url = server.database(template)
    yield url
    forget()
    server.execute(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres_server: Postgres, postgres_template: str) -> Iterator[str]:
    """URL of a migrated, empty Postgres database of the test's own."""
    with _postgres_copy(postgres_server, postgres_template) as url:
        yield url


@pytest.fixture
def embedded_home(
    tmp_path: Path, sqlite_template: bytes, use_environment: UseEnvironment, clean_environment: None
) -> Path:
    """TIDEMILL_HOME of the test's own with a migrated SQLite file; no broker."""
    home = tmp_path / "tidemill-home"
    home.mkdir()
    (home / "tidemill.db").write_bytes(sqlite_template)
    use_environment({"TIDEMILL_HOME": str(home)})
    return home


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, use_environment: UseEnvironment, embedded_home: Path) -> str:
    """A migrated, empty database of the test's own, behind `models.database`; the value is its kind."""
    kind: str = request.param
    if kind == "postgres":
        use_environment({"TIDEMILL_DATABASE_URL": request.getfixturevalue("postgres_url")})
    return kind


# --- commands in processes of their own ---


@pytest.fixture
def embedded_environment(embedded_home: Path, simulator: Simulator) -> dict[str, str]:
    """Variables for a command with nothing but a home and the simulator."""
    return {"TIDEMILL_HOME": str(embedded_home), **_provider_of(simulator)}


@pytest.fixture
def shared_environment(
    postgres_url: str, broker_server: Broker, simulator: Simulator, embedded_home: Path
) -> dict[str, str]:
    """Variables for commands and workers that share Postgres, Valkey and the simulator."""
    return {
        "TIDEMILL_HOME": str(embedded_home),
        "TIDEMILL_DATABASE_URL": postgres_url,
        "TIDEMILL_BROKER_URL": broker_server.url,
        **_provider_of(simulator),
    }


def _provider_of(simulator: Simulator) -> dict[str, str]:
    return {"OPENAI_BASE_URL": simulator.url, "OPENAI_API_KEY": "test-key"}


@pytest.fixture
def run_cli(tmp_path: Path, clean_environment: None) -> RunCli:
    """Runs a command as its user would, in an empty folder; returns the completed process with text output.

    As in tests/flows it forks off a process that has its imports, where nothing but our variables is changed.
    """
    folder = tmp_path / "cwd"
    folder.mkdir()

    def run(
        args: list[str],
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002
        timeout: float = LIMIT_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        environment = os.environ | (env or {})
        if warm.can_run(environment):
            return subprocess.CompletedProcess(
                args, *warm.run(args, environment, folder, (input or "").encode(), limit(timeout))
            )
        return subprocess.run(
            [sys.executable, "-P", "-m", "tidemill.producer.cli.commands", *args],
            env=environment,
            cwd=folder,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=limit(timeout),
            check=False,
        )

    return run
