"""Why this module exists: what was asked, answered and judged is what the next model can learn from.

A dialogue becomes one example, whole, up to the last of its turns that fits the filters. It keeps its number as the
example's place, so that a dataset, and with it a model, can be traced to the dialogues that it was made of.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import func, or_, select

from models import pictures, turns
from models.database import reading
from models.errors import InputError
from models.tables import dialogues, messages
from producer.dialogues import Filters, fitting
from producer.example_files import Reading
from producer.examples import Bad, Example, Place

SOURCE = "stored dialogues"
UNIT = "dialogue"
_PAGE = 500


class Stored(NamedTuple):
    """Which stored dialogues are meant: with a turn that holds these words and fits these filters."""

    words: str | None
    filters: Filters

    def __str__(self) -> str:
        """For people: `stored dialogues, sentiment positive, since 2026-11-01`."""
        said = {"words": self.words, **self.filters._asdict()}
        named = [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in said.items() if value is not None]
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


def examples_of_dialogues(stored: Stored, reading_: Reading) -> Iterator[Example | Bad]:
    """The dialogues that are meant as supervised examples, by their numbers.

    Raises:
        InputError: a filter cannot be used, or no dialogue fits.
    """
    read = reading_.opened(str(stored), "examples")
    wanted = fitting(stored.words, stored.filters).subquery()
    root = func.coalesce(wanted.c.root_id, wanted.c.id)
    last_turns = select(root.label("root"), func.max(wanted.c.id).label("last")).group_by(root)
    after = 0
    while page := _page(last_turns.having(root > after).order_by(root).limit(_PAGE)):
        for root_id, said in page:
            read.rows += 1
            yield _example(root_id, said)
        after = page[-1][0]
    if not read.rows:
        raise InputError(f"No dialogue fits ({stored}). `tidemill dialogues list` shows those that there are.")


def _page(chosen: Any) -> list[tuple[int, list[tuple[str, str]]]]:
    """(number, messages) of so many dialogues, each up to its last turn that fits."""
    of = func.coalesce(dialogues.c.root_id, dialogues.c.id)
    with reading() as connection:
        last = {row.root: row.last for row in connection.execute(chosen)}
        said = (
            select(of.label("root"), messages.c.dialogue_id, messages.c.role, messages.c.content)
            .join(dialogues, dialogues.c.id == messages.c.dialogue_id)
            .where(or_(dialogues.c.id.in_(last), dialogues.c.root_id.in_(last)))
            .order_by(of, messages.c.dialogue_id, messages.c.position)
        )
        rows = [row for row in connection.execute(said) if row.dialogue_id <= last[row.root]]
    return [(root, [(row.role, row.content) for row in its]) for root, its in groupby(rows, key=itemgetter(0))]


def _example(root_id: int, said: list[tuple[str, str]]) -> Example | Bad:
    place = Place("", root_id, UNIT)
    if any(pictures.shown(content) is not None for _, content in said):
        return Bad(place, "is about a picture, which stays where it is", "picture")
    body = [{"role": role, "content": turns.parts(role, content) or content} for role, content in said]
    return Example(place, {"messages": body})


def _shown(value: object) -> str:
    return f"{value:%Y-%m-%d}" if isinstance(value, datetime) else str(value)
