"""The limiter keeps to requests and tokens a minute, over a real Valkey and inside the process alike."""

import asyncio
import heapq
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from tests.servers import Broker
from tests.waiting import limit, patience, wait_until
from tidemill.models.errors import SettingsError
from tidemill.worker.limits import REDIS_RETRY, SLOW_START_CALLS, Limiter, limiter
from tidemill.worker.pace import MINUTE, SECOND, Limits

NONE = Limits()


class Clock:
    """A time that only tests move."""

    def __init__(self) -> None:
        self.us = 1_000_000_000

    def __call__(self) -> int:
        return self.us

    def move(self, seconds: float) -> None:
        self.us += int(seconds * SECOND)


class ClockedScript:
    """The script in a real Valkey, told the test's time instead of reading the server's."""

    def __init__(self, script: Any, clock: Clock) -> None:
        self.registered_client = script.registered_client
        self._script = script
        self._clock = clock

    async def __call__(self, keys: list[str], arguments: list[Any]) -> Any:
        return await self._script(keys, [self._clock(), *arguments[1:]])


class Server:
    """A Valkey of this module's own, which tests stop and kill, and a client of it."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.broker.start()
        self.url = self.broker.url
        self.client = Redis.from_url(self.url)

    def limiter(self, clock: Clock) -> Limiter:
        """A worker's limiter over this server, at the test's time."""
        made = limiter(self.url)
        made._script, made._clock = ClockedScript(made._script, clock), clock  # type: ignore[assignment]
        return made

    def knows(self, field: str) -> Callable[[], bool]:
        """Whether it has been told this of the bucket `b`."""
        return lambda: bool(self.client.hexists("tidemill:limits:{b}", field))

    def close(self) -> None:
        self.client.close()
        self.broker.stop()


async def until(predicate: Callable[[], object], description: str) -> None:
    """`wait_until` on a thread, so that the loop goes on."""
    await asyncio.to_thread(wait_until, predicate, description)


async def many_turns() -> None:
    """Let whatever is ready run."""
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(shared_server: Server) -> Server:
    shared_server.client.flushall()
    return shared_server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def two_workers(server: Server, clock: Clock) -> AsyncIterator[tuple[Limiter, Limiter]]:
    first, second = server.limiter(clock), server.limiter(clock)
    yield first, second
    await first.aclose()
    await second.aclose()


@pytest.fixture(params=["memory", "redis"])
async def worker(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Limiter]:
    """One worker's limiter: what holds in memory holds over Redis."""
    made = Limiter(clock=clock) if request.param == "memory" else request.getfixturevalue("server").limiter(clock)
    yield made
    await made.aclose()


async def granted_at(worker: Limiter, clock: Clock, limits: Limits, tokens: list[int]) -> list[int]:
    """When the calls go, in us of the simulated clock: each is asked for again as it is told, 200 are in flight."""
    times: list[int] = []
    for cost in tokens:
        while not (grant := await worker.reserve("b", cost, limits, 20)).granted:
            clock.move(grant.wait_seconds + 1e-6)
        times.append(clock.us + int(grant.wait_seconds * SECOND))
    return times


def most_in_a_minute(times: list[int], weights: list[int]) -> int:
    """The highest sum of weights in any closed window of 60 s."""
    most = total = start = 0
    for at, weight in zip(times, weights, strict=True):
        total += weight
        while at - times[start] > MINUTE:
            total -= weights[start]
            start += 1
        most = max(most, total)
    return most


@pytest.mark.parametrize("rpm", [1, 3, 10, 50, 67, 100, 600, 10_000])
async def test_no_window_of_a_minute_exceeds_the_limit_and_95_percent_of_it_are_used(rpm: int) -> None:
    clock = Clock()
    count = max(1000, rpm * 3) if rpm >= 100 else rpm * 8 + 1
    times = await granted_at(Limiter(clock=clock), clock, Limits(rpm=rpm), [0] * count)
    assert times == sorted(times)
    assert most_in_a_minute(times, [1] * count) <= rpm
    assert (times[-1] - times[0]) / SECOND <= (count - 1) / rpm * 60 / 0.95


@pytest.mark.parametrize("latency_seconds", [0.05, 0.3])
async def test_a_sliding_window_server_refuses_hardly_a_call_though_calls_arrive_late(latency_seconds: float) -> None:
    clock, chance = Clock(), random.Random(7)
    granted = await granted_at(Limiter(clock=clock), clock, Limits(rpm=600), [0] * 1000)
    refused, accepted = 0, list[float]()
    for at in sorted(at + chance.uniform(0, latency_seconds) * SECOND for at in granted):
        if sum(at - earlier < MINUTE for earlier in accepted) >= 600:
            refused += 1
        else:
            accepted.append(at)
    assert refused <= 10


@pytest.mark.parametrize("share", [0.0004, 0.004, 0.012, 0.03, 0.06, 0.11, 0.4, 1.0])
async def test_tokens_keep_to_the_minute_however_big_one_call_is(share: float) -> None:
    clock, tpm = Clock(), 200_000
    tokens = [int(tpm * share)] * max(12, int(4 / share))
    times = await granted_at(Limiter(clock=clock), clock, Limits(rpm=100_000, tpm=tpm), tokens)
    assert most_in_a_minute(times, tokens) <= tpm
    best = tpm // tokens[0] * tokens[0]  # what fits into one window at all
    assert sum(tokens[:-1]) / ((times[-1] - times[0]) / MINUTE) >= 0.95 * best


async def test_a_call_bigger_than_the_burst_leaves_the_cell_in_debt(worker: Limiter) -> None:
    limits = Limits(tpm=60_000)
    assert (await worker.reserve("b", 10_000, limits, 60)).wait_seconds == 0
    grant = await worker.reserve("b", 1, limits, 60)
    assert grant.granted
    assert grant.wait_seconds == pytest.approx(10.0, rel=0.1)


async def test_a_refusal_takes_nothing(worker: Limiter) -> None:
    limits = Limits(rpm=60)
    assert (await worker.reserve("b", 0, limits, 0)).granted
    refused = [await worker.reserve("b", 0, limits, 0) for _ in range(20)]
    assert not any(grant.granted for grant in refused)
    assert 0 < (await worker.reserve("b", 0, limits, 5)).wait_seconds <= 60 / 59


async def test_requests_and_tokens_are_taken_together_or_not_at_all(worker: Limiter) -> None:
    limits = Limits(rpm=60, tpm=6_000)
    assert (await worker.reserve("b", 6_000, limits, 0)).granted
    assert not (await worker.reserve("b", 10, limits, 2)).granted  # tokens are in debt: no request may be taken
    await worker.refund("b", 6_000)
    assert (await worker.reserve("b", 10, limits, 2)).wait_seconds <= 60 / 59


async def test_refund_gives_time_back_and_a_negative_one_is_debt(worker: Limiter) -> None:
    limits = Limits(tpm=60_000)
    await worker.reserve("b", 10_000, limits, 60)
    await worker.refund("b", 9_000)
    granted = await worker.reserve("b", 1, limits, 60)
    assert granted.wait_seconds == pytest.approx(0.41, abs=0.01)  # 1,000 tokens, less the burst
    await worker.refund("b", -10_000)
    assert (await worker.reserve("b", 1, limits, 60)).wait_seconds == pytest.approx(10.56, abs=0.01)


async def test_a_pause_of_one_worker_stops_the_other_and_voids_its_slots(
    two_workers: tuple[Limiter, Limiter], clock: Clock
) -> None:
    first, second = two_workers
    await second.observe("b", {})  # opened: no limits are known, so nothing is asked of Redis per call
    assert (await second.reserve("b", 1, NONE, 0)).wait_seconds == 0
    await first.pause("b", 2)
    clock.move(0.5)
    assert await second.pause_seconds("b") == pytest.approx(1.5)
    assert not (await second.reserve("b", 1, NONE, 0)).granted
    assert (await second.reserve("b", 1, NONE, 9)).wait_seconds == pytest.approx(1.5)
    limited = [await second.reserve("b", 1, Limits(rpm=60), 9) for _ in range(2)]
    assert [grant.wait_seconds for grant in limited] == pytest.approx([1.5, 2.5], abs=0.02)
    assert await second.pause_seconds("other") == 0


async def test_a_shorter_pause_never_cuts_a_longer_one(worker: Limiter) -> None:
    await worker.pause("b", 5)
    await worker.pause("b", 1)
    await worker.pause("b", float("nan"))
    await worker.pause("b", -3)
    assert await worker.pause_seconds("b") == pytest.approx(5)


def ended(calls: list[asyncio.Task[Any]]) -> int:
    return sum(call.done() for call in calls)


async def test_slow_start_lets_a_few_go_until_the_first_reply(worker: Limiter) -> None:
    calls = [asyncio.create_task(worker.reserve("b", 10, NONE, 30)) for _ in range(50)]
    await until(lambda: ended(calls) >= SLOW_START_CALLS, "the first calls go")
    await many_turns()
    assert ended(calls) == SLOW_START_CALLS
    await worker.observe("b", {})  # no rate headers: no limits
    assert all(grant.granted and grant.wait_seconds == 0 for grant in await asyncio.gather(*calls))


async def test_slow_start_goes_on_while_everybody_is_refused(worker: Limiter) -> None:
    calls = [asyncio.create_task(worker.reserve("b", 10, NONE, 30)) for _ in range(50)]
    await until(lambda: ended(calls) >= SLOW_START_CALLS, "the first calls go")
    await worker.observe("b", {}, served=False)
    await many_turns()
    assert ended(calls) == SLOW_START_CALLS
    await worker.observe("b", {}, served=True)
    assert all(grant.granted for grant in await asyncio.gather(*calls))


async def test_slow_start_charges_its_calls_to_the_limit_they_reveal(worker: Limiter) -> None:
    calls = [asyncio.create_task(worker.reserve("b", 10, NONE, 30)) for _ in range(SLOW_START_CALLS + 1)]
    await until(lambda: ended(calls) == SLOW_START_CALLS, "the first calls go")
    await worker.observe("b", {"x-ratelimit-limit-requests": "60"})
    waits = sorted(grant.wait_seconds for grant in await asyncio.gather(*calls))
    assert waits[:SLOW_START_CALLS] == [0] * SLOW_START_CALLS
    assert waits[SLOW_START_CALLS] == pytest.approx(SLOW_START_CALLS * 60 / 59.1, abs=0.1)


@pytest.mark.parametrize("over", ["memory", "redis"])
async def test_slow_start_goes_on_after_a_while_and_obeys_the_callers_patience(
    over: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0.2 * patience()  # of real time: what waits here waits on the loop
    monkeypatch.setattr("tidemill.worker.limits.SLOW_START", int(seconds * SECOND))
    worker = limiter(None if over == "memory" else server.url)
    calls = [asyncio.create_task(worker.reserve("b", 10, NONE, 600)) for _ in range(40)]
    impatient = [asyncio.create_task(worker.reserve("b", 10, NONE, seconds / 20)) for _ in range(2)]
    refused = await asyncio.gather(*impatient)
    assert not any(grant.granted for grant in refused)
    assert 0 < refused[0].wait_seconds <= seconds
    await until(lambda: ended(calls) > SLOW_START_CALLS, "the next calls go")
    await worker.observe("b", {})
    await asyncio.gather(*calls)
    await worker.aclose()


async def test_limits_of_the_user_need_no_slow_start(worker: Limiter) -> None:
    calls = [worker.reserve("b", 0, Limits(rpm=100_000), 0) for _ in range(50)]
    assert all(grant.granted for grant in await asyncio.gather(*calls))


async def test_limits_are_learned_shared_and_the_lower_one_counts(
    server: Server, two_workers: tuple[Limiter, Limiter]
) -> None:
    first, second = two_workers
    headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"}
    await first.observe("b", headers)
    await until(server.knows("rpm"), "Redis was told")
    assert (await second.reserve("b", 1, NONE, 9)).wait_seconds == 0
    assert (await second.reserve("b", 1, Limits(rpm=1_000), 9)).wait_seconds == pytest.approx(60 / 59.1, abs=0.01)
    assert (await first.reserve("b", 1, Limits(rpm=10), 9)).wait_seconds == pytest.approx(2 * 60 / 59.1, abs=0.01)
    await first.observe("b", headers | {"x-ratelimit-limit-requests": "nonsense"})
    await first.observe("b", headers | {"x-ratelimit-limit-requests": "0"})
    assert not (await first.reserve("b", 1, NONE, 1)).granted


async def test_nothing_remaining_waits_for_the_reset(worker: Limiter) -> None:
    limits = Limits(rpm=6_000)
    await worker.reserve("b", 1, limits, 0)
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1.5s"}
    await worker.observe("b", headers)
    assert (await worker.reserve("b", 1, limits, 9)).wait_seconds == pytest.approx(1.5, abs=0.02)


async def test_a_bucket_as_large_as_the_minute_does_not_stall(worker: Limiter, clock: Clock) -> None:
    limits = Limits(rpm=6_000)
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0s"}
    await worker.reserve("b", 1, limits, 0)
    await worker.observe("b", headers)
    await worker.reserve("b", 1, limits, 0)  # what was observed is told with it
    clock.move(0.1)
    assert (await worker.reserve("b", 1, limits, 0)).granted  # a tenth of a second refills ten requests


async def test_few_remaining_take_the_burst_away(worker: Limiter) -> None:
    limits = Limits(rpm=600)  # a burst of 6
    await worker.reserve("b", 1, limits, 0)
    await worker.observe("b", {"x-ratelimit-remaining-requests": "2", "x-ratelimit-reset-requests": "59.8s"})
    granted = [(await worker.reserve("b", 1, limits, 0)).granted for _ in range(6)]
    assert granted.count(True) in (1, 2)


async def test_two_workers_use_what_is_allowed_and_no_more(two_workers: tuple[Limiter, Limiter], clock: Clock) -> None:
    limits, seconds, calls = Limits(rpm=1_200, tpm=12_000_000), 3.0, 0
    end = clock() + seconds * SECOND
    callers = [(clock(), number) for number in range(16)]  # when each asks next
    while callers[0][0] < end:
        clock.us, number = callers[0]
        grant = await two_workers[number % 2].reserve("b", 100, limits, 1)
        free_at = clock() + int(grant.wait_seconds * SECOND) + 1
        calls += grant.granted and free_at < end
        heapq.heapreplace(callers, (free_at, number))
    allowed = 12 + seconds * 0.985 * 1_200 / 60  # the burst, then the pace
    assert 0.95 * allowed <= calls <= 1.01 * allowed


async def test_flushall_gives_no_second_budget(
    server: Server, two_workers: tuple[Limiter, Limiter], clock: Clock
) -> None:
    limits = Limits(rpm=600)
    before = [await worker.reserve("b", 0, limits, 60) for _ in range(20) for worker in two_workers]
    last = max(grant.wait_seconds for grant in before)
    clock.move(0.01)
    server.client.flushall()
    server.client.script_flush()
    after = [await worker.reserve("b", 0, limits, 60) for worker in two_workers for _ in range(3)]
    assert min(grant.wait_seconds for grant in after) >= last - 0.2  # slots that sleepers hold are not given twice
    server.client.flushall()
    fresh = server.limiter(clock)  # nobody remembers: one burst, then the pace
    grants = await asyncio.gather(*(fresh.reserve("b", 0, limits, 60) for _ in range(20)))
    assert sum(grant.wait_seconds == 0 for grant in grants) == 6
    await fresh.aclose()


def logged(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.message for record in caplog.records)


@pytest.fixture
def mortal() -> Iterator[Server]:
    """A Valkey of the test's own, to be killed and frozen."""
    server = Server()
    yield server
    server.close()


async def test_a_killed_redis_leaves_each_worker_its_share(
    mortal: Server, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    workers = [mortal.limiter(clock), mortal.limiter(clock)]
    limits = Limits(rpm=600)
    for worker in workers:
        await worker.observe("b", {"x-ratelimit-limit-requests": "600"})
        await worker.reserve("b", 0, NONE, 0)
    clock.move(0.6)
    await workers[0].reserve("b", 0, limits, 0)  # sees both workers
    mortal.broker.kill()
    for worker in workers:
        grants = [await worker.reserve("b", 0, NONE, 60) for _ in range(31)]
        assert all(grant.granted for grant in grants)
        assert grants[-1].wait_seconds == pytest.approx(30 * 2 * 60 / 591, rel=0.02)  # half of the rate each
        await worker.refund("b", 100)
        await worker.pause("b", 0.1)
    assert logged(caplog, "does not answer") == 2  # once a worker
    mortal.broker.start()
    clock.move(REDIS_RETRY / SECOND + 0.1)
    for number, worker in enumerate(workers):
        await worker.reserve("b", 0, NONE, 60)  # probes
        await until(lambda: logged(caplog, "answers again") == number + 1, "it has told Redis")  # noqa: B023
    grant = await workers[1].reserve("b", 0, NONE, 60)
    assert grant.wait_seconds >= 30 * 2 * 60 / 591 - REDIS_RETRY / SECOND - 0.2  # the new Redis was told what was
    assert mortal.client.hget("tidemill:limits:{b}", "rpm") == b"600.0"  # granted without it
    for worker in workers:
        await worker.aclose()


async def test_a_redis_that_hangs_stalls_a_call_once(
    mortal: Server, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = mortal.limiter(clock)
    limits = Limits(rpm=600)
    await worker.reserve("b", 0, limits, 0)
    monkeypatch.setattr("tidemill.worker.limits.REDIS_SECONDS", 0.2)
    mortal.broker.freeze()
    grants = await asyncio.gather(*(worker.reserve("b", 0, limits, 60) for _ in range(30)))
    assert all(grant.granted for grant in grants)
    assert grants[-1].wait_seconds >= 2.3
    assert logged(caplog, "does not answer") == 1
    later = asyncio.create_task(worker.reserve("b", 0, limits, 60))
    await asyncio.sleep(0)
    assert later.done(), "it waited for a Redis that was lost a moment ago"
    mortal.broker.thaw()
    await worker.aclose()


async def test_what_is_asked_while_an_exchange_is_under_way_is_answered(mortal: Server) -> None:
    worker = limiter(mortal.url)
    limits = Limits(rpm=60_000, tpm=60_000_000)
    await worker.reserve("b", 1, limits, 0)
    mortal.broker.freeze()
    calls = []
    for _ in range(10):  # the timers of most of them end while the first exchange is waiting
        calls.append(asyncio.create_task(worker.reserve("b", 1, limits, 1)))
        await worker.refund("b", 1)
        await asyncio.sleep(0.02)
    mortal.broker.thaw()
    async with asyncio.timeout(limit()):
        assert all(grant.granted for grant in await asyncio.gather(*calls))
    await worker.aclose()


async def test_a_redis_that_never_answered_is_no_error() -> None:
    worker = limiter("redis://127.0.0.1:1/0")
    assert (await worker.reserve("b", 0, NONE, 0)).granted
    await worker.observe("b", {"x-ratelimit-limit-requests": "60"})
    assert not (await worker.reserve("b", 0, NONE, 0)).granted  # the call before is charged
    await worker.aclose()


async def test_what_waits_at_the_end_is_sent_and_answered(server: Server) -> None:
    worker = limiter(server.url)
    await worker.reserve("b", 60_000, Limits(tpm=60_000), 0)
    before = float(server.client.hget("tidemill:limits:{b}", "tokens") or 0)
    await worker.refund("b", 30_000)
    waiting = asyncio.create_task(worker.reserve("b", 1, Limits(tpm=60_000), 60))
    await asyncio.sleep(0)
    await worker.aclose()
    assert (await waiting).granted
    after = float(server.client.hget("tidemill:limits:{b}", "tokens") or 0)
    assert before - after == pytest.approx(30 * SECOND, rel=0.05)
    assert all(int(server.client.ttl(key)) > 0 for key in server.client.scan_iter())


async def test_without_limits_a_call_costs_no_round_trip(server: Server) -> None:
    worker = limiter(server.url)
    await worker.observe("b", {})
    await worker.reserve("b", 1, NONE, 0)
    before = server.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    for _ in range(1000):
        await worker.reserve("b", 1, NONE, 0)
    after = server.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert after - before <= 2
    await worker.aclose()


@pytest.mark.parametrize("url", ["nonsense", "http://user:secret@host/"])
def test_a_url_that_is_none_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        limiter(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis+socket:///tmp/no.sock?virtual_host=/2", "rediss://host:1/0?ssl_cert_reqs=CERT_NONE", "unix:///tmp/x"]
)
async def test_celerys_urls_are_understood(url: str) -> None:
    await limiter(url).aclose()
