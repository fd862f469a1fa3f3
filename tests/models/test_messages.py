"""Whatever is in the queue, a worker that meets it says one line and goes on; the messages here are put in by hand."""

import base64
import json
import os
import pickle
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import redis

from tests.conftest import RunCli
from tests.servers import Broker
from tests.waiting import limit, wait_until
from tidemill.models.broker import TASK
from tidemill.models.server_names import server_name

GOOD = [[[1]], {}, {}]
BOMB = pickle.dumps(((), {}, {}))


def entry(body: object, content_type: str = "application/json", **headers: object) -> str:
    """An entry of the queue as kombu writes it, with this body and these headers."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    properties = {
        "correlation_id": "x",
        "delivery_info": {"exchange": "", "routing_key": "tidemill"},
        "delivery_tag": "x",
        "body_encoding": "base64",
    }
    return json.dumps(
        {
            "body": base64.b64encode(raw).decode(),
            "content-type": content_type,
            "content-encoding": "utf-8",
            "headers": headers,
            "properties": properties,
        }
    )


OURS = {"task": TASK, "id": "x"}
STRANGE: dict[str, str | bytes] = {
    "no JSON": "hello from redis-cli",
    "bytes": b"\xff\xfe\x00",
    "a list": "[1, 2]",
    "no properties": "{}",
    "properties that are none": '{"properties": 1, "body": "x"}',
    "another task": entry(GOOD, task="billing.charge", id="x"),
    "no task": entry(GOOD),
    "a task without an id": entry(GOOD, task=TASK),
    "a pickle": entry(BOMB, "application/x-python-serialize", **OURS),
    "a body that is no JSON": entry(b"{{{", **OURS),
    "a body that is a number": entry(7, **OURS),
    "an empty body": entry([], **OURS),
    "a time that is none": entry(GOOD, **OURS, eta="tomorrow"),
    "an unknown compression": entry(GOOD, **OURS, compression="squeeze"),
    "text for ids": entry([["abc"], {}, {}], **OURS),
    "an object for ids": entry([{"a": 1}, {}, {}], **OURS),
    "ids that are none": entry([[[True, -1, 2**70, None, "1"]], {}, {}], **OURS),
    "two lists": entry([[[1], [2]], {}, {}], **OURS),
    "an argument by name": entry([[[1]], {"x": 1}, {}], **OURS),
}


def _is_dropped(log: Path, number: int) -> bool:
    return log.read_text("utf-8").count("was dropped") == number


def test_what_is_not_ours_is_dropped_with_one_line_and_the_worker_goes_on(
    shared_environment: dict[str, str],
    broker_server: Broker,
    run_cli: RunCli,
    tmp_path: Path,
) -> None:
    environment = os.environ | shared_environment | {"TIDEMILL_LOG_LEVEL": "warning"}
    log = tmp_path / "worker.log"
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "tidemill.worker"], env=environment, stderr=file, start_new_session=True
        )
    client = redis.Redis(port=broker_server.port)
    queue = f"tidemill.{server_name(shared_environment['OPENAI_BASE_URL'])}"
    try:
        for number, message in enumerate(STRANGE.values(), 1):
            client.lpush(queue, message)
            wait_until(partial(_is_dropped, log, number), f"{number} are dropped")
        answered = run_cli(["ask", "Hello?"], shared_environment)
        assert answered.returncode == 0, answered.stderr
    finally:
        client.close()
        worker.send_signal(signal.SIGTERM)
        worker.wait(limit(30))
    lines = log.read_text("utf-8").splitlines()
    assert len(lines) == 1 + len(STRANGE), lines  # and the first, which says how many workers there are
    assert all("A message that is not ours was dropped: it " in line for line in lines[1:])
    assert "billing.charge" in lines[1 + list(STRANGE).index("another task")]
    assert "hello" not in "".join(lines)
