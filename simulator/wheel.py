"""800 replies a second that each wake the process alone cost five times the CPU of the replies themselves.

Replies due within one tick leave together. Rounding goes to the nearest tick, so the mean latency stays what was asked.
"""

import asyncio
from collections.abc import Callable

# Far below any latency that is simulated to matter, and far below the spread of a real provider's.
TICK_SECONDS = 0.005

Due = Callable[[], None]


class Wheel:
    """Calls functions later on the running loop, in the order given within one tick."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ticks: dict[int, list[Due]] = {}

    def call_later(self, seconds: float, due: Due) -> None:
        tick = round((self._loop.time() + seconds) / TICK_SECONDS)
        waiting = self._ticks.get(tick)
        if waiting is None:
            waiting = self._ticks[tick] = []
            self._loop.call_at(tick * TICK_SECONDS, self._turn, tick)
        waiting.append(due)

    def _turn(self, tick: int) -> None:
        for due in self._ticks.pop(tick):
            due()
