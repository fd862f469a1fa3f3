"""Hundreds of commands run in tests, and most of what one costs is imports: here they fork off a process that has them.

What runs is the command line itself, in a process of its own with its own variables, folder and streams. Where a test
is about more than that (another interpreter, variables of another kind), commands start cold.
"""

import atexit
import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn, TextIO

_READ_LATE = ("OPENAI_", "TIDEMILL_", "PYTHONPATH", "PYTHONIOENCODING", "TERM", "COLUMNS")
"""How the names of variables begin that are read when a command runs, or are seen to then."""

_NUMBER = struct.Struct("i")


def can_run(environment: Mapping[str, str]) -> bool:
    """Whether these variables are this process's own but for those that are read when a command runs."""
    return _of_others(environment) == _of_others(os.environ)


def _of_others(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(_READ_LATE)}


class Command:
    """`tidemill` with these arguments, in a session of its own; what a test uses of `subprocess.Popen`.

    Args:
        args: of the command; `-c` and a script stand for `python -c` and the script.
        streams: file descriptors of its standard input, output and error.
    """

    def __init__(
        self, args: Sequence[str], environment: Mapping[str, str], folder: Path, streams: Sequence[int]
    ) -> None:
        self._end, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_server(), [b"+"], [*streams, theirs.fileno()])
        self._end.sendall(json.dumps([list(args), dict(environment), str(folder)]).encode() + b"\n")
        (self.pid,) = _NUMBER.unpack(self._end.recv(_NUMBER.size))
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or minus the signal that ended it; raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self._end.settimeout(timeout)
            try:
                (self.returncode,) = _NUMBER.unpack(self._end.recv(_NUMBER.size))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("tidemill", timeout or 0) from None
            self._end.close()
        return self.returncode

    def poll(self) -> int | None:
        """The same, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


def run(
    args: Sequence[str], environment: Mapping[str, str], folder: Path, given: bytes, seconds: float
) -> tuple[int, str, str]:
    """Run `tidemill` with these arguments to its end; returns its exit code, standard output and standard error.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    with TemporaryFile() as in_, TemporaryFile() as out, TemporaryFile() as err:
        in_.write(given)
        in_.seek(0)
        command = Command(args, environment, folder, [in_.fileno(), out.fileno(), err.fileno()])
        try:
            code = command.wait(seconds)
        finally:
            command.kill()
        out.seek(0)
        err.seek(0)
        return code, out.read().decode(), err.read().decode()


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
            os.setsid()
            client.sendall(_NUMBER.pack(os.getpid()))
            for number, stream in enumerate((stdin, stdout, stderr)):
                os.dup2(stream, number)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            encoding = environment.get("PYTHONIOENCODING", sys.stdout.encoding)
            sys.stdout = _opened(1, encoding, sys.stdout.errors)
            sys.stderr = _opened(2, encoding, sys.stderr.errors)
            sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
            _run(args)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(BrokenPipeError):  # nobody wants to know any more
            client.sendall(_NUMBER.pack(code))
    os._exit(0)


def _opened(number: int, encoding: str, errors: str | None) -> TextIO:
    """A stream as an interpreter opens it at its start; the server's own believe that they are what they were."""
    is_in_lines = number == 2 or os.isatty(number)
    return open(number, "w", 1 if is_in_lines else -1, encoding, errors, closefd=False)


def _run(args: list[str]) -> NoReturn:
    if args[0] == "-c":
        sys.argv, sys.path[:0] = ["-c"], [""]
        exec(args[1], {"__name__": "__main__"})  # as `python -c` does it
        sys.exit()
    sys.argv = ["tidemill", *args]
    sys.modules["tidemill.producer.cli.commands"].main()
    sys.exit()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
