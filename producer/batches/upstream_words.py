"""Rows that are out at the provider's Batch API are spoken of in one way, wherever they are shown."""

from collections.abc import Sequence
from datetime import datetime

from tidemill.models import cost
from tidemill.models.durations import in_words
from tidemill.models.routes import BATCH, ROUTES
from tidemill.models.text import one_line
from tidemill.models.whereabouts import Upstream
from tidemill.producer.batches.progress import counted
from tidemill.producer.batches.reasons import Reason, since, until

MOST_SHOWN = 5
"""Upstream batches of one batch that have a line of their own."""

_NOTE_CHARACTERS = 300


def price_words(model: str, route: str) -> str:
    """What a route costs of the price online: `half the price`, `80 % of the price`; empty where it is the same.

    It is also empty where the price is not known.
    """
    tier = ROUTES[route].tier if route in ROUTES else ""
    own, online = (cost.price(model, tier), cost.price(model)) if tier else (None, None)
    if own is None or online is None or not online.output_usd_per_token:
        return ""
    share = own.output_usd_per_token / online.output_usd_per_token
    if share == 1:
        return ""
    return "half the price" if abs(share - 0.5) < 0.001 else f"{share:.0%} of the price".replace("%", " %")


def whereabouts(rows: int | None, upstream: Sequence[Upstream], model: str, now: datetime) -> str:
    """Where rows are that are out, since when, how far the provider is, and when it gives up; in sentences.

    Args:
        rows: how many of the batch are out; None: it is about one row.
        upstream: its open upstream batches.
        model: which they ask.
        now: the database's time.
    """
    who, is_one = ("The row", True) if rows is None else (counted(rows, "row"), rows == 1)
    batches = counted(len(upstream), "upstream batch")
    sent = [each for each in upstream if each.sent_at is not None]
    route = upstream[-1].route if upstream else BATCH
    if not sent:
        return f"{who} {'is' if is_one else 'are'} on the way to {ROUTES[route].place}, in {batches}."
    price = price_words(model, route)
    began = since(min(each.sent_at for each in sent if each.sent_at is not None), now)
    parts = [batches, *([far] if (far := how_far(upstream)) else [])]
    at_price = f", at {price}" if price else ""
    been = f"{who} {'has' if is_one else 'have'} been at {ROUTES[route].place} {began}{at_price}"
    return f"{been}: {', '.join(parts)}.{_end(upstream, now)}"


def reason(rows: int | None, upstream: Sequence[Upstream], model: str, now: datetime) -> Reason:
    """The same as a reason to wait, with what last went wrong."""
    sentence = " ".join([whereabouts(rows, upstream, model, now), *trouble(upstream)])
    ends = [each.expires_at for each in upstream if each.expires_at is not None]
    return Reason("at_provider", sentence, max(ends, default=None))


def how_far(upstream: Sequence[Upstream]) -> str:
    """`640 of 1,319 lines done there`, as far as the provider says; empty while it says nothing."""
    if all(each.completed is None and each.failed is None for each in upstream):
        return ""
    return (
        f"{sum(each.done for each in upstream):,} of {counted(sum(each.lines for each in upstream), 'line')} done there"
    )


def _end(upstream: Sequence[Upstream], now: datetime) -> str:
    if upstream and all(each.is_to_end for each in upstream):
        return " It is told to cancel them. What it has answered by then is paid, and kept."
    ends = [each.expires_at for each in upstream if each.expires_at is not None]
    return f" The provider gives up {until(max(ends), now)}." if ends else ""


def trouble(upstream: Sequence[Upstream]) -> list[str]:
    """What last went wrong with upstream batches, each sentence once."""
    return list(dict.fromkeys(shown_note(each.note) for each in upstream if each.note))


def shown_note(note: str) -> str:
    """What went wrong, in one line."""
    return one_line(note, _NOTE_CHARACTERS)


def lines(upstream: Sequence[Upstream], now: datetime) -> list[str]:
    """A line for each of the first few upstream batches, and how many more there are."""
    more = len(upstream) - MOST_SHOWN
    return [*(line(each, now) for each in upstream[:MOST_SHOWN]), *([f"and {more:,} more"] if more > 0 else [])]


def line(one: Upstream, now: datetime) -> str:
    """`batch_68d1f0: "in_progress", 640 of 1,000 lines done there, seen 12 s ago`."""
    name = one.remote_id or f"upstream batch {one.id}"
    status = f'"{one_line(one.status, 60)}"' if one.status else "not there yet"
    far = how_far([one]) or counted(one.lines, "line")
    seen = f", seen {in_words((now - one.seen_at).total_seconds())} ago" if one.seen_at else ""
    wish = f", to {one.wanted}" if one.wanted else ""
    note = f"; {shown_note(one.note)}" if one.note else ""
    return f"{name}: {status}, {far}{seen}{wish}{note}"


def stays(rows: int, upstream: Sequence[Upstream], batch_id: str) -> str:
    """What becomes of rows that are out when the command stops that waited for them."""
    if all(each.sent_at is None for each in upstream):
        are = f"{counted(rows, 'row')} {'is' if rows == 1 else 'are'} packed, and may not be at the provider yet"
        return f"{are}. The same command, `tidemill watch {batch_id}` or a worker goes on with that."
    are = f"{counted(rows, 'row')} {'stays' if rows == 1 else 'stay'}"
    return (
        f"{are} at the provider, which goes on without this command. The same command, "
        f"`tidemill watch {batch_id}` or a worker collects the answers."
    )


def goes(model: str, batch_id: str, route: str) -> str:
    """What to expect of a run whose rows are handed to the provider; said once, when it begins to wait."""
    price, place = price_words(model, route), ROUTES[route].place
    longest = "minutes to hours, up to a day" if route == BATCH else f"up to {route}"
    return (
        f"Rows go to {place}{f', at {price}' if price else ''}: answers take {longest}. "
        f"Ctrl-C does no harm: the provider goes on, and the same command, `tidemill watch {batch_id}` or a "
        "worker collects them."
    )
