"""How much a batch may cost, by which route, and by when: none of it changes what is asked, so it may change later."""

from dataclasses import dataclass

from tidemill.models.durations import seconds_of
from tidemill.models.errors import OptionError
from tidemill.models.money import usd_e9_of
from tidemill.models.routes import AUTO, ROUTES


@dataclass(frozen=True, slots=True)
class Spending:
    """What was said of a batch's money and time; None: nothing, so that what was said before counts."""

    budget_usd_e9: int | None = None
    """The most that it may cost, in 1e-9 USD."""
    route: str | None = None
    """One of `models.routes.ROUTES`, or AUTO."""
    deadline_seconds: float | None = None
    """After so long every row should have ended."""


UNSAID = Spending()


def spending_of(
    budget: str | float | None = None, route: str | None = None, deadline: str | float | None = None
) -> Spending:
    """What a caller says, checked.

    Args:
        budget: US dollars, such as "5.00".
        route: `online`, `flex`, `batch`, `2h`, `8h` or `auto`.
        deadline: a duration such as "6h", or seconds. Without a route it means `auto`.

    Raises:
        OptionError: one of them has a value that it cannot have.
    """
    if route is not None and route not in (*ROUTES, AUTO):
        raise OptionError("route", route, f"it must be {', '.join(ROUTES)} or {AUTO}.")
    try:
        budget_usd_e9 = None if budget is None else usd_e9_of(budget)
    except ValueError as error:
        raise OptionError("budget", budget, f"{error}.") from None
    try:
        seconds = None if deadline is None else seconds_of(f"{deadline}s" if _is_number(deadline) else str(deadline))
    except ValueError as error:
        raise OptionError("deadline", deadline, f"{error}.") from None
    return Spending(budget_usd_e9, route or (None if seconds is None else AUTO), seconds)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
