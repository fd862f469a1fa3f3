"""What is known of a train job is written by its worker alone, and what somebody wants of it is heard at once."""

from typing import Any

import pytest
from sqlalchemy import insert, select, update

from tests.rows import add_batch, add_jobs, job_row, set_job, take_one
from tests.waiting import limit
from tidemill.models import creations, fine_tunes
from tidemill.models.claims import Claimed
from tidemill.models.clock import now, now_after
from tidemill.models.creations import LostError
from tidemill.models.database import reading, writing
from tidemill.models.fine_tunes import FineTune
from tidemill.models.tables import fine_tunes as table

pytestmark = pytest.mark.usefixtures("database")

FORGOTTEN = ("remote_id", "status", "wanted", "model", "trained_tokens", "remote", "curve", "note")


def add_dataset() -> None:
    files = {"training": {"sha256": "0"}, "validation": None}
    with writing() as connection:
        fine_tunes.keep_dataset(connection, id="d", name="d", method="supervised", report={}, **files)


def load(job: Claimed) -> FineTune:
    with writing() as connection:
        return fine_tunes.load(connection, job, "d")


def create(job: Claimed, step: fine_tunes.Step, remote: dict[str, Any]) -> None:
    place, owner = load(job).place(step), fine_tunes.owner(job)
    with writing() as connection:
        creations.intend(connection, owner, place)
        creations.record(connection, owner, place, remote["id"])
        fine_tunes.note_creation(connection, job, step, remote)


def want(job_id: int, control: str) -> bool:
    with writing() as connection:
        return fine_tunes.want(connection, job_id, control)


def rows() -> dict[int, Any]:
    with reading() as connection:
        return {row.job_id: row for row in connection.execute(select(table))}


@pytest.fixture
def job() -> Claimed:
    add_batch(kind="train")
    add_dataset()
    return take_one(add_jobs(1)[0])


def test_files_are_created_for_all_rounds_and_a_job_for_one(job: Claimed) -> None:
    create(job, "training", {"id": "file-1"})
    create(job, "job", {"id": "ftjob-1", "status": "failed"})
    tune = load(job)
    assert (tune.created_id("training"), tune.created_id("validation"), tune.created_id("job")) == (
        "file-1",
        None,
        "ftjob-1",
    )
    assert (tune.remote_id, tune.status) == ("ftjob-1", "failed")
    with writing() as connection:
        fine_tunes.begin_rounds(connection, [job.id])
    tune = load(job)
    assert (tune.round, tune.created_id("training"), tune.created_id("job"), tune.remote_id) == (
        2,
        "file-1",
        None,
        None,
    )
    assert creations.earlier_ids(tune.creations, tune.place("job")) == {"ftjob-1"}


def test_its_age_begins_with_the_providers_job(job: Claimed) -> None:
    load(job)
    with writing() as connection:
        connection.execute(update(table).values(created_at=now_after(-3_600.0)))
    create(job, "training", {"id": "file-1"})
    assert load(job).age_seconds == pytest.approx(3_600, abs=limit(5))
    create(job, "job", {"id": "ftjob-1", "status": "queued"})
    assert load(job).age_seconds == pytest.approx(0, abs=limit(5))


def test_a_worker_that_lost_the_job_owns_none_of_its_creations(job: Claimed) -> None:
    place = load(job).place("job")
    set_job(job.id, epoch=job.epoch + 1)
    with writing() as connection, pytest.raises(LostError):
        creations.intend(connection, fine_tunes.owner(job), place)
    with writing() as connection, pytest.raises(LostError):
        fine_tunes.note_status(connection, job, {"id": "ftjob-1"}, ())
    assert rows()[job.id].remote_id is None


def test_nothing_is_wanted_of_a_provider_that_was_asked_for_nothing(job: Claimed) -> None:
    create(job, "training", {"id": "file-1"})
    assert not want(job.id, "cancel")
    assert rows()[job.id].wanted is None


def test_what_is_wanted_is_due_at_once_and_only_for_that_job(job: Claimed) -> None:
    create(job, "job", {"id": "ftjob-1"})
    set_job(job.id, state="queued", lease_until=None, available_at=now_after(600.0), sent_at=now())
    assert not want(job.id * 10, "pause")
    assert want(job.id, "pause")
    assert rows()[job.id].wanted == "pause"
    row = job_row(job.id)
    assert row.sent_at is None
    with reading() as connection:
        assert connection.scalar(select(now() >= row.available_at))


def test_a_round_begins_for_what_ended_unwell_and_for_nothing_else() -> None:
    statuses = {1: "failed", 2: "Cancelled", 3: "running", 4: "succeeded", 5: None, 6: "failed"}
    known = {"remote_id": "ftjob-1", "wanted": "cancel", "model": "m", "trained_tokens": 7}
    with writing() as connection:
        for job_id, status in statuses.items():
            its = known | {"remote": {"id": "ftjob-1"}, "curve": [{"step": 1}], "note": "trouble", "status": status}
            connection.execute(insert(table).values(job_id=job_id, dataset_id="d", created_at=now(), **its))
        fine_tunes.begin_rounds(connection, [1, 2, 3, 4, 5, 99])
    assert {job_id: row.round for job_id, row in rows().items()} == {1: 2, 2: 2, 3: 1, 4: 1, 5: 1, 6: 1}
    for job_id, row in rows().items():
        assert all((row._mapping[name] is None) == (job_id in (1, 2)) for name in FORGOTTEN if name != "status")
    assert {job_id: row.status for job_id, row in rows().items()} == statuses | {1: None, 2: None}


def test_rounds_begin_for_none_or_for_more_jobs_than_a_statement_has_parameters() -> None:
    with writing() as connection:
        fine_tunes.begin_rounds(connection, [])
        fine_tunes.begin_rounds(connection, range(100_000))
    assert rows() == {}
