"""What a call has reserved is given back when it ends, and what it cost is booked in the budgets that cover it.

All functions work on a connection in the caller's transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from logging import WARNING
from typing import NamedTuple

from sqlalchemy import ClauseElement, Connection, String, and_, cast, insert, literal, or_, select, update

from tidemill.models.bulk import BulkRows, run
from tidemill.models.clock import day_of, now
from tidemill.models.job_locks import CLAIMS, JOB_IDS
from tidemill.models.lines import note
from tidemill.models.money import E12_PER_E9, MOST_USD_E9, usd, usd_e12
from tidemill.models.tables import attempts, budgets, creations, fine_tunes, jobs

BATCH, DAY, FLEET = "batch", "day", "fleet"

Key = tuple[str, str]
"""Kind and name of a budget."""
_CHANGES = BulkRows(kind="text", name="text", spent="int", spent_rest_e12="int", reserved="int", doubtful="int")


def keys_of(batch_id: str, day: str) -> tuple[Key, Key, Key]:
    """The budgets that cover a call of this batch that begins on this day, as far as there are any."""
    return (BATCH, batch_id), (DAY, day), (FLEET, "")


class Call(NamedTuple):
    """An attempt that has not ended, or is lost, with what it counts for in its budgets."""

    job_id: int
    epoch: int
    batch_id: str
    day: str
    is_open: bool
    reserved: int | None
    doubtful: int | None
    training: int | None
    """What is reserved for the fine-tune of its job."""

    @property
    def claim(self) -> tuple[int, int]:
        """Job id and epoch."""
        return self.job_id, self.epoch


class Booking(NamedTuple):
    """What a call changes in the budgets that cover it, in 1e-9 USD; what it cost in 1e-12 USD."""

    batch_id: str
    day: str
    spent_e12: int = 0
    reserved: int = 0
    doubtful: int = 0


def under_way(connection: Connection, claims: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Call]:
    """The attempts of these claims that are open or lost, by (job id, epoch); none where nothing has a cap."""
    rows = run(connection, _select_under_way, CLAIMS.filled(list(claims)))
    calls = [Call(row[0], row[1], row[2], row[3], bool(row[4]), row[5], row[6], row[7]) for row in rows]
    return {call.claim: call for call in calls}


def with_training(
    connection: Connection, calls: dict[tuple[int, int], Call], ended: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], Call]:
    """The calls, of which those that end a fine-tune take over what is reserved for it: it is one call, begun then."""
    claims = [claim for claim in ended if claim in calls and calls[claim].training is not None]
    for job_id, epoch in claims:
        tune = fine_tunes.c.job_id == job_id
        values = {
            "reserved_usd_e9": select(fine_tunes.c.reserved_usd_e9).where(tune).scalar_subquery(),
            "started_at": select(fine_tunes.c.reserved_at).where(tune).scalar_subquery(),
        }
        own = and_(attempts.c.job_id == job_id, attempts.c.epoch == epoch)
        connection.execute(update(attempts).where(own).values(**values))
        connection.execute(update(fine_tunes).where(tune).values(reserved_usd_e9=None, reserved_at=None))
    return under_way(connection, calls) if claims else calls


def _select_under_way(connection: Connection) -> ClauseElement:
    rows = CLAIMS.values(connection)
    any_cap = select(budgets.c.name).where(budgets.c.cap_usd_e9.is_not(None)).limit(1).scalar_subquery()
    return (
        select(
            attempts.c.job_id,
            attempts.c.epoch,
            jobs.c.batch_id,
            day_of(attempts.c.started_at),
            attempts.c.outcome.is_(None),
            attempts.c.reserved_usd_e9,
            attempts.c.doubtful_usd_e9,
            fine_tunes.c.reserved_usd_e9,
        )
        .select_from(rows)
        .join(attempts, and_(attempts.c.job_id == rows.c.job_id, attempts.c.epoch == rows.c.epoch))
        .join(jobs, jobs.c.id == attempts.c.job_id)
        .outerjoin(fine_tunes, fine_tunes.c.job_id == attempts.c.job_id)
        .where(any_cap.is_not(None), or_(attempts.c.outcome.is_(None), attempts.c.outcome == "lost"))
    )


def end_trainings(connection: Connection, job_ids: Sequence[int]) -> list[Booking]:
    """Reserve no longer for the fine-tunes of these jobs, which have just ended without a settlement.

    One that may exist at the provider may be billed: it counts as maybe spent, by an attempt of its own. Returns what
    that changes in their budgets.
    """
    may_exist = or_(creations.c.remote_id.is_not(None), creations.c.sent_at.is_not(None))
    ended_ids = JOB_IDS.table(connection)
    own = creations.c.owner == literal("job ").concat(cast(jobs.c.id, String))
    is_doubtful = select(creations.c.token).where(own, creations.c.step == "job", may_exist).exists()
    held = (
        select(
            jobs.c.id,
            jobs.c.epoch,
            jobs.c.batch_id,
            day_of(fine_tunes.c.reserved_at).label("day"),
            fine_tunes.c.reserved_at,
            fine_tunes.c.reserved_usd_e9,
            is_doubtful.label("is_doubtful"),
        )
        .join(fine_tunes, fine_tunes.c.job_id == jobs.c.id)
        .where(jobs.c.id.in_(select(ended_ids.c.id)), fine_tunes.c.reserved_usd_e9.is_not(None))
    )
    parameters = JOB_IDS.parameters(connection, [(job_id,) for job_id in job_ids])
    bookings: list[Booking] = []
    for row in connection.execute(held, parameters).all():
        amount = int(row.reserved_usd_e9)
        bookings.append(Booking(row.batch_id, row.day, reserved=-amount, doubtful=amount if row.is_doubtful else 0))
        if row.is_doubtful:  # nobody has this epoch: the end has raised it
            lost_attempt = {"job_id": row.id, "epoch": row.epoch, "started_at": row.reserved_at, "ended_at": now()}
            amounts = {"reserved_usd_e9": amount, "doubtful_usd_e9": amount}
            connection.execute(insert(attempts).values(**lost_attempt, **amounts, outcome="lost", worker_id=""))
        tune = fine_tunes.c.job_id == row.id
        connection.execute(update(fine_tunes).where(tune).values(reserved_usd_e9=None, reserved_at=None))
    return bookings


def ended(call: Call, cost_usd: float | None, *, was_counted: bool, known_usd_e9: int | None) -> Booking:
    """How a call counts that has ended.

    Args:
        call: as it was before.
        cost_usd: what it cost, if that is known.
        was_counted: whether the server counted tokens: at an unknown price it counts as what was reserved.
        known_usd_e9: of a call that may have been billed more than is known: what is; None: of others.
    """
    reserved = call.reserved or 0
    at_unknown_price = reserved * E12_PER_E9 if was_counted else 0
    spent = at_unknown_price if cost_usd is None else min(usd_e12(cost_usd), MOST_USD_E9 * E12_PER_E9)
    return Booking(
        call.batch_id,
        call.day,
        spent_e12=spent,
        reserved=-reserved if call.is_open else 0,
        doubtful=(0 if known_usd_e9 is None else max(0, reserved - known_usd_e9)) - (call.doubtful or 0),
    )


_told_beyond: set[str] = set()
"""Ids of batches of which this process has said that a call was billed more than was reserved."""


def note_beyond(calls: Iterable[tuple[Call, Booking]]) -> None:
    """Log calls that were billed more than was reserved for them, the first one of each batch."""
    for call, booking in calls:
        if call.reserved is None or booking.spent_e12 <= call.reserved * E12_PER_E9:
            continue
        if call.batch_id not in _told_beyond:
            _told_beyond.add(call.batch_id)
            billed, reserved = usd(booking.spent_e12) / E12_PER_E9, usd(call.reserved)
            sentence = (
                f"job {call.job_id} of {call.batch_id} was billed ${billed:.6f}, more than the ${reserved:.6f} that it "
                "could cost: a cap does not hold for what a provider bills beyond that"
            )
            fields = {"billed_usd": billed, "reserved_usd": reserved}
            note(WARNING, "beyond_bound", sentence, batch=call.batch_id, job=call.job_id, **fields)


def lost(call: Call) -> Booking:
    """How a call counts whose worker has lost it: it may have been billed."""
    return Booking(call.batch_id, call.day, reserved=-(call.reserved or 0), doubtful=call.reserved or 0)


def unmade(call: Call) -> Booking:
    """How a call counts that was never made: not at all."""
    reserved = -(call.reserved or 0) if call.is_open else 0
    return Booking(call.batch_id, call.day, reserved=reserved, doubtful=-(call.doubtful or 0))


def book(connection: Connection, bookings: Iterable[Booking]) -> None:
    """Change the budgets that cover calls, in one statement: a transaction's last, since all claims wait for it."""
    of_batches: dict[tuple[str, str], list[int]] = {}
    for each in bookings:
        sums = of_batches.setdefault((each.batch_id, each.day), [0, 0, 0])
        sums[0] += each.spent_e12
        sums[1] += each.reserved
        sums[2] += each.doubtful
    changes: dict[Key, list[int]] = {}
    for (batch_id, day), own in of_batches.items():
        for key in keys_of(batch_id, day):
            changes[key] = [sum(pair) for pair in zip(changes.get(key, (0, 0, 0)), own, strict=True)]
    change(connection, {key: (sums[0], sums[1], sums[2]) for key, sums in changes.items() if any(sums)})


def change(connection: Connection, changes: Mapping[Key, tuple[int, int, int]]) -> None:
    """Add to what is spent (in 1e-12 USD), reserved and maybe spent; budgets without a cap are left alone."""
    if changes:
        rows = [(*key, *divmod(spent_e12, E12_PER_E9), *sums) for key, (spent_e12, *sums) in changes.items()]
        run(connection, _add, _CHANGES.filled(rows))


def _add(connection: Connection) -> ClauseElement:
    rows = _CHANGES.values(connection)
    its_change = and_(budgets.c.kind == rows.c.kind, budgets.c.name == rows.c.name)
    is_own = [its_change, budgets.c.cap_usd_e9.is_not(None)]
    if connection.dialect.name == "postgresql":  # all are locked in one order; SQLite has one writer anyway
        locked = select(budgets.c.kind, budgets.c.name).where(select(rows.c.kind).where(its_change).exists())
        order = locked.order_by(budgets.c.kind, budgets.c.name).with_for_update(of=budgets).cte("locked")
        is_own += [budgets.c.kind == order.c.kind, budgets.c.name == order.c.name]
    # What is spent is rounded up, so that a cap holds to its last digit; by how much, the next sum takes into account.
    to_round = rows.c.spent_rest_e12 + (E12_PER_E9 - 1) - budgets.c.spent_over_e12
    return (
        update(budgets)
        .where(*is_own)
        .values(
            spent_usd_e9=budgets.c.spent_usd_e9 + rows.c.spent + to_round // E12_PER_E9,
            spent_over_e12=(E12_PER_E9 - 1) - to_round % E12_PER_E9,
            reserved_usd_e9=budgets.c.reserved_usd_e9 + rows.c.reserved,
            doubtful_usd_e9=budgets.c.doubtful_usd_e9 + rows.c.doubtful,
        )
    )
