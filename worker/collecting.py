"""What an upstream batch answered is read line by line, and each line is judged and stored like a live call's reply.

Reading the same files again gives the same result: a line whose attempt has ended counts no more. So a crash at any
line costs nothing but the reading.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tidemill.models import cost, news, upstream
from tidemill.models.claims import Claimed
from tidemill.models.database import reading, transact
from tidemill.models.options import Options
from tidemill.models.provider import CallError, Reply
from tidemill.models.settling import Settlement
from tidemill.models.upstream import UpstreamBatch
from tidemill.worker import settlements
from tidemill.worker.meter import Meter
from tidemill.worker.questions import Question, build
from tidemill.worker.schema_check import checker
from tidemill.worker.settle import Ending, in_doubt, judged, write_each
from tidemill.worker.upstream_lines import Line, read_line, reply_of

BULK_LINES = 200
BULK_BYTES = 4_000_000
"""What is read at once: with probabilities of each token a line has megabytes."""


class Answered(NamedTuple):
    """A member's reply that may still have to match a schema."""

    job: Claimed
    question: Question
    reply: Reply


@dataclass(slots=True)
class Collector:
    """Stores the lines of one upstream batch.

    Args:
        batch: whose lines they are.
        options: those of its rows.
        judge: has replies judged that are in doubt, as (dialogue id, text).
        meter: counts what is stored.
    """

    batch: UpstreamBatch
    options: Options
    judge: Callable[[list[tuple[int, str]]], None]
    meter: Meter

    async def collect(self, path: Path) -> int:
        """Store all that is in a file; returns how many lines it has. Raises DatabaseError."""
        cost.load_prices()
        lines = 0
        with path.open("rb") as file:
            while bulk := await asyncio.to_thread(next_lines, file.__iter__()):
                lines += len(bulk)
                await self._store(bulk)
        return lines

    async def _store(self, bulk: list[bytes]) -> None:
        settled, answered = await asyncio.to_thread(self._read, bulk)
        for each in answered:
            text = settlements.text_to_check(each.question, each.reply)
            complaint = None if text is None else await checker().complaint(each.question.schema or {}, text)
            usage = settlements.usage_of(each.question, each.reply)
            settlement = settlements.of_reply(*each, usage, 0.0, complaint=complaint, route=self.batch.route)
            settled.append(settlement)
        if settled:
            await asyncio.to_thread(self._write, settled)

    def _read(self, bulk: list[bytes]) -> tuple[list[Settlement], list[Answered]]:
        """The lines of our own that are not stored yet: how they ended, or what they answer."""
        own = {line.claim: line for text in reversed(bulk) if (line := read_line(text)) is not None}
        with reading() as connection:
            jobs = upstream.asked(connection, self.batch, own.keys()) if own else []
        settled, answered, unasked = list[Settlement](), list[Answered](), list[tuple[int, int]]()
        for job in jobs:
            line = own[job.id, job.epoch]
            if not line.was_run:
                unasked.append(line.claim)
                continue
            result = self._result(job, line)
            if isinstance(result, Answered):
                answered.append(result)
            else:
                settled.append(result)
        if unasked:
            transact(partial(upstream.give_back, batch=self.batch, claims=unasked))
        return settled, answered

    def _result(self, job: Claimed, line: Line) -> Answered | Settlement:
        try:
            question = build(self.options, job.request, history=job.history)
            return Answered(job, question, reply_of(line, question))
        except CallError as error:
            verdict = settlements.verdict_on(error, job)
            settlement = settlements.of_error(job, error, verdict, 0.0, self.batch.model, route=self.batch.route)
            # Each line costs hours: one that fails again and again comes to an end, whatever it fails of.
            return settlement._replace(counted=settlement.counted or verdict.action == "retry")
        except Exception as error:  # noqa: BLE001  # a defect of ours must cost one row, not fifty thousand
            sentence = f"tidemill itself failed on this row's reply ({type(error).__name__}); please report it."
            return settlements.of_defect(job, "internal_error", sentence)

    def _write(self, settled: list[Settlement]) -> None:
        # How long the call itself took nobody has said.
        endings = [judged(Ending(each._replace(seconds=None), self.batch.provider)) for each in settled]
        written = write_each(endings, self.meter)
        news.tell()
        if doubtful := in_doubt(endings, written):
            with suppress(RuntimeError):  # this worker stops, and another one's maintenance finds them
                self.judge(doubtful)


def next_lines(file: Iterator[bytes]) -> list[bytes]:
    """The next lines that say anything; one that breaks off is not there yet."""
    bulk, size = list[bytes](), 0
    for text in file:
        if text.strip() and (text.endswith(b"\n") or read_line(text) is not None):
            bulk.append(text)
            size += len(text)
        if len(bulk) == BULK_LINES or size >= BULK_BYTES:
            break
    return bulk
