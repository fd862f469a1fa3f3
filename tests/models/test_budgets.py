"""A cap on money holds in the state machine: what claims reserve, settlements, losses and late answers give back.

Rows are asked of gpt-6-luna with at most 1,000 tokens of answer, so that each call may cost some $0.001. The faults
B1 to B14 are those of the design; those of the front are in tests/flows, and B5 is in test_bounds.py.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from tests.rows import MODEL, add_batch, add_jobs, claimant, failure, job_row, next_due, put, rescuer, success, take
from tidemill.models import batches as verbs
from tidemill.models import bill, bookings, budgets, reservations
from tidemill.models.bookings import BATCH, DAY, FLEET
from tidemill.models.bounds import most_usd_e9
from tidemill.models.budgets import Budget
from tidemill.models.claims import Claimant, claim
from tidemill.models.database import reading, transact, transact_in_pieces, writing
from tidemill.models.money import MOST_USD_E9, USD_E9
from tidemill.models.options import Options
from tidemill.models.tables import attempts, batches, jobs
from tidemill.models.tables import budgets as rows_of_budgets
from tidemill.models.transitions import cancel, correct_due_times, release, rescue

OPTIONS = Options(MODEL, max_tokens=1_000)
COST = 0.0001
COST_E9 = 100_000

pytestmark = pytest.mark.usefixtures("database")


def most(prompt: str = "question r0", **options: Any) -> int:
    known = most_usd_e9(Options(MODEL, **{"max_tokens": 1_000, **options}), {"prompt": prompt})
    assert known is not None
    return known


def batch(rows: int, batch_id: str = "b", options: Options = OPTIONS) -> list[int]:
    add_batch(batch_id, options=options.to_json())
    return add_jobs(rows, batch_id)


def cap(kind: str, usd_e9: int | None, name: str = "") -> None:
    with writing() as connection:
        budgets.set_cap(connection, kind, name or ("b" if kind == BATCH else ""), usd_e9)


def covering(batch_id: str = "b") -> dict[str, Budget]:
    with reading() as connection:
        return {each.kind: each for each in budgets.covering(connection, batch_id)}


def own(batch_id: str = "b") -> Budget:
    return covering(batch_id)[BATCH]


@pytest.fixture(autouse=True)
def _balanced(database: str) -> Any:
    """After each test what is reserved is what the calls under way have reserved."""
    yield
    with reading() as connection:
        assert budgets.imbalances(connection) == []


def test_claims_take_what_fits_and_leave_the_rest_queued_as_it_was() -> None:
    ids = batch(5)
    before = [job_row(each) for each in ids]
    cap(BATCH, 3 * most())
    claimed = take(ids)
    assert len(claimed) == 3
    assert own() == Budget(BATCH, "b", 3 * most(), 0, 3 * most(), 0, most())
    assert own().is_narrow
    assert not own().is_reached
    left = [each for each in before if each.id not in {job.id for job in claimed}]
    assert [job_row(each.id)[:12] for each in left] == [each[:12] for each in left]
    assert next_due() == []
    put(success(claimed[0], cost_usd=COST))
    assert own().spent == COST_E9
    assert own().left == most() - COST_E9
    assert next_due() == []  # not yet: what is left is less than a call
    put(success(claimed[1], cost_usd=COST))
    assert len(next_due()) == 2


def test_a_reached_budget_says_what_the_next_call_may_cost_and_a_higher_cap_goes_on_at_once() -> None:
    """B6, B7: below one call; raised, lowered below what is spent, removed while calls are under way."""
    ids = batch(4)
    cap(BATCH, most() - 1)
    assert take(ids) == []
    assert own().is_reached
    assert (own().next_call, own().left) == (most(), most() - 1)
    assert next_due() == []
    cap(BATCH, 2 * most())
    assert len(next_due()) == 4
    first, second = take(ids)
    put(success(first, cost_usd=0.5))
    cap(BATCH, 1)
    assert (own().spent, own().reserved, own().left) == (USD_E9 // 2, most(), 0)
    put(success(second, cost_usd=COST))
    assert take(ids) == []
    assert own().is_reached
    cap(BATCH, None)
    assert covering() == {}
    assert len(take(ids)) == 2
    cap(BATCH, USD_E9)
    assert (own().spent, own().reserved) == (USD_E9 // 2 + COST_E9, 2 * most())


def test_a_smaller_call_behind_one_that_does_not_fit_goes_out() -> None:
    add_batch(options=OPTIONS.to_json())
    ids = add_jobs(2)
    with writing() as connection:
        connection.execute(update(jobs).where(jobs.c.id == ids[0]).values(request={"prompt": "x" * 80_000}))
    cap(BATCH, most())
    assert [job.id for job in take(ids)] == ids[1:]


def test_the_prompt_is_counted_exactly_where_that_decides() -> None:
    add_batch(options=OPTIONS.to_json())
    ids = add_jobs(1)
    with writing() as connection:
        connection.execute(update(jobs).values(request={"prompt": "word " * 2_000}))
    cap(BATCH, most() + 1_000_000)
    assert most("word " * 2_000) > own().cap
    assert len(take(ids)) == 1


def test_a_killed_worker_s_calls_are_maybe_spent_until_somebody_forgives_them() -> None:
    """B2: a crash between the reservation and the call is freed by rescue into doubt, never twice."""
    ids = batch(3)
    cap(BATCH, 2 * most())
    cap(FLEET, USD_E9)
    assert len(take(ids)) == 2
    for _ in range(2):
        with writing() as connection:
            rescue(connection, rescuer(dead=["w1"]))
    assert (own().reserved, own().doubtful, own().left) == (0, 2 * most(), 0)
    assert take(ids) == []
    assert own().is_reached
    with writing() as connection:
        assert budgets.forgive(connection, "b") == 2 * most()
        assert budgets.forgive(connection, "b") == 0
    assert (own().doubtful, covering()[FLEET].doubtful) == (0, 0)
    assert len(next_due()) == 3
    assert len(take(ids)) == 2


def test_a_late_answer_to_a_lost_call_is_spent_once() -> None:
    """B2, B3: what was in doubt is known now, also where it was forgiven; writing it again changes nothing."""
    first, second = batch(2)
    cap(BATCH, 2 * most())
    for late, job_id in enumerate((first, second), 1):
        (job,) = take([job_id])
        with writing() as connection:
            release(connection, "w1")
        assert own().doubtful == most()
        if late == 2:
            with writing() as connection:
                assert budgets.forgive(connection) == most()
        for _ in range(3):
            put(success(job, cost_usd=COST))
        assert (own().spent, own().reserved, own().doubtful) == (late * COST_E9, 0, 0)


def test_a_settlement_that_is_repeated_counts_once() -> None:
    """B3: the reply to the commit was lost."""
    ids = batch(1)
    cap(BATCH, 2 * most())
    (job,) = take(ids)
    for _ in range(3):
        put(success(job, cost_usd=COST))
    assert (own().spent, own().reserved) == (COST_E9, 0)


ENDS: list[tuple[str, Callable[[Any], Any], tuple[int, int]]] = [
    ("known", lambda job: success(job, cost_usd=COST), (COST_E9, 0)),
    ("unknown price", lambda job: success(job, cost_usd=None), (-1, 0)),
    ("refused", lambda job: failure(job, "retried"), (0, 0)),
    ("cut", lambda job: failure(job, "retried", is_doubtful=True), (0, -1)),
    ("without usage", lambda job: success(job, cost_usd=COST, is_doubtful=True), (COST_E9, -1)),
    ("failed, billed", lambda job: failure(job, input_tokens=5, output_tokens=1, cost_usd=COST), (COST_E9, 0)),
    ("snoozed", lambda job: failure(job, "snoozed"), (0, 0)),
    ("held", lambda job: failure(job, "held"), (0, 0)),
]


def test_how_a_call_ends_says_what_it_counts() -> None:
    """B4: an unknown price counts as what was reserved (-1 here), and so does a reply that was lost, in doubt.

    One that names no tokens costs what was counted here, and the rest of what was reserved is in doubt.
    """
    for name, ending, sums in ENDS:
        ids = batch(1, name)
        cap(BATCH, 2 * most(), name)
        put(ending(*take(ids)))
        known = (most() if sums[0] == -1 else sums[0], most() - sums[0] if sums[1] == -1 else 0)
        before = own(name)
        assert (before.spent, before.doubtful, before.reserved) == (*known, 0), name
        cap(BATCH, None, name)
        cap(BATCH, 2 * most(), name)
        assert own(name) == before  # the ledger says the same


def test_costs_of_less_than_a_nano_dollar_add_up() -> None:
    """Rounded up one by one they would be 2 more; the cap sees the sum rounded up."""
    ids = batch(7)
    cap(FLEET, USD_E9)
    spent: list[int] = []
    for job_id in ids:
        put(*(success(job, cost_usd=0.000_100_000_7) for job in take([job_id])))
        spent.append(covering()[FLEET].spent - len(spent) * COST_E9 - COST_E9)
    assert spent == [1, 2, 3, 3, 4, 5, 5]
    cap(FLEET, None)
    cap(FLEET, USD_E9)
    assert covering()[FLEET].spent == 7 * COST_E9 + 5


def test_what_no_call_costs_does_not_break_a_sum() -> None:
    ids = batch(12)
    cap(FLEET, USD_E9)
    put(*(success(job, cost_usd=1e30) for job in take(ids)))
    known = covering()[FLEET].spent
    assert known == 12 * MOST_USD_E9
    cap(FLEET, None)
    cap(FLEET, USD_E9)
    assert covering()[FLEET].spent == known


def test_a_call_of_yesterday_settles_into_yesterday() -> None:
    """B8: midnight came between."""
    ids = batch(3)
    cap(DAY, 2 * most())
    (job,) = take(ids[:1])
    today = covering()[DAY].name
    with writing() as connection:
        connection.execute(update(attempts).values(started_at=func.coalesce(_day_before(), attempts.c.started_at)))
        connection.execute(update(rows_of_budgets).where(rows_of_budgets.c.name == today).values(name="2026-01-01"))
    assert covering()[DAY] == Budget(DAY, today, 2 * most(), 0, 0, 0, 0)
    assert len(take(ids[1:])) == 2
    put(success(job, cost_usd=COST))
    with reading() as connection:
        spent = dict(connection.execute(select(rows_of_budgets.c.name, rows_of_budgets.c.spent_usd_e9)).all())
    assert spent == {"": 0, today: 0, "2026-01-01": COST_E9}


def _day_before() -> Any:
    from datetime import UTC, datetime

    return datetime(2026, 1, 1, 23, 59, 59, tzinfo=UTC)


def test_day_batch_and_fleet_are_reserved_all_or_none() -> None:
    """B9: the tightest decides, and a batch that waits keeps no other."""
    ids, others = batch(4), batch(4, "c")
    cap(BATCH, 3 * most())
    cap(DAY, 4 * most())
    cap(FLEET, 10 * most())
    assert len(take(ids)) == 3
    assert {each.reserved for each in covering().values()} == {3 * most()}
    assert len(take(others)) == 1
    assert (covering("c")[DAY].left, covering("c")[FLEET].left) == (0, 6 * most())
    assert next_due() == []
    cap(DAY, 5 * most())
    assert set(next_due()) <= set(others)
    with reading() as connection:
        assert [each.kind for each in budgets.read_all(connection)] == [BATCH, DAY, FLEET]


def test_many_threads_keep_three_caps_without_a_deadlock() -> None:
    """B9: claims, settlements and losses of several workers at once."""
    ids = {name: batch(60, name) for name in ("b", "c", "d")}
    for name in ids:
        cap(BATCH, 6 * most(), name)
    cap(DAY, 12 * most())
    cap(FLEET, 40 * most())
    errors: list[BaseException] = []

    def work(number: int) -> None:
        me = claimant(f"w{number}")
        try:
            for turn in range(12):
                name = sorted(ids)[(number + turn) % 3]
                wanted = [*ids[name][turn * 5 : turn * 5 + 5], *ids["b"][:3]]
                claimed = transact(partial(claim, ids=wanted, claimant=me))
                sums = covering(name)
                assert all(each.spent + each.reserved + each.doubtful <= each.cap for each in sums.values())
                if turn % 5 == 4:
                    transact(lambda connection: release(connection, me.worker_id))
                else:
                    put(*(success(job, cost_usd=COST) for job in claimed))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert errors == []
    with reading() as connection:
        spent = connection.scalar(select(func.count()).where(attempts.c.outcome == "succeeded"))
        assert {covering()[kind].spent for kind in (DAY, FLEET)} == {(spent or 0) * COST_E9}


def test_rows_of_an_upstream_batch_give_back_one_by_one() -> None:
    """B12: reserved at the price of the route, and settled line by line."""
    ids = batch(3)
    cap(BATCH, 3 * most())
    up = Claimant("up-1", claimant().provider, 90_000, upstream_id=7, route="batch")
    with writing() as connection:
        claimed = claim(connection, ids, up)
    half = most_usd_e9(OPTIONS, {"prompt": "question r0"}, route="batch")
    assert half is not None
    assert own().reserved == 3 * half < 3 * most() / 3
    put(success(claimed[0], cost_usd=COST / 2))
    assert (own().spent, own().reserved) == (COST_E9 // 2, 2 * half)
    put(*(failure(job, "snoozed") for job in claimed[1:]))
    assert (own().spent, own().reserved) == (COST_E9 // 2, 0)


def test_what_does_not_fit_into_an_upstream_batch_is_of_none() -> None:
    ids = batch(2)
    cap(BATCH, most_usd_e9(OPTIONS, {"prompt": "question r0"}, route="batch"))
    up = Claimant("up-1", claimant().provider, 90_000, upstream_id=7, route="batch")
    with writing() as connection:
        (claimed,) = claim(connection, ids, up)
    (left,) = {*ids} - {claimed.id}
    assert (job_row(claimed.id).upstream_id, job_row(left).upstream_id) == (7, None)


def test_a_cap_set_while_calls_are_under_way_holds_for_them_too() -> None:
    ids = batch(5)
    running = take(ids[:3])
    put(success(running[0], cost_usd=COST))
    for kind in (BATCH, DAY, FLEET):
        cap(kind, 4 * most())
        assert (covering()[kind].spent, covering()[kind].reserved) == (COST_E9, 2 * most())
    assert len(take(ids[3:])) == 1
    put(*(success(job, cost_usd=COST) for job in running[1:]))
    assert {each.spent for each in covering().values()} == {3 * COST_E9}


def test_after_an_upgrade_calls_under_way_have_reserved_nothing() -> None:
    """B13: they count what they cost; nothing becomes negative."""
    ids = batch(2)
    running = take(ids)
    with writing() as connection:  # as an older version would have it, that knows no reservations
        connection.execute(
            insert(rows_of_budgets).values(kind=FLEET, name="", cap_usd_e9=USD_E9, created_at=func.current_timestamp())
        )
    put(success(running[0], cost_usd=COST))
    with writing() as connection:
        release(connection, "w1")
    assert covering()[FLEET] == Budget(FLEET, "", USD_E9, COST_E9, 0, 0, 0)


def test_cancelled_calls_are_in_doubt_and_deleted_rows_stay_spent() -> None:
    ids = batch(2)
    cap(BATCH, 2 * most())
    cap(FLEET, USD_E9)
    first, _ = take(ids)
    put(success(first, cost_usd=COST))
    with writing() as connection:
        cancel(connection, "b")
        connection.execute(update(batches).values(state="cancelled"))
    assert (own().reserved, own().doubtful) == (0, most())
    transact_in_pieces(lambda connection, after: verbs.delete(connection, "b", after))
    with reading() as connection:
        (fleet,) = budgets.read_all(connection)
    assert (fleet.spent, fleet.reserved, fleet.doubtful) == (COST_E9, 0, most())
    with writing() as connection:
        assert budgets.forgive(connection) == most()


def test_what_is_maybe_spent_stays_so_when_its_rows_go_and_their_costs_are_kept() -> None:
    ids = batch(2)
    cap(FLEET, USD_E9)
    first, _ = take(ids)
    put(success(first, cost_usd=COST))
    with writing() as connection:
        cancel(connection, "b")
    transact_in_pieces(lambda connection, after: verbs.delete(connection, "b", after, keep_costs=True))
    cap(FLEET, None)
    cap(FLEET, USD_E9)
    with reading() as connection:
        (fleet,) = budgets.read_all(connection)
        assert [line.doubtful_usd_e9 for line in bill.read(connection, bill.Span()) if line.fate == bill.LOST] == [
            most()
        ]
    assert (fleet.spent, fleet.doubtful) == (COST_E9, most())
    with writing() as connection:
        assert budgets.forgive(connection) == most()
        assert budgets.forgive(connection) == 0


def test_a_call_at_an_unknown_price_is_not_made_until_somebody_can_say_more() -> None:
    ids = batch(2, options=Options("gpt-6.2-sol"))
    cap(DAY, USD_E9)
    assert take(ids) == []
    assert covering()[DAY].is_unpriced
    assert covering()[DAY].is_reached
    assert next_due() == []
    with writing() as connection:
        reservations.reconsider(connection)
    assert len(next_due()) == 2


def test_rows_at_an_unknown_price_wait_and_the_others_of_their_batch_go_on() -> None:
    """Only when they are all that is left does their batch wait for a price."""
    ids = batch(5)
    with writing() as connection:
        line = {"body": {"model": "gpt-6.2-sol", "input": "Why?"}, "url": "/v1/responses"}
        connection.execute(update(jobs).where(jobs.c.id.in_(ids[:3])).values(request=line))
    cap(BATCH, USD_E9)
    assert take(ids[:2]) == []
    assert (own().is_narrow, next_due()) == (False, ids[2:])
    (job, other) = take(ids[2:])
    assert [job.id, other.id] == ids[3:]
    put(success(job, cost_usd=COST), failure(other, "retried", delay_seconds=100.0))
    with writing() as connection:
        assert correct_due_times(connection) == 3
        connection.execute(update(jobs).where(jobs.c.id == other.id).values(available_at=func.current_timestamp()))
    assert sorted(next_due()) == [*ids[:3], other.id]
    (job,) = take([*ids[:3], other.id])
    put(success(job, cost_usd=COST))
    assert not own().is_narrow
    with writing() as connection:
        correct_due_times(connection)
    assert take(next_due()) == []
    assert own().is_unpriced
    assert next_due() == []


def test_a_call_that_is_billed_more_than_it_could_cost_is_told_once_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    bookings._told_beyond.clear()
    ids = batch(3)
    cap(BATCH, 3 * most())
    calls = take(ids)
    put(success(calls[0], cost_usd=COST))
    assert caplog.records == []
    put(*(success(job, cost_usd=0.5) for job in calls[1:]))
    (record,) = caplog.records
    assert "was billed $0.500000, more than the $0.001" in record.getMessage()
    with reading() as connection:
        assert budgets.beyond_bounds(connection) == (2, 2 * (USD_E9 // 2 - most()))


def test_twins_reserve_once() -> None:
    """B11: one of them is called."""
    ids = batch(2)
    with writing() as connection:
        connection.execute(update(jobs).values(content="same"))
    cap(BATCH, 5 * most())
    assert len(take(next_due())) == 1
    assert own().reserved == most()
    assert len(ids) == 2
