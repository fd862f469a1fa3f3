"""The most that a call may cost is reserved in the transaction that claims its job, and given back when it ends.

`models/budgets.py` says what a budget is. Where nothing has a cap, a claim and a settlement cost one small statement
more. All functions work on a connection in the caller's transaction.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    func,
    literal,
    or_,
    select,
    type_coerce,
    update,
)

from tidemill.models.answers import Message
from tidemill.models.bookings import BATCH, DAY, FLEET, Key, change, keys_of
from tidemill.models.bulk import BulkRows, insert_for, run
from tidemill.models.clock import day_of, now
from tidemill.models.job_locks import JOB_IDS
from tidemill.models.json_types import JsonObject
from tidemill.models.routes import ONLINE, ROUTES
from tidemill.models.tables import OPEN_PARTS, batches, budgets, in_part, jobs

if TYPE_CHECKING:
    from tidemill.models.bounds import Bounds

UNPRICED = 4 * 10**18
"""As the price of the next call: nobody knows it, so it is not made. More than any cap."""

UNPRICED_SECONDS = 5.0
"""After so long a row at an unknown price is looked at again; meanwhile the others of its batch go first."""

COLUMNS = (
    budgets.c.kind,
    budgets.c.name,
    budgets.c.cap_usd_e9,
    budgets.c.spent_usd_e9,
    budgets.c.reserved_usd_e9,
    budgets.c.doubtful_usd_e9,
    budgets.c.next_call_usd_e9,
)


class Job(Protocol):
    """What is asked of a claimed job; `models.claims.Claimed` is one."""

    @property
    def id(self) -> int: ...

    @property
    def batch_id(self) -> str: ...

    @property
    def request(self) -> JsonObject: ...

    @property
    def history(self) -> tuple[Message, ...]: ...


class Reservation(NamedTuple):
    """What the calls of claimed jobs have reserved."""

    usd_e9: Mapping[int, int] = {}  # nobody changes it
    """By job id; of a job that is not in it nothing, for no budget covers it."""
    left_out: Sequence[int] = ()
    """Ids of jobs whose calls do not fit, or whose price nobody knows."""
    unpriced: Sequence[int] = ()
    """Those of them that let others of their batch go first, since nobody knows their price."""
    started_at: object = None
    """As the driver has it: when their attempts begin, so that no midnight comes between them and their day."""


class _Room:
    """A budget's row that is locked, and how much of it this transaction takes."""

    __slots__ = ("left", "taken")

    def __init__(self, left: int) -> None:
        self.left = left
        self.taken = 0

    def take(self, usd_e9: int) -> None:
        self.left -= usd_e9
        self.taken += usd_e9


_BATCH_IDS = BulkRows(batch_id="text")


def reserve(connection: Connection, claimed: Sequence[Job], route: str | None = None) -> Reservation:
    """Reserve the most that the calls of these jobs may cost, in all budgets that cover them, or leave a job out.

    Jobs that do not fit are skipped, so that smaller ones behind them may. Their batch's `next_call_usd_e9` becomes
    the least that one of them may cost.
    """
    batch_ids = sorted({job.batch_id for job in claimed})
    locked = _lock_covering(connection, batch_ids)
    if locked is None:
        return Reservation()
    rooms, waiting, today, started_at = locked
    bounds = _bounds(connection, batch_ids, route)
    taken: dict[int, int] = {}
    unfit: dict[str, list[tuple[Job, int]]] = {}
    covering = {each: [rooms[key] for key in keys_of(each, today) if key in rooms] for each in batch_ids}
    for job in claimed:
        covering_it = covering[job.batch_id]
        if not covering_it:  # only others of these batches have budgets
            continue
        most = _fitting(bounds[job.batch_id], job, min(room.left for room in covering_it))
        if most.fits:
            taken[job.id] = most.usd_e9
            for room in covering_it:
                room.take(most.usd_e9)
        else:
            unfit.setdefault(job.batch_id, []).append((job, most.usd_e9))
    change(connection, {key: (0, room.taken, 0) for key, room in rooms.items() if room.taken})
    next_calls = {each: _least(connection, each, unfit.get(each, ())) for each in batch_ids}
    _note_next_calls(connection, next_calls, waiting)
    left_out = [(job, usd_e9) for each in unfit.values() for job, usd_e9 in each]
    unpriced = [job.id for job, usd_e9 in left_out if usd_e9 >= UNPRICED > next_calls[job.batch_id]]
    return Reservation(taken, [job.id for job, _ in left_out], unpriced, started_at)


def _least(connection: Connection, batch_id: str, unfit: Sequence[tuple[Job, int]]) -> int:
    """What a batch waits for: the least that one of its calls may cost that do not fit; 0: it does not wait.

    Calls whose price nobody knows keep the batch only when it has no others.
    """
    least = min((usd_e9 for _, usd_e9 in unfit), default=0)
    return 0 if least >= UNPRICED and _has_others(connection, batch_id, [job.id for job, _ in unfit]) else least


def _has_others(connection: Connection, batch_id: str, ids: Sequence[int]) -> bool:
    """Whether rows of a batch run, are due, or wait for their next try, besides these, which were just claimed.

    What was never claimed and is due later is at an unknown price, too.
    """
    claimed = JOB_IDS.table(connection)
    parameters = JOB_IDS.parameters(connection, [(job_id,) for job_id in ids])
    is_priced = or_(jobs.c.available_at <= now(), jobs.c.epoch > 0)
    is_other = and_(is_priced, jobs.c.id.not_in(select(claimed.c.id)))
    return any(
        connection.scalar(select(jobs.c.id).where(in_part(part, batch_id), is_other).limit(1), parameters) is not None
        for part in OPEN_PARTS
    )


Amount = Literal["uncovered", "reserved", "waits"]
"""No budget covers it; it is reserved; there is no room for it."""


def reserve_amount(connection: Connection, batch_id: str, usd_e9: int | None) -> tuple[Amount, object]:
    """Reserve for one thing that is no call; returns whether it may be done, and when that was, as the driver has it.

    Args:
        connection: in a transaction that has locked its job.
        batch_id: its batch.
        usd_e9: the most that it may cost; None: nobody knows.
    """
    locked = _lock_covering(connection, [batch_id])
    if locked is None:
        return "uncovered", None
    rooms, waiting, today, at = locked
    keys = [key for key in keys_of(batch_id, today) if key in rooms]
    if not keys:
        return "uncovered", None
    most = UNPRICED if usd_e9 is None else usd_e9
    fits = most <= max(0, min(rooms[key].left for key in keys))
    if fits:
        change(connection, dict.fromkeys(keys, (0, most, 0)))
    _note_next_calls(connection, {batch_id: 0 if fits else most}, waiting)
    return ("reserved", at) if fits else ("waits", None)


class _Most(NamedTuple):
    usd_e9: int
    fits: bool


def _fitting(bounds: "Bounds | None", job: Job, left: int) -> _Most:
    """The most that a call may cost, and whether it fits; it is counted exactly only where that decides."""
    from tidemill.models.bounds import exact_of, most_of

    most = most_of(bounds, job.request, job.history)
    if most is not None and most > left:
        most = exact_of(bounds, job.request, job.history, most)
    usd_e9 = UNPRICED if most is None else most
    return _Most(usd_e9, usd_e9 <= max(left, 0))  # what costs nothing goes on, also over a cap that was lowered


def _lock_covering(
    connection: Connection, batch_ids: Sequence[str]
) -> tuple[dict[Key, _Room], dict[str, int], str, object] | None:
    """The budgets that cover these batches, locked; which of the batches wait; today; and the present time.

    None where nothing has a cap, which is found out by this one statement.
    """
    while True:
        rows = run(connection, _select_covering_locked, _BATCH_IDS.filled([(batch_id,) for batch_id in batch_ids]))
        rooms: dict[Key, _Room] = {}
        waiting: dict[str, int] = {}
        standing = None
        for kind, name, cap, spent, reserved, doubtful, next_call, _, _ in rows:
            if cap is not None:
                rooms[kind, name] = _Room(cap - spent - reserved - doubtful)
            if kind == BATCH:
                waiting[name] = next_call
            elif kind == DAY and not name:
                standing = cap
        if not rooms:
            return None
        today, started_at = str(rows[0][7]), rows[0][8]
        if standing is None or (DAY, today) in rooms:
            return rooms, waiting, today, started_at
        _begin_day(connection, today, standing)


def are_capped(connection: Connection, batch_ids: Sequence[str]) -> bool:
    """Whether anything has a cap that covers these batches; it locks nothing."""
    rows = run(connection, _select_covering, _BATCH_IDS.filled([(batch_id,) for batch_id in batch_ids]))
    return any(cap is not None for _, _, cap, *_ in rows)


def _select_covering_locked(connection: Connection) -> ClauseElement:
    return _select_covering(connection).with_for_update(of=budgets)


def _select_covering(connection: Connection) -> Select[Any]:
    at = select(now().label("now")).cte("at").prefix_with("MATERIALIZED", dialect="postgresql")
    today = day_of(at.c.now)
    ids = select(_BATCH_IDS.values(connection).c.batch_id)
    is_one: ColumnElement[bool] = budgets.c.name.in_(ids)
    if connection.dialect.name == "postgresql":  # as an array, for which it looks into the index
        is_one = budgets.c.name == func.any(func.array(ids.scalar_subquery()))
    return (
        select(*COLUMNS, today.label("today"), at.c.now)
        .join(at, literal(1) == literal(1))
        .where(
            or_(
                budgets.c.kind == FLEET,
                and_(budgets.c.kind == DAY, or_(budgets.c.name == "", budgets.c.name == today)),
                and_(budgets.c.kind == BATCH, is_one),
            )
        )
        .order_by(budgets.c.kind, budgets.c.name)
    )


def _begin_day(connection: Connection, day: str, cap: int) -> None:
    row = insert_for(connection)(budgets).values(kind=DAY, name=day, cap_usd_e9=cap, created_at=now())
    connection.execute(row.on_conflict_do_update(index_elements=["kind", "name"], set_={"cap_usd_e9": cap}))


def _bounds(connection: Connection, batch_ids: Sequence[str], route: str | None) -> "dict[str, Bounds | None]":
    """The bounds of these batches' calls; None for those of an endpoint that is not installed here."""
    from tidemill.models.bounds import bounds_of  # with prices and endpoints, which only a budget needs here

    rows = run(connection, _select_options, _BATCH_IDS.filled([(batch_id,) for batch_id in batch_ids]))
    return {row[0]: bounds_of(row[2], route or _live(row[1])) for row in rows}


def _select_options(connection: Connection) -> ClauseElement:
    own = select(_BATCH_IDS.values(connection).c.batch_id)
    return select(batches.c.id, batches.c.route, type_coerce(batches.c.options, Text)).where(batches.c.id.in_(own))


def _live(route: str) -> str:
    """How a batch's row is called that a worker claims for a live call."""
    return route if route in ROUTES and not ROUTES[route].is_upstream else ONLINE


def _note_next_calls(connection: Connection, next_calls: Mapping[str, int], known: Mapping[str, int]) -> None:
    for batch_id, most in next_calls.items():
        if most != known.get(batch_id, 0):
            note_next_call(connection, batch_id, most)


def note_next_call(connection: Connection, batch_id: str, usd_e9: int) -> None:
    """Note what the next call of a batch may cost, for which there is no room; 0: there is."""
    row = insert_for(connection)(budgets).values(kind=BATCH, name=batch_id, next_call_usd_e9=usd_e9, created_at=now())
    connection.execute(row.on_conflict_do_update(index_elements=["kind", "name"], set_={"next_call_usd_e9": usd_e9}))


def reconsider(connection: Connection, batch_id: str = "") -> None:
    """Try calls again whose price nobody knew, since a worker that starts may know more; and any of this batch.

    Somebody has come back to the batch: what did not fit may have left its input.
    """
    again = and_(budgets.c.kind == BATCH, or_(budgets.c.next_call_usd_e9 >= UNPRICED, budgets.c.name == batch_id))
    connection.execute(update(budgets).where(again).values(next_call_usd_e9=0))
