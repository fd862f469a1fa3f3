"""What a command or a worker does to a batch reads no more rows because the batch, or another one, is large.

Plans are estimates, so the work itself is counted: on Postgres the rows that statements read of the large tables, on
SQLite the steps of its virtual machine. A statement that reads a whole batch is far beyond the bounds. Postgres would
rightly read a table of a few pages as a whole, and is told not to: what no index leads to is still read, and counted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, func, select, text, update

from tests.rows import PROVIDER, add_batch, add_worker, claimant, rescuer
from tidemill.models import (
    backlog,
    batches,
    bulk,
    claims,
    due,
    erasure,
    feed,
    holds,
    ledger,
    settling,
    transitions,
    twins,
    upstream,
)
from tidemill.models.clock import now_after
from tidemill.models.database import engine, transact, writing
from tidemill.models.job_locks import CLAIMS
from tidemill.models.scope import Scope
from tidemill.models.settling import Settlement
from tidemill.models.tables import attempts, dialogues, jobs, messages
from tidemill.models.tables import batches as batches_table
from tidemill.producer.batches import obstacles, outlook, row_life
from tidemill.producer.batches.progress import list_batches, marked, progress
from tidemill.producer.batches.stored_rows import ids_at, last_position, page_of

ROWS = 10_000
OPEN_ROWS = 20
BOUND = {"sqlite": 25_000, "postgresql": 1_000}
"""Steps, or rows; a look at all rows takes more than twice as many."""

_STEPS = 50
_FILL = """
INSERT INTO jobs (batch_id, key, custom_id, position, request, columns, content, available_at)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
SELECT :batch, 'k' || i, 'c', i, '{}', '{}', CASE WHEN i % 40 = 0 THEN 'p' || i END, :at FROM n
"""
_ANSWER = (
    "INSERT INTO attempts (job_id, epoch, worker_id, started_at, outcome) "
    "SELECT id, 1, 'w1', available_at, state FROM jobs WHERE state = 'succeeded'",
    "INSERT INTO dialogues (id, batch_id, model, finish_reason, sentiment, created_at) "
    "SELECT id, batch_id, 'm', 'stop', 'neutral', available_at FROM jobs WHERE state = 'succeeded'",
    "INSERT INTO messages (dialogue_id, position, role, content) SELECT id, 0, 'assistant', 'a' FROM dialogues",
)

Work = Callable[[], object]


def works(some_id: int) -> dict[str, Work]:
    """What is done to the batches of `fill`: a name, and the function."""
    b = Scope("b")
    in_transaction: dict[str, Callable[[Connection], object]] = {
        "why rows failed": lambda c: batches.failures(c, "b"),
        "rows that come again": lambda c: batches.answered_keys(c, "b", [f"k{i}" for i in range(50)]),
        "find": lambda c: batches.find(c, batches.Sought({"h"}, PROVIDER, None, ["k1"], 50)),
        "come back": lambda c: batches.come_back(c, "b", PROVIDER),
        "share": twins.share,
        "next jobs": lambda c: due.next_jobs(c, Scope(), lambda: 8),
        "next jobs of a batch": lambda c: due.next_jobs(c, b, lambda: 8),
        "what was sent of a batch": lambda c: due.unsend_all(c, b),
        "room at the broker": feed._room,
        "claim": lambda c: claims.claim(c, range(some_id, some_id + 8), claimant()),
        "settle answers that are stored": lambda c: settling.settle(c, [failed(c, nth) for nth in range(20, 30)]),
        "settle calls that were not made": lambda c: settling.settle(c, [unmade(c, nth) for nth in range(20, 30)]),
        "lines that were asked": lambda c: bulk.run(
            c, upstream._select_asked, CLAIMS.filled([failed(c, nth)[:2] for nth in range(30, 40)]), {"owner": "w1"}
        ),
        "release": lambda c: transitions.release(c, "w9"),
        "rescue": lambda c: transitions.rescue(c, rescuer(dead=["w9"])),
        "clock set back": transitions.correct_due_times,
        "a hold is over": lambda c: transitions.give_time(c, batches_table.c.provider == PROVIDER),
        "messages lost": lambda c: transitions.unsend(c, jobs.c.sent_at < now_after(-3.0)),
        "left over": lambda c: holds.is_left_over(c, "b", PROVIDER),
        "at fault": lambda c: holds.is_at_fault(c, some_id, "b", speaks_of_account=False),
        "explain a batch under way": lambda c: outlook.load(c, "b", None),
        "explain a batch that waits": lambda c: outlook.load(c, "waiting", None),
        "explain a queued row": lambda c: row_life.load(c, some_id),
        "explain the last queued row": lambda c: row_life.load(c, some_id + ROWS - 1),
        "explain a running row": lambda c: row_life.load(c, ledger.job_at(c, "b", ROWS) or 0),
        "explain a row with a twin": lambda c: row_life.load(c, ledger.job_at(c, "b", 40) or 0),
        "resume": lambda c: batches.resume(c, "b"),
        "end of an input that lost no row": lambda c: batches.drop_rows(c, "b", 1),
        "retry": lambda c: batches.retry(c, "b"),
        "what a dialogue is": lambda c: erasure.extent(c, an_answered_id(c)),
        "delete a dialogue": lambda c: erasure.erase(c, an_answered_id(c)),
        "what waits": backlog.read,
        "cancel": lambda c: batches.cancel(c, "b"),
    }
    return {
        "progress": lambda: progress(b),
        "status": lambda: (list_batches(20), marked(b)),
        "what is next": lambda: obstacles._next_due("b"),
        "last position": lambda: last_position("b"),
        "rows that have ended": lambda: ids_at("b", 0, range(5_000, 5_020), ended=True),
        "rows by id": lambda: page_of("b", 0, range(some_id, some_id + 8)),
        **{name: partial(transact, work) for name, work in in_transaction.items()},
    }


def failed(connection: Connection, position: int) -> Settlement:
    return Settlement(ledger.job_at(connection, "b", position) or 0, 1, "b", "failed")


def unmade(connection: Connection, position: int) -> Settlement:
    return failed(connection, position)._replace(outcome="snoozed")


def an_answered_id(connection: Connection) -> int:
    return int(connection.execute(select(func.max(dialogues.c.id))).scalar_one())


def fill(is_new: bool = False) -> int:
    """A batch that has almost ended and one that has not begun; returns the id of a job that is queued.

    With `is_new` Postgres has not looked at the tables yet, as in the first minute of a large batch.
    """
    add_batch("b", read_at=now_after(0.0))
    add_batch("waiting")
    add_worker()
    return transact(partial(_store, is_new))


def _store(is_new: bool, connection: Connection) -> int:
    at = connection.scalar(select(now_after(-60.0)))
    for batch in ("b", "waiting"):
        connection.execute(text(_FILL), {"batch": batch, "rows": ROWS, "at": at})
    ended, called = {"finished_at": at, "error": "why"}, {"worker_id": "w1", "first_attempt_at": at, "epoch": 1}
    parts: tuple[tuple[int, int, dict[str, Any]], ...] = (
        (1, 9, {"state": "failed", "error_code": "refused"} | ended | called),
        (10, 19, {"state": "cancelled"} | ended),
        (20, ROWS - OPEN_ROWS, {"state": "succeeded"} | ended | called),
        (ROWS - 9, ROWS - 5, {"sent_at": at} | called),
        (ROWS - 4, ROWS, {"state": "running", "lease_until": at} | called),
    )
    for first, last, values in parts:
        own = jobs.c.batch_id == "b", jobs.c.position.between(first, last)
        connection.execute(update(jobs).where(*own).values(values))
    for statement in _ANSWER:
        connection.execute(text(statement))
    if connection.dialect.name == "postgresql" and not is_new:
        for table in (jobs, attempts, dialogues, messages):
            connection.execute(text(f"ANALYZE {table.name}"))
    some_id: int = connection.execute(select(jobs.c.id).where(jobs.c.batch_id == "waiting").limit(1)).scalar_one()
    return some_id


@contextmanager
def counted_work() -> Iterator[list[int]]:
    """The work of all statements in the block, as the one number of the list."""
    work = [0]

    def step() -> None:
        work[0] += _STEPS

    def rows_read(connection: Connection) -> int:
        read = (
            "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint FROM pg_stat_xact_user_tables "
            "WHERE relname IN ('jobs', 'attempts', 'dialogues', 'messages')"
        )
        driver: Any = connection.connection.driver_connection
        return int(driver.execute(read).fetchone()[0])

    def before(connection: Connection, *_: object) -> None:
        driver: Any = connection.connection.driver_connection
        if connection.dialect.name == "sqlite":
            driver.set_progress_handler(step, _STEPS)
        else:
            driver.execute("SET LOCAL enable_seqscan = off")
            work[0] -= rows_read(connection)

    def after(connection: Connection, *_: object) -> None:
        if connection.dialect.name != "sqlite":
            work[0] += rows_read(connection)

    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "after_cursor_execute", after)
    try:
        yield work
    finally:
        event.remove(Engine, "before_cursor_execute", before)
        event.remove(Engine, "after_cursor_execute", after)


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
@pytest.mark.usefixtures("database")
def test_rows_that_are_sent_are_read_once_though_postgres_knows_of_no_open_attempt() -> None:
    some_id = fill()  # its last look was at attempts that have all ended
    with writing() as connection:
        claimed = claims.claim(connection, range(some_id, some_id + 300), claimant())
        values = {"job_id": 0, "epoch": 0, "outcome": "succeeded"}
        rows = [
            tuple({**values, **job._asdict(), "job_id": job.id}.get(name) for name in settling._SETTLED.columns)
            for job in claimed
        ]
        statement = bulk._text(settling._end_attempts(connection), connection.dialect).sql
        given = settling._SETTLED.filled(rows).by_column()
        plan = [line for (line,) in connection.exec_driver_sql(f"EXPLAIN ANALYZE {statement}", given)]
    readings = [line for line in plan if "ProjectSet" in line]
    assert len(claimed) == 300
    assert readings and all("loops=1)" in line for line in readings), "\n".join(plan)


@pytest.mark.parametrize("keep_costs", [False, True])
@pytest.mark.usefixtures("database")
def test_a_piece_of_a_delete_reads_no_other_rows(monkeypatch: pytest.MonkeyPatch, keep_costs: bool) -> None:
    fill()
    transact(lambda connection: batches.cancel(connection, "b"))
    monkeypatch.setattr(transitions, "PIECE_ROWS", 20)
    after: int | None = 0
    for _ in range(3):
        with counted_work() as cost:
            piece = transact(lambda connection: batches.delete(connection, "b", after or 0, keep_costs=keep_costs))  # noqa: B023
        assert piece.rows == 20
        assert cost[0] <= BOUND[engine().dialect.name]
        after = piece.last


@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.usefixtures("database")
def test_nothing_that_is_done_to_a_batch_reads_all_of_it(is_new: bool) -> None:
    some_id = fill(is_new)
    bound = BOUND[engine().dialect.name]
    costs = {}
    for name, work in works(some_id).items():
        with counted_work() as cost:
            work()
        costs[name] = cost[0]
    assert {name: cost for name, cost in costs.items() if cost > bound} == {}
    with counted_work() as cost:  # and a look at all rows would be noticed
        transact(lambda connection: connection.execute(text("SELECT * FROM jobs WHERE epoch = 99")).all())
    assert cost[0] > 2 * bound
