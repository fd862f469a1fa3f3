"""All that the tables have of one row is read at one moment, and says what the row waits for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row

from tidemill.models import budgets, ledger, whereabouts
from tidemill.models.claims import ALONE_AFTER
from tidemill.models.ledger import Other
from tidemill.models.routes import UPSTREAM
from tidemill.models.settings import settings
from tidemill.models.tables import OPEN_STATES
from tidemill.models.text import one_line
from tidemill.models.whereabouts import Upstream
from tidemill.producer.batches import affording, reasons, upstream_words
from tidemill.producer.batches.reasons import Fleet, Place, Reason

MOST_AHEAD = 500
"""Rows before a queued one are counted up to so many."""

_LAST_SECOND = 2**33
"""Of the times that a server may name, in seconds since 1970: more would be milliseconds."""


@dataclass(frozen=True, slots=True)
class Life:
    """All that the tables have of one row, read in one transaction."""

    job: Row[Any]
    batch: Row[Any]
    calls: Sequence[Row[Any]]
    answer: Row[Any] | None
    twin: Other | None
    fine_tune: Row[Any] | None
    fleet: Fleet
    now: datetime
    upstream: dict[str, Upstream]
    """Upstream batches of which it is or was a line, by the name under which they own it."""
    reasons: list[Reason] = field(default_factory=list)


def load(connection: Connection, job_id: int) -> Life | None:
    """Read what there is of a job; None if there is no such job."""
    job = ledger.job(connection, job_id) if 0 < job_id <= ledger.LAST_ID else None
    if job is None:
        return None
    calls = ledger.attempts_of(connection, job_id)
    life = Life(
        job,
        ledger.batch(connection, job.batch_id),
        calls,
        ledger.answer_of(connection, job_id),
        ledger.twin_of(connection, job),
        ledger.fine_tune_of(connection, job_id),
        Fleet(ledger.all_workers(connection), settings().embedded),
        ledger.clock(connection),
        whereabouts.of_owners(connection, {call.worker_id for call in calls}),
    )
    life.reasons.extend(_reasons(connection, life))
    return life


# --- what it waits for ---


def _reasons(connection: Connection, life: Life) -> Iterator[Reason]:
    job, batch, now = life.job, life.batch, life.now
    for step in ledger.doubted_steps(connection, job.id) if life.fine_tune is not None else ():
        yield Reason("doubt", f"Whether the provider has made its {step} is unknown; the next step looks for it there.")
    if life.fine_tune is not None and job.state in OPEN_STATES:
        expected = _expected_end(life.fine_tune)
        end = f"; it expects to have trained {reasons.until(expected, now)}" if expected else ""
        yield Reason("provider", f"Training goes on: {status_of(life.fine_tune)}{end}.", expected)
    if job.state == "running" and job.worker_id in life.upstream:
        yield upstream_words.reason(None, [life.upstream[job.worker_id]], batch.options["model"], now)
    elif job.state == "running":
        yield reasons.of_running(life.calls[-1] if life.calls else None, job, life.fleet, now)
    elif job.state == "queued":
        of_batch = reasons.of_batch(batch, life.fleet, now, affording.blocking(connection, batch.id, now))
        yield from of_batch
        own = list(_own_reasons(connection, life))
        yield from own
        if not (of_batch or own) and batch.route in UPSTREAM:
            yield reasons.to_pack(None, waits_for_files=budgets.is_waiting_for_files(connection, batch.id))
        elif not (of_batch or own):
            ahead, urgent = ledger.rows_ahead(connection, job, MOST_AHEAD), ledger.urgent_batches(connection, batch)
            place = Place(min(ahead, MOST_AHEAD), ahead > MOST_AHEAD, urgent)
            yield reasons.of_place(job, batch, life.fleet, place, now)
    elif life.answer is not None and life.answer.sentiment is None:
        yield Reason("judgement", "Its reply is not judged yet; a worker judges what was left within a minute.")


def _own_reasons(connection: Connection, life: Life) -> Iterator[Reason]:
    """Why this queued row in particular is not called."""
    job = life.job
    last, has_steps = life.calls[-1] if life.calls else None, life.fine_tune is not None
    if (due := reasons.of_due_time(job, last, life.now, has_steps=has_steps)) is not None:
        yield due
    if (turn := ledger.turn_before(connection, job)) is not None:
        yield Reason(
            "turn", f"It goes on dialogue {job.dialogue_id}, and job {turn.id}, an earlier turn, is {turn.state}."
        )
    if life.twin is not None:
        ends = "is not judged yet" if life.twin.state == "succeeded" else f"is {life.twin.state}"
        yield Reason("twin", f"Job {life.twin.id} asks the same, and {ends}; this row takes over how it ends.")
    if job.losses >= ALONE_AFTER:
        lost = f"{job.losses} workers vanished while they ran it"
        yield Reason("alone", f"{lost}, so that it waits for a worker process that has nothing else to do.")


def status_of(tune: Row[Any]) -> str:
    """What the provider says of a fine-tune, and what somebody wants of it."""
    name = f" of {tune.remote_id}" if tune.remote_id else ""
    wish = f", and it is to {tune.wanted}" if tune.wanted else ""
    status = f'"{one_line(tune.status, 60)}"' if tune.status else "nothing yet"
    return f"the provider says {status}{name}{wish}"


def _expected_end(tune: Row[Any]) -> datetime | None:
    """When the provider expects a fine-tune to end, as OpenAI's `estimated_finish` says it; None if it does not."""
    expected = (tune.remote or {}).get("estimated_finish")
    if not isinstance(expected, int | float) or not 0 < expected < _LAST_SECOND:
        return None
    return datetime.fromtimestamp(expected, UTC)
