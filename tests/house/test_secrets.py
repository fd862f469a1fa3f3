""" "never stored, never logged" is a promise about a key, and only a real run can break it.

The provider here is hostile: it tells the key back in every reply that is not an answer. The key must be nowhere in
what the commands print, in the results, or in any file that they leave.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunCli

LIKE_A_KEY = "sk-canary-" + "4f9d" * 8
LIKE_NOTHING = "canary/7Zq+" + "1b8e" * 8
"""No pattern can know this one: it must be taken out because it is the key."""


class Parrot(BaseHTTPRequestHandler):
    """Answers well to most prompts; to `refuse me` with 400, and to its first call with 401; both tell the key."""

    protocol_version = "HTTP/1.1"
    calls = 0

    def do_GET(self) -> None:
        self._reply(401, self._complaint("invalid_api_key"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = body["messages"][-1]["content"]
        type(self).calls += 1
        if type(self).calls == 1:
            self._reply(401, self._complaint("invalid_api_key"))
        elif "refuse me" in prompt:
            self._reply(400, self._complaint("invalid_request", "Refused, with the header"))
        else:
            message = {"role": "assistant", "content": f"You said: {prompt}"}
            usage = {"prompt_tokens": 3, "completion_tokens": 5}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._reply(200, {"model": body["model"], "choices": [choice], "usage": usage})

    def _complaint(self, code: str, what: str = "Incorrect API key provided:") -> dict[str, Any]:
        told = self.headers["authorization"]
        return {"error": {"message": f"{what} {told.split()[-1]} ({told}).", "code": code}}

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as the base class calls it
        """Keep quiet."""


@contextmanager
def parrot() -> Iterator[str]:
    handler = type("OneParrot", (Parrot,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


@pytest.mark.parametrize(("transport", "key"), [("sdk", LIKE_A_KEY), ("http", LIKE_NOTHING)])
def test_the_key_is_nowhere(transport: str, key: str, embedded_home: Path, run_cli: RunCli, tmp_path: Path) -> None:
    with parrot() as url:
        env = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": key, "TIDEMILL_MAX_ATTEMPTS": "2"}
        prompts = "Hello\nrefuse me\nHow are you?\n"
        asked = run_cli(["ask", "-i", "-", "-o", "a.jsonl", "--transport", transport, "--json"], env, prompts)
        assert asked.returncode == 1, asked.stderr
        assert "does not accept the key" in asked.stderr
        after = [["results", "latest", "-o", "a.csv"], ["status", "latest"], ["dialogues", "show", "1", "--json"]]
        after += [["doctor"], ["models"]]
        shown = [asked, *(run_cli(arguments, env) for arguments in after)]
    rows = [json.loads(line) for line in (tmp_path / "cwd" / "a.jsonl").read_text("utf-8").splitlines()]
    assert sorted(row["status"] for row in rows) == ["failed", "succeeded", "succeeded"]
    assert "Refused, with the header" in next(row["error"] for row in rows if row["error"])
    assert "OPENAI_API_KEY" in shown[4].stdout
    printed = "".join(each.stdout + each.stderr for each in shown)
    files = [path for path in (*embedded_home.rglob("*"), *tmp_path.rglob("*")) if path.is_file()]
    assert {path.name for path in files} >= {"tidemill.db", "a.jsonl", "a.csv"}
    assert key not in printed
    assert [path.name for path in files if key.encode() in path.read_bytes()] == []


def test_the_settings_do_not_show_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from tidemill.models.settings import settings

    monkeypatch.setenv("OPENAI_API_KEY", LIKE_A_KEY)
    assert settings().openai_api_key is not None
    assert LIKE_A_KEY not in repr(settings()) + str(settings()) + settings().model_dump_json()
