"""The duties that keep the queue alive run in every worker, need no leader, and may run twice.

They are on three threads, so that none waits for what it does not need:
- the heartbeat needs the database only: renew the leases, look at batches, rescue what vanished workers left;
- the courier needs the broker, too: feed, send lost messages again;
- the rest may wait: claim without a broker that is away, judge what was left unjudged, prune.
A duty that fails logs one line and is tried again.
"""

import importlib.metadata
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, delete, func, or_, select, update

from tidemill.models import broker, journal
from tidemill.models.clock import now, now_after
from tidemill.models.database import reading, stuck_seconds, transact
from tidemill.models.errors import TidemillError
from tidemill.models.feed import IDS_PER_MESSAGE, RESEND_SECONDS, feed, resend_lost, take, unsend_older
from tidemill.models.settings import settings
from tidemill.models.tables import batches, dialogues, jobs, messages, workers
from tidemill.models.transitions import Rescuer, correct_due_times, renew, rescue
from tidemill.worker.runner import Runner

log = logging.getLogger(__name__)

FEED_SECONDS = 0.5
LOOK_SECONDS = 0.25
_STUCK_EXIT_CODE = 70
_AFTER_FAILURE_SECONDS = 2.0
_LONGEST_GAP = 2 / 3
"""Between two heartbeats, in leases, which are a third apart; a longer one means that the database was away."""
_SAY_AGAIN_SECONDS = 10.0
_BROKER_SECONDS = 5.0
"""A broker that takes longer to answer counts as away."""
_TICK_SECONDS = 1.0
_JUDGE_LEFTOVERS = 500
_LEFT_OVER_SECONDS = 60.0
_FORGET_WORKERS_SECONDS = 86_400.0

Duty = Callable[[], object]


class Rounds:
    """A thread that does duties, each as often as it says.

    Args:
        name: of the thread.
        duties: each with the seconds between two times.
        urgent: when set, the first duty is due.
    """

    def __init__(self, name: str, duties: dict[Duty, float], urgent: threading.Event | None = None) -> None:
        self._duties = duties
        self._urgent = urgent or threading.Event()
        self._stopping = False
        self.finished = 0
        """Duties done so far, failed ones too: as long as it rises, the thread is not stuck."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin no more duties."""
        self._stopping = True
        self._urgent.set()

    def join(self, seconds: float) -> None:
        """Wait for the end of the present duty, but no longer than this."""
        self._thread.join(seconds)

    def _run(self) -> None:
        due_at = dict.fromkeys(self._duties, 0.0)
        while not self._stopping:
            if self._urgent.is_set():
                self._urgent.clear()
                due_at[next(iter(self._duties))] = 0.0
            for duty, every in self._duties.items():
                if time.monotonic() >= due_at[duty] and not self._stopping:
                    done = try_duty(duty)
                    self.finished += 1
                    due_at[duty] = time.monotonic() + (every if done else _AFTER_FAILURE_SECONDS)
            self._urgent.wait(max(0.01, min(due_at.values()) - time.monotonic()))


_said_at: dict[str, float] = {}
"""Sentence -> when it was logged: in an outage all duties fail alike."""


def try_duty(duty: Duty) -> bool:
    """Do a duty; one that fails logs a line, and must not end the others."""
    try:
        duty()
    except TidemillError as error:
        sentence, at = str(error), time.monotonic()
        if at - _said_at.get(sentence, -math.inf) > _SAY_AGAIN_SECONDS:
            _said_at[sentence] = at
            log.warning("%s", sentence)
        return False
    except Exception as error:  # whatever it is, the others must go on
        debug = log.isEnabledFor(logging.DEBUG)
        log.error("maintenance: %s: %s; it will be tried again", type(error).__name__, error, exc_info=debug)
        return False
    return True


class Maintenance:
    """The duties of one worker process."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._asked_broker_at: float | None = None
        self._broker_failed = False
        self._beaten_at = self._unbroken_since = time.monotonic()
        self._closed = threading.Event()
        lease = settings().lease_seconds
        self._heartbeat = Rounds(
            "heartbeat", {self._beat: lease / 3, self._look_at_batches: LOOK_SECONDS, self._rescue: min(5.0, lease / 3)}
        )
        self._courier = Rounds("courier", {self._feed: FEED_SECONDS, self._resend: 2.0}, runner.hungry)
        self._rest = Rounds(
            "maintenance",
            {
                self._claim_without_broker: FEED_SECONDS,
                self._judge_leftovers: _LEFT_OVER_SECONDS / 12,
                _prune: 3600.0,
            },
        )
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def close(self, *, forget: bool = True) -> None:
        """Stop; and forget this worker in the database, unless that is known to be away."""
        self._closed.set()
        rounds = (self._heartbeat, self._courier, self._rest)
        for each in rounds:
            each.stop()
        until = time.monotonic() + 10
        for each in rounds:
            each.join(max(0.0, until - time.monotonic()))
        if forget:
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
                log.critical("nothing could be renewed or stored for %.0f s; this process ends itself", stuck_for)
                logging.shutdown()
                os._exit(_STUCK_EXIT_CODE)  # and whoever keeps this worker starts another one

    # --- the heartbeat ---

    def _beat(self) -> None:
        """Extend the leases of this process's jobs, and say that it lives."""
        began = time.monotonic()
        claiming = self._runner.claiming_ids()  # read first: a job goes from these to the owned ones
        owned = self._runner.owned_jobs()
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
        closed = select(batches.c.id).where(batches.c.id.in_(self._runner.batch_ids()), batches.c.state != "open")
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

    # --- the courier ---

    def _feed(self) -> None:
        if self._runner.is_admitting:
            self._ask_broker(lambda: [feed(scope) for scope in tuple(self._runner.scopes)])

    def _resend(self) -> None:
        self._ask_broker(resend_lost)

    def _ask_broker(self, question: Duty) -> None:
        self._asked_broker_at = time.monotonic()
        try:
            question()
        except broker.BrokerError:
            self._broker_failed = True
            raise
        else:
            self._broker_failed = False
        finally:
            self._asked_broker_at = None

    # --- the rest ---

    @property
    def _broker_is_away(self) -> bool:
        asked_at = self._asked_broker_at
        return self._broker_failed or (asked_at is not None and time.monotonic() - asked_at > _BROKER_SECONDS)

    def _claim_without_broker(self) -> None:
        """While the broker is away, claim due jobs straight from the database, and those whose messages are with it."""
        if not self._broker_is_away:
            return
        unsend_older(RESEND_SECONDS[True])
        while self._broker_is_away and (most := min(IDS_PER_MESSAGE, self._runner.free)):
            ids = take(self._runner.scopes[0], most)  # with a broker there is one: everything
            self._runner.admit(ids)
            if len(ids) < most:
                break

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
                    jobs.c.worker_id.not_in(alive),
                ),
            )
            .limit(_JUDGE_LEFTOVERS)
        )
        with reading() as connection:
            texts = [(row.id, row.content) for row in connection.execute(unjudged)]
        if texts:
            self._runner.settler.judge(texts)

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
