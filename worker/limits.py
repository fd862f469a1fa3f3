"""Why this module exists: all workers share one budget of requests and tokens a minute, and none calls faster.

A bucket (one key at one provider for one model) has two cells, requests and tokens, and a pause. A cell is one number:
the time at which all that was taken from it has been paid off (GCRA, as in ITU-T I.371 and redis-cell). A call takes
from both cells or from neither, and is told how long to sleep until its slot. All times are integer microseconds.

The arithmetic is written twice and tested for equality: `apply` and `admit` here, `LUA` in Redis with Redis's clock.
Limits become microseconds in Python only (`Pace`), so the script adds and compares integers and knows no rates.
"""

import asyncio
import contextlib
import logging
import math
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from models.errors import SettingsError

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

log = logging.getLogger(__name__)

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY_SECONDS = 86_400.0
SAFE_SHARE = 0.985  # of a limit; with the burst it stays below the limit in every window of 60 s, wherever it starts
BURST_SHARE = 0.01  # of a minute's budget may go at once
SLOW_START_CALLS, SLOW_START = 16, 5 * SECOND
VIEW_AGE = SECOND // 2  # how old this process's picture of a bucket in Redis may get
COALESCE_SECONDS, REFUND_SECONDS = 0.01, 0.05  # an EVALSHA costs 0.3 ms of CPU here: what shares it is cheap
REDIS_SECONDS, REDIS_RETRY = 2.0, 5 * SECOND

LUA = """
local time = redis.call('TIME')
local now = tonumber(ARGV[1]) or time[1] * 1000000 + time[2]
local function arg(i) return tonumber(ARGV[i]) end
local stored = redis.call('HMGET', KEYS[1], 'born', 'requests', 'tokens', 'pause', 'rpm', 'tpm', 'seen')
local function number(i, missing) return tonumber(stored[i]) or missing end
local born, requests, tokens, pause = number(1, now), number(2, 0), number(3, 0), number(4, 0)
if born ~= arg(3) then  -- flushed, restarted or left behind by an outage: what the caller remembers counts too
  requests, tokens = math.max(requests, now + arg(4)), math.max(tokens, now + arg(5))
  pause = math.max(pause, now + arg(6))
end
local rpm, tpm = stored[5] or ARGV[7], stored[6] or ARGV[8]
local seen = (stored[7] or ARGV[9] == '1') and 1 or 0
if ARGV[10] ~= '' then rpm = ARGV[10] end
if ARGV[11] ~= '' then tpm = ARGV[11] end
if arg(12) > 0 then requests = math.max(requests, now) + arg(12) end
if arg(13) > 0 then tokens = math.max(tokens, now) + arg(13) else tokens = tokens + arg(13) end
if arg(14) > 0 then requests = math.max(requests, now + arg(14)) end
if arg(15) > 0 then tokens = math.max(tokens, now + arg(15)) end
if arg(16) > 0 then pause = math.max(pause, now + arg(16)) end
redis.call('ZADD', KEYS[2], now, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 60000000)
local reply = {now, born, 0, 0, 0, rpm, tpm, seen, redis.call('ZCARD', KEYS[2])}
for i = 17, #ARGV, 5 do
  local r, rb, t, tb = arg(i), arg(i + 1), arg(i + 2), arg(i + 3)
  local wait = math.max(0, pause - now)
  if rb > 0 then wait = math.max(wait, requests + math.min(r, rb) - rb - now) end
  if tb > 0 then wait = math.max(wait, tokens + math.min(t, tb) - tb - now) end
  if wait > arg(i + 4) then
    wait = -wait
  else
    if rb > 0 then requests = math.max(requests, now + wait) + r end
    if tb > 0 then tokens = math.max(tokens, now + wait) + t end
  end
  reply[#reply + 1] = wait
end
reply[3], reply[4], reply[5] = requests, tokens, pause
redis.call('HSET', KEYS[1], 'born', born, 'requests', requests, 'tokens', tokens, 'pause', pause)
if rpm ~= '' then redis.call('HSET', KEYS[1], 'rpm', rpm) end
if tpm ~= '' then redis.call('HSET', KEYS[1], 'tpm', tpm) end
if seen == 1 then redis.call('HSET', KEYS[1], 'seen', 1) end
local ahead = math.ceil((math.max(requests, tokens, pause) - now) / 1000000)
redis.call('EXPIRE', KEYS[1], math.max(3600, ahead + 60))
redis.call('EXPIRE', KEYS[2], 3600)
return reply
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user allows a minute; None: learn it from the provider's headers. The lower of both counts."""

    rpm: float | None = None
    tpm: float | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """`granted`: the slot is taken, sleep `wait_seconds`, then call. Else nothing is taken: ask again in that time."""

    wait_seconds: float
    granted: bool


@dataclass(slots=True)
class Cells:
    """A bucket's state: when each cell is paid off, and until when nobody calls (us of one clock; 0: long ago)."""

    requests: int = 0
    tokens: int = 0
    pause: int = 0


class Cost(NamedTuple):
    """What one call takes of each cell, in us; a burst of 0 means that the cell has no limit."""

    requests: int
    requests_burst: int
    tokens: int
    tokens_burst: int
    max_wait: int


@dataclass(slots=True)
class Changes:
    """What one process has learned since it last spoke to Redis; `_lead` is "not before now + that many us"."""

    rpm: float | None = None
    tpm: float | None = None
    requests_spent: int = 0
    tokens_spent: int = 0  # negative: a refund
    requests_lead: int = 0
    tokens_lead: int = 0
    pause_lead: int = 0


def apply(cells: Cells, changes: Changes, now: int) -> None:
    """Bring what was learned into the cells; `LUA` does the same."""
    if changes.requests_spent > 0:
        cells.requests = max(cells.requests, now) + changes.requests_spent
    if changes.tokens_spent > 0:
        cells.tokens = max(cells.tokens, now) + changes.tokens_spent
    else:
        cells.tokens += changes.tokens_spent
    if changes.requests_lead > 0:
        cells.requests = max(cells.requests, now + changes.requests_lead)
    if changes.tokens_lead > 0:
        cells.tokens = max(cells.tokens, now + changes.tokens_lead)
    if changes.pause_lead > 0:
        cells.pause = max(cells.pause, now + changes.pause_lead)


def admit(cells: Cells, costs: Iterable[Cost], now: int) -> list[int]:
    """Take each call's cost from both cells or from neither; `LUA` does the same.

    Returns:
        One number a call, in us: its wait when it was granted; minus its wait when that is above its `max_wait`.
    """
    answers = []
    for cost in costs:
        wait = max(0, cells.pause - now)
        # A cost within the burst fits into it; a bigger one goes when the cell owes nothing, and leaves it in debt.
        if cost.requests_burst:
            due = cells.requests + min(cost.requests, cost.requests_burst) - cost.requests_burst
            wait = max(wait, due - now)
        if cost.tokens_burst:
            due = cells.tokens + min(cost.tokens, cost.tokens_burst) - cost.tokens_burst
            wait = max(wait, due - now)
        if wait > cost.max_wait:
            answers.append(-wait)
            continue
        if cost.requests_burst:
            cells.requests = max(cells.requests, now + wait) + cost.requests
        if cost.tokens_burst:
            cells.tokens = max(cells.tokens, now + wait) + cost.tokens
        answers.append(wait)
    return answers


@dataclass(frozen=True, slots=True)
class Pace:
    """One limit a minute, told as time: what a unit costs and how much may go at once, in us."""

    limit: float
    unit: float
    burst: int

    def charge(self, cost: int) -> int:
        """The us that `cost` units take. Big costs are rounded up to a whole share of the minute: where 16 calls
        of 6 % fit into a window, a rate of 16.4 a minute would put a seventeenth into it."""
        if cost <= 0:
            return 0
        whole = self.limit // cost
        return math.ceil(max(cost * self.unit, MINUTE * 1.005 / whole if whole else 0))


@lru_cache(maxsize=256)
def pace(asked: float | None, learned: float | None) -> Pace | None:
    """The lower of two limits a minute; None when there is none."""
    limits = [limit for limit in (asked, learned) if limit is not None and limit > 0]
    if not limits:
        return None
    limit = min(limits)
    unit = MINUTE / (SAFE_SHARE * limit)
    return Pace(limit, unit, math.ceil(unit * max(1, math.floor(limit * BURST_SHARE))))


@dataclass(slots=True)
class _Bucket:
    """What this process knows of one bucket, and what it has yet to tell and to ask."""

    name: str
    cells: Cells = field(default_factory=Cells)
    asked: Limits = field(default_factory=Limits)
    learned: Limits = field(default_factory=Limits)
    headers: tuple[str | None, str | None] = (None, None)
    told: Limits = field(default_factory=Limits)  # `headers`, read
    requests: Pace | None = None
    tokens: Pace | None = None
    request_us: int = 0
    opened: asyncio.Event = field(default_factory=asyncio.Event)  # a reply was seen here or by another worker
    round_end: int = 0
    round_left: int = 0
    unmetered: list[tuple[int, int]] = field(default_factory=list)  # (when, tokens) granted before any limit was known
    born: int = 0  # which life of the key in Redis we know; 0: none
    viewed_at: int | None = None
    workers: int = 1
    changes: Changes = field(default_factory=Changes)
    waiting: list[tuple[Cost, asyncio.Future[int]]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    flight: asyncio.Task[None] | None = None

    @property
    def limited(self) -> bool:
        return self.requests is not None or self.tokens is not None

    def reckon(self, now: int) -> None:
        """Work out the paces anew, and once they are known charge the calls of the slow start to them."""
        self.requests = pace(self.asked.rpm, self.learned.rpm)
        self.tokens = pace(self.asked.tpm, self.learned.tpm)
        self.request_us = self.requests.charge(1) if self.requests else 0
        if self.limited and self.unmetered:
            spent = Cells()
            for at, tokens in self.unmetered:
                admit(spent, [self.cost(tokens, 10**15)], at)
            self.unmetered.clear()
            self.changes.requests_spent += max(0, spent.requests - now)
            self.changes.tokens_spent += max(0, spent.tokens - now)

    def cost(self, tokens: int, max_wait: int) -> Cost:
        requests, room = self.requests, self.tokens
        return Cost(
            self.request_us,
            requests.burst if requests else 0,
            room.charge(tokens) if room else 0,
            room.burst if room else 0,
            max_wait,
        )


class Limiter:
    """Grants calls; one per worker process, used from its one asyncio loop. Never raises for what Redis does.

    With Redis, what is asked for within a few milliseconds goes in one script call. While Redis is away, each worker
    paces itself with its share of the last known limits and tries Redis again every 5 s.
    """

    def __init__(
        self, script: "AsyncScript | None" = None, clock: Callable[[], int] = lambda: time.monotonic_ns() // 1000
    ) -> None:
        self._script = script
        self._clock = clock  # us; only differences count
        self._retry_at: int | None = None  # when to try a lost Redis again; None: it answers
        self._worker = uuid.uuid4().hex
        self._buckets: dict[str, _Bucket] = {}

    async def reserve(self, bucket: str, tokens: int, limits: Limits, max_wait_seconds: float) -> Grant:
        """Take one request and `tokens` (an estimate, to be mended by `refund`) out of the bucket's budget.

        While no limit is known and no reply was seen yet, 16 calls go at once and the others wait in here for the
        first `observe`, 5 s at most before the next 16 go.
        """
        state = self._bucket(bucket)
        if limits is not state.asked and limits != state.asked:
            state.asked = limits
            state.reckon(self._clock())
        max_wait = _us(max_wait_seconds)
        if not state.limited:
            await self._view(state)
            ask_again = await self._slow_start(state, tokens, max_wait)
            if ask_again:
                return Grant(ask_again / SECOND, False)
        if not state.limited:
            wait = max(0, state.cells.pause - self._clock())
            wait = wait if wait <= max_wait else -wait
        elif self._script is None or self._retry_at is not None:
            self._probe(state)
            wait = self._admit_alone(state, [state.cost(tokens, max_wait)])[0]
        else:
            turn = asyncio.get_running_loop().create_future()
            state.waiting.append((state.cost(tokens, max_wait), turn))
            self._soon(state, COALESCE_SECONDS)
            wait = await turn
        if wait < 0:  # back while half of the slots that it may wait for are still taken, so that none stays empty
            return Grant((-wait - max_wait / 2) / SECOND, False)
        return Grant(wait / SECOND, True)

    async def held(self, bucket: str) -> float:
        """Seconds for which a pause still forbids calls, at most 0.5 s old. To be asked after the sleep of a grant:
        above 0, a pause came meanwhile and the slot is void; reserve again, without a refund."""
        state = self._bucket(bucket)
        await self._view(state)
        return max(0, state.cells.pause - self._clock()) / SECOND

    async def refund(self, bucket: str, tokens: int) -> None:
        """Give back `tokens`, reserved minus really used; negative: used more than reserved, which becomes debt."""
        state = self._bucket(bucket)
        if state.tokens and tokens:
            state.changes.tokens_spent -= int(tokens * state.tokens.unit)
            self._tell(state, REFUND_SECONDS)

    async def pause(self, bucket: str, seconds: float) -> None:
        """Nobody calls before now + `seconds`; on return Redis knows it (a shorter pause never cuts a longer one)."""
        state = self._bucket(bucket)
        self._hold(state, min(seconds, DAY_SECONDS))
        changes = state.changes
        while state.changes is changes and self._tell(state, 0) and state.flight:
            await asyncio.wait({state.flight})

    async def observe(self, bucket: str, headers: Mapping[str, str]) -> None:
        """Learn from a reply's `x-ratelimit-*` headers (a case-insensitive mapping, or lower-case keys).

        limit-*: the rates. remaining-*: a cell never believes in more than the server does. Nothing remaining: wait
        for reset-*, unless it is what a budget that refills evenly says all the time, about a minute until it is full.
        """
        state = self._bucket(bucket)
        limits = (headers.get("x-ratelimit-limit-requests"), headers.get("x-ratelimit-limit-tokens"))
        if limits != state.headers:
            state.headers, state.told = limits, Limits(_amount(limits[0]), _amount(limits[1]))
        told, learned = state.told, state.learned
        if (told.rpm and told.rpm != learned.rpm) or (told.tpm and told.tpm != learned.tpm):
            state.learned = Limits(told.rpm or learned.rpm, told.tpm or learned.tpm)
            state.changes.rpm, state.changes.tpm = told.rpm, told.tpm
            state.reckon(self._clock())
            self._tell(state, 0)
        if not state.opened.is_set():
            state.opened.set()
            self._tell(state, 0)
        for kind in ("requests", "tokens"):
            remaining = headers.get(f"x-ratelimit-remaining-{kind}")
            if remaining is not None:
                self._line_up(state, kind, remaining, headers.get(f"x-ratelimit-reset-{kind}"))

    async def aclose(self) -> None:
        """Send what Redis has not been told and close the connection; the limiter then works inside the process."""
        for state in self._buckets.values():
            while self._script is not None and (state.flight or state.waiting or state.changes != Changes()):
                self._fly(state)
                if state.flight:
                    await asyncio.wait({state.flight})
            if state.timer:
                state.timer.cancel()
        script, self._script = self._script, None
        if script is not None:
            await script.registered_client.aclose()

    def _bucket(self, name: str) -> _Bucket:
        state = self._buckets.get(name)
        if state is None:
            state = self._buckets[name] = _Bucket(name)
        return state

    async def _slow_start(self, state: _Bucket, tokens: int, max_wait: int) -> int:
        """Wait until the call may go on (0) or its time is up (us until it may ask again)."""
        give_up = self._clock() + max_wait
        while not (state.limited or state.opened.is_set()):
            now = self._clock()
            if now >= state.round_end:
                state.round_end, state.round_left = now + SLOW_START, SLOW_START_CALLS
            if state.round_left:
                state.round_left -= 1
                state.unmetered.append((self._clock(), tokens))
                break
            if now >= give_up:
                return state.round_end - now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout((min(state.round_end, give_up) - now) / SECOND):
                    await state.opened.wait()
        return 0

    def _line_up(self, state: _Bucket, kind: str, remaining: str, reset: str | None) -> None:
        left = _amount(remaining, zero=True)
        cell = state.requests if kind == "requests" else state.tokens
        if left == 0 and (wait := go_duration(reset)) and not 54 <= wait <= 61:
            self._hold(state, wait)
            self._tell(state, 0)
        elif left is not None and cell and left * cell.unit < cell.burst:
            lead = cell.burst - int(left * cell.unit)
            if getattr(state.cells, kind) < self._clock() + lead:
                name = f"{kind}_lead"
                setattr(state.changes, name, max(lead, getattr(state.changes, name)))
                self._tell(state, REFUND_SECONDS)

    def _hold(self, state: _Bucket, seconds: float) -> None:
        state.changes.pause_lead = max(state.changes.pause_lead, _us(seconds))
        state.cells.pause = max(state.cells.pause, self._clock() + _us(seconds))

    def _admit_alone(self, state: _Bucket, costs: list[Cost]) -> list[int]:
        """The arithmetic in this process; with Redis away, as one of the workers that were seen last, without burst."""
        changes, state.changes = state.changes, Changes()
        now = self._clock()
        apply(state.cells, changes, now)
        if self._script is not None:
            n = state.workers
            costs = [Cost(r * n, min(r * n, rb), t * n, min(t * n, tb), longest) for r, rb, t, tb, longest in costs]
        return admit(state.cells, costs, now)

    def _tell(self, state: _Bucket, delay: float) -> bool:
        """Have `state.changes` applied, in Redis after `delay` seconds; False when it was done here and now."""
        if self._script is None or self._retry_at is not None:
            self._admit_alone(state, [])
            return False
        if delay:
            self._soon(state, delay)
            return True
        return self._fly(state)

    async def _view(self, state: _Bucket) -> None:
        """See to it that the picture of the bucket is not older than `VIEW_AGE`."""
        if self._script is None or (state.viewed_at is not None and self._clock() - state.viewed_at < VIEW_AGE):
            return
        if self._retry_at is not None:
            self._probe(state)
        elif self._fly(state) and state.flight:
            await asyncio.wait({state.flight})

    def _probe(self, state: _Bucket) -> None:
        """Try a lost Redis again when it is time, behind the callers' backs."""
        if self._retry_at is not None and self._clock() >= self._retry_at:
            self._retry_at = self._clock() + REDIS_RETRY
            self._fly(state)

    def _soon(self, state: _Bucket, delay: float) -> None:
        loop = asyncio.get_running_loop()
        if state.timer and state.timer.when() <= loop.time() + delay:
            return
        if state.timer:
            state.timer.cancel()
        state.timer = loop.call_later(delay, self._fly, state)

    def _fly(self, state: _Bucket) -> bool:
        """Start an exchange with Redis unless one is under way; False without Redis."""
        if self._script is None:
            return False
        if state.timer:
            state.timer.cancel()
        state.timer = None  # also when an exchange is under way: it looks at its end for what has come since
        if state.flight is None:
            state.flight = asyncio.get_running_loop().create_task(self._exchange(state))
        return True

    async def _exchange(self, state: _Bucket) -> None:
        """One script call: tell Redis what we learned, ask for all who wait, take in how the bucket stands."""
        turns, state.waiting = state.waiting, []
        changes, state.changes = state.changes, Changes()
        try:
            assert self._script is not None
            key = f"tidemill:limits:{{{state.name}}}"
            async with asyncio.timeout(REDIS_SECONDS):
                reply = await self._script([key, f"{key}:workers"], self._question(state, changes, turns))
            waits = self._take_in(state, reply)
        except Exception as error:  # noqa: BLE001  # whatever a connection raises, those who wait must get an answer
            self._lose(error)
            apply(state.cells, changes, self._clock())
            turns, state.waiting = turns + state.waiting, []
            waits = self._admit_alone(state, [cost for cost, _ in turns])
        for (_, turn), wait in zip(turns, waits, strict=True):
            if not turn.done():
                turn.set_result(wait)
        state.flight = None
        if state.waiting or state.changes != Changes():
            self._soon(state, COALESCE_SECONDS if state.waiting else REFUND_SECONDS)

    def _question(self, state: _Bucket, changes: Changes, turns: list[tuple[Cost, asyncio.Future[int]]]) -> list[Any]:
        now, cells, learned, c = self._clock(), state.cells, state.learned, changes
        arguments: list[Any] = ["", self._worker, state.born]  # no time: Redis's own
        arguments += [max(0, at - now) for at in (cells.requests, cells.tokens, cells.pause)]
        arguments += [learned.rpm or "", learned.tpm or "", int(state.opened.is_set()), c.rpm or "", c.tpm or ""]
        arguments += [c.requests_spent, c.tokens_spent, c.requests_lead, c.tokens_lead, c.pause_lead]
        for cost, _ in turns:
            arguments += cost
        return arguments

    def _take_in(self, state: _Bucket, reply: list[Any]) -> list[int]:
        """Believe Redis; after an outage first tell it once more what was granted meanwhile."""
        now, born, requests, tokens, pause, rpm, tpm, seen, workers, *waits = reply
        at = state.viewed_at = self._clock()
        cells = Cells(requests - now + at, tokens - now + at, pause - now + at)
        if born == state.born or self._retry_at is not None:  # a pause may have come after the question
            cells.pause = max(cells.pause, state.cells.pause)
        if self._retry_at is not None:
            cells.requests = max(cells.requests, state.cells.requests)
            cells.tokens = max(cells.tokens, state.cells.tokens)
            log.warning("The Redis of the shared limits answers again.")
        state.born = born if self._retry_at is None else 0
        state.cells, state.workers, self._retry_at = cells, workers, None
        learned = Limits(float(rpm) if rpm else None, float(tpm) if tpm else None)
        if learned != state.learned:
            state.learned = learned
            state.reckon(at)
        if seen:
            state.opened.set()
        return waits

    def _lose(self, error: Exception) -> None:
        if self._retry_at is None:
            log.warning(
                "The Redis of the shared limits does not answer (%s); each worker keeps to its share of the last "
                "known limits until it does.",
                type(error).__name__,
            )
        self._retry_at = self._clock() + REDIS_RETRY
        for state in self._buckets.values():
            state.born = 0  # what is granted from here on, Redis has yet to hear of


def limiter(url: str | None) -> Limiter:
    """The limiter of this process: over the Redis at `url` (redis, rediss, unix or redis+socket), None: in memory.

    Raises:
        SettingsError: the URL cannot be read. A Redis that is away raises nothing, here or later.
    """
    if url is None:
        return Limiter()
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    try:
        client = Redis.from_url(
            _redis_url(url),
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 1),  # once, for a connection that a restart has cut
        )
    except ValueError:
        raise SettingsError("TIDEMILL_LIMITS_URL is not a Redis URL; an example is redis://localhost:6379/0.") from None
    return Limiter(client.register_script(LUA))


def _redis_url(url: str) -> str:
    """Celery's spelling of a Redis URL in redis-py's: redis+socket://, ?virtual_host=, ?ssl_cert_reqs=CERT_..."""
    address, _, query = url.replace("redis+socket://", "unix://", 1).partition("?")
    options = dict(parse_qsl(query))
    if "virtual_host" in options:
        options["db"] = options.pop("virtual_host").strip("/")
    if "ssl_cert_reqs" in options:
        options["ssl_cert_reqs"] = options["ssl_cert_reqs"].lower().removeprefix("cert_")
    return f"{address}?{urlencode(options)}" if options else address


def go_duration(text: str | None) -> float:
    """Seconds of a Go duration ("1s", "6m0s", "120ms", time.ParseDuration) or a bare number; 0 for anything else."""
    if text is None or not re.fullmatch(r"([\d.]+(h|m|s|ms|us|µs|ns)?)+", text):
        return 0.0
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "": 1.0}
    with contextlib.suppress(ValueError):
        parts = re.findall(r"([\d.]+)(h|ms|m|s|us|µs|ns|)", text)
        return min(sum(float(number) * units[unit] for number, unit in parts), DAY_SECONDS)
    return 0.0


def _amount(text: str | None, zero: bool = False) -> float | None:
    """A header's count; None when there is none, it is not finite, or it is negative or (unless `zero`) 0."""
    try:
        amount = float(text or "")
    except ValueError:
        return None
    return amount if math.isfinite(amount) and (amount > 0 or (zero and amount == 0)) else None


def _us(seconds: float) -> int:
    return int(min(seconds, 1e6) * SECOND) if seconds > 0 else 0  # NaN is not above 0
