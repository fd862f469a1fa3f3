"""A row or a batch does not move for one of a few reasons, and each has its word, its sentence and its end.

Pure functions of what `models.ledger` reads. The words (`code`) are for scripts and stay; the sentences are for people.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row

from tidemill.models.durations import in_words
from tidemill.models.json_types import JsonObject
from tidemill.models.ledger import Worker
from tidemill.models.text import one_line
from tidemill.producer.batches.progress import counted

_ERROR_CHARACTERS = 400
_SHOWN_OF_ID = 8
"""Characters of a worker's id, as its log has them."""


class Reason(NamedTuple):
    """Why something waits; `until` is when that ends, or is tried again, where that is known."""

    code: str
    sentence: str
    until: datetime | None = None


class Fleet(NamedTuple):
    """The workers that the database knows, and whether commands run workers inside themselves."""

    workers: Sequence[Worker]
    is_embedded: bool

    def alive(self, provider: str) -> list[Worker]:
        """Those that live and call this provider."""
        return [worker for worker in self.workers if worker.is_alive and worker.provider == provider]

    def worker(self, worker_id: str | None) -> Worker | None:
        """The worker of an id, as long as the database knows it."""
        return next((worker for worker in self.workers if worker.id == worker_id), None)

    def name(self, worker_id: str | None) -> str:
        """A worker for people: its id as logs have it, and where it runs, as long as the database knows that."""
        known = self.worker(worker_id)
        where = f" ({known.host}, pid {known.pid})" if known else ""
        return f"worker {(worker_id or '')[:_SHOWN_OF_ID]}{where}"


def until(at: datetime, now: datetime) -> str:
    """A time to come: `at 22:33:10 (in 12 s)`."""
    left = (at - now).total_seconds()
    day = f"{at:%Y-%m-%d} " if at.date() != now.date() else ""
    return f"at {day}{at:%H:%M:%S} UTC (in {in_words(left)})" if left >= 0.05 else "now"


def since(at: datetime, now: datetime) -> str:
    """A time that is past: `since 22:33:10 UTC (12 s)`."""
    day = f"{at:%Y-%m-%d} " if at.date() != now.date() else ""
    return f"since {day}{at:%H:%M:%S} UTC ({in_words((now - at).total_seconds())})"


def of_batch(batch: Row[Any], fleet: Fleet, now: datetime, blocking: Reason | None = None) -> list[Reason]:
    """Why no open row of a batch is called at present; empty where rows are called, or could be.

    `blocking` is that a cap on money keeps them.
    """
    reasons = []
    if batch.state == "cancelled":
        again = f"`tidemill cancel {batch.id}` again cancels what a broken-off cancel has left."
        reasons.append(Reason("cancelled", f"The batch is cancelled, and its last open rows are not yet. {again}"))
    if batch.state == "paused":
        reasons.append(Reason("paused", f"The batch is paused; `tidemill resume {batch.id}` continues it."))
    if batch.hold_reason is not None:
        reasons.append(_hold(batch, now))
    if blocking is not None and batch.state != "cancelled":
        reasons.append(blocking)
    if batch.state != "cancelled" and (missing := missing_worker(batch, fleet)):
        reasons.append(Reason("no_worker", missing))
    return reasons


def _hold(batch: Row[Any], now: datetime) -> Reason:
    began = f"{since(batch.held_at, now)} " if batch.held_at else ""
    probed = f"{counted(batch.hold_probes, 'row')} tried in vain so far" if batch.hold_probes else "none tried so far"
    next_one = f"the next row is tried {until(batch.held_until, now)}" if batch.held_until else "a row is tried soon"
    sentence = f"{batch.provider} is on hold {began}and serves nobody; {next_one}, {probed}. {batch.hold_reason}"
    return Reason("held", one_line(sentence, 2 * _ERROR_CHARACTERS), batch.held_until)


def missing_worker(batch: Row[Any], fleet: Fleet) -> str | None:
    """What to start, if no living worker serves the batch's provider."""
    if fleet.alive(batch.provider):
        return None
    others = sorted({worker.provider or "an unknown server" for worker in fleet.workers if worker.is_alive})
    serve = f"; those that are alive serve {', '.join(others)}" if others else ""
    if fleet.is_embedded:
        return f"No command runs its rows{serve}. {_watch(batch)}"
    start = f"Start one whose OPENAI_BASE_URL names {batch.provider}" if others else "Start one"
    return f"No worker for {batch.provider} is alive{serve}. {start}: `tidemill worker`."


def _watch(batch: Row[Any]) -> str:
    return f"`tidemill watch {batch.id}` runs them, and so does the command that began it."


def of_running(call: Row[Any] | None, job: Row[Any], fleet: Fleet, now: datetime) -> Reason:
    """What a claimed row waits for: its turn or its call, or that somebody takes it from a worker that is gone."""
    who = fleet.name(job.worker_id)
    ends, worker = job.lease_until, fleet.worker(job.worker_id)
    if ends is not None and not (worker is not None and worker.is_alive):
        sentence = f"{who} has it and is not alive; another one takes the row over {until(ends, now)}, once one runs."
        return Reason("lost_worker", sentence, ends)
    age = f" {since(call.started_at, now)}" if call is not None else ""
    return Reason(
        "running", f"{who} has it{age}: its call is under way, or waits for its turn (a limit of requests or tokens)."
    )


def of_due_time(job: Row[Any], last: Row[Any] | None, now: datetime, *, has_steps: bool) -> Reason | None:
    """That a queued row is due later, and why; `last` is its last call."""
    if job.available_at <= now:
        return None
    why = "its next step is then" if has_steps else "a limit was full"
    if last is not None and last.outcome == "retried" and last.epoch == job.epoch:
        why = f"its last call failed ({last.error_code or last.http_status or 'no reply'})"
    return Reason("due_later", f"It is due {until(job.available_at, now)}: {why}.", job.available_at)


class Place(NamedTuple):
    """What is before a queued row: rows of its batch, whether there are more of them, and more urgent batches."""

    rows: int
    is_more: bool
    urgent: Sequence[str]


def to_pack(rows: int | None, *, waits_for_files: bool) -> Reason:
    """What due rows wait for that go out as lines of an upstream batch; None: it is about one row."""
    due = "It is due" if rows is None else f"{counted(rows, 'row')} due"
    for_what = "to be packed into the next batch for the provider"
    if waits_for_files:
        waits = "it waits" if rows is None else "they wait"
        for_what = f"but near a cap on money {waits} until rows at the provider give some of it back"
    return Reason("to_pack", f"{due}, {for_what}.")


def of_place(job: Row[Any], batch: Row[Any], fleet: Fleet, place: Place, now: datetime) -> Reason:
    """That a queued row is due, and what is before it."""
    alive = fleet.alive(batch.provider)
    free = sum(max(0, worker.window - worker.in_flight) for worker in alive)
    places = f"{counted(sum(worker.window for worker in alive), 'place')}, {free:,} free"
    first = f" More urgent batches go first: {', '.join(place.urgent)}." if place.urgent else ""
    if job.sent_at is not None:
        return Reason("sent", f"It is with the broker {since(job.sent_at, now)}, for a free place ({places}).{first}")
    before = f"{'more than ' if place.is_more else ''}{counted(place.rows, 'row')}"
    own = f" Only a command that waits for this batch takes them: {_watch(batch)}" if fleet.is_embedded else ""
    return Reason("queued", f"It is due; {before} of its batch before it ({places}).{first}{own}")


def to_json(waits: Sequence[Reason]) -> list[JsonObject]:
    """Reasons for scripts; times are UTC."""
    return [
        {"code": each.code, "says": each.sentence, "until": each.until.isoformat() if each.until else None}
        for each in waits
    ]
