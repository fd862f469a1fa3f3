"""A cap on money holds because the most that a call may cost is reserved in the transaction that claims its job.

A budget is a row: of one batch, of a day (UTC, by the database's clock), or of the fleet, which is all that uses this
database. What its calls have spent, may be spending, and may have spent without anybody's knowing counts against its
cap. Where the next call does not fit, its batch waits: `next_call_usd_e9` of the batch's own row says how much it may
cost, and `is_blocked` keeps workers from it until there is room.

The row with no name of the kind `day` is the standing cap, and each day gets a row of its own with its first claim. A
row without a cap is not kept up; when it gets one again, its sums are made anew from the ledger. All functions work on
a connection in the caller's transaction. Locks are taken in the order jobs, then budgets by kind and name.
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, false

BATCH, DAY, FLEET = "batch", "day", "fleet"

UNPRICED = 4 * 10**18
"""As the price of the next call: nobody knows it, so it is not made. More than any cap."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A cap and what counts against it; all amounts in 1e-9 USD."""

    kind: str
    name: str
    """The batch's id, the day as `2026-11-28`, or "" for the fleet."""
    cap: int
    spent: int
    reserved: int
    doubtful: int
    """What calls may have cost whose end nobody saw."""
    next_call: int
    """The most that the next call may cost for which there was no room, of a batch that waits; 0: none waits."""

    @property
    def left(self) -> int:
        """What new calls may cost; never below 0."""
        return max(0, self.cap - self.spent - self.reserved - self.doubtful)

    @property
    def is_narrow(self) -> bool:
        """Whether the next call has to wait until others give back what they have reserved."""
        return self.next_call > self.left

    @property
    def is_reached(self) -> bool:
        """Whether the next call does not fit and nothing is reserved that might be given back."""
        return self.is_narrow and self.reserved == 0

    @property
    def is_unpriced(self) -> bool:
        """Whether the next call is not made because nobody knows its price."""
        return self.next_call >= UNPRICED


def set_cap(connection: Connection, kind: str, name: str, cap_usd_e9: int | None) -> None:
    """Set, change or (None) remove a cap; `name` is a batch's id for the kind `batch`, else it does not matter.

    A new one begins with what the ledger says. Calls that are under way reserve the most that they may cost, too.
    """
    raise NotImplementedError


def read_all(connection: Connection) -> list[Budget]:
    """All budgets that have a cap: of batches, of today and of the fleet."""
    raise NotImplementedError


def covering(connection: Connection, batch_id: str) -> list[Budget]:
    """Those that a call of this batch has to fit into: its own, today's, the fleet's. `next_call` is this batch's."""
    raise NotImplementedError


def forgive(connection: Connection, batch_id: str | None = None) -> int:
    """Count no longer what calls may have cost whose end nobody saw, of a batch or of all; returns it in 1e-9 USD."""
    raise NotImplementedError


def is_blocked() -> ColumnElement[bool]:
    """Whether the next call of a row of `batches` does not fit into a budget that covers it."""
    return false()
