"""The whole life of one row is put together from what the tables keep: its calls, its answer, and what it waits for.

What they do not keep is said and not guessed: when a row was stored, once it was called; and what a claim came to that
led to no call.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row

from tidemill.models import ledger
from tidemill.models.cost import format_tokens, format_usd
from tidemill.models.job_requests import last_words
from tidemill.models.json_types import JsonObject
from tidemill.models.ledger import Other
from tidemill.models.settings import settings
from tidemill.models.tables import OPEN_STATES
from tidemill.models.text import one_line
from tidemill.models.transitions import ALONE_AFTER
from tidemill.producer.batches import reasons
from tidemill.producer.batches.reasons import Fleet, Place, Reason

MOST_AHEAD = 500
"""Rows before a queued one are counted up to so many."""

_WORTH_SAYING_SECONDS = 0.5
_ERROR_CHARACTERS = 400
_LAST_SECOND = 2**33
"""Of the times that a server may name, in seconds since 1970: more would be milliseconds."""
_PASSING_ERROR_CHARACTERS = 160
_PROMPT_CHARACTERS = 200


class Event(NamedTuple):
    """Something that happened to a row; `at` is None where the tables do not say when."""

    name: str
    sentence: str
    at: datetime | None = None
    facts: JsonObject = {}  # noqa: RUF012  # nobody changes it


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
    reasons: list[Reason] = field(default_factory=list)


def load(connection: Connection, job_id: int) -> Life | None:
    """Read what there is of a job; None if there is no such job."""
    job = ledger.job(connection, job_id) if 0 < job_id <= ledger.LAST_ID else None
    if job is None:
        return None
    life = Life(
        job,
        ledger.batch(connection, job.batch_id),
        ledger.attempts_of(connection, job_id),
        ledger.answer_of(connection, job_id),
        ledger.twin_of(connection, job),
        ledger.fine_tune_of(connection, job_id),
        Fleet(ledger.all_workers(connection), settings().embedded),
        ledger.clock(connection),
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
        yield Reason("provider", f"Training goes on: {_status(life.fine_tune)}{end}.", expected)
    if job.state == "running":
        yield reasons.of_running(life.calls[-1] if life.calls else None, job, life.fleet, now)
    elif job.state == "queued":
        of_batch = reasons.of_batch(batch, life.fleet, now)
        yield from of_batch
        own = list(_own_reasons(connection, life))
        yield from own
        if not (of_batch or own):
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


# --- what has happened ---


def events(life: Life) -> list[Event]:
    """The life of a row, in order."""
    return list(_events(life))


def _events(life: Life) -> Iterator[Event]:
    job = life.job
    yield _submission(life)
    before: Row[Any] | None = None
    for call in life.calls:
        yield from _between(life, before, call.epoch - 1)
        yield from _call(life, call)
        before = call
    is_own_end = before is not None and before.epoch in (job.epoch, job.epoch - 2) and before.outcome == job.state
    if not is_own_end and (before is None or before.outcome is not None):
        yield from _between(life, before, job.epoch - _changes_of_end(life))
        if job.state not in OPEN_STATES:
            yield _end(life)
    if life.fine_tune is not None:
        yield _fine_tune(life.fine_tune)
    if life.answer is not None:
        yield from _judgement(life.answer)


def _submission(life: Life) -> Event:
    job, batch = life.job, life.batch
    is_fresh = job.epoch == (job.state == "running")  # a claim leaves the time, all else sets it anew
    when = "" if is_fresh else f", which began at {batch.created_at:%H:%M:%S} UTC; when the row was stored is not kept"
    which = f"row {job.position + 1}" if job.position is not None else "a row that has left the input since"
    sentence = f"submitted as {which}, in submission {job.submission} of the batch{when}"
    facts = {"submission": job.submission, "batch_created_at": batch.created_at}
    stored_at = job.available_at if is_fresh else None
    return Event("submitted", sentence, stored_at, facts)


def _between(life: Life, before: Row[Any] | None, epoch: int) -> Iterator[Event]:
    """What changed hands since a call, up to this epoch, without leaving a call in the ledger."""
    missing = epoch - (before.epoch if before is not None else 0)
    if before is not None and before.outcome in ("lost", "stale"):
        missing -= 1  # taken back
    elif before is not None and before.outcome in ("failed", "succeeded") and missing > 0:
        missing -= 1
        yield Event("revived", "queued again, by `tidemill retry` or the same command")
    if missing <= 0:
        return
    if life.fine_tune is not None:
        sentence = f"{missing} steps (files, the provider's job, looks at it), which are no calls of the ledger"
        yield Event("stepped", sentence, facts={"times": missing})
        return
    times = "once" if missing == 1 else f"{missing} times"
    why = "a limit was full, a pause, a hold, a stopping worker"
    sentence = f"claimed {times} without a call ({why}), or cancelled and tried again by hand"
    yield Event("uncalled", sentence, facts={"times": missing})


def _call(life: Life, call: Row[Any]) -> Iterator[Event]:
    """A line of the ledger: its claim, its call and what came of it."""
    known = life.fleet.worker(call.worker_id)
    place = {"host": known.host if known else None, "pid": known.pid if known else None}
    facts = {"epoch": call.epoch, "worker": call.worker_id, **place}
    yield Event("claimed", f"claimed by {life.fleet.name(call.worker_id)}", call.started_at, facts)
    if call.outcome is None:
        return
    if call.seconds is not None:
        whole = (call.ended_at - call.started_at).total_seconds()
        waited = max(0.0, whole - call.seconds)
        sent_at = call.ended_at - timedelta(seconds=min(call.seconds, whole))
        turn = "for its turn (a limit of requests or tokens, or the window), or to be stored"
        after = f"; it waited {waited:.1f} s {turn}" if waited >= _WORTH_SAYING_SECONDS else ""
        facts = {"epoch": call.epoch, "waited_seconds": round(waited, 3)}
        yield Event("called", f"called{after}", sent_at, facts)
    yield Event(call.outcome, f"{_OUTCOMES[call.outcome]}{_details(call)}", call.ended_at, _facts(call))


_OUTCOMES = {
    "succeeded": "answered",
    "retried": "failed, to be tried again",
    "held": "not served, which put the provider on hold and counts as no attempt",
    "failed": "failed for good",
    "lost": "lost: its worker stopped or vanished, or the row was cancelled; whether the call was billed is unknown",
    "stale": "came too late: the row had been taken from its worker; the cost counts, the answer does not",
}
"""Outcome of a call -> what that means."""


def _details(call: Row[Any]) -> str:
    parts = []
    if call.seconds is not None:
        parts.append(f"{call.http_status or 'no reply'} after {call.seconds:.2f} s")
    if call.input_tokens is not None:
        tokens = f"{format_tokens(call.input_tokens)} + {format_tokens(call.output_tokens or 0)} tokens"
        parts.append(f"{tokens}, {format_usd(call.cost_usd)}")
    if call.request_id:
        parts.append(call.request_id)
    if call.error_code or call.error:
        most = _ERROR_CHARACTERS if call.outcome == "failed" else _PASSING_ERROR_CHARACTERS
        parts.append(one_line(f"{call.error_code}: {call.error or ''}", most))
    return f": {' · '.join(parts)}" if parts else ""


_FACTS = ("http_status", "seconds", "request_id", "input_tokens", "output_tokens", "cost_usd", "error_code", "error")


def _facts(call: Row[Any]) -> JsonObject:
    return {"epoch": call.epoch, "outcome": call.outcome, **{name: getattr(call, name) for name in _FACTS}}


def _changes_of_end(life: Life) -> int:
    """How often a row changed hands because it ended without a call."""
    return int(life.job.state == "cancelled" or _is_shared(life))


def _is_shared(life: Life) -> bool:
    ended = life.job.state in ("succeeded", "failed")
    return ended and life.twin is not None and not any(call.outcome == life.job.state for call in life.calls)


def _end(life: Life) -> Event:
    """How a row ended that no call of its own has ended."""
    job = life.job
    why = f": {one_line(f'{job.error_code}: {job.error}', _ERROR_CHARACTERS)}" if job.error_code else ""
    if job.state == "cancelled":
        return Event("cancelled", "cancelled", job.finished_at)
    if _is_shared(life) and life.twin is not None:
        sentence = f"took over how job {life.twin.id} ended, which asks the same, at no cost{why}"
        return Event("shared", sentence, job.finished_at, {"twin": life.twin.id})
    if job.epoch == 0:
        return Event("refused", f"refused when it was stored, and never asked{why}", job.finished_at)
    return Event("ended", f"ended as {job.state}{why}", job.finished_at)


def _fine_tune(tune: Row[Any]) -> Event:
    note = f"; trouble: {one_line(tune.note, _ERROR_CHARACTERS)}" if tune.note else ""
    facts = {"status": tune.status, "remote_id": tune.remote_id, "model": tune.model, "note": tune.note}
    return Event("fine_tune", f"{_status(tune)}{note}", tune.seen_at, facts)


def _status(tune: Row[Any]) -> str:
    """What the provider says of a fine-tune, and what somebody wants of it."""
    name = f" of {tune.remote_id}" if tune.remote_id else ""
    wish = f", and it is to {tune.wanted}" if tune.wanted else ""
    said = f'"{one_line(tune.status, 60)}"' if tune.status else "nothing yet"
    return f"the provider says {said}{name}{wish}"


def _expected_end(tune: Row[Any]) -> datetime | None:
    """When the provider expects a fine-tune to end, as OpenAI's `estimated_finish` says it; None if it does not."""
    expected = (tune.remote or {}).get("estimated_finish")
    if not isinstance(expected, int | float) or not 0 < expected < _LAST_SECOND:
        return None
    return datetime.fromtimestamp(expected, UTC)


def _judgement(answer: Row[Any]) -> Iterator[Event]:
    if answer.sentiment is None:
        return
    score = "" if answer.sentiment_score is None else f" ({answer.sentiment_score:+.2f})"
    facts = {"sentiment": answer.sentiment, "score": answer.sentiment_score, "language": answer.language}
    yield Event("judged", f"judged {answer.sentiment}{score}", None, facts)


# --- for scripts ---


def asked(life: Life, most: int = _PROMPT_CHARACTERS) -> str:
    """What the row asks, as one shortened line of so many characters."""
    return one_line(last_words(life.job.request), most)


def dialogue_of(life: Life) -> int | None:
    """The dialogue that the row's answer is in, or that it goes on."""
    if life.answer is not None:
        return int(life.answer.root_id or life.answer.id)
    return None if life.job.dialogue_id is None else int(life.job.dialogue_id)


def to_json(life: Life) -> JsonObject:
    """A row's life for scripts; times are UTC."""
    job, batch, answer = life.job, life.batch, life.answer
    own = ("state", "epoch", "attempts", "failures", "losses", "input_tokens", "output_tokens", "cost_usd")
    return {
        "job": job.id,
        "batch": batch.id,
        "row": None if job.position is None else job.position + 1,
        "custom_id": job.custom_id,
        "key": job.key,
        "kind": batch.kind,
        "model": batch.options["model"],
        "provider": batch.provider,
        "prompt": asked(life),
        **{name: getattr(job, name) for name in own},
        "error_code": job.error_code,
        "error": job.error,
        "dialogue": dialogue_of(life),
        "finish_reason": answer.finish_reason if answer is not None else None,
        "finished_at": _time(job.finished_at),
        "events": [
            {"event": each.name, "at": _time(each.at), "says": each.sentence, **_plain(each.facts)}
            for each in events(life)
        ],
        "waits_for": reasons_json(life.reasons),
    }


def reasons_json(waits: Sequence[Reason]) -> list[JsonObject]:
    """Reasons for scripts."""
    return [{"code": each.code, "says": each.sentence, "until": _time(each.until)} for each in waits]


def _plain(facts: JsonObject) -> JsonObject:
    return {name: _time(fact) if isinstance(fact, datetime) else fact for name, fact in facts.items()}


def _time(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None
