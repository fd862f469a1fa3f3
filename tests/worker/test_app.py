"""A worker stops when it is told to, or when nobody is left to tell it, and takes no longer than it may."""

import signal
import subprocess
import sys

import pytest

from tests.waiting import limit

HANGS = """
import time
from tidemill.worker import app
app.AFTER_DRAIN_SECONDS = 0.5
app.tasks.stop = lambda: time.sleep(600)
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
