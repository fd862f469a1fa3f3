"""The duties that keep the queue alive run in every worker, need no leader, and may run twice.

Feed, renew, rescue, resend, judge what was left unjudged, prune. A duty that fails logs one line and is tried again.
"""

import importlib.metadata
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, delete, func, or_, select, update

from tidemill.models import journal
from tidemill.models.clock import now, now_after
from tidemill.models.database import reading, writing
from tidemill.models.errors import TidemillError
from tidemill.models.feed import feed, resend_lost
from tidemill.models.settings import settings
from tidemill.models.tables import batches, dialogues, jobs, messages, workers
from tidemill.models.transitions import renew, rescue
from tidemill.worker.runner import Runner

log = logging.getLogger(__name__)

FEED_SECONDS = 0.5
LOOK_SECONDS = 0.25
_AFTER_FAILURE_SECONDS = 2.0
_JUDGE_LEFTOVERS = 500
_LEFT_OVER_SECONDS = 60.0
_FORGET_WORKERS_SECONDS = 86_400.0


class Maintenance:
    """The duties of one worker process, on a thread of their own."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._stop = threading.Event()
        lease = settings().lease_seconds
        self._duties: dict[Callable[[], object], float] = {
            self._beat: lease / 3,
            self._feed: FEED_SECONDS,
            self._look_at_batches: LOOK_SECONDS,
            self._rescue: min(5.0, lease / 3),
            resend_lost: 2.0,
            self._judge_leftovers: _LEFT_OVER_SECONDS / 12,
            _prune: 3600.0,
        }
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and remove the worker's row."""
        self._stop.set()
        self._runner.hungry.set()
        self._thread.join(10)
        self._try(self._unregister)

    def _run(self) -> None:
        due_at = dict.fromkeys(self._duties, 0.0)
        while not self._stop.is_set():
            if self._runner.hungry.is_set():
                self._runner.hungry.clear()
                due_at[self._feed] = 0.0
            for duty, every in self._duties.items():
                if time.monotonic() >= due_at[duty]:
                    done = self._try(duty)
                    due_at[duty] = time.monotonic() + (every if done else max(every, _AFTER_FAILURE_SECONDS))
            self._runner.hungry.wait(max(0.01, min(due_at.values()) - time.monotonic()))

    def _try(self, duty: Callable[[], object]) -> bool:
        try:
            duty()
        except TidemillError as error:
            log.warning("%s", error)
            return False
        except Exception as error:  # a duty that fails must not end the others
            log.error("maintenance: %s: %s; it will be tried again", type(error).__name__, error, exc_info=_debug())
            return False
        return True

    # --- the duties ---

    @contextmanager
    def _renewing(self) -> Iterator[Connection]:
        """A transaction that first extends the leases of this process's jobs."""
        began = time.monotonic()
        with writing() as connection:
            claiming = self._runner.claiming_ids()  # read first: a job goes from these to the owned ones
            owned = self._runner.owned_jobs()
            kept = renew(connection, [*owned, *claiming], self._runner.worker_id, settings().lease_seconds)
            yield connection
        self._runner.note_renewal(began, owned, kept)

    def _beat(self) -> None:
        with self._renewing() as connection:
            known = connection.execute(
                update(workers)
                .where(workers.c.id == self._runner.worker_id)
                .values(seen_at=now(), in_flight=self._runner.in_flight)
            )
            if not known.rowcount:
                self._register(connection)

    def _register(self, connection: Connection) -> None:
        connection.execute(
            workers.insert().values(
                id=self._runner.worker_id,
                host=socket.gethostname(),
                machine=machine(),
                pid=os.getpid(),
                window=self._runner.window,
                version=importlib.metadata.version("tidemill"),
                started_at=now(),
                seen_at=now(),
            )
        )

    def _feed(self) -> None:
        if self._runner.is_admitting:
            feed(self._runner.scope)

    def _look_at_batches(self) -> None:
        """Tell the runner which batches were paused or cancelled, so that it begins none of their calls."""
        closed = select(batches.c.id).where(batches.c.id.in_(self._runner.batch_ids()), batches.c.state != "open")
        with reading() as connection:
            self._runner.closed_batches = frozenset(connection.scalars(closed))

    def _rescue(self) -> None:
        with self._renewing() as connection:  # a process whose own leases ran out must not rescue its own jobs
            dead = _dead_neighbours(connection)
            rescued = rescue(connection, dead)
            connection.execute(delete(workers).where(workers.c.id.in_(dead)))
        if rescued:
            journal.log_rescue(rescued)
            self._runner.hungry.set()

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
        with writing() as connection:
            connection.execute(delete(workers).where(workers.c.id == self._runner.worker_id))


def _debug() -> bool:
    return log.isEnabledFor(logging.DEBUG)


def _prune() -> None:
    with writing() as connection:
        running = select(jobs.c.worker_id).where(jobs.c.state == "running")
        connection.execute(
            delete(workers).where(workers.c.seen_at < now_after(-_FORGET_WORKERS_SECONDS), workers.c.id.not_in(running))
        )


# --- who is dead ---


def machine() -> str:
    """Where a pid is valid: this boot of this kernel and this pid namespace. Elsewhere, the host's name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _dead_neighbours(connection: Connection) -> list[str]:
    """Ids of workers of this machine whose process is gone: their jobs need not wait for the lease to end."""
    neighbours = connection.execute(select(workers.c.id, workers.c.pid).where(workers.c.machine == machine())).all()
    return [worker_id for worker_id, pid in neighbours if not _is_alive(pid)]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
