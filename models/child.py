"""What may hang, bloat or die of its input is done in a child process, which can be given up and replaced.

Both ends of the pipes are here, and nothing about what is sent through them. A child is a fresh interpreter, not a
`multiprocessing` one, which would import its parent's program again (all of Celery, or a script with no `__main__`
guard) and keep a tracker process. Its environment has no keys.

What goes through the pipes are frames: the lengths of a head and a body, the head as JSON, the body as it is. Neither
end runs anything that the other sends, so hostile input that takes a child over gets no further.
"""

import json
import os
import select
import shlex
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from tidemill.models import interpreters
from tidemill.models.errors import TidemillError

LARGEST_FRAME_BYTES = 256 * 2**20
"""A frame that claims to be longer is not read."""

START_SECONDS = 60.0

_LENGTHS = struct.Struct("!II")
_PIECE_BYTES = 2**16
_BURIAL_SECONDS = 5.0


def _framed(head: object, body: bytes) -> bytes:
    text = json.dumps(head, separators=(",", ":")).encode("ascii")
    return _LENGTHS.pack(len(text), len(body)) + text + body


class Child:
    """A child that runs this code, from its parent's side. After TimeoutError or EOFError it is gone.

    It ends with its parent, even if that is killed: see `Parent`. One thread at a time may use it; `kill` may come from
    any. Do not fork while one is open.
    """

    def __init__(self, code: str) -> None:
        """Start it, in a process group of its own: Ctrl-C is for the parent.

        Raises:
            TidemillError: it cannot be started.
        """
        self._command = interpreters.command("-c", code)
        try:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter, with code of our own
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # C libraries write their complaints about a file there
                # One arena: each further thread's would take 64 MB of address space without using them. One thread:
                # those that NumPy starts for large matrices only cost a child its start.
                env={**interpreters.bare_environment(), "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"},
                process_group=0,
                bufsize=0,
            )
        except OSError as error:
            raise self._no_start() from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        self._received = bytearray()
        self.pid = self._process.pid

    def wait_until_ready(self, settings: object = None, *, seconds: float = START_SECONDS) -> None:
        """Send it its settings, a JSON value, and wait until it has loaded what it needs.

        Raises:
            TidemillError: it ended, or is not ready within so many seconds.
        """
        try:
            self.send(settings, seconds=seconds)
            self.receive(seconds)
        except (TimeoutError, EOFError) as error:
            raise self._no_start() from error

    def _no_start(self) -> TidemillError:
        return TidemillError(f"A child process does not start; this shows why: {shlex.join(self._command)}")

    def send(self, head: object, body: bytes = b"", *, seconds: float) -> None:
        """Send a frame; `head` is a JSON value.

        Raises:
            TimeoutError: the child did not take it within so many seconds, and was killed.
            EOFError: the child is dead.
        """
        deadline = time.monotonic() + seconds
        left = memoryview(_framed(head, body))
        try:
            while left:
                _wait(self._to, select.POLLOUT, deadline)
                left = left[os.write(self._to, left[:_PIECE_BYTES]) :]
        except OSError as error:
            self._give_up(error)

    def receive(self, seconds: float) -> tuple[Any, bytes]:
        """The child's next frame, as head and body.

        Raises:
            TimeoutError: it did not come within so many seconds, and the child was killed.
            EOFError: the child is dead, or sent something else, and was killed.
        """
        deadline = time.monotonic() + seconds
        try:
            head_bytes, body_bytes = _LENGTHS.unpack(self._read(_LENGTHS.size, deadline))
            if head_bytes + body_bytes > LARGEST_FRAME_BYTES:
                raise EOFError
            head = json.loads(self._read(head_bytes, deadline))
            return head, self._read(body_bytes, deadline)
        except (OSError, EOFError, ValueError, RecursionError) as error:
            self._give_up(error)

    @property
    def is_alive(self) -> bool:
        """False once it has ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill it; whoever waits for it gets EOFError."""
        self._process.kill()

    def end(self) -> None:
        """Kill it, if need be, and close the pipes. May be called again."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):  # a process inside a broken disk outlives even this
            self._process.wait(_BURIAL_SECONDS)

    def _read(self, count: int, deadline: float) -> bytes:
        while len(self._received) < count:
            _wait(self._from, select.POLLIN, deadline)
            piece = os.read(self._from, _PIECE_BYTES)
            if not piece:
                raise EOFError
            self._received += piece
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def _give_up(self, error: Exception) -> NoReturn:
        self.end()
        raise (TimeoutError if isinstance(error, TimeoutError) else EOFError) from None


def _wait(pipe: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
        raise TimeoutError


# --- in the child ---


class Parent:
    """The parent, from its child's side. Make it first: from then on the child ends when its parent is gone.

    A thread sees that the parent is gone. An alarm ends a child whose thread cannot run, because a library hangs. One
    that is stopped is ended by the kernel: its process group has become an orphan, and is sent SIGHUP.
    """

    def __init__(self, busy_seconds: float) -> None:
        """`busy_seconds` is how long the child may be silent over one frame before it is dead.

        Afterwards `settings` are there; call `say_ready` once all that they need is loaded.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for deadly in (signal.SIGHUP, signal.SIGALRM):
            signal.signal(deadly, signal.SIG_DFL)
        self._alarm_seconds = 0
        self._frames = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # so that no stray print, of Python or C, can spoil the frames
        when_parent_is_gone(_leave)
        self.settings, _ = self.receive()
        self._alarm_seconds = int(busy_seconds) + 1

    def say_ready(self) -> None:
        """Tell the parent that items can come."""
        self.send(None)

    def receive(self) -> tuple[Any, bytes]:
        """The parent's next frame, as head and body. Ends the process when there is none."""
        signal.alarm(0)
        lengths = sys.stdin.buffer.read(_LENGTHS.size)
        if len(lengths) < _LENGTHS.size:
            _leave()
        head_bytes, body_bytes = _LENGTHS.unpack(lengths)
        head, body = sys.stdin.buffer.read(head_bytes), sys.stdin.buffer.read(body_bytes)
        if len(head) + len(body) < head_bytes + body_bytes:
            _leave()
        signal.alarm(self._alarm_seconds)
        return json.loads(head), body

    def send(self, head: object, body: bytes = b"") -> None:
        """Send a frame; `head` is a JSON value. Waits as long as the parent takes."""
        signal.alarm(0)
        try:
            self._frames.write(_framed(head, body))
            self._frames.flush()
        except BrokenPipeError:
            _leave()
        signal.alarm(self._alarm_seconds)


def when_parent_is_gone(act: Callable[[], object]) -> None:
    """Call `act` on a thread once nobody holds the other end of stdin, a pipe, any more."""

    def watch() -> None:
        poll = select.poll()
        poll.register(sys.__stdin__.fileno() if sys.__stdin__ else 0, 0)  # only its end is an event
        poll.poll()
        act()

    threading.Thread(target=watch, name="watch", daemon=True).start()


def limit_memory(spare_bytes: int) -> None:
    """Let this process use so much address space beyond what it has now, and leave no core."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # only Linux has /proc and obeys the limit
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        limit = pages * resource.getpagesize() + spare_bytes
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        if most == resource.RLIM_INFINITY or limit < most:  # else it has less already
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _leave() -> NoReturn:
    os._exit(0)
