"""All SQL that finds, creates, continues and closes a batch is in one place.

All functions work on a connection in the caller's transaction. What may be a million rows is done in pieces, one a
call, for `database.transact_in_pieces`.
"""

import re
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy import delete as delete_from

from tidemill.models import budgets, holds, kept_costs, reservations, tallies, transitions, upstream, whereabouts
from tidemill.models.bulk import BulkRows
from tidemill.models.clock import now, now_after
from tidemill.models.database import Piece
from tidemill.models.errors import InputError
from tidemill.models.files import status
from tidemill.models.json_types import JsonObject
from tidemill.models.routes import ONLINE
from tidemill.models.scope import Scope
from tidemill.models.tables import OPEN_PARTS, attempts, batches, dataset_dialogues, dialogues, in_part, jobs, messages
from tidemill.models.tables import tallies as stored_tallies

_KEYS = BulkRows(key="text")
_MOST_REASONS = 10


def _begin_rounds(connection: Connection, job_ids: Sequence[int]) -> None:
    from tidemill.models import fine_tunes  # which no other kind needs

    fine_tunes.begin_rounds(connection, job_ids)


ON_REVIVAL: dict[str, Callable[[Connection, Sequence[int]], None]] = {"train": _begin_rounds}
"""Kind of job -> what else to do for jobs that are queued again; most kinds need nothing."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What a command says of the batch that it submits rows to.

    `source` tells inputs apart: a file's path or a name; None for pipes and frames. `options` are those of
    `models.options.Options`, as stored; `columns` are the input's.
    """

    kind: str
    question_hash: str
    name: str
    source: str | None
    provider: str
    options: JsonObject
    columns: list[str]
    priority: int = 0
    assistant_id: int | None = None
    route: str | None = None
    deadline_seconds: float | None = None
    """From now; for both None means that what was said before counts."""


@dataclass(frozen=True, slots=True)
class Sought:
    """What a batch is looked up by: what is asked, where, and of which input.

    `question_hashes` and `keys`, those of the first `rows` rows, hold what version 0.1 called the same, too.
    """

    question_hashes: Collection[str]
    provider: str
    source: str | None
    keys: Collection[str]
    rows: int


class StoredBatch(NamedTuple):
    """A batch that exists, what its rows came from, and the server that it is for."""

    id: str
    source: str | None
    provider: str


class FailureReason(NamedTuple):
    """How many rows failed for one reason: the error's code, and one of the sentences."""

    rows: int
    code: str
    example: str


# --- find ---


def lock_question(connection: Connection, question_hash: str) -> None:
    """Until the commit, keep another copy of the command from creating the same batch; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(question_hash))))


def find(connection: Connection, sought: Sought, *, elsewhere: bool = False) -> StoredBatch | None:
    """The latest batch with the same questions and the same input: the same source, or else mostly the same first rows.

    Two inputs that both have a source are different, however alike, unless one is a file that has been moved. With
    `elsewhere`, the batch of any other server.
    """
    source, keys = sought.source, list(sought.keys)
    same_questions = (
        select(batches.c.id, batches.c.source, batches.c.provider)
        .where(batches.c.question_hash.in_(sought.question_hashes), _may_have_rows_of(source))
        .order_by(batches.c.created_at.desc(), batches.c.id.desc())
    )
    if source is not None:
        stored = [StoredBatch(*row) for row in connection.execute(same_questions)]
        there = [batch for batch in stored if (batch.provider != sought.provider) == elsewhere]
        if not there or any(batch.source == source for batch in there):
            return next((batch for batch in there if batch.source == source), None)
    input_keys = _KEYS.table(connection)
    first_rows = (jobs.c.batch_id == batches.c.id) & (jobs.c.position < sought.rows)
    shared = select(func.count()).where(first_rows, jobs.c.key.in_(select(input_keys.c.key))).scalar_subquery()
    all_ = select(func.count()).where(first_rows).scalar_subquery()
    is_here = batches.c.provider == sought.provider
    alike = same_questions.where(~is_here if elsewhere else is_here, shared * 2 >= sought.rows, shared * 2 >= all_)
    candidates = connection.execute(alike, _KEYS.parameters(connection, [(key,) for key in keys]))
    return next((StoredBatch(*batch) for batch in candidates if _may_be_one(batch.source, source)), None)


def _may_have_rows_of(source: str | None) -> ColumnElement[bool]:
    """Whether a batch may be of this input by the name of its source: `_may_be_one` knows more of files."""
    if source is None:
        return true()
    same = or_(batches.c.source.is_(None), batches.c.source == source)
    return or_(same, batches.c.source.startswith("/")) if Path(source).is_absolute() else same


def _may_be_one(stored: str | None, source: str | None) -> bool:
    """Whether two sources with the same rows may be the same: one has no name, or is a file that has been moved."""
    if stored is None or source is None:
        return True
    try:
        return Path(stored).is_absolute() and Path(source).is_absolute() and status(Path(stored)) is None
    except (OSError, ValueError):  # it is where nobody may look, and so it was not moved
        return False


def route_of(connection: Connection, batch_id: str) -> str:
    """How a batch's rows go out."""
    return str(connection.execute(select(batches.c.route).where(batches.c.id == batch_id)).scalar_one())


def servers(connection: Connection) -> list[str]:
    """All servers that there are batches for."""
    return list(connection.scalars(select(batches.c.provider).distinct().order_by(batches.c.provider)))


def answered_keys(connection: Connection, batch_id: str, keys: Sequence[str]) -> set[str]:
    """Those of the keys whose rows have an answer."""
    asked = _KEYS.table(connection)
    # Not a join, for which Postgres might read the whole batch.
    state = select(jobs.c.state).where(jobs.c.batch_id == batch_id, jobs.c.key == asked.c.key).scalar_subquery()
    answered = select(asked.c.key).where(state == "succeeded")
    return set(connection.scalars(answered, _KEYS.parameters(connection, [(key,) for key in keys])))


def failures(connection: Connection, batch_id: str) -> list[FailureReason]:
    """Why rows failed, the most frequent reason first, ten at most."""
    scope = Scope(batch_id)
    reasons = tallies.reasons(connection, scope, "failed")[:_MOST_REASONS]
    return [
        FailureReason(rows, code or "unknown", tallies.example(connection, scope, "failed", code))
        for code, rows in reasons
    ]


# --- submit ---


def create(connection: Connection, submission: Submission) -> str:
    """Create a batch with its first submission; returns its id, which begins with its name."""
    slug = re.sub(r"[^a-z0-9]+", "-", submission.name.lower()).strip("-")[:40] or "batch"
    batch_id = f"{slug}-{secrets.token_hex(3)}"
    connection.execute(
        insert(batches).values(
            id=batch_id,
            kind=submission.kind,
            name=submission.name[:200],
            source=submission.source,
            question_hash=submission.question_hash,
            provider=submission.provider,
            options=submission.options,
            columns=submission.columns,
            priority=submission.priority,
            route=submission.route or ONLINE,
            deadline_at=_deadline(submission),
            submission=1,
            assistant_id=submission.assistant_id,
            created_at=now(),
        )
    )
    return batch_id


def _deadline(submission: Submission) -> ColumnElement[datetime] | None:
    return None if submission.deadline_seconds is None else now_after(literal(submission.deadline_seconds))


def _kept_deadline() -> ColumnElement[datetime | None]:
    """What was said before, unless it is over: new rows would have no time at all."""
    return case((batches.c.deadline_at > now(), batches.c.deadline_at), else_=null())


def begin_submission(connection: Connection, batch_id: str, submission: Submission) -> int:
    """Count another submission and store what may differ: how fast calls go, not what is asked of whom.

    A cancelled batch is open again. Returns the submission's number.
    """
    reopened = case((batches.c.state == "cancelled", "open"), else_=batches.c.state)
    _want_again(connection, batch_id)
    return int(
        connection.execute(
            update(batches)
            .where(batches.c.id == batch_id)
            .values(
                submission=batches.c.submission + 1,
                options=submission.options,
                columns=submission.columns,
                priority=submission.priority,
                route=submission.route or batches.c.route,
                deadline_at=_kept_deadline() if submission.deadline_seconds is None else _deadline(submission),
                question_hash=submission.question_hash,  # version 0.1 had another one for some
                assistant_id=func.coalesce(submission.assistant_id, batches.c.assistant_id),
                state=reopened,
                read_at=None,
            )
            .returning(batches.c.submission)
        ).scalar_one()
    )


def rename_source(connection: Connection, batch_id: str, source: str) -> None:
    """Note that the file of a batch has been moved."""
    connection.execute(update(batches).where(batches.c.id == batch_id).values(source=source))


def rename_keys(connection: Connection, batch_id: str, new_keys: dict[str, str]) -> None:
    """Give rows of version 0.1 their keys of today; `new_keys` has them by the old ones, and may have more."""
    either = _KEYS.table(connection)
    stored = select(jobs.c.key).where(jobs.c.batch_id == batch_id, jobs.c.key.in_(select(either.c.key)))
    keys = [(key,) for pair in new_keys.items() for key in pair]
    present = set(connection.scalars(stored, _KEYS.parameters(connection, keys)))
    waiting = {old: new for old, new in new_keys.items() if old in present and old != new}
    # A key that is free only once its row has its own new one comes later.
    while ready := {old: new for old, new in waiting.items() if new not in present}:
        rename = update(jobs).where(jobs.c.batch_id == batch_id, jobs.c.key == bindparam("old"))
        connection.execute(rename.values(key=bindparam("new")), [{"old": old, "new": ready[old]} for old in ready])
        present = (present - ready.keys()) | set(ready.values())
        waiting = {old: new for old, new in waiting.items() if old not in ready}


def move(connection: Connection, batch_id: str, provider: str, superseded: str | None) -> None:
    """Take a batch to another server, because its own has another address now.

    A batch that was begun there for the same rows, `superseded`, stays as it is, and no command finds it again.
    """
    connection.execute(
        update(batches)
        .where(batches.c.id == batch_id)
        .values(provider=provider, hold_reason=None, held_at=None, held_until=None, hold_probes=0, probe_job_id=None)
    )
    transitions.unsend(connection, in_part(OPEN_PARTS[1], batch_id))  # its messages are in the other server's queue
    whereabouts.move(connection, batch_id, provider)
    connection.execute(update(batches).where(batches.c.id == superseded).values(question_hash="superseded"))


def adopt(connection: Connection, provider: str, old_names: Collection[str]) -> None:
    """Give batches of version 0.1, which knew no path of a server, the server's whole name."""
    connection.execute(update(batches).where(batches.c.provider.in_(old_names)).values(provider=provider))


def come_back(connection: Connection, batch_id: str, provider: str) -> None:
    """Take up a batch again: a held provider is probed at once, and the time for retries begins anew."""
    holds.probe_at_once(connection, provider)
    reservations.reconsider(connection, batch_id)
    transitions.give_time(connection, batches.c.id == batch_id)


def drop_rows(connection: Connection, batch_id: str, submission: int, after: int = 0) -> Piece:
    """Take rows out of the results that no submission from this one on holds; they do not run any more.

    Those at the provider's Batch API end there, and are not asked again.
    A piece is the next rows in the order of the input, behind the position `after - 1`.
    """
    if not after and not tallies.any_rows(connection, batch_id, stored_tallies.c.submission < submission):
        return Piece(0)
    behind = and_(jobs.c.batch_id == batch_id, jobs.c.position >= after)
    page = select(jobs.c.position).where(behind).order_by(jobs.c.position).limit(transitions.PIECE_ROWS).subquery()
    last: int | None = connection.scalar(select(func.max(page.c.position)))
    if last is None:
        return Piece(0)
    gone = list(
        connection.scalars(select(jobs.c.id).where(behind, jobs.c.position <= last, jobs.c.submission < submission))
    )
    transitions.cancel_jobs(connection, gone)
    connection.execute(
        update(jobs).where(behind, jobs.c.position <= last, jobs.c.submission < submission).values(position=None)
    )
    return Piece(len(gone), last + 1)


def end_submission(connection: Connection, batch_id: str, columns: Sequence[str]) -> str | None:
    """Note that the input has been read to its end; `columns` are all that it has. Returns the batch's route."""
    ended = update(batches).where(batches.c.id == batch_id).values(columns=list(columns), read_at=now())
    route: str | None = connection.scalar(ended.returning(batches.c.route))
    return route


# --- control ---


def revive(connection: Connection, batch_id: str, keys: Sequence[str] | None = None) -> int:
    """Queue failed and cancelled rows again, with `keys` only those with these keys; returns how many."""
    return len(_revived(connection, batch_id, transitions.revive(connection, batch_id, keys)))


def _revived(connection: Connection, batch_id: str, job_ids: list[int]) -> list[int]:
    kind = connection.scalar(select(batches.c.kind).where(batches.c.id == batch_id))
    if job_ids and kind in ON_REVIVAL:
        ON_REVIVAL[kind](connection, job_ids)
    return job_ids


def retry(connection: Connection, batch_id: str, after: int = 0) -> Piece:
    """Queue failed and cancelled rows again. A cancelled batch is open again."""
    _want_again(connection, batch_id)
    _change_state(connection, batch_id, "cancelled", "open")
    revived = transitions.revive(connection, batch_id, after=after, most=transitions.PIECE_ROWS)
    return Piece(len(_revived(connection, batch_id, revived)), revived[-1] if revived else None)


def _want_again(connection: Connection, batch_id: str) -> None:
    """Where a cancelled batch is taken up again, do not cancel what is at the provider, if that is not too late."""
    if connection.scalar(select(batches.c.state).where(batches.c.id == batch_id)) == "cancelled":
        whereabouts.want_no_cancel(connection, batch_id)


def pause(connection: Connection, batch_id: str, _after: int = 0) -> Piece:
    """Start no more calls; a piece of one row if the batch was open."""
    return Piece(_change_state(connection, batch_id, "open", "paused"))


def resume(connection: Connection, batch_id: str, _after: int = 0) -> Piece:
    """Continue a paused batch; a piece of one row if it was paused."""
    changed = _change_state(connection, batch_id, "paused", "open")
    transitions.give_time(connection, batches.c.id == batch_id)
    transitions.unsend(connection, in_part(OPEN_PARTS[1], batch_id))  # messages that came during the pause are gone
    return Piece(changed)


def cancel(connection: Connection, batch_id: str, after: int = 0) -> Piece:
    """Cancel all open rows; what is at the provider's Batch API is told to cancel, and ends when it has ended there."""
    connection.execute(update(batches).where(batches.c.id == batch_id).values(state="cancelled"))
    if not after:
        whereabouts.want_cancel(connection, batch_id)
    cancelled = transitions.cancel(connection, batch_id, most=transitions.PIECE_ROWS)
    return Piece(cancelled, after if cancelled else None)


def delete(connection: Connection, batch_id: str, after: int = 0, *, keep_costs: bool = False) -> Piece:
    """Delete an ended batch with all that belongs to it: a piece of its rows, and with the last one the batch itself.

    With `keep_costs`, what their calls came to is added to `kept_costs`.

    Raises:
        InputError: it may not go; the text says why. What earlier pieces have deleted is gone.
    """
    batch = connection.execute(select(batches).where(batches.c.id == batch_id).with_for_update()).first()
    if batch is None:
        return Piece(0)
    if not after:
        check_deletable(connection, batch)
    # No command finds it any more, and no worker takes rows that somebody might still store.
    connection.execute(
        update(batches).where(batches.c.id == batch_id).values(state="cancelled", question_hash="deleted")
    )
    # In the order of the input the rows of a piece are neighbours on the disk; in that of their keys they are anywhere.
    next_rows = select(jobs.c.id).where(jobs.c.batch_id == batch_id).order_by(jobs.c.position)
    ids = list(connection.scalars(next_rows.limit(transitions.PIECE_ROWS)))
    if not ids:
        upstream.forget_all(connection, batch_id)
        for column in (stored_tallies.c.batch_id, batches.c.id):
            connection.execute(delete_from(column.table).where(column == batch_id))
        budgets.forget(connection, batch_id)
        return Piece(0)
    # Of all rows before the first piece; of these once more, because somebody may have gone on since.
    _check_not_continued(connection, batch_id, ids)
    if keep_costs:
        kept_costs.keep(connection, batch, ids)
    for column in _COLUMNS_OF_A_JOB:
        connection.execute(delete_from(column.table).where(column.in_(ids)))
    return Piece(len(ids), ids[-1])


_COLUMNS_OF_A_JOB = (
    jobs.c.id,  # first, in the order in which all transactions take locks
    attempts.c.job_id,
    dialogues.c.id,
    messages.c.dialogue_id,
    dataset_dialogues.c.dialogue_id,
)


def check_deletable(connection: Connection, batch: Row[Any], gone_before: Collection[str] = ()) -> None:
    """Raise InputError if a batch (a row of `batches`) may not go, once those of `gone_before` are gone."""
    if batch.kind == "train":
        raise InputError(f"{batch.id} is a fine-tune. Its rows say what there is at the provider, and stay.")
    if out := whereabouts.of_batch(connection, batch.id):
        raise InputError(_still_out(batch, sum(each.lines for each in out)))
    is_open = [select(jobs.c.id).where(in_part(part, batch.id)).limit(1) for part in OPEN_PARTS]
    is_read = batch.read_at is not None or batch.state == "cancelled"
    if not is_read or any(connection.scalar(each) is not None for each in is_open):
        raise InputError(f"{batch.id} has not ended; `tidemill cancel {batch.id}` ends it, then delete it.")
    _check_not_continued(connection, batch.id, gone_before=gone_before)


def _still_out(batch: Row[Any], lines: int) -> str:
    rows = f"{lines:,} {'row' if lines == 1 else 'rows'} of {batch.id} {'is' if lines == 1 else 'are'}"
    told = (
        "it is told to cancel them, and" if batch.state == "cancelled" else f"`tidemill cancel {batch.id}` ends that;"
    )
    return f"{rows} at the provider; {told} `tidemill watch {batch.id}` waits for it. Then delete it."


def _check_not_continued(
    connection: Connection, batch_id: str, ids: Sequence[int] | None = None, gone_before: Collection[str] = ()
) -> None:
    """Raise InputError if other batches go on dialogues of this one, or of its rows `ids`: they need its turns."""
    others = jobs.alias("others")
    turns_before = (
        jobs.c.id == others.c.dialogue_id,  # the first one of the dialogue
        and_(jobs.c.dialogue_id == others.c.dialogue_id, jobs.c.id < others.c.id),
    )
    # Not EXISTS, for which Postgres might read all rows of the batch.
    own = (select(jobs.c.id).where(each, jobs.c.batch_id == batch_id).limit(1) for each in turns_before)
    is_before = [each.scalar_subquery().is_not(None) for each in own]
    name = others.c.batch_id.concat("")  # or SQLite would read all jobs in the order of their batches
    later = select(name).where(others.c.dialogue_id > 0, name != batch_id, or_(*is_before))
    if ids is not None:
        own_dialogues = select(jobs.c.dialogue_id).where(jobs.c.id.in_(ids))
        later = later.where(or_(others.c.dialogue_id.in_(ids), others.c.dialogue_id.in_(own_dialogues)))
    staying = (each for each in connection.scalars(later.distinct()) if each not in gone_before)
    if names := list(islice(staying, 3)):
        raise InputError(
            f"{batch_id} stays: {', '.join(sorted(names))} continues dialogues of it. Delete that one first."
        )


def _change_state(connection: Connection, batch_id: str, before: str, after: str) -> int:
    changed = update(batches).where(batches.c.id == batch_id, batches.c.state == before).values(state=after)
    return connection.execute(changed).rowcount
