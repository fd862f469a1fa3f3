"""A rehearsal removes all rows of its own batch, some at a time, and none of anybody else's."""

import pytest

from tests.rows import add_batch, add_jobs, add_worker, count, put, success, take
from tidemill.models.tables import attempts, batches, dialogues, jobs, messages, workers
from tidemill.producer.rehearsing import own_rows

TABLES = (jobs, attempts, batches, dialogues, messages, workers)


def test_only_rows_of_its_own_are_removed(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_rows, "_AT_ONCE", 2)
    add_worker("w1")
    for batch in ("mine", "yours"):
        add_batch(batch)
    jobs_of_mine = take(add_jobs(5, "mine"))
    put(*map(success, jobs_of_mine[:4]))
    add_jobs(3, "yours")
    assert own_rows.count("mine") == (1, 4, 1)
    assert own_rows.workers_of("mine") == ["w1"]
    assert own_rows.remove("mine", ["w1"]) == 5
    assert [count(table) for table in TABLES] == [3, 0, 1, 0, 0, 0]
    assert own_rows.remove("mine", []) == 0
