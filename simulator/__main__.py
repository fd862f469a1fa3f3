"""The provider must be able to die, hang and come back without the test doing so: it is a process of its own.

`python -m tidemill.simulator --port 0 --latency-ms 200 --fault 429=0.1` prints one JSON line and serves until SIGTERM.
"""

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tidemill.simulator.options import FIELDS, Options, changed, switch
from tidemill.simulator.server import listen
from tidemill.simulator.simulation import Simulation


def _fault(text: str) -> tuple[str, float]:
    name, _, rate = text.partition("=")
    return name, float(rate or 1)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


# option -> (its flag, how to read one of its values)
REPEATED: dict[str, tuple[str, Any]] = {
    "faults": ("--fault", _fault),
    "models": ("--model", str),
    "scripts": ("--script", _pair),
    "shutdown": ("--shutdown", _pair),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tidemill.simulator", description="A provider that keeps its books."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--log",
        type=Path,
        help="append every paid call to this JSONL file, files and jobs to FILE.shelf; go on from them",
    )
    parser.add_argument("--exit-with-stdin", action="store_true", help="stop when standard input closes")
    for name, (convert, meaning) in FIELDS.items():
        if name in REPEATED:
            flag, item = REPEATED[name]
            parser.add_argument(flag, dest=name, action="append", type=item, help=meaning)
        else:
            flag = f"--{name.replace('_', '-')}"
            bare: Any = {"nargs": "?", "const": True} if convert is switch else {}
            parser.add_argument(flag, type=convert, default=argparse.SUPPRESS, help=meaning, **bare)
    return parser


def _options(arguments: dict[str, Any]) -> Options:
    return changed(Options(), {name: arguments[name] for name in FIELDS if arguments.get(name) is not None})


async def _serve(arguments: argparse.Namespace) -> None:
    simulation = Simulation(_options(vars(arguments)), arguments.log)
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if arguments.exit_with_stdin:
        # Nothing is ever written to it: readable means closed, so no simulator outlives the test that started it.
        loop.add_reader(sys.stdin.fileno(), stopped.set)
    server = await listen(simulation, arguments.host, arguments.port)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"url": f"http://{arguments.host}:{port}/v1", "pid": os.getpid()}), file=sys.stdout, flush=True)
    await stopped.wait()
    server.close()
    simulation.close()


def main() -> None:
    # The paid log only grows: walking it again and again in search of cycles would cost more than the calls.
    gc.freeze()
    gc.set_threshold(100_000, 100, 100)
    parser = _parser()
    arguments = parser.parse_args()
    try:
        import uvloop
    except ImportError:
        run: Any = asyncio.run
    else:
        run = uvloop.run
    try:
        run(_serve(arguments))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
