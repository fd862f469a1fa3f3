"""What jobs need of their batch is read with a claim and kept for some seconds, so that most claims read none."""

import time
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection, select

from tidemill.models import upstream
from tidemill.models.claims import Claimed
from tidemill.models.options import Options
from tidemill.models.routes import ONLINE
from tidemill.models.scope import Scope
from tidemill.models.tables import batches

_KEPT_SECONDS = 10.0


class KnownBatch(NamedTuple):
    """A batch as it was at a monotonic time."""

    kind: str
    options: Options
    provider: str
    route: str
    deadline_at: datetime | None
    is_out: bool
    """Whether the provider has some of its rows, or may have."""
    read_at: float

    @property
    def is_live(self) -> bool:
        """Whether its rows need nothing but live calls."""
        return self.route == ONLINE and self.deadline_at is None and not self.is_out

    @property
    def seconds_left(self) -> float | None:
        """Until its deadline; None: it has none."""
        return None if self.deadline_at is None else (self.deadline_at - datetime.now(UTC)).total_seconds()


class KnownBatches:
    """The batches of the jobs that a worker has claimed lately."""

    def __init__(self) -> None:
        self._known: dict[str, KnownBatch] = {}

    def of(self, connection: Connection, claimed: Sequence[Claimed]) -> dict[str, KnownBatch]:
        """The batches of these jobs by id, read again once in a while: how fast they go may change."""
        at = time.monotonic()
        known = {id_: each for id_, each in self._known.items() if at - each.read_at < _KEPT_SECONDS}
        if unread := {job.batch_id for job in claimed} - known.keys():
            known |= _read(connection, unread, at)
        self._known = known
        return known

    def are_live(self, scopes: Iterable[Scope]) -> bool:
        """Whether it is known that the batches of all these scopes need nothing but live calls."""
        at = time.monotonic()
        known = [self._known.get(scope.batch_id or "") for scope in scopes]
        return all(each is not None and at - each.read_at < _KEPT_SECONDS and each.is_live for each in known)


def _read(connection: Connection, batch_ids: Collection[str], at: float) -> dict[str, KnownBatch]:
    names = ("id", "kind", "options", "provider", "route", "deadline_at")
    chosen = select(*(batches.c[name] for name in names), upstream.has_open()).where(batches.c.id.in_(batch_ids))
    return {
        row.id: KnownBatch(
            row.kind, Options.from_json(row.options), row.provider, row.route, row.deadline_at, bool(row.is_out), at
        )
        for row in connection.execute(chosen)
    }
