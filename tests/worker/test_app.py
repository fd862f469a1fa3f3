"""A worker stops when it is told to, or when nobody is left to tell it, and takes no longer than it may."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import UseEnvironment
from tests.rows import add_batch, add_jobs, count
from tests.servers import Broker, Postgres
from tests.waiting import limit, wait_until
from tidemill.models.tables import jobs, workers
from tidemill.worker import starting
from tidemill.worker.__main__ import main

HANGS = """
import time
from tidemill.worker import app
app.stopping.AFTER_DRAIN_SECONDS = 0.5
app.process.stop = lambda: time.sleep(600)
app.worker_ready.connect(lambda **_: print("up", flush=True), weak=False)
app.run()
"""


@pytest.mark.parametrize("how", ["told", "orphaned"])
def test_a_worker_that_cannot_stop_is_ended_in_time(shared_environment: dict[str, str], how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", HANGS, "hangs@%h"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=shared_environment | {"TIDEMILL_DRAIN_SECONDS": "0"},
    ) as worker:
        assert worker.stdin and worker.stdout and worker.stderr
        assert worker.stdout.readline() == "up\n"
        if how == "told":
            worker.send_signal(signal.SIGTERM)
        else:
            worker.stdin.close()
        assert worker.wait(limit()) == 1
        assert "what is not stored runs again" in worker.stderr.read()


SUPERVISOR = """
import sys
from tidemill.worker import __main__ as supervisor
supervisor.stopping.AFTER_DRAIN_SECONDS = supervisor.stopping.FROZEN_SECONDS = 0.5
sys.exit(supervisor.main())
"""


def test_a_frozen_worker_does_not_keep_its_supervisor_from_stopping(
    shared_environment: dict[str, str], use_environment: UseEnvironment
) -> None:
    use_environment(shared_environment)
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SUPERVISOR], env=shared_environment | {"TIDEMILL_DRAIN_SECONDS": "0"}
    ) as supervisor:
        wait_until(lambda: count(workers) == 1, "the worker is up")
        (worker,) = psutil.Process(supervisor.pid).children()
        worker.suspend()
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(limit()) == -signal.SIGKILL % 256
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


STORES_AWAY = """
import sys
from tidemill.worker import app
app.stopping.AFTER_DRAIN_SECONDS = 3.0
app.worker_ready.connect(lambda **_: print("up", flush=True), weak=False)
app.run()
"""


@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")  # the wheel of Postgres says that
def test_with_both_stores_silent_a_worker_stops_in_time() -> None:
    """What takes connections and never answers is worse than what refuses them."""
    with Postgres() as postgres, Broker() as broker:
        stores = {"TIDEMILL_DATABASE_URL": postgres.database(), "TIDEMILL_BROKER_URL": broker.url}
        environment = os.environ | stores | {"TIDEMILL_DRAIN_SECONDS": "0", "OPENAI_API_KEY": "test-key"}
        migrate = [sys.executable, "-P", "-m", "tidemill.producer.cli.commands", "db", "upgrade"]
        subprocess.run(migrate, env=environment, check=True, capture_output=True, timeout=limit())
        with subprocess.Popen(
            [sys.executable, "-P", "-c", STORES_AWAY, "silent@%h"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        ) as worker:
            assert worker.stdout
            assert worker.stdout.readline() == "up\n"
            with postgres.frozen():
                broker.freeze()
                worker.send_signal(signal.SIGTERM)
                worker.wait(limit())
                broker.thaw()


@pytest.mark.parametrize(
    ("name", "value"),
    [("SSL_CERT_FILE", "/gone.pem"), ("ALL_PROXY", "socks5://a:land@p"), ("OPENAI_ORG_ID", "a b")],
)
def test_an_environment_in_which_no_call_can_be_made_is_one_sentence_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["tidemill worker"])
    assert main() == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tidemill: {name}")
    assert error.count("\n") == 1
    assert "land" not in error


def test_a_worker_without_a_broker_claims_what_is_due_and_ends_when_it_is_told(
    embedded_environment: dict[str, str], use_environment: UseEnvironment
) -> None:
    use_environment(embedded_environment)
    command = [sys.executable, "-P", "-c", "from tidemill.worker.alone import run; run()", "alone@%h"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=embedded_environment) as worker:
        add_batch()
        ids = add_jobs(40)
        wait_until(lambda: count(jobs, jobs.c.state == "succeeded") == len(ids), "all are answered")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(limit()) == 0


@pytest.mark.parametrize(
    ("key", "url", "is_missing"),
    [
        ("", "https://api.openai.com/v1", True),
        ("k", "https://api.openai.com/v1", False),
        ("", "http://host:1/v1", False),
    ],
)
def test_a_key_that_is_likely_to_be_needed_is_missed_at_once(
    key: str, url: str, is_missing: bool, use_environment: UseEnvironment
) -> None:
    use_environment({"OPENAI_API_KEY": key, "OPENAI_BASE_URL": url})
    assert ("OPENAI_API_KEY is not set" in (starting.missing_key() or "")) is is_missing
