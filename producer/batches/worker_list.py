"""Which worker processes live, and how much room each has, is what an operator asks first."""

from collections.abc import Iterator, Sequence

from tidemill import migrations
from tidemill.models import ledger, whereabouts
from tidemill.models.database import reading
from tidemill.models.durations import in_words
from tidemill.models.json_types import JsonObject
from tidemill.models.ledger import Worker
from tidemill.models.settings import settings
from tidemill.models.whereabouts import Upstream
from tidemill.producer.batches.progress import counted
from tidemill.producer.screen.printing import print_json, print_line, print_table
from tidemill.producer.screen.tables import Column

COLUMNS = (
    Column("worker", 1),
    Column("host", 4),
    Column("pid", 5),
    Column("provider", 6),
    Column("version", 9),
    Column("in flight", 2),
    Column("window", 3),
    Column("up", 8),
    Column("seen", 7),
)
_SHOWN_OF_ID = 8


def show(show_all: bool, as_json: bool) -> None:
    """Print the workers that live, with `show_all` also those that the database still knows."""
    migrations.ensure()
    with reading() as connection:
        known, now = ledger.all_workers(connection), ledger.clock(connection)
        out = [] if as_json else whereabouts.of_all(connection)
    shown = [worker for worker in known if show_all or worker.is_alive]
    if as_json:
        return print_json([_as_json(worker) for worker in shown])
    if not any(worker.is_alive for worker in known):
        print_line(_none_alive(gone=len(known) - len(shown)), err=True)
    if shown:
        print_table(COLUMNS, [_cells(worker, (now - worker.started_at).total_seconds()) for worker in shown])
    for sentence in _at_providers(out):
        print_line(sentence)
    return None


def _at_providers(out: Sequence[Upstream]) -> Iterator[str]:
    """What is at the Batch API of each provider, where no worker has it in flight."""
    for provider in sorted({each.provider for each in out}):
        its = [each for each in out if each.provider == provider]
        lines = sum(each.lines for each in its)
        yield f"at {provider}, in no worker's hands: {counted(lines, 'row')} in {counted(len(its), 'upstream batch')}"


def _none_alive(*, gone: int) -> str:
    if settings().embedded:
        start = "Without a broker each command that waits runs one inside itself; `tidemill worker` runs one, too."
    else:
        start = "Start one: `tidemill worker`."
    return f"No worker is alive. {start}" + (f" {counted(gone, 'worker')} gone; --all shows them." if gone else "")


def _cells(worker: Worker, up_seconds: float) -> Sequence[object]:
    silence = "gone, " if not worker.is_alive else ""
    return (
        worker.id[:_SHOWN_OF_ID],
        worker.host,
        worker.pid,
        worker.provider or "unknown",
        worker.version,
        worker.in_flight,
        worker.window,
        in_words(up_seconds),
        f"{silence}{in_words(worker.silent_seconds)} ago",
    )


def _as_json(worker: Worker) -> JsonObject:
    return {
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "provider": worker.provider,
        "version": worker.version,
        "window": worker.window,
        "in_flight": worker.in_flight,
        "started_at": worker.started_at.isoformat(),
        "seen_at": worker.seen_at.isoformat(),
        "seen_seconds_ago": round(worker.silent_seconds, 3),
        "alive": worker.is_alive,
    }
