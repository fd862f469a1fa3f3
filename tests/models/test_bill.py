"""What was spent is the sum of its calls to the last digit, whoever adds them up, and by whatever they are grouped."""

import random
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from tests.rows import MODEL, add_batch, add_jobs, failure, put, success, take
from tidemill.models import batches as batch_verbs
from tidemill.models import bill, transitions
from tidemill.models.bill import Line, Span
from tidemill.models.clock import now_after
from tidemill.models.database import reading, transact, writing
from tidemill.models.members import OWNER
from tidemill.models.tables import assistants, attempts, jobs, upstream_batches
from tidemill.models.text import dumps

pytestmark = pytest.mark.usefixtures("database")


def lines(span: Span = Span()) -> list[Line]:  # noqa: B008  # it is a tuple
    with reading() as connection:
        return bill.read(connection, span)


def e12(usd: float | None) -> int:
    return int(Decimal(repr(usd or 0.0)) * bill.UNITS)


def fates() -> dict[str, tuple[int, int]]:
    """Fate -> calls and 1e-12 USD."""
    sums: dict[str, tuple[int, int]] = {}
    for line in lines():
        calls, cost = sums.get(line.fate, (0, 0))
        sums[line.fate] = calls + line.calls, cost + line.cost_usd_e12
    return sums


def test_a_sum_is_that_of_its_calls_to_the_last_digit_also_when_they_are_deleted() -> None:
    chance, spent = random.Random(5), 0
    with writing() as connection:
        connection.execute(insert(assistants).values(id=3, name="Åsa", options={}, created_at=now_after(0.0)))
    add_batch("b", read_at=now_after(0.0), assistant_id=3)
    ends = []
    for job in take(add_jobs(300)):
        usd = round(chance.randrange(1, 90_000) * chance.randrange(1, 10**6) * 1e-12, 12)
        spent += e12(usd)
        ends.append(success(job, cost_usd=usd, standard_usd=2 * usd, route="flex" if job.id % 2 else None))
    put(*ends)
    before = sorted(lines())
    assert sum(line.cost_usd_e12 for line in before) == spent
    assert sum(line.saved_usd_e12 for line in before) == spent
    assert {line.route for line in before} == {"", "flex"}
    assert {line[:5] for line in before} == {("b", "b", "ask", "api.openai.com/v1", "Åsa")}
    transact(lambda connection: batch_verbs.delete(connection, "b", 0, keep_costs=True))
    assert sorted(lines()) == before
    assert sorted(lines(Span("b"))) == before
    assert lines(Span("c")) == []


def test_a_call_has_the_fate_that_says_whether_there_is_an_answer_for_its_money() -> None:
    add_batch()
    ends: list[dict[str, Any]] = [
        {},
        {"error_code": "length"},
        {"error_code": "refusal"},
        {"outcome": "failed", "error_code": "refused", "cost_usd": 0.5},
        {"outcome": "retried", "error_code": "schema_mismatch", "cost_usd": 0.125},
        {"outcome": "retried", "error_code": "server_error"},
        {"outcome": "failed", "error_code": "malformed_reply", "cost_usd": 0.75, "input_tokens": 9},
        {"outcome": "retried", "error_code": "connection_cut"},
        {"outcome": "held", "error_code": "insufficient_quota"},
    ]
    taken = take(add_jobs(len(ends) + 2))
    put(*(
        failure(job, end["outcome"], **{name: value for name, value in end.items() if name != "outcome"})
        if "outcome" in end
        else success(job, **end)
        for job, end in zip(taken, ends, strict=False)
    ))  # fmt: skip
    transact(lambda connection: transitions.release(connection, "w1"))
    late = taken[-1]
    take([late.id], "w2")
    put(success(late))  # another worker has it by now
    unit = bill.UNITS
    assert fates() == {
        "succeeded": (2, unit // 2),
        "refused": (2, 3 * unit // 4),
        "schema": (1, unit // 8),
        "retried": (1, 0),
        "failed": (1, 3 * unit // 4),
        "held": (1, 0),
        "lost": (2, 0),
        "stale": (1, unit // 4),
        "open": (1, 0),
    }


def test_only_a_call_that_was_cheaper_than_the_standard_tier_saves() -> None:
    add_batch()
    costs = [(0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (0.5, None), (None, 1.0)]
    for job, (usd, standard) in zip(take(add_jobs(len(costs))), costs, strict=True):
        put(success(job, cost_usd=usd, standard_usd=standard))
    assert sum(line.saved_usd_e12 for line in lines()) == bill.UNITS // 2


def test_a_call_at_an_unknown_or_senseless_price_is_counted_apart() -> None:
    add_batch()
    for job, usd in zip(take(add_jobs(4)), (None, 1e6, 0.0, 0.25), strict=True):
        put(success(job, cost_usd=usd))
    (line,) = lines()
    assert (line.calls, line.priced, line.unpriced, line.cost_usd_e12) == (4, 2, 2, bill.UNITS // 4)


def test_a_call_has_the_model_of_its_reply_else_that_of_its_row_else_that_of_its_batch() -> None:
    add_batch()
    first, second, third = take(add_jobs(3))
    body = {"url": "/v1/chat/completions", "body": {"model": "of the line", "messages": []}}
    with writing() as connection:
        connection.execute(update(jobs).where(jobs.c.id.in_([second.id, first.id])).values(request=body))
    put(success(first), failure(second), failure(third))
    assert sorted((line.fate, line.model) for line in lines()) == [
        ("failed", MODEL),
        ("failed", "of the line"),
        ("succeeded", MODEL),
    ]


def test_days_are_those_on_which_calls_began_and_both_bounds_are_included() -> None:
    add_batch(read_at=now_after(0.0))
    for number, job in enumerate(take(add_jobs(4))):
        put(success(job))
        with writing() as connection:
            at = now_after(-number * 86_400.0)
            connection.execute(update(attempts).where(attempts.c.job_id == job.id).values(started_at=at))
    days = sorted({line.day for line in lines()})
    assert len(days) == 4
    within = Span(since=days[1], until=days[2])
    assert sorted(line.day for line in lines(within)) == days[1:3]
    transact(lambda connection: batch_verbs.delete(connection, "b", 0, keep_costs=True))
    assert sorted(line.day for line in lines(within)) == days[1:3]


def test_the_lines_of_an_upstream_batch_are_added_up_beside_what_the_provider_says() -> None:
    add_batch()
    told = {"id": "batch_1", "usage": {"input_tokens": 30, "output_tokens": 10, "total_tokens": 40}}
    values = {"provider": "p", "step": "ended", "model": MODEL, "endpoint": "/v1", "due_at": now_after(0.0)}
    with writing() as connection:
        for number, token in enumerate(("t1", "t2"), 1):
            connection.execute(
                insert(upstream_batches).values(
                    id=number, batch_id="b", token=token, remote_id=f"batch_{number}", created_at=now_after(0.0),
                    ended_at=now_after(0.0), remote=told if number == 1 else None, **values,
                )
            )  # fmt: skip
    put(*map(success, take(add_jobs(3), OWNER + "t1")))
    with reading() as connection:
        first, second = bill.upstream_use(connection, Span())
        assert bill.upstream_use(connection, Span("other")) == []
    assert (first.remote_id, first.calls, first.input_tokens, first.output_tokens) == ("batch_1", 3, 30, 15)
    assert first.remote == told
    assert (second.calls, second.input_tokens, second.remote) == (0, 0, {})


def test_what_is_stored_is_what_a_reader_of_the_table_adds_up() -> None:
    add_batch()
    for job in take(add_jobs(5)):
        put(success(job, cost_usd=0.1234567890124))
    with reading() as connection:
        stored = connection.scalars(select(attempts.c.cost_usd)).all()
    assert {dumps(usd) for usd in stored} == {"0.123456789012"}
    assert sum(line.cost_usd_e12 for line in lines()) == 5 * 123456789012


def test_what_a_batch_saved_is_the_same_number_everywhere() -> None:
    """A dearer tier saves nothing, and takes nothing from what others save."""
    add_batch(route="batch")
    cheap, dear, unpriced = take(add_jobs(3))
    put(
        success(cheap, cost_usd=0.5, standard_usd=1.0, route="batch"),
        success(dear, cost_usd=0.5, standard_usd=0.25),
        success(unpriced, cost_usd=None, standard_usd=None, route="batch"),
    )
    with reading() as connection:
        assert bill.saved_usd(connection, "b") == 0.5
        assert bill.saved_usd(connection, "another") is None
    assert sum(line.saved_usd_e12 for line in lines()) == bill.UNITS // 2
