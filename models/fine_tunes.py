"""What a train job has at the provider is written down before it is made, and as it goes on.

Every creation is intended first: its token is committed, then goes out in the file's name or in the job's metadata. So
whatever dies in between, the next run looks for the token and adopts what it finds. All functions work on a connection
in the caller's transaction; those that write for a job do so only while its worker owns it.
"""

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, delete, func, select, update

from tidemill.models import holds
from tidemill.models.bulk import insert_for
from tidemill.models.clock import now, seconds_since
from tidemill.models.metrics import Point
from tidemill.models.tables import (
    ENDED_UNWELL,
    TRAINED,
    datasets,
    fine_tune_checkpoints,
    fine_tune_events,
    fine_tunes,
    jobs,
    remote_ops,
)
from tidemill.models.text import encode, one_line
from tidemill.models.transitions import Claimed, progressed

Step = Literal["training", "validation", "job"]


_MILLISECONDS = 1e11
OWN_EVENT = "tidemill-"
"""How the ids of events begin that are not the provider's."""


class LostError(Exception):
    """The job is no longer this worker's: whoever has it now goes on from what is written down."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One creation at the provider: what identifies it there, and what is known of it.

    `doubt_seconds` is how long ago it was sent without an answer; None when nothing is under way.
    """

    token: str
    remote_id: str | None
    doubt_seconds: float | None
    sends: int = 0
    """How often it was asked for; more than once, and a second one may turn up late."""


@dataclass(frozen=True, slots=True)
class FineTune:
    """What a worker has to know of a train job."""

    dataset: Any
    """The row of `datasets`: method, training and validation, the latter two as {"sha256", "bytes", ..}."""
    round: int
    remote_id: str | None
    status: str | None
    wanted: str | None
    remote: Mapping[str, Any]
    age_seconds: float
    """Since its job at the provider was asked for."""
    operations: Mapping[Step, Operation]


def keep_dataset(connection: Connection, **columns: Any) -> None:
    """Store a dataset (columns as of the table, but for the time); the same examples are stored once."""
    kept = insert_for(connection)(datasets).values(created_at=now(), **columns)
    connection.execute(kept.on_conflict_do_nothing())


def load(connection: Connection, job: Claimed, dataset_id: str) -> FineTune:
    """What is known of a job; begins to keep it with its first run.

    Raises:
        LostError: the job is another worker's by now.
    """
    _check_owned(connection, job)
    begun = insert_for(connection)(fine_tunes).values(job_id=job.id, dataset_id=dataset_id, created_at=now())
    connection.execute(begun.on_conflict_do_nothing())
    age = seconds_since(connection, fine_tunes.c.created_at).label("age")
    row = connection.execute(select(fine_tunes, age).where(fine_tunes.c.job_id == job.id)).one()
    dataset = connection.execute(select(datasets).where(datasets.c.id == dataset_id)).one()
    doubt = seconds_since(connection, remote_ops.c.sent_at).label("doubt")
    # Files are used by all rounds, a job by one.
    current = select(remote_ops, doubt).where(remote_ops.c.job_id == job.id, remote_ops.c.round.in_((0, row.round)))
    operations = {
        op.step: Operation(op.token, op.remote_id, None if op.sent_at is None else float(op.doubt), op.sends)
        for op in connection.execute(current)
    }
    return FineTune(
        dataset, row.round, row.remote_id, row.status, row.wanted, row.remote or {}, float(row.age), operations
    )


def intend(connection: Connection, job: Claimed, tune: FineTune, step: Step) -> str:
    """Note that this creation is about to be sent; returns its token. Commit before sending. Raises LostError."""
    _check_owned(connection, job)
    new = {"job_id": job.id, "step": step, "round": _round(tune, step), "token": secrets.token_hex(12)}
    connection.execute(insert_for(connection)(remote_ops).values(**new).on_conflict_do_nothing())
    if step == "job":
        connection.execute(update(fine_tunes).where(fine_tunes.c.job_id == job.id).values(created_at=now()))
    sent = update(remote_ops).where(*_is(job, tune, step)).values(sent_at=now(), sends=remote_ops.c.sends + 1)
    return str(connection.scalar(sent.returning(remote_ops.c.token)))


def refused(connection: Connection, job: Claimed, tune: FineTune, step: Step) -> None:
    """Note that nothing was created for certain. Raises LostError."""
    _check_owned(connection, job)
    undone = {"sent_at": None, "sends": remote_ops.c.sends - 1}
    connection.execute(update(remote_ops).where(*_is(job, tune, step)).values(**undone))


def created(connection: Connection, job: Claimed, tune: FineTune, step: Step, remote: Mapping[str, Any]) -> None:
    """Note what was created, or found. Raises LostError."""
    _check_owned(connection, job)
    done = update(remote_ops).where(*_is(job, tune, step)).values(remote_id=str(remote["id"]), sent_at=None)
    connection.execute(done)
    if step == "job":
        saw(connection, job, remote, ())
    progressed(connection, job)
    holds.lift(connection, [(job.id, job.epoch)])


def saw(connection: Connection, job: Claimed, remote: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> None:
    """Note how the provider's job is, and the events that are not known yet, oldest first. Raises LostError."""
    _check_owned(connection, job)
    connection.execute(
        update(fine_tunes)
        .where(fine_tunes.c.job_id == job.id)
        .values(
            remote_id=str(remote["id"]),
            status=_text(remote.get("status"), 60) or "unknown",
            model=_text(remote.get("fine_tuned_model"), 300),
            trained_tokens=_number(remote.get("trained_tokens"), 2**63),
            remote=remote,
            note=None,
            seen_at=now(),
        )
    )
    _add_events(connection, job, events)
    holds.lift(connection, [(job.id, job.epoch)])


def earlier_jobs(connection: Connection, job: Claimed, tune: FineTune) -> set[str]:
    """Ids of the provider's jobs of earlier rounds."""
    earlier = (remote_ops.c.job_id == job.id) & (remote_ops.c.step == "job") & (remote_ops.c.round < tune.round)
    return set(connection.scalars(select(remote_ops.c.remote_id).where(earlier, remote_ops.c.remote_id.is_not(None))))


def known_events(connection: Connection, job: Claimed, tune: FineTune) -> set[str]:
    """Ids of the events of this round that are stored."""
    own = (fine_tune_events.c.job_id == job.id) & (fine_tune_events.c.round == tune.round)
    return set(connection.scalars(select(fine_tune_events.c.event_id).where(own)))


def told(connection: Connection, job: Claimed, wanted: str, note: str | None) -> None:
    """Note that the provider was told what somebody wanted; what it said against it is an event. Raises LostError."""
    _check_owned(connection, job)
    still = (fine_tunes.c.job_id == job.id) & (fine_tunes.c.wanted == wanted)  # somebody may want something else by now
    connection.execute(update(fine_tunes).where(still).values(wanted=None))
    if note is not None:
        warn(connection, job, note)


def warn(connection: Connection, job: Claimed, message: str) -> None:
    """Add an event of our own. Raises LostError."""
    _check_owned(connection, job)
    at = datetime.now(UTC).timestamp()
    own = {"id": f"{OWN_EVENT}{secrets.token_hex(8)}", "level": "warn", "message": message, "created_at": at}
    _add_events(connection, job, [own])


def troubled(connection: Connection, job: Claimed, note: str) -> None:
    """Note what keeps a fine-tune from being followed at present. Raises LostError."""
    _check_owned(connection, job)
    connection.execute(update(fine_tunes).where(fine_tunes.c.job_id == job.id).values(note=_said(note)))


def collected(
    connection: Connection,
    job: Claimed,
    checkpoints: Sequence[Mapping[str, Any]],
    curve: Sequence[Point],
    note: str | None,
) -> None:
    """Keep what an ended fine-tune leaves behind. Raises LostError."""
    _check_owned(connection, job)
    connection.execute(
        update(fine_tunes)
        .where(fine_tunes.c.job_id == job.id)
        .values(wanted=None, curve=[asdict(point) for point in curve] or None, note=_said(note))
    )
    connection.execute(delete(fine_tune_checkpoints).where(fine_tune_checkpoints.c.job_id == job.id))
    if rows := [_checkpoint(job.id, number, each) for number, each in enumerate(checkpoints, 1)]:
        connection.execute(insert_for(connection)(fine_tune_checkpoints).on_conflict_do_nothing(), rows)
    holds.lift(connection, [(job.id, job.epoch)])


def time_of(event: Mapping[str, Any]) -> datetime | None:
    """When the provider says that something happened: seconds or milliseconds of the epoch, or ISO 8601."""
    value = event.get("created_at")
    try:
        if isinstance(value, str) and not value.replace(".", "", 1).isdigit():
            at = datetime.fromisoformat(value)
            return at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = float(value or "")
        return datetime.fromtimestamp(seconds / 1_000 if seconds > _MILLISECONDS else seconds, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def is_trained(remote: Mapping[str, Any]) -> bool:
    """Whether the provider's job has ended with a model."""
    return _status(remote) in TRAINED or (_status(remote) not in ENDED_UNWELL and _has_finished(remote))


def has_ended(remote: Mapping[str, Any]) -> bool:
    """Whether the provider changes nothing of its job any more."""
    return is_trained(remote) or _status(remote) in ENDED_UNWELL


def _status(remote: Mapping[str, Any]) -> str:
    return str(remote.get("status")).lower()


def _has_finished(remote: Mapping[str, Any]) -> bool:
    """Some servers have a word of their own for the end."""
    return bool(remote.get("fine_tuned_model") and remote.get("finished_at"))


def event_id(event: Mapping[str, Any]) -> str:
    """An event's id, or where the server gives none what stands for one."""
    given = _text(event.get("id"), 200)
    return given or hashlib.sha256(repr(sorted(event.items())).encode(errors="replace")).hexdigest()[:32]


def want(connection: Connection, job_id: int, wanted: str) -> bool:
    """Have the provider told to pause, resume or cancel a job with the next step, which is due at once.

    Returns False, and does nothing, where nothing has been asked of the provider yet.
    """
    begun = select(remote_ops.c.token).where(remote_ops.c.job_id == job_id, remote_ops.c.step == "job").exists()
    changed = connection.execute(update(fine_tunes).where(fine_tunes.c.job_id == job_id, begun).values(wanted=wanted))
    if changed.rowcount:
        due = update(jobs).where(jobs.c.id == job_id, jobs.c.state == "queued")
        connection.execute(due.values(available_at=now(), sent_at=None))
    return bool(changed.rowcount)


def _check_owned(connection: Connection, job: Claimed) -> None:
    owned = select(jobs.c.id).where(jobs.c.id == job.id, jobs.c.epoch == job.epoch, jobs.c.state == "running")
    if connection.scalar(owned.with_for_update()) is None:
        raise LostError


def _round(tune: FineTune, step: Step) -> int:
    return tune.round if step == "job" else 0


def _is(job: Claimed, tune: FineTune, step: Step) -> tuple[Any, ...]:
    return remote_ops.c.job_id == job.id, remote_ops.c.step == step, remote_ops.c.round == _round(tune, step)


def _add_events(connection: Connection, job: Claimed, events: Iterable[Mapping[str, Any]]) -> None:
    known = select(func.coalesce(func.max(fine_tune_events.c.number), 0)).where(fine_tune_events.c.job_id == job.id)
    first = int(connection.scalar(known) or 0) + 1
    round_ = connection.scalar(select(fine_tunes.c.round).where(fine_tunes.c.job_id == job.id))
    rows = [_event(number, event) | {"job_id": job.id, "round": round_} for number, event in enumerate(events, first)]
    if rows:
        connection.execute(insert_for(connection)(fine_tune_events).on_conflict_do_nothing(), rows)


def _event(number: int, event: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": number,
        "event_id": event_id(event),
        "level": _text(event.get("level"), 20) or "info",
        "type": _text(event.get("type"), 40) or "message",
        "message": str(event.get("message") or "")[:10_000],
        "data": event.get("data"),
        "created_at": time_of(event) or datetime.now(UTC),
    }


def _checkpoint(job_id: int, number: int, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "checkpoint_id": _text(checkpoint.get("id"), 200) or f"no id, {number}",
        "step": _number(checkpoint.get("step_number")) or 0,
        "model": _text(checkpoint.get("fine_tuned_model_checkpoint"), 300) or "",
        "metrics": checkpoint.get("metrics") if isinstance(checkpoint.get("metrics"), dict) else {},
    }


def _text(value: object, length: int) -> str | None:
    return encode(value)[:length] if isinstance(value, str) and value else None


def _said(note: str | None) -> str | None:
    return None if note is None else one_line(note, 500)


def _number(value: object, below: int = 2**31) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below else None
