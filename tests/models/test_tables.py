"""Times are UTC wherever they are stored, indices serve the questions that workers ask all day, defaults are ours."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import insert, inspect, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateIndex

from tests.rows import add_batch, add_jobs, batch_row, job_row, set_batch, set_job, take_one
from tests.waiting import limit
from tidemill.models.clock import now, now_after
from tidemill.models.database import engine, reading, writing
from tidemill.models.tables import (
    OPEN_STATES,
    STATES,
    attempts,
    batches,
    complete_metadata,
    dialogues,
    jobs,
    metadata,
)

pytestmark = pytest.mark.usefixtures("database")


def on_the_clock(element: Any) -> datetime:
    with reading() as connection:
        time: datetime = connection.execute(select(element)).scalar_one()
    return time


def test_the_databases_clock_is_utc_and_about_now() -> None:
    database_time = on_the_clock(now())
    assert database_time.tzinfo is UTC
    assert abs((database_time - datetime.now(UTC)).total_seconds()) < limit(5)


@pytest.mark.parametrize("seconds", [0.25, -0.25, 90.0, -3600.0, 1e6])
def test_seconds_may_be_fractions_and_negative(seconds: float) -> None:
    with reading() as connection:
        early, late = connection.execute(select(now().label("a"), now_after(seconds).label("b"))).one()
    assert (late - early).total_seconds() == pytest.approx(seconds, abs=0.05)


def test_the_clock_goes_on_within_a_transaction() -> None:
    with reading() as connection:
        first = connection.execute(select(now())).scalar_one()
        deadline = datetime.now(UTC) + timedelta(seconds=limit())
        while (second := connection.execute(select(now())).scalar_one()) == first:
            assert datetime.now(UTC) < deadline
    assert second > first


def test_a_time_of_another_zone_comes_back_as_the_same_moment_in_utc(database: str) -> None:
    add_batch()
    if database == "postgres":
        moment = datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=2)))
        set_batch(read_at=moment)
        assert batch_row().read_at == moment
    set_batch(read_at=now())
    assert batch_row().read_at.tzinfo is UTC


def test_times_that_the_database_writes_can_be_compared_with_times_that_it_reads() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    stored = job_row(job_id).available_at
    with reading() as connection:
        assert connection.scalar(select(jobs.c.id).where(jobs.c.available_at == stored)) == job_id


def test_a_job_begins_with_the_defaults_that_the_state_machine_expects() -> None:
    add_batch()
    job = job_row(add_jobs(1)[0])
    assert (job.epoch, job.attempts, job.failures, job.losses, job.input_tokens, job.output_tokens) == (0,) * 6
    assert STATES[:2] == OPEN_STATES == ("queued", "running")


def test_a_batch_holds_a_key_once() -> None:
    add_batch()
    first, _ = add_jobs(2)
    with pytest.raises(IntegrityError):
        set_job(first, key="r1")


def test_a_second_dialogue_of_a_job_is_refused() -> None:
    row = {"id": 1, "batch_id": "b", "model": "m", "finish_reason": "stop", "created_at": now()}
    with writing() as connection:
        connection.execute(insert(dialogues).values(**row))
    with pytest.raises(IntegrityError), writing() as connection:
        connection.execute(insert(dialogues).values(**row))


def test_a_second_attempt_of_an_epoch_is_refused() -> None:
    add_batch()
    job = take_one(add_jobs(1)[0])
    with pytest.raises(IntegrityError), writing() as connection:
        connection.execute(insert(attempts).values(job_id=job.id, epoch=job.epoch, worker_id="ghost", started_at=now()))


def test_a_batch_is_open_paused_or_cancelled() -> None:
    add_batch()
    with pytest.raises(IntegrityError), writing() as connection:
        connection.execute(update(batches).values(state="done"))


def test_every_table_and_index_of_the_metadata_is_in_the_database() -> None:
    inspector = inspect(engine())
    assert set(metadata.tables) <= set(inspector.get_table_names())
    for table in metadata.tables.values():
        assert {index.name for index in table.indexes} <= {each["name"] for each in inspector.get_indexes(table.name)}


def test_an_index_holds_the_same_rows_on_both_databases() -> None:
    indexes = [index for table in complete_metadata().tables.values() for index in table.indexes]
    made = [
        [str(CreateIndex(index).compile(dialect=each.dialect())) for index in indexes] for each in (sqlite, postgresql)
    ]
    assert made[0] == made[1]
    assert sum(" WHERE " in each for each in made[0]) > 9


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (
            "SELECT id FROM jobs WHERE batch_id = 'b' AND state = 'queued' AND sent_at IS NULL "
            "AND available_at <= '2026-01-01' ORDER BY available_at, id LIMIT 5",
            "ix_jobs_due",
        ),
        ("SELECT count(*) FROM jobs WHERE state = 'queued' AND sent_at < '2026-01-01'", "ix_jobs_sent"),
        ("SELECT id FROM jobs WHERE state = 'running' AND lease_until < '2026-01-01'", "ix_jobs_running"),
        ("SELECT id FROM jobs WHERE batch_id = 'b' ORDER BY position LIMIT 5", "ix_jobs_batch_position"),
        (
            "SELECT id FROM dialogues WHERE sentiment IS NULL AND created_at < '2026-01-01' LIMIT 5",
            "ix_dialogues_unjudged",
        ),
    ],
)
def test_what_workers_ask_all_day_is_answered_from_an_index(statement: str, index: str, database: str) -> None:
    with reading() as connection:
        if database == "postgres":
            connection.execute(text("SET LOCAL enable_seqscan = off"))  # the table is empty: a scan would be cheaper
        explain = "EXPLAIN" if database == "postgres" else "EXPLAIN QUERY PLAN"
        plan = "\n".join(str(tuple(row)) for row in connection.execute(text(f"{explain} {statement}")))
    assert index in plan
