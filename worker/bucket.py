"""What one worker process knows of one bucket, and what it has not told or asked Redis yet.

The provider's headers are read here. `worker.limits` decides when to tell what was learned, and to whom.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from tidemill.models.waits import LONG_WAIT_SECONDS, amount, exhausted_seconds
from tidemill.worker.pace import MINUTE, SECOND, Cells, Changes, Cost, Limits, Pace, Unserved, admit, microseconds, pace

DAY_SECONDS = 86_400.0
COUNTED = 5 * SECOND  # the time over which calls are counted, to judge the first throttling
GUESS_EVERY, GROW_EVERY = 2 * SECOND, 3 * SECOND
MANY_THROTTLED, FEW = 0.2, 3  # a smaller share, or fewer, may have other reasons than the rate
FEW_EVERY = 10 * SECOND
GUESS_SHARE = 0.9  # of the rate that was throttled
FIRST_GROWTH, GROWTH, MOST_GROWTH = 0.5, 0.005, 0.15  # of a guess; GROWTH doubles with every step
USED_SHARE = 0.8
LOWEST_GUESS = 6.0  # calls a minute
REFUND_SECONDS = 0.05  # how long what is not urgent waits, so that more of it goes at once
LOWEST_LIMIT, HIGHEST_LIMIT = 0.01, 1e12  # calls or tokens a minute; what is said beyond them is no limit
RUN_GAP = int(1.2 * LONG_WAIT_SECONDS) * SECOND  # refusals further apart are no run
LONG_CALL = MINUTE  # a call that takes this long was not refused


@dataclass(slots=True)
class Bucket:
    """What this process knows of one bucket, and what it has not told or asked Redis yet."""

    name: str
    cells: Cells = field(default_factory=Cells)
    configured: Limits = field(default_factory=Limits)
    learned: Limits = field(default_factory=Limits)
    headers: tuple[str | None, str | None] = (None, None)
    announced: Limits = field(default_factory=Limits)  # `headers`, read
    requests: Pace | None = None
    tokens: Pace | None = None
    request_us: int = 0
    opened: asyncio.Event = field(default_factory=asyncio.Event)  # this worker or another one has had a reply
    answer_times: "deque[int]" = field(default_factory=deque)  # the latest ones
    grant_times: "deque[int]" = field(default_factory=deque)
    throttle_times: "deque[int]" = field(default_factory=deque)
    guessed_at: int | None = None  # when the guess of the provider's limit was last set or raised
    lowered_at: int | None = None
    growth: float = GROWTH
    refused_at: int | None = None  # when the run of refusals began that no answer has ended
    last_refused_at: int = 0
    refusals: int = 0  # in this run
    refused_jobs: set[int] = field(default_factory=set)  # in this run, a few of them
    under_way: "deque[int]" = field(default_factory=deque)  # when the calls began that have not ended
    round_end: int = 0
    round_left: int = 0
    unmetered: list[tuple[int, int]] = field(default_factory=list)  # (when, tokens) granted before any limit was known
    born: int = 0  # when the key in Redis that we know was created; 0: none
    viewed_at: int | None = None
    workers: int = 1
    changes: Changes = field(default_factory=Changes)
    waiting: list[tuple[Cost, asyncio.Future[int]]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    exchange: asyncio.Task[None] | None = None

    @property
    def limited(self) -> bool:
        """Whether any limit a minute is known."""
        return self.requests is not None or self.tokens is not None

    def update_paces(self, now: int) -> None:
        """Compute the paces anew, and once they are known charge the calls of the slow start to them."""
        self.requests = pace(self.configured.rpm, self.learned.rpm)
        self.tokens = pace(self.configured.tpm, self.learned.tpm)
        self.request_us = self.requests.charge(1) if self.requests else 0
        if self.limited and self.unmetered:
            spent = Cells()
            for at, tokens in self.unmetered:
                admit(spent, [self.cost(tokens, 10**15)], at)
            self.unmetered.clear()
            self.changes.requests_spent += max(0, spent.requests - now)
            self.changes.tokens_spent += max(0, spent.tokens - now)

    def cost(self, tokens: int, max_wait: int) -> Cost:
        """What a call of this many tokens takes at the present paces."""
        requests, room = self.requests, self.tokens
        return Cost(
            self.request_us,
            requests.burst if requests else 0,
            room.charge(tokens) if room else 0,
            room.burst if room else 0,
            max_wait,
        )

    def pause(self, seconds: float, now: int) -> None:
        """Let nobody call before `now` + `seconds`; a shorter pause never cuts a longer one."""
        self.changes.pause_lead = max(self.changes.pause_lead, microseconds(seconds))
        self.cells.pause = max(self.cells.pause, now + microseconds(seconds))

    def learn(self, headers: Mapping[str, str], now: int) -> bool:
        """Note the limits a minute in a reply's headers; True if one of them is new."""
        values = (headers.get("x-ratelimit-limit-requests"), headers.get("x-ratelimit-limit-tokens"))
        if values != self.headers:
            self.headers, self.announced = values, Limits(_limit(values[0]), _limit(values[1]))
        announced, learned = self.announced, self.learned
        if announced.rpm in (None, learned.rpm) and announced.tpm in (None, learned.tpm):
            return False
        self.learned = Limits(announced.rpm or learned.rpm, announced.tpm or learned.tpm)
        self.changes.rpm, self.changes.tpm = announced.rpm, announced.tpm
        self.update_paces(now)
        return True

    def count_grant(self, now: int) -> None:
        """Count a call that may go."""
        _count(self.grant_times, now)

    def count_answer(self, now: int) -> bool:
        """Count an answer; True if it has raised a guessed limit.

        If a provider throttles and never says which rate it allows, the limit is guessed: each throttling lowers it by
        a tenth, and answers raise it in small steps that grow until the next throttling.
        """
        _count(self.answer_times, now)
        self.refused_at = None
        since = now - (self.guessed_at or 0)
        if not self.is_guessed or since < GROW_EVERY * self.workers or not self._is_used_up(now):
            return False
        assert self.learned.rpm is not None
        self._guess(self.learned.rpm * (1 + self.growth), now)
        self.growth = max(self.growth, min(2 * self.growth, MOST_GROWTH))
        return True

    def count_throttling(self, now: int) -> bool:
        """Count a call that was throttled; True if that has lowered the guessed limit.

        Few of them among many answers begin no guess, and lower one only to the rate that is being answered: they may
        have other reasons, and would come at any rate.
        """
        _count(self.throttle_times, now)
        # Compared with the calls sent, because the answers to them come later than a throttling.
        throttled = _lately(self.throttle_times, now)
        many = throttled >= FEW and throttled >= MANY_THROTTLED * _lately(self.grant_times, now)
        known, rate = self.learned.rpm, self._rate(now)
        if not self._must_guess or (known is None and not (many and rate)):
            return False
        if self.lowered_at is not None and now - self.lowered_at < (GUESS_EVERY if many else FEW_EVERY):
            return False
        self.lowered_at = now
        # The first guess is too low, because calls under way are not counted.
        self.growth = FIRST_GROWTH if known is None else GROWTH
        lower = GUESS_SHARE * (known or rate)
        self._guess(max(LOWEST_GUESS, lower if many else min(known or lower, max(lower, rate))), now)
        return True

    def count_refusal(self, job_id: int, now: int) -> Unserved:
        """Count a call of a job that was refused, for whatever reason, and say for how long every call was.

        That is 0 after a few calls, or while one may still be answered.
        """
        if self.refused_at is None or now - self.last_refused_at > RUN_GAP:
            self.refused_at, self.refusals = now, 0
            self.refused_jobs.clear()
        self.last_refused_at = now
        self.refusals += 1
        if len(self.refused_jobs) < FEW:
            self.refused_jobs.add(job_id)
        oldest = min(self.under_way, default=now)
        may_be_answered = oldest < self.refused_at or now - oldest > LONG_CALL
        us = 0 if self.refusals < FEW or may_be_answered else now - self.refused_at
        return Unserved(us / SECOND, len(self.refused_jobs) >= FEW)

    def keep_guess(self, now: int) -> None:
        """Keep for a while a guess that another worker has lowered: its throttling was meant for all."""
        self.guessed_at, self.lowered_at, self.growth = now, now, GROWTH

    def _rate(self, now: int) -> float:
        """Calls answered a minute lately, if all workers do as this one."""
        counted = _lately(self.answer_times, now)
        return counted * MINUTE / max(SECOND, now - self.answer_times[-counted]) * self.workers if counted else 0.0

    def _is_used_up(self, now: int) -> bool:
        """Whether calls go as fast as the guess allows; slower ones do not test it."""
        return self._rate(now) >= USED_SHARE * (self.learned.rpm or 0)

    @property
    def is_guessed(self) -> bool:
        """Whether the known limit is a guess."""
        return self._must_guess and self.learned.rpm is not None

    @property
    def _must_guess(self) -> bool:
        """Whether the provider does not announce its limits."""
        return self.announced.rpm is None and self.announced.tpm is None

    def _guess(self, rpm: float, now: int) -> None:
        self.guessed_at = now
        self.learned = Limits(rpm, self.learned.tpm)
        self.changes.rpm = rpm
        self.update_paces(now)

    def pause_until_reset(self, headers: Mapping[str, str], now: int) -> bool:
        """Pause until what a reply has used up is filled again; True if it has. A long wait is a hold instead."""
        wait = exhausted_seconds(headers)
        if not wait or wait > LONG_WAIT_SECONDS:
            return False
        self.pause(wait, now)
        return True

    def lower_to_remaining(self, kind: str, headers: Mapping[str, str], now: int) -> float | None:
        """Lower a cell (`kind`: requests or tokens) to what remains of it according to a reply.

        Returns:
            In how many seconds to tell the others; None if there is nothing to tell.
        """
        left = amount(headers.get(f"x-ratelimit-remaining-{kind}"))
        if left is None or amount(headers.get(f"x-ratelimit-limit-{kind}")) == 0:  # a limit that does not apply
            return None
        limit = self.requests if kind == "requests" else self.tokens
        if limit is None or left * limit.unit >= limit.burst:
            return None
        lead = limit.burst - int(left * limit.unit)
        if getattr(self.cells, kind) >= now + lead:
            return None
        name = f"{kind}_lead"
        setattr(self.changes, name, max(lead, getattr(self.changes, name)))
        return REFUND_SECONDS


def _count(times: "deque[int]", now: int) -> None:
    times.append(now)
    while now - times[0] > COUNTED:
        times.popleft()


def _lately(times: "deque[int]", now: int) -> int:
    """How many of these times are within the last COUNTED."""
    return sum(now - at <= COUNTED for at in times)


def _limit(text: str | None) -> float | None:
    """A header's limit a minute; None if there is none, or it is no number that could be one."""
    limit = amount(text)
    return limit if limit is not None and LOWEST_LIMIT <= limit <= HIGHEST_LIMIT else None
