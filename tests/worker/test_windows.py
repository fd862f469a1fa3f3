"""By the routes 2h and 8h each row is a response in the background: made once, looked at, and paid at its price."""

from itertools import count as count_up

import pytest
from sqlalchemy import select

from tests.conftest import UseEnvironment
from tests.rows import batch_row, set_batch
from tests.worker.test_upstream import (
    DiedError,
    _at_once,
    add_rows,
    dying_at_commit,
    dying_at_send,
    make,
    outcomes,
    paid_once,
    questions,
    rows_upstream,
    states,
    take,
    to_the_end,
)
from tidemill.models import upstream, whereabouts
from tidemill.models.database import reading, writing
from tidemill.models.settings import settings
from tidemill.models.tables import attempts
from tidemill.simulator import Simulator


@pytest.fixture
def server(embedded_home: object, simulator: Simulator, use_environment: UseEnvironment) -> Simulator:
    """The simulator, whose responses in the background are ready at once."""
    simulator.control(background_seconds=0)
    return _at_once(simulator, use_environment)


def add(*prompts: str, route: str = "2h", batch_id: str = "b", **options: object) -> list[int]:
    ids = add_rows(*prompts, batch_id=batch_id, endpoint="responses", **options)
    set_batch(batch_id, route=route)
    return ids


@pytest.mark.parametrize(("route", "share"), [("2h", 0.7), ("8h", 0.6)])
def test_rows_are_made_in_the_background_at_the_price_of_their_window(
    server: Simulator, route: str, share: float
) -> None:
    add(*questions(40), "!!context Too long?", route=route)
    to_the_end()
    assert states() == {"succeeded": 40, "failed": 1}
    assert server.paid_by_route() == {route: 40}
    assert paid_once(server, 40)
    assert [(each.lines, each.route, each.note) for each in rows_upstream()] == [(41, route, None)]
    with reading() as connection:
        answered = attempts.c.outcome == "succeeded"
        money = select(attempts.c.route, attempts.c.cost_usd, attempts.c.standard_usd).where(answered)
        rows = connection.execute(money).all()
    assert {row.route for row in rows} == {route}
    assert all(row.cost_usd == pytest.approx(share * row.standard_usd) for row in rows)
    assert not list((settings().home / "upstream").iterdir())


@pytest.mark.parametrize(("point", "stride"), [("commit", 5), ("send", 1)])  # at some, all over the way
def test_a_kill_at_any_point_costs_no_row_and_pays_twice_only_what_was_in_doubt(
    server: Simulator, monkeypatch: pytest.MonkeyPatch, point: str, stride: int
) -> None:
    for at in count_up(0, stride):
        batch_id, before = f"b{at}", server.counters()["paid"]
        add(*questions(2, batch_id), batch_id=batch_id)
        died = dying_at_commit(at) if point == "commit" else dying_at_send(at, monkeypatch)
        with died:
            try:
                to_the_end("dead", batch_id)
                is_over = True
            except DiedError:
                is_over = False
        with writing() as connection:
            upstream.free_of(connection, "dead")
        to_the_end("w2", batch_id)
        assert states(batch_id) == {"succeeded": 2}, at
        assert server.counters()["paid"] - before <= 2 + outcomes(batch_id)["lost"], at
        if is_over:
            assert outcomes(batch_id) == {"succeeded": 2}
            break
    assert at >= 4


def test_what_somebody_cancels_is_given_back_unpaid(server: Simulator) -> None:
    server.control(background_seconds=1000)
    add(*questions(20))
    while not rows_upstream() or rows_upstream()[0].sent_at is None:
        make(*take())
    with writing() as connection:
        whereabouts.want_cancel(connection, "b")
    set_batch(route="online")
    while rows_upstream()[0].ended_at is None:
        make(*take())
    assert states() == {"queued": 20}
    assert outcomes() == {}
    assert server.paid_by_route() == {}


def test_a_model_that_is_not_taken_in_the_background_goes_online(server: Simulator) -> None:
    add(*questions(3), params={"service_tier": "flex"})  # which does not go together
    while not rows_upstream() or rows_upstream()[0].ended_at is None:
        make(*take())
    assert batch_row().route == "online"
    assert states() == {"queued": 3}
    assert outcomes() == {}


def test_a_server_in_trouble_is_waited_for(server: Simulator) -> None:
    add(*questions(3), "!!429*1 !!500*1 Why?")
    server.control(retry_after_seconds=0)
    to_the_end()
    assert states() == {"succeeded": 4}
