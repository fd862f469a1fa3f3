"""A flow is the same in both modes, embedded (SQLite, the command alone) and shared (Postgres, Valkey, fleet)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.tidemill import Tidemill
from tests.servers import Broker, Postgres
from tests.waiting import wait_until
from tidemill.simulator import Simulator


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty working folder."""
    made = tmp_path / "work"
    made.mkdir()
    return made


@pytest.fixture
def tidemill(embedded_environment: dict[str, str], folder: Path) -> Tidemill:
    """The command line with nothing set up: SQLite, and a worker inside each command that waits."""
    return Tidemill(embedded_environment, folder)


@pytest.fixture(scope="session")
def fleet(
    postgres_server: Postgres,
    postgres_template: str,
    _broker_process: Broker,
    _simulator_process: Simulator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, str]]:
    """Variables of a Postgres and a Valkey with two worker processes at work."""
    environment = {
        "TIDEMILL_HOME": str(tmp_path_factory.mktemp("fleet-home")),
        "TIDEMILL_DATABASE_URL": postgres_server.database(postgres_template),
        # A database of its own in Valkey: no other test's messages come here.
        "TIDEMILL_BROKER_URL": f"{_broker_process.url.rpartition('/')[0]}/5",
        "OPENAI_BASE_URL": _simulator_process.url,
        "OPENAI_API_KEY": "test-key",
    }
    workers = Tidemill(environment, tmp_path_factory.mktemp("fleet"))
    with workers.started("worker", "--processes", "2", "--window", "64"):
        wait_until(lambda: workers.query("SELECT count(*) FROM workers")[0][0] == 2, "two workers are up")
        yield environment


@pytest.fixture(params=["embedded", "shared"])
def anywhere(request: pytest.FixtureRequest, simulator: Simulator, folder: Path) -> Tidemill:
    """The command line in both modes, one after the other."""
    if request.param == "embedded":
        return Tidemill(request.getfixturevalue("embedded_environment"), folder)
    return Tidemill(request.getfixturevalue("fleet"), folder)


@pytest.fixture
def alone(shared_environment: dict[str, str], folder: Path) -> Tidemill:
    """The command line with an empty Postgres and a Valkey of its own, where no worker runs yet."""
    return Tidemill(shared_environment, folder)
