"""How far a batch is and what it has cost is asked in one query, whatever its size."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from tidemill.models import budgets, tallies
from tidemill.models.budgets import Budget
from tidemill.models.cost import format_tokens, format_usd
from tidemill.models.database import reading
from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.models.money import COST_PLACES
from tidemill.models.routes import ONLINE
from tidemill.models.scope import Scope
from tidemill.models.tables import OPEN_STATES, STATES, batches
from tidemill.producer.batches import budget_words


def counted(number: int, noun: str) -> str:
    """`1 row`, `1,200 rows`, `2 batches`."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('ch') else 's'}"


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of a batch's rows by state, and what their calls have used so far (tokens, USD)."""

    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    tokens: int = 0
    cost_usd: float | None = None
    unpriced: int = 0
    """Rows that used tokens at an unknown price."""
    unjudged: int = 0
    hold_reason: str | None = None
    state: str = "open"
    at_provider: int = 0
    """Running rows that are at the provider's Batch API, or on their way there."""
    done_there: int = 0
    """Of these, the rows that the provider says it has answered, and that nobody has collected yet."""
    route: str = ONLINE
    """How rows go out that are not yet out."""
    deadline_at: datetime | None = None
    budgets: Sequence[Budget] = ()
    """Those that cap it: its own, today's, and that of all batches."""

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(self.states.values())

    @property
    def open(self) -> int:
        """Rows that have not ended."""
        return sum(self.states[state] for state in OPEN_STATES)

    @property
    def ended(self) -> int:
        """Rows that have ended in any way."""
        return self.rows - self.open

    @property
    def is_complete(self) -> bool:
        """True when every row has ended and every reply is judged."""
        return self.open == 0 and self.unjudged == 0

    @property
    def all_succeeded(self) -> bool:
        """True when every row has succeeded."""
        return self.states["succeeded"] == self.rows

    def cost(self) -> str:
        """What it cost, for people."""
        if self.cost_usd is None:
            return format_usd(None) if self.unpriced else format_usd(0.0)
        return format_usd(self.cost_usd) + (" and unknown prices" if self.unpriced else "")

    @property
    def is_out(self) -> bool:
        """True when all open rows are at the provider's Batch API."""
        return 0 < self.at_provider == self.open

    def spending(self) -> str:
        """What it cost, with what it may cost, for a short piece of a line: `$0.017 of $5.00`."""
        narrowest = budget_words.narrowest(self.budgets)
        return self.cost() if narrowest is None else budget_words.spent_of(narrowest)

    def summary(self, seconds: float | None = None) -> str:
        """The last line of a run: `533 rows: 531 succeeded, 2 failed, 0 open · 61,204 tokens · $0.021 · 41 s`."""
        cancelled = f", {self.states['cancelled']} cancelled" if self.states["cancelled"] else ""
        took = f" · {seconds:.0f} s" if seconds is not None else ""
        done, failed = self.states["succeeded"], self.states["failed"]
        ended = f"{done:,} succeeded, {failed:,} failed{cancelled}"
        used = f"{format_tokens(self.tokens)} tokens · {self.cost()}"
        there = f" ({self.at_provider:,} at the provider)" if self.at_provider else ""
        return f"{counted(self.rows, 'row')}: {ended}, {self.open:,} open{there} · {used}{took}"

    def to_json(self) -> JsonObject:
        """For scripts: counts by state, tokens, cost_usd (null when unknown), state of the batch, reason of a hold.

        `at_provider` is a part of `running`: rows at the provider's Batch API.
        """
        return {
            "rows": self.rows,
            **self.states,
            "open": self.open,
            "tokens": self.tokens,
            "cost_usd": self.cost_usd,
            "rows_at_unknown_price": self.unpriced,
            "unjudged": self.unjudged,
            "state": self.state,
            "hold_reason": self.hold_reason,
            "route": self.route,
            "deadline_at": None if self.deadline_at is None else self.deadline_at.isoformat(),
            "at_provider": self.at_provider,
            "budgets": [budget_words.to_json(each) for each in self.budgets],
        }


def progress(scope: Scope) -> Progress:
    """Count the rows of a batch, or of one submission of it."""
    with reading() as connection:
        return counts(connection, scope)


def counts(connection: Connection, scope: Scope) -> Progress:
    """As `progress`, in the caller's transaction."""
    now = tallies.read(connection, scope)
    rows = dict.fromkeys(STATES, 0)
    for each in now.tallies:
        rows["queued" if each.state == "open" else each.state] += each.rows
    costs = [each.cost_usd for each in now.tallies if each.cost_usd is not None]
    return Progress(
        states=rows | {"queued": rows["queued"] - now.running, "running": now.running},
        tokens=sum(each.tokens for each in now.tallies),
        cost_usd=round(sum(costs), COST_PLACES) if costs else None,
        unpriced=sum(each.unpriced for each in now.tallies),
        unjudged=now.unjudged,
        hold_reason=now.hold_reason,
        state=now.state,
        at_provider=now.at_provider,
        done_there=_done_there(connection, scope, now.at_provider),
        route=now.route,
        deadline_at=now.deadline_at,
        budgets=budgets.covering(connection, scope.batch_id) if now.caps and scope.batch_id else (),
    )


def _done_there(connection: Connection, scope: Scope, at_provider: int) -> int:
    if not at_provider or scope.batch_id is None:
        return 0
    from tidemill.models import whereabouts  # which a run without such rows does not need

    upstream = whereabouts.of_batch(connection, scope.batch_id)
    collected = max(0, sum(each.lines for each in upstream) - at_provider)
    return min(at_provider, max(0, sum(each.done for each in upstream) - collected))


def marked(scope: Scope) -> list[tuple[str, int, str]]:
    """Why answers were kept although they may not be whole: code, how many, and the sentence of one; most first."""
    with reading() as connection:
        return [
            (code, rows, tallies.example(connection, scope, "succeeded", code))
            for code, rows in tallies.reasons(connection, scope, "succeeded")
            if code
        ]


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """A batch in a list."""

    id: str
    kind: str
    model: str
    created_at: datetime
    progress: Progress


def list_batches(limit: int) -> list[BatchSummary]:
    """The latest batches, newest first."""
    newest = select(batches).order_by(batches.c.created_at.desc(), batches.c.id).limit(limit)
    with reading() as connection:
        return [
            BatchSummary(
                row.id, row.kind, row.options["model"], row.created_at, counts(connection, Scope(batch_id=row.id))
            )
            for row in connection.execute(newest)
        ]


def resolve(name: str) -> Row[Any]:
    """The batch that somebody means by an id, the beginning of one, or `latest`.

    Raises:
        InputError: no batch or more than one is meant.
    """
    newest = select(batches).order_by(batches.c.created_at.desc(), batches.c.id)
    if not name.strip():  # `"$BATCH"` of a script that has not set it begins every id
        raise InputError("The name of the batch is empty. `tidemill status` lists the batches.")
    with reading() as connection:
        if name == "latest":
            rows = connection.execute(newest.limit(1)).all()
        else:
            rows = connection.execute(newest.where(batches.c.id.startswith(name, autoescape=True)).limit(5)).all()
    exact = [row for row in rows if row.id == name]
    if len(exact or rows) == 1:
        return (exact or rows)[0]
    if not rows:
        raise InputError(f"There is no batch {name!r}. `tidemill status` lists the batches.")
    raise InputError(f"{name!r} may be {', '.join(row.id for row in rows)}. Write more of the id.")
