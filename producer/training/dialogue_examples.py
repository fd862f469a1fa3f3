"""What was asked, answered and judged is what the next model can learn from.

A dialogue becomes one example, up to the last of its turns that fits the filters. Earlier replies that do not fit, that
were cut, or that other instructions made are context with weight 0: they are read and not learnt. The dialogue's number
stays as the example's place, so that a model can be traced to the dialogues that it was made of.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, func, or_, select

from tidemill.models import pictures, turns
from tidemill.models.database import reading
from tidemill.models.errors import InputError
from tidemill.models.replies import CUT
from tidemill.models.tables import dialogues, messages
from tidemill.producer.asking.dialogues import Filters, fitting
from tidemill.producer.training.example_files import FilesRead
from tidemill.producer.training.examples import Bad, Example, Place

SOURCE = "stored dialogues"
UNIT = "dialogue"
_PAGE = 500
_OPTIONS = {"words": "search", "model": "answered by", "least_characters": "min length"}
"""What a filter is called on the command line, where that differs."""


class Stored(NamedTuple):
    """Which stored dialogues are meant: with a turn that holds these words and fits these filters."""

    words: str | None
    filters: Filters

    def __str__(self) -> str:
        """For people: `stored dialogues, sentiment positive, since 2026-11-01`."""
        said = {"words": self.words, **self.filters._asdict()}
        named = [f"{_OPTIONS.get(name, name)} {_shown(value)}" for name, value in said.items() if value is not None]
        return ", ".join([SOURCE, *named])


def day(option: str, given: str | None) -> datetime | None:
    """A date or a time as somebody writes it, in UTC where no zone is said; raises InputError."""
    if given is None:
        return None
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        raise InputError(f"{option} is {given!r}; write a date such as 2026-11-01, or a time in ISO 8601.") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def examples_of_dialogues(stored: Stored, reading_: FilesRead) -> Iterator[Example | Bad]:
    """The dialogues that are meant as supervised examples, by their numbers.

    Raises:
        InputError: a filter cannot be used, or no dialogue fits.
    """
    read = reading_.opened(str(stored), "examples")
    fitting_turns = fitting(stored.words, stored.filters).subquery()
    root = func.coalesce(fitting_turns.c.root_id, fitting_turns.c.id)
    roots = select(root).distinct().order_by(root).limit(_PAGE)
    after = 0
    while page := _page(roots.where(root > after), select(fitting_turns.c.id), root):
        for root_id, its_turns in page:
            read.rows += 1
            yield _example(root_id, its_turns)
        after = page[-1][0]
    if not read.rows:
        raise InputError(f"No dialogue fits ({stored}). `tidemill dialogues list` shows those that there are.")


class Turn(NamedTuple):
    """A turn of a dialogue, and whether its reply is to be learnt: it fits, and was not cut."""

    said: list[tuple[str, str]]
    fits: bool
    is_cut: bool


def _page(roots: Select[Any], fitting_ids: Select[Any], root: ColumnElement[int]) -> list[tuple[int, list[Turn]]]:
    """So many dialogues with their turns."""
    of = func.coalesce(dialogues.c.root_id, dialogues.c.id).label("root")
    with reading() as connection:
        chosen = list(connection.scalars(roots))
        fits = set(connection.scalars(fitting_ids.where(root.in_(chosen))))
        said = (
            select(of, dialogues.c.id, dialogues.c.finish_reason, messages.c.role, messages.c.content)
            .join(dialogues, dialogues.c.id == messages.c.dialogue_id)
            .where(or_(dialogues.c.id.in_(chosen), dialogues.c.root_id.in_(chosen)))
            .order_by(of, dialogues.c.id, messages.c.position)
        )
        rows = connection.execute(said).all()
    found = []
    for root_id, its_rows in groupby(rows, key=attrgetter("root")):
        turns_ = [
            Turn([(row.role, row.content) for row in its], turn_id in fits, reason == CUT)
            for (turn_id, reason), its in groupby(its_rows, key=attrgetter("id", "finish_reason"))
        ]
        found.append((root_id, turns_))
    return found


def _example(root_id: int, its_turns: list[Turn]) -> Example | Bad:
    """One example; what is not to be learnt of it is context, with weight 0."""
    place = Place("", root_id, UNIT)
    learnt = [number for number, turn in enumerate(its_turns) if turn.fits and not turn.is_cut]
    if not learnt:
        return Bad(place, "its answer was cut at the limit of tokens", "cut_answer")
    used = its_turns[: learnt[-1] + 1]
    if any(pictures.load_message(content) is not None for turn in used for _, content in turn.said):
        return Bad(place, "is about a picture, which stays where it is", "picture")
    instructions = [_instructions(turn) for turn in used]
    last = next((each for each in reversed(instructions) if each is not None), None)
    body: list[dict[str, Any]] = [] if last is None else [{"role": "system", "content": last}]
    present = None
    for turn, own in zip(used, instructions, strict=True):
        present = present if own is None else own
        is_learnt = turn.fits and not turn.is_cut and present == last
        for role, content in turn.said:
            if role not in turns.INSTRUCTIONS:
                weight = {"weight": 0} if role == "assistant" and not is_learnt else {}
                body.append({"role": role, "content": turns.parts(role, content) or content, **weight})
    return Example(place, {"messages": body})


def _instructions(turn: Turn) -> str | None:
    return next((content for role, content in turn.said if role in turns.INSTRUCTIONS), None)


def _shown(value: object) -> str:
    return f"{value:%Y-%m-%d}" if isinstance(value, datetime) else str(value)
