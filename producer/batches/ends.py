"""A run in cron or CI must end, also where the provider serves nobody: these are the limits, and how they are told."""

from typing import NamedTuple

from tidemill.models.errors import NOT_ALL_SUCCEEDED, NOT_ENDED, TidemillError


class Ends(NamedTuple):
    """When to stop waiting although rows are open."""

    max_wait_seconds: float | None = None
    """After so long."""
    fail_fast: bool = False
    """At the first row that fails, or when the provider serves nobody."""


class StoppedEarlyError(TidemillError):
    """A run was stopped by one of its `Ends`. Open rows stay open, and the same command goes on with them."""


class NotEndedError(StoppedEarlyError):
    """It took too long, or the provider serves nobody; the text says what is open and what it waits for."""

    exit_code = NOT_ENDED


class RowFailedError(StoppedEarlyError):
    """A row has failed; the text says why."""

    exit_code = NOT_ALL_SUCCEEDED
