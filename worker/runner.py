"""A worker process has one asyncio loop, one window of calls in flight, and this is it.

`admit` is called by a Celery slot with job ids: it waits for room, claims, hands the claimed jobs to the loop and
returns, so that no straggler holds a slot. A few more jobs are claimed than may be in flight, so that the window is
never empty while the database is asked.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

from sqlalchemy import Connection, select

from tidemill.models.database import writing
from tidemill.models.errors import DatabaseError
from tidemill.models.feed import IDS_PER_MESSAGE
from tidemill.models.holds import PROBE_SECONDS
from tidemill.models.options import Options, Transport
from tidemill.models.provider import Provider
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.tables import batches
from tidemill.models.transitions import Claimed, Settlement, claim, release
from tidemill.worker.ask import ask, snoozed
from tidemill.worker.judge import Judge
from tidemill.worker.limits import Limiter, limiter
from tidemill.worker.settle import Outcome, Settler
from tidemill.worker.train import train

log = logging.getLogger(__name__)

AHEAD = 2 * IDS_PER_MESSAGE
"""Jobs claimed beyond the window."""

_CLAIM_RETRY_SECONDS = 1.0
_LAST_WRITE_SECONDS = 10.0
_HOLD_SECONDS = PROBE_SECONDS[0] - 1.0
_KNOWN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Known:
    """What the jobs of a batch share, as it was at a monotonic time."""

    options: Options
    provider: str
    learned_at: float


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
        self.in_flight = 0
        """Jobs that have a place in the window: calling, or waiting for their turn under a limit."""
        self._room = threading.Condition()
        self._claimed = 0
        self._claimed_since_fed = 0
        self.closed: frozenset[str] = frozenset()
        """Batches that were found paused or cancelled a moment ago: none of their calls may begin."""
        self._owned: dict[int, Claimed] = {}
        self._claiming: list[Sequence[int]] = []
        self._held_until: dict[str, float] = {}
        self._stopping = False
        self._renewed_at = time.monotonic()
        self._known: dict[str, Known] = {}
        self._providers: dict[Transport, Provider] = {}
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(window)
        self._limiter: Limiter = limiter(settings().effective_limits_url)
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="loop", daemon=True)
        self._thread.start()
        self.settler = Settler(Judge(), hurry=lambda: self._claimed == 0, settled=self._disown)

    # --- from Celery's slots ---

    def admit(self, ids: Sequence[int]) -> None:
        """Claim and start these jobs as soon as there is room; returns once they are under way."""
        with self._room:
            self._room.wait_for(lambda: self._stopping or self.window + AHEAD - self._claimed >= len(ids))
            if self._stopping:
                return
            self._claimed += len(ids)
        claimed: list[tuple[Claimed, Known]] = []
        try:
            claimed = self._claim(ids)
        finally:
            self._make_room(len(ids) - len(claimed))
        if claimed:
            self._loop.call_soon_threadsafe(self._start, claimed)

    def _claim(self, ids: Sequence[int]) -> list[tuple[Claimed, Known]]:
        self._claiming.append(ids)
        try:
            with writing() as connection:
                claimed = claim(connection, ids, self.worker_id, settings().lease_seconds)
                known = self._batches_of(connection, claimed)
        except DatabaseError as error:
            # The message is used up, but the jobs are still in the table and will be sent again.
            log.warning("%d jobs not claimed: %s", len(ids), error)
            time.sleep(_CLAIM_RETRY_SECONDS)
            return []
        else:
            self._owned.update((job.id, job) for job in claimed)
        finally:
            self._claiming.remove(ids)
        self._claimed_since_fed += len(ids)
        if self._claimed_since_fed >= self.window // 2:
            self._claimed_since_fed = 0
            self.hungry.set()
        return [(job, known[job.batch_id]) for job in claimed]

    def _batches_of(self, connection: Connection, claimed: Sequence[Claimed]) -> dict[str, Known]:
        """What the jobs of each batch share, read again once in a while: how fast they go may change."""
        at = time.monotonic()
        known = {id_: each for id_, each in self._known.items() if at - each.learned_at < _KNOWN_SECONDS}
        unknown = {job.batch_id for job in claimed} - known.keys()
        if unknown:
            wanted = select(batches.c.id, batches.c.options, batches.c.provider).where(batches.c.id.in_(unknown))
            for batch_id, options, provider in connection.execute(wanted):
                known[batch_id] = Known(Options.from_json(options), provider, at)
        self._known = known
        return known

    def _make_room(self, jobs: int) -> None:
        if jobs:
            with self._room:
                self._claimed -= jobs
                self._room.notify_all()

    # --- on the loop ---

    def _start(self, claimed: Sequence[tuple[Claimed, Known]]) -> None:
        for job, known in claimed:
            task = self._loop.create_task(self._run(job, known))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Claimed, known: Known) -> None:
        try:
            async with self._slots:
                self.in_flight += 1
                try:
                    settlement = await self._asked(job, known)
                finally:
                    self.in_flight -= 1
        finally:
            self._make_room(1)
        if settlement.outcome == "held":
            self._held_until[known.provider] = time.monotonic() + _HOLD_SECONDS
        self.settler.put(Outcome(settlement, known.provider))

    async def _asked(self, job: Claimed, known: Known) -> Settlement:
        may_call = partial(self._may_call, job, known.provider)
        try:
            if not may_call():
                return snoozed(job)
            provider = self._provider(known.options.transport)
            if "dataset" in job.request:
                return await train(job, known.options, provider, may_call=may_call)
            return await ask(job, known.options, provider, self._limiter, settings().provider, may_call=may_call)
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

    def owned(self) -> dict[int, Claimed]:
        """By their ids the jobs that were claimed and whose end is not written yet: those whose lease must go on."""
        return dict(self._owned)

    def claiming(self) -> list[int]:
        """Ids of jobs that are being claimed: the claim of a huge row may be stored long before it has been read."""
        return [job_id for ids in list(self._claiming) for job_id in ids]

    def batches(self) -> set[str]:
        """Ids of the batches that these jobs are of."""
        return {job.batch_id for job in list(self._owned.values())}

    def _disown(self, ended: Iterable[Settlement]) -> None:
        for settlement in ended:
            job = self._owned.get(settlement.job_id)
            if job is not None and job.epoch == settlement.epoch:  # else it has been claimed again meanwhile
                del self._owned[settlement.job_id]
                if job.dialogue_id is not None:
                    self.hungry.set()  # its next turn need not wait for the next round

    def renewed(self, at: float, asked: Mapping[int, Claimed], kept: set[int]) -> None:
        """Note that at this monotonic time the leases of `kept` were renewed, of those `asked` for.

        The others have been taken from this worker while it was frozen or cut off, and are not called any more.
        """
        for job_id, job in asked.items():
            if job_id not in kept and self._owned.get(job_id) is job:  # else it has been claimed again meanwhile
                del self._owned[job_id]
        self._renewed_at = at

    def _may_call(self, job: Claimed, provider: str) -> bool:
        """Whether a call may begin now.

        Not when stopping; not when somebody has paused or cancelled the batch; not when the provider has just refused
        everybody, for what was claimed before that; not when answers cannot be stored; and not after this process was
        frozen for longer than its lease, for what others have taken over by now.
        """
        at = time.monotonic()
        leased = at - self._renewed_at < settings().lease_seconds and self._owned.get(job.id) is job
        wanted = not self._stopping and job.batch_id not in self.closed
        return leased and wanted and self.settler.trouble is None and at >= self._held_until.get(provider, 0.0)

    @property
    def trouble(self) -> str | None:
        """Why outcomes cannot be stored at present, in a sentence; None when they can."""
        return self.settler.trouble

    @property
    def is_admitting(self) -> bool:
        """False once it has been told to stop."""
        return not self._stopping

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
        if not self._thread.is_alive():
            self._loop.close()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._limiter.aclose()
        for provider in self._providers.values():
            await provider.aclose()
