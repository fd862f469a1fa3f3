"""Tests of the state machine say which rows they start from and what they find, in one line each."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from sqlalchemy import Row, Select, Table, bindparam, case, func, insert, select, update

from tidemill.models import batches as batch_verbs
from tidemill.models import broker, tallies
from tidemill.models.answers import Answer, Message
from tidemill.models.claims import Claimant, Claimed, claim
from tidemill.models.clock import now, now_after
from tidemill.models.database import reading, transact_in_pieces, writing
from tidemill.models.due import next_jobs
from tidemill.models.members import OWNER
from tidemill.models.options import Options
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.settling import Settlement, settle
from tidemill.models.tables import OPEN_STATES, attempts, batches, dialogues, jobs, messages, upstream_batches, workers
from tidemill.models.text import dumps
from tidemill.models.transitions import Enqueued, Rescuer, enqueue

PROVIDER = "api.openai.com/v1"
"""The provider where no other is configured."""

MODEL = "gpt-6-luna"


def add_batch(batch_id: str = "b", **values: Any) -> str:
    """An open batch, `values` over its columns' defaults; returns its id."""
    given = {
        "kind": "ask",
        "name": batch_id,
        "question_hash": "h",
        "provider": settings().provider,
        "options": Options(model=MODEL).to_json(),
        "columns": [],
        "submission": 1,
        "created_at": now(),
    }
    with writing() as connection:
        connection.execute(insert(batches).values(id=batch_id, **(given | values)))
    return batch_id


def add_jobs(count: int, batch_id: str = "b", *, submission: int = 1, prefix: str = "r") -> list[int]:
    """So many queued jobs of a batch; returns their ids in order of position."""
    rows = [
        Enqueued(f"{prefix}{i}", f"id-{prefix}{i}", i, dumps({"prompt": f"question {prefix}{i}"}), dumps({}))
        for i in range(count)
    ]
    with writing() as connection:
        enqueue(connection, batch_id, submission, rows)
        wanted = select(jobs.c.id).where(jobs.c.batch_id == batch_id, jobs.c.key.startswith(prefix))
        return list(connection.scalars(wanted.order_by(jobs.c.position)))


def claimant(worker_id: str = "w1", lease_seconds: float = 30.0) -> Claimant:
    """A worker of the configured provider."""
    return Claimant(worker_id, settings().provider, lease_seconds)


def rescuer(own: Sequence[int] = (), dead: Sequence[str] = (), living: Sequence[str] = ()) -> Rescuer:
    """A worker that looks for jobs of vanished ones."""
    return Rescuer(claimant("rescuer"), own, dead, living)


def take(
    ids: Sequence[int], worker_id: str = "w1", lease_seconds: float = 30.0, *, alone: bool = False
) -> list[Claimed]:
    """Claim these jobs, in order of id."""
    with writing() as connection:
        claimed = claim(connection, ids, claimant(worker_id, lease_seconds), alone=alone)
    return sorted(claimed, key=lambda job: job.id)


def take_one(job_id: int, worker_id: str = "w1", lease_seconds: float = 30.0) -> Claimed:
    """Claim this job."""
    (claimed,) = take([job_id], worker_id, lease_seconds)
    return claimed


def put_out(ids: Sequence[int], batch_id: str = "b", **values: Any) -> list[Claimed]:
    """Claim these jobs as lines of a new upstream batch, which the provider has; `values` over what it says."""
    token = f"t{count(upstream_batches)}"
    with writing() as connection:
        at = {name: now() for name in ("due_at", "created_at", "sent_at", "seen_at")}
        given = {"step": "follow", "model": MODEL, "endpoint": "/v1/chat/completions", "lines": len(ids)}
        seen = {"remote_id": f"batch_{token}", "status": "in_progress", "expires_at": now_after(86_400.0)}
        own = {"batch_id": batch_id, "provider": settings().provider, "token": token}
        new = insert(upstream_batches).values(**(own | at | given | seen | values)).returning(upstream_batches.c.id)
        upstream_id = connection.execute(new).scalar_one()
        owner = Claimant(f"{OWNER}{token}", settings().provider, 172_800.0, upstream_id, "batch")
        return sorted(claim(connection, ids, owner), key=lambda job: job.id)


def set_upstream(**values: Any) -> None:
    """Change every upstream batch, to begin a test from there."""
    with writing() as connection:
        connection.execute(update(upstream_batches).values(**values))


def end_upstream() -> None:
    """Note that every upstream batch has ended."""
    set_upstream(ended_at=now())


def put(*settlements: Settlement) -> set[int]:
    """Settle, in one transaction; ids of those that were written."""
    with writing() as connection:
        return {job_id for job_id, _ in settle(connection, settlements)}


def answer(text: str = "because", question: str = "why?") -> Answer:
    """A dialogue of one question."""
    return Answer(MODEL, "stop", (Message("user", question), Message("assistant", text)))


def success(job: Claimed, text: str = "because", **values: Any) -> Settlement:
    """A job's answer: 10 + 5 tokens at 0.25 USD, which adds up exactly."""
    told: dict[str, Any] = {"seconds": 0.5, "http_status": 200, "request_id": "req-1"}
    paid: dict[str, Any] = {"input_tokens": 10, "output_tokens": 5, "cost_usd": 0.25, "answer": answer(text)}
    return Settlement(job.id, job.epoch, job.batch_id, "succeeded", **(told | paid | values))


def failure(job: Claimed, outcome: Any = "failed", **values: Any) -> Settlement:
    """A job's failed call."""
    given: dict[str, Any] = {
        "counted": True,
        "seconds": 0.5,
        "http_status": 500,
        "error_code": "server_error",
        "error": "no luck",
    }
    return Settlement(job.id, job.epoch, job.batch_id, outcome, **(given | values))


def job_row(job_id: int) -> Row[Any]:
    """The job as stored."""
    with reading() as connection:
        return connection.execute(select(jobs).where(jobs.c.id == job_id)).one()


def batch_row(batch_id: str = "b") -> Row[Any]:
    """The batch as stored."""
    with reading() as connection:
        return connection.execute(select(batches).where(batches.c.id == batch_id)).one()


def calls(job_id: int) -> list[Row[Any]]:
    """The ledger's rows of a job, by epoch."""
    with reading() as connection:
        return list(connection.execute(select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.epoch)))


def dialogue(job_id: int) -> list[tuple[str, str]] | None:
    """(role, content) of each turn, None where there is no dialogue."""
    with reading() as connection:
        if connection.execute(select(dialogues.c.id).where(dialogues.c.id == job_id)).one_or_none() is None:
            return None
        turns = select(messages.c.role, messages.c.content).where(messages.c.dialogue_id == job_id)
        return [(role, text) for role, text in connection.execute(turns.order_by(messages.c.position))]


def count(table: Table, *where: Any) -> int:
    """How many rows of a table fit."""
    with reading() as connection:
        return connection.scalar(select(func.count()).select_from(table).where(*where)) or 0


def set_job(job_id: int, **values: Any) -> None:
    """Change a job behind the state machine's back, to begin a test from there."""
    with writing() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))


def set_batch(batch_id: str = "b", **values: Any) -> None:
    """Change a batch, to begin a test from there."""
    with writing() as connection:
        connection.execute(update(batches).where(batches.c.id == batch_id).values(**values))


def change_batch(verb: Literal["retry", "pause", "resume", "cancel"], batch_id: str = "b") -> int:
    """Do to a batch what the command of that name does; returns what changed."""
    act = getattr(batch_verbs, verb)
    return transact_in_pieces(lambda connection, after: act(connection, batch_id, after))


def add_worker(worker_id: str = "w1", window: int = 10, **values: Any) -> None:
    """A worker that has just been seen."""
    given = {"host": "h", "machine": "elsewhere", "pid": 1, "version": "0", "started_at": now(), "seen_at": now()}
    given["provider"] = settings().provider
    with writing() as connection:
        connection.execute(insert(workers).values(id=worker_id, window=window, **(given | values)))


def next_due(scope: Scope = Scope(), most: int = 1_000) -> list[int]:  # noqa: B008  # it is frozen
    """Ids of the next due jobs, in order; they count as sent from then on."""
    with writing() as connection:
        ids = next_jobs(connection, scope, lambda: most)
        connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(sent_at=now()))
    return ids


def arrived() -> list[list[int]]:
    """Take all messages out of the broker: the job ids of each."""
    found: list[list[int]] = []
    queue: Any = broker.app().amqp.queues[broker.queue_name()]
    with broker.app().connection_for_read() as connection:
        bound = queue(connection.default_channel)
        bound.declare()
        while (message := bound.get(no_ack=True)) is not None:
            ((ids,), _options, _embed) = message.decode()
            found.append(ids)
    return found


def check_tallies(batch_id: str = "b", submission: int = 0) -> None:
    """What the triggers keep of a batch must be what a count of all its rows says."""
    with reading() as connection:
        now = tallies.read(connection, Scope(batch_id, submission))
        by_hand = connection.execute(_counted(), {"batch": batch_id, "from": submission}).all()
    kept = {each[:2]: each[2:] for each in now.tallies if each.rows}
    assert kept == {tuple(row[:2]): (row[2], int(row[3]), row[4], int(row[5])) for row in by_hand}
    assert not any(each[2:] != (0, 0, None, 0) for each in now.tallies if not each.rows)
    assert now.running == sum(int(row[6]) for row in by_hand)


@cache
def _counted() -> Select[Any]:
    """The rows of the batch `batch` by state and error code; built once, because it is asked thousands of times."""
    used = jobs.c.input_tokens + jobs.c.output_tokens
    group = case((jobs.c.state.in_(OPEN_STATES), "open"), else_=jobs.c.state)
    code = case((jobs.c.state.in_(OPEN_STATES), ""), else_=func.coalesce(jobs.c.error_code, ""))
    unpriced = func.sum(case((jobs.c.cost_usd.is_(None) & (used > 0), 1), else_=0))
    running = func.sum(case((jobs.c.state == "running", 1), else_=0))
    return (
        select(group, code, func.count(), func.sum(used), func.sum(jobs.c.cost_usd), unpriced, running)
        .where(jobs.c.batch_id == bindparam("batch"), jobs.c.submission >= bindparam("from"))
        .where(jobs.c.position.is_not(None))
        .group_by(group, code)
    )
