"""What names a language in doubt takes long to load, so a child does it, and a reply can cost no more than that child.

Of our modules a child imports only this one, worker/sentiment.py and what they stand on, so it starts fast and stays
small.
"""

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from logging import WARNING

from tidemill.models.child import Child, Parent
from tidemill.models.errors import TidemillError
from tidemill.models.lines import note
from tidemill.worker.sentiment import UNJUDGEABLE, Judgement, identifier, judge

CHILD = "from tidemill.worker.judge import serve; serve()"
START_SECONDS = 30.0
TEXT_SECONDS = 5.0
"""A child that takes longer over the texts that it is sent at once is killed; it needs no tenth of that."""

_TEXTS_SENT = 32
_LONGEST_HEAD, _LONGEST_TAIL = 120_000, 60_000
"""Characters that are sent of a reply that is a book; of its prose, half as many are looked at."""

Text = tuple[int, str]
"""What a text is known by, and the text."""


class Judge:
    """Judges in one child process, which starts with the first batch and takes one batch after another.

    A child that dies, hangs or is stopped is replaced, and its texts are asked one by one: the one that takes the next
    child with it cannot be judged. Where no child can start, this process judges. Do not fork while one is open.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="judge")
        self._child: Child | None = None
        self._is_ready = False
        self._end_at = float("inf")

    def submit(self, batch: list[Text]) -> Future[list[tuple[int, Judgement]]]:
        """Judge `(id, text)` pairs; the future holds `(id, judgement)` in the same order. Never blocks.

        After `finish_within`, the last ones may be left out.

        Raises:
            RuntimeError: `close` was called.
        """
        return self._thread.submit(self._judge, batch)

    def finish_within(self, seconds: float) -> None:
        """Leave out what is not judged by then, and all at once if no child has loaded yet.

        Another worker's maintenance will find it.
        """
        seconds = seconds if self._is_ready else 0.0
        self._end_at = time.monotonic() + seconds
        timer = threading.Timer(seconds, self._kill_child)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """End the child, whatever it is doing; waiting batches are cancelled. May be called again."""
        self._end_at = 0.0
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._kill_child()
        self._thread.shutdown()
        self._end_child()

    def _judge(self, batch: list[Text]) -> list[tuple[int, Judgement]]:
        judged: list[tuple[int, Judgement]] = []
        alone_until = 0  # texts before this one are asked one by one: a child was lost to one of them
        try:
            self._living_child()
            while (place := len(judged)) < len(batch) and not self._is_over():
                some = batch[place : place + (1 if place < alone_until else _TEXTS_SENT)]
                try:
                    judged += self._ask(some)
                except (TimeoutError, EOFError):
                    self._end_child()
                    if place < alone_until and not self._is_over():
                        sentence = f"the reply of job {some[0][0]} cannot be judged; its sentiment stays unknown"
                        note(WARNING, "not_judged", sentence, job=some[0][0])
                        judged.append((some[0][0], UNJUDGEABLE))
                    alone_until = max(alone_until, place + len(some))
        except TidemillError:
            if not self._is_over():
                note(WARNING, "no_judge", "no process that judges replies can be started; this one does it")
                unsuspected = batch[max(len(judged), alone_until) :]
                judged += [(key, judge([text])[0]) for key, text in unsuspected]
        return judged

    def _ask(self, texts: list[Text]) -> list[tuple[int, Judgement]]:
        child = self._living_child()
        child.send([_cut(text) for _, text in texts], seconds=TEXT_SECONDS)
        judgements, _ = child.receive(TEXT_SECONDS)
        return [(key, Judgement(*fields)) for (key, _), fields in zip(texts, judgements, strict=True)]

    def _living_child(self) -> Child:
        """The child, ready. Raises TidemillError where none can start."""
        if self._child is not None and self._child.is_alive:
            return self._child
        self._end_child()
        child = self._child = Child(CHILD)
        if self._is_over():
            child.kill()  # `finish_within` came when there was no child to kill
        child.wait_until_ready(seconds=START_SECONDS)
        self._is_ready = True
        return child

    def _is_over(self) -> bool:
        return time.monotonic() >= self._end_at

    def _kill_child(self) -> None:
        if (child := self._child) is not None:
            child.kill()  # whoever waits for it goes on

    def _end_child(self) -> None:
        child, self._child, self._is_ready = self._child, None, False
        if child is not None:
            child.end()  # it has nothing that could be lost


def _cut(text: str) -> str:
    whole = len(text) <= _LONGEST_HEAD + _LONGEST_TAIL
    return text if whole else f"{text[:_LONGEST_HEAD]}\n{text[-_LONGEST_TAIL:]}"


def serve() -> None:
    """Be the child: read lists of texts, and send their judgements, until the parent is gone."""
    parent = Parent(2 * TEXT_SECONDS)
    identifier()  # in time for the first replies
    if hasattr(os, "nice"):
        os.nice(5)  # calls and their settling go first
    parent.say_ready()
    while True:
        texts, _ = parent.receive()
        parent.send(judge(texts))
