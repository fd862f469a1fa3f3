"""What training may cost at most is known before it begins, if it is known how often each example is read."""

from tidemill.models import cost
from tidemill.models.money import usd_e9

_TOKENS_MARGIN = 1.1
_EXAMPLE_TOKENS = 16
_LEAST_BYTES = 3
"""Our tokens and a tenth, and what a format adds; or a token every three bytes."""


def most_usd_e9(model: str, epochs: int | None, *, tokens: int, examples: int, size: int) -> int | None:
    """The most that training may cost, in 1e-9 USD; None where nobody knows its price or how long it takes.

    Args:
        model: that is trained.
        epochs: how often each example is read; None: the provider chooses.
        tokens: of the training part, as we count them.
        examples: how many it has.
        size: of its file, in bytes.
    """
    price = cost.training_price(model)
    if price is None or epochs is None:
        return None
    counted = tokens * _TOKENS_MARGIN + examples * _EXAMPLE_TOKENS
    return usd_e9(max(counted, size / _LEAST_BYTES) * epochs * price)
