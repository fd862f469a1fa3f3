"""Where the system allows few open files, the limit is raised, or fewer calls are in flight; nobody is held."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.flows.tidemill import answers
from tests.models.test_provider import BODY, TRANSPORTS, open_provider
from tests.waiting import limit
from tidemill.models.endpoints import CHAT
from tidemill.models.provider import CallError, Transport
from tidemill.simulator import Simulator

WINDOW = "import logging, sys; from tidemill.models.descriptors import window_that_fits; print(window_that_fits(256))"


def run(soft: int, hard: int, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these limits of open files."""
    return subprocess.run(
        [sys.executable, "-P", *command],
        env=os.environ | environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        capture_output=True,
        text=True,
        timeout=limit(),
        check=False,
    )


@contextmanager
def no_file_left() -> Iterator[None]:
    """This process can open no file more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    with ExitStack() as stack:
        try:
            while True:
                stack.enter_context(Path(os.devnull).open("rb"))
        except OSError:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_call_without_a_file_to_open_is_not_the_providers_fault(transport: Transport, host: str) -> None:
    provider = open_provider(transport, f"http://{host}:9/v1")
    with pytest.raises(CallError, match="cannot connect"):
        await provider.call(CHAT, BODY)
    with no_file_left(), pytest.raises(CallError) as caught:
        await provider.call(CHAT, BODY)
    await provider.aclose()
    error = caught.value
    assert (error.kind, error.code) == ("local", "too_many_open_files")


def test_a_soft_limit_is_raised_in_silence() -> None:
    ran = run(256, 4096, "-c", WINDOW)
    assert (ran.stdout.strip(), ran.stderr) == ("256", "")


def test_a_hard_limit_shrinks_the_window_and_says_so() -> None:
    ran = run(256, 256, "-c", WINDOW)
    assert 100 < int(ran.stdout) < 192
    assert "the system allows this process 256 open files" in ran.stderr
    assert run(20, 20, "-c", WINDOW).stdout.strip() == "1"


@pytest.mark.parametrize("hard", [128, 256])
def test_a_run_with_few_open_files_is_answered_and_held_by_nobody(
    hard: int, simulator: Simulator, embedded_environment: dict[str, str]
) -> None:
    simulator.control(latency_ms=300)
    prompts = "\n".join(f"Question {number}?" for number in range(400))
    Path("prompts.txt").write_text(prompts, encoding="utf-8")
    arguments = ("ask", "-i", "prompts.txt", "-o", "-", "--transport", "http")
    ran = run(hard, hard, "-m", "tidemill.producer.cli.commands", *arguments, **embedded_environment)
    assert ran.returncode == 0, ran.stderr
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(rows) == 400
    assert answers(rows)
    assert "on hold" not in ran.stderr
    assert "cannot connect" not in ran.stderr
    assert f"allows this process {hard} open files" in ran.stderr
    assert {row["attempts"] for row in rows} == {1}
