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

from tidemill.models import journal
from tidemill.models.database import writing
from tidemill.models.errors import DatabaseError, SettingsError
from tidemill.models.feed import IDS_PER_MESSAGE
from tidemill.models.holds import PROBE_SECONDS
from tidemill.models.options import Options, Transport
from tidemill.models.provider import Provider
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.tables import batches
from tidemill.models.transitions import Claimed, Settlement, claim, release
from tidemill.worker.calling import Calling
from tidemill.worker.judge import Judge
from tidemill.worker.kinds import KINDS
from tidemill.worker.limits import Limiter, limiter
from tidemill.worker.settle import Settler
from tidemill.worker.settlements import failed_here, snoozed

log = logging.getLogger(__name__)

AHEAD = 2 * IDS_PER_MESSAGE
"""Jobs claimed beyond the window."""

_CLAIM_RETRY_SECONDS = 1.0
_LAST_WRITE_SECONDS = 10.0
_HOLD_SECONDS = PROBE_SECONDS[0] - 1.0
_SHARED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Shared:
    """What the jobs of a batch share, as it was at a monotonic time."""

    kind: str
    options: Options
    provider: str
    read_at: float


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
        self._shared: dict[str, Shared] = {}
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
        claimed: list[tuple[Claimed, Shared]] = []
        try:
            claimed = self._claim(ids)
        finally:
            self._make_room(len(ids) - len(claimed))
        if claimed:
            self._loop.call_soon_threadsafe(self._start, claimed)

    def _claim(self, ids: Sequence[int]) -> list[tuple[Claimed, Shared]]:
        self._claiming.append(ids)
        try:
            with writing() as connection:
                claimed = claim(connection, ids, self.worker_id, settings().lease_seconds)
                shared = self._shared_by(connection, claimed)
        except DatabaseError as error:
            # The message is used up, but the jobs are still in the table and will be sent again.
            log.warning("%d jobs not claimed: %s", len(ids), error)
            time.sleep(_CLAIM_RETRY_SECONDS)
            return []
        else:
            self._owned.update((job.id, job) for job in claimed)
            journal.claimed(claimed, self.worker_id)
        finally:
            self._claiming.remove(ids)
        self._claimed_since_fed += len(ids)
        if self._claimed_since_fed >= self.window // 2:
            self._claimed_since_fed = 0
            self.hungry.set()
        return [(job, shared[job.batch_id]) for job in claimed]

    def _shared_by(self, connection: Connection, claimed: Sequence[Claimed]) -> dict[str, Shared]:
        """What the jobs of each batch share, read again once in a while: how fast they go may change."""
        at = time.monotonic()
        shared = {id_: each for id_, each in self._shared.items() if at - each.read_at < _SHARED_SECONDS}
        unread = {job.batch_id for job in claimed} - shared.keys()
        if unread:
            columns = batches.c.id, batches.c.kind, batches.c.options, batches.c.provider
            for row in connection.execute(select(*columns).where(batches.c.id.in_(unread))):
                shared[row.id] = Shared(row.kind, Options.from_json(row.options), row.provider, at)
        self._shared = shared
        return shared

    def _make_room(self, jobs: int) -> None:
        if jobs:
            with self._room:
                self._claimed -= jobs
                self._room.notify_all()

    # --- on the loop ---

    def _start(self, claimed: Sequence[tuple[Claimed, Shared]]) -> None:
        for job, shared in claimed:
            task = self._loop.create_task(self._run(job, shared))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Claimed, shared: Shared) -> None:
        try:
            async with self._slots:
                self.in_flight += 1
                try:
                    settlement = await self._work(job, shared)
                finally:
                    self.in_flight -= 1
        finally:
            self._make_room(1)
        if settlement.outcome == "held":
            self._held_until[shared.provider] = time.monotonic() + _HOLD_SECONDS
        self.settler.put(settlement, shared.provider)

    async def _work(self, job: Claimed, shared: Shared) -> Settlement:
        """Let the work of the job's kind run it."""
        may_call = partial(self._may_call, job, shared.provider)
        try:
            if not may_call():
                return snoozed(job)
            provider = self._provider(shared.options.transport)
            calling = Calling(provider, self._limiter, settings().provider, may_call)
            return await KINDS[shared.kind](job, shared.options, calling)
        except SettingsError as error:  # a kind or an endpoint of a package that is not installed here
            return failed_here(job, "not_supported", str(error))
        except Exception as error:  # a defect of ours must cost one row, not the process
            log.error("job %d: %s: %s", job.id, type(error).__name__, error, exc_info=log.isEnabledFor(logging.DEBUG))
            sentence = f"tidemill itself failed on this row ({type(error).__name__}); please report it."
            return failed_here(job, "internal_error", sentence)

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
        is_wanted = not self._stopping and job.batch_id not in self.closed
        return leased and is_wanted and self.settler.trouble is None and at >= self._held_until.get(provider, 0.0)

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
                released = release(connection, self.worker_id)
            journal.released(released, self.worker_id)
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
