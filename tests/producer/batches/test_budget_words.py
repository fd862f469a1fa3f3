"""A cap is spoken of so that a user knows what is spent, what the next call may cost, and what to type."""

import tomllib
from datetime import UTC, datetime

import pytest

from tidemill.models.bookings import BATCH, DAY, FLEET
from tidemill.models.budgets import Budget
from tidemill.producer.batches import budget_words as words

NOW = datetime(2026, 11, 29, 21, 30, tzinfo=UTC)


def budget(kind: str = BATCH, *, cap: float = 5, spent: float = 0, **more: float) -> Budget:
    amounts = {"cap": cap, "spent": spent, "reserved": 0, "doubtful": 0, "next_call": 0} | more
    return Budget(kind, "b" if kind == BATCH else "", **{name: round(each * 1e9) for name, each in amounts.items()})


@pytest.mark.parametrize(
    ("nano", "words_"),
    [
        (0, "$0.00"),
        (5 * 10**9, "$5.00"),
        (1_234_560_000_000, "$1,234.56"),
        (500_000_000, "$0.50"),
        (64_000_000, "$0.064"),
        (4_971_234_567, "$4.971"),
        (4_970_000_000, "$4.97"),
        (9_999_000, "$0.01"),
        (340_000, "$0.00034"),
        (1, "$0.000000001"),
    ],
)
def test_an_amount_is_shown_at_any_size(nano: int, words_: str) -> None:
    assert words.shown(nano) == words_


def test_a_reached_cap_says_what_is_spent_and_what_goes_on() -> None:
    of_batch = budget(spent=4.97, doubtful=0.01, next_call=0.064)
    said = (
        "budget of $5.00 reached: $4.97 spent, $0.01 maybe spent; the next call may cost up to $0.064 (--max-tokens "
        "lowers that). "
    )
    assert words.reached(of_batch, "b-1", NOW, is_embedded=False) == f"{said}`tidemill budget b-1 10` goes on."
    here = words.reached(of_batch, "b-1", NOW, is_embedded=True)
    assert here == f"{said}`tidemill budget b-1 10`, then the same command, goes on."


def test_the_cap_of_a_day_says_until_when() -> None:
    of_day = budget(DAY, cap=20, spent=19.99, next_call=0.064)
    said = words.reached(of_day, "b-1", NOW, is_embedded=False)
    assert said.startswith("budget of $20.00 a day reached: $19.99 spent; ")
    assert said.endswith(" It goes on at 00:00 UTC (in 2 h 30 min); `tidemill budget day 40` goes on now.")
    here = words.reached(of_day, "b-1", NOW, is_embedded=True)
    assert " The same command goes on from 00:00 UTC (in 2 h 30 min); " in here


def test_all_batches_have_a_cap_of_their_own_and_a_small_one_is_raised_to_what_fits() -> None:
    of_all = budget(FLEET, cap=0.05, next_call=0.128)
    said = words.reached(of_all, "b-1", NOW, is_embedded=False)
    assert said.startswith("budget of $0.05 for all batches reached: $0.00 spent; ")
    assert said.endswith(" `tidemill budget fleet 0.13` goes on.")


def test_what_is_maybe_spent_can_be_forgiven_where_that_makes_room() -> None:
    said = words.reached(budget(spent=4.9, doubtful=0.09, next_call=0.064), "b-1", NOW, is_embedded=False)
    assert said.endswith(" `tidemill budget forgive b-1` counts what is maybe spent no longer.")


def test_the_narrowest_cap_is_the_one_of_the_short_piece() -> None:
    caps = [budget(spent=1), budget(DAY, cap=20, spent=19, reserved=0.9), budget(FLEET, cap=100)]
    narrowest = words.narrowest(caps)
    assert narrowest is caps[1]
    assert words.spent_of(caps[0]) == "$1.00 of $5.00"
    assert words.spent_of(caps[1]) == "$19.00 of $20.00 today"
    assert words.narrowest([]) is None


@pytest.mark.parametrize("model", ["gpt-6.2-sol", 'odd "name"\\'])
@pytest.mark.parametrize("is_own", [True, False])
def test_the_lines_that_set_a_price_are_toml_for_that_model(model: str, is_own: bool) -> None:
    prices = tomllib.loads("\n".join(words.price_lines(model, is_own_server=is_own, of_training=True)))
    assert set(prices[model]) == {"input", "output", "training"}
    assert (prices[model]["input"] == 0) is is_own


def test_a_file_of_prices_that_there_is_gets_the_lines() -> None:
    said = words.unknown_price("--budget", "m", "/etc/prices.toml", is_own_server=True)
    assert said.endswith(
        '/etc/prices.toml, for a server of your own, which costs nothing:\n["m"]\ninput = 0\noutput = 0'
    )
    new = words.unknown_price("--budget", "m", None, is_own_server=False)
    assert new.startswith("--budget needs the price of m, which is not known here. Put these lines into a file")
    assert new.endswith("\nThen name the file: export TIDEMILL_PRICES=prices.toml")
