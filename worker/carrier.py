"""Upstream batches are packed, sent, followed and read beside the live calls, on a thread and a loop of their own.

Every worker does it, and none leads: whoever is first has a batch's next step until its lease ends. So an upload that
takes minutes keeps neither the calls nor the other batches back.
"""

import asyncio
import threading
import time
from contextlib import suppress
from functools import partial
from logging import WARNING

from sqlalchemy import Connection, select

from tidemill.models import due, going_online, journal, upstream
from tidemill.models.creations import LostError
from tidemill.models.database import reading, transact
from tidemill.models.errors import DatabaseError
from tidemill.models.lines import Seldom, place_of
from tidemill.models.options import Options
from tidemill.models.tables import batches
from tidemill.models.upstream import UpstreamBatch
from tidemill.worker import creations
from tidemill.worker.clients import Clients
from tidemill.worker.runner import Runner
from tidemill.worker.upstream import advance
from tidemill.worker.upstream_run import Run

MOST_STEPS = 4
"""Steps that one process makes at once."""

LOOK_SECONDS = 0.5
_FIRST_MOMENT_SECONDS = 1.0
"""A command that is over by then has no need of it."""
_AFTER_FAILURE_SECONDS = 2.0
_LAST_STEP_SECONDS = 2.0
"""What a step may still take when the worker stops: most need no longer, and a transfer is begun anew."""
_JOIN_SECONDS = 10.0


class Carrier:
    """Makes the due steps of upstream batches for a runner: of its provider, and within its scopes."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._worker = runner.claimant
        self._seldom = Seldom()
        self._clients = Clients(2 * MOST_STEPS)
        self._has_had_steps = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: set[int] = set()
        """Ids of the upstream batches whose step is being made."""
        self._may_have_others = False
        """Whether this worker may have steps that it does not make: the database was away when it took or ended one."""
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="carrier", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin no more steps, and soon break off those that are under way; whoever comes next makes them again."""
        self._stopping = True
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._wake.set)

    def join(self) -> None:
        """Wait until nothing of it is under way."""
        self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._carry())

    async def _carry(self) -> None:
        pause = _FIRST_MOMENT_SECONDS
        while not await self._is_stopped_within(pause):
            pause = LOOK_SECONDS
            try:
                taken = await asyncio.to_thread(self._take)
            except Exception as error:  # noqa: BLE001  # whatever it is, the next look is in a moment
                sentence = f"no upstream batch could be taken: {_reason(error)}"
                self._seldom.note(WARNING, "carrier_waits", sentence, about=sentence)
                self._may_have_others = True
                pause = _AFTER_FAILURE_SECONDS
                continue
            for batch, options in taken:
                self._under_way.add(batch.id)
                task = self._loop.create_task(self._advance(batch, options))
                self._tasks.add(task)
                task.add_done_callback(self._note_done)
        await self._close()

    async def _is_stopped_within(self, seconds: float) -> bool:
        """Wait for this long, or until a step has ended; whether to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()
        return self._stopping

    def _note_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()

    async def _close(self) -> None:
        tasks = list(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_STEP_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._clients.aclose()
        if self._has_had_steps:
            with suppress(Exception):  # then its leases end by themselves
                await asyncio.to_thread(transact, partial(upstream.free_of, worker_id=self._worker.worker_id))

    # --- on other threads ---

    def _take(self) -> list[tuple[UpstreamBatch, Options]]:
        """Steps for which this worker has room, with the options of their rows."""
        if self._may_have_others:
            self._may_have_others = False
            own = partial(upstream.free_of, worker_id=self._worker.worker_id, but=tuple(self._under_way))
            transact(own)
        scopes, most = tuple(self._runner.scopes), MOST_STEPS - len(self._tasks)
        if most <= 0 or self._runner.has_live_calls_alone:
            return []
        with reading() as connection:
            if not upstream.is_needed(connection, self._worker, scopes):
                return []
            unpacked = due.batches_to_pack(connection, scopes)
            if not unpacked and not upstream.is_any_due(connection, self._worker, scopes):
                return []
        begun = [batch for each in unpacked[:most] if (batch := self._begin(each)) is not None]
        left = most - len(begun)
        if left:
            begun += transact(lambda connection: upstream.take(connection, self._worker, scopes, left))
        self._has_had_steps = self._has_had_steps or bool(begun)
        with reading() as connection:
            return [(batch, _options(connection, batch)) for batch in begun]

    def _begin(self, batch_id: str) -> UpstreamBatch | None:
        def begin(connection: Connection) -> tuple[going_online.Move | None, UpstreamBatch | None]:
            move = going_online.finish(connection, batch_id)
            return move, upstream.begin(connection, batch_id, self._worker) if move is None else None

        move, begun = transact(begin)
        if move is not None:
            journal.log_moves([move])
            self._runner.hungry.set()
        return begun

    # --- on the loop ---

    async def _advance(self, batch: UpstreamBatch, options: Options) -> None:
        try:
            await self._make_step(batch, options)
        except DatabaseError as error:
            self._seldom.note(WARNING, "carrier_waits", f"an upstream batch waits: {error}", about=str(error))
            self._may_have_others = True
        finally:
            self._under_way.discard(batch.id)

    async def _make_step(self, batch: UpstreamBatch, options: Options) -> None:
        provider, judge = self._clients.usable("http"), self._runner.settler.judge
        if provider is None:
            return  # the lease ends, and another machine may be able to
        run = Run(batch, options, provider, self._worker, tuple(self._runner.scopes), judge, self._runner.meter)
        step = self._loop.create_task(advance(run))
        renewal = self._loop.create_task(self._renew(run, step))
        try:
            await step
        except asyncio.CancelledError:
            if self._stopping:
                raise
        finally:
            renewal.cancel()

    async def _renew(self, run: Run, step: asyncio.Task[None]) -> None:
        """Keep the lease while the step is made; a step that others have is broken off."""
        while True:
            await asyncio.sleep(self._worker.lease_seconds / 3)
            began = time.monotonic()
            try:
                await creations.write(upstream.renew, run.batch, self._worker.lease_seconds)
                run.renewed_at = began
            except LostError:
                step.cancel()
                return
            except DatabaseError:
                continue


def _options(connection: Connection, batch: UpstreamBatch) -> Options:
    stored = connection.scalar(select(batches.c.options).where(batches.c.id == batch.batch_id))
    return Options.from_json(stored if isinstance(stored, dict) else {"model": batch.model})


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, DatabaseError) else place_of(error)
