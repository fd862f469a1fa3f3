"""What one worker process knows of one bucket, and what it has yet to tell and to ask.

The provider's own headers are read here. When what was learned is told, and to whom, is `worker.limits`'s affair.
"""

import asyncio
import contextlib
import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from tidemill.worker.pace import MINUTE, SECOND, Cells, Changes, Cost, Limits, Pace, admit, microseconds, pace

DAY_SECONDS = 86_400.0
COUNTED = 5 * SECOND  # answers are counted over so long, to make sense of a first refusal
GUESS_EVERY, GROW_EVERY = 2 * SECOND, 3 * SECOND
MANY_REFUSED, FEW = 0.2, 3  # a smaller share, or so few, may have other reasons than the rate
FEW_EVERY = 10 * SECOND
GUESS_SHARE = 0.9  # of the rate that was refused
FIRST_GROWTH, GROWTH, MOST_GROWTH = 0.5, 0.005, 0.15  # of a guess; the second is doubled with every step
USED_SHARE = 0.8
LOWEST_GUESS = 6.0  # calls a minute
REFUND_SECONDS = 0.05  # what is not urgent waits so long for company


@dataclass(slots=True)
class Bucket:
    """What this process knows of one bucket, and what it has yet to tell and to ask."""

    name: str
    cells: Cells = field(default_factory=Cells)
    asked: Limits = field(default_factory=Limits)
    learned: Limits = field(default_factory=Limits)
    headers: tuple[str | None, str | None] = (None, None)
    announced: Limits = field(default_factory=Limits)  # `headers`, read
    requests: Pace | None = None
    tokens: Pace | None = None
    request_us: int = 0
    opened: asyncio.Event = field(default_factory=asyncio.Event)  # a reply was seen here or by another worker
    served: "deque[int]" = field(default_factory=deque)  # when calls were answered, of late
    granted: "deque[int]" = field(default_factory=deque)  # when they were allowed
    refusals: "deque[int]" = field(default_factory=deque)  # when they were refused for the rate
    guessed_at: int | None = None  # when the provider's limit was last guessed, or the guess raised
    lowered_at: int | None = None
    growth: float = GROWTH
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
        """Whether any limit a minute is known."""
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
        """What a call of so many tokens takes, by the paces known now."""
        requests, room = self.requests, self.tokens
        return Cost(
            self.request_us,
            requests.burst if requests else 0,
            room.charge(tokens) if room else 0,
            room.burst if room else 0,
            max_wait,
        )

    def hold(self, seconds: float, now: int) -> None:
        """Nobody calls before `now` + `seconds`; a shorter pause never cuts a longer one."""
        self.changes.pause_lead = max(self.changes.pause_lead, microseconds(seconds))
        self.cells.pause = max(self.cells.pause, now + microseconds(seconds))

    def learn(self, headers: Mapping[str, str], now: int) -> bool:
        """Take in the limits a minute that a reply names; True when one of them is news."""
        named = (headers.get("x-ratelimit-limit-requests"), headers.get("x-ratelimit-limit-tokens"))
        if named != self.headers:
            self.headers, self.announced = named, Limits(_amount(named[0]), _amount(named[1]))
        announced, learned = self.announced, self.learned
        if announced.rpm in (None, learned.rpm) and announced.tpm in (None, learned.tpm):
            return False
        self.learned = Limits(announced.rpm or learned.rpm, announced.tpm or learned.tpm)
        self.changes.rpm, self.changes.tpm = announced.rpm, announced.tpm
        self.reckon(now)
        return True

    def allowed(self, now: int) -> None:
        """Count a call that may go."""
        _count(self.granted, now)

    def answered(self, now: int) -> bool:
        """Count an answer; True when a guessed limit is higher for it.

        A provider that refuses for the rate and never says which one it allows is felt out: down by a tenth with every
        refusal, up by little steps that grow until the next one.
        """
        _count(self.served, now)
        since = now - (self.guessed_at or 0)
        if not self.is_guessed or since < GROW_EVERY * self.workers or not self._is_used_up(now):
            return False
        assert self.learned.rpm is not None
        self._guess(self.learned.rpm * (1 + self.growth), now)
        self.growth = max(self.growth, min(2 * self.growth, MOST_GROWTH))
        return True

    def refused(self, now: int) -> bool:
        """Make sense of a refusal for the rate; True when the guess of the limit is lower for it.

        Few refusals among many answers begin no guess, and lower one no further than to what is being answered: they
        may have other reasons, and would come at any rate.
        """
        _count(self.refusals, now)
        # Compared with what was sent: a refusal comes at once, and the answers to the others only later.
        refused = _lately(self.refusals, now)
        many = refused >= FEW and refused >= MANY_REFUSED * _lately(self.granted, now)
        known, rate = self.learned.rpm, self._rate(now)
        if not self._guesses or (known is None and not (many and rate)):
            return False
        if self.lowered_at is not None and now - self.lowered_at < (GUESS_EVERY if many else FEW_EVERY):
            return False
        self.lowered_at = now
        self.growth = FIRST_GROWTH if known is None else GROWTH  # a first guess counts what is under way too low
        lower = GUESS_SHARE * (known or rate)
        self._guess(max(LOWEST_GUESS, lower if many else min(known or lower, max(lower, rate))), now)
        return True

    def calm(self, now: int) -> None:
        """Let a guess that another worker has lowered stand for a while: its refusal was meant for all."""
        self.guessed_at, self.lowered_at, self.growth = now, now, GROWTH

    def _rate(self, now: int) -> float:
        """Calls answered a minute, of late, if all workers do as this one."""
        counted = _lately(self.served, now)
        return counted * MINUTE / max(SECOND, now - self.served[-counted]) * self.workers if counted else 0.0

    def _is_used_up(self, now: int) -> bool:
        """Whether calls go as fast as the guess allows: else it was not put to the test, and says nothing."""
        return self._rate(now) >= USED_SHARE * (self.learned.rpm or 0)

    @property
    def is_guessed(self) -> bool:
        """Whether the limit known is a guess."""
        return self._guesses and self.learned.rpm is not None

    @property
    def _guesses(self) -> bool:
        """Whether the provider leaves its limits to be guessed."""
        return self.announced.rpm is None and self.announced.tpm is None

    def _guess(self, rpm: float, now: int) -> None:
        self.guessed_at = now
        self.learned = Limits(rpm, self.learned.tpm)
        self.changes.rpm = rpm
        self.reckon(now)

    def line_up(self, kind: str, headers: Mapping[str, str], now: int) -> float | None:
        """Let a cell believe in no more than what a reply says remains of it (`kind`: requests or tokens).

        Returns:
            In how many seconds the others must know; None when there is nothing to tell.
        """
        left = _amount(headers.get(f"x-ratelimit-remaining-{kind}"), zero=True)
        if left is None:
            return None
        # A budget that refills evenly says all the time that it is full in about a minute.
        if left == 0 and (wait := go_duration(headers.get(f"x-ratelimit-reset-{kind}"))) and not 54 <= wait <= 61:
            self.hold(wait, now)
            return 0
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
    """How many of these times are not longer ago than they are counted for."""
    return sum(now - at <= COUNTED for at in times)


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
    if text is None:
        return None
    try:
        amount = float(text)
    except ValueError:
        return None
    return amount if math.isfinite(amount) and (amount > 0 or (zero and amount == 0)) else None
