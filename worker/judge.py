"""Judging a reply costs more CPU than its call, so a child process does it.

Of our modules a child imports only this one and worker/sentiment.py, so it starts fast and stays small.
"""

import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor

from tidemill.models import interpreters
from tidemill.worker.sentiment import Judgement, judge, models


class Judge:
    """Judges in one child process, which starts with the first batch and takes one batch after another.

    The child is a fresh interpreter behind two pipes, not a `multiprocessing` one, which would import its
    parent's program again (all of Celery, or a script with no `__main__` guard) and keep a tracker process. It ends
    when its input does, so even if this process is killed. A child that dies is replaced once a batch; if that one
    dies, too, the batch is judged in this process. Do not fork while one is open.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="judge")
        self._child: subprocess.Popen[bytes] | None = None

    def submit(self, batch: list[tuple[int, str]]) -> Future[list[tuple[int, Judgement]]]:
        """Judge `(id, text)` pairs; the future holds `(id, judgement)` in the same order. Never blocks.

        Raises:
            RuntimeError: `close` was called.
        """
        return self._thread.submit(self._judge, batch)

    def close(self) -> None:
        """End the child after its present batch; waiting batches are cancelled. May be called again."""
        self._thread.shutdown(cancel_futures=True)
        self._end_child()

    def _judge(self, batch: list[tuple[int, str]]) -> list[tuple[int, Judgement]]:
        texts = [text for _, text in batch]
        judgements: list[Judgement] | None = None
        for _ in range(2):
            try:
                judgements = self._ask(texts)
                break
            except (OSError, EOFError, pickle.UnpicklingError):  # the child is dead, or could not start
                self._end_child()
        return list(zip((key for key, _ in batch), judge(texts) if judgements is None else judgements, strict=True))

    def _ask(self, texts: list[str]) -> list[Judgement]:
        child = self._child = self._child or _start()
        assert child.stdin is not None and child.stdout is not None
        pickle.dump(texts, child.stdin)
        child.stdin.flush()
        judgements: list[Judgement] = pickle.load(child.stdout)  # noqa: S301  # our own child wrote it
        return judgements

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()  # it has nothing that could be lost
        for pipe in (child.stdin, child.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass  # the child is dead, so what was not sent is lost anyway
        child.wait()


def _start() -> subprocess.Popen[bytes]:
    """Start the child, in a process group of its own: Ctrl-C is for the parent."""
    return subprocess.Popen(  # noqa: S603  # our own interpreter, with code of our own
        interpreters.command("-c", "from tidemill.worker.judge import serve; serve()"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=interpreters.environment(),
        process_group=0,
    )


def serve() -> None:
    """The child: pickled lists of texts on stdin, their judgements on stdout, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(5)  # calls and their settling go first
    models()  # in time for the first replies
    replies, sys.stdout = sys.stdout.buffer, sys.stderr  # so that a stray print cannot damage the stream
    while True:
        try:
            texts = pickle.load(sys.stdin.buffer)  # noqa: S301  # our own parent wrote it
            pickle.dump(judge(texts), replies)
            replies.flush()
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            os._exit(0)  # the parent is gone, maybe in the middle of a batch
