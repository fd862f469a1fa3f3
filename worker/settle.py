"""One writer per process turns outcomes into rows, in bulk, and never lets a paid answer go.

Outcomes come from the loop, judgements from the child that judges; both are written by one thread, up to 100 rows or
100 ms at a time. When the database does not answer, what is waiting waits; it is written once it does.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from sqlalchemy import Connection, update
from sqlalchemy.exc import DBAPIError

from tidemill.models import holds
from tidemill.models.bulk import Rows
from tidemill.models.database import writing
from tidemill.models.errors import DatabaseError
from tidemill.models.tables import dialogues
from tidemill.models.text import one_line
from tidemill.models.transitions import Settlement, settle
from tidemill.worker.judge import Judge
from tidemill.worker.sentiment import Judgement

log = logging.getLogger(__name__)

BULK_ROWS = 100
BULK_SECONDS = 0.1
_RETRY_SECONDS = 0.5
NOT_STORABLE = "not_storable"

_JUDGED = Rows(id="int", sentiment="text", score="float", language="text")
_ANSWERED_BY_PROVIDER = ("succeeded", "failed", "retried")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended, and whose provider it was."""

    settlement: Settlement
    provider: str


class Settler:
    """The writer of one worker process.

    Args:
        judge: judges the replies once they are stored.
        hurry: says that nothing else is under way, so that the last outcome need not wait for company.
        settled: is told what has been written.
    """

    def __init__(
        self, judge: Judge, hurry: Callable[[], bool], settled: Callable[[Iterable[Settlement]], None]
    ) -> None:
        self._judge = judge
        self._hurry = hurry
        self._settled = settled
        self._give_up_at = float("inf")
        self._outcomes: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._judgements: queue.SimpleQueue[list[tuple[int, Judgement]]] = queue.SimpleQueue()
        self._judging = 0
        self._judging_lock = threading.Lock()  # replies come from the writer and from maintenance
        self.trouble: str | None = None
        """Why outcomes cannot be written at present, in a sentence; None when they can."""
        judge.submit([])  # starts it, so that its models are loaded by the time of the first reply
        self._thread = threading.Thread(target=self._run, name="settler", daemon=True)
        self._thread.start()

    def put(self, outcome: Outcome) -> None:
        """Hand over an outcome; returns at once."""
        self._outcomes.put(outcome)

    def judge(self, texts: list[tuple[int, str]]) -> None:
        """Have replies judged, (dialogue id, text) each; the judgements are written as they come."""
        with self._judging_lock:
            self._judging += 1
        self._judge.submit(texts).add_done_callback(self._judged)

    @property
    def is_judging(self) -> bool:
        """Whether replies are being judged."""
        return self._judging > 0

    def close(self, patience_seconds: float) -> None:
        """Write all that was handed over, judgements included, then stop.

        A database that does not answer is waited for so long; what is not written then runs again after its lease.
        """
        self._give_up_at = time.monotonic() + patience_seconds
        self._outcomes.put(None)
        self._thread.join()
        self._judge.close()

    def _judged(self, future: Future[list[tuple[int, Judgement]]]) -> None:
        judged = [] if future.cancelled() or future.exception() else future.result()
        self._judgements.put(judged)

    def _run(self) -> None:
        open_for_more = True
        while open_for_more or self._judging:
            outcomes, open_for_more = self._collect(open_for_more)
            judgements = self._collect_judgements()
            if outcomes or judgements:
                self._write_until_stored(outcomes, judgements)

    def _collect(self, open_for_more: bool) -> tuple[list[Outcome], bool]:
        outcomes: list[Outcome] = []
        deadline = time.monotonic() + BULK_SECONDS
        while len(outcomes) < BULK_ROWS and (left := deadline - time.monotonic()) > 0:
            if outcomes and self._hurry() and self._outcomes.empty():
                break
            try:
                item = self._outcomes.get(timeout=left)
            except queue.Empty:
                break
            if item is None:
                return outcomes, False
            outcomes.append(item)
        return outcomes, open_for_more

    def _collect_judgements(self) -> list[tuple[int, Judgement]]:
        judgements: list[tuple[int, Judgement]] = []
        while not self._judgements.empty():
            judgements += self._judgements.get()
            with self._judging_lock:
                self._judging -= 1
        return judgements

    def _write_until_stored(self, outcomes: list[Outcome], judgements: list[tuple[int, Judgement]]) -> None:
        waiting = _RETRY_SECONDS
        while True:
            try:
                written = write(outcomes, judgements)
                break
            except DatabaseError as error:
                # Writing the same rows twice is harmless: epoch, ledger and primary keys see to that.
                self.trouble = str(error)
                if time.monotonic() > self._give_up_at:
                    log.error("%d outcomes are not stored, their jobs will run again: %s", len(outcomes), error)
                    return
                log.warning("%d outcomes wait: %s", len(outcomes), error)
                time.sleep(waiting)
                waiting = min(waiting * 2, 10.0)
            except Exception as error:  # noqa: BLE001  # whoever refuses it, some row is to blame
                self._write_apart(outcomes, judgements, error)
                return
        self.trouble = None
        self._settled(outcome.settlement for outcome in outcomes)
        answers = [
            (outcome.settlement.job_id, outcome.settlement.answer.messages[-1].content)
            for outcome in outcomes
            if outcome.settlement.answer is not None
            and (outcome.settlement.job_id, outcome.settlement.epoch) in written
        ]
        if answers:
            self.judge(answers)

    def _write_apart(self, outcomes: list[Outcome], judgements: list[tuple[int, Judgement]], error: Exception) -> None:
        """One row that the database refuses must not keep the others from being stored: halve until it stands alone."""
        if outcomes and judgements:
            self._write_until_stored(outcomes, [])
            self._write_until_stored([], judgements)
        elif len(outcomes) > 1:
            middle = len(outcomes) // 2
            self._write_until_stored(outcomes[:middle], [])
            self._write_until_stored(outcomes[middle:], [])
        elif outcomes and outcomes[0].settlement.error_code != NOT_STORABLE:
            log.error("job %d cannot be stored: %s", outcomes[0].settlement.job_id, _reason(error))
            self._write_until_stored([_refused(outcomes[0], error)], [])
        else:
            log.error("given up storing %d outcomes, %d judgements: %s", len(outcomes), len(judgements), _reason(error))
            self._settled(outcome.settlement for outcome in outcomes)  # their leases end


def _reason(error: Exception) -> str:
    """What refused a row says, without the rows."""
    return one_line(str(error.orig if isinstance(error, DBAPIError) else error), 200)


def _refused(outcome: Outcome, error: Exception) -> Outcome:
    settlement = outcome.settlement
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
        error=f"The reply came, but the database refuses it: {_reason(error)}",
    )
    return Outcome(failed, outcome.provider)


def _storable(tokens: int | None) -> int | None:
    return tokens if tokens is not None and tokens < 2**31 else None


def write(outcomes: Sequence[Outcome], judgements: Sequence[tuple[int, Judgement]]) -> set[tuple[int, int]]:
    """Write outcomes and judgements in one transaction; returns (job id, epoch) of what was still ours to settle."""
    with writing() as connection:
        outcomes = [_own_fault(connection, outcome) for outcome in outcomes]
        written = settle(connection, [outcome.settlement for outcome in outcomes]) if outcomes else set()
        answered = [
            (outcome.settlement.job_id, outcome.settlement.epoch)
            for outcome in outcomes
            if outcome.settlement.outcome in _ANSWERED_BY_PROVIDER and outcome.settlement.http_status is not None
        ]
        if answered:
            holds.lift(connection, answered)
        held = {outcome.provider: outcome.settlement for outcome in outcomes if outcome.settlement.outcome == "held"}
        for provider, each in held.items():
            reason = each.error or "The provider serves nobody at present."
            holds.hold(connection, provider, reason, each.delay_seconds)
        if judgements:
            _write_judgements(connection, judgements)
    return written


def _own_fault(connection: Connection, outcome: Outcome) -> Outcome:
    """A row that the provider refuses time and again, while it answers others, is refused for itself, and fails."""
    settlement = outcome.settlement
    if settlement.outcome != "held" or settlement.http_status is None or settlement.delay_seconds:
        return outcome
    if not holds.is_refused_alone(connection, settlement.job_id, settlement.batch_id):
        return outcome
    return replace(outcome, settlement=replace(settlement, outcome="failed", counted=True))


def _write_judgements(connection: Connection, judgements: Sequence[tuple[int, Judgement]]) -> None:
    given = _JUDGED.table(connection).c
    rows = [(dialogue_id, each.sentiment, each.score, each.language) for dialogue_id, each in judgements]
    connection.execute(
        update(dialogues)
        .where(dialogues.c.id == given.id)
        .values(sentiment=given.sentiment, sentiment_score=given.score, language=given.language),
        _JUDGED.parameters(connection, rows),
    )
