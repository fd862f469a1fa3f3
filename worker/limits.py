"""All workers share one budget of requests and tokens a minute, and none calls faster.

The arithmetic is in `worker.pace`, what this process knows of a bucket in `worker.bucket`. This module decides when to
ask: the script in Redis, for many callers at once, or this process alone. Only this module knows redis-py.
"""

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from logging import WARNING
from typing import TYPE_CHECKING, Any

from tidemill.models.errors import SettingsError
from tidemill.models.lines import note
from tidemill.models.servers import read_url, reason_of
from tidemill.worker.bucket import DAY_SECONDS, REFUND_SECONDS, Bucket
from tidemill.worker.meter import WAIT, Histogram
from tidemill.worker.pace import LUA, SECOND, Cells, Changes, Cost, Grant, Limits, Unserved, admit, apply, microseconds

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

SLOW_START_CALLS, SLOW_START = 8, 5 * SECOND
VIEW_AGE = SECOND // 2  # how old this process's view of a bucket in Redis may get
COALESCE_SECONDS = 0.01  # an EVALSHA costs 0.3 ms of CPU here, so callers share one
GUESSED_WAIT = 3 * SECOND
REDIS_SECONDS, REDIS_RETRY = 2.0, 5 * SECOND


class Limiter:
    """Grants calls; one per worker process, used from its one asyncio loop. Never raises for what Redis does.

    With Redis, what is reserved within a few milliseconds goes in one script call. While Redis is away, each worker
    paces itself with its share of the last known limits and tries Redis again every 5 s.
    """

    def __init__(
        self, script: "AsyncScript | None" = None, clock: Callable[[], int] = lambda: time.monotonic_ns() // 1000
    ) -> None:
        self._script = script
        self._clock = clock  # us; only differences matter
        self._retry_at: int | None = None  # when to try a lost Redis again; None: it answers
        self._worker = uuid.uuid4().hex
        self._buckets: dict[str, Bucket] = {}
        self.waits = Histogram(WAIT)
        """How long calls had to wait until they might go."""

    async def reserve(self, bucket: str, tokens: int, limits: Limits, max_wait_seconds: float) -> Grant:
        """Take one request and `tokens` (an estimate that `refund` corrects) out of the bucket's budget.

        While no limit is known and no reply has come, 8 calls go at once. The others wait in here for the first
        `observe`, or 5 s until the next 8 go.
        """
        state, asked_at = self._bucket(bucket), self._clock()
        if limits is not state.configured and limits != state.configured:
            state.configured = limits
            state.update_paces(self._clock())
        max_wait = microseconds(max_wait_seconds)
        if state.is_guessed:  # an early grant keeps an old pace, and the guess must be tested soon
            max_wait = min(max_wait, GUESSED_WAIT)
        if not state.limited:
            await self._refresh(state)
            if not state.opened.is_set() and (delay := await self._slow_start(state, tokens, max_wait)):
                return Grant(delay / SECOND, False)
        if not state.limited:
            wait = max(0, state.cells.pause - self._clock())
            wait = wait if wait <= max_wait else -wait
        elif self._script is None or self._retry_at is not None:
            self._retry_redis(state)
            wait = self._admit_alone(state, [state.cost(tokens, max_wait)])[0]
        else:
            future = asyncio.get_running_loop().create_future()
            state.waiting.append((state.cost(tokens, max_wait), future))
            self._exchange_soon(state, COALESCE_SECONDS)
            wait = await future
        if wait < 0:  # try again halfway, so that no call's time stays unused
            return Grant((-wait - max_wait / 2) / SECOND, False)
        now = self._clock()
        state.count_grant(now)
        self.waits.observe((now - asked_at + wait) / SECOND)
        return Grant(wait / SECOND, True)

    async def pause_seconds(self, bucket: str) -> float:
        """Seconds for which a pause still forbids calls, at most 0.5 s old.

        Call this after the sleep of a grant. Above 0, a pause has come meanwhile and the grant is void: reserve again,
        without a refund.
        """
        state = self._bucket(bucket)
        await self._refresh(state)
        return max(0, state.cells.pause - self._clock()) / SECOND

    async def refund(self, bucket: str, tokens: int) -> None:
        """Return `tokens` to the bucket: reserved minus used. A negative number becomes debt."""
        state = self._bucket(bucket)
        if state.tokens and tokens:
            state.changes.tokens_spent -= int(tokens * state.tokens.unit)
            self._tell(state, REFUND_SECONDS)

    async def pause(self, bucket: str, seconds: float) -> None:
        """Let nobody call before now + `seconds`; on return Redis knows it. A shorter pause never cuts a longer one."""
        state = self._bucket(bucket)
        state.pause(min(seconds, DAY_SECONDS), self._clock())
        changes = state.changes
        while state.changes is changes and self._tell(state, 0) and state.exchange:
            await asyncio.wait({state.exchange})

    async def observe(self, bucket: str, headers: Mapping[str, str], *, served: bool | None = None) -> None:
        """Learn from a reply's `x-ratelimit-*` headers (a case-insensitive mapping, or lower-case keys).

        `served`: True for an answer, False for a throttled call, None for neither.

        limit-*: the rates. remaining-*: a cell never has more left than the server says. If nothing remains, calls wait
        for reset-*, unless that is about a minute, which a budget that refills evenly always says.
        """
        state, now = self._bucket(bucket), self._clock()
        if state.learn(headers, now):
            self._tell(state, 0)
        if served is False and not state.answer_times and not state.limited:
            state.opened.clear()  # nobody was ever answered, so that the slow start goes on
        elif not state.opened.is_set():
            state.opened.set()
            self._tell(state, 0)
        if (served and state.count_answer(now)) or (served is False and state.count_throttling(now)):
            self._tell(state, REFUND_SECONDS if served else 0)
        if state.pause_until_reset(headers, now):
            self._tell(state, 0)
        for kind in ("requests", "tokens"):
            delay = state.lower_to_remaining(kind, headers, now)
            if delay is not None:
                self._tell(state, delay)

    @contextlib.contextmanager
    def under_way(self, bucket: str) -> Iterator[None]:
        """Note that a call is under way, which may be answered."""
        state, began = self._bucket(bucket), self._clock()
        state.under_way.append(began)
        try:
            yield
        finally:
            state.under_way.remove(began)

    @property
    def calls_under_way(self) -> int:
        """How many there are; asked by any thread."""
        return sum(len(state.under_way) for state in list(self._buckets.values()))

    @property
    def oldest_call_seconds(self) -> float:
        """For how long the oldest call is under way; 0 without any."""
        begun = [at for state in list(self._buckets.values()) for at in tuple(state.under_way)[:1]]
        return (self._clock() - min(begun)) / SECOND if begun else 0.0

    @property
    def longest_pause_seconds(self) -> float:
        """For how long a provider has asked not to be called; 0 if it has not."""
        return max((0.0, *((state.cells.pause - self._clock()) / SECOND for state in list(self._buckets.values()))))

    def note_refusal(self, bucket: str, job_id: int) -> Unserved:
        """Note that a call of this job was refused; for how long every call of this process was."""
        return self._bucket(bucket).count_refusal(job_id, self._clock())

    async def aclose(self) -> None:
        """Send what Redis does not know yet, and close the connection; afterwards the limiter works in the process."""
        for state in self._buckets.values():
            while self._script is not None and (state.exchange or state.waiting or state.changes != Changes()):
                self._start_exchange(state)
                if state.exchange:
                    await asyncio.wait({state.exchange})
            if state.timer:
                state.timer.cancel()
        script, self._script = self._script, None
        if script is not None:
            await script.registered_client.aclose()

    def _bucket(self, name: str) -> Bucket:
        state = self._buckets.get(name)
        if state is None:
            state = self._buckets[name] = Bucket(name)
        return state

    async def _slow_start(self, state: Bucket, tokens: int, max_wait: int) -> int:
        """Wait until the call may go (returns 0) or its time is up (returns the us until it may try again)."""
        give_up = self._clock() + max_wait
        while not (state.limited or state.opened.is_set()):
            now, pause = self._clock(), state.cells.pause
            if now >= max(state.round_end, pause):
                state.round_end, state.round_left = now + SLOW_START, SLOW_START_CALLS
            if state.round_left and now >= pause:
                state.round_left -= 1
                state.unmetered.append((self._clock(), tokens))
                break
            opens = pause if state.round_left else max(state.round_end, pause)
            if now >= give_up:
                return opens - now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout((min(opens, give_up) - now) / SECOND):
                    await state.opened.wait()
        return 0

    def _admit_alone(self, state: Bucket, costs: list[Cost]) -> list[int]:
        """Admit calls in this process; with Redis away, as one of the last known workers and without a burst."""
        changes, state.changes = state.changes, Changes()
        now = self._clock()
        apply(state.cells, changes, now)
        if self._script is not None:
            n = state.workers
            costs = [Cost(r * n, min(r * n, rb), t * n, min(t * n, tb), longest) for r, rb, t, tb, longest in costs]
        return admit(state.cells, costs, now)

    def _tell(self, state: Bucket, delay: float) -> bool:
        """Apply `state.changes`: in Redis after `delay` seconds, or at once in this process (returns False)."""
        if self._script is None or self._retry_at is not None:
            self._admit_alone(state, [])
            return False
        if delay:
            self._exchange_soon(state, delay)
            return True
        return self._start_exchange(state)

    async def _refresh(self, state: Bucket) -> None:
        """Make sure that the view of the bucket is not older than `VIEW_AGE`."""
        if self._script is None or (state.viewed_at is not None and self._clock() - state.viewed_at < VIEW_AGE):
            return
        if self._retry_at is not None:
            self._retry_redis(state)
        elif self._start_exchange(state) and state.exchange:
            await asyncio.wait({state.exchange})

    def _retry_redis(self, state: Bucket) -> None:
        """Try a lost Redis again when it is time, without making a caller wait."""
        if self._retry_at is not None and self._clock() >= self._retry_at:
            self._retry_at = self._clock() + REDIS_RETRY
            self._start_exchange(state)

    def _exchange_soon(self, state: Bucket, delay: float) -> None:
        loop = asyncio.get_running_loop()
        if state.timer and state.timer.when() <= loop.time() + delay:
            return
        if state.timer:
            state.timer.cancel()
        state.timer = loop.call_later(delay, self._start_exchange, state)

    def _start_exchange(self, state: Bucket) -> bool:
        """Start an exchange with Redis, unless one is under way; False without Redis."""
        if self._script is None:
            return False
        if state.timer:
            state.timer.cancel()
        state.timer = None  # even if an exchange is under way: at its end it sends what has come since
        if state.exchange is None:
            state.exchange = asyncio.get_running_loop().create_task(self._exchange(state))
        return True

    async def _exchange(self, state: Bucket) -> None:
        """One script call: tell Redis what we learned, ask for all waiting calls, and read the bucket's state."""
        waiting, state.waiting = state.waiting, []
        changes, state.changes = state.changes, Changes()
        try:
            assert self._script is not None
            key = f"tidemill:limits:{{{state.name}}}"
            async with asyncio.timeout(REDIS_SECONDS):
                reply = await self._script([key, f"{key}:workers"], self._arguments(state, changes, waiting))
            waits = self._read_reply(state, reply)
        except Exception as error:  # noqa: BLE001  # whatever a connection raises, waiting calls must get an answer
            self._note_outage(error)
            apply(state.cells, changes, self._clock())
            waiting, state.waiting = waiting + state.waiting, []
            waits = self._admit_alone(state, [cost for cost, _ in waiting])
        for (_, future), wait in zip(waiting, waits, strict=True):
            if not future.done():
                future.set_result(wait)
        state.exchange = None
        if state.waiting or state.changes != Changes():
            self._exchange_soon(state, COALESCE_SECONDS if state.waiting else REFUND_SECONDS)

    def _arguments(
        self, state: Bucket, changes: Changes, waiting: list[tuple[Cost, asyncio.Future[int]]]
    ) -> list[str | float]:
        """The script's ARGV, as `LUA` reads it."""
        now, cells, learned, c = self._clock(), state.cells, state.learned, changes
        arguments: list[str | float] = ["", self._worker, state.born]  # an empty time: Redis uses its own
        arguments += [max(0, at - now) for at in (cells.requests, cells.tokens, cells.pause)]
        arguments += [learned.rpm or "", learned.tpm or "", int(state.opened.is_set()), c.rpm or "", c.tpm or ""]
        arguments += [c.requests_spent, c.tokens_spent, c.requests_lead, c.tokens_lead, c.pause_lead]
        for cost, _ in waiting:
            arguments += cost
        return arguments

    def _read_reply(self, state: Bucket, reply: list[Any]) -> list[int]:
        """Take over what Redis says; after an outage Redis first learns what was granted meanwhile."""
        now, born, requests, tokens, pause, rpm, tpm, has_been_answered, workers, *waits = reply
        at = state.viewed_at = self._clock()
        cells = Cells(requests - now + at, tokens - now + at, pause - now + at)
        if born == state.born or self._retry_at is not None:  # a pause may have come after the script call began
            cells.pause = max(cells.pause, state.cells.pause)
        if self._retry_at is not None:
            cells.requests = max(cells.requests, state.cells.requests)
            cells.tokens = max(cells.tokens, state.cells.tokens)
            note(WARNING, "limits_back", "The Redis of the shared limits answers again.")
        state.born = born if self._retry_at is None else 0
        state.cells, state.workers, self._retry_at = cells, workers, None
        learned = Limits(float(rpm) if rpm else None, float(tpm) if tpm else None)
        if learned != state.learned:
            if (learned.rpm or math.inf) < (state.learned.rpm or math.inf):
                state.keep_guess(at)
            state.learned = learned
            state.update_paces(at)
        if has_been_answered:
            state.opened.set()
        return waits

    def _note_outage(self, error: Exception) -> None:
        if self._retry_at is None:
            sentence = (
                f"The Redis of the shared limits does not answer ({reason_of(error)}); each worker keeps to its share "
                "of the last known limits until it does."
            )
            note(WARNING, "limits_away", sentence)
        self._retry_at = self._clock() + REDIS_RETRY
        for state in self._buckets.values():
            state.born = 0  # Redis does not know yet what is granted from now on


def limiter(url: str | None) -> Limiter:
    """The limiter of this process: over the Redis at `url` (see `models.servers`); None: in memory.

    Raises:
        SettingsError: the URL cannot be read. A Redis that is away raises nothing, here or later.
    """
    if url is None:
        return Limiter()
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    try:
        server = read_url(url, "limits")
    except ValueError as error:
        raise SettingsError(f"TIDEMILL_LIMITS_URL {error}.") from None
    client = Redis.from_url(
        server.redis_url,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 1),  # one retry, for a connection that a restart has cut
        **server.redis_tls,
    )
    return Limiter(client.register_script(LUA))
