"""One step of an upstream batch has all that it needs in one place, and writes what comes next through it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tidemill.models import upstream
from tidemill.models.batch_servers import BatchServer, batch_server
from tidemill.models.claims import Claimant
from tidemill.models.database import reading
from tidemill.models.options import Options
from tidemill.models.provider import Provider
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.upstream import Step, UpstreamBatch
from tidemill.worker import creations
from tidemill.worker.meter import Meter

FIRST_LOOK_SECONDS = 1.0
_LOOK_SHARE = 0.1
"""The share of its age after which what is out is looked at again."""
_MOST_PAUSE_SECONDS = 60.0
_MOST_ASKED_SECONDS = 3_600.0


@dataclass(slots=True)
class Run:
    """One step of an upstream batch in the hands of one worker.

    Args:
        batch: as it was when the step was taken.
        options: those of its rows.
        provider: the way to the provider.
        worker: who has the step.
        scopes: whose rows this worker packs.
        judge: has replies judged that are in doubt.
        meter: counts what is stored.
    """

    batch: UpstreamBatch
    options: Options
    provider: Provider
    worker: Claimant
    scopes: Sequence[Scope]
    judge: Callable[[list[tuple[int, str]]], None]
    meter: Meter
    renewed_at: float = field(default_factory=time.monotonic)
    """On the monotonic clock."""

    @property
    def path(self) -> Path:
        """Where its file of lines is on this machine."""
        return folder() / f"{self.batch.token}.jsonl"

    def has_it(self) -> bool:
        """Whether nobody else can have the step by now."""
        return time.monotonic() - self.renewed_at < self.worker.lease_seconds


def folder() -> Path:
    """Where the files of upstream batches are while they are sent and read."""
    return settings().home / "upstream"


async def go_on(run: Run, step: Step, seconds: float = 0.0, **columns: object) -> None:
    """End this step: which one is next, and when. Raises LostError."""
    await creations.write(upstream.go_on, run.batch, step, seconds, **columns)


async def try_again(run: Run, reason: str, asked_seconds: float | None = None, *, least: float = 0.0) -> None:
    """Make the same step again after a growing pause, or after the one that the server asks for; note why.

    It is tried for ever: while it is not sent it costs nothing, and what was sent may be paid.
    """
    failures = run.batch.failures + 1
    pause = min(2.0 ** min(failures, 10), _MOST_PAUSE_SECONDS, settings().poll_seconds)
    pause = max(least, min(asked_seconds or 0.0, _MOST_ASKED_SECONDS), pause)
    await go_on(run, run.batch.step, pause, failures=failures, note=reason)


def age_seconds(batch: UpstreamBatch) -> float:
    """Since the provider made it; it only decides how often to look."""
    return max(0.0, (datetime.now(UTC) - (batch.sent_at or batch.created_at)).total_seconds())


def look_seconds(batch: UpstreamBatch) -> float:
    """After how long it is looked at again, by its age, and at least as often as the settings say."""
    return min(settings().poll_seconds, max(FIRST_LOOK_SECONDS, age_seconds(batch) * _LOOK_SHARE))


def read(run: Run) -> UpstreamBatch:
    """The batch as it is now; blocks."""
    with reading() as connection:
        return upstream.read(connection, run.batch)


def server() -> BatchServer:
    """What is special about the provider; one that is not known to have a Batch API is asked in OpenAI's way."""
    return batch_server(settings().openai_base_url) or BatchServer("this server")
