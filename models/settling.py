"""How claimed jobs ended is written down in one transaction: state, ledger, answers and what it gives back to budgets.

Of epochs and locks models/transitions.py says what all transitions keep to.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    delete,
    func,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.dml import Update

from tidemill.models import answers, bookings
from tidemill.models.answers import Answer
from tidemill.models.bookings import Booking, Call
from tidemill.models.bulk import Build, BulkRows, FilledRows, run
from tidemill.models.clock import now, now_after
from tidemill.models.job_locks import CLAIMS, JOB_IDS, lock_ids
from tidemill.models.json_types import JsonObject
from tidemill.models.members import is_unwanted_member
from tidemill.models.money import COST_PLACES, usd_e9
from tidemill.models.tables import ENDED_STATES, attempts, fit, jobs
from tidemill.models.text import encode

WITHOUT_ATTEMPT = ("snoozed", "stepped")
"""Outcomes of a claim that leave nothing in the ledger."""

LONGEST_DELAY_SECONDS = 360.0
"""No queued job waits for longer; one that is due later was queued before the clock was set back."""

Outcome = Literal["succeeded", "retried", "snoozed", "stepped", "held", "failed", "cancelled"]

_STATE_AFTER: dict[Outcome, str] = {
    "succeeded": "succeeded",
    "retried": "queued",
    "snoozed": "queued",
    "stepped": "queued",
    "held": "queued",
    "failed": "failed",
    "cancelled": "cancelled",
}


class Settlement(NamedTuple):
    """How one claimed job ended, for `settle`.

    `snoozed` means that no call was made: nothing is counted and no attempt is kept. `stepped` means the same for a job
    of many steps that has made one. `held` means that the provider serves nobody at present: the attempt is kept,
    nothing is counted. An answer may announce that the provider serves nobody after it: `hold_reason` says so, and
    `hold_seconds` for how long. `refused` means that the provider has not even tried, as for anybody.
    """

    job_id: int
    epoch: int
    batch_id: str
    outcome: Outcome
    delay_seconds: float = 0.0
    counted: bool = False
    seconds: float | None = None
    http_status: int | None = None
    request_id: str | None = None
    error_code: str | None = None
    error: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    answer: Answer | None = None
    refused: bool = False
    hold_reason: str | None = None
    hold_seconds: float = 0.0
    route: str | None = None
    """How the call went out; None: as its claim says."""
    standard_usd: float | None = None
    """What the same tokens cost on the standard tier, online; None: not known."""
    is_doubtful: bool = False
    """Whether it may have been billed more than is known: its reply was lost, not read to the end, or counts no tokens.
    """


_SETTLED = BulkRows(
    job_id="int",
    epoch="int",
    state="text",
    delay_seconds="float",
    calls="int",
    failures="int",
    outcome="text",
    seconds="float",
    http_status="int",
    request_id="text",
    error_code="text",
    error="text",
    input_tokens="int",
    output_tokens="int",
    cost_usd="float",
    standard_usd="float",
    route="text",
    known_usd_e9="int",
)


class _SettledRow(NamedTuple):
    """The values of `_SETTLED`."""

    job_id: int
    epoch: int
    state: str
    delay_seconds: float
    calls: int
    failures: int
    outcome: str
    seconds: float | None
    http_status: int | None
    request_id: str | None
    error_code: str | None
    error: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    standard_usd: float | None
    route: str | None
    known_usd_e9: int | None
    """Of a doubtful call, what is known that it cost; None: of others."""

    @property
    def claim(self) -> tuple[int, int]:
        return self.job_id, self.epoch


def settle(connection: Connection, settlements: Sequence[Settlement]) -> set[tuple[int, int]]:
    """Record how claimed jobs ended, all in the caller's one transaction.

    A worker that lost a job may still settle it for good as long as nobody has it: the late answer was paid for.

    Returns:
        (job id, epoch) of those that are recorded, by this call or by an earlier one whose commit's reply was lost. The
        others have been taken from this worker (cancelled, or rescued and claimed again): what their calls cost is
        still counted, their answers are not recorded.
    """
    rows = [_settled_row(settlement) for settlement in settlements]
    if connection.dialect.name == "postgresql":
        run(connection, lock_ids, JOB_IDS.filled([(row.job_id,) for row in rows]))
    written = _changed_claims(connection, _finish, rows)
    unwritten = sorted(row for row in rows if row.claim not in written and row.state in ENDED_STATES)
    if late := {row.job_id: row for row in unwritten}:  # of several claims of a job the last
        ended_late = run(connection, _finish_late, _settled(late.values()))
        written |= {late[job_id].claim for (job_id,) in ended_late}
    ledger = [
        row if row.claim in written else row._replace(outcome="stale")
        for row in rows
        if row.outcome not in WITHOUT_ATTEMPT
    ]
    changes: list[Booking] = []
    if ledger:
        before = bookings.under_way(connection, [row.claim for row in ledger])
        ends = (row.claim for row in ledger if row.state in ENDED_STATES)
        before = bookings.with_training(connection, before, ends)
        # An attempt ends only once: if a commit's reply was lost and all this runs again, nothing counts twice.
        ended = _changed_claims(connection, _end_attempts, ledger)
        known = [(before[row.claim], _booking(before[row.claim], row)) for row in ledger if row.claim in before]
        bookings.note_beyond(known)
        changes += [booking for _, booking in known]
        stale = [row for row in ledger if row.claim in ended and row.claim not in written]
        while stale:  # an UPDATE joins one row a job, and a job may have been lost twice
            once = {row.job_id: row for row in stale}
            run(connection, _count_money, _settled(once.values()))
            stale = [row for row in stale if once[row.job_id] is not row]
    uncalled = [row.claim for row in rows if row.outcome in WITHOUT_ATTEMPT]
    if uncalled:
        changes += _forget_attempts(connection, uncalled)
    new_answers = [
        (each.job_id, each.batch_id, each.answer)
        for each in settlements
        if each.answer is not None and (each.job_id, each.epoch) in written
    ]
    if new_answers:
        answers.record(connection, new_answers)
    recorded = _recorded_before(connection, [row.claim for row in unwritten if row.claim not in written])
    bookings.book(connection, changes)  # last: all claims wait for a budget's row until the commit
    return written | recorded


def _booking(call: Call, row: _SettledRow) -> Booking:
    """What the end of a call changes in its budgets."""
    was_counted = row.input_tokens is not None or row.output_tokens is not None
    return bookings.ended(call, row.cost_usd, was_counted=was_counted, known_usd_e9=row.known_usd_e9)


def _recorded_before(connection: Connection, claims: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """Those of these claims that have ended their job; the ledger calls the others stale."""
    return {(row[0], row[1]) for row in run(connection, _select_recorded, CLAIMS.filled(claims))} if claims else set()


def _select_recorded(connection: Connection) -> ClauseElement:
    recorded = select(attempts.c.job_id, attempts.c.epoch).where(attempts.c.outcome.in_(ENDED_STATES))
    return recorded.where(_is_one_of_claims(connection))


def _is_one_of_claims(connection: Connection) -> ColumnElement[bool]:
    rows = CLAIMS.values(connection).c
    return tuple_(attempts.c.job_id, attempts.c.epoch).in_(select(rows.job_id, rows.epoch))


def _forget_attempts(connection: Connection, uncalled: Sequence[tuple[int, int]]) -> list[Booking]:
    """Delete attempts of claims that led to no call; those that were counted as lost meanwhile count no more.

    Returns what that changes in their budgets.
    """
    before = bookings.under_way(connection, uncalled)
    forgotten = run(connection, _delete_attempts, CLAIMS.filled(uncalled))
    if lost := [{"lost_id": job_id} for job_id, outcome in forgotten if outcome == "lost"]:
        connection.execute(
            update(jobs).where(jobs.c.id == bindparam("lost_id")).values(attempts=jobs.c.attempts - 1), lost
        )
    return [bookings.unmade(call) for call in before.values()]


def _delete_attempts(connection: Connection) -> ClauseElement:
    forgotten = delete(attempts).where(_is_one_of_claims(connection))
    return forgotten.returning(attempts.c.job_id, attempts.c.outcome)


def _changed_claims(connection: Connection, build: Build, rows: Sequence[_SettledRow]) -> set[tuple[int, int]]:
    """The (job id, epoch) that a statement over settled rows has changed."""
    return {(row[0], row[1]) for row in run(connection, build, _settled(rows))}


def _settled(rows: Iterable[_SettledRow]) -> FilledRows:
    return _SETTLED.filled([tuple(row) for row in rows])  # orjson writes no named tuples


def _settled_row(settlement: Settlement) -> _SettledRow:
    return _SettledRow(
        settlement.job_id,
        settlement.epoch,
        _STATE_AFTER[settlement.outcome],
        # A hold waits by itself.
        0.0 if settlement.outcome == "held" else min(settlement.delay_seconds, LONGEST_DELAY_SECONDS),
        0 if settlement.outcome in (*WITHOUT_ATTEMPT, "held") else 1,
        int(settlement.counted),
        settlement.outcome,
        settlement.seconds,
        settlement.http_status,
        fit(settlement.request_id, attempts.c.request_id) if settlement.request_id else None,
        fit(settlement.error_code, attempts.c.error_code) if settlement.error_code else None,
        encode(settlement.error) if settlement.error else None,
        settlement.input_tokens,
        settlement.output_tokens,
        None if settlement.cost_usd is None else round(settlement.cost_usd, COST_PLACES),
        None if settlement.standard_usd is None else round(settlement.standard_usd, COST_PLACES),
        settlement.route,
        usd_e9(settlement.cost_usd or 0.0) if settlement.is_doubtful else None,
    )


def _money(row: ReadOnlyColumnCollection[str, ColumnElement[Any]]) -> JsonObject:
    """What a call adds to its job, even if another worker owns the job by now."""
    cost = case((row.cost_usd.is_(None), jobs.c.cost_usd), else_=func.coalesce(jobs.c.cost_usd, 0) + row.cost_usd)
    return {
        "input_tokens": jobs.c.input_tokens + func.coalesce(row.input_tokens, 0),
        "output_tokens": jobs.c.output_tokens + func.coalesce(row.output_tokens, 0),
        "cost_usd": cost,
    }


def _finish(connection: Connection) -> Update:
    row = _SETTLED.values(connection).c
    return (
        update(jobs)
        .where(jobs.c.id == row.job_id, jobs.c.epoch == row.epoch, jobs.c.state == "running")
        .values(**_ended(row), attempts=jobs.c.attempts + row.calls)
        .returning(jobs.c.id, jobs.c.epoch)
    )


def _finish_late(connection: Connection) -> Update:
    """The same for jobs that are queued again and that nobody has had since; their attempts are counted already."""
    row = _SETTLED.values(connection).c
    was_lost = (
        select(attempts.c.job_id)
        .where(attempts.c.job_id == row.job_id, attempts.c.epoch == row.epoch, attempts.c.outcome == "lost")
        .exists()
    )
    return (
        update(jobs)
        .where(jobs.c.id == row.job_id, jobs.c.epoch == row.epoch + 1, jobs.c.state == "queued", was_lost)
        .values(**_ended(row), epoch=jobs.c.epoch + 1)
        .returning(jobs.c.id)
    )


def _ended(row: ReadOnlyColumnCollection[str, ColumnElement[Any]]) -> JsonObject:
    """What a settlement changes in its job."""
    state = case((and_(row.state == "queued", is_unwanted_member()), "cancelled"), else_=row.state)
    return {
        "state": state,
        "lease_until": None,
        "sent_at": None,
        "available_at": now_after(row.delay_seconds),
        "finished_at": case((state == "queued", null()), else_=now()),
        "error_code": row.error_code,
        "error": row.error,
        "failures": jobs.c.failures + row.failures,
        # A job of many steps lives for days: only losses in one step are its own.
        "losses": case((row.outcome == "stepped", 0), else_=jobs.c.losses),
        "first_attempt_at": case(
            (row.calls > 0, func.coalesce(jobs.c.first_attempt_at, now())), else_=jobs.c.first_attempt_at
        ),
        **_money(row),
    }


def _count_money(connection: Connection) -> Update:
    row = _SETTLED.values(connection).c
    return update(jobs).where(jobs.c.id == row.job_id).values(**_money(row))


def _end_attempts(connection: Connection) -> Update:
    row = _SETTLED.values(connection).c
    names = (
        "outcome",
        "seconds",
        "http_status",
        "request_id",
        "error_code",
        "error",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "standard_usd",
    )
    return (
        update(attempts)
        .where(
            attempts.c.job_id == row.job_id,
            attempts.c.epoch == row.epoch,
            or_(attempts.c.outcome.is_(None), attempts.c.outcome == "lost"),
        )
        .values(
            ended_at=now(),
            route=func.coalesce(row.route, attempts.c.route),
            doubtful_usd_e9=case(
                (attempts.c.reserved_usd_e9 > row.known_usd_e9, attempts.c.reserved_usd_e9 - row.known_usd_e9),
                else_=null(),
            ),
            **{name: row[name] for name in names},
        )
        .returning(attempts.c.job_id, attempts.c.epoch)
    )
