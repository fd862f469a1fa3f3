"""The core knows no kind of job and no endpoint: a package from outside adds its own, and nothing else changes."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.flows.tidemill import Tidemill
from tests.house.sources import ROOT

ENTRY_POINTS = """
[tidemill.endpoints]
echo = toys:ECHO

[tidemill.kinds]
measure = toys:measure
"""


class _Echo(BaseHTTPRequestHandler):
    """A server that has this endpoint and no other."""

    def do_POST(self) -> None:
        """Say what was said last."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.path == "/v1/echo"
        words = str(body["turns"][-1]["content"]) if known else ""
        answer = {"said": words.upper() if body.get("loudly") else words} if known else {"error": {"message": "no"}}
        content = json.dumps(answer).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def echo_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()


@pytest.fixture
def extended(embedded_environment: dict[str, str], tmp_path: Path) -> Tidemill:
    """The command line where the package of tests/house/toys.py is installed, too."""
    installed = tmp_path / "site"
    metadata = installed / "toys-1.0.dist-info"
    metadata.mkdir(parents=True)
    (installed / "toys.py").write_bytes((ROOT / "tests" / "house" / "toys.py").read_bytes())
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    folder = tmp_path / "work"
    folder.mkdir()
    return Tidemill({**embedded_environment, "PYTHONPATH": str(installed)}, folder)


@pytest.mark.parametrize("transport", ["http", "sdk"])
def test_an_endpoint_from_outside_answers_the_command_line(extended: Tidemill, echo_url: str, transport: str) -> None:
    ask = ("ask", "--endpoint", "echo", "--transport", transport)
    assert extended(*ask, "Hello there", OPENAI_BASE_URL=echo_url).ok().out.strip() == "Hello there"
    loud = extended(*ask, "Hello there", "--system", "Loudly.", OPENAI_BASE_URL=echo_url).ok()
    assert loud.out.strip() == "HELLO THERE"


def test_its_lines_in_a_batch_file_and_later_turns_go_there_too(extended: Tidemill, echo_url: str) -> None:
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/echo",
        "body": {"turns": [{"role": "user", "content": "Hello there"}]},
    }
    extended.write("lines.jsonl", json.dumps(line) + "\n")
    (row,) = extended("ask", "-i", "lines.jsonl", "-o", "-", OPENAI_BASE_URL=echo_url).ok().rows
    assert (row["custom_id"], row["status"], row["reply"], row["model"]) == ("a", "succeeded", "Hello there", "echo-1")
    again = extended("ask", "--dialogue", "1", "And then?", OPENAI_BASE_URL=echo_url).ok()
    assert again.out.strip() == "And then?"


def test_an_endpoint_that_nobody_has_is_refused_with_the_names_of_those_that_there_are(extended: Tidemill) -> None:
    refused = extended("ask", "x", "--endpoint", "carrier-pigeon")
    assert refused.code == 2
    for name in ("chat", "responses", "echo"):
        assert name in refused.err


def test_a_kind_from_outside_runs_from_end_to_end(extended: Tidemill) -> None:
    script = (ROOT / "tests" / "house" / "toys.py").read_text("utf-8")
    submitted = extended.python(f"import sys; sys.argv[1:] = ['one', 'three']\n{script}")
    batch = submitted.ok().out.strip()
    rows = extended("results", batch, "-o", "-").ok().rows
    assert [(row["text"], row["reply"]) for row in rows] == [("one", "3 characters"), ("three", "5 characters")]
    shown = extended("status", batch, "--json").ok().json
    assert (shown["kind"], shown["succeeded"], shown["open"]) == ("measure", 2, 0)
    assert extended("watch", batch, "--json").ok().json["succeeded"] == 2
    assert extended("pause", batch).code == 0


def test_a_worker_without_the_package_fails_its_rows_with_a_sentence(extended: Tidemill) -> None:
    script = (ROOT / "tests" / "house" / "toys.py").read_text("utf-8").replace("    batch.wait()\n", "")
    batch = extended.python(f"import sys; sys.argv[1:] = ['one']\n{script}").ok().out.strip()
    without = Tidemill({**extended.environment, "PYTHONPATH": ""}, extended.folder)
    watched = without("watch", batch)
    assert watched.code == 1
    assert "no kind of job 'measure'" in watched.err
