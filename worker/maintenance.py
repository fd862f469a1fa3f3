"""The duties that keep the queue alive run in every worker, need no leader, and may run twice.

They are on several threads, so that none waits for what it does not need:
- the heartbeat: renew the leases, look at batches, rescue what vanished workers left;
- the courier: see that the runner gets jobs, from the broker (worker/courier.py) or without one (worker/own_claims.py);
- the rest may wait: judge what was left unjudged, prune.
A duty that fails logs one line and is tried again.
"""

import importlib.metadata
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, and_, delete, func, or_, select, update

from tidemill.models import going_online, journal, upstream
from tidemill.models.claims import renew
from tidemill.models.clock import now, now_after
from tidemill.models.database import reading, stuck_seconds, transact
from tidemill.models.lines import note
from tidemill.models.members import has_upstream_owner
from tidemill.models.settings import settings
from tidemill.models.tables import batches, dialogues, jobs, messages, workers
from tidemill.models.transitions import Rescuer, correct_due_times, rescue
from tidemill.worker.rounds import Rounds, try_duty
from tidemill.worker.runner import Runner

LOOK_SECONDS = 0.25
_STUCK_EXIT_CODE = 70
_LONGEST_GAP = 2 / 3
"""Between two heartbeats, in leases, which are a third apart; a longer one means that the database was away."""
_TICK_SECONDS = 1.0
_JUDGE_LEFTOVERS = 500
_LEFT_OVER_SECONDS = 60.0
_ROUTES_SECONDS = 1.0
_FORGET_WORKERS_SECONDS = 86_400.0


class Maintenance:
    """The duties of one worker process, and the rounds that bring its runner jobs."""

    def __init__(self, runner: Runner, couriers: Sequence[Rounds]) -> None:
        self._runner = runner
        self._beaten_at = self._unbroken_since = time.monotonic()
        self._is_known = False
        self._closed = threading.Event()
        lease = settings().lease_seconds
        self._heartbeat = Rounds(
            "heartbeat", {self._beat: lease / 3, self._look_at_batches: LOOK_SECONDS, self._rescue: min(5.0, lease / 3)}
        )
        rest = Rounds(
            "maintenance",
            {self._judge_leftovers: _LEFT_OVER_SECONDS / 12, self._go_online: _ROUTES_SECONDS, _prune: 3600.0},
        )
        self._rounds = (self._heartbeat, *couriers, rest)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def close(self, *, forget: bool = True) -> None:
        """Stop; and forget this worker in the database, unless that is known to be away."""
        self._closed.set()
        for each in self._rounds:
            each.stop()
        until = time.monotonic() + 10
        for each in self._rounds:
            each.join(max(0.0, until - time.monotonic()))
        if forget and self._is_known:
            try_duty(self._unregister)

    def _watch(self) -> None:
        """End a process that can neither renew nor store, whatever it waits for: others have its jobs by now."""
        stuck_for, seen, looked_at = 0.0, (-1, -1), time.monotonic()
        while not self._closed.wait(_TICK_SECONDS):
            state = (self._heartbeat.finished, self._runner.settler.finished)
            # While the process itself was frozen, it was not stuck.
            passed = min(time.monotonic() - looked_at, 2 * _TICK_SECONDS)
            stuck_for = stuck_for + passed if state == seen else 0.0
            seen, looked_at = state, time.monotonic()
            if stuck_for > stuck_seconds():
                sentence = f"nothing could be renewed or stored for {stuck_for:.0f} s; this process ends itself"
                note(logging.CRITICAL, "stuck", sentence, seconds=round(stuck_for))
                logging.shutdown()
                os._exit(_STUCK_EXIT_CODE)  # and whoever keeps this worker starts another one

    # --- the heartbeat ---

    def _beat(self) -> None:
        """Extend the leases of this process's jobs, and say that it lives."""
        began = time.monotonic()
        claiming = self._runner.claiming_ids()  # read first: a job goes from these to the owned ones
        owned = self._runner.owned_jobs()
        self._is_known = True
        kept = transact(lambda connection: self._renew(connection, [*owned, *claiming]))
        self._runner.note_renewal(began, owned, kept)
        at = time.monotonic()
        if at - self._beaten_at > _LONGEST_GAP * settings().lease_seconds:
            self._unbroken_since = at
        self._beaten_at = at

    def _renew(self, connection: Connection, ids: list[int]) -> set[int]:
        kept = renew(connection, ids, self._runner.claimant)
        alive = {"seen_at": now(), "in_flight": self._runner.in_flight}
        known = connection.execute(update(workers).where(workers.c.id == self._runner.worker_id).values(alive))
        if not known.rowcount:
            self._register(connection)
        return kept

    def _register(self, connection: Connection) -> None:
        connection.execute(
            workers.insert().values(
                id=self._runner.worker_id,
                host=socket.gethostname(),
                machine=machine(),
                pid=os.getpid(),
                provider=self._runner.claimant.provider,
                window=self._runner.window,
                version=importlib.metadata.version("tidemill"),
                started_at=now(),
                seen_at=now(),
            )
        )

    def _look_at_batches(self) -> None:
        """Tell the runner which batches were paused or cancelled, so that it begins none of their calls."""
        own = self._runner.batch_ids()
        if not own:
            return
        closed = select(batches.c.id).where(batches.c.id.in_(own), batches.c.state != "open")
        with reading() as connection:
            self._runner.closed_batches = frozenset(connection.scalars(closed))

    def _rescue(self) -> None:
        claiming = self._runner.claiming_ids()  # read first, as in `_beat`
        own_ids = [*self._runner.owned_jobs(), *claiming]
        rescued = transact(lambda connection: self._take_from_the_dead(connection, own_ids))
        if rescued:
            journal.log_rescue(rescued)
            self._runner.hungry.set()

    def _take_from_the_dead(self, connection: Connection, own_ids: list[int]) -> int:
        living, dead = _neighbours(connection)
        rescued = rescue(connection, Rescuer(self._runner.claimant, own_ids, dead, living, self._sees_everybody))
        connection.execute(delete(workers).where(workers.c.id.in_(dead)))
        correct_due_times(connection)
        return rescued

    @property
    def _sees_everybody(self) -> bool:
        """Whether the database was there for the length of a lease.

        Workers that were cut off with this one keep answers in memory, and need that time to come back.
        """
        at, lease = time.monotonic(), settings().lease_seconds
        return at - self._beaten_at < _LONGEST_GAP * lease and at - self._unbroken_since > lease

    # --- the rest ---

    def _judge_leftovers(self) -> None:
        """Judge replies that were stored but not judged, because their worker is gone or takes too long."""
        if self._runner.settler.is_judging:
            return  # perhaps these very replies
        others = messages.alias()
        last = select(func.max(others.c.position)).where(others.c.dialogue_id == dialogues.c.id).scalar_subquery()
        alive = select(workers.c.id).where(workers.c.seen_at > now_after(-settings().lease_seconds))
        unjudged = (
            select(dialogues.c.id, messages.c.content)
            .select_from(dialogues)
            .join(jobs, jobs.c.id == dialogues.c.id)
            .join(messages, (messages.c.dialogue_id == dialogues.c.id) & (messages.c.position == last))
            .where(
                dialogues.c.sentiment.is_(None),
                or_(
                    dialogues.c.created_at < now_after(-_LEFT_OVER_SECONDS),
                    and_(jobs.c.worker_id.not_in(alive), ~has_upstream_owner()),
                ),
            )
            .limit(_JUDGE_LEFTOVERS)
        )
        with reading() as connection:
            texts = [(row.id, row.content) for row in connection.execute(unjudged)]
        if texts:
            self._runner.settler.judge(texts)

    def _go_online(self) -> None:
        """Let rows go online that cannot wait for a cheaper route any longer."""
        if self._runner.has_live_calls_alone:
            return
        with reading() as connection:
            if not upstream.is_needed(connection, self._runner.claimant, tuple(self._runner.scopes)):
                return
        provider, models = self._runner.claimant.provider, self._runner.models_without_flex

        def move(connection: Connection) -> list[going_online.Move]:
            refused = going_online.leave_flex(connection, provider, models)
            return refused + going_online.meet(connection, provider)

        if moves := transact(move):
            journal.log_moves(moves)
            self._runner.hungry.set()

    def _unregister(self) -> None:
        transact(lambda connection: connection.execute(delete(workers).where(workers.c.id == self._runner.worker_id)))


def _prune() -> None:
    running = select(jobs.c.worker_id).where(jobs.c.state == "running")
    gone = workers.c.seen_at < now_after(-_FORGET_WORKERS_SECONDS), workers.c.id.not_in(running)
    transact(lambda connection: connection.execute(delete(workers).where(*gone)))


# --- who is dead ---


def machine() -> str:
    """Where a pid is valid: this boot of this kernel and this pid namespace. Elsewhere, the host's name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _neighbours(connection: Connection) -> tuple[list[str], list[str]]:
    """Ids of workers of this machine that live, and of those whose process is gone and whose jobs need not wait."""
    neighbours = connection.execute(select(workers.c.id, workers.c.pid).where(workers.c.machine == machine())).all()
    alive = {worker_id: _is_alive(pid) for worker_id, pid in neighbours}
    return [each for each in alive if alive[each]], [each for each in alive if not alive[each]]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
