"""When a call may go, and what it costs of a minute's budget, is arithmetic and nothing else.

A bucket (one key at one provider for one model) has two cells, requests and tokens, and a pause. A cell is one number:
the time at which all that was taken from it has been paid off (GCRA, as in ITU-T I.371 and redis-cell). A call takes
from both cells or from neither, and learns how long to sleep first. All times are integer microseconds.

The arithmetic is written twice and tested for equality: `apply` and `admit` here, `LUA` in Redis with Redis's clock.
Limits become microseconds in Python only (`Pace`), so the script adds and compares integers and knows no rates.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

SECOND = 1_000_000
MINUTE = 60 * SECOND
SAFE_SHARE = 0.985  # of a limit; with the burst it stays below the limit in any 60 s
BURST_SHARE = 0.01  # of a minute's budget may go at once

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


class Limits(NamedTuple):
    """What the user allows a minute; None: learn it from the provider's headers. The lower of both counts."""

    rpm: float | None = None
    tpm: float | None = None


class Grant(NamedTuple):
    """`granted`: sleep `wait_seconds`, then call. Otherwise nothing was taken: try again after that time."""

    wait_seconds: float
    granted: bool


class Unserved(NamedTuple):
    """For how many seconds nobody was answered and everybody refused, and whether that were several jobs."""

    seconds: float = 0.0
    is_general: bool = False


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
    """What one process has learned since its last script call; `_lead` means "not before now + this many us"."""

    rpm: float | None = None
    tpm: float | None = None
    requests_spent: int = 0
    tokens_spent: int = 0  # negative: a refund
    requests_lead: int = 0
    tokens_lead: int = 0
    pause_lead: int = 0


def apply(cells: Cells, changes: Changes, now: int) -> None:
    """Apply what was learned to the cells; `LUA` does the same."""
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
        # A cost within the burst fits into it; a bigger one goes once the cell owes nothing, and leaves it in debt.
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
    """One limit a minute as times in us: what a unit costs and how much may go at once."""

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


def microseconds(seconds: float) -> int:
    """Seconds in us, at most about 12 days; 0 for what is not above 0 (which NaN is not)."""
    return int(min(seconds, 1e6) * SECOND) if seconds > 0 else 0
