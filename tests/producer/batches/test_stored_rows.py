"""Rows come back in the order of the input, and no statement reads more than the rows that it returns."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from tests.rows import add_batch, add_jobs, put, set_job, success, take
from tidemill.models.database import reading, writing
from tidemill.producer.batches import stored_rows
from tidemill.producer.batches.stored_rows import Place, pages, rows_of, rows_with_keys

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_rows, "PAGE_ROWS", 4)
    monkeypatch.setattr(stored_rows, "_FIRST_ROWS", 2)


def ids_of(chunks: Iterable[list[dict[str, Any]]]) -> list[str]:
    return [row["custom_id"].removeprefix("id-r") for chunk in chunks for row in chunk]


def test_rows_come_in_order_over_gaps_and_where_several_stand_at_one_place() -> None:
    add_batch()
    ids = add_jobs(14)
    for job_id, position in zip(ids, (9, 9, 9, 9, 9, 9, None, 0, 1, 2, 3, 4, 700, 9000), strict=True):
        set_job(job_id, position=position)
    add_batch("other")
    add_jobs(5, "other")
    assert ids_of(rows_of("b")) == ["7", "8", "9", "10", "11", "0", "1", "2", "3", "4", "5", "12", "13"]
    assert max(len(chunk) for chunk in rows_of("b")) <= 4
    assert next(page.last for page in pages("b", 0, Place(9, ids[4]))) == Place(9, ids[5])
    assert list(rows_of("nobody")) == []


def test_rows_of_a_later_submission_are_found_behind_those_of_earlier_ones() -> None:
    add_batch()
    ids = add_jobs(20)
    for job_id in (ids[2], ids[17], ids[19]):
        set_job(job_id, submission=2)
    assert ids_of(rows_of("b", 2)) == ["2", "17", "19"]
    keys = ["r19", "r2", "r17"] * 3
    assert ids_of(rows_with_keys("b", 2, keys)) == ["19", "2", "17"] * 3


READS: dict[str, Callable[[], object]] = {
    "all rows": lambda: list(rows_of("b")),
    "the first ones that ended": lambda: list(pages("b", 1, ended=True)),
    "rows by their keys": lambda: list(rows_with_keys("b", 1, [f"r{i}" for i in range(32)])),
}


def test_each_statement_is_answered_from_indexes_however_many_rows_there_are() -> None:
    add_batch()
    put(*map(success, take(add_jobs(2000))))
    with writing() as connection:
        connection.execute(text("update dialogues set sentiment = 'neutral'"))
        connection.execute(text("analyze"))
    statements: dict[str, Any] = {}

    def note(_connection: Connection, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith("SELECT"):
            statements[statement] = parameters

    event.listen(Engine, "before_cursor_execute", note)
    try:
        for read in READS.values():
            read()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len(statements) == 3
    for statement, parameters in statements.items():
        plan = explained(statement, parameters)
        assert not any(word in plan for word in ("SCAN", "Seq Scan", "TEMP B-TREE")), plan
        assert "batch_id" in plan, plan


def explained(statement: str, parameters: Any) -> str:
    with reading() as connection:
        explain = "EXPLAIN " if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
        return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(explain + statement, parameters))
