"""A worker process has one asyncio loop with one window of calls in flight, and this module runs it.

A Celery thread calls `admit` with job ids; without a broker, worker/own_claims.py calls `admit_due`. The jobs are
claimed as soon as there is room and handed to the loop, so that no slow call blocks the thread. A few more jobs are
claimed than may be in flight, so that the window is never empty while the next ones are claimed. No call begins while
as many answers wait to be stored: they would be lost, and paid for again, with this process.
"""

import asyncio
import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from logging import ERROR, WARNING
from uuid import uuid4

from sqlalchemy import Connection

from tidemill.models import journal
from tidemill.models.claims import ALONE_AFTER, Claimant, Claimed, Taken, left_to_run_alone, take
from tidemill.models.database import transact
from tidemill.models.due import IDS_AT_ONCE, next_jobs
from tidemill.models.errors import DatabaseError, SettingsError
from tidemill.models.holds import PROBE_SECONDS
from tidemill.models.lines import Seldom, note, place_of
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.settling import Settlement
from tidemill.models.transitions import release
from tidemill.worker import settlements
from tidemill.worker.calling import Calling
from tidemill.worker.clients import Clients
from tidemill.worker.judge import Judge
from tidemill.worker.kinds import KINDS
from tidemill.worker.known_batches import KnownBatch, KnownBatches
from tidemill.worker.limits import Limiter, limiter
from tidemill.worker.loop import new_loop
from tidemill.worker.meter import Counts, Meter
from tidemill.worker.settle import BULK_ROWS, Settler

MOST_AHEAD = 2 * IDS_AT_ONCE
"""Jobs claimed beyond the window, but no more than the window: with this process they would be lost for nothing."""

_CLAIM_RETRY_SECONDS = 1.0
_CLOSE_SECONDS = 10.0
_LAST_WRITE_SECONDS = 10.0
_NO_FILE_SECONDS = 2.0
_NO_CLIENT_SECONDS = 5.0
_HOLD_SECONDS = PROBE_SECONDS[0] - 1.0


class Runner:
    """Runs claimed jobs on the process's loop.

    Args:
        window: calls in flight at most.
        scope: whose jobs this process sends to the broker by itself, and calls.
    """

    def __init__(self, window: int, scope: Scope) -> None:
        self.worker_id = uuid4().hex
        self.claimant = Claimant(self.worker_id, settings().provider, settings().lease_seconds)
        self.window = window
        self._most_claimed = window + min(window, MOST_AHEAD)
        self._worth_a_claim = min(window, IDS_AT_ONCE)
        self.scopes = [scope]
        """Whose jobs are sent and called: one for each who waits in this process."""
        self.hungry = threading.Event()
        """Set when there is need of more jobs: the broker may run out of messages, or there is room to claim some."""
        self.expects_more = False
        """Whether the last claim of due jobs left some, so that the next one is worth it when there is room."""
        self._waits_for_room = False
        """Whether the last claim left jobs where they were: a call that ends may give back what the next one needs."""
        self._worth_trying = self._most_claimed
        """How many jobs a budget is likely to let out at once: what does not fit would be claimed in vain."""
        self.in_flight = 0
        """Jobs that have a slot of the window: calling, or waiting for a limit."""
        self._room = threading.Condition()
        self._claimed = 0
        self._claimed_since_fed = 0
        self.closed_batches: frozenset[str] = frozenset()
        """Ids of batches that are paused or cancelled: none of their calls may begin."""
        self._is_alone = False
        self._owned: dict[int, Claimed] = {}
        self._claiming: dict[int, Sequence[int]] = {}
        self._may_own_others = False
        """Whether the reply to a claim was lost: it may have been stored."""
        self._held_until: dict[str, float] = {}
        self._stopping = False
        self._renewed_at = time.monotonic()
        self._batches = KnownBatches()
        self._clients = Clients(window)
        self._seldom = Seldom()
        self._loop = new_loop()
        self._waiting: deque[tuple[Claimed, KnownBatch]] = deque()
        """Claimed jobs without a slot yet."""
        self._unstored = 0
        """Jobs that had a slot and whose settlement is not stored yet."""
        self._limiter: Limiter = limiter(settings().effective_limits_url)
        self._lanes: set[asyncio.Task[None]] = set()
        """Each is a slot of the window that is in use."""
        self._thread = threading.Thread(target=self._loop.run_forever, name="loop", daemon=True)
        self._thread.start()
        self.meter = Meter()
        self.settler = Settler(
            Judge(),
            bulk_rows=min(BULK_ROWS, window),
            hurry=self._is_hurried,
            on_written=self._note_stored,
            meter=self.meter,
        )

    # --- on Celery's threads, or the courier's ---

    def admit(self, ids: Sequence[int]) -> None:
        """Claim and start these jobs as soon as there is room; returns once they are under way."""
        for start in range(0, len(ids), self._worth_a_claim):
            part = ids[start : start + self._worth_a_claim]
            if self._reserve(part):
                self._run_alone(self._begin_surely(part))
        self._claimed_since_fed += len(ids)
        if self._claimed_since_fed >= self.window // 2:
            self._claimed_since_fed = 0
            self.hungry.set()

    def admit_due(self, scope: Scope, most: int) -> int:
        """Claim and start due jobs of a scope, at most so many; returns how many were due.

        Raises:
            DatabaseError: the database does not answer; nothing is claimed.
        """
        with self._room:
            most = min(most, self._places)
            if not most:
                return 0
            self._claimed += most
        chosen: list[int] = []
        try:
            suspects = self._begin(most, lambda connection: next_jobs(connection, scope, lambda: most), chosen)
        except BaseException:
            self._make_room(most)
            raise
        self._run_alone(suspects)
        return len(chosen)

    @property
    def free(self) -> int:
        """How many jobs may be claimed at present; 0 while they are too few to be worth a claim."""
        return min(self._places, self._worth_trying) if self._places >= self._worth_a_claim else 0

    @property
    def _places(self) -> int:
        return 0 if self._is_alone or self._stopping else max(0, self._most_claimed - self._claimed)

    def _reserve(self, ids: Sequence[int]) -> bool:
        """Wait for room; False when the worker stops."""
        with self._room:
            self._room.wait_for(lambda: self._stopping or self._places >= len(ids))
            if not self._stopping:
                self._claimed += len(ids)
            return not self._stopping

    def _run_alone(self, job_ids: Sequence[int]) -> None:
        """Run jobs that workers vanished with while this process has no other, so that they can take none with them."""
        for job_id in job_ids:
            sentence = f"job {job_id} runs alone: {ALONE_AFTER} workers vanished while they ran it"
            note(WARNING, "alone", sentence, job=job_id)
            with self._room:
                self._room.wait_for(lambda: self._stopping or not self._is_alone)
                self._is_alone = True
                self._room.wait_for(lambda: self._stopping or self._is_idle)
                self._claimed += 1
            try:
                if self._stopping:
                    self._make_room(1)
                else:
                    self._begin_surely([job_id], alone=True)
                    with self._room:
                        self._room.wait_for(lambda: self._stopping or self._is_idle)
            finally:
                with self._room:
                    self._is_alone = False
                    self._room.notify_all()

    @property
    def _is_idle(self) -> bool:
        return self._claimed == 0 and not self._owned

    def _begin_surely(self, ids: Sequence[int], *, alone: bool = False) -> list[int]:
        """As `_begin`, but it waits for a database that is away: a message comes once."""
        while True:
            try:
                return self._begin(len(ids), lambda _: ids, [], alone=alone)
            except DatabaseError as error:
                sentence = f"{len(ids)} jobs not claimed yet: {error}"
                self._seldom.note(WARNING, "waits_to_claim", sentence, about=str(error), jobs=len(ids))
                with self._room:
                    if self._room.wait_for(lambda: self._stopping, _CLAIM_RETRY_SECONDS):
                        break  # the message is used up, but its jobs are in the table
            except BaseException:
                self._make_room(len(ids))
                raise
        self._make_room(len(ids))
        return []

    def _begin(
        self, reserved: int, choose: Callable[[Connection], Sequence[int]], chosen: list[int], *, alone: bool = False
    ) -> list[int]:
        """Claim and start the chosen jobs, for which there is room; returns ids of those that only run alone."""

        def claim_them(connection: Connection) -> tuple[Taken, dict[str, KnownBatch], list[int]]:
            chosen[:] = choose(connection)
            taken = take(connection, chosen, self.claimant, alone=alone) if chosen else Taken([])
            is_whole = len(taken.jobs) + taken.left_out == len(chosen)
            suspects = [] if alone or is_whole else left_to_run_alone(connection, chosen)
            return taken, self._batches.of(connection, taken.jobs), suspects

        self._claiming[id(chosen)] = chosen
        try:
            (claimed, left_out), batch_of, suspects = transact(claim_them)
            self._owned.update((job.id, job) for job in claimed)
            journal.log_claim(claimed, self.worker_id)
        except BaseException:
            self._may_own_others = True
            raise
        finally:
            del self._claiming[id(chosen)]
        if chosen:
            self._waits_for_room = left_out > 0  # what others have taken meanwhile says nothing of a budget
            more = len(claimed) if self._waits_for_room else 2 * self._worth_trying
            self._worth_trying = min(max(1, more), self._most_claimed)
        self._make_room(reserved - len(claimed))
        if claimed:
            self._loop.call_soon_threadsafe(self._start, [(job, batch_of[job.batch_id]) for job in claimed])
        return suspects

    @property
    def has_live_calls_alone(self) -> bool:
        """Whether it is known that all who wait here need nothing but live calls: no other route, and no deadline."""
        return self._batches.are_live(tuple(self.scopes))

    def _make_room(self, jobs: int) -> None:
        if jobs:
            with self._room:
                self._claimed -= jobs
                self._room.notify_all()

    # --- on the loop ---

    def _start(self, claimed: Sequence[tuple[Claimed, KnownBatch]]) -> None:
        self._waiting.extend(claimed)
        self._open_lanes()

    def _open_lanes(self) -> None:
        """Run waiting jobs in slots that are free, as far as their settlements may wait to be stored."""
        free = min(self.window - len(self._lanes), 2 * self.window - self._unstored)
        for _ in range(min(len(self._waiting), free)):
            lane = self._loop.create_task(self._run_waiting())
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)

    async def _run_waiting(self) -> None:
        """Run one job after another in one slot: a task for each would cost a tenth of what its call does."""
        while self._waiting and self._unstored < 2 * self.window:
            self._unstored += 1
            await self._run(*self._waiting.popleft())

    async def _run(self, job: Claimed, batch: KnownBatch) -> None:
        self.in_flight += 1
        try:
            settlement = await self._work(job, batch)
        finally:
            self.in_flight -= 1
            self._make_room(1)
            if self.expects_more and self.free:
                self.hungry.set()
        if settlement.outcome == "held" or settlement.hold_reason is not None:
            self._held_until[batch.provider] = time.monotonic() + _HOLD_SECONDS
        self.settler.put(settlement, batch.provider)

    async def _work(self, job: Claimed, batch: KnownBatch) -> Settlement:
        """Run the job by the coroutine of its kind."""
        may_call = partial(self._may_call, job, batch.provider)
        try:
            if not may_call():
                return settlements.of_snooze(job)
            provider = self._clients.usable(batch.options.transport)
            if provider is None:
                return settlements.of_snooze(job, _NO_CLIENT_SECONDS)
            calling = Calling(provider, self._limiter, settings().provider, may_call, batch.route, batch.seconds_left)
            return await KINDS[batch.kind](job, batch.options, calling)
        except SettingsError as error:  # a kind or an endpoint of a package that is not installed here
            return settlements.of_defect(job, "not_supported", str(error))
        except Exception as error:  # noqa: BLE001  # a defect of ours must cost one row, not the process
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                return settlements.of_snooze(job, _NO_FILE_SECONDS)  # none was left for a pool of connections
            note(ERROR, "defect", f"job {job.id}: {place_of(error)}; please report it", job=job.id, batch=job.batch_id)
            sentence = f"tidemill itself failed on this row ({type(error).__name__}); please report it."
            return settlements.of_defect(job, "internal_error", sentence)

    @property
    def models_without_flex(self) -> set[str]:
        """Models that the server has refused to run at the flex tier."""
        return self._clients.models_without_flex

    # --- the lease ---

    def owned_jobs(self) -> dict[int, Claimed]:
        """By id, the claimed jobs whose end is not written yet: their leases must be renewed."""
        return dict(self._owned)

    def claiming_ids(self) -> list[int]:
        """Ids of jobs that are being claimed: the claim of a huge row may be stored long before it is read."""
        return [job_id for ids in list(self._claiming.values()) for job_id in list(ids)]

    def batch_ids(self) -> set[str]:
        """Ids of the batches of the owned jobs."""
        return {job.batch_id for job in list(self._owned.values())}

    def _note_stored(self, ended: Sequence[Settlement]) -> None:
        for settlement in ended:
            job = self._owned.get(settlement.job_id)
            if job is not None and job.epoch == settlement.epoch:  # else it has been claimed again meanwhile
                del self._owned[settlement.job_id]
                if job.dialogue_id is not None:
                    self.hungry.set()  # the dialogue's next turn need not wait for the next feed
        if self._waits_for_room:
            self.hungry.set()
        if self._is_alone:
            with self._room:
                self._room.notify_all()
        self._loop.call_soon_threadsafe(self._make_storable, len(ended))

    def _make_storable(self, settlements: int) -> None:
        self._unstored -= settlements
        self._open_lanes()

    def note_renewal(self, at: float, owned: Mapping[int, Claimed], kept: set[int]) -> None:
        """Note that at this monotonic time the leases of `kept`, among the `owned`, were renewed.

        The others were taken from this worker while it was frozen or cut off, and must not be called any more.
        """
        for job_id, job in owned.items():
            if job_id not in kept and self._owned.get(job_id) is job:  # else it has been claimed again meanwhile
                del self._owned[job_id]
        self._renewed_at = at

    def _may_call(self, job: Claimed, provider: str) -> bool:
        """Whether a call may begin now.

        Not when the worker stops, when nobody waits for the job any more, when the batch is paused or cancelled, when
        its provider was just put on hold, when answers cannot be stored, or when this process was frozen for longer
        than its lease and others have the job.
        """
        at = time.monotonic()
        leased = at - self._renewed_at < settings().lease_seconds and self._owned.get(job.id) is job
        is_wanted = not self._stopping and job.batch_id not in self.closed_batches and self._covers(job)
        return leased and is_wanted and self.settler.trouble is None and at >= self._held_until.get(provider, 0.0)

    def _covers(self, job: Claimed) -> bool:
        for scope in self.scopes:  # noqa: SIM110  # each call asks three times, and a generator takes thrice as long
            if scope.covers(job.batch_id, job.dialogue_id):
                return True
        return False

    @property
    def trouble(self) -> str | None:
        """Why no call can be made or stored at present, in a sentence; None when they can."""
        return self.settler.trouble or self._clients.trouble

    # --- for who watches ---

    def counts(self) -> Counts:
        """What this process's calls came to so far."""
        return {**self.meter.read(), **self._limiter.waits.counts}

    @property
    def calls_under_way(self) -> int:
        """Calls that are sent and not ended; other jobs with a slot wait for a limit."""
        return self._limiter.calls_under_way

    @property
    def waiting_for_limits(self) -> int:
        """Jobs with a slot that may not call yet."""
        return max(0, self.in_flight - self.calls_under_way)

    @property
    def oldest_call_seconds(self) -> float:
        """For how long the oldest call is under way."""
        return self._limiter.oldest_call_seconds

    @property
    def pause_seconds(self) -> float:
        """For how long the provider has asked not to be called; 0 if it has not."""
        return self._limiter.longest_pause_seconds

    @property
    def unstored(self) -> int:
        """Jobs whose run has ended and is not stored yet."""
        return max(0, self._unstored - self.in_flight)

    @property
    def is_admitting(self) -> bool:
        """False once the runner must stop."""
        return not self._stopping

    # --- the end ---

    def stop_admitting(self) -> None:
        """Claim nothing more, and start no call that has not begun."""
        with self._room:
            self._stopping = True
            self._room.notify_all()

    def drain(self, seconds: float) -> bool:
        """Wait this long for calls in flight, settle what has ended, and give the rest back.

        Returns whether the database was there to the end.
        """
        self.stop_admitting()
        deadline = time.monotonic() + seconds
        journal.log_drain(self.in_flight, seconds)
        with suppress(KeyboardInterrupt):  # a second Ctrl-C: wait no longer
            while self._claimed and time.monotonic() < deadline:
                time.sleep(0.02)
        if self.in_flight:
            journal.log_broken_off(self.in_flight)
        with suppress(TimeoutError):  # what has ended must be stored, whatever keeps a connection from closing
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_CLOSE_SECONDS)
        self.settler.close(_LAST_WRITE_SECONDS)
        has_released = self._release() if self._owned or self._may_own_others else True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()
        return has_released

    def _release(self) -> bool:
        """Give back what is left; returns whether the database was there."""
        try:
            released = transact(lambda connection: release(connection, self.worker_id))
        except DatabaseError as error:
            note(WARNING, "not_released", f"jobs not given back, their leases will end: {error}")
            return False
        journal.log_release(released, self.worker_id)
        return True

    def _is_hurried(self) -> bool:
        """Whether what has ended is to be stored at once: nothing else is under way, or a budget lets few calls out."""
        return self._claimed == 0 or (self._waits_for_room and self._claimed < IDS_AT_ONCE)

    async def _close(self) -> None:
        for job, batch in self._waiting:
            self.settler.put(settlements.of_snooze(job), batch.provider)  # for certain no call was made
        self._waiting.clear()
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        await self._limiter.aclose()
        await self._clients.aclose()
