"""A bill is believed when somebody else's sum is the same, so the ledger is compared with what the provider says.

There are two sums to compare with: the usage that an upstream batch tells, and OpenAI's costs endpoint, which wants a
key of its own, since the key of the calls may not read it.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from urllib.parse import urlsplit

from tidemill.models import bill
from tidemill.models.bill import Line, Span, UpstreamUse
from tidemill.models.cost import format_tokens, format_usd
from tidemill.models.database import reading
from tidemill.models.errors import SettingsError
from tidemill.models.json_types import JsonObject
from tidemill.models.provider import CallError, Provider
from tidemill.models.server_names import host_of, server_name
from tidemill.models.settings import Settings, settings
from tidemill.models.text import one_line
from tidemill.models.usage import read_usage
from tidemill.producer.costing.costs import LONG_SECONDS, usd

_PATH = "/organization/costs"
_OPENAI = "api.openai.com"
_DAYS_A_PAGE = 180
_DAY_SECONDS = 86_400
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Day:
    """A day in UTC; amounts in 1e-12 USD."""

    day: str
    ours_e12: int
    theirs_e12: int

    @property
    def difference_e12(self) -> int:
        """What the provider says beyond the ledger."""
        return self.theirs_e12 - self.ours_e12


@dataclass(frozen=True, slots=True)
class Figures:
    """What the provider says beside what the ledger says, or why it says nothing."""

    upstream: list[UpstreamUse]
    days: list[Day]
    note: str
    """Why there are no days; empty where there are."""
    lost: int = 0
    unpriced: int = 0
    items: dict[str, int] = field(default_factory=dict)
    """Line item of the provider -> 1e-12 USD."""

    def lines(self) -> list[str]:
        """For people."""
        lines = ["", "The provider's own figures"] if self.upstream or self.days or self.note else []
        lines += [_upstream_words(each) for each in self.upstream]
        if self.note:
            return [*lines, self.note]
        ours, theirs = sum(each.ours_e12 for each in self.days), sum(each.theirs_e12 for each in self.days)
        lines.append(f"{'day':12}{'ledger':>12}{'provider':>12}{'difference':>12}")
        for each in [*self.days, Day("all", ours, theirs)]:
            amounts = (each.ours_e12, each.theirs_e12, each.difference_e12)
            lines.append(f"{each.day:12}{''.join(f'{_signed(amount):>12}' for amount in amounts)}")
        return [*lines, *self._reasons(theirs - ours)]

    def _reasons(self, difference_e12: int) -> list[str]:
        """What may explain a difference, as far as anybody here can know."""
        if 1_000 * abs(difference_e12) <= sum(each.ours_e12 for each in self.days):
            return ["They agree to a thousandth."]
        if difference_e12 < 0:
            return [
                "The provider says less: its figures may come a day late, it may have given credits, or prices of "
                "your own (TIDEMILL_PRICES) are higher than its prices."
            ]
        reasons = ["other programs, keys or projects of the organization"]
        if self.lost:
            reasons.append(f"{self.lost:,} lost calls, which may have been paid")
        if self.unpriced:
            reasons.append(f"{self.unpriced:,} calls at a price that is unknown here")
        reasons.append("tools, storage and taxes, which the ledger does not have")
        items = sorted(self.items.items(), key=lambda item: -item[1])[:3]
        most = ", ".join(f"{one_line(name, 60)} {format_usd(usd(amount))}" for name, amount in items)
        return [f"The provider says more. It may be {'; or '.join(reasons)}.", f"Its largest items: {most}."]

    def to_json(self) -> dict[str, object]:
        """For scripts."""
        return {
            "upstream_batches": [_upstream_json(each) for each in self.upstream],
            "days": [
                {
                    "day": each.day,
                    "ledger_usd": usd(each.ours_e12),
                    "provider_usd": usd(each.theirs_e12),
                    "difference_usd": usd(each.difference_e12),
                }
                for each in self.days
            ],
            "items": {name: usd(amount) for name, amount in self.items.items()},
            "note": self.note or None,
        }


def look(span: Span) -> Figures:
    """Ask the provider for its figures of a span, and put them beside those of the ledger."""
    with reading(LONG_SECONDS) as connection:
        upstream = bill.upstream_use(connection, span)
        lines = bill.read(connection, span._replace(batch_id=None))
    own = [line for line in lines if line.provider == settings().provider]
    if note := _why_not(span, own):
        return Figures(upstream, [], note)
    first = span.since or min(line.day for line in own)
    last = span.until or max([*(line.day for line in own), f"{datetime.now(UTC):%Y-%m-%d}"])
    try:
        theirs, items = _added_up(asyncio.run(_buckets(settings(), first, last)))
    except CallError as error:
        return Figures(upstream, [], _refusal(error))
    except SettingsError as error:
        return Figures(upstream, [], str(error))
    ours = Counter[str]()
    for line in own:
        ours[line.day] += line.cost_usd_e12
    days = [Day(day, ours[day], theirs[day]) for day in sorted(ours.keys() | theirs.keys()) if first <= day <= last]
    lost = sum(line.calls for line in own if line.fate == bill.LOST)
    return Figures(upstream, days, "", lost, sum(line.unpriced for line in own), dict(items))


def _why_not(span: Span, own: list[Line]) -> str:
    if span.batch_id is not None:
        return "Bills are by day: leave the batch out to compare days with OpenAI's costs."
    if not own and span.since is None:
        return f"No call was made to {settings().provider}."
    if settings().openai_admin_key is None:
        return "To compare days with OpenAI's costs, set OPENAI_ADMIN_KEY to an admin key of the organization."
    if not _may_have_key(settings().openai_base_url):
        return f"{settings().provider} is not OpenAI, so OPENAI_ADMIN_KEY is not sent there, and no days are compared."
    return ""


def _may_have_key(url: str) -> bool:
    """Whether the key may go there: it opens a whole organization, and somebody may have exported it for OpenAI."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_openai = parts.scheme == "https" and (host == _OPENAI or host.endswith(f".{_OPENAI}"))
    return is_openai or host_of(server_name(url)).partition(":")[0] == "127.0.0.1"


def _refusal(error: CallError) -> str:
    if error.status in (401, 403):
        return f"{settings().provider} does not let this OPENAI_ADMIN_KEY read costs (HTTP {error.status})."
    if error.status in (404, 405, 501):
        return f"{settings().provider} has no figures of costs (HTTP {error.status} at {_PATH})."
    return f"The costs cannot be read: {one_line(error.message, 200)}"


# --- OpenAI's costs ---


async def _buckets(settings: Settings, first: str, last: str) -> list[JsonObject]:
    """The days as the endpoint describes them. Raises CallError, and SettingsError for a key that no header takes."""
    try:
        provider = Provider(
            base_url=settings.openai_base_url,
            api_key=settings.openai_admin_key,
            transport="http",
            timeout_seconds=min(settings.timeout_seconds, _SECONDS),
            connections=1,
        )
    except SettingsError as error:
        raise SettingsError(str(error).replace("OPENAI_API_KEY", "OPENAI_ADMIN_KEY")) from None
    query: dict[str, str | int] = {"bucket_width": "1d", "group_by": "line_item", "limit": _DAYS_A_PAGE}
    buckets: list[JsonObject] = []
    try:
        for begin in range(_seconds(first), _seconds(last) + 1, _DAYS_A_PAGE * _DAY_SECONDS):
            end = min(begin + _DAYS_A_PAGE * _DAY_SECONDS, _seconds(last) + _DAY_SECONDS)
            # All of these days fit into one page, so that none needs to be followed
            async for page in provider.pages(_PATH, start_time=begin, end_time=end, **query):
                buckets += page
                break
    finally:
        await provider.aclose()
    return buckets


def _seconds(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())


def _added_up(buckets: list[JsonObject]) -> tuple[Counter[str], Counter[str]]:
    """1e-12 USD by day and by line item; what cannot be read, or is in another currency, is left out."""
    days, items = Counter[str](), Counter[str]()
    for bucket in buckets:
        start, results = bucket.get("start_time"), bucket.get("results") or bucket.get("result")
        if not isinstance(start, int) or not isinstance(results, list):
            continue
        day = f"{datetime.fromtimestamp(start, UTC):%Y-%m-%d}"
        for result in results:
            amount = result.get("amount") if isinstance(result, dict) else None
            if isinstance(amount, dict) and str(amount.get("currency") or "usd").lower() == "usd":
                cost = _e12(amount.get("value"))
                days[day] += cost
                items[str(result.get("line_item") or "all")] += cost
    return days, items


def _e12(value: object) -> int:
    """An amount in USD, which is a number or a text, in 1e-12 USD."""
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return 0
    return round(amount * bill.UNITS) if amount.is_finite() and not isinstance(value, bool) else 0


def _signed(amount_e12: int) -> str:
    return f"{'-' if amount_e12 < 0 else ''}{format_usd(usd(abs(amount_e12)))}"


# --- upstream batches ---


def _told(use: UpstreamUse) -> tuple[int, int] | None:
    """The tokens that the provider counted for an upstream batch, in and out."""
    usage = read_usage(use.remote) if isinstance(use.remote, Mapping) else None
    return None if usage is None else (usage.input_tokens, usage.output_tokens)


def _upstream_words(use: UpstreamUse) -> str:
    told = _told(use)
    ours = f"{format_tokens(use.input_tokens)} + {format_tokens(use.output_tokens)} tokens"
    name = one_line(use.remote_id, 60)
    if told is None:
        return f"{name}: {ours} in the ledger; the provider tells no usage of it."
    if told == (use.input_tokens, use.output_tokens):
        return f"{name}: {ours}, as the provider says."
    theirs = f"{format_tokens(told[0])} + {format_tokens(told[1])}"
    return (
        f"{name}: {ours} in the ledger, {theirs} by the provider. Lines that were answered and could not be read may "
        "be the difference."
    )


def _upstream_json(use: UpstreamUse) -> dict[str, object]:
    told = _told(use)
    return {
        "remote_id": use.remote_id,
        "batch": use.batch_id,
        "lines": use.calls,
        "ledger_input_tokens": use.input_tokens,
        "ledger_output_tokens": use.output_tokens,
        "provider_input_tokens": told and told[0],
        "provider_output_tokens": told and told[1],
    }
