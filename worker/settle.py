"""One writer per process stores endings in bulk and never loses a paid answer.

Settlements come from the loop, up to 100 rows or 100 ms at a time. Replies that are judged cheaply are judged here and
stored with their judgement; the others are stored first, and their judgements come later, from the judge's child. While
the database does not answer all of them wait, and are written once it does.
"""

import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from logging import ERROR, INFO, WARNING
from typing import NamedTuple

from sqlalchemy import Connection, update

from tidemill.models import holds, journal, news
from tidemill.models.bulk import BulkRows
from tidemill.models.database import transact
from tidemill.models.database_errors import reason_of
from tidemill.models.errors import DatabaseError
from tidemill.models.lines import Seldom, note
from tidemill.models.settling import Settlement, settle
from tidemill.models.tables import dialogues
from tidemill.worker.judge import Judge
from tidemill.worker.meter import Meter
from tidemill.worker.sentiment import Judgement, judge_now, load_words

BULK_ROWS = 100
BULK_SECONDS = 0.1
_RETRY_SECONDS = 0.5
NOT_STORABLE = "not_storable"

_JUDGED = BulkRows(id="int", sentiment="text", score="float", language="text")
_ANSWERED_BY_PROVIDER = ("succeeded", "failed", "retried")
_OF_THE_ACCOUNT = frozenset({401, 402, 429})
"""Statuses of a hold that are never about one row alone: key, credit, quota."""


class Ending(NamedTuple):
    """How a job ended, and its provider."""

    settlement: Settlement
    provider: str


class Settler:
    """The writer of one worker process.

    Args:
        judge: judges the replies that are in doubt, once they are stored.
        bulk_rows: endings that are written together at most.
        hurry: whether nothing else is under way, so that the last ending need not wait for others.
        on_written: called with what has been written.
        meter: counts what has been written.
    """

    def __init__(
        self,
        judge: Judge,
        hurry: Callable[[], bool],
        on_written: Callable[[Sequence[Settlement]], None],
        bulk_rows: int = BULK_ROWS,
        meter: Meter | None = None,
    ) -> None:
        self._judge = judge
        self._bulk_rows = bulk_rows
        self._hurry = hurry
        self._on_written = on_written
        self._meter = meter or Meter()
        self._seldom = Seldom()
        self._give_up_at = float("inf")
        self._endings: queue.SimpleQueue[Ending | None] = queue.SimpleQueue()
        self._judgements: queue.SimpleQueue[list[tuple[int, Judgement]]] = queue.SimpleQueue()
        self._judging = 0
        self._judging_lock = threading.Lock()  # replies come from the writer and from maintenance
        self.finished = 0
        """Writes done so far, failed ones too: while it rises, the writer is not stuck."""
        self.trouble: str | None = None
        """Why endings cannot be written at present, in a sentence; None when they can."""
        self._thread = threading.Thread(target=self._run, name="settler", daemon=True)
        self._thread.start()

    def put(self, settlement: Settlement, provider: str) -> None:
        """Hand over how a job of this provider has ended; returns at once."""
        self._endings.put(Ending(settlement, provider))

    def judge(self, texts: list[tuple[int, str]]) -> None:
        """Have replies judged, (dialogue id, text) each; the judgements are written as they come."""
        with self._judging_lock:
            self._judging += 1
        self._judge.submit(texts).add_done_callback(self._receive_judgements)

    @property
    def is_judging(self) -> bool:
        """Whether replies are being judged."""
        return self._judging > 0

    def close(self, patience_seconds: float) -> None:
        """Write all that was handed over, then stop.

        It waits this long for a database that does not answer, whose jobs run again then, and for judgements. It does
        not wait for a judge that has not loaded yet: the next worker's maintenance finds what is not judged.
        """
        self._give_up_at = time.monotonic() + patience_seconds
        self._judge.finish_within(patience_seconds)
        self._endings.put(None)
        self._thread.join()
        self._judge.close()

    def _receive_judgements(self, future: Future[list[tuple[int, Judgement]]]) -> None:
        self._judgements.put([] if future.cancelled() or future.exception() else future.result())

    def _run(self) -> None:
        is_open = True
        while is_open or self._judging:
            endings, is_open = self._collect(is_open)
            judgements = self._collect_judgements()
            if endings or judgements:
                self._write_until_stored([judged(ending) for ending in endings], judgements)
            else:
                load_words()  # while calls are in flight

    def _collect(self, is_open: bool) -> tuple[list[Ending], bool]:
        endings: list[Ending] = []
        deadline = time.monotonic() + BULK_SECONDS
        while len(endings) < self._bulk_rows and (left := deadline - time.monotonic()) > 0:
            if endings and self._hurry() and self._endings.empty():
                break
            try:
                item = self._endings.get(timeout=left)
            except queue.Empty:
                break
            if item is None:
                return endings, False
            endings.append(item)
        return endings, is_open

    def _collect_judgements(self) -> list[tuple[int, Judgement]]:
        judgements: list[tuple[int, Judgement]] = []
        while not self._judgements.empty():
            judgements += self._judgements.get()
            with self._judging_lock:
                self._judging -= 1
        return judgements

    def _write_until_stored(self, endings: list[Ending], judgements: list[tuple[int, Judgement]]) -> None:
        pause = _RETRY_SECONDS
        while True:
            if self.trouble is not None and time.monotonic() > self._give_up_at:
                sentence = f"{len(endings)} endings are not stored, their jobs will run again: {self.trouble}"
                note(ERROR, "not_stored", sentence, jobs=len(endings))
                return
            try:
                written = write(endings, judgements, self._meter)
                break
            except DatabaseError as error:
                # Writing the same rows twice is harmless, thanks to epoch, ledger and primary keys.
                self.finished += 1
                self.trouble = str(error)
                sentence = f"{len(endings)} endings wait: {error}"
                self._seldom.note(WARNING, "waits_to_store", sentence, about=str(error), jobs=len(endings))
                time.sleep(min(pause, max(0.0, self._give_up_at - time.monotonic())))
                pause = min(pause * 2, 10.0)
            except Exception as error:  # noqa: BLE001  # whatever is raised, some row is the cause
                self._write_apart(endings, judgements, error)
                return
        if self.trouble is not None:
            note(INFO, "stored", f"{len(endings)} endings that waited are stored", jobs=len(endings))
        self.trouble = None
        self.finished += 1
        self._on_written([ending.settlement for ending in endings])
        news.tell()
        if doubtful := in_doubt(endings, written):
            self.judge(doubtful)

    def _write_apart(self, endings: list[Ending], judgements: list[tuple[int, Judgement]], error: Exception) -> None:
        """Store all rows but the one that the database rejects: halve until it is alone."""
        if endings and judgements:
            self._write_until_stored(endings, [])
            self._write_until_stored([], judgements)
        elif len(endings) > 1:
            middle = len(endings) // 2
            self._write_until_stored(endings[:middle], [])
            self._write_until_stored(endings[middle:], [])
        elif endings and endings[0].settlement.error_code != NOT_STORABLE:
            job_id = endings[0].settlement.job_id
            note(ERROR, "not_storable", f"job {job_id} cannot be stored: {reason_of(error)}", job=job_id)
            self._write_until_stored([_not_storable(endings[0], error)], [])
        else:
            sentence = f"given up storing {len(endings)} endings, {len(judgements)} judgements: {reason_of(error)}"
            note(ERROR, "not_stored", sentence, jobs=len(endings))
            self._on_written([ending.settlement for ending in endings])  # their leases end


def write_each(endings: Sequence[Ending], meter: Meter | None = None) -> set[tuple[int, int]]:
    """As `write`, but a row that the database refuses is found by halving, and fails."""
    try:
        return write(endings, [], meter)
    except DatabaseError:
        raise
    except Exception as error:
        if len(endings) > 1:
            middle = len(endings) // 2
            return write_each(endings[:middle], meter) | write_each(endings[middle:], meter)
        if endings[0].settlement.error_code == NOT_STORABLE:
            raise
        return write_each([_not_storable(endings[0], error)], meter)


def in_doubt(endings: Sequence[Ending], written: Collection[tuple[int, int]]) -> list[tuple[int, str]]:
    """The replies among what was written that are not judged yet, as (dialogue id, text)."""
    return [
        (settlement.job_id, settlement.answer.messages[-1].content)
        for settlement in (ending.settlement for ending in endings)
        if settlement.answer is not None
        and settlement.answer.sentiment is None
        and settlement.answer.messages[-1].content
        and (settlement.job_id, settlement.epoch) in written
    ]


def judged(ending: Ending) -> Ending:
    """The ending with its answer's judgement, unless that is in doubt."""
    answer = ending.settlement.answer
    if answer is None or not (text := answer.messages[-1].content):
        return ending
    try:
        judgement = judge_now(text)
    except Exception:  # noqa: BLE001  # whatever a text does, it must not end the writer
        return ending
    if judgement is None:
        return ending
    sentiment, score, language = judgement
    judged = answer._replace(sentiment=sentiment, sentiment_score=score, language=language)
    return ending._replace(settlement=ending.settlement._replace(answer=judged))


def _not_storable(ending: Ending, error: Exception) -> Ending:
    settlement = ending.settlement
    failed = Settlement(
        settlement.job_id,
        settlement.epoch,
        settlement.batch_id,
        "failed",
        counted=True,
        http_status=settlement.http_status,
        input_tokens=_storable(settlement.input_tokens),
        output_tokens=_storable(settlement.output_tokens),
        cost_usd=settlement.cost_usd,
        error_code=NOT_STORABLE,
        error=f"The reply came, but the database refuses it: {reason_of(error)}",
    )
    return Ending(failed, ending.provider)


def _storable(tokens: int | None) -> int | None:
    return tokens if tokens is not None and tokens < 2**31 else None


class _Written(NamedTuple):
    """What one transaction has stored."""

    endings: Sequence[Ending]
    claims: set[tuple[int, int]]
    held: dict[str, str]
    """Provider -> reason."""
    serving: dict[str, float]
    """Provider -> seconds on hold."""


def write(
    endings: Sequence[Ending], judgements: Sequence[tuple[int, Judgement]], meter: Meter | None = None
) -> set[tuple[int, int]]:
    """Write endings and judgements in one transaction; returns (job id, epoch) of the jobs whose state it changed."""
    written = transact(lambda connection: _write(connection, endings, judgements))
    settlements = [ending.settlement for ending in written.endings]
    journal.log_settlements(settlements, written.claims)
    if meter is not None:
        meter.count(settlements, written.claims)
    for provider, reason in written.held.items():
        journal.log_hold(provider, reason)
    for provider, seconds in written.serving.items():
        journal.log_lift(provider, seconds)
    return written.claims


def _write(connection: Connection, endings: Sequence[Ending], judgements: Sequence[tuple[int, Judgement]]) -> _Written:
    endings = [_fail_if_at_fault(connection, ending) for ending in endings]
    left_over = _left_over(connection, endings)
    endings = [_without_hold(ending) if _is_own_affair(ending, left_over) else ending for ending in endings]
    serving, newly_held = _write_holds(connection, endings)  # before the jobs: batches are locked first
    endings = _uncount_while_held(connection, endings, left_over)
    claims = settle(connection, [ending.settlement for ending in endings]) if endings else set()
    if judgements:
        _write_judgements(connection, judgements)
    return _Written(endings, claims, newly_held, serving)


def _write_holds(connection: Connection, endings: Sequence[Ending]) -> tuple[dict[str, float], dict[str, str]]:
    """The providers whose hold was lifted, with its seconds, and those that are newly held with the reason."""
    answered = [
        (ending.settlement.job_id, ending.settlement.epoch)
        for ending in endings
        if ending.settlement.outcome in _ANSWERED_BY_PROVIDER
        and ending.settlement.http_status is not None
        and not ending.settlement.refused
        and ending.settlement.hold_reason is None
    ]
    serving = holds.lift(connection, answered) if answered else {}
    newly_held: dict[str, str] = {}
    wanted = {ending.provider: hold for ending in endings if (hold := _hold(ending.settlement)) is not None}
    for provider, (reason, seconds) in wanted.items():
        if holds.hold(connection, provider, reason, seconds):
            newly_held[provider] = reason
    return serving, newly_held


def _hold(settlement: Settlement) -> tuple[str, float] | None:
    """The reason and the seconds of the hold that a settlement brings, if any."""
    if settlement.outcome == "held":
        return settlement.error or "The provider serves nobody at present.", settlement.delay_seconds
    return None if settlement.hold_reason is None else (settlement.hold_reason, settlement.hold_seconds)


def _uncount_while_held(
    connection: Connection, endings: Sequence[Ending], left_over: frozenset[str]
) -> Sequence[Ending]:
    """A call that is refused while its provider is on hold is a probe that met with nothing new: it counts nothing."""
    if not any(ending.settlement.refused for ending in endings):
        return endings
    held = holds.held_providers(connection)
    return [
        ending._replace(settlement=ending.settlement._replace(outcome="held", counted=False))
        if ending.settlement.refused and ending.provider in held and not _is_own_affair(ending, left_over)
        else ending
        for ending in endings
    ]


def _left_over(connection: Connection, endings: Sequence[Ending]) -> frozenset[str]:
    """Of the batches with refused rows for which everybody would wait: those that have no other rows left."""
    refused = [ending for ending in endings if ending.settlement.refused and ending.settlement.counted]
    if not refused:
        return frozenset()
    held = holds.held_providers(connection)
    waiting = {
        (ending.settlement.batch_id, ending.provider)
        for ending in refused
        if ending.settlement.hold_reason is not None or ending.provider in held
    }
    return frozenset(batch_id for batch_id, provider in waiting if holds.is_left_over(connection, batch_id, provider))


def _is_own_affair(ending: Ending, left_over: frozenset[str]) -> bool:
    """Whether a row is refused for itself, as far as anybody can know; it then ends as its failures say."""
    settlement = ending.settlement
    return settlement.refused and settlement.counted and settlement.batch_id in left_over


def _without_hold(ending: Ending) -> Ending:
    return ending._replace(settlement=ending.settlement._replace(hold_reason=None))


def _fail_if_at_fault(connection: Connection, ending: Ending) -> Ending:
    """A row that causes holds time and again, while others are answered, is the cause itself and fails."""
    settlement = ending.settlement
    has_reason = settlement.http_status is not None and not settlement.refused
    if settlement.outcome != "held" or not has_reason or settlement.delay_seconds:
        return ending
    for_certain = settlement.http_status in _OF_THE_ACCOUNT
    if not holds.is_at_fault(connection, settlement.job_id, settlement.batch_id, speaks_of_account=for_certain):
        return ending
    return ending._replace(settlement=settlement._replace(outcome="failed", counted=True))


def _write_judgements(connection: Connection, judgements: Sequence[tuple[int, Judgement]]) -> None:
    judged = _JUDGED.table(connection).c
    rows = [(dialogue_id, each.sentiment, each.score, each.language) for dialogue_id, each in judgements]
    connection.execute(
        update(dialogues)
        .where(dialogues.c.id == judged.id)
        .values(sentiment=judged.sentiment, sentiment_score=judged.score, language=judged.language),
        _JUDGED.parameters(connection, rows),
    )
