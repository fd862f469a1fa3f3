"""Foreign bytes can hang, bloat or kill whoever decodes them; a child process is replaced.

Both ends of the pipes are here, and nothing about what is asked. A child imports its answering function and this.
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

Question = TypeVar("Question")
Answer = TypeVar("Answer")

ANSWER_SECONDS = 5.0
"""A child that takes longer over one question is killed."""
START_SECONDS = 60.0
MEMORY_BYTES = 256 * 2**20
"""Address space that a child may use beyond what it has when it is ready."""


class Children(Generic[Question, Answer]):
    """Answers questions in child processes, each with one question at a time; they start when there is work for them.

    A child is a fresh interpreter behind two pipes, for the reasons in worker/judge.py, and ends when its input does.
    `make` is a function of some module: called in the child with `settings`, it returns what answers. Close it: that
    ends every child at once, whatever it is doing.
    """

    def __init__(self, count: int, make: Callable[..., Callable[[Question], Answer]], *settings: object) -> None:
        ours = f"from {serve.__module__} import {serve.__name__} as serve"
        self._code = f"from {make.__module__} import {make.__name__} as make; {ours}; serve(make)"
        self._settings = settings
        self._couriers = ThreadPoolExecutor(count, thread_name_prefix="children")
        self._lock = threading.Lock()
        self._living: set[subprocess.Popen[bytes]] = set()
        self._idle: list[subprocess.Popen[bytes]] = []
        self._closed = False

    def submit(self, question: Question) -> Future[Answer]:
        """Ask; never blocks. The future holds the answer, or raises what became of the child.

        Raises (from the future):
            TimeoutError: the child took longer than `ANSWER_SECONDS`, and was killed.
            EOFError: the child died of the question.
            TidemillError: no child can be started.
        """
        return self._couriers.submit(self._ask, question)

    def close(self) -> None:
        """Kill the children and wait until they are gone; what was not answered never will be. May be called again."""
        with self._lock:
            self._closed = True
            for child in self._living:
                child.kill()
        self._couriers.shutdown(cancel_futures=True)
        for child in list(self._living):
            self._bury(child)

    def _ask(self, question: Question) -> Answer:
        with self._lock:
            child = self._idle.pop() if self._idle else None
        if child is not None and child.poll() is not None:  # it died in its sleep, of nobody's question
            self._bury(child)
            child = None
        child = child or self._start()
        answer = self._talk(child, question, ANSWER_SECONDS)
        self._idle.append(child)
        return cast("Answer", answer)

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
                    stderr=subprocess.DEVNULL,  # C libraries write there what they think of a file
                    # One arena: each further thread's would take 64 MB of the allowance without using them.
                    env={**interpreters.environment(), "MALLOC_ARENA_MAX": "1"},
                    process_group=0,
                )
                self._living.add(child)
            self._talk(child, self._settings, START_SECONDS)
        except (OSError, EOFError):  # TimeoutError is an OSError
            command = shlex.join(interpreters.command("-c", self._code))
            raise TidemillError(f"A child process does not start; this shows why: {command}") from None
        return child

    def _talk(self, child: subprocess.Popen[bytes], message: object, seconds: float) -> object:
        """Send and receive. A child that does not answer in time, or at all, is buried."""
        assert child.stdin is not None and child.stdout is not None
        try:
            pickle.dump(message, child.stdin)
            child.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(child.stdout, selectors.EVENT_READ)
                if not selector.select(seconds):  # a reply is sent when it is whole: its first byte is enough
                    raise TimeoutError
            return cast("object", pickle.load(child.stdout))  # noqa: S301  # our own child wrote it
        except TimeoutError:
            self._bury(child)
            raise
        except (OSError, EOFError, pickle.UnpicklingError):
            self._bury(child)
            raise EOFError from None

    def _bury(self, child: subprocess.Popen[bytes]) -> None:
        child.kill()
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):  # what was not sent cannot be sent any more
                if pipe is not None:
                    pipe.close()
        child.wait()
        with self._lock:
            self._living.discard(child)


def serve(make: Callable[..., Callable[[object], object]]) -> None:
    """The child: settings on stdin, then questions; a reply on stdout to each, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies, sys.stdout = sys.stdout.buffer, sys.stderr  # so that no stray print can spoil the stream
    try:
        answer = make(*pickle.load(sys.stdin.buffer))  # noqa: S301  # our own parent wrote it
        _limit_memory()
        reply: object = None
        while True:
            pickle.dump(reply, replies)
            replies.flush()
            question = pickle.load(sys.stdin.buffer)  # noqa: S301
            signal.alarm(int(2 * ANSWER_SECONDS))  # kills a child that hangs and has no parent any more
            reply = answer(question)
            signal.alarm(0)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        os._exit(0)  # the parent is gone, perhaps in the middle of a question


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # only Linux tells, and only Linux obeys
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
