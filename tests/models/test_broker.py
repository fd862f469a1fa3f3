"""What a broker answers is told as it is: doctor, commands and workers say why it cannot be used."""

import logging
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.conftest import RunCli, UseEnvironment
from tests.servers import Broker, _free_port
from tests.tls import tls_before
from tests.waiting import limit, wait_until
from tidemill.models import broker
from tidemill.models.errors import BrokerError, SettingsError, TidemillError
from tidemill.producer.cli import doctor
from tidemill.worker.limits import limiter
from tidemill.worker.pace import Limits

CHECKS: dict[str, Callable[[], None]] = {
    "TIDEMILL_BROKER_URL": broker.check,
    "TIDEMILL_LIMITS_URL": broker.check_limits,
}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Broker]:
    """A server with a password."""
    with Broker("--requirepass", "secret") as server:
        yield server


def complaint(variable: str, url: str, use_environment: UseEnvironment) -> str:
    """What the check of the broker, or of the limits' Redis, says of this URL; "" if it has nothing to say."""
    use_environment({variable: url})
    try:
        CHECKS[variable]()
    except TidemillError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("variable", CHECKS)
def test_a_password_that_is_wrong_or_missing_is_the_reason(
    variable: str, guarded: Broker, use_environment: UseEnvironment
) -> None:
    where = f"127.0.0.1:{guarded.port}"
    assert complaint(variable, f"redis://:secret@{where}/0", use_environment) == ""
    assert "(it asks for a password)" in complaint(variable, f"redis://{where}/0", use_environment)
    wrong = complaint(variable, f"redis://:se-cret@{where}/0", use_environment)
    assert f"redis://{where}/0 does not answer (it refuses the user name or password)" in wrong
    assert variable in wrong
    assert "se-cret" not in wrong
    beyond = complaint(variable, f"redis://:secret@{where}/99", use_environment)
    assert "(it has no database of that number)" in beyond


@pytest.mark.parametrize("variable", CHECKS)
def test_a_server_that_is_not_there_is_the_reason(variable: str, use_environment: UseEnvironment) -> None:
    assert "(connection refused)" in complaint(variable, "redis://127.0.0.1:9/0", use_environment)
    assert "(the host's name is not known)" in complaint(variable, "redis://no.such.host.invalid/0", use_environment)


@pytest.mark.parametrize("variable", CHECKS)
def test_certificates_are_verified_for_broker_and_limits_alike(
    variable: str, broker_server: Broker, use_environment: UseEnvironment, tmp_path: Path
) -> None:
    with tls_before(broker_server.port, tmp_path) as port:
        trusted = f"ssl_ca_certs={tmp_path}/ca.pem"
        assert complaint(variable, f"rediss://localhost:{port}/0?{trusted}", use_environment) == ""
        assert complaint(variable, f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none", use_environment) == ""
        stranger = complaint(variable, f"rediss://localhost:{port}/0", use_environment)
        assert "(its certificate is not trusted: " in stranger
        elsewhere = f"rediss://127.0.0.1:{port}/0?{trusted}"
        assert "(its certificate is not trusted: IP address mismatch" in complaint(variable, elsewhere, use_environment)
        assert complaint(variable, f"{elsewhere}&ssl_check_hostname=false", use_environment) == ""


async def test_job_ids_and_limits_go_over_tls(
    broker_server: Broker, use_environment: UseEnvironment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tls_before(broker_server.port, tmp_path) as port:
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path}/ca.pem"
        use_environment({"TIDEMILL_BROKER_URL": url})
        broker.send([[1, 2, 3]])
        assert not broker.queue_is_empty()
        use_environment({"TIDEMILL_LIMITS_URL": broker_server.url})
        broker.check_limits()  # without TLS beside a broker with it
        worker = limiter(url)
        with caplog.at_level(logging.WARNING):
            assert (await worker.reserve("b", 1, Limits(60, 60_000), 60)).granted
        await worker.aclose()
        assert caplog.messages == []


OTHERS = {
    "Cluster": ("--cluster-enabled", "yes", "--cluster-port", str(_free_port())),
    "Sentinel": ("--sentinel",),
}


COMMANDS = {
    "Cluster": [("TIDEMILL_BROKER_URL", ["ask", "Hello"]), ("TIDEMILL_BROKER_URL", ["worker"])],
    "Sentinel": [("TIDEMILL_LIMITS_URL", ["worker"])],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_cluster_and_sentinel_are_refused_at_the_door(
    kind: str, use_environment: UseEnvironment, run_cli: RunCli, shared_environment: dict[str, str], tmp_path: Path
) -> None:
    configuration = tmp_path / "server.conf"  # a sentinel insists on a file that it may write
    configuration.touch()
    with Broker(*OTHERS[kind], configuration=configuration) as server:
        for variable, check in CHECKS.items():
            use_environment({"TIDEMILL_BROKER_URL": "memory://", variable: server.url})
            with pytest.raises(SettingsError, match=f"{variable}: .* belongs to Redis {kind}, which is not supported"):
                check()
        for variable, command in COMMANDS[kind]:
            ran = run_cli(command, shared_environment | {variable: server.url})
            assert ran.returncode == 2, ran.stderr
            assert f"belongs to Redis {kind}" in ran.stderr
            assert ran.stderr.count("\n") <= 2  # a worker also says that it starts


@pytest.mark.parametrize("scheme", ["redis+socket", "unix"])
def test_a_redis_is_reached_through_its_socket(scheme: str, use_environment: UseEnvironment, tmp_path: Path) -> None:
    with Broker("--unixsocket", str(tmp_path / "s")):
        use_environment({"TIDEMILL_BROKER_URL": f"{scheme}://{tmp_path}/s?db=3"})
        broker.check()
        broker.send([[1]])
        assert not broker.queue_is_empty()


@pytest.mark.parametrize("scheme", ["amqp", "pyamqp", "amqps"])
def test_every_spelling_of_rabbitmq_has_quorum_queues_and_confirms(
    scheme: str, use_environment: UseEnvironment
) -> None:
    use_environment({"TIDEMILL_BROKER_URL": f"{scheme}://u:p@h//"})
    set_up = broker.app().conf
    assert (set_up.task_default_queue_type, set_up.worker_detect_quorum_queues) == ("quorum", True)
    assert set_up.broker_transport_options == {"confirm_publish": True}
    connection: Any = broker.app().connection_for_write()
    verified = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "h"}
    assert connection.ssl == (verified if scheme == "amqps" else None)
    assert connection.transport.driver_type == "amqp"


def test_doctor_says_of_broker_and_limits_what_a_command_would(
    guarded: Broker, use_environment: UseEnvironment, embedded_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"127.0.0.1:{guarded.port}/0"
    use_environment(
        {
            "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
            "TIDEMILL_BROKER_URL": f"redis://:se-cret@{where}",
            "TIDEMILL_LIMITS_URL": f"redis://{where}?password=se-cret",
        }
    )
    with pytest.raises(BrokerError) as raised:
        broker.send([[1]])
    with pytest.raises(typer.Exit):
        doctor.doctor(as_json=False)
    printed = capsys.readouterr().out
    assert f"FIX  broker: {raised.value}" in printed
    assert (
        f"FIX  limits: The Redis of the shared limits redis://{where} does not answer (it refuses the user" in printed
    )
    assert "se-cret" not in printed + str(raised.value)
    use_environment({"TIDEMILL_BROKER_URL": f"redis://:secret@{where}", "TIDEMILL_LIMITS_URL": ""})
    with pytest.raises(typer.Exit):
        doctor.doctor(as_json=False)
    printed = capsys.readouterr().out
    assert f"ok   broker: redis://{where}\nok   limits: shared through the broker\n" in printed


def test_a_worker_without_a_redis_says_that_it_shares_no_limits(
    shared_environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    environment = os.environ | shared_environment | {"TIDEMILL_BROKER_URL": "amqp://u:se-cret@127.0.0.1:9//"}
    with log.open("wb") as file:
        worker = subprocess.Popen([sys.executable, "-P", "-m", "tidemill.worker"], env=environment, stderr=file)
    try:
        wait_until(lambda: "Each worker process keeps limits of its own" in log.read_text("utf-8"), "it is said")
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(limit(30))
    assert "The broker amqp://127.0.0.1:9// does not answer (connection refused)" in log.read_text("utf-8")
    assert "se-cret" not in log.read_text("utf-8")
