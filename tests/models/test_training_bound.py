"""What training may cost at most is above the price of our count of its tokens, and known with price and epochs."""

from tidemill.models import cost
from tidemill.models.training_bound import most_usd_e9

MODEL = "gpt-4.1-mini"


def test_the_most_is_above_the_price_of_our_tokens_and_grows_with_the_epochs() -> None:
    price = cost.training_price(MODEL)
    assert price is not None
    once = most_usd_e9(MODEL, 1, tokens=10_000, examples=100, size=30_000)
    assert once is not None
    assert once > 10_000 * price * 1e9
    assert most_usd_e9(MODEL, 3, tokens=10_000, examples=100, size=30_000) == 3 * once
    assert most_usd_e9(MODEL, 1, tokens=10_000, examples=100, size=300_000) == 100_000 * price * 1e9


def test_without_epochs_or_a_price_nobody_knows() -> None:
    assert most_usd_e9(MODEL, None, tokens=1, examples=1, size=1) is None
    assert most_usd_e9("my-7b", 1, tokens=1, examples=1, size=1) is None
