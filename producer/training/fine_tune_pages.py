"""Fine-tunes take days, so users want to see how they are: in a list, each on a page of its own, as curves."""

import sys

from tidemill import migrations
from tidemill.models.cost import format_tokens, format_usd
from tidemill.models.errors import InputError
from tidemill.models.tables import OPEN_STATES
from tidemill.models.text import one_line
from tidemill.producer.screen.printing import print_json, print_line, print_table, terminal_width
from tidemill.producer.screen.tables import Column
from tidemill.producer.training import curves
from tidemill.producer.training.fine_tune_lookup import (
    EventRow,
    FineTuneRow,
    checkpoints_of,
    dialogues_of,
    events_of,
    find,
    latest,
    points_of,
    rows_named_by,
    status_of,
    to_json,
)

EVENTS_SHOWN = 20
EVENT_CHARACTERS = 400
CURVE_WIDTH = 100
COLUMNS = (
    Column("id", 1),
    Column("description", 5),
    Column("created", 7),
    Column("model", 6),
    Column("status", 2),
    Column("provider's id", 4),
    Column("fine-tuned model", 3),
)


def show_list(limit: int, as_json: bool) -> None:
    """Print fine-tunes, the newest first."""
    migrations.ensure()
    rows = latest(limit)
    if as_json:
        return print_json([to_json(row) for row in rows])
    if not rows:
        print_line("No fine-tunes yet. `tidemill train data.csv --dry-run` checks examples for one.", err=True)
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
        for row in rows
    ]
    return print_table(COLUMNS, cells)


def show(name: str, as_json: bool) -> None:
    """Print all that is known of a fine-tune."""
    migrations.ensure()
    row = find(name)
    events, points, checkpoints, dialogues = events_of(row), points_of(row), checkpoints_of(row), dialogues_of(row)
    if as_json:
        more = {
            "events": [
                {"created": each.created_at.isoformat(), "level": each.level, "message": each.message}
                for each in events
            ],
            "checkpoints": [{"step": each.step, "model": each.model, "metrics": each.metrics} for each in checkpoints],
            "dialogues": dialogues,
            "source": row.source,
            "note": row.note,
        }
        return print_json(to_json(row) | more)
    print_line(f"{row.id} · {row.name} · {row.options['model']} · {status_of(row)}")
    for label, value in _facts(row, len(dialogues)):
        print_line(f"  {label:<18}{value}")
    for each in checkpoints:
        print_line(f"  checkpoint        {each.model} (step {each.step:,})")
    if points:
        print_line(curves.draw_terminal(points, _curve_width(), ""))
    if len(events) > EVENTS_SHOWN:
        print_line(f"  … {len(events) - EVENTS_SHOWN:,} earlier events, all with --json")
    for each in events[-EVENTS_SHOWN:]:
        print_line(event_line(each, row))
    return None


def _curve_width() -> int:
    return min(CURVE_WIDTH, terminal_width(sys.stdout) or CURVE_WIDTH)


def _facts(row: FineTuneRow, dialogues: int) -> list[tuple[str, str]]:
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
    return [(label, str(value)) for label, value in facts if value]


def event_line(event: EventRow, row: FineTuneRow) -> str:
    """An event for people, as one line; with the user's own rows that it names."""
    level = "" if event.level == "info" else f"{event.level}: "
    message = one_line(f"{level}{event.message}", EVENT_CHARACTERS)
    return f"  {event.created_at:%Y-%m-%d %H:%M:%S} {message} {rows_named_by(row, event)}".rstrip()


def plot(name: str, output: str | None) -> None:
    """Draw the curves into a .svg or .png file, or in the terminal.

    Raises:
        InputError: no step has been reported yet, or the file cannot be written.
    """
    migrations.ensure()
    row = find(name)
    points = points_of(row)
    title = f"{row.name} · {row.fine_tuned_model or row.options['model']}"
    if not points:
        raise InputError(f"{row.id} has no curves yet: it is {status_of(row)}, and no step has been reported.")
    if output is None:
        print_line(curves.draw_terminal(points, _curve_width(), title))
        return
    curves.save(points, output, title)
    print_line(f"{output}: {len(points):,} steps drawn", err=True)
