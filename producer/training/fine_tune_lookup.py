"""All that show or change a fine-tune must find the one that the user means, and what is stored of it."""

from collections.abc import Sequence
from typing import TypeAlias

from sqlalchemy import Row, Select, or_, select

from tidemill.models.database import reading
from tidemill.models.errors import InputError
from tidemill.models.fine_tunes import FILES, OWN_EVENT, rows_of
from tidemill.models.job_requests import read_train_request
from tidemill.models.json_types import JsonObject
from tidemill.models.metrics import Point, merge, point_of_event
from tidemill.models.tables import (
    OPEN_STATES,
    batches,
    dataset_dialogues,
    datasets,
    fine_tune_checkpoints,
    fine_tune_events,
    fine_tunes,
    jobs,
)

FineTuneRow: TypeAlias = Row[tuple[object, ...]]
"""A train job with its batch, its dataset and what it has at the provider: the columns of `_fine_tunes`."""

EventRow: TypeAlias = Row[tuple[object, ...]]
"""A row of `fine_tune_events`."""

CheckpointRow: TypeAlias = Row[tuple[object, ...]]
"""A row of `fine_tune_checkpoints`."""


def _fine_tunes() -> Select[tuple[object, ...]]:
    """Every train job with what it has at the provider, the newest first."""
    columns = [
        jobs.c.id.label("job_id"),
        jobs.c.state,
        jobs.c.request,
        jobs.c.error_code,
        jobs.c.error,
        jobs.c.cost_usd,
        batches.c.id,
        batches.c.name,
        batches.c.options,
        batches.c.state.label("batch_state"),
        batches.c.hold_reason,
        batches.c.created_at,
        jobs.c.finished_at,
        fine_tunes.c.round,
        fine_tunes.c.remote_id,
        fine_tunes.c.status,
        fine_tunes.c.wanted,
        fine_tunes.c.model.label("fine_tuned_model"),
        fine_tunes.c.trained_tokens,
        fine_tunes.c.note,
        fine_tunes.c.curve,
        fine_tunes.c.remote,
        datasets.c.id.label("dataset_id"),
        datasets.c.source,
        datasets.c.method,
        datasets.c.training,
        datasets.c.validation,
    ]
    return (
        select(*columns)
        .join(batches, batches.c.id == jobs.c.batch_id)
        .join(datasets, datasets.c.id == jobs.c.custom_id, isouter=True)
        .join(fine_tunes, fine_tunes.c.job_id == jobs.c.id, isouter=True)
        .where(batches.c.kind == "train")
        .order_by(batches.c.created_at.desc(), jobs.c.id.desc())
    )


def find(name: str) -> FineTuneRow:
    """The fine-tune of a name: its id or the beginning of it, the provider's id, its model, or `latest`.

    Raises:
        InputError: none or more than one has the name.
    """
    if not name.strip():
        raise InputError("Which fine-tune? `tidemill fine-tunes list` shows all.")
    is_named = (
        fine_tunes.c.remote_id == name,
        fine_tunes.c.model == name,
        batches.c.id.startswith(name, autoescape=True),
    )
    matching = _fine_tunes().limit(1) if name == "latest" else _fine_tunes().where(or_(*is_named)).limit(5)
    with reading() as connection:
        rows = connection.execute(matching).all()
    exact = [row for row in rows if name in (row.id, row.remote_id, row.fine_tuned_model)]
    if len(exact or rows) == 1:
        return (exact or rows)[0]
    if not rows:
        raise InputError(f"There is no fine-tune {name!r}. `tidemill fine-tunes list` shows all.")
    raise InputError(f"{name!r} may be {', '.join(row.id for row in rows)}. Write more of the id.")


def latest(limit: int) -> Sequence[FineTuneRow]:
    """At most `limit` fine-tunes, the newest first."""
    with reading() as connection:
        return connection.execute(_fine_tunes().limit(limit)).all()


def status_of(row: FineTuneRow) -> str:
    """Its status: in the provider's words if it has said something that still holds, else in ours."""
    if row.wanted is not None and row.state in OPEN_STATES:
        return f"{row.status or 'being created'}, to {row.wanted}"
    if row.state in OPEN_STATES and (row.hold_reason or row.batch_state != "open"):
        return "on hold" if row.hold_reason else str(row.batch_state)
    if row.status is not None and (row.state in OPEN_STATES or row.state == "succeeded"):
        return str(row.status)
    return "waiting" if row.state == "queued" else "being created" if row.state == "running" else str(row.state)


def to_json(row: FineTuneRow) -> JsonObject:
    """For scripts."""
    return {
        "id": row.id,
        "description": row.name,
        "created": row.created_at.isoformat(),
        "model": row.options["model"],
        "status": status_of(row),
        "remote_id": row.remote_id,
        "fine_tuned_model": row.fine_tuned_model,
        "method": row.method,
        "dataset": row.dataset_id,
        "examples": (row.training or {}).get("examples"),
        "trained_tokens": row.trained_tokens,
        "cost_usd": row.cost_usd,
        "finished": row.finished_at.isoformat() if row.finished_at else None,
        "error_code": row.error_code,
        "error": row.error,
    }


def events_of(row: FineTuneRow, kind: str | None = None, after: int = 0) -> Sequence[EventRow]:
    """The events of the present round, because an earlier round had another job at the provider."""
    is_own = (fine_tune_events.c.job_id == row.job_id) & (fine_tune_events.c.round == row.round)
    statement = select(fine_tune_events).where(is_own, fine_tune_events.c.number > after)
    if kind is not None:
        statement = statement.where(fine_tune_events.c.type == kind)
    with reading() as connection:
        return connection.execute(statement.order_by(fine_tune_events.c.number)).all()


def rows_named_by(row: FineTuneRow, event: EventRow) -> str:
    """The user's own rows that an event names by the lines of a file, as sentences; "" if it names none."""
    if event.level == "info" or event.event_id.startswith(OWN_EVENT):
        return ""
    message = str(event.message)
    file = FILES["validation" in message.lower() and "training" not in message.lower()]
    with reading() as connection:
        return " ".join(rows_of(connection, read_train_request(row.request).dataset, file, message))


def points_of(row: FineTuneRow) -> list[Point]:
    """The points of the curves so far: from the events, and after the end from the result file."""
    points = [point_of_event(event.data) for event in events_of(row, "metrics") if isinstance(event.data, dict)]
    return merge([*(point for point in points if point is not None), *(Point(**point) for point in row.curve or ())])


def checkpoints_of(row: FineTuneRow) -> Sequence[CheckpointRow]:
    """Its checkpoints, in the order of their steps."""
    statement = select(fine_tune_checkpoints).where(fine_tune_checkpoints.c.job_id == row.job_id)
    with reading() as connection:
        return connection.execute(statement.order_by(fine_tune_checkpoints.c.step)).all()


def dialogues_of(row: FineTuneRow) -> list[int]:
    """The numbers of the stored dialogues that it is made of."""
    statement = select(dataset_dialogues.c.dialogue_id).where(dataset_dialogues.c.dataset_id == row.dataset_id)
    with reading() as connection:
        return list(connection.scalars(statement.order_by(dataset_dialogues.c.dialogue_id)))
