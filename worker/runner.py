"""Why this module exists: a worker process has one asyncio loop, one window of calls in flight, and this is it.

`admit` is called by a Celery slot with job ids: it waits for room, claims, hands the claimed jobs to the loop and
returns, so that no straggler holds a slot. A few more jobs are claimed than may be in flight, so that the window is
never empty while the database is asked.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit
from uuid import uuid4

from sqlalchemy import Connection, select

from models.database import writing
from models.errors import DatabaseError
from models.feed import IDS_PER_MESSAGE, Scope
from models.options import Options
from models.provider import Provider
from models.settings import Transport, settings
from models.tables import batches
from models.transitions import Claimed, Settlement, claim, release
from worker.ask import ask
from worker.limits import Limiter, limiter
from worker.sentiment import Judge
from worker.settle import Outcome, Settler

log = logging.getLogger(__name__)

AHEAD = 2 * IDS_PER_MESSAGE
"""Jobs claimed beyond the window."""

_CLAIM_RETRY_SECONDS = 1.0
_LAST_WRITE_SECONDS = 10.0


class Runner:
    """Runs claimed jobs on the process's loop.

    Args:
        window: calls in flight at most.
        scope: whose jobs this process sends to the broker by itself.
    """

    def __init__(self, window: int, scope: Scope) -> None:
        self.worker_id = uuid4().hex
        self.window = window
        self.scope = scope
        self.hungry = threading.Event()
        """Set when so much was claimed that the broker may run dry."""
        self._room = threading.Condition()
        self._claimed = 0
        self._claimed_since_fed = 0
        self._owned: set[int] = set()
        self._stopping = False
        self._renewed_at = time.monotonic()
        self._batches: dict[str, tuple[Options, str]] = {}
        self._providers: dict[Transport, Provider] = {}
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(window)
        self._limiter: Limiter = limiter(settings().effective_limits_url)
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="loop", daemon=True)
        self._thread.start()
        self.settler = Settler(Judge(), hurry=lambda: self._claimed == 0, settled=self._owned.difference_update)

    # --- from Celery's slots ---

    def admit(self, ids: Sequence[int]) -> None:
        """Claim and start these jobs as soon as there is room; returns once they are under way."""
        with self._room:
            self._room.wait_for(lambda: self._stopping or self.window + AHEAD - self._claimed >= len(ids))
            if self._stopping:
                return
            self._claimed += len(ids)
        claimed: list[Claimed] = []
        try:
            claimed = self._claim(ids)
        finally:
            self._make_room(len(ids) - len(claimed))
        if claimed:
            self._loop.call_soon_threadsafe(self._start, claimed)

    def _claim(self, ids: Sequence[int]) -> list[Claimed]:
        try:
            with writing() as connection:
                claimed = claim(connection, ids, self.worker_id, settings().lease_seconds)
                self._learn_batches(connection, {job.batch_id for job in claimed})
        except DatabaseError as error:
            # The message is used up, but the jobs are still in the table and will be sent again.
            log.warning("%d jobs not claimed: %s", len(ids), error)
            time.sleep(_CLAIM_RETRY_SECONDS)
            return []
        self._owned.update(job.id for job in claimed)
        self._claimed_since_fed += len(ids)
        if self._claimed_since_fed >= self.window // 2:
            self._claimed_since_fed = 0
            self.hungry.set()
        return claimed

    def _learn_batches(self, connection: Connection, ids: set[str]) -> None:
        """Keep what the jobs of a batch share; it never changes while the batch has open jobs."""
        unknown = ids - self._batches.keys()
        if unknown:
            wanted = select(batches.c.id, batches.c.options, batches.c.provider).where(batches.c.id.in_(unknown))
            for batch_id, options, provider in connection.execute(wanted):
                self._batches[batch_id] = (Options.from_json(options), provider)

    def _make_room(self, jobs: int) -> None:
        if jobs:
            with self._room:
                self._claimed -= jobs
                self._room.notify_all()

    # --- on the loop ---

    def _start(self, claimed: Sequence[Claimed]) -> None:
        for job in claimed:
            task = self._loop.create_task(self._run(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Claimed) -> None:
        options, provider_name = self._batches[job.batch_id]
        try:
            async with self._slots:
                settlement = await self._asked(job, options)
        finally:
            self._make_room(1)
        self.settler.put(Outcome(settlement, provider_name))

    async def _asked(self, job: Claimed, options: Options) -> Settlement:
        if self._stopping or not self._lease_is_valid():
            return Settlement(job.id, job.epoch, job.batch_id, "snoozed")
        try:
            return await ask(job, options, self._provider(options.transport), self._limiter, _bucket())
        except Exception as error:  # a defect of ours must cost one row, not the process
            log.error("job %d: %s: %s", job.id, type(error).__name__, error, exc_info=log.isEnabledFor(logging.DEBUG))
            told = f"tidemill itself failed on this row ({type(error).__name__}); please report it."
            return Settlement(
                job.id, job.epoch, job.batch_id, "failed", counted=True, error_code="internal_error", error=told
            )

    def _provider(self, transport: Transport) -> Provider:
        if transport not in self._providers:
            configured = settings()
            self._providers[transport] = Provider(
                base_url=configured.openai_base_url,
                api_key=configured.openai_api_key,
                transport=transport,
                timeout_seconds=configured.timeout_seconds,
                connections=self.window,
                organization=configured.openai_org_id,
                project=configured.openai_project_id,
            )
        return self._providers[transport]

    # --- the lease ---

    def owned(self) -> list[int]:
        """Ids of the jobs that were claimed and whose end is not written yet: those whose lease must go on."""
        return list(self._owned)

    def renewed(self, at: float) -> None:
        """Note that the leases were renewed at this monotonic time."""
        self._renewed_at = at

    def _lease_is_valid(self) -> bool:
        # A process that was frozen for longer than its lease must not pay for what others have taken over.
        return time.monotonic() - self._renewed_at < settings().lease_seconds

    @property
    def in_flight(self) -> int:
        """Jobs claimed and not yet settled by the loop."""
        return self._claimed

    # --- the end ---

    def stop_admitting(self) -> None:
        """Claim nothing more, and start no call that has not begun."""
        with self._room:
            self._stopping = True
            self._room.notify_all()

    def drain(self, seconds: float) -> None:
        """Let calls in flight end for so long, settle what ended, and give the rest back."""
        self.stop_admitting()
        deadline = time.monotonic() + seconds
        with suppress(KeyboardInterrupt):  # asked a second time: wait no longer
            while self._claimed and time.monotonic() < deadline:
                time.sleep(0.02)
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self.settler.close(_LAST_WRITE_SECONDS)
        try:
            with writing() as connection:
                release(connection, self.worker_id)
        except DatabaseError as error:
            log.warning("jobs not given back, their leases will end: %s", error)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._limiter.aclose()
        for provider in self._providers.values():
            await provider.aclose()


def _bucket() -> str:
    """The rate budget that all workers with this provider share, whatever the model."""
    return urlsplit(settings().openai_base_url).netloc
