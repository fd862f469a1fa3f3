"""At the flex tier a row waits for room, and goes out at the standard tier when it has waited long enough (R19)."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.rows import MODEL
from tidemill.models.claims import Claimed
from tidemill.models.options import Options
from tidemill.models.provider import CallError, Provider
from tidemill.models.usage import Usage
from tidemill.simulator import Simulator
from tidemill.worker import flex, settlements
from tidemill.worker.ask import ask
from tidemill.worker.calling import Calling
from tidemill.worker.limits import limiter
from tidemill.worker.questions import Question, build

FLEX_THEN_ONLINE = ("flex", "online")
FULL_429 = CallError("status", "Resource Unavailable", status=429)
FULL_498 = CallError("status", "over capacity", status=498, code="capacity_exceeded")
NO_TIER = CallError(
    "status", "Invalid service_tier argument", status=400, param="service_tier", type="invalid_request_error"
)
TOO_FAST = CallError("status", "Rate limit reached for gpt-5 on requests per min", status=429)
TIMEOUT = CallError("timeout", "no complete reply within 900 s")
BAD_REQUEST = CallError("status", "Invalid 'temperature'", status=400, param="temperature")


Way = tuple[Any, ...]
"""The route, the seconds that are left, and the models that the server does not serve at flex."""


@pytest.fixture
async def calling() -> AsyncIterator[Callable[..., Calling]]:
    provider = Provider(
        base_url="http://127.0.0.1:9/v1", api_key=None, transport="http", timeout_seconds=600, connections=1
    )

    def make(route: str = "flex", seconds_left: float | None = None, *without: str) -> Calling:
        provider.models_without_flex |= set(without)
        return Calling(provider, limiter(None), "b", lambda: True, route, seconds_left)

    yield make
    await provider.aclose()


async def test_a_model_that_is_not_served_at_flex_is_asked_without_and_never_asked_so_again(
    simulator: Simulator,
) -> None:
    made = {"base_url": simulator.url, "api_key": None, "timeout_seconds": 20, "connections": 4}
    provider = Provider(transport="http", **made)  # type: ignore[arg-type]
    calling = Calling(provider, limiter(None), "b", lambda: True, "flex")
    for number in (1, 2):
        asked = Claimed(number, 1, "b", {"prompt": f"!!flex400 no flex for this {number}"}, 0, 0.0)
        ended = await ask(asked, Options("gpt-5-mini"), calling)
        assert (ended.outcome, ended.route, ended.cost_usd) == ("succeeded", None, ended.standard_usd)
    await provider.aclose()
    assert simulator.paid_by_route() == {"online": 2}
    assert simulator.counters()["by_status"] == {"400": 1, "200": 2}


def job(failures: int = 0, age_seconds: float = 0.0) -> Claimed:
    return Claimed(1, 1, "b", {"prompt": "Why?"}, failures, age_seconds)


def question(**params: object) -> Question:
    return build(Options(MODEL, params=dict(params)), {"prompt": "Why?"})


@pytest.mark.parametrize(
    ("row", "way", "params", "routes"),
    [
        (job(), (), {}, FLEX_THEN_ONLINE),
        (job(), ("online",), {}, ("online",)),
        (job(), ("batch",), {}, ("online",)),
        (job(), (), {"service_tier": "priority"}, ("online",)),  # a line's own tier stays
        (job(), ("flex", None, MODEL), {}, ("online",)),
        (job(age_seconds=599), (), {}, FLEX_THEN_ONLINE),
        (job(age_seconds=600), (), {}, ("online",)),
        (job(failures=1), (), {}, FLEX_THEN_ONLINE),
        (job(failures=2), (), {}, ("online",)),
        (job(age_seconds=9), ("flex", 40), {}, FLEX_THEN_ONLINE),
        (job(age_seconds=10), ("flex", 40), {}, ("online",)),
        (job(), ("flex", -1), {}, ("online",)),
    ],
)
async def test_a_row_goes_out_at_flex_while_it_can_wait(
    calling: Callable[..., Calling], row: Claimed, way: Way, params: dict[str, object], routes: tuple[str, ...]
) -> None:
    assert flex.routes(row, question(**params), calling(*way)) == routes


@pytest.mark.parametrize(
    ("error", "row", "way", "is_over"),
    [
        (NO_TIER, job(), (), True),
        (BAD_REQUEST, job(), (), False),
        (FULL_429, job(), (), False),
        (FULL_498, job(), (), False),
        (CallError("status", "Resource Unavailable", status=429, retry_after_seconds=60), job(), (), False),
        (CallError("status", "Resource Unavailable", status=429, retry_after_seconds=3600), job(), (), True),
        (CallError("status", "Resource Unavailable", status=429, retry_after_seconds=60), job(), ("flex", 90), True),
        (TOO_FAST, job(), (), False),
        (TIMEOUT, job(), (), False),
    ],
)
async def test_a_tier_that_is_refused_is_left_at_once(
    calling: Callable[..., Calling], error: CallError, row: Claimed, way: Way, is_over: bool
) -> None:
    its = calling(*way)
    assert flex.is_over(error, row, question(), its) == is_over
    assert its.provider.models_without_flex == ({MODEL} if error is NO_TIER else set())


@pytest.mark.parametrize(
    ("error", "route", "row", "expected"),
    [
        (FULL_429, "flex", job(), ("retry", False, False)),
        (FULL_498, "flex", job(), ("retry", False, False)),
        (FULL_429, "flex", job(failures=7, age_seconds=1e6), ("retry", False, False)),  # never a failure
        (FULL_429, "online", job(), ("retry", False, True)),
        (TOO_FAST, "flex", job(), ("retry", False, True)),
        (TIMEOUT, "flex", job(), ("retry", True, False)),
        (BAD_REQUEST, "flex", job(), ("fail", True, False)),
    ],
)
async def test_a_full_flex_is_a_wait_of_this_row_alone(
    calling: Callable[..., Calling], error: CallError, route: str, row: Claimed, expected: tuple[str, bool, bool]
) -> None:
    verdict = flex.verdict_on(error, row, route, calling())
    assert (verdict.action, verdict.counted, verdict.refused) == expected
    if error in (FULL_429, FULL_498) and route == "flex":
        assert verdict.delay_seconds <= max(0.0, flex.PATIENCE_SECONDS - row.age_seconds)
        assert verdict.pause_seconds == 0
        assert verdict.code in flex.FULL


def test_a_call_at_flex_may_take_a_quarter_of_an_hour_but_not_all_the_time_that_is_left() -> None:
    assert flex.timeout_seconds("online", None) is None
    assert flex.timeout_seconds("flex", None) == 900
    assert flex.timeout_seconds("flex", 36_000) == 900
    assert (flex.timeout_seconds("flex", 60) or 0) < 900


@pytest.mark.parametrize(
    ("route", "echoed", "booked", "share"),
    [
        ("flex", "flex", "flex", 0.5),
        ("flex", "", "flex", 0.5),  # the server does not say: as was asked
        ("flex", "default", None, 1.0),  # served at the standard tier after all
        ("online", "default", None, 1.0),
        ("online", "flex", None, 0.5),
        ("batch", "default", "batch", 0.5),
    ],
)
def test_a_reply_is_booked_by_the_tier_that_it_echoes(
    route: str, echoed: str, booked: str | None, share: float
) -> None:
    error = CallError("length", "no room", usage=Usage(1000, 1000, tier=echoed))
    verdict = settlements.verdict_on(error, job())
    ended = settlements.of_error(job(), error, verdict, 1.0, "gpt-5", route=route)
    assert ended.route == booked
    assert ended.cost_usd == pytest.approx(share * (ended.standard_usd or 0))
