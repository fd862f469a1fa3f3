"""Money is booked to the last digit on every path that a reply can take, at prices of the user's own."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import UseEnvironment
from tidemill.models.claims import Claimed
from tidemill.models.endpoints import ENDPOINTS
from tidemill.models.money import COST_PLACES
from tidemill.models.options import Options
from tidemill.models.provider import CallError
from tidemill.models.replies import RawReply
from tidemill.models.schemas import Complaint
from tidemill.models.settling import Settlement
from tidemill.worker import settlements
from tidemill.worker.questions import build

PRICES = '["own"]\ninput = 0.1\ncached_input = 0.02\ncache_write = 0.125\noutput = 0.5\n'
READ, CACHED, STORED, WRITTEN = (Decimal(each) for each in ("0.1", "0.02", "0.125", "0.5"))
JOB = Claimed(1, 1, "b", {}, 0, 0.0)


@pytest.fixture(autouse=True)
def own_prices(use_environment: UseEnvironment, tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(PRICES)
    use_environment({"TIDEMILL_PRICES": str(tmp_path / "prices.toml")})


def settled(
    body: dict[str, Any],
    *,
    endpoint: str = "chat",
    asked: str | None = None,
    route: str = "online",
    broken: bool = False,
) -> Settlement:
    """What a reply with this body books."""
    question = build(
        Options("own", endpoint=endpoint, params={"service_tier": asked} if asked else {}), {"prompt": "q"}
    )
    try:
        reply = ENDPOINTS[endpoint].parse_reply(RawReply(200, {}, json.dumps(body).encode()), secret="")
    except CallError as error:
        verdict = settlements.verdict_on(error, JOB)
        return settlements.of_error(JOB, error, verdict, 0.1, "own", route=route, asked_tier=asked or "")
    complaint = Complaint("it breaks") if broken else None
    usage = settlements.usage_of(question, reply)
    return settlements.of_reply(JOB, question, reply, usage, 0.1, complaint=complaint, route=route)


def chat(usage: dict[str, Any], choices: int = 1, tier: str | None = None, **message: Any) -> dict[str, Any]:
    answer = {"finish_reason": "stop", "message": {"role": "assistant", "content": "Yes.", **message}}
    body = {"model": "own-2026-11-01", "choices": [answer] * choices, "usage": usage}
    return body if tier is None else body | {"service_tier": tier}


def response(usage: dict[str, Any]) -> dict[str, Any]:
    said = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]}]
    return {"object": "response", "status": "completed", "model": "own", "output": said, "usage": usage}


PLAIN = {"prompt_tokens": 333_333, "completion_tokens": 77_777}
DETAILED = PLAIN | {
    "prompt_tokens_details": {"cached_tokens": 100_000, "cache_write_tokens": 50_001},
    "completion_tokens_details": {"reasoning_tokens": 70_000},
}
TTL = {
    "input_tokens": 333_333,
    "output_tokens": 77_777,
    "input_tokens_details": {"cached_tokens": 100_000, "ttl_30m_tokens": 30_001, "ttl_12h_tokens": 20_000},
}
PLAIN_USD = 333_333 * READ + 77_777 * WRITTEN
DETAILED_USD = 183_332 * READ + 100_000 * CACHED + 50_001 * STORED + 77_777 * WRITTEN
THOUGHT = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 62}
"""As servers count that leave what was thought out of the answer."""
HALF = Decimal("0.5")


@pytest.mark.parametrize(
    ("body", "how", "outcome", "spent", "standard"),
    [
        (chat(PLAIN), {}, "succeeded", PLAIN_USD, PLAIN_USD),
        (chat(PLAIN, choices=3), {}, "succeeded", PLAIN_USD, PLAIN_USD),
        (chat(DETAILED), {}, "succeeded", DETAILED_USD, DETAILED_USD),
        (response(TTL), {"endpoint": "responses"}, "succeeded", DETAILED_USD, DETAILED_USD),
        (chat(DETAILED, tier="flex"), {}, "succeeded", HALF * DETAILED_USD, DETAILED_USD),
        (chat(PLAIN, tier="priority"), {}, "succeeded", 2 * PLAIN_USD, PLAIN_USD),
        (chat(PLAIN, tier="default"), {"asked": "flex"}, "succeeded", PLAIN_USD, PLAIN_USD),
        (chat(PLAIN, tier="default"), {"route": "flex"}, "succeeded", PLAIN_USD, PLAIN_USD),
        (chat(PLAIN), {"route": "flex"}, "succeeded", HALF * PLAIN_USD, PLAIN_USD),
        (chat(DETAILED, tier="default"), {"route": "batch"}, "succeeded", HALF * DETAILED_USD, DETAILED_USD),
        (chat(PLAIN, content=None, refusal="No."), {}, "failed", PLAIN_USD, PLAIN_USD),
        (chat(PLAIN, content=None, refusal="No."), {"asked": "flex"}, "failed", HALF * PLAIN_USD, PLAIN_USD),
        (chat(PLAIN, content=None, refusal="No."), {"route": "batch"}, "failed", HALF * PLAIN_USD, PLAIN_USD),
        (chat(PLAIN), {"broken": True}, "retried", PLAIN_USD, PLAIN_USD),
        (chat(PLAIN, choices=0), {}, "retried", PLAIN_USD, PLAIN_USD),
        (chat(THOUGHT), {}, "succeeded", 10 * READ + 52 * WRITTEN, 10 * READ + 52 * WRITTEN),
        (chat({**PLAIN, "prompt_tokens": 300_000}), {}, "succeeded", 300_000 * READ + 77_777 * WRITTEN, None),
    ],
)  # fmt: skip
def test_what_a_reply_books_is_what_the_provider_bills(
    body: dict[str, Any], how: dict[str, Any], outcome: str, spent: Decimal, standard: Decimal | None
) -> None:
    ended = settled(body, **how)
    assert ended.outcome == outcome
    assert ended.cost_usd is not None
    assert Decimal(repr(round(ended.cost_usd, COST_PLACES))) == spent / 1_000_000
    if standard is not None:
        assert ended.standard_usd is not None
        assert Decimal(repr(round(ended.standard_usd, COST_PLACES))) == standard / 1_000_000
