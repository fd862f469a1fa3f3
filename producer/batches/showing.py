"""A batch that stands at the end of a cell or in a debugger says what it is and how far, and never fails or hangs."""

import threading
from collections.abc import Callable, Sequence
from html import escape
from typing import TypeVar

from tidemill.models.batches import FailureReason
from tidemill.models.text import one_line
from tidemill.producer.batches.progress import Progress, counted

T = TypeVar("T")

_PATIENCE_SECONDS = 1.0


def soon(look: Callable[[], T]) -> T | None:
    """What a look at the database finds; None if it fails, or takes longer than a second."""
    outcome: list[T] = []

    def try_it() -> None:
        try:
            outcome.append(look())
        except Exception:  # noqa: BLE001  # whoever shows a batch may be looking for that very error
            return

    thread = threading.Thread(target=try_it, name="show", daemon=True)
    thread.start()
    thread.join(_PATIENCE_SECONDS)
    return outcome[0] if outcome else None


def line(name: str, so_far: Progress | None) -> str:
    """`<Batch prompts-3f9a1c · 4 rows: 3 succeeded, 1 failed, 0 open · 1,204 tokens · $0.021>`."""
    return f"<{name}>" if so_far is None else f"<{' · '.join([name, so_far.summary(), *_waiting(so_far)])}>"


def _waiting(so_far: Progress) -> list[str]:
    """What its open rows wait for, if for anything."""
    if not so_far.open:
        return []
    if so_far.hold_reason:
        return [f"on hold: {one_line(so_far.hold_reason, 160)}"]
    return [] if so_far.state == "open" else [so_far.state]


def html(batch_id: str, so_far: Progress, failures: Sequence[FailureReason]) -> str:
    """A small table of counts and cost, with the reasons of failures to be opened; in the colours of its page."""
    failed, place = so_far.states["failed"], f"tidemill-{escape(batch_id)}-failures"
    cells = {
        "rows": f"{so_far.rows:,}",
        "succeeded": f"{so_far.states['succeeded']:,}",
        "failed": f'<a href="#{place}">{failed:,}</a>' if failed else "0",
        "open": f"{so_far.open:,}",
        "tokens": f"{so_far.tokens:,}",
        "cost": escape(so_far.cost()),
    }
    if so_far.states["cancelled"]:
        cells["cancelled"] = f"{so_far.states['cancelled']:,}"
    head = "".join(f"<th>{name}</th>" for name in cells)
    row = "".join(f"<td>{cell}</td>" for cell in cells.values())
    state = "".join(f" &middot; {escape(each)}" for each in _waiting(so_far))
    table = f"<table><thead><tr>{head}</tr></thead><tbody><tr>{row}</tr></tbody></table>"
    shown = f"<div><strong>{escape(batch_id)}</strong>{state}{table}"
    return f"{shown}{_reasons(place, failed, failures)}</div>"


def _reasons(place: str, failed: int, failures: Sequence[FailureReason]) -> str:
    if not failures:
        return ""
    items = "".join(
        f"<li>{each.rows:,} &times; <code>{escape(each.code)}</code>: {escape(one_line(each.example, 300))}</li>"
        for each in failures
    )
    summary = f"<summary>Why {counted(failed, 'row')} failed</summary>"
    return f'<details id="{place}" open>{summary}<ul>{items}</ul></details>'
