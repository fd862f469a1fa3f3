"""One prompt's answer goes to stdout as soon as it is there, and onto a terminal while it is written."""

import sys
import threading
import time
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import NamedTuple

from tidemill.models.errors import NOT_ALL_SUCCEEDED, TidemillError
from tidemill.models.json_types import JsonObject
from tidemill.models.text import printable
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.progress import Progress
from tidemill.producer.batches.stored_rows import latest_turn, rows_of
from tidemill.producer.screen.display import Quiet, say
from tidemill.producer.screen.printing import print_json, print_text


class LiveAnswer(Quiet):
    """A display on which one answer is printed while it is written: a listener of `models.live`.

    A thread prints, because a terminal may stand still. Sentences get lines of their own.
    """

    def __init__(self) -> None:
        self._coming: SimpleQueue[_Begin | _Sentence | str | threading.Event] = SimpleQueue()
        self._answer = ""
        self._held = ""
        self._is_in_line = False
        self._heard_at = 0.0
        threading.Thread(target=self._run, name="print", daemon=True).start()

    def begin(self) -> None:
        """See `models.live`."""
        self._coming.put(_Begin())

    def hear(self, text: str) -> None:
        """See `models.live`."""
        self._heard_at = time.monotonic()
        self._coming.put(text)

    @property
    def heard_at(self) -> float:
        """See `models.live`."""
        return self._heard_at

    def say(self, sentence: str) -> None:
        """Print the sentence, on a line of its own."""
        self._coming.put(_Sentence(sentence))

    def complete(self, reply: str) -> None:
        """Print what is not there yet of the answer that was stored."""
        self._print_all()
        if not reply.startswith(self._answer):
            self._say("What stands above was not the answer alone; this is the answer:")
            self._answer = ""
        print_text(reply[len(self._answer) :])
        self._is_in_line = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._print_all()
        self._end_line()

    def _print_all(self) -> None:
        """Return once all that came is printed."""
        is_printed = threading.Event()
        self._coming.put(is_printed)
        is_printed.wait()

    def _run(self) -> None:
        while True:
            each = self._coming.get()
            if isinstance(each, threading.Event):
                each.set()
                continue
            with suppress(OSError):  # the terminal was closed; what is stored does not depend on it
                self._show(each)

    def _show(self, each: "_Begin | _Sentence | str") -> None:
        match each:
            case _Sentence(sentence):
                self._say(sentence)
            case _Begin():
                if self._answer:
                    self._say("The answer broke off and is asked for again; it begins anew.")
                self._answer = self._held = ""
            case text:
                self._print(text)

    def _print(self, text: str) -> None:
        text, self._held = self._held + text, ""
        if text.endswith("\r"):  # a line end of Windows may go on in the next piece
            text, self._held = text[:-1], "\r"
        if text:
            sys.stdout.write(printable(text))
            sys.stdout.flush()
            self._answer += text
            self._is_in_line = not text.endswith("\n")

    def _say(self, sentence: str) -> None:
        if sys.stderr.isatty():
            self._end_line()
        say(sentence)

    def _end_line(self) -> None:
        if self._is_in_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._is_in_line = False


class _Sentence(NamedTuple):
    text: str


class _Begin:
    """A call begins."""


class UnansweredError(TidemillError):
    """The one row has no answer."""

    exit_code = NOT_ALL_SUCCEEDED


class AnswerPrinter:
    """Prints one row's answer the moment it is stored; only `as_json` shows its sentiment, and waits for that."""

    def __init__(self, batch: Batch, as_json: bool, live: LiveAnswer | None = None) -> None:
        self._batch = batch
        self._as_json = as_json
        self._live = live
        self._is_printed = False

    def __call__(self, progress: Progress) -> bool:
        """Print the answer if it is there and was not printed; returns whether there is nothing to wait for."""
        if not self._as_json and not self._is_printed and progress.states["succeeded"]:
            (self._live.complete if self._live is not None else print_text)(self._row()["reply"])
            sys.stdout.flush()
            self._is_printed = True
        return self._is_printed

    def end(self, progress: Progress) -> None:
        """Print what is not printed yet.

        Raises:
            UnansweredError: there is no answer; the text says why.
        """
        if self(progress):
            return
        row = self._row()
        if self._as_json:
            print_json(row | {"dialogue": latest_turn(self._batch.id)})
        if row["status"] != "succeeded":
            raise UnansweredError(f"{row['error'] or row['status']} ({row['error_code'] or row['status']})")

    def _row(self) -> JsonObject:
        return next(iter(rows_of(self._batch.id, self._batch.submission)))[0]
