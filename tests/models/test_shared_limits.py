"""What workers have learned of a provider's limits can be read by whoever asks why rows wait."""

import asyncio

from tests.conftest import UseEnvironment
from tests.servers import Broker
from tidemill.models import shared_limits
from tidemill.worker.limits import limiter
from tidemill.worker.pace import Limits


def test_what_a_worker_has_learned_is_read_and_without_a_redis_nothing_is_known(
    broker_server: Broker, use_environment: UseEnvironment
) -> None:
    async def learn() -> None:
        own = limiter(broker_server.url)
        await own.observe("p|m", {"x-ratelimit-limit-requests": "600", "x-ratelimit-limit-tokens": "60000"})
        for _ in range(30):
            await own.reserve("p|m", 2_000, Limits(), 100.0)
        await own.aclose()

    assert shared_limits.read("p", "m") is None
    use_environment({"TIDEMILL_BROKER_URL": broker_server.url})
    assert shared_limits.read("p", "m") is None
    asyncio.run(learn())
    learned = shared_limits.read("p", "m")
    assert learned is not None
    assert (learned.rpm, learned.tpm, learned.pause_seconds) == (600.0, 60_000.0, 0.0)
    assert learned.tokens_ahead_seconds > learned.requests_ahead_seconds > 0


def test_a_redis_that_does_not_answer_costs_no_page(use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_BROKER_URL": "redis://127.0.0.1:1"})
    assert shared_limits.read("p", "m") is None
