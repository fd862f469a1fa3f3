"""Hundreds of commands run in tests, and most of what one costs is imports: here they fork off a process that has them.

What runs is the command line itself, in a process of its own with its own variables, folder and streams. Where a test
is about more than that (another interpreter, PYTHON* or locale variables, a terminal, a signal), commands start cold.
"""

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NoReturn

_OURS = ("OPENAI_", "TIDEMILL_")


def can_run(environment: Mapping[str, str]) -> bool:
    """Whether these variables are this process's own but for ours, which are read when a command runs."""
    return _of_others(environment) == _of_others(os.environ)


def _of_others(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(_OURS)}


def run(
    args: Sequence[str], environment: Mapping[str, str], folder: Path, given: bytes, seconds: float
) -> tuple[int, bytes, bytes]:
    """Run `tidemill` with these arguments to its end; returns its exit code, standard output and standard error.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    with ExitStack() as stack:
        streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        streams[0].write(given)
        streams[0].seek(0)
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        socket.send_fds(_server(), [b"+"], [*(stream.fileno() for stream in streams), theirs.fileno()])
        ours.sendall(json.dumps([list(args), dict(environment), str(folder)]).encode() + b"\n")
        ours.settimeout(seconds)
        replies = stack.enter_context(ours.makefile())
        pid = int(replies.readline())
        try:
            code = int(replies.readline())
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(args), seconds) from None
        out, err = (_content(stream.fileno()) for stream in streams[1:])
        return code, out, err


def _content(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)


@cache
def _server() -> socket.socket:
    """The way to a process that serves until this one ends."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-P", __file__, str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


# --- the server ---


_IMPORTED = (
    "aiohttp",
    "celery.app.amqp",
    "celery.apps.worker",
    "celery.concurrency.thread",
    "openai",
    "sqlalchemy.dialects.sqlite",
    "tidemill.producer.asking.prompts",
    "tidemill.producer.batches.run",
    "tidemill.producer.cli.commands",
    "tidemill.worker.maintenance",
)
"""Most commands import these anyway. None starts a thread, which a fork would lose, or reads the settings."""


def _serve(client: socket.socket) -> None:
    for name in _IMPORTED:
        import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while files := socket.recv_fds(client, 1, 4)[1]:
        if not os.fork():
            _run_for(*files)
        for file in files:
            os.close(file)


def _run_for(stdin: int, stdout: int, stderr: int, asker: int) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=asker) as client, client.makefile() as request:
        args, environment, folder = json.loads(request.readline())
        if not (pid := os.fork()):
            for number, stream in enumerate((stdin, stdout, stderr)):
                os.dup2(stream, number)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = ["tidemill", *args]
            sys.modules["tidemill.producer.cli.commands"].main()
        client.sendall(b"%d\n" % pid)
        client.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
