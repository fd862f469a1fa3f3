"""No Docker runs where tests run, so what can be known of the set-up without it is held here.

The files are read, and the one piece of code in them, the worker's health check, is run against a real Postgres.
"""

import os
import re
import socket
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml
from sqlalchemy import insert
from sqlalchemy.engine import make_url

from tests.conftest import UseEnvironment
from tests.house.sources import ROOT
from tests.waiting import limit
from tidemill.models.clock import now_after
from tidemill.models.database import writing
from tidemill.models.settings import Settings
from tidemill.models.tables import workers

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text("utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
PINNED = re.compile(r"[a-z/]+:\d+(\.\d+)*(-[a-z]+)*")


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


# --- the image ---


def test_the_base_image_is_pinned_to_a_minor_version_of_python_and_a_debian() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert bases[0].startswith("python:")
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", bases[0])
    assert set(bases[1:]) == {"base"}, "every stage stands on the one that is pinned"


def test_the_image_runs_as_nobody_in_particular() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\S+)", last_stage, re.MULTILINE)
    assert users
    assert int(users[-1].partition(":")[0]) > 0, "numeric, so that runtimes can see that it is not root"


def test_the_image_is_the_command() -> None:
    assert 'ENTRYPOINT ["tidemill"]' in DOCKERFILE
    assert 'CMD ["worker"]' in DOCKERFILE
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE
    assert "TIDEMILL_HOME=/data" in DOCKERFILE


def test_everything_that_is_installed_comes_from_the_lock() -> None:
    installs = re.findall(r"pip install (?:[^&\n]|\\\n)*", DOCKERFILE)
    assert len(installs) == 3
    for install in installs:
        assert "--require-hashes" in install or "-c requirements.lock" in install or "--build-constraints" in install
    assert re.search(r"^uv==", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE)


def test_the_build_sees_the_packages_and_nothing_that_is_not_named() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    needed = {
        *(path.partition("/")[0] for path in packages),
        "pyproject.toml",
        "requirements.lock",
        project["project"]["readme"],
        "LICENSE",
    }
    seen = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert rules[0] == "*"
    assert needed <= seen
    assert not {".", ".env", ".git", "tests"} & seen


# --- the services ---


def test_the_services_are_those_that_a_shared_queue_needs() -> None:
    assert SERVICES.keys() == {"redis", "postgres", "migrate", "worker", "cli"}
    assert OURS == ["migrate", "worker", "cli"]
    assert SERVICES["migrate"]["command"] == ["db", "upgrade"]
    assert SERVICES["cli"]["profiles"], "`up` must not start it"


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - set(OURS)))
def test_images_of_others_are_pinned_and_watched(name: str) -> None:
    assert PINNED.fullmatch(SERVICES[name]["image"])
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["volumes"], "what it keeps outlives its container"


@pytest.mark.parametrize("name", OURS)
def test_our_services_are_one_image_without_privileges(name: str) -> None:
    service = SERVICES[name]
    assert (service["image"], service["build"]) == ("tidemill", ".")
    assert service["cap_drop"] == ["ALL"]
    assert not str(service.get("user", "1000")).startswith(("0", "root"))


def test_the_worker_starts_on_a_migrated_database_and_can_be_many() -> None:
    waits = {name: how["condition"] for name, how in SERVICES["worker"]["depends_on"].items()}
    assert waits == {
        "migrate": "service_completed_successfully",
        "postgres": "service_healthy",
        "redis": "service_healthy",
    }
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert not {"container_name", "ports", "hostname"} & SERVICES["worker"].keys(), "there can be only one of each"


def test_a_stopped_worker_has_time_to_drain() -> None:
    drain_seconds = Settings.model_fields["drain_seconds"].default
    assert seconds(SERVICES["worker"]["stop_grace_period"]) >= drain_seconds + 10


def test_the_broker_keeps_what_it_was_given() -> None:
    options = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in options
    assert "--maxmemory-policy noeviction" in options


def test_nothing_listens_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", OURS)
def test_settings_are_real_ones_and_secrets_come_from_outside(name: str) -> None:
    environment = SERVICES[name]["environment"]
    known = {field.validation_alias for field in Settings.model_fields.values()}
    assert environment.keys() <= known | {"PGPASSWORD"}
    assert environment["OPENAI_API_KEY"] is None
    assert environment["PGPASSWORD"].startswith("${POSTGRES_PASSWORD:-")
    assert make_url(environment["TIDEMILL_DATABASE_URL"]).host in SERVICES
    assert make_url(environment["TIDEMILL_BROKER_URL"]).host in SERVICES
    assert "sk-" not in COMPOSE


# --- the worker's health check ---


@pytest.mark.parametrize(
    ("host", "age_seconds", "healthy"),
    [(socket.gethostname(), 1, True), (socket.gethostname(), 300, False), ("another", 1, False)],
    ids=["fresh", "stale", "another container's"],
)
def test_a_worker_is_healthy_while_its_own_heartbeat_is_fresh(
    postgres_url: str, use_environment: UseEnvironment, host: str, age_seconds: float, healthy: bool
) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    seen = {"started_at": now_after(-900), "seen_at": now_after(-age_seconds)}
    with writing() as connection:
        connection.execute(insert(workers).values(id="w", host=host, machine="m", pid=1, window=1, version="0", **seen))
    kind, python, flag, script = SERVICES["worker"]["healthcheck"]["test"]
    assert (kind, python, flag) == ("CMD", "python", "-c")
    checked = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TIDEMILL_DATABASE_URL": postgres_url},
        timeout=limit(),
        check=False,
    )
    assert (checked.returncode == 0) is healthy
