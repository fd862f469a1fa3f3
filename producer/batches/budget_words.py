"""A cap on money is spoken of in the same words everywhere: in a run, in its last line, in lists and in refusals."""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import NamedTuple

from tidemill.models import money
from tidemill.models.bookings import BATCH, DAY, FLEET
from tidemill.models.budgets import Budget
from tidemill.models.durations import in_words
from tidemill.models.json_types import JsonObject
from tidemill.models.money import USD_E9, usd
from tidemill.models.reservations import UNPRICED

_WHOSE = {BATCH: "", DAY: " a day", FLEET: " for all batches"}
_SHORTLY = {BATCH: "", DAY: " today", FLEET: " in all"}


def shown(amount_e9: int, *, is_most: bool = False) -> str:
    """An amount in nano-dollars for people; the most is rounded up."""
    return money.shown(Decimal(amount_e9) / USD_E9, is_most=is_most)


def narrowest(budgets: Sequence[Budget]) -> Budget | None:
    """The one with the least left; None where nothing is capped."""
    return min(budgets, key=lambda each: each.left, default=None)


def spent_of(budget: Budget) -> str:
    """For one short piece of a line: `$0.017 of $5.00`, with what belongs to the cap where that is no batch's."""
    return f"{shown(budget.spent + budget.doubtful)} of {shown(budget.cap)}{_SHORTLY[budget.kind]}"


def title(budget: Budget) -> str:
    """A budget for the beginning of a sentence: `budget of $20.00 a day`."""
    return f"budget of {shown(budget.cap)}{_WHOSE[budget.kind]}"


def figures(budget: Budget) -> str:
    """What counts against a cap: `$4.97 spent, $0.02 reserved, $0.01 maybe spent`."""
    parts = [f"{shown(budget.spent)} spent"]
    training = f" ({shown(budget.training)} for fine-tunes)" if budget.training else ""
    parts += [f"{shown(budget.reserved)} reserved{training}"] if budget.reserved else []
    parts += [f"{shown(budget.doubtful)} maybe spent"] if budget.doubtful else []
    return ", ".join(parts)


LOWERS_CALLS = "--max-tokens lowers that"
LOWERS_TRAINING = "fewer --epochs lower that"


def next_call(budget: Budget, lowered_by: str = LOWERS_CALLS) -> str:
    """What was too much: `the next call may cost up to $0.064 (--max-tokens lowers that)`."""
    if budget.is_unpriced:
        return "the price of the next call is not known"
    what = "the training" if lowered_by == LOWERS_TRAINING else "the next call"
    return f"{what} may cost up to {shown(budget.next_call, is_most=True)} ({lowered_by})"


def reached(budget: Budget, batch_id: str, now: datetime, *, is_embedded: bool, lowered_by: str = LOWERS_CALLS) -> str:
    """That a run is over because of a cap, and how it goes on."""
    way_on = _way_on(budget, batch_id, now, is_embedded)
    return f"{title(budget)} reached: {figures(budget)}; {next_call(budget, lowered_by)}. {way_on}"


def waiting(budget: Budget) -> str:
    """That calls in flight have to give back what they have reserved; no figure in it changes with each of them."""
    return f"No room in the {title(budget)} until calls in flight give some back; {next_call(budget)}."


def few_at_once(budget: Budget, calls: int, most_e9: int) -> str:
    """That few calls can be in flight together, each with the most that it may cost reserved."""
    fits = "only 1 call fits" if calls == 1 else f"only {calls:,} calls fit side by side"
    return (
        f"Of the {title(budget)}, {shown(budget.left)} is left: {fits}, since each may cost up to "
        f"{shown(most_e9, is_most=True)}; --max-tokens lets more go at once."
    )


def day_ends(now: datetime) -> datetime:
    """When the present day ends, in UTC."""
    return datetime.combine(now.astimezone(UTC).date() + timedelta(days=1), time(), UTC)


def _way_on(budget: Budget, batch_id: str, now: datetime, is_embedded: bool) -> str:
    """What to type, and what else would help."""
    typed = {BATCH: batch_id, DAY: "day", FLEET: "fleet"}[budget.kind]
    raise_it = f"`tidemill budget {typed} {_enough(budget)}`"
    again = ", then the same command," if is_embedded else ""
    if budget.kind == DAY:
        midnight = f"00:00 UTC (in {in_words((day_ends(now) - now).total_seconds())})"
        start = f"The same command goes on from {midnight}" if is_embedded else f"It goes on at {midnight}"
        way = f"{start}; {raise_it}{again} goes on now."
    else:
        way = f"{raise_it}{again} goes on."
    if budget.doubtful and budget.next_call <= budget.left + budget.doubtful:
        forgive = " ".join(["tidemill budget forgive", *([batch_id] if budget.kind == BATCH else [])])
        way += f" `{forgive}` counts what is maybe spent no longer."
    return way


def _enough(budget: Budget) -> str:
    """A cap to suggest: twice what it is, in few digits, and with room for the next call."""
    least = max(2 * budget.cap, budget.spent + budget.doubtful + budget.next_call, 1)
    amount = Decimal(least) / USD_E9
    rounded = Decimal(f"{amount:.2g}")
    if rounded < amount:
        rounded += Decimal(1).scaleb(rounded.adjusted() - 1)
    return f"{rounded.normalize():f}"


# --- a price that is not known ---


def price_lines(model: str, *, is_own_server: bool, of_training: bool = False) -> Sequence[str]:
    """The lines of TOML that set a model's price."""
    key = model.replace("\\", "\\\\").replace('"', '\\"')
    rates = (0, 0, 0) if is_own_server else ("1.25    # USD per million tokens", "10.00", "5.00")
    names = ("input", "output", *(("training",) if of_training else ()))
    return [f'["{key}"]', *(f"{name} = {rate}" for name, rate in zip(names, rates, strict=False))]


def unknown_price(
    why: str, model: str, prices_file: str | None, *, is_own_server: bool, of_training: bool = False
) -> str:
    """That a model's price must be known, and how it is said; several lines.

    Args:
        why: what needs it, such as `--budget`.
        model: whose price is not known.
        prices_file: what `TIDEMILL_PRICES` names by now; None: nothing.
        is_own_server: whether calls are likely to cost nothing.
    """
    where = f"Add these lines to {prices_file}" if prices_file else "Put these lines into a file, say prices.toml"
    whose = "for a server of your own, which costs nothing" if is_own_server else "with the real prices of that model"
    lines = price_lines(model, is_own_server=is_own_server, of_training=of_training)
    name_it = "" if prices_file else "\nThen name the file: export TIDEMILL_PRICES=prices.toml"
    what = "price of training" if of_training else "price of"
    return "\n".join([f"{why} needs the {what} {model}, which is not known here. {where}, {whose}:", *lines]) + name_it


def unpriced_too(model: str) -> str:
    """That rows wait for a price besides those that wait for money."""
    return f"Rows of {model} wait, too, since its price is not known here."


def unknown_elsewhere(budget: Budget) -> str:
    """That workers do not know a price that is known here."""
    return (
        f"The {title(budget)} keeps rows whose price a worker did not know. Start workers with the TIDEMILL_PRICES of "
        "this command; they take the rows up."
    )


def in_one_line(lines: str) -> str:
    """A sentence with lines to copy below it, as one line: each of them as it is typed."""
    sentence, *rest = lines.split("\n")
    typed = [f"`{each}`" for each in rest if not each.startswith("Then ")]
    then = "".join(f"; {each[:1].lower()}{each[1:]}" for each in rest if each.startswith("Then "))
    return f"{sentence} {', '.join(typed)}{then}." if rest else sentence


# --- for scripts ---


class BudgetNow(NamedTuple):
    """How a budget stands at one moment, in USD."""

    cap: float
    spent: float
    reserved: float
    """For calls that are under way: the most that they may cost."""
    maybe_spent: float
    """What calls may have cost whose end nobody saw, or whose tokens nobody told."""
    left: float
    is_reached: bool
    """Whether rows wait for it, and none is under way that might give something back."""

    @classmethod
    def of(cls, budget: Budget) -> "BudgetNow":
        """As it is stored, in USD."""
        counted = usd(budget.spent), usd(budget.reserved), usd(budget.doubtful)
        return cls(usd(budget.cap), *counted, usd(budget.left), budget.is_reached)


def to_json(budget: Budget) -> JsonObject:
    """A budget for scripts, in USD."""
    return {
        "kind": budget.kind,
        "name": budget.name or None,
        "cap_usd": usd(budget.cap),
        "spent_usd": usd(budget.spent),
        "reserved_usd": usd(budget.reserved),
        "maybe_spent_usd": usd(budget.doubtful),
        "left_usd": usd(budget.left),
        "next_call_usd": usd(budget.next_call) if 0 < budget.next_call < UNPRICED else None,
        "is_reached": budget.is_reached,
    }
