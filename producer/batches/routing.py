"""The command that reads the rows decides how they go out, as soon as it knows whether they are many, and says so."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Connection, select, update

from tidemill.models import cost, deadlines
from tidemill.models.choosing import FEW_ROWS, Choice, Facts, choose, refuses_flex, takes_flex
from tidemill.models.clock import now
from tidemill.models.database import reading, transact
from tidemill.models.errors import OptionError
from tidemill.models.provider import has_batch_api
from tidemill.models.routes import AUTO, ONLINE, ROUTES
from tidemill.models.settings import settings
from tidemill.models.tables import batches
from tidemill.producer.batches.order import Order

TIER = "service_tier"


def check_route(order: Order) -> None:
    """Raise OptionError if the order's route and what it asks for contradict each other, or nobody takes that route."""
    route, model = order.spending.route, order.options.model
    if route in (None, ONLINE, AUTO):
        return
    tier = order.options.params.get(TIER)
    if tier is not None:
        raise OptionError("route", route, f"{TIER} is {tier!r}, which is a route of its own; drop one of the two.")
    if route == "flex" and refuses_flex(model, settings().provider):
        raise OptionError("route", route, f"{model} is not served at flex; try batch, or auto.")


class Chooser:
    """Resolves a batch whose route is `auto`; its rows wait for that.

    Args:
        order: whose batch it is.
        batch_id: the batch.
    """

    def __init__(self, order: Order, batch_id: str) -> None:
        self._order, self._batch_id = order, batch_id
        with reading() as connection:
            route, deadline_at, _ = _read(connection, batch_id)
        self._is_open = route == AUTO
        self._has_deadline = deadline_at is not None

    def look(self, open_rows: int, say: Callable[[str], None], *, is_whole: bool) -> None:
        """Choose if so many rows without an answer say enough; `is_whole`: there are no more."""
        if not self._is_open or not (is_whole or open_rows >= FEW_ROWS or (self._has_deadline and open_rows)):
            return
        self._is_open = False
        can_batch, flexible = _can_batch(self._order), _can_flex(self._order)

        def resolve(connection: Connection) -> Choice | None:
            _, deadline_at, at = _read(connection, self._batch_id)
            left = None if deadline_at is None else (deadline_at - at).total_seconds()
            usual = deadlines.batch_seconds(connection, settings().provider)
            choice = choose(Facts(open_rows, left, can_batch, flexible, usual))
            own = batches.c.id == self._batch_id, batches.c.route == AUTO
            is_first = connection.execute(update(batches).where(*own).values(route=choice.route)).rowcount
            return choice if is_first else None

        choice = transact(resolve)
        if choice is not None and open_rows:
            say(sentence(choice, self._order.options.model))


def _read(connection: Connection, batch_id: str) -> tuple[str, datetime | None, datetime]:
    """The batch's route and deadline, and the present time."""
    columns = select(batches.c.route, batches.c.deadline_at, now()).where(batches.c.id == batch_id)
    return connection.execute(columns).one()._tuple()


def _can_batch(order: Order) -> bool:
    return TIER not in order.options.params and has_batch_api(settings())


def _can_flex(order: Order) -> bool:
    return TIER not in order.options.params and takes_flex(order.options.model, settings().provider)


def sentence(choice: Choice, model: str) -> str:
    """Which way was chosen, what that saves, and why."""
    saved = saved_share(model, choice.route)
    saves = f", {saved:.0%} cheaper than online" if saved else ""
    return f"Route: {choice.route}{saves}; {choice.reason}."


def saved_share(model: str, route: str) -> float:
    """What part of the price online a route saves, by the price of the answer; 0 where no price is known."""
    own, online = cost.price(model, ROUTES[route].tier), cost.price(model)
    if own is None or online is None or not online.output_usd_per_token:
        return 0.0
    return 1 - own.output_usd_per_token / online.output_usd_per_token
