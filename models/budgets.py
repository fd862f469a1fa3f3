"""A cap on money is a row of `budgets`: of one batch, of a day, or of the fleet, which is all that uses this database.

What its calls have spent, may be spending, and may have spent without anybody's knowing counts against it. Before a
call its most is reserved (`models/reservations.py`), and given back when it ends (`models/bookings.py`). Where it does
not fit, the batch waits: `next_call_usd_e9` of its own row says how much the call may cost, and `is_blocked` keeps
workers from the batch until there is room.

Days are those of UTC, by the database's clock. The row of the kind `day` with no name is the standing cap, and each day
gets a row of its own with its first claim. A row without a cap is not kept up: when it gets one again, its sums are
made anew from the ledger. All functions work on a connection in the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
    text,
    true,
    update,
)

from tidemill.models import reservations, turns
from tidemill.models.bookings import BATCH, DAY, FLEET, Booking, book
from tidemill.models.bulk import BulkRows, insert_for
from tidemill.models.clock import day_of, now
from tidemill.models.money import E12_PER_E9, MOST_USD_E9, USD_E9, usd
from tidemill.models.reservations import COLUMNS, UNPRICED
from tidemill.models.routes import ONLINE
from tidemill.models.tables import attempts, batches, budgets, fine_tunes, jobs, kept_costs
from tidemill.models.text import dumps


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
    training: int = 0
    """How much of what is reserved is for fine-tunes, which may run for days; counted only where a call waits."""

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
        """Whether the next call does not fit and nothing is reserved that may be given back soon."""
        return self.is_narrow and self.reserved <= self.training

    @property
    def is_unpriced(self) -> bool:
        """Whether the next call is not made because nobody knows its price."""
        return self.next_call >= UNPRICED


# --- read ---

_TODAY = day_of(now())


def read_all(connection: Connection) -> list[Budget]:
    """All budgets that have a cap: of batches, the latest first, of today and of the fleet.

    `next_call` of the latter two is the least of all open batches that wait.
    """
    waiting = (
        select(func.min(budgets.c.next_call_usd_e9))
        .join(batches, and_(budgets.c.kind == BATCH, budgets.c.name == batches.c.id))
        .where(budgets.c.next_call_usd_e9 > 0, batches.c.state == "open")
    )
    next_call = connection.scalar(waiting) or 0
    latest = select(*COLUMNS).join(batches, and_(budgets.c.kind == BATCH, budgets.c.name == batches.c.id))
    latest = latest.where(budgets.c.cap_usd_e9.is_not(None)).order_by(batches.c.created_at.desc(), batches.c.id)
    own = [Budget(*row) for row in connection.execute(latest)]
    return _with_training(connection, [*own, *_of_all(connection, next_call)])


def covering(connection: Connection, batch_id: str) -> list[Budget]:
    """Those that a call of this batch has to fit into: its own, today's, the fleet's. `next_call` is this batch's."""
    own = connection.execute(select(*COLUMNS).where(budgets.c.kind == BATCH, budgets.c.name == batch_id)).first()
    next_call = 0 if own is None else own.next_call_usd_e9
    first = [] if own is None or own.cap_usd_e9 is None else [Budget(*own)]
    return _with_training(connection, [*first, *_of_all(connection, next_call)])


def _with_training(connection: Connection, known: Sequence[Budget]) -> list[Budget]:
    """With what is reserved for fine-tunes, where that decides whether anything may be given back soon."""
    return [
        replace(each, training=_in_training(connection, each.kind, each.name))
        if each.is_narrow and each.reserved
        else each
        for each in known
    ]


def _of_all(connection: Connection, next_call: int) -> list[Budget]:
    """Today's and the fleet's, if they have a cap; a day without a claim has no row yet."""
    today = connection.scalar(select(_TODAY))
    capped = select(*COLUMNS).where(budgets.c.kind.in_((DAY, FLEET)), budgets.c.cap_usd_e9.is_not(None))
    rows = {(row.kind, row.name): Budget(*row[:-1], next_call) for row in connection.execute(capped)}
    known = [rows.get((DAY, str(today))), rows.get((FLEET, ""))]
    if known[0] is None and (standing := rows.get((DAY, ""))) is not None:
        known[0] = Budget(DAY, str(today), standing.cap, 0, 0, 0, next_call)
    return [each for each in known if each is not None]


def is_blocked() -> ColumnElement[bool]:
    """Whether the next call of a row of `batches` does not fit into a budget that covers it."""
    own = budgets.alias("own_budgets")
    needed = budgets.c.spent_usd_e9 + budgets.c.reserved_usd_e9 + budgets.c.doubtful_usd_e9 + own.c.next_call_usd_e9
    return (
        select(own.c.name)
        .join(budgets, budgets.c.cap_usd_e9 < needed)
        .where(
            own.c.kind == BATCH,
            own.c.name == batches.c.id,
            own.c.next_call_usd_e9 > literal_column("0"),  # in the words of the index that has only these
            or_(
                and_(budgets.c.kind == BATCH, budgets.c.name == batches.c.id),
                and_(budgets.c.kind == DAY, budgets.c.name == _TODAY),
                budgets.c.kind == FLEET,
            ),
        )
        .exists()
    )


# --- change ---


def set_cap(connection: Connection, kind: str, name: str, cap_usd_e9: int | None) -> None:
    """Set, change or (None) remove a cap; `name` is a batch's id for the kind `batch`, else it does not matter.

    A new one begins with what the ledger says. Calls that are under way reserve the most that they may cost, too.
    """
    _keep_out_workers(connection)
    own = and_(budgets.c.kind == kind, budgets.c.name == name if kind == BATCH else true())
    reservations.reconsider(connection)
    if cap_usd_e9 is None:
        connection.execute(update(budgets).where(own).values(cap_usd_e9=None))
        return
    today = str(connection.scalar(select(_TODAY)))
    for each in {BATCH: (name,), DAY: ("", today), FLEET: ("",)}[kind]:
        place = and_(budgets.c.kind == kind, budgets.c.name == each)
        capped = place & budgets.c.cap_usd_e9.is_not(None)
        if not connection.execute(update(budgets).where(capped).values(cap_usd_e9=cap_usd_e9)).rowcount:
            _begin(connection, kind, each, cap_usd_e9)


def _begin(connection: Connection, kind: str, name: str, cap_usd_e9: int) -> None:
    """Give a budget that was not kept up its cap, with the sums of the ledger."""
    sums = {"spent_usd_e9": 0, "spent_over_e12": 0, "reserved_usd_e9": 0, "doubtful_usd_e9": 0}
    if (kind, name) != (DAY, ""):
        _reserve_under_way(connection, kind, name)
        sums = of_ledger(connection, kind, name)
    row = insert_for(connection)(budgets).values(
        kind=kind, name=name, cap_usd_e9=cap_usd_e9, created_at=now(), next_call_usd_e9=0, **sums
    )
    changed = {"cap_usd_e9": cap_usd_e9, **sums}
    connection.execute(row.on_conflict_do_update(index_elements=["kind", "name"], set_=changed))


def _keep_out_workers(connection: Connection) -> None:
    """Wait for transactions that claim or settle, and let none begin until the commit; SQLite has one writer anyway.

    Else calls could go out that have seen no cap and that its sums have not seen.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE jobs IN SHARE ROW EXCLUSIVE MODE"))


_RESERVED = BulkRows(job_id="int", epoch="int", usd_e9="int")


def _reserve_under_way(connection: Connection, kind: str, name: str) -> None:
    """Reserve for calls that are under way and began when nothing covered them. At unknown prices they stay as are."""
    from tidemill.models.bounds import bounds_of, most_of

    under_way = (
        select(
            jobs.c.id,
            jobs.c.batch_id,
            jobs.c.epoch,
            jobs.c.request,
            jobs.c.dialogue_id,
            attempts.c.route,
            batches.c.options,
            day_of(attempts.c.started_at).label("day"),
        )
        .join(attempts, and_(attempts.c.job_id == jobs.c.id, attempts.c.epoch == jobs.c.epoch))
        .join(batches, batches.c.id == jobs.c.batch_id)
        .where(
            jobs.c.state == "running",
            attempts.c.outcome.is_(None),
            attempts.c.reserved_usd_e9.is_(None),
            _in_scope(kind, name),
        )
    )
    reserved: list[tuple[int, int, int]] = []
    bookings: list[Booking] = []
    for row in connection.execute(under_way).all():
        history = [] if row.dialogue_id is None else turns.history(connection, row.dialogue_id, before=row.id)
        bounds = bounds_of(dumps(row.options), row.route or ONLINE)
        most = most_of(bounds, row.request, [each.message for each in history])
        if most is not None:
            reserved.append((row.id, row.epoch, most))
            bookings.append(Booking(row.batch_id, row.day, reserved=most))
    rows = _RESERVED.table(connection).c
    own = and_(attempts.c.job_id == rows.job_id, attempts.c.epoch == rows.epoch)
    if reserved:
        connection.execute(
            update(attempts).where(own).values(reserved_usd_e9=rows.usd_e9), _RESERVED.parameters(connection, reserved)
        )
        book(connection, bookings)


def _in_scope(kind: str, name: str) -> ColumnElement[bool]:
    """Whether a row of `attempts` joined with its job counts for this budget."""
    if kind == BATCH:
        return jobs.c.batch_id == name
    return true() if kind == FLEET else day_of(attempts.c.started_at) == name


def of_ledger(connection: Connection, kind: str, name: str) -> dict[str, int]:
    """What the ledger says of a budget, by column."""
    cost_usd = case((attempts.c.cost_usd > usd(MOST_USD_E9), usd(MOST_USD_E9)), else_=attempts.c.cost_usd)
    cost = cast(func.round(cost_usd * float(USD_E9 * E12_PER_E9)), BigInteger)
    at_unknown_price = and_(attempts.c.input_tokens.is_not(None), attempts.c.outcome.is_not(None))
    unpriced = attempts.c.reserved_usd_e9 * E12_PER_E9
    spent = case((attempts.c.cost_usd.is_not(None), cost), (at_unknown_price, unpriced), else_=0)
    calls = _sums(spent, attempts.c.doubtful_usd_e9).join_from(attempts, jobs, jobs.c.id == attempts.c.job_id)
    is_kept = {BATCH: kept_costs.c.batch_id == name, DAY: kept_costs.c.day == name}.get(kind, true())
    kept = _sums(kept_costs.c.cost_usd_e12, kept_costs.c.doubtful_usd_e9).where(is_kept)
    found = [connection.execute(each).one() for each in (calls.where(_in_scope(kind, name)), kept)]
    whole, rest, doubtful = (sum(int(value or 0) for value in values) for values in zip(*found, strict=True))
    spent_e12 = whole * E12_PER_E9 + rest
    spent_e9 = -(-spent_e12 // E12_PER_E9)
    return {
        "spent_usd_e9": spent_e9,
        "spent_over_e12": spent_e9 * E12_PER_E9 - spent_e12,
        "reserved_usd_e9": _reserved(connection, kind, name),
        "doubtful_usd_e9": doubtful,
    }


def _sums(spent_e12: ColumnElement[Any], doubtful_e9: ColumnElement[Any]) -> Select[Any]:
    """What is spent, as nano-dollars and the rest, since SQLite adds up 64 bits; and what is doubtful."""
    return select(func.sum(spent_e12 // E12_PER_E9), func.sum(spent_e12 % E12_PER_E9), func.sum(doubtful_e9))


def _reserved(connection: Connection, kind: str, name: str) -> int:
    """What is reserved for calls and fine-tunes that are under way."""
    open_attempt = and_(attempts.c.job_id == jobs.c.id, attempts.c.epoch == jobs.c.epoch, attempts.c.outcome.is_(None))
    calls = select(func.sum(attempts.c.reserved_usd_e9)).join_from(jobs, attempts, open_attempt)
    of_calls = connection.scalar(calls.where(jobs.c.state == "running", _in_scope(kind, name)))
    return int(of_calls or 0) + _in_training(connection, kind, name)


def _in_training(connection: Connection, kind: str, name: str) -> int:
    """What is reserved for fine-tunes."""
    day = day_of(fine_tunes.c.reserved_at) == name
    is_own = {BATCH: jobs.c.batch_id == name, DAY: day}.get(kind, true())
    held = select(func.sum(fine_tunes.c.reserved_usd_e9)).join_from(fine_tunes, jobs, jobs.c.id == fine_tunes.c.job_id)
    return int(connection.scalar(held.where(is_own)) or 0)


def _whole(connection: Connection, number: ColumnElement[Any]) -> ColumnElement[int]:
    """Rounded up to a whole number, but for what the last digits of a float come to; as `money.usd_e9` does."""
    shifted = number + 0.9995
    return cast(shifted if connection.dialect.name == "sqlite" else func.floor(shifted), BigInteger)


def forgive(connection: Connection, batch_id: str | None = None) -> int:
    """Count no longer what calls may have cost whose end nobody saw, of a batch or of all; returns it in 1e-9 USD."""
    _keep_out_workers(connection)
    own = true() if batch_id is None else jobs.c.batch_id == batch_id
    doubtful = (
        select(
            jobs.c.batch_id, day_of(attempts.c.started_at).label("day"), attempts.c.job_id, attempts.c.doubtful_usd_e9
        )
        .join_from(attempts, jobs, jobs.c.id == attempts.c.job_id)
        .where(attempts.c.doubtful_usd_e9.is_not(None), own)
    )
    calls = connection.execute(doubtful).all()
    is_kept = and_(kept_costs.c.doubtful_usd_e9 > 0, true() if batch_id is None else kept_costs.c.batch_id == batch_id)
    kept = connection.execute(select(kept_costs).where(is_kept)).all()
    connection.execute(update(kept_costs).where(is_kept).values(doubtful_usd_e9=0))
    ids = [row.job_id for row in calls]
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = attempts.c.job_id.in_(ids[start : start + _IDS_AT_ONCE])
        connection.execute(update(attempts).where(some).values(doubtful_usd_e9=None))
    book(connection, [Booking(row.batch_id, row.day, doubtful=-row.doubtful_usd_e9) for row in (*calls, *kept)])
    forgiven = sum(int(row.doubtful_usd_e9) for row in (*calls, *kept))
    if batch_id is None:  # calls of deleted rows are in no ledger any more
        forgiven += int(connection.scalar(select(func.max(budgets.c.doubtful_usd_e9))) or 0)
        connection.execute(update(budgets).values(doubtful_usd_e9=0))
    return forgiven


_IDS_AT_ONCE = 5_000


def forget(connection: Connection, batch_id: str) -> None:
    """Delete the budget of a batch that is deleted; what it has spent stays in those of its day and of the fleet."""
    connection.execute(delete(budgets).where(budgets.c.kind == BATCH, budgets.c.name == batch_id))


def beyond_bounds(connection: Connection) -> tuple[int, int]:
    """How many calls were billed more than was reserved for them, and how much more, in 1e-9 USD."""
    more = _whole(connection, attempts.c.cost_usd * 1e9) - attempts.c.reserved_usd_e9
    counted = select(func.count(), func.coalesce(func.sum(more), 0)).where(attempts.c.reserved_usd_e9 >= 0, more > 0)
    calls, usd_e9 = connection.execute(counted).one()
    return int(calls), int(usd_e9)


class Imbalance(NamedTuple):
    """A budget that has another sum reserved than its calls under way, in 1e-9 USD."""

    budget: Budget
    under_way: int


def imbalances(connection: Connection) -> list[Imbalance]:
    """Budgets whose sums are not those of their calls: there are none unless something is wrong."""
    capped = select(*COLUMNS).where(
        budgets.c.cap_usd_e9.is_not(None), ~and_(budgets.c.kind == DAY, budgets.c.name == "")
    )
    rows = [Budget(*row) for row in connection.execute(capped)]
    known = [Imbalance(row, _reserved(connection, row.kind, row.name)) for row in rows]
    return [each for each in known if each.under_way != each.budget.reserved]
