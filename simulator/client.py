"""Tests, chaos runs and benchmarks start, switch, kill and audit the provider in one line each.

Standard library only, so that the script under measurement imports nothing it would not have imported itself.
"""

import json
import os
import select
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from tidemill.simulator.options import SimulatorOptions

LIMIT_SECONDS = 300.0
"""Ends what hangs; nothing that goes well waits for it."""

_LOOK_SECONDS = 0.02
_BESIDE_US = str(Path(__file__).parents[2])
"""The folder that `tidemill` is imported from."""

# Options that are tables -> the flag that gives one row, KEY=VALUE.
PAIRS = {"faults": "fault", "scripts": "script", "shutdown": "shutdown"}
RESULTS = ("fine-tune-results", "batch_output")
# Local requests must not go through a proxy that the environment names for the internet.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class SimulatorDownError(Exception):
    """The simulator's process did not come up, or is not running."""


def _flags(options: SimulatorOptions) -> list[str]:
    flags: list[str] = []
    for name, value in options.items():
        if name in PAIRS:
            flags += [f"--{PAIRS[name]}={key}={item}" for key, item in dict[str, object](value).items()]  # type: ignore[call-overload]
        elif name == "models":
            flags += [f"--model={model}" for model in list[str](value)]  # type: ignore[call-overload]
        elif value is not None:
            flags.append(f"--{name.replace('_', '-')}={value}")
    return flags


class Simulator:
    """A provider in a process of its own: `with Simulator(latency_ms=20, faults={"429": 0.1}) as sim: sim.url`.

    After the first start the port stays, so `kill()` and `start()` make a server that was down and came back.
    """

    def __init__(self, *, port: int = 0, log: Path | str | None = None, **options: Unpack[SimulatorOptions]) -> None:
        self.port = port
        self.pid = 0
        self._log = log
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The base URL for a client, ending in /v1."""
        return f"{self.root}/v1"

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Returns once the port listens. Raises SimulatorDownError when it does not in time."""
        if self.running:
            return self
        command = [sys.executable, "-P", "-m", "tidemill.simulator", "--exit-with-stdin", f"--port={self.port}"]
        if self._log is not None:
            command.append(f"--log={Path(self._log).resolve()}")
        self._process = subprocess.Popen(  # noqa: S603  # our own command
            [*command, *_flags(self._options)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([_BESIDE_US, *filter(None, sys.path)])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C is its starter's affair
        )
        line = self._first_line()
        if not line:
            self.kill()
            raise SimulatorDownError("the simulator did not start; its own words are on standard error")
        started = json.loads(line)
        self.pid = started["pid"]
        self.port = int(started["url"].removesuffix("/v1").rpartition(":")[2])
        return self

    def _first_line(self) -> bytes:
        """One short write is one read; a line in pieces cannot happen below the pipe's atomic 4,096 bytes."""
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        ready, _, _ = select.select([descriptor], [], [], LIMIT_SECONDS)
        return os.read(descriptor, 4096) if ready else b""

    def stop(self) -> int | None:
        """SIGTERM, and its exit status (0); None when nothing ran."""
        return self._end("terminate")

    def kill(self) -> int | None:
        """SIGKILL: connections in flight break, the memory's log is lost, the file's is not."""
        return self._end("kill")

    def _end(self, how: str) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        getattr(process, how)()
        try:
            status = process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        return status

    def _request(self, path: str, body: object = None) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.root}{path}", data=content)  # noqa: S310  # always http
        try:
            with _opener.open(request, timeout=LIMIT_SECONDS) as reply:
                answer: dict[str, Any] = json.load(reply)
                return answer
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(json.load(error)["error"]["message"]) from None
        except OSError as error:
            raise SimulatorDownError(str(error)) from error

    def control(self, **changes: Unpack[SimulatorOptions]) -> dict[str, Any]:
        """Switches the running server at once. ValueError for an unknown name or value. Not kept over a restart."""
        return self._request("/_control", changes)

    def reset(self) -> None:
        """Back to the options of the start, with empty books and full limits."""
        self._request("/_reset", {})

    def log(self) -> dict[str, Any]:
        """{"counters": {..}, "options": {..}, "paid": [..]}"""
        return self._request("/_log")

    def counters(self) -> dict[str, Any]:
        return dict(self._request("/_log?paid=0")["counters"])

    def paid(self) -> list[dict[str, Any]]:
        """Every call that would be billed, oldest first. Reads the file when the server is down and has one."""
        if not self.running and self._log is not None:
            return [json.loads(line) for line in Path(self._log).read_bytes().splitlines()]
        return list(self.log()["paid"])

    def paid_by_prompt(self) -> Counter[str]:
        """How often each prompt was paid for, by `prompt_hash(text)`."""
        return Counter(entry["prompt_hash"] for entry in self.paid())

    def files(self) -> list[dict[str, Any]]:
        """Every file ever stored, result files and deleted ones included, oldest first: the API's file object
        with `sha256` and `deleted`."""
        return list(self._request("/_shelf")["files"])

    def tunings(self) -> list[dict[str, Any]]:
        """Every fine-tuning job ever created, oldest first: the API's job object with `commands`."""
        return list(self._request("/_shelf")["tunings"])

    def batches(self) -> list[dict[str, Any]]:
        """Every batch ever created, oldest first: the API's object."""
        return list(self._request("/_shelf")["batches"])

    def files_by_name(self) -> Counter[str]:
        """How often each file was uploaded, result files left out."""
        return Counter(file["filename"] for file in self.files() if file["purpose"] not in RESULTS)

    def batches_by_metadata(self, key: str) -> Counter[str]:
        """As `tunings_by_metadata`."""
        return Counter((batch["metadata"] or {}).get(key, "") for batch in self.batches())

    def paid_by_route(self) -> Counter[str]:
        """How many calls were paid online, flex, by batch, .."""
        return Counter(entry.get("route", "online") for entry in self.paid())

    def tunings_by_metadata(self, key: str) -> Counter[str]:
        """How many jobs were created with each value of this metadata key; jobs without it count under ''."""
        return Counter(tuning["metadata"].get(key, "") for tuning in self.tunings())

    def wait_until_idle(self, seconds: float = LIMIT_SECONDS) -> None:
        """Until no call is in flight. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while self.counters()["in_flight"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"calls are still in flight after {seconds:.0f} s")
            time.sleep(_LOOK_SECONDS)
