"""A folder that somebody else made cannot have the key sent to a server of its own, nor take prompts in silence."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import RunCli, UseEnvironment
from tests.waiting import limit, wait_until
from tidemill.models.errors import SettingsError
from tidemill.models.settings import Settings, settings
from tidemill.simulator import Simulator

SERVER = "http://127.0.0.1:9/v1"
ASK = ["ask", "Hello?", "--transport", "http"]


@pytest.fixture
def env_file(clean_environment: None) -> Path:
    """The `.env` of this process's working folder, still to be written."""
    return Path.cwd() / ".env"


def settings_with(use_environment: UseEnvironment, **variables: str) -> Settings:
    """The settings with these exported."""
    use_environment(variables)
    return settings()


def key_of(current: Settings) -> str | None:
    """The key that would be sent."""
    return current.openai_api_key.get_secret_value() if current.openai_api_key else None


def test_a_server_and_a_key_of_the_file_belong_together(env_file: Path, use_environment: UseEnvironment) -> None:
    env_file.write_text(f"OPENAI_BASE_URL={SERVER}\nOPENAI_API_KEY=sk-of-the-file\n")
    current = settings_with(use_environment, OPENAI_API_KEY="sk-exported", OPENAI_ORG_ID="org-exported")
    assert (current.openai_base_url, key_of(current), current.openai_org_id) == (SERVER, "sk-of-the-file", None)
    current = settings_with(use_environment, OPENAI_BASE_URL="http://localhost:1/v1")
    assert (current.openai_base_url, key_of(current)) == ("http://localhost:1/v1", "sk-exported")


@pytest.mark.parametrize("spelling", ["OPENAI_BASE_URL", "openai_base_url", "export OPENAI_BASE_URL"])
def test_an_exported_key_is_not_sent_to_a_server_that_the_file_names(
    spelling: str, env_file: Path, use_environment: UseEnvironment
) -> None:
    env_file.write_text(f"{spelling}={SERVER}\n")
    assert key_of(settings_with(use_environment)) is None
    for key_too in ("", "OPENAI_API_KEY=\n"):
        env_file.write_text(f"{spelling}={SERVER}\n{key_too}")
        with pytest.raises(SettingsError) as caught:
            settings_with(use_environment, OPENAI_API_KEY="sk-exported")
        assert str(caught.value) == (
            f"{env_file} names the server {SERVER}, and OPENAI_API_KEY of the environment would be sent there. "
            "If you trust that server, export OPENAI_BASE_URL too, or write the secret into .env; else remove .env."
        )
    assert key_of(settings_with(use_environment, OPENAI_BASE_URL=SERVER)) == "sk-exported"


def test_the_file_cannot_ask_for_secrets_of_the_environment(env_file: Path, use_environment: UseEnvironment) -> None:
    env_file.write_text(f"OPENAI_BASE_URL={SERVER}/${{MY_SECRET}}\nOPENAI_API_KEY=${{MY_SECRET}}\n")
    current = settings_with(use_environment, MY_SECRET="sk-mine", OPENAI_API_KEY="sk-exported")
    assert "sk-mine" not in current.openai_base_url
    assert key_of(current) == "${MY_SECRET}"


def test_a_database_of_the_file_does_not_get_a_password_of_the_environment(
    env_file: Path, use_environment: UseEnvironment, capsys: pytest.CaptureFixture[str]
) -> None:
    env_file.write_text("TIDEMILL_DATABASE_URL=postgresql://me:pw@host/theirs\n")
    settings_with(use_environment, PGPASSWORD="exported")
    assert capsys.readouterr().err == f"tidemill: {env_file} sets TIDEMILL_DATABASE_URL=postgresql://host/theirs\n"
    env_file.write_text("TIDEMILL_DATABASE_URL=postgresql://me@host/theirs\n")
    with pytest.raises(SettingsError, match="PGPASSWORD of the environment would be sent there"):
        settings_with(use_environment, PGPASSWORD="exported")


def test_every_place_that_the_file_names_is_said_once_and_nothing_else(
    env_file: Path, use_environment: UseEnvironment, capsys: pytest.CaptureFixture[str]
) -> None:
    env_file.write_text("OPENAI_API_KEY=sk-1\nTIDEMILL_WINDOW=3\nTIDEMILL_MODEL=m\n")
    assert settings_with(use_environment).window == 3
    assert capsys.readouterr().err == ""
    env_file.write_text(
        f"TIDEMILL_LOG_LEVEL=error\nOPENAI_BASE_URL={SERVER}\nTIDEMILL_BROKER_URL=redis://u:pw@host/0\n"
        "TIDEMILL_BLOBS_URL='x\x1b[2K\u202ey'\nTIDEMILL_PRICES=p.toml\n"
    )
    settings_with(use_environment)
    settings()
    assert capsys.readouterr().err == (
        f"tidemill: {env_file} sets OPENAI_BASE_URL={SERVER}, TIDEMILL_BROKER_URL=redis://host/0, "
        "TIDEMILL_BLOBS_URL=x\\x1b[2K\\u202ey, TIDEMILL_PRICES=p.toml\n"
    )


def test_a_file_that_cannot_be_read_is_said_in_a_sentence(env_file: Path, use_environment: UseEnvironment) -> None:
    env_file.write_bytes(b"OPENAI_API_KEY=\xff\xfe\n")
    with pytest.raises(
        SettingsError, match=r"\.env cannot be read: it is not UTF-8\. Correct the file, or remove it\."
    ):
        settings_with(use_environment)
    env_file.unlink()
    env_file.mkdir()  # a virtual environment of that name
    settings_with(use_environment)


def test_workers_come_to_the_same_decision_as_their_parent(
    tmp_path: Path, simulator: Simulator, shared_environment: dict[str, str], run_cli: RunCli
) -> None:
    folder = tmp_path / "cwd"
    env_file = folder / ".env"
    server = {name: shared_environment.pop(name) for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY")}
    env_file.write_text("".join(f"{name}={value}\n" for name, value in server.items()))
    simulator.control(key=server["OPENAI_API_KEY"])
    exported = shared_environment | {"OPENAI_API_KEY": "sk-exported"}
    log = folder / "worker.log"
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "tidemill.worker"], env=os.environ | exported, cwd=folder, stderr=file
        )
    try:
        wait_until(lambda: "in flight each" in log.read_text("utf-8"), "the workers' parent has started")
        ran = run_cli([*ASK, "--json"], exported)
        assert ran.returncode == 0, ran.stderr
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(limit(30))
    for said in (ran.stderr, log.read_text("utf-8")):
        assert said.count(f"tidemill: {env_file} sets OPENAI_BASE_URL={simulator.url}\n") == 1
    assert env_file.name not in ran.stdout
