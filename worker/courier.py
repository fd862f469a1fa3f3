"""With a broker, somebody must bring it the jobs that are due, and notice when it loses them or is away."""

import time

from tidemill.models.database import transact
from tidemill.models.due import unsend_older
from tidemill.models.errors import BrokerError
from tidemill.models.feed import RESEND_SECONDS, feed, resend_lost
from tidemill.models.scope import Scope
from tidemill.worker.rounds import Duty, Rounds
from tidemill.worker.runner import Runner

FEED_SECONDS = 0.5
_RESEND_SECONDS = 2.0
_BROKER_SECONDS = 5.0
"""A broker that takes longer to answer counts as away."""


class Courier:
    """Feeds the broker; while that is away, the runner claims what is due straight from the database."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._asked_broker_at: float | None = None
        self._broker_failed = False

    def rounds(self) -> tuple[Rounds, Rounds]:
        """Two threads, since one may have to wait for the broker."""
        return (
            Rounds("courier", {self._feed: FEED_SECONDS, self._resend: _RESEND_SECONDS}, self._runner.hungry),
            Rounds("stand-in", {self._claim_without_broker: FEED_SECONDS}),
        )

    def _feed(self) -> None:
        if self._runner.is_admitting:
            self._ask_broker(feed)

    def _resend(self) -> None:
        self._ask_broker(resend_lost)

    def _ask_broker(self, question: Duty) -> None:
        self._asked_broker_at = time.monotonic()
        try:
            question()
        except BrokerError:
            self._broker_failed = True
            raise
        else:
            self._broker_failed = False
        finally:
            self._asked_broker_at = None

    @property
    def _is_away(self) -> bool:
        asked_at = self._asked_broker_at
        return self._broker_failed or (asked_at is not None and time.monotonic() - asked_at > _BROKER_SECONDS)

    def _claim_without_broker(self) -> None:
        """Claim due jobs, and those whose messages are with the broker."""
        if self._is_away:
            transact(lambda connection: unsend_older(connection, RESEND_SECONDS[True]))
        while self._is_away and self._runner.admit_due(Scope(), self._runner.free):
            pass
