"""What a user sees of rows at the provider's Batch API, and wants of them; how they get there is `models.upstream`.

All functions work on a connection in the caller's transaction.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, select, update

from tidemill.models.batch_servers import counts_of, status_of
from tidemill.models.clock import now
from tidemill.models.json_types import JsonObject
from tidemill.models.members import OWNER
from tidemill.models.tables import upstream_batches


class Upstream(NamedTuple):
    """A batch at the provider's Batch API, or on its way there; counts are as the provider last said them."""

    id: int
    batch_id: str
    provider: str
    token: str
    """Its rows are owned by `members.OWNER` and this."""
    remote_id: str | None
    """Its id at the provider; None until it is known to be there."""
    status: str | None
    """As the provider says it."""
    route: str
    """Which of `models.routes.UPSTREAM` it is."""
    lines: int
    completed: int | None
    """Lines that the provider has answered; None while it says nothing."""
    failed: int | None
    created_at: datetime
    """When its first row was packed."""
    sent_at: datetime | None
    seen_at: datetime | None
    expires_at: datetime | None
    """When the provider gives it up."""
    ended_at: datetime | None
    wanted: str | None
    note: str | None
    """What last went wrong without ending it."""

    @property
    def done(self) -> int:
        """Lines that the provider is done with, as far as it says."""
        return min(self.lines, (self.completed or 0) + (self.failed or 0))

    @property
    def is_to_end(self) -> bool:
        """Whether the provider is told to cancel it, or will be."""
        return bool(self.wanted) or status_of({"status": self.status}) in ("cancelling", "cancelled")

    def to_json(self) -> JsonObject:
        """For scripts; times are UTC."""
        times = {name: getattr(self, name) for name in ("sent_at", "seen_at", "expires_at")}
        return {
            **{
                name: getattr(self, name)
                for name in ("id", "route", "remote_id", "status", "lines", "completed", "failed")
            },
            **{name: at and at.isoformat() for name, at in times.items()},
            **{name: getattr(self, name) for name in ("wanted", "note")},
        }


# --- see ---


def of_batch(connection: Connection, batch_id: str, *, ended: bool = False) -> list[Upstream]:
    """The upstream batches of a batch that have not ended, with `ended` all there ever were; the oldest first."""
    its = select(upstream_batches).where(upstream_batches.c.batch_id == batch_id)
    chosen = its if ended else its.where(*_open(batch_id))
    return [_upstream(row) for row in connection.execute(chosen.order_by(upstream_batches.c.id))]


def of_all(connection: Connection) -> list[Upstream]:
    """Every upstream batch that has not ended, the oldest first."""
    is_open = upstream_batches.c.ended_at.is_(None)
    chosen = select(upstream_batches).where(is_open).order_by(upstream_batches.c.id)
    return [_upstream(row) for row in connection.execute(chosen)]


def of_owners(connection: Connection, worker_ids: Iterable[str]) -> dict[str, Upstream]:
    """Those of the owners of rows that are upstream batches, by their name as an owner."""
    tokens = {name.removeprefix(OWNER) for name in worker_ids if name.startswith(OWNER)}
    if not tokens:
        return {}
    chosen = select(upstream_batches).where(upstream_batches.c.token.in_(tokens))
    return {f"{OWNER}{row.token}": _upstream(row) for row in connection.execute(chosen)}


def _upstream(row: Row[Any]) -> Upstream:
    _, completed, failed = counts_of(row.remote or {}, row.lines)
    own = {name: getattr(row, name) for name in Upstream._fields if name not in ("completed", "failed")}
    return Upstream(**own, completed=completed, failed=failed)


# --- want ---


def want_cancel(connection: Connection, batch_id: str) -> int:
    """Have the open ones cancelled at the provider, by whoever has their next step. Returns how many.

    What the provider has answered until then is still read and paid.
    """
    wanted = update(upstream_batches).where(*_open(batch_id), upstream_batches.c.wanted.is_(None))
    return connection.execute(wanted.values(wanted="cancel", due_at=now())).rowcount


def want_no_cancel(connection: Connection, batch_id: str) -> None:
    """Let the open ones go on, but for those whose provider has been told to cancel them."""
    connection.execute(update(upstream_batches).where(*_open(batch_id)).values(wanted=None))


def move(connection: Connection, batch_id: str, provider: str) -> None:
    """Look for the open ones at the server's new address."""
    connection.execute(update(upstream_batches).where(*_open(batch_id)).values(provider=provider))


def _open(batch_id: str) -> tuple[Any, ...]:
    return upstream_batches.c.batch_id == batch_id, upstream_batches.c.ended_at.is_(None)
