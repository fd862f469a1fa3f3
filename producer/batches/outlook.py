"""What a batch waits for now, and when it will end, is worked out from a bounded look at the tables.

The counts are those that the database keeps; the pace is that of the rows beside those under way.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row

from tidemill.models import batches, budgets, ledger, whereabouts
from tidemill.models.json_types import JsonObject
from tidemill.models.ledger import Call, Later
from tidemill.models.routes import UPSTREAM
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.shared_limits import LearnedLimits
from tidemill.models.transitions import ERASED
from tidemill.models.whereabouts import Upstream
from tidemill.producer.batches import affording, reasons, row_life, upstream_words
from tidemill.producer.batches.progress import Progress, counted, counts
from tidemill.producer.batches.reasons import Fleet, Reason

MOST_LATER = 500
"""Rows that are due later are counted up to so many."""

_SLOWEST = 3
_WINDOWS_SECONDS = (60.0, 600.0)
_ENOUGH_ENDS = 20
_FEWEST_ENDS = 2


class Rate(NamedTuple):
    """Rows a second, and over how many seconds that was so."""

    rows_per_second: float
    over_seconds: float


class Failure(NamedTuple):
    """Rows that failed for one reason: how many, its code, the sentence of one of them, and what to do."""

    rows: int
    code: str
    example: str
    advice: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """How a batch stands, as read in one transaction."""

    batch: Row[Any]
    progress: Progress
    fleet: Fleet
    now: datetime
    sent: int
    later: Later
    slowest: list[Call]
    rate: Rate | None
    limits: LearnedLimits | None
    failures: list[Failure]
    upstream: list[Upstream]
    reasons: list[Reason]

    @property
    def is_blocked(self) -> bool:
        """Whether something keeps every row."""
        return any(each.code in _BLOCKING for each in self.reasons)

    @property
    def eta_seconds(self) -> float | None:
        """When all rows will have ended, if it goes on so; None where nobody can say."""
        if not self.progress.open:
            return 0.0
        if self.rate is None or self.is_blocked or self.progress.at_provider:
            return None
        last = (self.later.next_at - self.now).total_seconds() if self.later.next_at else 0.0
        return max(self.progress.open / self.rate.rows_per_second, last)


_BLOCKING = {"budget", "cancelled", "paused", "held", "no_worker"}
"""Reasons that keep every row."""


def load(connection: Connection, batch_id: str, limits: LearnedLimits | None) -> Outlook:
    """Read how a batch stands."""
    batch, fleet, now = (
        ledger.batch(connection, batch_id),
        Fleet(ledger.all_workers(connection), settings().embedded),
        ledger.clock(connection),
    )
    progress = counts(connection, Scope(batch_id))
    later = ledger.rows_due_later(connection, batch_id, MOST_LATER)
    outlook = Outlook(
        batch,
        progress,
        fleet,
        now,
        ledger.rows_sent(connection, batch_id),
        later,
        ledger.oldest_calls(connection, batch_id, _SLOWEST),
        rate(ledger.ages_of_ends(connection, batch_id)) if progress.open else None,
        limits,
        _failures(connection, batch_id),
        whereabouts.of_batch(connection, batch_id),
        [],
    )
    outlook.reasons.extend(_reasons(connection, outlook))
    return outlook


def rate(ages: Sequence[float]) -> Rate | None:
    """How fast rows end, of how many seconds ago they did, from the nearest to those under way on.

    Of the last minute if that says enough, else of the last ten; where all of the sample is younger, of its own time.
    None if too few have ended lately, or if they stand apart: of rows that are tried again nobody knows the neighbours.
    """
    for window in _WINDOWS_SECONDS:
        recent = [place for place, age in enumerate(ages) if age <= window]
        if len(recent) < (_ENOUGH_ENDS if window != _WINDOWS_SECONDS[-1] else _FEWEST_ENDS):
            continue
        if 2 * len(recent) <= recent[-1]:
            return None
        over = window if len(recent) < len(ages) else max(1.0, *ages)
        return Rate(len(recent) / over, over)
    return None


def _reasons(connection: Connection, outlook: Outlook) -> Iterator[Reason]:
    """What the batch waits for; the only open row speaks for itself."""
    batch, progress, now = outlook.batch, outlook.progress, outlook.now
    if batch.read_at is None and batch.state == "open":
        sentence = "Its input is not read to its end: the command that submits it reads it, or the same one again does."
        yield Reason("input", sentence)
    if progress.open == 1 and (job_id := ledger.an_open_job(connection, batch.id)) is not None:
        if (life := row_life.load(connection, job_id)) is not None:
            yield from life.reasons
        return
    if not progress.open:
        if progress.unjudged:
            yield Reason("judgement", f"{progress.unjudged:,} replies are not judged yet; a worker judges them.")
        return
    of_batch = reasons.of_batch(batch, outlook.fleet, now, affording.blocking(connection, batch.id, now))
    if batch.state == "cancelled" and progress.is_out:  # the rest of the cancel is the provider's
        missing = reasons.missing_worker(batch, outlook.fleet)
        of_batch = [Reason("no_worker", missing)] if missing else []
    yield from of_batch
    running = progress.states["running"] - progress.at_provider
    waiting = progress.states["queued"] - outlook.later.rows - outlook.sent
    if progress.at_provider:
        yield upstream_words.reason(progress.at_provider, outlook.upstream, batch.options["model"], now)
    if running:
        yield _running(running, has_workers=bool(outlook.fleet.alive(batch.provider)))
    if outlook.later.next_at is not None:
        most = "more than " if outlook.later.rows > MOST_LATER else ""
        rows = f"{most}{counted(min(outlook.later.rows, MOST_LATER), 'row')} due later"
        until = reasons.until(outlook.later.next_at, now)
        sentence = f"{rows}, after a failed call or a full limit; the next one {until}."
        yield Reason("due_later", sentence, outlook.later.next_at)
    if outlook.sent:
        yield Reason("sent", f"{counted(outlook.sent, 'row')} with the broker, waiting for a free place.")
    if waiting > 0 and not of_batch:
        yield _queued(connection, outlook, waiting)


def _running(rows: int, *, has_workers: bool) -> Reason:
    if has_workers:
        return Reason("running", f"{counted(rows, 'row')} claimed: in calls, or waiting for their turn (limits).")
    return Reason("lost_worker", f"{counted(rows, 'row')} claimed by workers that are gone; the next one takes over.")


def _queued(connection: Connection, outlook: Outlook, waiting: int) -> Reason:
    batch, alive = outlook.batch, outlook.fleet.alive(outlook.batch.provider)
    if batch.route in UPSTREAM:
        return reasons.to_pack(waiting, waits_for_files=budgets.is_waiting_for_files(connection, batch.id))
    places, free = sum(each.window for each in alive), sum(max(0, each.window - each.in_flight) for each in alive)
    urgent = ledger.urgent_batches(connection, batch)
    first = f" More urgent batches go first: {', '.join(urgent)}." if urgent else ""
    is_idle = outlook.fleet.is_embedded and not outlook.progress.states["running"]
    own = f" `tidemill watch {batch.id}` runs them, if no command does." if is_idle else ""
    return Reason(
        "queued", f"{counted(waiting, 'row')} due, waiting for a place ({places:,} places, {free:,} free).{first}{own}"
    )


# --- what to do about failures ---


def _failures(connection: Connection, batch_id: str) -> list[Failure]:
    return [
        Failure(*each, advice(each.code, batch_id, was_asked=ledger.was_ever_claimed(connection, batch_id, each.code)))
        for each in batches.failures(connection, batch_id)
    ]


_ADVICE = {
    "context_length_exceeded": "shorten these prompts, or ask a model that takes more",
    "request_too_large": "shorten these prompts, lower --max-tokens, or raise the provider's limit",
    "payload_too_large": "shorten these prompts",
    "length": "raise --max-tokens, or lower --reasoning-effort",
    "reply_too_large": "ask for less, or lower --max-tokens",
    "refused": "the model does not answer this; ask in other words",
    "content_filter": "the provider does not answer this; ask in other words",
    "model_not_found": "`tidemill models` lists the models there are",
    "schema_mismatch": "make the schema simpler, or ask another model",
    "invalid_json_schema": "correct the schema",
    "not_supported": "the server cannot do this; ask another model or server",
    "worker_lost": "look into the worker's log and memory, then `tidemill retry {batch}`",
    "internal_error": "a defect of ours; please report it",
    ERASED: "nothing: somebody wanted their words deleted; what the calls cost stays",
}
"""Error code -> what its owner can do; whatever else failed may succeed later."""

_AGAIN = "`tidemill retry {batch}` asks again, then `tidemill watch {batch}`"
_NEVER_ASKED = "it was never asked; correct the input, then run the same command again"


def advice(code: str, batch_id: str, *, was_asked: bool = True) -> str:
    """What to do about rows that failed with this code, or were refused before they were asked."""
    known = was_asked or code == ERASED  # a deleted row counts as one that was never claimed
    return (_ADVICE.get(code, _AGAIN) if known else _NEVER_ASKED).format(batch=batch_id)


# --- for scripts ---


def to_json(outlook: Outlook) -> JsonObject:
    """How a batch stands, for scripts; times are UTC."""
    batch, limits = outlook.batch, outlook.limits
    alive = outlook.fleet.alive(batch.provider)
    eta = outlook.eta_seconds
    return {
        "batch": batch.id,
        "kind": batch.kind,
        "model": batch.options["model"],
        "provider": batch.provider,
        "created_at": batch.created_at.isoformat(),
        **outlook.progress.to_json(),
        "sent": outlook.sent,
        "due_later": min(outlook.later.rows, MOST_LATER),
        "workers": len(alive),
        "in_flight": sum(each.in_flight for each in alive),
        "window": sum(each.window for each in alive),
        "rows_per_second": outlook.rate.rows_per_second if outlook.rate else None,
        "rate_over_seconds": outlook.rate.over_seconds if outlook.rate else None,
        "eta_seconds": None if eta is None else round(eta, 1),
        "limits": {"rpm": batch.options.get("rpm"), "tpm": batch.options.get("tpm")},
        "learned_limits": limits._asdict() if limits else None,
        "slowest": [
            {
                "job": each.job_id,
                "row": None if each.position is None else each.position + 1,
                "worker": each.worker_id,
                "claimed_at": each.claimed_at.isoformat(),
                "seconds": round(each.seconds, 3),
            }
            for each in outlook.slowest
        ],
        "failures": [
            {"rows": each.rows, "error_code": each.code, "example": each.example, "do": each.advice}
            for each in outlook.failures
        ],
        "upstream": [each.to_json() for each in outlook.upstream],
        "waits_for": reasons.to_json(outlook.reasons),
    }
