"""What somebody can do to a batch that is under way, and what went wrong in it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import typer
from sqlalchemy import Connection

from tidemill import migrations
from tidemill.models import batches, holds
from tidemill.models.cost import format_tokens
from tidemill.models.database import reading, writing
from tidemill.models.scope import Scope
from tidemill.models.text import one_line
from tidemill.producer.batches.progress import BatchLine, Progress, counted, list_batches, progress, resolve
from tidemill.producer.screen.printing import print_json, print_table


class Change(NamedTuple):
    """A verb on a batch: what does it and returns how much changed, and what to say when something did or nothing."""

    act: Callable[[Connection, str], int]
    done: str
    not_done: str


CHANGES = {
    "retry": Change(
        batches.retry,
        "queued again: {rows}; `tidemill watch {batch}` follows.",
        "no row had failed or been cancelled.",
    ),
    "pause": Change(
        batches.pause,
        "paused; calls in flight end. `tidemill resume {batch}` lets it go on.",
        "is paused or cancelled already.",
    ),
    "resume": Change(batches.resume, "it goes on.", "was not paused."),
    "cancel": Change(batches.cancel, "cancelled: {rows} that had not ended.", "no row was open."),
}
"""Command -> what it does."""


def change(verb: str, batch_name: str, as_json: bool) -> None:
    """Retry, pause, resume or cancel a batch, and say what that did."""
    migrations.ensure()
    act, done, not_done = CHANGES[verb]
    batch_id = resolve(batch_name).id
    with writing() as connection:
        changed = act(connection, batch_id)
    if as_json:
        return print_json({"batch": batch_id, verb: changed})
    typer.echo(f"{batch_id}: {(done if changed else not_done).format(rows=counted(changed, 'row'), batch=batch_id)}")
    return None


def probe(provider: str) -> None:
    """Somebody has come back to a held batch: look at once whether the provider answers again."""
    with writing() as connection:
        holds.probe_at_once(connection, provider)


def status(batch_name: str | None, limit: int, as_json: bool) -> None:
    """One batch in detail, or the latest in a table."""
    migrations.ensure()
    if batch_name is not None:
        return _show(batch_name, as_json)
    lines = list_batches(limit)
    if as_json:
        return print_json([_line_json(line) for line in lines])
    if not lines:
        typer.echo("No batches yet. `tidemill ask -i prompts.csv -o answers.jsonl` makes one.", err=True)
        return None
    columns = ("batch", "model", "created", "rows", "succeeded", "failed", "open", "tokens", "cost", "state")
    return print_table(columns, [_line_cells(line) for line in lines])


def _show(batch_name: str, as_json: bool) -> None:
    batch = resolve(batch_name)
    so_far = progress(Scope(batch_id=batch.id))
    reasons = failures(batch.id)
    if as_json:
        failed = [{"rows": each.rows, "error_code": each.code, "example": each.example} for each in reasons]
        head = {"batch": batch.id, "kind": batch.kind, "model": batch.options["model"], "created_at": batch.created_at}
        return print_json({**head, **so_far.to_json(), "failures": failed})
    state = _state(so_far)
    typer.echo(
        f"{batch.id} · {batch.kind} · {batch.options['model']} · {batch.created_at:%Y-%m-%d %H:%M} UTC · {state}"
    )
    typer.echo(so_far.summary())
    if so_far.hold_reason and so_far.open:
        typer.echo(f"on hold: {so_far.hold_reason}")
    for each in reasons:
        typer.echo(f"  {each.rows:,} × {each.code}: {one_line(each.example, 160)}")
    return None


def failures(batch_id: str) -> list[batches.FailureReason]:
    """Why rows of a batch failed, the most frequent reason first."""
    with reading() as connection:
        return batches.failures(connection, batch_id)


def _line_json(line: BatchLine) -> dict[str, Any]:
    head = {"batch": line.id, "kind": line.kind, "model": line.model, "created_at": line.created_at}
    return {**head, **line.progress.to_json()}


def _line_cells(line: BatchLine) -> Sequence[object]:
    so_far = line.progress
    counts = (so_far.rows, so_far.states["succeeded"], so_far.states["failed"], so_far.open)
    created = f"{line.created_at:%m-%d %H:%M}"
    used = (format_tokens(so_far.tokens), so_far.cost())
    return (line.id, line.model, created, *(f"{n:,}" for n in counts), *used, _state(so_far))


def _state(so_far: Progress) -> str:
    if not so_far.open:
        return "done"
    return "on hold" if so_far.hold_reason else so_far.state
