"""Fine-tunes take days, so whoever sent one off wants to find it, look in, and have a say."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import typer
from sqlalchemy import Row, Select, or_, select

from tidemill import migrations
from tidemill.models import fine_tunes
from tidemill.models.broker import embedded_worker
from tidemill.models.cost import format_tokens, format_usd
from tidemill.models.database import reading, writing
from tidemill.models.errors import NOT_ALL_SUCCEEDED, InputError, TidemillError
from tidemill.models.metrics import Point, merge, point_of_event
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.tables import (
    OPEN_STATES,
    batches,
    dataset_dialogues,
    datasets,
    fine_tune_checkpoints,
    fine_tune_events,
    jobs,
)
from tidemill.models.tables import fine_tunes as tunes
from tidemill.models.text import one_line
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.progress import Progress
from tidemill.producer.screen.display import Quiet, say
from tidemill.producer.screen.printing import print_json, print_table
from tidemill.producer.training import curves

LOOK_SECONDS = 0.1
TELL_SECONDS = 60.0
EVENTS_SHOWN = 20
EVENT_CHARACTERS = 400
CURVE_WIDTH = 100


class NotTrainedError(TidemillError):
    """A fine-tune has ended without a model."""

    exit_code = NOT_ALL_SUCCEEDED


def _wanted() -> Select[Any]:
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
        tunes.c.round,
        tunes.c.remote_id,
        tunes.c.status,
        tunes.c.wanted,
        tunes.c.model.label("fine_tuned_model"),
        tunes.c.trained_tokens,
        tunes.c.note,
        tunes.c.curve,
        tunes.c.remote,
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
        .join(tunes, tunes.c.job_id == jobs.c.id, isouter=True)
        .where(batches.c.kind == "train")
        .order_by(batches.c.created_at.desc(), jobs.c.id.desc())
    )


def find(given: str) -> Row[Any]:
    """The fine-tune that somebody means: its id or the beginning of it, the provider's id, its model, or `latest`.

    Raises:
        InputError: none or more than one is meant.
    """
    if not given.strip():
        raise InputError("Which fine-tune? `tidemill fine-tunes list` shows those that there are.")
    named = [tunes.c.remote_id == given, tunes.c.model == given, batches.c.id.startswith(given, autoescape=True)]
    with reading() as connection:
        wanted = _wanted().limit(1) if given == "latest" else _wanted().where(or_(*named)).limit(5)
        found = connection.execute(wanted).all()
    exact = [row for row in found if given in (row.id, row.remote_id, row.fine_tuned_model)]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if not found:
        raise InputError(f"There is no fine-tune {given!r}. `tidemill fine-tunes list` shows those that there are.")
    raise InputError(f"{given!r} may be {', '.join(row.id for row in found)}. Write more of the id.")


def status_of(row: Row[Any]) -> str:
    """How it is, in the provider's words once it has said something that still holds, else in ours."""
    if row.wanted is not None and row.state in OPEN_STATES:
        return f"{row.status or 'being created'}, to {row.wanted}"
    if row.state in OPEN_STATES and (row.hold_reason or row.batch_state != "open"):
        return "on hold" if row.hold_reason else str(row.batch_state)
    if row.status is not None and (row.state in OPEN_STATES or row.state == "succeeded"):
        return str(row.status)
    return "waiting" if row.state == "queued" else "being created" if row.state == "running" else str(row.state)


def to_json(row: Row[Any]) -> dict[str, Any]:
    """For scripts: id, description, created, model, status, and what else is known."""
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


def show_list(limit: int, as_json: bool) -> None:
    """Print fine-tunes, the newest first."""
    migrations.ensure()
    with reading() as connection:
        found = connection.execute(_wanted().limit(limit)).all()
    if as_json:
        return print_json([to_json(row) for row in found])
    if not found:
        typer.echo("No fine-tunes yet. `tidemill train data.csv --dry-run` checks examples for one.", err=True)
        return None
    cells = [
        (
            row.id,
            row.name,
            f"{row.created_at:%m-%d %H:%M}",
            row.options["model"],
            status_of(row),
            row.remote_id or "",
            row.fine_tuned_model or "",
        )
        for row in found
    ]
    return print_table(("id", "description", "created", "model", "status", "provider's id", "fine-tuned model"), cells)


def show(given: str, as_json: bool) -> None:
    """Print all that is known of a fine-tune."""
    migrations.ensure()
    row = find(given)
    events, points = _events(row), points_of(row)
    with reading() as connection:
        checkpoints = connection.execute(
            select(fine_tune_checkpoints)
            .where(fine_tune_checkpoints.c.job_id == row.job_id)
            .order_by(fine_tune_checkpoints.c.step)
        ).all()
        made_of = select(dataset_dialogues.c.dialogue_id).where(dataset_dialogues.c.dataset_id == row.dataset_id)
        dialogues = list(connection.scalars(made_of.order_by(dataset_dialogues.c.dialogue_id)))
    if as_json:
        told = [
            {"created": each.created_at.isoformat(), "level": each.level, "message": each.message} for each in events
        ]
        kept = [{"step": each.step, "model": each.model, "metrics": each.metrics} for each in checkpoints]
        more = {"events": told, "checkpoints": kept, "dialogues": dialogues, "source": row.source, "note": row.note}
        return print_json(to_json(row) | more)
    typer.echo(f"{row.id} · {row.name} · {row.options['model']} · {status_of(row)}")
    for name, value in _facts(row, len(dialogues)):
        typer.echo(f"  {name:<18}{value}")
    for each in checkpoints:
        typer.echo(f"  checkpoint        {each.model} (step {each.step:,})")
    if points:
        typer.echo(curves.draw_terminal(points, CURVE_WIDTH, ""))
    if len(events) > EVENTS_SHOWN:
        typer.echo(f"  … {len(events) - EVENTS_SHOWN:,} earlier events, all with --json")
    for each in events[-EVENTS_SHOWN:]:
        typer.echo(_event_line(each))
    return None


def _facts(row: Row[Any], dialogues: int) -> list[tuple[str, str]]:
    training, validation = row.training or {}, row.validation or {}
    aside = f" and {validation['examples']:,} to check with" if validation else ""
    of_dialogues = f", from {dialogues:,} stored dialogues" if dialogues else ""
    facts = [
        ("provider's id", row.remote_id),
        ("fine-tuned model", row.fine_tuned_model),
        ("examples", f"{training.get('examples', 0):,}{aside}{of_dialogues}"),
        ("made of", row.source),
        ("trained tokens", row.trained_tokens and format_tokens(row.trained_tokens)),
        ("cost", format_usd(row.cost_usd) if row.state == "succeeded" else None),
        ("created", f"{row.created_at:%Y-%m-%d %H:%M} UTC"),
        ("ended", row.finished_at and f"{row.finished_at:%Y-%m-%d %H:%M} UTC"),
        ("on hold", row.hold_reason if row.state in OPEN_STATES else None),
        ("trouble", row.note),
        ("error", row.error if row.error != row.hold_reason else None),
    ]
    return [(name, str(value)) for name, value in facts if value]


def points_of(row: Row[Any]) -> list[Point]:
    """The curves so far: from the events, and at the end from the result file."""
    told = [point_of_event(event.data) for event in _events(row, "metrics") if isinstance(event.data, dict)]
    return merge([*(point for point in told if point is not None), *(Point(**point) for point in row.curve or ())])


def plot(given: str, output: str | None) -> None:
    """Draw the curves into a .svg or .png file, or in the terminal."""
    migrations.ensure()
    row = find(given)
    points = points_of(row)
    title = f"{row.name} · {row.fine_tuned_model or row.options['model']}"
    if not points:
        raise InputError(f"{row.id} has no curves yet: it is {status_of(row)}, and no step has been reported.")
    if output is None:
        typer.echo(curves.draw_terminal(points, CURVE_WIDTH, title))
        return
    curves.save(points, output, title)
    typer.echo(f"{output}: {len(points):,} steps drawn", err=True)


# --- following ---


class Told:
    """Prints events as they come, and what else changes."""

    def __init__(self, batch_id: str, *, quiet: bool, until: Callable[[Row[Any]], bool] | None = None) -> None:
        self._batch_id = batch_id
        self._quiet = quiet
        self._until = until
        self._number = 0
        self._last = ""

    def __call__(self, _seen: Progress) -> None:
        """Look, and print what is new."""
        row = find(self._batch_id)
        if not self._quiet:
            self._print(row)
        if self._until is not None and self._until(row):
            raise EnoughError

    def _print(self, row: Row[Any]) -> None:
        if (status := status_of(row)) != self._last:
            typer.echo(f"{row.id}: {status}{f' · {row.remote_id}' if row.remote_id else ''}", err=True)
            self._last = status
        for event in _events(row, after=self._number):
            self._number = event.number
            typer.echo(_event_line(event), err=True)


class EnoughError(Exception):
    """What was waited for has come, though the job goes on."""


def watch(given: str, as_json: bool) -> None:
    """Follow a fine-tune to its end; without a broker it is run here.

    Raises:
        NotTrainedError: it ended without a model; the text says why.
    """
    from tidemill.producer.batches.run import followed, stop_like_ctrl_c

    migrations.ensure()
    stop_like_ctrl_c()
    row = find(given)
    _check_server(row)
    batch = Batch(row.id)
    followed(batch, None, 1, Quiet(), Told(row.id, quiet=as_json))
    _print_end(find(row.id), as_json)


def follow_until_created(batch: Batch) -> Row[Any]:
    """Without a broker: run the job here until the provider has it, or it has ended; with one, return at once."""
    from tidemill.producer.batches.run import followed

    told = Told(batch.id, quiet=True, until=lambda row: row.remote_id is not None)
    with suppress(EnoughError):
        followed(batch, None, 1, Quiet(), told)
    return find(batch.id)


def check(row: Row[Any]) -> None:
    """Raise NotTrainedError where a fine-tune has ended without a model; the text says why."""
    if row.state not in (*OPEN_STATES, "succeeded"):
        raise NotTrainedError(f"{row.id}: {row.error or row.state} ({row.error_code or row.state})")


def _print_end(row: Row[Any], as_json: bool) -> None:
    if as_json:
        print_json(to_json(row))
    check(row)
    if not as_json:
        tokens = "an unknown number of" if row.trained_tokens is None else format_tokens(row.trained_tokens)
        typer.echo(f"{row.id}: {row.status} · {tokens} trained tokens · {format_usd(row.cost_usd)}", err=True)
        if row.note:
            say(f"{row.id}: {row.note}")
        typer.echo(row.fine_tuned_model or "")


# --- having a say ---

_SAID = {"pause": "paused", "resume": "goes on", "cancel": "cancelled"}


def change(what: str, given: str, as_json: bool) -> None:
    """Pause, resume or cancel a fine-tune, at the provider where it is there already, and say what came of it."""
    migrations.ensure()
    row = find(given)
    if row.state not in OPEN_STATES:
        raise InputError(f"{row.id} has ended ({status_of(row)}); there is nothing to {what}.")
    _check_server(row)
    with writing() as connection:
        at_provider = fine_tunes.want(connection, row.job_id, what)
    before = max((each.number for each in _events(row)), default=0)
    if at_provider:
        _wait_until_told(row, what, before)
    else:
        from tidemill.producer.batches import control

        control.CHANGES[what][0](row.id)
    row = find(row.id)
    if as_json:
        return print_json(to_json(row))
    if row.state not in (*OPEN_STATES, "cancelled"):
        raise InputError(f"{row.id} had ended ({status_of(row)}) before it could be told to {what}.")
    if row.wanted is not None:
        say(f"{row.id}: noted; a worker will tell the provider. Is one alive? Start it with `tidemill worker`.")
    elif (refusal := _refusal(row, before)) is not None:
        raise InputError(f"{row.id}: {refusal}")
    else:
        typer.echo(f"{row.id}: {_SAID[what]}; status: {status_of(row)}.")
    return None


def _check_server(row: Row[Any]) -> None:
    """A fine-tune is where it was created: another server knows nothing of it."""
    at = row.request["provider"]
    if row.state in OPEN_STATES and at != settings().provider:
        raise InputError(f"{row.id} is at {at}, and OPENAI_BASE_URL names {settings().provider}; let it name {at}.")


def _wait_until_told(row: Row[Any], what: str, before: int) -> None:
    """Until the provider was told, and what was cancelled has ended; or somebody else must tell it later."""
    scope = Scope(batch_id=row.id)
    deadline = time.monotonic() + TELL_SECONDS
    with embedded_worker(1, scope) if settings().embedded else nullcontext():
        while time.monotonic() < deadline:
            found = find(row.id)
            if found.state not in OPEN_STATES or (
                found.wanted is None and (what != "cancel" or _refusal(found, before))
            ):
                return
            time.sleep(LOOK_SECONDS)


def _refusal(row: Row[Any], before: int) -> str | None:
    """What the provider had against it, after the event of this number; None when it has said nothing."""
    own = (each.message for each in _events(row, after=before) if each.event_id.startswith(fine_tunes.OWN_EVENT))
    return next(own, None)


# --- events ---


def _events(row: Row[Any], kind: str | None = None, after: int = 0) -> Sequence[Row[Any]]:
    """The events of the present round: what an earlier one told is of another job at the provider."""
    its = (fine_tune_events.c.job_id == row.job_id) & (fine_tune_events.c.round == row.round)
    wanted = select(fine_tune_events).where(its, fine_tune_events.c.number > after)
    if kind is not None:
        wanted = wanted.where(fine_tune_events.c.type == kind)
    with reading() as connection:
        return connection.execute(wanted.order_by(fine_tune_events.c.number)).all()


def _event_line(event: Row[Any]) -> str:
    level = "" if event.level == "info" else f"{event.level}: "
    return f"  {event.created_at:%Y-%m-%d %H:%M:%S} {one_line(level + event.message, EVENT_CHARACTERS)}"
