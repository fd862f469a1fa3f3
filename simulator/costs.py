"""What each day has cost, as OpenAI's endpoint for admin keys tells it: the paid log at the prices that were given.

Wire: GET /v1/organization/costs, with start_time, end_time, bucket_width=1d, group_by=line_item, limit and page.
"""

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

from tidemill.simulator.faults import Answer, rejection
from tidemill.simulator.options import Options
from tidemill.simulator.requests import as_json

PATH = "/v1/organization/costs"
_DAY_SECONDS = 86_400
_MOST_BUCKETS = 180
_SHARES = {"batch": "0.5", "flex": "0.5", "2h": "0.7", "8h": "0.6", "priority": "2"}
"""Route of a paid call -> its share of the standard price."""


def answer(paid: Sequence[dict[str, Any]], options: Options, key: str | None, query: str) -> Answer:
    """The buckets of one page; HTTP 403 for every key but the admin key."""
    if options.admin_key is None or key != options.admin_key:
        message = "You have insufficient permissions for this operation. Missing scopes: api.usage.read."
        return rejection(403, "invalid_request_error", message, None, "insufficient_permissions")
    asked = dict(parse_qsl(query))
    start = int(asked.get("start_time", 0)) // _DAY_SECONDS * _DAY_SECONDS
    limit = min(int(asked.get("limit", 7)), _MOST_BUCKETS)
    begin = int(asked.get("page", "page_0").removeprefix("page_")) or start
    days = _days(paid, options)
    last = int(asked.get("end_time", max([start, *days]) + _DAY_SECONDS))
    end = min(last, begin + limit * _DAY_SECONDS)
    following = f"page_{end}" if end < last else None
    buckets = [_bucket(at, days.get(at, {})) for at in range(begin, end, _DAY_SECONDS)]
    return as_json({"object": "page", "data": buckets, "has_more": following is not None, "next_page": following})


def _days(paid: Sequence[dict[str, Any]], options: Options) -> dict[int, dict[str, Decimal]]:
    """Unix time of a day's begin -> line item -> USD."""
    read, written = (Decimal(each) / 1_000_000 for each in options.usd_per_million.split("/"))
    days: dict[int, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for entry in paid:
        at, share = int(entry["at"]) // _DAY_SECONDS * _DAY_SECONDS, Decimal(_SHARES.get(entry["route"], "1"))
        tier = "" if entry["route"] == "online" else f" {entry['route']}"
        for what, tokens, rate in (("input", "input_tokens", read), ("output", "output_tokens", written)):
            days[at][f"{entry['model']}{tier}, {what}"] += entry[tokens] * rate * share
    return days


def _bucket(at: int, items: dict[str, Decimal]) -> dict[str, Any]:
    results = [
        {
            "object": "organization.costs.result",
            "amount": {"value": float(usd), "currency": "usd"},
            "line_item": item,
            "project_id": None,
        }
        for item, usd in sorted(items.items())
    ]
    return {"object": "bucket", "start_time": at, "end_time": at + _DAY_SECONDS, "results": results}
