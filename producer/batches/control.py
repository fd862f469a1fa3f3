"""What somebody can do to a batch that is under way, and what went wrong in it."""

from collections.abc import Callable, Sequence
from typing import Any

import typer
from sqlalchemy import func, select, update

from tidemill import migrations
from tidemill.models import transitions
from tidemill.models.cost import format_tokens
from tidemill.models.database import reading, writing
from tidemill.models.holds import probe_at_once
from tidemill.models.scope import Scope
from tidemill.models.tables import batches, jobs
from tidemill.models.text import one_line
from tidemill.producer.batches.progress import BatchLine, Progress, counted, list_batches, progress, resolve
from tidemill.producer.screen.printing import print_json, print_table


def retry(batch_id: str) -> int:
    """Queue failed and cancelled rows again; returns how many. A cancelled batch is open again."""
    with writing() as connection:
        connection.execute(
            update(batches).where(batches.c.id == batch_id, batches.c.state == "cancelled").values(state="open")
        )
        return transitions.revive(connection, batch_id)


def pause(batch_id: str) -> int:
    """Start no more calls; returns 1 when that changed something."""
    return _set_state(batch_id, "open", "paused")


def resume(batch_id: str) -> int:
    """Let a paused batch go on; returns 1 when that changed something."""
    changed = _set_state(batch_id, "paused", "open")
    with writing() as connection:
        transitions.give_time(connection, batches.c.id == batch_id)
        # What was sent before the pause and not claimed has used up its message.
        sent = (jobs.c.batch_id == batch_id) & (jobs.c.state == "queued") & jobs.c.sent_at.is_not(None)
        connection.execute(update(jobs).where(sent).values(sent_at=None))
    return changed


def cancel(batch_id: str) -> int:
    """Cancel all open rows; returns how many."""
    with writing() as connection:
        connection.execute(update(batches).where(batches.c.id == batch_id).values(state="cancelled"))
        return transitions.cancel(connection, batch_id)


def _set_state(batch_id: str, before: str, after: str) -> int:
    with writing() as connection:
        return connection.execute(
            update(batches).where(batches.c.id == batch_id, batches.c.state == before).values(state=after)
        ).rowcount


CHANGES: dict[str, tuple[Callable[[str], int], str, str]] = {
    "retry": (
        retry,
        "queued again: {rows}; `tidemill watch {batch}` follows.",
        "no row had failed or been cancelled.",
    ),
    "pause": (
        pause,
        "paused; calls in flight end. `tidemill resume {batch}` lets it go on.",
        "is paused or cancelled already.",
    ),
    "resume": (resume, "it goes on.", "was not paused."),
    "cancel": (cancel, "cancelled: {rows} that had not ended.", "no row was open."),
}
"""Command -> what does it, what to say when that changed something, and when it did not."""


def change(what: str, given: str, as_json: bool) -> None:
    """Retry, pause, resume or cancel a batch, and say what that did."""
    migrations.ensure()
    act, done, not_done = CHANGES[what]
    batch = resolve(given)
    batch_id = batch.id
    if batch.kind == "train" and what != "retry":
        from tidemill.producer.training import fine_tunes  # the provider must hear of it, too

        return fine_tunes.change(what, batch_id, as_json)
    changed = act(batch_id)
    if as_json:
        return print_json({"batch": batch_id, what: changed})
    typer.echo(f"{batch_id}: {(done if changed else not_done).format(rows=counted(changed, 'row'), batch=batch_id)}")
    return None


def status(given: str | None, limit: int, as_json: bool) -> None:
    """One batch in detail, or the latest in a table."""
    migrations.ensure()
    if given is not None:
        return _show(given, as_json)
    lines = list_batches(limit)
    if as_json:
        return print_json([_line_json(line) for line in lines])
    if not lines:
        typer.echo("No batches yet. `tidemill ask -i prompts.csv -o answers.jsonl` makes one.", err=True)
        return None
    columns = ("batch", "model", "created", "rows", "succeeded", "failed", "open", "tokens", "cost", "state")
    return print_table(columns, [_line_cells(line) for line in lines])


def _show(given: str, as_json: bool) -> None:
    batch = resolve(given)
    seen, failed = progress(Scope(batch_id=batch.id)), failures(batch.id)
    if as_json:
        reasons = [{"rows": count, "error_code": code, "example": example} for count, code, example in failed]
        head = {"batch": batch.id, "kind": batch.kind, "model": batch.options["model"], "created_at": batch.created_at}
        return print_json({**head, **seen.to_json(), "failures": reasons})
    typer.echo(
        f"{batch.id} · {batch.kind} · {batch.options['model']} · {batch.created_at:%Y-%m-%d %H:%M} UTC · {_state(seen)}"
    )
    typer.echo(seen.summary())
    if seen.hold_reason and seen.open:
        typer.echo(f"on hold: {seen.hold_reason}")
    for count, code, example in failed:
        typer.echo(f"  {count:,} × {code}: {one_line(example, 160)}")
    return None


def _line_json(line: BatchLine) -> dict[str, Any]:
    head = {"batch": line.id, "kind": line.kind, "model": line.model, "created_at": line.created_at}
    return {**head, **line.progress.to_json()}


def _line_cells(line: BatchLine) -> Sequence[object]:
    seen = line.progress
    counts = (seen.rows, seen.states["succeeded"], seen.states["failed"], seen.open)
    created = f"{line.created_at:%m-%d %H:%M}"
    used = (format_tokens(seen.tokens), seen.cost())
    return (line.id, line.model, created, *(f"{n:,}" for n in counts), *used, _state(seen))


def _state(seen: Progress) -> str:
    if not seen.open:
        return "done"
    return "on hold" if seen.hold_reason else seen.state


def failures(batch_id: str) -> list[tuple[int, str, str]]:
    """Why rows failed: how many, the error's code, and one of the sentences; the most frequent first."""
    count = func.count()
    grouped = (
        select(count, jobs.c.error_code, func.max(jobs.c.error))
        .where(jobs.c.batch_id == batch_id, jobs.c.state == "failed", jobs.c.position.is_not(None))
        .group_by(jobs.c.error_code)
        .order_by(count.desc())
        .limit(10)
    )
    with reading() as connection:
        return [(row[0], row[1] or "unknown", row[2] or "") for row in connection.execute(grouped)]


def probe(provider: str) -> None:
    """Somebody has come back to a held batch: look at once whether the provider answers again."""
    with writing() as connection:
        probe_at_once(connection, provider)
