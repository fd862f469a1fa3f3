"""The rows of a batch are read back in the order of its input, in pieces that stay small however large the batch is.

A page is a range of positions: at both ends of an index, so that neither database has to sort or count what it skips.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice, takewhile
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, bindparam, func, select

from tidemill.models.database import LONG_SECONDS, reading
from tidemill.models.job_requests import read_ask_request
from tidemill.models.json_types import JsonObject
from tidemill.models.message_shapes import calls_of
from tidemill.models.tables import FLAWED, OPEN_STATES, batches, dialogues, jobs, messages
from tidemill.producer.batches.results import REASONING, RESULT_COLUMNS, TOOL_CALLS, merge, named, to_json

PAGE_ROWS, _FIRST_ROWS = 1_000, 64
_SOUGHT_ROWS = 20_000
"""So many are looked through in one statement for those that fit a condition."""


class Place(NamedTuple):
    """Where a row stands: two pipes that went into one batch have rows of the same position."""

    position: int = -1
    id: int = 0


START = Place()


class Page(NamedTuple):
    """Rows one after the other, the place of the last one, and how many have no answer, with the sum of their epochs.

    Rows without an answer are what may be queued again. Whoever does that raises their epochs.
    """

    rows: list[JsonObject]
    last: Place
    unanswered: tuple[int, int] = (0, 0)


def columns_of(batch_id: str) -> list[str]:
    """Names of a batch's result columns: the input's, then `RESULT_COLUMNS`."""
    with reading() as connection:
        names = connection.execute(select(batches.c.columns).where(batches.c.id == batch_id)).scalar_one()
    return list(merge(dict.fromkeys(names), {}))


def latest_turn(batch_id: str) -> int | None:
    """The last turn that a batch has added to a dialogue or begun one with; `--dialogue` continues it."""
    with reading() as connection:
        turn: int | None = connection.scalar(select(func.max(dialogues.c.id)).where(dialogues.c.batch_id == batch_id))
    return turn


def rows_of(
    batch_id: str, submission: int = 0, *, pictures: bool = False, condition: ColumnElement[bool] | None = None
) -> Iterator[list[JsonObject]]:
    """The rows of a batch in input order, a thousand at a time; memory is constant.

    With `submission`, only rows that this submission or a later one held. With `pictures`, rows also have what is known
    of their picture: path, place (where the file is, from here), sha256, format, width, height. With a `condition` on
    jobs or dialogues, only rows for which it holds.
    """
    for page in pages(batch_id, submission, pictures=pictures, condition=condition):
        yield page.rows


def pages(
    batch_id: str,
    submission: int,
    after: Place = START,
    *,
    ended: bool = False,
    pictures: bool = False,
    condition: ColumnElement[bool] | None = None,
) -> Iterator[Page]:
    """The rows behind a place, in input order; with a condition, those for which it holds.

    With `ended`, up to the first one whose outcome may still change. That may be the next one, so few are read first,
    and more each time.
    """
    which = {"batch": batch_id, "submission": submission}
    row_of = _row_with_picture if pictures else _row
    size = _FIRST_ROWS if ended else PAGE_ROWS
    while True:
        span = size if condition is None else _SOUGHT_ROWS
        bounds = {**which, **after._asdict(), "end": after.position + span + 1, "rows": size}
        page = _page(pictures) if condition is None else _page(pictures).where(condition)
        with reading() as connection:
            stored = connection.execute(page, bounds).all()
        there = list(takewhile(_has_ended, stored)) if ended else stored
        if there:
            after = Place(there[-1].position, there[-1].id)
            yield Page([row_of(each) for each in there], after, _without_answer(there))
        if len(there) < len(stored):
            return
        if len(stored) < size:
            with reading(LONG_SECONDS) as connection:  # over a gap, such as rows of earlier submissions
                following = connection.scalar(_following(), which | {"end": bounds["end"]})
            if following is None:
                return
            after = Place(following - 1)
        size = min(2 * size, PAGE_ROWS)


def _has_ended(stored: Row[Any]) -> bool:
    """Whether a row has ended, and its reply is judged."""
    return stored.status not in OPEN_STATES and (stored.status != "succeeded" or stored.sentiment is not None)


def _without_answer(stored: Sequence[Row[Any]]) -> tuple[int, int]:
    epochs = [each.epoch for each in stored if each.status != "succeeded"]
    return len(epochs), sum(epochs)


def last_position(batch_id: str) -> int:
    """The position of a batch's last row; -1 where it has none."""
    with reading() as connection:
        position = connection.scalar(select(func.max(jobs.c.position)).where(jobs.c.batch_id == batch_id))
    return -1 if position is None else int(position)


def ids_at(batch_id: str, submission: int, positions: Sequence[int], *, ended: bool) -> list[int]:
    """Ids of the rows at these positions, in the order in which they ended; what lies between them is read, too.

    With `ended`, without those whose outcome may still change, and without others of their position.
    """
    span = {"position": min(positions), "end": max(positions) + 1}
    bounds = {"batch": batch_id, "submission": submission, "positions": positions, **span}
    with reading() as connection:
        stored = connection.execute(_at_positions(), bounds).all()
    open_ = {each.position for each in stored if not _has_ended(each)} if ended else set()
    there = [each for each in stored if each.position not in open_]
    there.sort(key=lambda each: (each.finished_at is None, each.finished_at or each.id, each.id))
    return [each.id for each in there]


def page_of(batch_id: str, submission: int, ids: Sequence[int]) -> tuple[Page, list[int]]:
    """The rows with these ids, in the order of the ids, and their positions.

    Those that the input no longer holds are left out.
    """
    with reading() as connection:
        bounds = {"batch": batch_id, "submission": submission, "ids": ids}
        stored = {each.id: each for each in connection.execute(_with_ids(), bounds)}
    there = [stored[each] for each in ids if each in stored]
    last = Place(there[-1].position, there[-1].id) if there else START
    return Page([_row(each) for each in there], last, _without_answer(there)), [each.position for each in there]


def rows_with_keys(batch_id: str, submission: int, keys: Sequence[str]) -> Iterator[list[JsonObject]]:
    """The rows with these keys, in the order of the keys, wherever later submissions have put them."""
    wanted = iter(keys)
    while some := list(islice(wanted, PAGE_ROWS)):
        with reading() as connection:
            stored = connection.execute(_with_keys(), {"batch": batch_id, "submission": submission, "keys": some}).all()
        by_key = {each.key: _row(each) for each in stored}
        yield [by_key[key] for key in some]


def unanswered(batch_id: str, submission: int) -> tuple[int, int]:
    """How many rows have ended without an answer, with the sum of their epochs: of a whole batch what `Page` has."""
    with reading(LONG_SECONDS) as connection:
        count, epochs = connection.execute(_unanswered(), {"batch": batch_id, "submission": submission}).one()
    return count, int(epochs)


# --- statements, built once ---

_OF_BATCH = (jobs.c.batch_id == bindparam("batch")) & (jobs.c.submission >= bindparam("submission"))
_BEHIND = (jobs.c.position >= bindparam("position")) & (jobs.c.position < bindparam("end"))
_BEHIND &= (jobs.c.position > bindparam("position")) | (jobs.c.id > bindparam("id"))


@cache
def _following() -> Select[Any]:
    later = select(jobs.c.position).where(_OF_BATCH, jobs.c.position >= bindparam("end"))
    return later.order_by(jobs.c.position).limit(1)


@cache
def _page(pictures: bool) -> Select[Any]:
    more = (jobs.c.request,) if pictures else ()
    page = _stored(*more).where(_OF_BATCH, _BEHIND).order_by(jobs.c.position, jobs.c.id)
    return page.limit(bindparam("rows"))


@cache
def _with_keys() -> Select[Any]:
    return _stored(jobs.c.key).where(_OF_BATCH, jobs.c.key.in_(bindparam("keys", expanding=True)))


@cache
def _at_positions() -> Select[Any]:
    # Nothing to join, and a range that alone leads to an index: before Postgres has looked at a table, it would read
    # all dialogues for a join, and all of the batch for a list.
    sentiment = select(dialogues.c.sentiment).where(dialogues.c.id == jobs.c.id).scalar_subquery().label("sentiment")
    stored = select(jobs.c.id, jobs.c.position, jobs.c.state.label("status"), sentiment, jobs.c.finished_at)
    span = (jobs.c.position >= bindparam("position")) & (jobs.c.position < bindparam("end"))
    return stored.where(_OF_BATCH, span, (jobs.c.position + 0).in_(bindparam("positions", expanding=True)))


@cache
def _with_ids() -> Select[Any]:
    # The batch's name is hidden from the planner, which would rather read the batch than look up these few.
    own = (jobs.c.batch_id.concat("") == bindparam("batch")) & (jobs.c.submission >= bindparam("submission"))
    return _stored().where(jobs.c.id.in_(bindparam("ids", expanding=True)), own, jobs.c.position.is_not(None))


@cache
def _unanswered() -> Select[Any]:
    has_none = jobs.c.state.in_(("failed", "cancelled")) & FLAWED  # the words of the index that has them
    return select(func.count(), func.coalesce(func.sum(jobs.c.epoch), 0)).where(_OF_BATCH, has_none)


def _stored(*more: ColumnElement[Any]) -> Select[Any]:
    """Rows with their answers: `RESULT_COLUMNS` in their order, then what else `_row` reads."""
    turns = messages.alias()
    last = select(func.max(turns.c.position)).where(turns.c.dialogue_id == jobs.c.id).correlate(jobs).scalar_subquery()
    return (
        select(
            jobs.c.custom_id,
            jobs.c.state.label("status"),
            messages.c.content.label("reply"),
            dialogues.c.sentiment,
            dialogues.c.sentiment_score,
            func.nullif(dialogues.c.model, "").label("model"),
            jobs.c.input_tokens,
            jobs.c.output_tokens,
            jobs.c.cost_usd,
            jobs.c.attempts,
            jobs.c.error_code,
            jobs.c.error,
            jobs.c.columns,
            dialogues.c.reasoning,
            messages.c.rest,
            jobs.c.id,
            jobs.c.position,
            jobs.c.epoch,
            *more,
        )
        .outerjoin(dialogues, dialogues.c.id == jobs.c.id)
        .outerjoin(messages, (messages.c.dialogue_id == jobs.c.id) & (messages.c.position == last))
    )


def _row(stored: Row[Any]) -> JsonObject:
    row = named(stored.columns)
    row.update(zip(RESULT_COLUMNS, stored, strict=False))
    if stored.rest and (calls := calls_of(stored.rest)):
        row["reply"] = row["reply"] or to_json(calls).decode()
        row[TOOL_CALLS] = calls
    if stored.reasoning is not None:
        row.setdefault(REASONING, stored.reasoning)
    return row


def _row_with_picture(stored: Row[Any]) -> JsonObject:
    picture = read_ask_request(stored.request).picture or {}
    return {"place": picture.get("path")} | picture | _row(stored)
