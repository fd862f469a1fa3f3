"""Foreign bytes can hang, bloat or kill the process that decodes them; a child process can be replaced.

Both ends of the pipes are here, and nothing about what is sent through them. A child imports this module and the
function that does its work.
"""

import os
import pickle
import selectors
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar, cast

from tidemill.models import interpreters
from tidemill.models.errors import TidemillError

Item = TypeVar("Item")
Result = TypeVar("Result")

ITEM_SECONDS = 5.0
"""A child that takes longer over one item is killed."""
START_SECONDS = 60.0
MEMORY_BYTES = 256 * 2**20
"""Address space that a child may use beyond what it has when it is ready."""


class Children(Generic[Item, Result]):
    """Turns items into results in child processes, one item at a time in each; they start when there is work for them.

    A child is a fresh interpreter behind two pipes, for the reasons in worker/judge.py, and ends when its input does.
    `make` is a function of some module. The child calls it with `settings`; it returns the function from item to
    result. Close this object: that ends every child at once, whatever it is doing.
    """

    def __init__(self, count: int, make: Callable[..., Callable[[Item], Result]], *settings: object) -> None:
        imports = (f"from {each.__module__} import {each.__name__}" for each in (serve, make))
        self._code = f"{'; '.join(imports)}; {serve.__name__}({make.__name__})"
        self._settings = settings
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="children")
        self._lock = threading.Lock()
        self._living: set[subprocess.Popen[bytes]] = set()
        self._idle: list[subprocess.Popen[bytes]] = []
        self._closed = False

    def submit(self, item: Item) -> Future[Result]:
        """Send an item without waiting. The future has the result, or raises what became of the child.

        Raises (from the future):
            TimeoutError: the child took longer than `ITEM_SECONDS`, and was killed.
            EOFError: the child died of the item.
            TidemillError: no child can be started.
        """
        return self._threads.submit(self._work, item)

    def close(self) -> None:
        """Kill the children and wait until they are gone; open items get no result. May be called again."""
        with self._lock:
            self._closed = True
            for child in self._living:
                child.kill()
        self._threads.shutdown(cancel_futures=True)
        for child in list(self._living):
            self._end(child)

    def _work(self, item: Item) -> Result:
        with self._lock:
            child = self._idle.pop() if self._idle else None
        if child is not None and child.poll() is not None:  # it died while it was idle
            self._end(child)
            child = None
        child = child or self._start()
        result = self._exchange(child, item, ITEM_SECONDS)
        self._idle.append(child)
        return cast("Result", result)

    def _start(self) -> subprocess.Popen[bytes]:
        """Start a child, in a process group of its own: Ctrl-C is for the parent."""
        try:
            with self._lock:
                if self._closed:
                    raise EOFError
                child = subprocess.Popen(  # noqa: S603  # our own interpreter, with code of our own
                    interpreters.command("-c", self._code),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # C libraries write their complaints about a file there
                    # One arena: each further thread's would take 64 MB of the allowance without using them.
                    env={**interpreters.environment(), "MALLOC_ARENA_MAX": "1"},
                    process_group=0,
                )
                self._living.add(child)
            self._exchange(child, self._settings, START_SECONDS)
        except (OSError, EOFError):  # TimeoutError is an OSError
            command = shlex.join(interpreters.command("-c", self._code))
            raise TidemillError(f"A child process does not start; this shows why: {command}") from None
        return child

    def _exchange(self, child: subprocess.Popen[bytes], message: object, seconds: float) -> object:
        """Send and receive. A child that does not answer in time, or at all, is ended."""
        assert child.stdin is not None and child.stdout is not None
        try:
            pickle.dump(message, child.stdin)
            child.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(child.stdout, selectors.EVENT_READ)
                if not selector.select(seconds):  # a child sends only whole results: the first byte is enough
                    raise TimeoutError
            return cast("object", pickle.load(child.stdout))  # noqa: S301  # our own child wrote it
        except TimeoutError:
            self._end(child)
            raise
        except (OSError, EOFError, pickle.UnpicklingError):
            self._end(child)
            raise EOFError from None

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        child.kill()
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):  # closing flushes, and the child is gone
                if pipe is not None:
                    pipe.close()
        child.wait()
        with self._lock:
            self._living.discard(child)


def serve(make: Callable[..., Callable[[object], object]]) -> None:
    """Be the child: read settings and then items from stdin, write a result to stdout for each, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    results, sys.stdout = sys.stdout.buffer, sys.stderr  # so that no stray print can spoil the stream
    try:
        work = make(*pickle.load(sys.stdin.buffer))  # noqa: S301  # our own parent wrote it
        _limit_memory()
        result: object = None
        while True:
            pickle.dump(result, results)
            results.flush()
            item = pickle.load(sys.stdin.buffer)  # noqa: S301
            signal.alarm(int(2 * ITEM_SECONDS))  # kills a child that hangs after its parent has died
            result = work(item)
            signal.alarm(0)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        os._exit(0)  # the parent is gone, perhaps in the middle of an item


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # only Linux has /proc and obeys the limit
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
