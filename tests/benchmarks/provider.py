"""A provider that is not our simulator, and that leaves the two cores to those who are measured.

nginx where there is one and the answer comes at once; else responder.py, which can also take its time.
"""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.benchmarks.responder import REPLIES, SIGN, reply_body
from tests.benchmarks.trees import RunError

__all__ = ["SIGN", "Provider", "nginx_binary", "provider"]

_START_SECONDS = 10.0
_NGINX = """\
worker_processes 1;
daemon off;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    default_type application/json;
    split_clients "$connection $connection_requests" $reply {{
{replies}
    }}
    server {{
        listen 127.0.0.1:{port};
        location = /calls {{ stub_status; }}
        location / {{ return 200 '{body}'; }}
    }}
}}
"""


class Provider:
    """A running one: where it is, and how many calls it has answered."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self._status_url = f"http://127.0.0.1:{port}/calls"
        self._looks = 0

    def calls(self) -> int:
        """Answered so far, as the provider counts them itself."""
        with urllib.request.urlopen(self._status_url, timeout=5) as status:
            numbers = [int(word) for word in status.read().decode().split() if word.isdigit()]
        self._looks += 1  # it counts our own question too
        # nginx tells the connections now, accepted and handled, and then the requests; the responder tells these alone.
        return numbers[3 if len(numbers) > 1 else 0] - self._looks


@contextmanager
def provider(folder: Path, latency_ms: tuple[int, int]) -> Iterator[Provider]:
    """One that answers after a time between the two, or at once, with a few dozen words; it ends with the block.

    Raises:
        RunError: it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    nginx = None if any(latency_ms) else nginx_binary()
    command = (
        _nginx_command(nginx, folder, port)
        if nginx
        else [sys.executable, str(Path(__file__).with_name("responder.py")), str(port), *map(str, latency_ms)]
    )
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        running = Provider(port)
        give_up_at = time.monotonic() + _START_SECONDS
        while True:
            with suppress(OSError):
                running.calls()
                break
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise RunError(f"{command[0]} did not start")
            time.sleep(0.02)
        yield running
    finally:
        process.terminate()
        process.wait()


def nginx_binary() -> str | None:
    """Where nginx is, also for a user whose PATH has no sbin."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")


def _nginx_command(nginx: str, folder: Path, port: int) -> list[str]:
    home = folder / f"nginx-{port}"
    home.mkdir()
    shares = [f"{100 // len(REPLIES)}%"] * (len(REPLIES) - 1) + ["*"]
    replies = "\n".join(f'        {share} "{text}";' for share, text in zip(shares, REPLIES, strict=True))
    body = reply_body("$connection-$connection_requests", "$reply")
    (home / "nginx.conf").write_text(_NGINX.format(port=port, replies=replies, body=body))
    return [nginx, "-p", f"{home}/", "-c", "nginx.conf", "-e", "error.log"]
