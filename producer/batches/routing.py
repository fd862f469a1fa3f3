"""The command that reads the rows decides how they go out, as soon as it knows whether they are many, and says so."""

from sqlalchemy import Connection, select, update

from tidemill.models import deadlines
from tidemill.models.batch_servers import why_not
from tidemill.models.choosing import FEW_ROWS, Choice, Facts, choose, refuses_flex, takes_flex
from tidemill.models.clock import now
from tidemill.models.database import reading, transact
from tidemill.models.errors import OptionError
from tidemill.models.provider_looks import has_batch_api
from tidemill.models.routes import AUTO, FLEX, ONLINE, UPSTREAM, WINDOWS
from tidemill.models.settings import settings
from tidemill.models.tables import batches
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.upstream_words import price_words

TIER = "service_tier"


def check_route(order: Order) -> None:
    """Raise OptionError if the order's route and what it asks for contradict each other, or nobody takes that route."""
    route, model = order.spending.route, order.options.model
    if route in (None, ONLINE, AUTO):
        return
    tier = order.options.params.get(TIER)
    if tier is not None:
        raise OptionError("route", route, f"{TIER} is {tier!r}, and both name a tier: drop one of the two.")
    if route == FLEX and refuses_flex(model, settings().provider):
        raise OptionError("route", route, f"{model} is not served at flex; try batch, or auto.")
    if route in WINDOWS:
        if order.options.endpoint != "responses":
            raise OptionError("route", route, "it is for --endpoint responses; add that, or use batch.")
        return
    if route in UPSTREAM and (why := _why_no_batches(order)) is not None:
        raise OptionError("route", route, f"{why}; use flex, online, or auto, which takes what there is.")


def says_enough(order: Order, open_rows: int) -> bool:
    """Whether a route can be chosen, with so many rows without an answer, although more may come."""
    return open_rows >= FEW_ROWS or (order.spending.deadline_seconds is not None and open_rows > 0)


def choose_route(order: Order, batch_id: str, open_rows: int) -> None:
    """Resolve a batch whose route is `auto`, and say how; its rows wait for that."""
    can = _can_batch(order), _can_flex(order)

    def resolve(connection: Connection) -> Choice | None:
        choice = _choose(connection, can, open_rows, _seconds_left(connection, batch_id))
        own = batches.c.id == batch_id, batches.c.route == AUTO
        is_first = connection.execute(update(batches).where(*own).values(route=choice.route)).rowcount
        return choice if is_first else None

    choice = transact(resolve)
    if choice is not None and open_rows:
        order.on_bad_row(sentence(choice, order.options.model))


def foresee_route(order: Order, batch_id: str | None, open_rows: int) -> Choice:
    """Which route a batch whose route is `auto` would get with so many rows to send; nothing is written."""
    can, left = (_can_batch(order), _can_flex(order)), order.spending.deadline_seconds
    with reading() as connection:
        if left is None and batch_id is not None:
            left = _seconds_left(connection, batch_id)
        return _choose(connection, can, open_rows, left)


def _choose(connection: Connection, can: tuple[bool, bool], open_rows: int, seconds_left: float | None) -> Choice:
    """`can` says whether the rows may go by batch, and by flex."""
    usual = deadlines.batch_seconds(connection, settings().provider)
    return choose(Facts(open_rows, seconds_left, *can, usual))


def _seconds_left(connection: Connection, batch_id: str) -> float | None:
    """Until the batch's deadline; None: it has none."""
    columns = select(batches.c.deadline_at, now()).where(batches.c.id == batch_id)
    deadline_at, at = connection.execute(columns).one()
    return None if deadline_at is None else (deadline_at - at).total_seconds()


def _can_batch(order: Order) -> bool:
    known = why_not(settings().openai_base_url, order.options.endpoint)
    return TIER not in order.options.params and known is None and bool(has_batch_api(settings()))


def _why_no_batches(order: Order) -> str | None:
    """Why it is known that rows cannot go to the server's Batch API, as the end of a sentence."""
    why = why_not(settings().openai_base_url, order.options.endpoint)
    return why or ("the server has no Batch API" if has_batch_api(settings()) is False else None)


def _can_flex(order: Order) -> bool:
    return TIER not in order.options.params and takes_flex(order.options.model, settings().provider)


def sentence(choice: Choice, model: str) -> str:
    """Which way was chosen, what that saves, and why."""
    return f"Route: {reason(choice, model)}."


def reason(choice: Choice, model: str) -> str:
    """The same as the end of a sentence."""
    price = price_words(model, choice.route)
    return f"{choice.route}{f', at {price}' if price else ''}; {choice.reason}"
