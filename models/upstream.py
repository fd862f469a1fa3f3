"""A batch at the provider's Batch API owns its rows like a worker with a long lease; all SQL on it is here.

A row of `upstream_batches` goes through `STEPS`. Whoever takes the next one has a short lease on it, and writes only
while that lasts. The jobs that are its lines, its members, stay `running`: their worker is called `up-TOKEN`, and their
lease is longer than the provider may take. All functions work on a connection in the caller's transaction.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial
from itertools import takewhile
from typing import Literal, NamedTuple

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Connection,
    Label,
    Select,
    String,
    and_,
    delete,
    insert,
    or_,
    select,
    true,
    update,
)

from tidemill.models import batch_servers, claims, creations, settling, transitions, turns
from tidemill.models.batch_servers import Counts, Status
from tidemill.models.bulk import Given, run
from tidemill.models.claims import Claimant, Claimed
from tidemill.models.clock import now, now_after, seconds_since
from tidemill.models.creations import LostError
from tidemill.models.job_locks import CLAIMS
from tidemill.models.json_types import JsonObject
from tidemill.models.members import OWNER
from tidemill.models.routes import ONLINE, UPSTREAM
from tidemill.models.scope import Scope
from tidemill.models.settling import Settlement
from tidemill.models.tables import attempts, batches, fit, jobs, upstream_batches, workers
from tidemill.models.text import loads

Step = Literal["pack", "build", "upload", "create", "follow", "collect", "end"]
"""What comes next. pack: rows are claimed. build: their lines are written to a file. follow: the provider is asked how
it goes, and told to cancel if somebody wants that. collect: its answers are read. end: what is left is cleared away."""

Refusal = Literal["queue", "bytes", "lines", "rate"]
"""What of it was too much for the provider: tokens that wait, bytes of the file, a line that nobody has named."""

_TAKEN = ("in_progress", "finalizing", "completed", "expired")
"""Statuses of a batch whose lines the provider has accepted."""

UNSENT_LEASE_SECONDS = 48 * 3600.0
SPARE_LEASE_SECONDS = 24 * 3600.0
"""How long members wait for a batch that is not created yet, and for one beyond its expiry."""

_REMEMBERED = 40
"""Upstream batches from which the next one's size is learned."""


@dataclass(frozen=True, slots=True)
class UpstreamBatch:
    """One row of `upstream_batches`, as it was read; the table says what each field means."""

    id: int
    batch_id: str
    provider: str
    token: str
    step: Step
    model: str
    endpoint: str
    route: str
    lines: int
    bytes: int
    tokens: int
    sha256: str | None
    file_id: str | None
    remote_id: str | None
    status: str | None
    wanted: str | None
    remote: JsonObject | None
    refused: Refusal | None
    queue_tokens: int | None
    note: str | None
    worker_id: str | None
    failures: int
    created_at: datetime
    sent_at: datetime | None
    seen_at: datetime | None
    expires_at: datetime | None
    kept_until: datetime | None
    ended_at: datetime | None

    @property
    def owner_id(self) -> str:
        """The worker that its members have."""
        return OWNER + self.token

    @property
    def counts(self) -> Counts:
        """Its lines at the provider by what became of them, as far as it says so."""
        return batch_servers.counts_of(self.remote or {}, self.lines)

    @property
    def meaning(self) -> Status | None:
        """Its status in OpenAI's words; None before the provider has it."""
        return None if self.status is None else batch_servers.status_of({"status": self.status})

    @property
    def has_ended(self) -> bool:
        """Whether the provider does no more of it."""
        return self.meaning in batch_servers.ENDED


_COLUMNS = [upstream_batches.c[field.name] for field in fields(UpstreamBatch)]


def open_of(connection: Connection, batch_id: str) -> list[UpstreamBatch]:
    """The upstream batches of a batch that have not ended, oldest first."""
    is_open = upstream_batches.c.batch_id == batch_id, upstream_batches.c.ended_at.is_(None)
    return _read(connection, *is_open)


def all_of(connection: Connection, batch_id: str) -> list[UpstreamBatch]:
    """The upstream batches that a batch ever had, oldest first."""
    return _read(connection, upstream_batches.c.batch_id == batch_id)


def has_open() -> Label[bool]:
    """The column `is_out` of a query of batches: whether one has upstream batches that have not ended."""
    own = upstream_batches.c.batch_id == batches.c.id, upstream_batches.c.ended_at.is_(None)
    return select(upstream_batches.c.id).where(*own).exists().label("is_out")


def read(connection: Connection, batch: UpstreamBatch) -> UpstreamBatch:
    """The row as it is now."""
    return _read(connection, upstream_batches.c.id == batch.id)[0]


# --- taking a step ---


def begin(connection: Connection, batch_id: str, worker: Claimant) -> UpstreamBatch | None:
    """Begin an upstream batch without members, in the hands of this worker; None while another one is being packed."""
    is_its_route = batches.c.route.in_(UPSTREAM)  # still: its deadline may have come
    own = select(batches.c.route).where(batches.c.id == batch_id, is_its_route).with_for_update(skip_locked=True)
    packing = upstream_batches.c.batch_id == batch_id, upstream_batches.c.step == "pack"
    is_packed = select(upstream_batches.c.id).where(*packing, upstream_batches.c.ended_at.is_(None))
    route = connection.scalar(own)
    if route is None or connection.scalar(is_packed) is not None:
        return None
    new = insert(upstream_batches).values(
        batch_id=batch_id,
        provider=worker.provider,
        token=secrets.token_hex(12),
        step="pack",
        model="",
        endpoint="",
        route=route,
        worker_id=worker.worker_id,
        lease_until=now_after(worker.lease_seconds),
        due_at=now(),
        created_at=now(),
        kept_until=now_after(UNSENT_LEASE_SECONDS),
    )
    upstream_id = connection.execute(new.returning(upstream_batches.c.id)).scalar_one()
    return _read(connection, upstream_batches.c.id == upstream_id)[0]


def is_needed(connection: Connection, worker: Claimant, scopes: Collection[Scope]) -> bool:
    """Whether this worker may have a step to take, or rows that go by another route than online.

    One look, which all duties of routes share, since most workers have no such batch. Steps that others have count:
    they may be dead.
    """
    own = {scope.batch_id for scope in scopes}
    by_route = select(batches.c.id).where(
        batches.c.state == "open",
        batches.c.provider == worker.provider,
        batches.c.route != ONLINE,
        true() if None in own else batches.c.id.in_(own),
    )
    return connection.scalar(select(or_(by_route.exists(), _open(worker, scopes).exists()))) or False


def is_any_due(connection: Connection, worker: Claimant, scopes: Collection[Scope]) -> bool:
    """Whether this worker could take a step."""
    return connection.scalar(select(_due(worker, scopes).exists())) or False


def take(connection: Connection, worker: Claimant, scopes: Collection[Scope], most: int) -> list[UpstreamBatch]:
    """Take for a worker the next step of at most so many upstream batches that are due and that nobody has."""
    due = _due(worker, scopes).order_by(upstream_batches.c.due_at).limit(most).with_for_update(skip_locked=True)
    taken = (
        update(upstream_batches)
        .where(upstream_batches.c.id.in_(due), _is_free(worker))
        .values(worker_id=worker.worker_id, lease_until=now_after(worker.lease_seconds))
        .returning(upstream_batches.c.id)
    )
    ids = list(connection.scalars(taken))
    return _read(connection, upstream_batches.c.id.in_(ids)) if ids else []


def _due(worker: Claimant, scopes: Collection[Scope]) -> Select[int]:
    return _open(worker, scopes).where(upstream_batches.c.due_at <= now(), _is_free(worker))


def _open(worker: Claimant, scopes: Collection[Scope]) -> Select[int]:
    own = {scope.batch_id for scope in scopes}
    return select(upstream_batches.c.id).where(
        upstream_batches.c.ended_at.is_(None),
        upstream_batches.c.provider == worker.provider,
        true() if None in own else upstream_batches.c.batch_id.in_(own),
    )


def _is_free(worker: Claimant) -> ColumnElement[bool]:
    """Whether nobody has the step: its lease has ended, or whoever had it is not among the workers any more.

    A worker is struck off when it ends, or when a neighbour sees that its process is gone.
    """
    has_ended = upstream_batches.c.lease_until.is_(None), upstream_batches.c.lease_until < now()
    is_known = select(workers.c.id).where(workers.c.id == upstream_batches.c.worker_id).exists()
    return or_(*has_ended, and_(upstream_batches.c.worker_id != worker.worker_id, ~is_known))


def renew(connection: Connection, batch: UpstreamBatch, lease_seconds: float) -> None:
    """Extend this worker's lease on the step. Raises LostError."""
    change(connection, batch, lease_until=now_after(lease_seconds))


def change(connection: Connection, /, batch: UpstreamBatch, **columns: object) -> None:
    """Write columns of a row that this worker has. Raises LostError if another one has it by now."""
    own = upstream_batches.c.id == batch.id, upstream_batches.c.worker_id == batch.worker_id
    changed = update(upstream_batches).where(*own, upstream_batches.c.ended_at.is_(None)).values(**columns)
    if not connection.execute(changed).rowcount:
        raise LostError


def go_on(connection: Connection, /, batch: UpstreamBatch, step: Step, seconds: float = 0.0, **columns: object) -> None:
    """End this worker's step: which one is next, and when. Raises LostError."""
    fresh = {"failures": 0} if step != batch.step else {}
    free = {"worker_id": None, "lease_until": None, "due_at": now_after(seconds)}
    change(connection, batch, step=step, **free, **fresh, **columns)


def forget(connection: Connection, batch: UpstreamBatch) -> None:
    """Take back the beginning of one for which there were no rows. Raises LostError."""
    check(connection, batch)
    connection.execute(delete(upstream_batches).where(upstream_batches.c.id == batch.id))


def forget_all(connection: Connection, batch_id: str) -> None:
    """Delete what is known of the upstream batches of a batch that is deleted, and of what was created for them."""
    own = upstream_batches.c.batch_id == batch_id
    ids = connection.scalars(select(upstream_batches.c.id).where(own)).all()
    creations.forget(connection, [owner_name(upstream_id) for upstream_id in ids])
    connection.execute(delete(upstream_batches).where(own))


def end(connection: Connection, /, batch: UpstreamBatch, **columns: object) -> None:
    """Note that it is over and has no members any more. Raises LostError."""
    change(connection, batch, step="end", worker_id=None, lease_until=None, ended_at=now(), **columns)


def free_of(connection: Connection, worker_id: str, but: Collection[int] = ()) -> None:
    """Let anybody take at once the steps that a worker has and does not make, all `but` those of these batches."""
    left = upstream_batches.c.worker_id == worker_id, upstream_batches.c.ended_at.is_(None)
    others = update(upstream_batches).where(*left, upstream_batches.c.id.not_in(but))
    connection.execute(others.values(worker_id=None, lease_until=None))


def check(connection: Connection, batch: UpstreamBatch) -> None:
    """Lock the row until the transaction ends. Raises LostError if it is another worker's by now."""
    own = upstream_batches.c.id == batch.id, upstream_batches.c.worker_id == batch.worker_id
    is_open = upstream_batches.c.ended_at.is_(None)
    if connection.scalar(select(upstream_batches.c.id).where(*own, is_open).with_for_update()) is None:
        raise LostError


def owner(batch: UpstreamBatch) -> creations.Owner:
    """The owner of what is created at the provider for it."""

    return creations.Owner(owner_name(batch.id), partial(check, batch=batch))


def owner_name(upstream_id: int) -> str:
    """The key of its creations."""
    return f"upstream {upstream_id}"


# --- members ---


def claimant(batch: UpstreamBatch) -> Claimant:
    """Who claims rows for it."""
    return Claimant(batch.owner_id, batch.provider, UNSENT_LEASE_SECONDS, batch.id, batch.route)


def members(connection: Connection, batch: UpstreamBatch, after: int, most: int) -> list[Claimed]:
    """The next members by id, as they were claimed."""
    columns = jobs.c.id, jobs.c.epoch, jobs.c.batch_id, jobs.c.request, jobs.c.failures, jobs.c.dialogue_id
    page = select(*columns).where(*_is_member(batch.id), jobs.c.worker_id == batch.owner_id, jobs.c.id > after)
    found = [
        Claimed(row.id, row.epoch, row.batch_id, row.request, row.failures, _NO_AGE, row.dialogue_id)
        for row in connection.execute(page.order_by(jobs.c.id).limit(most))
    ]
    return [_with_history(connection, job) for job in found]


def asked(connection: Connection, batch: UpstreamBatch, claims: Collection[tuple[int, int]]) -> list[Claimed]:
    """Those of these (job id, epoch) that are lines of this batch and whose answer is not recorded yet.

    Among them are jobs that were taken away meanwhile: what their calls cost still counts.
    """
    rows = run(connection, _select_asked, CLAIMS.filled(list(claims)), {"owner": batch.owner_id})
    found = [Claimed(row[0], row[1], row[2], loads(row[3]), row[4], _NO_AGE, row[5]) for row in rows]
    return [_with_history(connection, job) for job in found]


def _select_asked(connection: Connection) -> ClauseElement:
    rows = CLAIMS.values(connection)
    columns = jobs.c.id, attempts.c.epoch, jobs.c.batch_id, jobs.c.request, jobs.c.failures, jobs.c.dialogue_id
    its_attempt = and_(attempts.c.job_id == rows.c.job_id, attempts.c.epoch == rows.c.epoch)
    is_open = or_(attempts.c.outcome.is_(None), attempts.c.outcome == "lost")
    lines = select(*columns).select_from(rows).join(attempts, its_attempt).join(jobs, jobs.c.id == attempts.c.job_id)
    return lines.where(attempts.c.worker_id == Given("owner", type_=String), is_open)


def _with_history(connection: Connection, job: Claimed) -> Claimed:
    if job.dialogue_id is None:
        return job
    before = turns.history(connection, job.dialogue_id, before=job.id)
    return job._replace(history=tuple(each.message for each in before))


_NO_AGE = 0.0
"""Hours at the provider are no time in which a row was tried in vain."""


def _is_member(upstream_id: int) -> tuple[ColumnElement[bool], ...]:
    return jobs.c.upstream_id == upstream_id, jobs.c.state == "running", jobs.c.worker_id.like(f"{OWNER}%")


def keep_members(connection: Connection, batch: UpstreamBatch, seconds: float) -> None:
    """Let its members wait so long for it. Raises LostError."""
    change(connection, batch, kept_until=now_after(seconds))
    claims.keep(connection, batch.id, batch.owner_id, seconds)


def give_back(
    connection: Connection, batch: UpstreamBatch, claims: Sequence[tuple[int, int]], seconds: float = 0.0
) -> None:
    """Queue members again that were never asked: nothing is counted. They are due after so many seconds.

    In a batch that somebody has cancelled they are cancelled. Raises LostError.
    """
    check(connection, batch)
    settling.settle(connection, [Settlement(*claim, batch.batch_id, "snoozed", seconds) for claim in claims])
    _cancel_if_closed(connection, batch, [job_id for job_id, _ in claims])


def lose(connection: Connection, batch: UpstreamBatch, claims: Sequence[tuple[int, int]]) -> None:
    """The same for members whose answers are in no file although the provider may have billed them: they are lost."""
    check(connection, batch)
    ids = [job_id for job_id, _ in claims]
    transitions.release(connection, batch.owner_id, ids)
    _cancel_if_closed(connection, batch, ids)


def members_from(connection: Connection, batch: UpstreamBatch, first: int, most: int) -> list[tuple[int, int]]:
    """(job id, epoch) of its next members from this id on."""
    page = select(jobs.c.id, jobs.c.epoch).where(*_is_member(batch.id), jobs.c.worker_id == batch.owner_id)
    page = page.where(jobs.c.id >= first).order_by(jobs.c.id).limit(most)
    return [(row.id, row.epoch) for row in connection.execute(page)]


def _cancel_if_closed(connection: Connection, batch: UpstreamBatch, ids: list[int]) -> None:
    state = connection.scalar(select(batches.c.state).where(batches.c.id == batch.batch_id))
    if state == "cancelled":
        transitions.cancel_jobs(connection, ids)


# --- what the provider says ---


def note_created(connection: Connection, batch: UpstreamBatch, remote: JsonObject) -> None:
    """Note the provider's batch; its members wait until a day after its expiry. Raises LostError."""
    change(connection, batch, remote_id=fit(str(remote["id"]), upstream_batches.c.remote_id), sent_at=now())
    note_seen(connection, batch, remote)
    created_at, expires_at = batch_servers.time_of(remote, "created_at"), batch_servers.time_of(remote, "expires_at")
    # By the database's clock: the provider's may be another one.
    window = (expires_at - created_at).total_seconds() if created_at and expires_at else SPARE_LEASE_SECONDS
    keep_members(connection, batch, max(0.0, window) + SPARE_LEASE_SECONDS)


def seconds_unseen(connection: Connection, batch: UpstreamBatch) -> float:
    """For how long the provider has not said how it is."""
    unseen = select(seconds_since(connection, upstream_batches.c.seen_at)).where(upstream_batches.c.id == batch.id)
    return float(connection.scalar(unseen) or 0.0)


def may_be_created(connection: Connection, batch: UpstreamBatch) -> bool:
    """Whether the provider may have it: its creation was sent, and nobody knows that it has come to nothing."""
    known = creations.load(connection, owner_name(batch.id))
    return any(each.doubt_seconds is not None for place, each in known.items() if place.step == "batch")


def seconds_kept(connection: Connection, batch: UpstreamBatch) -> float:
    """For how long its members still wait for it; not above 0 if they do no more."""
    kept = select(-seconds_since(connection, upstream_batches.c.kept_until)).where(upstream_batches.c.id == batch.id)
    return float(connection.scalar(kept) or 0.0)


def note_seen(connection: Connection, batch: UpstreamBatch, remote: JsonObject) -> None:
    """Note how the provider's batch is. Raises LostError."""
    columns: JsonObject = {"remote": remote, "status": fit(str(remote.get("status")), upstream_batches.c.status)}
    if expires_at := batch_servers.time_of(remote, "expires_at"):
        columns["expires_at"] = expires_at
    change(connection, batch, seen_at=now(), note=None, **columns)


# --- packing ---


class Room(NamedTuple):
    """How much the next upstream batch may hold."""

    lines: int
    bytes: int
    tokens: int


def room(connection: Connection, batch: UpstreamBatch, model: str, most: Room) -> Room:
    """What the provider has room for, as far as is known: nothing more is packed where a number is 0.

    What was too much halves the next one, and each one that is taken doubles it. A limit of tokens that the provider
    has named holds for all that wait there.
    """
    recent = _recent(connection, batch, model)
    own = [each for each in recent if each.batch_id == batch.batch_id]
    waiting = sum(each.tokens for each in recent if each.ended_at is None and not each.has_ended)
    named = next((each.queue_tokens for each in reversed(recent) if each.queue_tokens), None)
    tokens = _learned(recent, "queue", "tokens", most.tokens)
    if named is not None:
        tokens = min(tokens, int(named * _QUEUE_SHARE) - waiting)
    if not waiting:
        tokens = max(tokens, 1)  # one line must go, so that the provider can say whether it ever fits
    return Room(_learned(own, "lines", "lines", most.lines), _learned(recent, "bytes", "bytes", most.bytes), tokens)


def _recent(connection: Connection, batch: UpstreamBatch, model: str) -> list[UpstreamBatch]:
    """The last other ones of the same provider and model, oldest first."""
    lately = upstream_batches.c.created_at > now_after(-_REMEMBERED_SECONDS)
    alike = upstream_batches.c.provider == batch.provider, upstream_batches.c.model == model
    newest = select(*_COLUMNS).where(*alike, lately, upstream_batches.c.id != batch.id)
    newest = newest.order_by(upstream_batches.c.id.desc()).limit(_REMEMBERED)
    return [UpstreamBatch(*row) for row in connection.execute(newest)][::-1]


def refusals_in_a_row(connection: Connection, batch: UpstreamBatch) -> int:
    """How often the provider's queue was full, the last time for this one, with none taken between."""
    others = reversed(_recent(connection, batch, batch.model))
    before = takewhile(lambda each: each.refused == "queue" or each.meaning not in _TAKEN, others)
    return 1 + sum(each.refused == "queue" for each in before)


def _learned(recent: Sequence[UpstreamBatch], refusal: Refusal, size: str, most: int) -> int:
    """The size up to which the next one may go, by what became of the recent ones, oldest first."""
    for_now = most
    for each in recent:
        if each.refused == refusal:
            for_now = max(1, getattr(each, size) // 2)
        elif each.meaning in _TAKEN and each.refused is None:
            for_now = min(most, for_now * 2)
    return for_now


def is_alone_with_refusals(connection: Connection, batch: UpstreamBatch, most: int) -> bool:
    """Whether the batch's last so many upstream batches were all refused for a line, and no other one is open.

    Then it is no line that is at fault.
    """
    own = [each for each in all_of(connection, batch.batch_id) if each.id != batch.id]
    last = own[-most:]
    return len(last) == most and all(each.refused == "lines" and each.ended_at is not None for each in last)


_REMEMBERED_SECONDS = 3_600.0
"""For how long what was learned counts: others may fill the provider's queue, and an account's limits change."""
_QUEUE_SHARE = 0.8


def _read(connection: Connection, *condition: ColumnElement[bool]) -> list[UpstreamBatch]:
    rows = connection.execute(select(*_COLUMNS).where(*condition).order_by(upstream_batches.c.id))
    return [UpstreamBatch(*row) for row in rows]
