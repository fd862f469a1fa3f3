"""The arithmetic of a minute's budget is the same in Python and in the script that Redis runs."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from tests.servers import Broker
from tidemill.worker.pace import LUA, SECOND, Cells, Changes, Cost, admit, apply, pace


@pytest.fixture
def client(broker_server: Broker) -> Iterator[Redis]:
    with Redis.from_url(broker_server.url) as opened:
        yield opened


def amounts(most: int) -> Any:
    return st.integers(0, most)


COSTS = st.builds(
    lambda r, rn, t, tb, wait: Cost(r, r * rn, t, tb, wait),
    amounts(3 * SECOND), amounts(6), amounts(20 * SECOND), st.sampled_from([0, 609_138]), amounts(20 * SECOND),
)  # fmt: skip
CHANGES = st.builds(
    Changes,
    requests_spent=amounts(5 * SECOND), tokens_spent=st.integers(-9 * SECOND, 9 * SECOND),
    requests_lead=amounts(SECOND), tokens_lead=amounts(SECOND), pause_lead=st.sampled_from([0, 0, 0, 1, 3 * SECOND]),
)  # fmt: skip
STEPS = st.lists(st.tuples(amounts(5 * SECOND), CHANGES, st.lists(COSTS, max_size=8)), min_size=1, max_size=8)


@given(steps=STEPS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lua_and_python_give_the_same_answers(client: Redis, steps: list[tuple[int, Changes, list[Cost]]]) -> None:
    client.delete("b", "b:workers")
    script, cells = client.register_script(LUA), Cells()
    now, born = 1_795_000_000_000_000, 0
    for step, changes, costs in steps:
        now += step
        arguments: list[Any] = [now, "w", born or now, 0, 0, 0, "", "", 0, "", ""]
        arguments += [changes.requests_spent, changes.tokens_spent, changes.requests_lead]
        arguments += [changes.tokens_lead, changes.pause_lead, *(number for cost in costs for number in cost)]
        reply: Any = script(keys=["b", "b:workers"], args=arguments)
        born = reply[1]
        apply(cells, changes, now)
        assert reply[9:] == admit(cells, costs, now)
        assert reply[2:5] == [cells.requests, cells.tokens, cells.pause]


def test_the_lower_limit_counts_and_none_is_none() -> None:
    assert pace(None, None) is None
    assert pace(0, None) is None
    assert pace(100, 60) == pace(None, 60) == pace(60, None)
