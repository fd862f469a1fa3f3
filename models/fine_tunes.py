"""What a train job has at the provider is written down at every step, so that any worker can take the next one.

The files and the job are creations (see `models.creations`) of the owner that `owner` returns. All functions work on a
connection in the caller's transaction. Those that write for a claimed job do so only while its worker owns it.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from sqlalchemy import Connection, String, and_, delete, func, literal, or_, select, update

from tidemill.models import cost, creations, holds, reservations, tunings
from tidemill.models.bulk import BulkRows, insert_for
from tidemill.models.claims import Claimed
from tidemill.models.clock import now, seconds_since
from tidemill.models.creations import Creations, LostError, Owner, Place
from tidemill.models.example_places import lines_in, origin_of
from tidemill.models.json_types import JsonObject, RemoteObject
from tidemill.models.metrics import Point
from tidemill.models.money import usd
from tidemill.models.tables import (
    ENDED_WITHOUT_MODEL,
    attempts,
    datasets,
    fine_tune_checkpoints,
    fine_tune_events,
    fine_tunes,
    fit,
    jobs,
)
from tidemill.models.text import encode, one_line
from tidemill.models.transitions import begin_next_step, make_due

Step = Literal["training", "validation", "job"]
FILES: tuple[Step, ...] = ("training", "validation")

OWN_EVENT = "tidemill-"
"""The beginning of the ids of events that are ours, not the provider's."""

NO_MODEL = "no_model"
"""Error code of a fine-tune whose provider has named no model."""

_NAMELESS_EVENT = f"{OWN_EVENT}no-model"
"""The event that says since when a fine-tune that ended well has no model."""

_FILES_ROUND = 0
"""All rounds of a fine-tune use the same files; each has a job of its own."""

_JOB_IDS = BulkRows(job_id="int")


@dataclass(frozen=True, slots=True)
class FineTune:
    """What a worker has to know of a train job."""

    files: Mapping[Step, JsonObject]
    """The files of its dataset, each as {"sha256", "bytes", ..}."""
    round: int
    remote_id: str | None
    status: str | None
    control: str | None
    """What somebody wants of the provider: pause, resume or cancel."""
    remote: RemoteObject
    age_seconds: float
    """Since its job at the provider was created."""
    creations: Creations
    nameless_seconds: float | None = None
    """Since it ended well without the name of a model; None if nobody has noticed that."""
    is_booked: bool = False
    """Whether the ledger has what its job at the provider has trained."""

    def place(self, step: Step) -> Place:
        """The place of this step's present creation."""
        return Place(step, self.round if step == "job" else _FILES_ROUND)

    def created_id(self, step: Step) -> str | None:
        """The provider's id of what this step has created; None before that."""
        creation = self.creations.get(self.place(step))
        return None if creation is None else creation.remote_id


def owner(job: Claimed) -> Owner:
    """The owner of a claimed train job's creations."""
    return Owner(owner_name(job.id), partial(_check_owned, job=job))


def keep_dataset(connection: Connection, **columns: object) -> None:
    """Store a dataset (the table's columns without the time); the same examples are stored once.

    Where they are from is what the last one says, since that is where its owner looks.
    """
    dataset = insert_for(connection)(datasets).values(created_at=now(), **columns)
    origin = {name: columns[name] for name in ("source", "report") if name in columns}
    connection.execute(dataset.on_conflict_do_update(index_elements=[datasets.c.id], set_=origin))


def rows_of(connection: Connection, dataset_id: str, file: Step, message: str) -> list[str]:
    """Sentences that lead from the lines that a message about one of a dataset's files names to the user's own rows."""
    if not (lines := lines_in(message)):
        return []
    report = connection.scalar(select(datasets.c.report).where(datasets.c.id == dataset_id))
    places = report.get("places", {}).get(file) if isinstance(report, dict) else None
    origins = {line: origin_of(line, places) for line in lines} if places else {}
    return [f"Example {line} of the {file} file is {origin}." for line, origin in origins.items() if origin is not None]


def load(connection: Connection, job: Claimed, dataset_id: str) -> FineTune:
    """What is known of a job; its first run creates the row. Raises LostError."""
    _check_owned(connection, job)
    first = insert_for(connection)(fine_tunes).values(job_id=job.id, dataset_id=dataset_id, created_at=now())
    connection.execute(first.on_conflict_do_nothing())
    age = seconds_since(connection, fine_tunes.c.created_at).label("age")
    row = connection.execute(select(fine_tunes, age).where(fine_tunes.c.job_id == job.id)).one()
    dataset = connection.execute(select(datasets).where(datasets.c.id == dataset_id)).one()
    files = {step: getattr(dataset, step) for step in FILES if getattr(dataset, step) is not None}
    known = creations.load(connection, owner_name(job.id))
    nameless_seconds = connection.scalar(
        select(seconds_since(connection, fine_tune_events.c.created_at)).where(
            fine_tune_events.c.job_id == job.id,
            fine_tune_events.c.round == row.round,
            fine_tune_events.c.event_id == _NAMELESS_EVENT,
        )
    )
    return FineTune(
        files,
        row.round,
        row.remote_id,
        row.status,
        row.wanted,
        row.remote or {},
        float(row.age),
        known,
        None if nameless_seconds is None else float(nameless_seconds),
        _is_booked(connection, job, row.remote_id),
    )


def _is_booked(connection: Connection, job: Claimed, remote_id: str | None) -> bool:
    """Whether an attempt has booked this job of the provider's; earlier versions have not noted which one it was."""
    if remote_id is None:
        return False
    noted = attempts.c.request_id
    is_its = and_(attempts.c.input_tokens.is_not(None), or_(noted.is_(None), noted == fit(remote_id, noted)))
    booked = select(attempts.c.job_id).where(attempts.c.job_id == job.id, is_its).limit(1)
    return connection.scalar(booked) is not None


def reserve(connection: Connection, job: Claimed, usd_e9: int | None) -> bool:
    """Reserve in the budgets what training may cost (None: nobody knows); whether it may be asked for.

    What is reserved stays so over all steps, until the fine-tune ends. Where there is no room the batch waits, and the
    fine-tune's note says so. Raises LostError.
    """
    _check_owned(connection, job)
    own = fine_tunes.c.job_id == job.id
    if connection.scalar(select(fine_tunes.c.reserved_usd_e9).where(own)) is not None:
        return True
    amount, at = reservations.reserve_amount(connection, job.batch_id, usd_e9)
    if amount == "waits":
        connection.execute(update(fine_tunes).where(own).values(note=_no_room(usd_e9)))
    if amount == "reserved":
        kind = fine_tunes.c.reserved_at.type if connection.dialect.name == "postgresql" else String()
        values = {"reserved_usd_e9": usd_e9, "reserved_at": literal(at, kind), "note": None}
        connection.execute(update(fine_tunes).where(own).values(**values))
    return amount != "waits"


def _no_room(usd_e9: int | None) -> str:
    if usd_e9 is None:
        return "It is under a budget, and what it may cost is not known: --epochs says how long it trains."
    return f"It waits for its budget: training may cost up to {cost.format_usd(usd(usd_e9))}."


def note_creation(connection: Connection, job: Claimed, step: Step, remote: RemoteObject) -> None:
    """Note for the fine-tune what a step has created; `creations.record` comes first."""
    if step == "job":
        note_status(connection, job, remote, ())
        connection.execute(update(fine_tunes).where(fine_tunes.c.job_id == job.id).values(created_at=now()))
    begin_next_step(connection, job)
    holds.lift(connection, [(job.id, job.epoch)])


def note_status(connection: Connection, job: Claimed, remote: RemoteObject, events: Iterable[RemoteObject]) -> None:
    """Note the state of the provider's job and its new events, oldest first. Raises LostError."""
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


def known_events(connection: Connection, job: Claimed, tune: FineTune) -> set[str]:
    """Ids of the events of this round that are stored."""
    own = (fine_tune_events.c.job_id == job.id) & (fine_tune_events.c.round == tune.round)
    return set(connection.scalars(select(fine_tune_events.c.event_id).where(own)))


def clear_control(connection: Connection, job: Claimed, control: str, objection: str | None) -> None:
    """Note that the provider was told to pause, resume or cancel; its objection becomes an event. Raises LostError."""
    _check_owned(connection, job)
    same = (fine_tunes.c.job_id == job.id) & (fine_tunes.c.wanted == control)  # somebody may want something else by now
    connection.execute(update(fine_tunes).where(same).values(wanted=None))
    if objection is not None:
        warn(connection, job, objection)


def warn(connection: Connection, job: Claimed, message: str, event_id: str | None = None) -> None:
    """Add an event of our own; with `event_id`, once. Raises LostError."""
    _check_owned(connection, job)
    at = datetime.now(UTC).timestamp()
    own_id = event_id or f"{OWN_EVENT}{secrets.token_hex(8)}"
    _add_events(connection, job, [{"id": own_id, "level": "warn", "message": message, "created_at": at}])


def note_nameless(connection: Connection, job: Claimed) -> None:
    """Note that a fine-tune has ended well and has no model; only the first time counts. Raises LostError."""
    warn(connection, job, "It has ended, and the provider names no model yet; looking again.", _NAMELESS_EVENT)


def last_error(connection: Connection, job: Claimed, tune: FineTune) -> str | None:
    """What the provider's last event of an error says."""
    own = (fine_tune_events.c.job_id == job.id) & (fine_tune_events.c.round == tune.round)
    errors = select(fine_tune_events.c.message).where(own, func.lower(fine_tune_events.c.level) == "error")
    message: str | None = connection.scalar(errors.order_by(fine_tune_events.c.number.desc()).limit(1))
    return message


def note_trouble(connection: Connection, job: Claimed, note: str) -> None:
    """Note why a fine-tune cannot be followed at present. Raises LostError."""
    _check_owned(connection, job)
    connection.execute(update(fine_tunes).where(fine_tunes.c.job_id == job.id).values(note=_note_text(note)))


def keep_results(
    connection: Connection,
    job: Claimed,
    checkpoints: Sequence[RemoteObject],
    curve: Sequence[Point],
    note: str | None,
) -> None:
    """Store what an ended fine-tune leaves behind. Raises LostError."""
    _check_owned(connection, job)
    connection.execute(
        update(fine_tunes)
        .where(fine_tunes.c.job_id == job.id)
        .values(wanted=None, curve=[asdict(point) for point in curve] or None, note=_note_text(note))
    )
    connection.execute(delete(fine_tune_checkpoints).where(fine_tune_checkpoints.c.job_id == job.id))
    if rows := [_checkpoint(job.id, number, each) for number, each in enumerate(checkpoints, 1)]:
        connection.execute(insert_for(connection)(fine_tune_checkpoints).on_conflict_do_nothing(), rows)
    holds.lift(connection, [(job.id, job.epoch)])


# --- control ---


def want(connection: Connection, job_id: int, control: str) -> bool:
    """Have the next step, which is due at once, tell the provider to pause, resume or cancel a job.

    Does nothing and returns False if nothing was sent to the provider yet.
    """
    if not creations.is_begun(connection, owner_name(job_id), "job"):
        return False
    connection.execute(update(fine_tunes).where(fine_tunes.c.job_id == job_id).values(wanted=control))
    make_due(connection, job_id)
    return True


def begin_rounds(connection: Connection, job_ids: Sequence[int]) -> None:
    """Have jobs that failed at the provider created anew; the others are followed again, as from their end."""
    ids = _JOB_IDS.table(connection)
    nameless = fine_tune_events.c.event_id == _NAMELESS_EVENT
    connection.execute(
        delete(fine_tune_events).where(fine_tune_events.c.job_id.in_(select(ids.c.job_id)), nameless),
        _JOB_IDS.parameters(connection, [(job_id,) for job_id in job_ids]),
    )
    has_no_model = func.lower(fine_tunes.c.status).in_(ENDED_WITHOUT_MODEL)
    of_last_round = ("remote_id", "status", "wanted", "model", "trained_tokens", "remote", "curve", "note")
    connection.execute(
        update(fine_tunes)
        .where(fine_tunes.c.job_id.in_(select(ids.c.job_id)), has_no_model)
        .values(round=fine_tunes.c.round + 1, **dict.fromkeys(of_last_round)),
        _JOB_IDS.parameters(connection, [(job_id,) for job_id in job_ids]),
    )


# --- ownership and events ---


def owner_name(job_id: int) -> str:
    """What the creations of a job call their owner."""
    return f"job {job_id}"


def _check_owned(connection: Connection, job: Claimed) -> None:
    owned = select(jobs.c.id).where(jobs.c.id == job.id, jobs.c.epoch == job.epoch, jobs.c.state == "running")
    if connection.scalar(owned.with_for_update()) is None:
        raise LostError


def _add_events(connection: Connection, job: Claimed, events: Iterable[RemoteObject]) -> None:
    last = select(func.coalesce(func.max(fine_tune_events.c.number), 0)).where(fine_tune_events.c.job_id == job.id)
    first = int(connection.scalar(last) or 0) + 1
    round_ = connection.scalar(select(fine_tunes.c.round).where(fine_tunes.c.job_id == job.id))
    rows = [_event(number, event) | {"job_id": job.id, "round": round_} for number, event in enumerate(events, first)]
    if rows:
        connection.execute(insert_for(connection)(fine_tune_events).on_conflict_do_nothing(), rows)


# --- the provider's objects as rows ---


def _event(number: int, event: RemoteObject) -> JsonObject:
    return {
        "number": number,
        "event_id": tunings.event_id(event),
        "level": _text(event.get("level"), 20) or "info",
        "type": _text(event.get("type"), 40) or "message",
        "message": str(event.get("message") or "")[:10_000],
        "data": event.get("data"),
        "created_at": tunings.time_of(event) or datetime.now(UTC),
    }


def _checkpoint(job_id: int, number: int, checkpoint: RemoteObject) -> JsonObject:
    return {
        "job_id": job_id,
        "checkpoint_id": _text(checkpoint.get("id"), 200) or f"no id, {number}",
        "step": _number(checkpoint.get("step_number")) or 0,
        "model": _text(checkpoint.get("fine_tuned_model_checkpoint"), 300) or "",
        "metrics": checkpoint.get("metrics") if isinstance(checkpoint.get("metrics"), dict) else {},
    }


def _text(value: object, length: int) -> str | None:
    return encode(value)[:length] if isinstance(value, str) and value else None


def _note_text(note: str | None) -> str | None:
    return None if note is None else one_line(note, 500)


def _number(value: object, below: int = 2**31) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below else None
