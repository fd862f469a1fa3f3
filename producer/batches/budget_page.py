"""What may be spent is shown, set, raised, lowered, removed and forgiven while work goes on, and each takes effect."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from tidemill import migrations
from tidemill.models import budgets
from tidemill.models.bookings import BATCH, DAY, FLEET
from tidemill.models.budgets import Budget
from tidemill.models.database import reading, transact
from tidemill.models.errors import InputError
from tidemill.models.money import usd, usd_e9_of
from tidemill.models.settings import settings
from tidemill.producer.batches import budget_words as words
from tidemill.producer.batches.progress import resolve
from tidemill.producer.screen.printing import print_json, print_line, print_table
from tidemill.producer.screen.tables import Column

FORGIVE = "forgive"
NONE = "none"

_COLUMNS = (
    Column("budget", 1),
    Column("cap", 2),
    Column("spent", 3),
    Column("reserved", 6),
    Column("maybe spent", 5),
    Column("left", 4),
)


_SHOWN = 20
"""Batches in the table, the newest first."""


class _Place(NamedTuple):
    """What has a cap: its kind, its name in the table of budgets, and what it is called."""

    kind: str
    name: str
    title: str


def budget(what: str | None, amount: str | None, as_json: bool) -> None:
    """Do what `tidemill budget` was told.

    Args:
        what: a batch, `day`, `fleet` or `forgive`; None: list all.
        amount: US dollars, or `none`; behind `forgive` a batch.

    Raises:
        InputError: there is no such batch, or the amount is none.
    """
    if what is not None and amount is not None and _is_amount(what) and not _is_amount(amount):
        raise InputError(_needs_a_place(what, amount))
    new_cap = None if amount is None or what == FORGIVE else _cap(amount)
    migrations.ensure()
    if what is None:
        return _list(as_json)
    if what == FORGIVE:
        return _forgive(None if amount is None else _forgiven(amount), as_json)
    place = _place(what)
    if amount is None:
        return _show(place, as_json)
    return _set(place, new_cap, as_json)


def _cap(amount: str) -> int | None:
    """The nano-dollars of what was typed; None: no cap."""
    if amount.strip().lower() == NONE:
        return None
    try:
        return usd_e9_of(amount)
    except ValueError as error:
        raise InputError(f"{amount!r} is no budget: {error}; `none` takes it away.") from None


def _is_amount(text: str) -> bool:
    try:
        _cap(text)
    except InputError:
        return False
    return True


def _needs_a_place(amount: str, *places: str) -> str:
    ways = [f"`tidemill budget {each} {amount}`" for each in places]
    return f"{amount} is an amount, and what it is for comes first: {' or '.join(ways)}."


def _place(what: str) -> _Place:
    """What somebody means; no batch's id is `day` or `fleet`, since ids end in a dash and six digits."""
    if what == DAY:
        return _Place(DAY, "", "each day (UTC)")
    if what == FLEET:
        return _Place(FLEET, "", "all batches")
    try:
        batch_id = resolve(what).id
    except InputError:
        if _is_amount(what):  # a batch may be called so, too
            raise InputError(_needs_a_place(what, "latest", DAY, FLEET)) from None
        raise
    return _Place(BATCH, batch_id, batch_id)


def _forgiven(name: str) -> str:
    """The id of the batch whose calls are to be forgiven."""
    try:
        return str(resolve(name).id)
    except InputError:
        if name in (DAY, FLEET) or _is_amount(name):
            why = "behind `forgive` stands a batch, or nothing: `tidemill budget forgive` is for all batches and days."
            raise InputError(f"{name!r} is no batch; {why}") from None
        raise


# --- show ---


def _list(as_json: bool) -> None:
    with reading() as connection:
        known = budgets.read_all(connection)
    if as_json:
        return print_json([words.to_json(each) for each in known])
    if not known:
        print_line(
            "No budget is set. `tidemill ask -i prompts.csv --budget 5` sets one for a batch, `tidemill budget day 20` "
            "for each day, `tidemill budget fleet 100` for all.",
            err=True,
        )
        return None
    own = [each for each in known if each.kind == BATCH]
    print_table(_COLUMNS, [_cells(each) for each in (*(each for each in known if each.kind != BATCH), *own[:_SHOWN])])
    if len(own) > _SHOWN:
        print_line(f"{len(own) - _SHOWN:,} older batches with a budget; --json has all.", err=True)
    return None


def _cells(each: Budget) -> Sequence[object]:
    name = {BATCH: each.name, DAY: f"day {each.name}".rstrip(), FLEET: "all (fleet)"}[each.kind]
    return (name, *map(words.shown, (each.cap, each.spent, each.reserved, each.doubtful, each.left)))


def _show(place: _Place, as_json: bool) -> None:
    with reading() as connection:
        now = _find(connection, place)
    if as_json:
        return print_json(None if now is None else words.to_json(now))
    typed = place.name or place.kind
    if now is None:
        print_line(f"{place.title}: no budget. `tidemill budget {typed} 10` sets one.")
        return None
    print_line(f"{place.title}: {_standing(now)}")
    return None


def _find(connection: Connection, place: _Place) -> Budget | None:
    """How the budget stands, that of today for a day; None where there is no cap."""
    covering = budgets.covering(connection, place.name)
    return next((each for each in covering if each.kind == place.kind), None)


def _standing(now: Budget) -> str:
    """How a cap stands, in a sentence."""
    whose = " today" if now.kind == DAY else ""
    cap = f"budget {words.shown(now.cap)}"
    if now.spent + now.doubtful > now.cap:
        over = "no more calls begin, and those in flight end"
        return f"{cap}; {words.figures(now)}{whose}, which is more already: {over}."
    if now.left <= 0 and now.reserved:
        return f"{cap}; {words.figures(now)}{whose}: no more calls begin until those under way give some back."
    return f"{cap}; {words.figures(now)}{whose}, {words.shown(now.left)} left."


# --- change ---


def _set(place: _Place, cap: int | None, as_json: bool) -> None:
    def change(connection: Connection) -> tuple[Budget | None, Budget | None]:
        before = _find(connection, place)
        budgets.set_cap(connection, place.kind, place.name, cap)
        return before, _find(connection, place)

    before, now = transact(change)
    if as_json:
        return print_json(None if now is None else words.to_json(now))
    if now is None:
        print_line(f"{place.title}: {'had no budget' if before is None else 'no budget any more'}.")
        return None
    former = "" if before is None or before.cap == now.cap else f" It was {words.shown(before.cap)}."
    print_line(f"{place.title}: {_standing(now)}{former}{_goes_on(place, before, now)}")
    return None


def _goes_on(place: _Place, before: Budget | None, now: Budget) -> str:
    """What becomes of rows that waited, where there is room again."""
    if before is None or not before.is_narrow or before.next_call > now.left:
        return ""
    if settings().embedded:
        which = place.name or "BATCH"
        return f" A command that waits goes on; `tidemill watch {which}` does it here."
    return " Rows that waited go on."


def _forgive(batch_id: str | None, as_json: bool) -> None:
    def forgive(connection: Connection) -> tuple[int, list[Budget]]:
        forgiven = budgets.forgive(connection, batch_id)
        return forgiven, budgets.covering(connection, batch_id or "")

    forgiven, covering = transact(forgive)
    narrowest = words.narrowest(covering)
    if as_json:
        return print_json({"batch": batch_id, "forgiven_usd": usd(forgiven)})
    whose = "" if batch_id is None else f"{batch_id}: "
    if not forgiven:
        print_line(f"{whose}nothing is in doubt; there is nothing to forgive.{_reserved(narrowest)}")
        return None
    left = "" if narrowest is None else f"; {words.shown(narrowest.left)} left of the {words.title(narrowest)}"
    print_line(f"{whose}{words.shown(forgiven)} that calls may have spent counts no longer{left}.")
    return None


def _reserved(budget: Budget | None) -> str:
    """What may be in doubt soon: nobody has seen yet whether the workers of these calls are gone."""
    if budget is None or not budget.reserved:
        return ""
    return (
        f" {words.shown(budget.reserved)} is reserved for calls under way; those of a killed process are in doubt once "
        "the next run or worker has seen that it is gone."
    )
