"""Rows of a cheaper route go online when a deadline asks for it, when few are left, or when nobody takes them."""

from typing import Any

import pytest
from sqlalchemy import select

from tests.models.test_deadlines import add_upstream
from tests.rows import PROVIDER, add_batch, add_jobs, batch_row, claimant, set_batch, set_job
from tests.waiting import limit
from tidemill.models import going_online, upstream
from tidemill.models.clock import now, now_after
from tidemill.models.database import reading, writing
from tidemill.models.options import Options
from tidemill.models.tables import jobs, upstream_batches


def meet() -> list[going_online.Move]:
    with writing() as connection:
        return going_online.meet(connection, PROVIDER)


def finish() -> going_online.Move | None:
    with writing() as connection:
        return going_online.finish(connection, "b")


LONG_AGO = now_after(-20_000.0)
CASES: dict[str, tuple[str, float | None, dict[str, Any], bool]] = {
    "in time": ("batch", 3600.0, {}, False),
    "still in time": ("batch", 3600.0, {"created_at": LONG_AGO}, False),
    "the margin begins": ("batch", 800.0, {"created_at": LONG_AGO}, True),
    "a short time has a short margin": ("batch", 100.0, {}, False),
    "a quarter of it": ("batch", 100.0, {"created_at": now_after(-400.0)}, True),
    "flex, too": ("flex", 100.0, {"created_at": now_after(-400.0)}, True),
    "nobody came to choose": ("auto", 100.0, {"created_at": now_after(-400.0)}, True),
    "too late": ("batch", -100.0, {}, True),
    "the user has paused it": ("batch", -100.0, {"state": "paused"}, False),
    "of another provider": ("batch", -100.0, {"provider": "another"}, False),
    "online already": ("online", -100.0, {}, False),
    "no deadline": ("batch", None, {}, False),
    "every row has ended": ("batch", -100.0, {}, False),
}


def test_a_batch_goes_online_in_time(database: str) -> None:
    for name, (route, seconds_left, values, _) in CASES.items():
        deadline_at = None if seconds_left is None else now_after(seconds_left)
        add_batch(name, route=route, deadline_at=deadline_at, **values)
        add_jobs(30 if name != "every row has ended" else 0, name)
    assert {move.batch_id: move.reason for move in meet()} == {
        name: "deadline" for name, (*_, moves) in CASES.items() if moves
    }
    for name, (route, *_, moves) in CASES.items():
        assert batch_row(name).route == ("online" if moves else route), name
    assert meet() == []


def test_what_is_out_is_to_be_cancelled_and_follows(database: str) -> None:
    add_batch("b", route="batch", deadline_at=now_after(10.0))
    out, *_ = add_jobs(30)
    add_upstream(created_at=now_after(-100.0), token="t")
    set_job(out, state="running", worker_id="up-t", lease_until=now_after(1e5), upstream_id=1, epoch=1)
    (move,) = meet()
    assert (move.from_route, move.reason, move.rows, move.rows_out) == ("batch", "deadline", 30, 1)
    with reading() as connection:
        assert connection.scalars(select(upstream_batches.c.wanted)).all() == ["cancel"]
        assert connection.scalar(select(jobs.c.state).where(jobs.c.id == out)) == "running"  # money before time
    with writing() as connection:  # a carrier that had just seen rows to pack
        assert upstream.begin(connection, "b", claimant()) is None


RAN: dict[str, Any] = {"status": "completed", "ended_at": now()}


@pytest.mark.parametrize(
    ("rows", "left", "its_last", "others", "goes"),
    [
        (100, 19, RAN, 0, True),
        (100, 20, RAN, 0, False),
        (1500, 29, RAN, 0, True),  # below 2 %
        (100, 5, RAN, 1, False),  # others have yet to go there
        (100, 5, {"status": "in_progress"}, 0, False),
        (100, 5, RAN | {"status": "failed"}, 0, False),
        (100, 5, RAN | {"refused": "queue"}, 0, False),  # no room there now is no end
        (100, 5, RAN | {"status": "EXPIRED"}, 0, True),
        (100, 5, RAN | {"status": "Succeeded"}, 0, True),  # another server's word
        (100, 0, RAN, 0, False),
    ],
)
def test_the_last_few_rows_go_online(
    embedded_home: object, rows: int, left: int, its_last: dict[str, Any], others: int, goes: bool
) -> None:
    add_batch("b", route="batch", read_at=now())
    add_upstream(**its_last)
    ids = add_jobs(rows)
    with writing() as connection:
        own = jobs.update().where(jobs.c.id.in_(ids[others:]))
        connection.execute(own.values(upstream_id=1))
        connection.execute(jobs.update().where(jobs.c.id.in_(ids[left:])).values(state="succeeded"))
    move = finish()
    assert (move.reason if move else None) == ("few" if goes else None)
    assert batch_row().route == ("online" if goes else "batch")


def test_the_last_few_rows_are_those_of_an_input_that_was_read(database: str) -> None:
    add_batch("b", route="batch")
    add_upstream(**RAN)
    for job_id in add_jobs(3):
        set_job(job_id, upstream_id=1)
    assert finish() is None
    set_batch(read_at=now())
    assert finish() is not None
    assert finish() is None


def test_a_batch_of_a_model_without_flex_goes_online(database: str) -> None:
    add_batch("a", route="flex", options=Options("gpt-6.2-sol").to_json())
    add_batch("b", route="flex")
    add_batch("c", route="batch", options=Options("gpt-6.2-sol").to_json())
    with writing() as connection:
        assert going_online.leave_flex(connection, PROVIDER, set()) == []
        moves = going_online.leave_flex(connection, PROVIDER, {"gpt-6.2-sol"})
    assert [(move.batch_id, move.reason) for move in moves] == [("a", "refused")]
    assert [batch_row(each).route for each in "abc"] == ["online", "flex", "batch"]


def test_it_is_known_when_a_batch_will_go_online(database: str) -> None:
    add_batch("b", route="batch", deadline_at=now_after(7200.0))
    add_jobs(256)
    with reading() as connection:
        assert going_online.seconds_until_online(connection, "b") == pytest.approx(7200 - 900 - 15, abs=limit(5))
        assert going_online.seconds_until_online(connection, "none") is None
