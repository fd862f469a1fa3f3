"""Before anything is stored, a run under a cap must know what a call may cost, and be able to afford one."""

import ipaddress
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain
from urllib.parse import urlsplit

from sqlalchemy import Connection, select

from tidemill.models import budgets, cost, ledger, reservations
from tidemill.models.bookings import BATCH, DAY
from tidemill.models.bounds import Bounds
from tidemill.models.budgets import Budget
from tidemill.models.database import reading
from tidemill.models.errors import InputError, SettingsError
from tidemill.models.job_requests import model_of
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Options
from tidemill.models.rereading import forget_prices
from tidemill.models.routes import ONLINE, ROUTES, UPSTREAM
from tidemill.models.settings import settings
from tidemill.models.tables import batches, jobs
from tidemill.producer.batches import budget_words as words
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.reasons import Reason
from tidemill.producer.batches.spending import Spending
from tidemill.producer.intake.tables import Row

_LOOKED_AT = 1_000
"""Rows that wait, to see whose price is not known."""


# --- before anything is stored ---


def in_force(spending: Spending) -> list[Budget]:
    """The caps on a batch that there is not yet: its own to be, today's, and that of all batches."""
    own = spending.budget_usd_e9
    return ([] if own is None else [Budget(BATCH, "", own, 0, 0, 0, 0)]) + _covering("")


def _covering(batch_id: str) -> list[Budget]:
    """The caps that cover a batch; where nothing has one, a small statement says so."""
    with reading() as connection:
        return budgets.covering(connection, batch_id) if reservations.are_capped(connection, [batch_id]) else []


def check_prices(order: Order, first: Sequence[Row]) -> None:
    """Refuse rows whose price is not known, where a cap is in force; lines that name models of their own are all read.

    Args:
        order: what is about to be submitted.
        first: its first rows, which are read already.

    Raises:
        InputError: the price of a model is not known; the text has the lines that set it.
    """
    if not (caps := in_force(order.spending)):
        return
    bounds, known = bounds_of(order.options, order.spending), set[str]()
    for row in _all_rows(order, first) if any("body" in row.request for row in first) else first:
        model = model_of(row.request, order.options.model)
        if model not in known and bounds.most_usd_e9(row.request) is None:
            raise InputError(unknown_price(name_of(caps[0], order.spending), model))
        known.add(model)


def check_room(order: Order, first: Sequence[Row]) -> None:
    """Refuse a budget that would not pay for a single one of the first rows.

    Raises:
        InputError: each of them may cost more than the whole budget.
    """
    cap = order.spending.budget_usd_e9
    if cap is None:
        return
    bounds = bounds_of(order.options, order.spending)
    least = min((most for row in first if (most := bounds.most_usd_e9(row.request)) is not None), default=0)
    if least > cap:
        raise InputError(
            f"One call may cost up to {words.shown(least, is_most=True)}, and --budget is {words.shown(cap)}: nothing "
            "was stored or sent. --max-tokens lowers what a call may cost; or raise --budget."
        )


def few_at_once(order: Order, example: JsonObject, batch_id: str, most_calls: int) -> str | None:
    """That a cap lets only a few calls go side by side because nothing limits their answers; None where it is not so.

    Args:
        order: what is asked.
        example: the request of one of its rows.
        batch_id: its batch.
        most_calls: how many could be in flight without a cap.
    """
    if order.options.max_tokens is not None or "body" in example or order.spending.route in UPSTREAM:
        return None
    narrow, most = words.narrowest(_covering(batch_id)), bounds_of(order.options, order.spending).most_usd_e9(example)
    if narrow is None or not most or not 0 < narrow.left // most < most_calls:
        return None
    return words.few_at_once(narrow, narrow.left // most, most)


def bounds_of(options: Options, spending: Spending) -> Bounds:
    """What the calls of an order may cost at most, by its route; as long as that is not chosen, by the live one."""
    return Bounds.of(options, spending.route if spending.route in ROUTES else ONLINE)


def _all_rows(order: Order, first: Sequence[Row]) -> Iterator[Row]:
    """All rows of an input that can be read twice, else the first ones."""
    if not order.rows.files:
        return iter(first)
    return chain.from_iterable(order.rows.chunks(order.options, lambda _note: None))


# --- whose price is not known ---


def name_of(budget: Budget, spending: Spending) -> str:
    """What asks for a price: `--budget`, or a cap that was set before."""
    said = budget.kind == BATCH and spending.budget_usd_e9 is not None
    return "--budget" if said else f"The {words.title(budget)}"


def unknown_price(why: str, model: str, *, of_training: bool = False) -> str:
    """That a model's price must be known, with the lines that set it, or with what is wrong in the file of prices."""
    forget_prices()  # in a notebook, the next try must see the lines that somebody has added
    try:
        cost.overrides()
    except SettingsError as error:  # nobody knows what else the file would have said
        return f"{why} needs the price of {model}, but the file of prices cannot be used. {error}"
    path = settings().prices
    return words.unknown_price(
        why, model, None if path is None else str(path), is_own_server=_is_own_server(), of_training=of_training
    )


def _is_own_server() -> bool:
    """Whether calls stay in this machine or network, so that they are likely to cost nothing."""
    host = urlsplit(settings().openai_base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".lan"))


def unpriced_model(connection: Connection, batch_id: str) -> str | None:
    """The model of a batch's next open rows whose price is not known; None where all are known."""
    stored = connection.execute(select(batches.c.options).where(batches.c.id == batch_id)).scalar_one()
    options = Options.from_json(stored)
    bounds = Bounds.of(options)
    waiting = select(jobs.c.request).where(jobs.c.batch_id == batch_id, jobs.c.state == "queued").limit(_LOOKED_AT)
    for request in connection.scalars(waiting):
        if bounds.most_usd_e9(request) is None:
            return model_of(request, options.model)
    return None


# --- while nothing fits ---


def reason_of(connection: Connection, blocking: Budget, batch_id: str) -> str:
    """Why a cap keeps the rows of a batch: for its last line, or for whoever asks."""
    if blocking.is_unpriced:
        if (model := unpriced_model(connection, batch_id)) is not None:
            return unknown_price(f"The {words.title(blocking)}", model)
        return words.unknown_elsewhere(blocking)
    if blocking.is_reached:
        kind = connection.scalar(select(batches.c.kind).where(batches.c.id == batch_id))
        lowered_by = words.LOWERS_TRAINING if kind == "train" else words.LOWERS_CALLS
        why = words.reached(
            blocking, batch_id, ledger.clock(connection), is_embedded=settings().embedded, lowered_by=lowered_by
        )
        model = None if kind == "train" else unpriced_model(connection, batch_id)
        return why if model is None else f"{why} {words.unpriced_too(model)}"
    return words.waiting(blocking)


def blocking(connection: Connection, batch_id: str, now: datetime) -> Reason | None:
    """That a cap on money keeps the rows of a batch; None where none does."""
    narrow = words.narrowest([each for each in budgets.covering(connection, batch_id) if each.is_narrow])
    if narrow is None:
        return None
    if not narrow.is_reached and not narrow.is_unpriced:
        return Reason("budget_narrow", words.waiting(narrow))
    until = words.day_ends(now) if narrow.kind == DAY and not narrow.is_unpriced else None
    return Reason("budget", words.in_one_line(reason_of(connection, narrow, batch_id)), until)
