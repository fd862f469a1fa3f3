"""A run in cron or CI must end, also where the provider serves nobody: these are the limits, and how they are told."""

from typing import NamedTuple


class Ends(NamedTuple):
    """When to stop waiting although rows are open."""

    max_wait_seconds: float | None = None
    """After so long."""
    fail_fast: bool = False
    """At the first row that fails, or when the provider serves nobody."""
