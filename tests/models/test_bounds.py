"""No bill of a call is higher than its bound, whatever the provider counts within what was asked (B5)."""

import base64
import timeit
from typing import Any

import pytest

from tidemill.models import cost
from tidemill.models.answers import Message
from tidemill.models.bounds import Bounds, most_usd_e9
from tidemill.models.money import usd_e9
from tidemill.models.options import Options
from tidemill.models.pictures import dump_message
from tidemill.models.vision import picture_tokens

MODEL = "gpt-6-luna"
LONG = "0 1 2 3 4 5 6 7 8 9 " * 15_000  # more than 272,000 tokens, two characters each


def bill(tokens: int, output: int, tier: str = "", model: str = MODEL, **parts: int) -> int:
    """What a call costs, in 1e-9 USD; `parts` are those of the input that were written to the cache."""
    price = cost.price(model, tier)
    assert price is not None
    return usd_e9(price.cost(tokens, output, **parts))


def most(
    request: dict[str, Any] | str, route: str = "online", history: tuple[Message, ...] = (), **options: Any
) -> int:
    request = {"prompt": request} if isinstance(request, str) else request
    given: dict[str, Any] = {"model": MODEL, "max_tokens": 100} | options
    known = most_usd_e9(Options(**given), request, history, route)
    assert known is not None
    return known


def tokens(text: str, messages: int = 1) -> int:
    return cost.count_tokens(text, MODEL) + cost.chat_overhead_tokens(messages)


DIGITS = "0 1 2 3 4 5 6 7 8 9" * 50
EMOJI = "👩‍👩‍👧‍👦🦔" * 60
BASE64 = base64.b64encode(bytes(range(256)) * 8).decode()


@pytest.mark.parametrize("text", ["", "why?", DIGITS, EMOJI, BASE64, "日本語の文章" * 50, "\x00\ud800" * 20])
def test_no_prompt_has_more_tokens_than_its_bound(text: str) -> None:
    assert bill(tokens(text), 100, "priority") <= most(text)


BILLS: list[tuple[str, int, int]] = [
    ("priority echoed", most("why?"), bill(tokens("why?"), 100, "priority")),
    ("over 272k", most(LONG), bill(tokens(LONG), 100, "priority")),
    ("over 272k, standard", most(LONG, params={"service_tier": "default"}), bill(tokens(LONG), 100)),
    ("written to the cache", most(DIGITS), bill(tokens(DIGITS), 100, "priority", written=tokens(DIGITS))),
    (
        "written for hours",
        most(DIGITS, params={"service_tier": "default"}),
        bill(tokens(DIGITS), 100, written=tokens(DIGITS), written_long=tokens(DIGITS)),
    ),
    ("no limit: what it thinks counts", most("why?", max_tokens=None), bill(tokens("why?"), 128_000, "priority")),
    ("three answers", most("why?", params={"n": 3}), bill(tokens("why?"), 300, "priority")),
    ("the limit in the parameters", most("?", params={"max_tokens": 900}), bill(tokens("?"), 900, "priority")),
    ("by batch", most("why?", "batch"), bill(tokens("why?"), 100, "batch")),
    ("by flex, which fell back", most("why?", "flex"), bill(tokens("why?"), 100, "priority")),
    ("a schema", most("?", schema={"type": "object", "title": "x" * 500}), bill(tokens("x" * 500), 100, "priority")),
    ("instructions", most("?", system="be brief " * 99), bill(tokens("be brief " * 99), 100, "priority")),
    ("another model", most({"url": "/v1/chat/completions", "body": {"model": "gpt-6-sol", "messages": []}}),
     bill(10, 128_000, "priority", "gpt-6-sol")),
    ("the other endpoint", most("why?", endpoint="responses"), bill(tokens("why?"), 100, "priority")),
    (
        "what the provider keeps",
        most("why?", endpoint="responses", params={"previous_response_id": "r"}),
        bill(1_000_000, 100, "priority"),
    ),
    (
        "a history",
        most("?", history=(Message("user", DIGITS), Message("assistant", EMOJI))),
        bill(tokens(DIGITS + EMOJI, 3), 100, "priority"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("bound", "billed"), [each[1:] for each in BILLS], ids=[each[0] for each in BILLS])
def test_no_bill_is_higher_than_the_bound(bound: int, billed: int) -> None:
    """B5: over 272k, a tier that was not asked for, cache writes, reasoning, n > 1."""
    assert billed <= bound


def test_a_bound_is_not_much_higher_than_what_may_be_billed() -> None:
    default = {"service_tier": "default"}
    assert most("why?", max_tokens=None, params=default) < 1.01 * bill(0, 128_000)
    assert most("word " * 200, params=default) < 5 * bill(200, 100, written=200)
    assert most("why?", "batch") < 1.5 * bill(tokens("why?"), 100, "batch")


@pytest.mark.parametrize("model", [MODEL, "gpt-4o-mini", "gpt-4.1"])
def test_pictures_count_by_size_and_those_known_by_address_as_the_largest(model: str) -> None:
    picture = {"path": "a.png", "sha256": "0", "width": 4_000, "height": 3_000}
    sized = {"prompt": "what?", "picture": picture}
    shown = picture_tokens(model, 4_000, 3_000, "auto").tokens
    assert bill(shown + 10, 100, model=model) <= most(sized, model=model)
    distant = {"prompt": "what?", "picture": {"path": "a", "url": "https://x.example/a.png"}}
    assert most(sized, model=model, params={"service_tier": "default"}) <= most(distant, model=model)
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 900_000}"}}
    inline = most({"messages": [{"role": "user", "content": [part]}]}, model=model)
    assert bill(shown, 100, model=model) <= inline < bill(600_000, 100, "priority", model)
    history = (Message("user", dump_message("what?", picture)),)
    assert bill(shown + 10, 100, model=model) <= most("and?", model=model, history=history)


def test_a_price_that_is_not_known_has_no_bound() -> None:
    assert most_usd_e9(Options("gpt-6.2-sol"), {"prompt": "why?"}) is None
    line = {"url": "/v1/chat/completions", "body": {"model": "gpt-6.2-sol", "messages": []}}
    assert most_usd_e9(Options(MODEL), line) is None


def test_a_server_at_home_costs_nothing(use_environment: Any, tmp_path: Any) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('["llama4"]\ninput = 0\noutput = 0\n')
    use_environment({"TIDEMILL_PRICES": str(prices)})
    assert most("why?", model="llama4") == 0


def test_a_bound_takes_some_microseconds() -> None:
    bounds, request = Bounds.of(Options(MODEL)), {"prompt": "word " * 40}
    assert min(timeit.repeat(lambda: bounds.most_usd_e9(request), number=1_000, repeat=5)) < 0.1  # 2 to 3 us each


def test_the_tier_of_the_first_replies_is_that_of_the_next_calls() -> None:
    unknown, asked = most("why?"), most("why?", params={"service_tier": "auto"})
    cost.note_tier(MODEL, "default")
    assert most("why?") * 2 == unknown
    cost.note_tier(MODEL, "priority")
    assert (most("why?"), most("why?", params={"service_tier": "auto"})) == (unknown, asked)
