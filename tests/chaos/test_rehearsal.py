"""`tidemill rehearse`, short: what it finds on our servers is nothing, and it leaves nothing there."""

import json
import signal
from pathlib import Path

from tests.chaos.checker import a_seed
from tests.conftest import RunCli
from tests.flows.tidemill import Tidemill
from tests.servers import Broker

TABLES = ("jobs", "attempts", "batches", "dialogues", "messages", "workers")
PROMPTS = "40"
MINUTES = "0.15"


def rehearse(run_cli: RunCli, environment: dict[str, str], *more: str) -> dict[str, object]:
    """What a short rehearsal printed, in whose environment a real key would cost money."""
    seed = a_seed()
    arguments = ["rehearse", "--prompts", PROMPTS, "--minutes", MINUTES, "--seed", str(seed), "--json", *more]
    key = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_API_KEY": "sk-of-the-user"}
    done = run_cli(arguments, environment | key, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sk-of-the-user" not in done.stdout + done.stderr
    outcome: dict[str, object] = json.loads(done.stdout)
    assert outcome["faults"], "something was done"
    assert (outcome["seed"], outcome["prompts"], outcome["lost"], outcome["recorded_twice"]) == (seed, 40, 0, 0)
    return outcome


def test_embedded_it_kills_the_command_and_leaves_no_row(
    run_cli: RunCli, embedded_environment: dict[str, str], tmp_path: Path
) -> None:
    outcome = rehearse(run_cli, embedded_environment, "--faults", "kill,provider-hangs")
    assert outcome["problems"] == []
    assert rows(embedded_environment, tmp_path) == dict.fromkeys(TABLES, 0)


def test_with_a_broker_it_cuts_and_kills_and_touches_no_row_or_message_of_others(
    run_cli: RunCli, shared_environment: dict[str, str], broker_server: Broker, tmp_path: Path
) -> None:
    users = tmp_path / "users.txt"
    users.write_text("a prompt of the user's own\n")
    submitted = run_cli(["ask", "-i", str(users), "--detach"], shared_environment)
    assert submitted.returncode == 0, submitted.stderr
    before = broker_server.keys()
    outcome = rehearse(run_cli, shared_environment)
    assert outcome["problems"] == []
    left = {"jobs": 1, "batches": 1}
    assert rows(shared_environment, tmp_path) == {name: left.get(name, 0) for name in TABLES}
    assert Tidemill(shared_environment, tmp_path).query("SELECT state, epoch FROM jobs") == [("queued", 0)]
    assert {key for key in broker_server.keys() - before if b"limits" not in key} == set()  # those expire


def rows(environment: dict[str, str], folder: Path) -> dict[str, int]:
    """How many rows each table has."""
    user = Tidemill(environment, folder)
    return {name: user.query(f"SELECT count(*) FROM {name}")[0][0] for name in TABLES}


def test_ctrl_c_leaves_no_row_and_no_process(
    run_cli: RunCli, embedded_environment: dict[str, str], tmp_path: Path
) -> None:
    user = Tidemill(embedded_environment, tmp_path)
    with user.started("rehearse", "--faults", "freeze") as running:
        running.until(lambda: user.query("SELECT 1 FROM attempts WHERE outcome = 'succeeded'"), "some are answered")
        started = children(running.process.pid)
        running.signal(signal.SIGINT)
        ran = running.ended()
    assert ran.code == 130, ran
    assert rows(embedded_environment, tmp_path) == dict.fromkeys(TABLES, 0)
    assert started
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []


def children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def test_a_fault_that_does_not_exist_is_said(run_cli: RunCli, embedded_environment: dict[str, str]) -> None:
    done = run_cli(["rehearse", "--faults", "kill,earthquake"], embedded_environment)
    assert done.returncode == 2
    assert "There is no fault earthquake; there are kill, " in done.stderr
