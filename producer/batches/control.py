"""A batch under way can be retried, paused, resumed and cancelled, and its status says what went wrong."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from tidemill import migrations
from tidemill.models import batches, holds
from tidemill.models.bookings import BATCH
from tidemill.models.cost import format_tokens
from tidemill.models.database import Piece, reading, transact, transact_in_pieces
from tidemill.models.json_types import JsonObject
from tidemill.models.scope import Scope
from tidemill.models.text import one_line
from tidemill.producer.batches import budget_words
from tidemill.producer.batches.progress import BatchSummary, Progress, counted, list_batches, marked, progress, resolve
from tidemill.producer.screen.display import Ticker
from tidemill.producer.screen.printing import print_json, print_line, print_table
from tidemill.producer.screen.tables import Column


class Change(NamedTuple):
    """A verb on a batch: the function, which does a piece of it; and what to say when something has changed or not."""

    act: Callable[[Connection, str, int], Piece]
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
        "paused; calls in flight end. `tidemill resume {batch}` continues it.",
        "is paused or cancelled already.",
    ),
    "resume": Change(batches.resume, "resumed.", "was not paused."),
    "cancel": Change(batches.cancel, "cancelled: {rows} that had not ended.", "no row was open."),
}
"""Command -> what it does."""

_OF_ROWS_OUT = {
    "pause": "{out} at the provider; `tidemill watch {batch}` or a worker still collects them.",
    "cancel": (
        "{out} at the provider, which is told to cancel them as soon as `tidemill watch {batch}` or a "
        "worker looks. What it has answered by then is paid, and kept; the rest is cancelled."
    ),
}
"""Command -> what it says besides, where rows are out at the provider."""


COLUMNS = (
    Column("batch", 1),
    Column("model", 9),
    Column("created", 10),
    Column("rows", 6),
    Column("succeeded", 7),
    Column("failed", 4),
    Column("open", 5),
    Column("tokens", 8),
    Column("cost", 3),
    Column("state", 2),
)


def change(verb: str, batch_name: str, as_json: bool) -> None:
    """Retry, pause, resume or cancel a batch, and say what that did."""
    migrations.ensure()
    act, done, not_done = CHANGES[verb]
    batch_id = resolve(batch_name).id
    changed = transact_in_pieces(lambda connection, after: act(connection, batch_id, after), Ticker("changed"))
    rows_out = progress(Scope(batch_id)).at_provider if verb in _OF_ROWS_OUT else 0
    if as_json:
        return print_json({"batch": batch_id, verb: changed, **({"at_provider": rows_out} if rows_out else {})})
    said = not_done if not changed else done
    if changed or not (rows_out and verb == "cancel"):
        print_line(f"{batch_id}: {said.format(rows=counted(changed, 'row'), batch=batch_id)}")
    if rows_out:
        out = f"{counted(rows_out, 'row')} {'is' if rows_out == 1 else 'are'}"
        print_line(f"{batch_id}: {_OF_ROWS_OUT[verb].format(out=out, batch=batch_id)}")
    return None


def probe(provider: str) -> None:
    """Have a held provider tried at once, because somebody has come back to one of its batches."""
    transact(lambda connection: holds.probe_at_once(connection, provider))


def status(batch_name: str | None, limit: int, as_json: bool) -> None:
    """Print one batch in detail, or the latest in a table."""
    migrations.ensure()
    if batch_name is not None:
        return _show(batch_name, as_json)
    summaries = list_batches(limit)
    if as_json:
        return print_json([_summary_json(each) for each in summaries])
    if not summaries:
        print_line("No batches yet. `tidemill ask -i prompts.csv -o answers.jsonl` makes one.", err=True)
        return None
    return print_table(COLUMNS, [_summary_cells(each) for each in summaries])


def _show(batch_name: str, as_json: bool) -> None:
    from tidemill.producer.batches import upstream_page  # which a run does not need

    batch = resolve(batch_name)
    so_far = progress(Scope(batch_id=batch.id))
    failed_for = failures(batch.id)
    doubtful = marked(Scope(batch_id=batch.id))
    there = upstream_page.look(batch, so_far)
    if as_json:
        failed = [{"rows": each.rows, "error_code": each.code, "example": each.example} for each in failed_for]
        head = {"batch": batch.id, "kind": batch.kind, "model": batch.options["model"], "created_at": batch.created_at}
        kept = [{"rows": rows, "error_code": code, "example": sentence} for code, rows, sentence in doubtful]
        return print_json({**head, **so_far.to_json(), **there.to_json(), "failures": failed, "marked": kept})
    state = _state(so_far)
    print_line(
        f"{batch.id} · {batch.kind} · {batch.options['model']} · {batch.created_at:%Y-%m-%d %H:%M} UTC · {state}"
    )
    print_line(so_far.summary())
    for cap in so_far.budgets:
        if so_far.open or cap.kind == BATCH:
            print_line(f"{budget_words.title(cap)}: {budget_words.figures(cap)}, {budget_words.shown(cap.left)} left")
    if so_far.hold_reason and so_far.open:
        print_line(f"on hold: {so_far.hold_reason}")
    for line in upstream_page.page(batch, so_far, there):
        print_line(line)
    for each in failed_for:
        print_line(f"  {each.rows:,} × {each.code}: {one_line(each.example, 160)}")
    for code, rows, sentence in doubtful:
        print_line(f"  {rows:,} answered × {code}: {one_line(sentence, 160)}")
    if so_far.open or failed_for:
        print_line(f"`tidemill explain {batch.id}` says what it waits for, and what to do.")
    return None


def failures(batch_id: str) -> list[batches.FailureReason]:
    """Why rows of a batch failed, the most frequent reason first."""
    with reading() as connection:
        return batches.failures(connection, batch_id)


def _summary_json(summary: BatchSummary) -> JsonObject:
    head = {"batch": summary.id, "kind": summary.kind, "model": summary.model, "created_at": summary.created_at}
    return {**head, **summary.progress.to_json()}


def _summary_cells(summary: BatchSummary) -> Sequence[object]:
    so_far = summary.progress
    counts = (so_far.rows, so_far.states["succeeded"], so_far.states["failed"], so_far.open)
    created = f"{summary.created_at:%m-%d %H:%M}"
    used = (format_tokens(so_far.tokens), so_far.cost())
    return (summary.id, summary.model, created, *(f"{n:,}" for n in counts), *used, _state(so_far))


def _state(so_far: Progress) -> str:
    if not so_far.open:
        return "done"
    if so_far.hold_reason:
        return "on hold"
    waits = so_far.state == "open" and any(each.is_reached for each in so_far.budgets)
    if waits:
        return "budget"
    names = {"open": "at provider" if so_far.is_out else "open", "cancelled": "cancelling"}
    return names.get(so_far.state, so_far.state)
