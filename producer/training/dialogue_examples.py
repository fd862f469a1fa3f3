"""The next model can learn from what was asked, answered and judged.

A dialogue becomes one example, up to the last of its turns that fits the filters. Earlier replies that do not fit, that
were cut, or that other instructions made are context with weight 0: they are read and not learnt. The dialogue's number
stays as the example's place, so that a model can be traced to the dialogues that it was made of.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select

from tidemill.models import turns
from tidemill.models.answers import Message, stored_message
from tidemill.models.database import LONG_SECONDS, reading
from tidemill.models.errors import InputError
from tidemill.models.finish import CUT
from tidemill.models.json_types import JsonObject
from tidemill.models.tables import batches, dialogues, jobs, messages
from tidemill.producer.asking.dialogues import Filters, fitting
from tidemill.producer.training.example_files import InputSummary
from tidemill.producer.training.examples import BadRow, ChatMessage, Example, Place

SOURCE = "stored dialogues"
UNIT = "dialogue"
_PAGE = 500
_LEARNT = ("role", "content", "name", "tool_calls", "tool_call_id", "function_call", "weight")
_CALL = ("id", "type", "function")
_OFFERED = ("tools", "parallel_tool_calls")
_OPTIONS = {"words": "search", "model": "answered by", "least_characters": "min length"}
"""What filters are called for people, where that differs."""


class StoredDialogues(NamedTuple):
    """The stored dialogues with a turn that holds these words and fits these filters."""

    words: str | None
    filters: Filters

    def __str__(self) -> str:
        """For people: `stored dialogues, sentiment positive, since 2026-11-01`."""
        filters = {"words": self.words, **self.filters._asdict()}
        used = [f"{_OPTIONS.get(name, name)} {_shown(value)}" for name, value in filters.items() if value is not None]
        return ", ".join([SOURCE, *used])


def day(option: str, text: str | None) -> datetime | None:
    """A date or time as a user writes it, in UTC if it names no zone. Raises InputError that names `option`."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{option} is {text!r}; write a date such as 2026-11-01, or a time in ISO 8601.") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def examples_of_dialogues(stored: StoredDialogues, inputs: InputSummary) -> Iterator[Example | BadRow]:
    """Stored dialogues as supervised examples, in the order of their numbers.

    Raises:
        InputError: a filter cannot be used, or no dialogue fits.
    """
    summary = inputs.add(str(stored), "examples")
    fitting_turns = fitting(stored.words, stored.filters).subquery()
    root = func.coalesce(fitting_turns.c.root_id, fitting_turns.c.id)
    roots = select(root).distinct().order_by(root).limit(_PAGE)
    after = 0
    while page := _page(roots.where(root > after), select(fitting_turns.c.id), root):
        for root_id, its_turns in page:
            summary.rows += 1
            yield _example(root_id, its_turns)
        after = page[-1][0]
    if not summary.rows:
        raise InputError(f"No dialogue fits ({stored}). `tidemill dialogues list` shows all.")


class Turn(NamedTuple):
    """A turn of a dialogue: its messages, whether it fits the filters, whether its reply was cut, the tools it had."""

    messages: list[Message]
    fits: bool
    is_doubtful: bool
    offered: JsonObject
    """`tools` and `parallel_tool_calls`, as far as they were sent along."""


def _page(
    roots: Select[tuple[int]], fitting_ids: Select[tuple[int]], root: ColumnElement[int]
) -> list[tuple[int, list[Turn]]]:
    """The dialogues of `roots` with their turns."""
    of = func.coalesce(dialogues.c.root_id, dialogues.c.id).label("root")
    is_doubtful = or_(dialogues.c.finish_reason == CUT, jobs.c.error_code.is_not(None)).label("is_doubtful")
    with reading(LONG_SECONDS) as connection:
        chosen = list(connection.scalars(roots))
        fits = set(connection.scalars(fitting_ids.where(root.in_(chosen))))
        statement = (
            select(of, dialogues.c.id, is_doubtful, messages.c.role, messages.c.content, messages.c.rest)
            .join(dialogues, dialogues.c.id == messages.c.dialogue_id)
            .outerjoin(jobs, jobs.c.id == dialogues.c.id)
            .where(or_(dialogues.c.id.in_(chosen), dialogues.c.root_id.in_(chosen)))
            .order_by(of, dialogues.c.id, messages.c.position)
        )
        rows = connection.execute(statement).all()
        offered = _offered(connection, {row.id for row in rows})
    page = []
    for root_id, its_rows in groupby(rows, key=attrgetter("root")):
        turns_ = [
            Turn(
                [stored_message(row.role, row.content, row.rest) for row in its],
                turn_id in fits,
                bool(doubtful),
                offered.get(turn_id, {}),
            )
            for (turn_id, doubtful), its in groupby(its_rows, key=attrgetter("id", "is_doubtful"))
        ]
        page.append((root_id, turns_))
    return page


def _example(root_id: int, its_turns: list[Turn]) -> Example | BadRow:
    """One example; what must not be learnt is context, with weight 0."""
    place = Place("", root_id, UNIT)
    learnt = [number for number, turn in enumerate(its_turns) if turn.fits and not turn.is_doubtful]
    if not learnt:
        return BadRow(place, "its answer was cut, or is marked as doubtful", "cut_answer")
    used = its_turns[: learnt[-1] + 1]
    if any(message.picture is not None for turn in used for message in turn.messages):
        return BadRow(place, "is about a picture, which stays where it is", "picture")
    instructions = [_instructions(turn) for turn in used]
    last = next((each for each in reversed(instructions) if each is not None), None)
    body: list[ChatMessage] = [] if last is None else [{"role": "system", "content": last}]
    present = None
    for turn, own in zip(used, instructions, strict=True):
        present = present if own is None else own
        is_learnt = turn.fits and not turn.is_doubtful and present == last
        for message in turn.messages:
            if message.role not in turns.INSTRUCTIONS:
                weight = {"weight": 0} if message.role == "assistant" and not is_learnt else {}
                body.append(_learnable(message) | weight)
    return Example(place, {"messages": body, **used[-1].offered})


def _learnable(message: Message) -> ChatMessage:
    """A message with those of its fields that an example may have."""
    whole = message.as_json
    if isinstance(calls := whole.get("tool_calls"), list):  # without what only the server that made them understands
        whole["tool_calls"] = [
            {key: call[key] for key in _CALL if key in call} for call in calls if isinstance(call, dict)
        ]
    return {
        name: whole[name]
        for name in whole
        if name in _LEARNT and (name == "content" or whole[name] not in (None, [], ""))
    }


def _offered(connection: Connection, turn_ids: set[int]) -> dict[int, JsonObject]:
    """The tools that were sent along with turns, in the batch's parameters or the row's own body."""
    statement = select(jobs.c.id, jobs.c.request, batches.c.options).join(batches, batches.c.id == jobs.c.batch_id)
    offered = {}
    for job_id, request, options in connection.execute(statement.where(jobs.c.id.in_(turn_ids))):
        sent = {**(options.get("params") or {}), **(request.get("body") or {})}
        tools = sent.get("tools")
        chat_tools = (
            [each for each in tools if isinstance(each, dict) and "function" in each] if isinstance(tools, list) else []
        )
        if chat_tools:  # of the Responses API, tools have another shape
            offered[job_id] = {name: sent[name] for name in _OFFERED if name in sent} | {"tools": chat_tools}
    return offered


def _instructions(turn: Turn) -> str | None:
    return next((message.words for message in turn.messages if message.role in turns.INSTRUCTIONS), None)


def _shown(value: object) -> str:
    return f"{value:%Y-%m-%d}" if isinstance(value, datetime) else str(value)
