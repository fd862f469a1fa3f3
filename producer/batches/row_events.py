"""The whole life of one row is told from what the tables keep: how it came, each of its calls, and how it ended.

What they do not keep is said and not guessed: when a row was stored, once it was called; and what a claim came to that
led to no call.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Row

from tidemill.models.cost import format_tokens, format_usd
from tidemill.models.job_requests import last_words
from tidemill.models.json_types import JsonObject
from tidemill.models.routes import ROUTES
from tidemill.models.tables import OPEN_STATES
from tidemill.models.text import one_line
from tidemill.models.transitions import ERASED
from tidemill.producer.batches import reasons
from tidemill.producer.batches.row_life import Life, status_of

_WORTH_SAYING_SECONDS = 0.5
_ERROR_CHARACTERS = 200
_PASSING_ERROR_CHARACTERS = 120
_PROMPT_CHARACTERS = 200


class Event(NamedTuple):
    """Something that happened to a row; `at` is None where the tables do not say when."""

    name: str
    sentence: str
    at: datetime | None = None
    facts: JsonObject = {}  # noqa: RUF012  # nobody changes it


def events(life: Life) -> list[Event]:
    """The life of a row in order. Only what came too late stands where it came: others had the row by then."""
    timed: list[tuple[datetime, Event]] = []
    latest: datetime = life.batch.created_at
    for each in _events(life):
        is_late = each.name == "stale"
        if each.at is not None and not is_late:
            latest = max(latest, each.at)
        timed.append((each.at if each.at is not None and is_late else latest, each))
    return [each for _, each in sorted(timed, key=itemgetter(0))]


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
    # A claim leaves the time, all else sets it anew.
    is_fresh = job.epoch == (job.state == "running") and job.error_code != ERASED
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
    if (upstream := life.upstream.get(call.worker_id)) is not None:
        facts |= {"upstream": upstream.id, "remote_id": upstream.remote_id}
        name = f" ({upstream.remote_id})" if upstream.remote_id else ""
        sentence = f"packed as a line of upstream batch {upstream.id}{name}, by {ROUTES[upstream.route].place}"
        yield Event("packed", sentence, call.started_at, facts)
    else:
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
    "stale": "an earlier call came too late: the row had been taken from its worker; only its cost counts",
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
        parts.append(one_line(": ".join(each for each in (call.error_code, call.error) if each), most))
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
    if job.error_code == ERASED:
        return Event("deleted", f"emptied, because {job.error}", None)
    if job.epoch == 0:
        return Event("refused", f"refused when it was stored, and never asked{why}", job.finished_at)
    return Event("ended", f"ended as {job.state}{why}", job.finished_at)


def _fine_tune(tune: Row[Any]) -> Event:
    note = f"; trouble: {one_line(tune.note, _ERROR_CHARACTERS)}" if tune.note else ""
    facts = {"status": tune.status, "remote_id": tune.remote_id, "model": tune.model, "note": tune.note}
    return Event("fine_tune", f"{status_of(tune)}{note}", tune.seen_at, facts)


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
        "waits_for": reasons.to_json(life.reasons),
    }


def _plain(facts: JsonObject) -> JsonObject:
    return {name: _time(fact) if isinstance(fact, datetime) else fact for name, fact in facts.items()}


def _time(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None
