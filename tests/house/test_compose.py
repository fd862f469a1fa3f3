"""No Docker runs where tests run, so what can be known of the set-up without it is held here.

The files are read, and the one piece of code in them, the worker's health check, is run against a real Postgres.
"""

import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from types import MappingProxyType
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
from tidemill.worker.stopping import AFTER_DRAIN_SECONDS, FROZEN_SECONDS

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text("utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
NOT_PASSED_ON = {"TIDEMILL_HOME": "the image sets it"}
"""Settings that the containers do not take from outside."""
OF_OTHERS = ("PGPASSWORD", "AWS_", "GOOGLE_APPLICATION_CREDENTIALS")
PINNED = re.compile(r"[a-z/]+:\d+(\.\d+)*(-[a-z]+)*")


def interpolated(text: str, variables: Mapping[str, str] = MappingProxyType({})) -> str:
    """Text with its variables filled in as compose does it: `${NAME:-default}`."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: variables.get(match[1]) or match[2], text)


def seconds(duration: str) -> float:
    """A duration as Go reads it: numbers with units, added up."""
    parts = re.findall(r"([0-9.]+)(h|m|s)", duration)
    assert "".join(map("".join, parts)) == duration
    return sum(float(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)


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
        assert "--require-hashes" in install or "--build-constraints" in install
    assert "uv" in pins("requirements.lock")


def pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / lock).read_text("utf-8"), re.MULTILINE))


def test_the_image_has_every_extra_of_a_server_in_the_versions_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"]]
    extras = project["optional-dependencies"]
    wanted += [each for extra in extras.keys() - {"all", "demo"} for each in extras[extra]]
    image, tested = pins("requirements-image.lock"), pins("requirements.lock")
    assert {re.split(r"[\[<>=]", each)[0].replace(".", "-") for each in wanted} <= image.keys()
    assert {name: image[name] for name in image.keys() & tested.keys()} == {
        name: tested[name] for name in image.keys() & tested.keys()
    }
    assert not {"pytest", "mypy", "hypothesis"} & image.keys()


def test_the_demo_has_what_a_plain_installation_has_in_the_versions_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = {re.split(r"[\[<>=; ]", each)[0].replace(".", "-") for each in project["dependencies"]}
    wanted |= {re.split(r"[<>=]", each)[0] for each in project["optional-dependencies"]["demo"]}
    demo, tested = pins("requirements-demo.lock"), pins("requirements.lock")
    assert wanted <= demo.keys()
    assert demo.items() <= tested.items()
    assert not {"pytest", "mypy", "pyarrow", "llama-cpp-python"} & demo.keys()


def test_what_an_embedded_run_stores_outlives_its_container() -> None:
    assert re.search(r"^VOLUME /data$", DOCKERFILE, re.MULTILINE)
    for name in OURS:
        assert "data:/data" in SERVICES[name]["volumes"]


def test_the_build_sees_the_packages_and_nothing_that_is_not_named() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    needed = {
        *(path.partition("/")[0] for path in packages),
        "pyproject.toml",
        "requirements.lock",
        "requirements-image.lock",
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


@pytest.mark.parametrize("drain_seconds", [None, "0", "180", "2.5"])
def test_a_stopped_worker_has_time_to_drain_and_to_end_by_itself(drain_seconds: str | None) -> None:
    variables = {} if drain_seconds is None else {"TIDEMILL_DRAIN_SECONDS": drain_seconds}
    drain = interpolated(SERVICES["worker"]["environment"]["TIDEMILL_DRAIN_SECONDS"], variables)
    assert float(drain) == float(drain_seconds or Settings.model_fields["drain_seconds"].default)
    grace = seconds(interpolated(SERVICES["worker"]["stop_grace_period"], variables))
    assert grace >= float(drain) + AFTER_DRAIN_SECONDS + FROZEN_SECONDS + 5


def test_every_log_is_rotated() -> None:
    for service in SERVICES.values():
        assert service["logging"]["driver"] == "local"
        assert {"max-size", "max-file"} <= service["logging"]["options"].keys()


def test_a_server_on_this_machine_can_be_reached() -> None:
    for name in OURS:
        assert "host.docker.internal:host-gateway" in SERVICES[name]["extra_hosts"]


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
    assert known - environment.keys() == NOT_PASSED_ON.keys()
    assert {each for each in environment.keys() - known if not each.startswith(OF_OTHERS)} == set()
    assert environment["OPENAI_API_KEY"] is None
    assert environment["PGPASSWORD"].startswith("${POSTGRES_PASSWORD:-")
    assert make_url(environment["TIDEMILL_DATABASE_URL"]).host in SERVICES
    assert make_url(environment["TIDEMILL_BROKER_URL"]).host in SERVICES
    assert "sk-" not in COMPOSE


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("variable", ["TIDEMILL_PRICES", "GOOGLE_APPLICATION_CREDENTIALS"])
def test_a_file_that_a_variable_names_is_there_in_the_container(name: str, variable: str) -> None:
    assert SERVICES[name]["environment"][variable] is None, "passed on where it is set"
    (mount,) = [each for each in SERVICES[name]["volumes"] if variable in each]
    assert interpolated(mount, {variable: "/srv/file"}) == "/srv/file:/srv/file:ro"
    assert interpolated(mount).startswith("/dev/null:/run/")


@pytest.mark.parametrize("name", OURS)
def test_pictures_are_in_a_volume_or_where_a_variable_says(name: str) -> None:
    where = SERVICES[name]["environment"]["TIDEMILL_BLOBS_URL"]
    assert f"blobs:{interpolated(where)}" in SERVICES[name]["volumes"]
    assert interpolated(where, {"TIDEMILL_BLOBS_URL": "s3://b/f"}) == "s3://b/f"


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
    assert is_healthy(postgres_url) is healthy


def is_healthy(database_url: str, **variables: str) -> bool:
    kind, python, flag, script = SERVICES["worker"]["healthcheck"]["test"]
    assert (kind, python, flag) == ("CMD", "python", "-c")
    variables["TIDEMILL_DATABASE_URL"] = database_url
    checked = subprocess.run([sys.executable, "-c", script], env=os.environ | variables, timeout=limit(), check=False)
    return checked.returncode == 0


def test_a_worker_with_a_long_lease_is_healthy_between_two_beats(
    postgres_url: str, use_environment: UseEnvironment
) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    seen = {"started_at": now_after(-900), "seen_at": now_after(-400)}
    with writing() as connection:
        row = {"id": "w", "host": socket.gethostname(), "machine": "m", "pid": 1, "window": 1, "version": "0"}
        connection.execute(insert(workers).values(**row, **seen))
    assert not is_healthy(postgres_url)
    assert is_healthy(postgres_url, TIDEMILL_LEASE_SECONDS="900")


def test_a_database_that_is_away_is_no_fault_of_the_container() -> None:
    assert is_healthy("postgresql://tidemill@127.0.0.1:1/tidemill")


def test_the_health_check_has_time_on_a_busy_machine() -> None:
    check = SERVICES["worker"]["healthcheck"]
    assert seconds(check["timeout"]) >= 30
    assert seconds(check["timeout"]) < seconds(check["interval"])
