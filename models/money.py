"""Money that is capped is counted in whole nano-dollars (1e-9 USD), because sums of floats drift.

What calls have cost is added up in whole numbers of 1e-12 USD: rounded one by one to nano-dollars, a thousand calls
would be a microdollar off.
"""

import math
import re
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal

USD_E9 = 10**9
E12_PER_E9 = 1_000
COST_PLACES = 12
"""Decimals of a dollar that are kept: a price of a million tokens with six decimals is kept to its last digit."""
_MOST_USD = 1_000_000_000
_AMOUNT = re.compile(r"\$?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+|(?=\.[0-9]))(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?")
"""A comma only between thousands: where it stands for a point, 5,50 would be 550 dollars."""
_PLACES, _DIGITS = 3, 2
"""An amount is shown to a tenth of a cent; a smaller one with two digits."""
MOST_USD_E9 = 10**15
"""More than any call costs: a server's nonsense must not overflow a sum."""


def usd_e9_of(amount: str | float | Decimal) -> int:
    """The nano-dollars of an amount in USD that somebody has written, such as "5.00", "$5" or 0.5.

    Raises:
        ValueError: it is no amount from 0 to a billion; the text says how one is written.
    """
    text = str(amount).strip()
    usd = Decimal(text.lstrip("$").replace(",", "")) if _AMOUNT.fullmatch(text) else Decimal("NaN")
    if isinstance(amount, bool) or not usd.is_finite() or not 0 <= usd <= _MOST_USD:
        raise ValueError("write US dollars as a number, such as 5 or 0.50")
    return int(usd * USD_E9)


def usd_e9(usd: float) -> int:
    """The nano-dollars of a price, rounded up, so that no sum of them is less than what is billed."""
    return math.ceil(round(usd * USD_E9, 3))


def usd_e12(usd: float) -> int:
    """A price in 1e-12 USD, which is how exactly calls are booked."""
    return round(usd * USD_E9 * E12_PER_E9)


def usd(amount_e9: int) -> float:
    """The USD of an amount in nano-dollars."""
    return amount_e9 / USD_E9


def shown(usd: float | Decimal, *, is_most: bool = False) -> str:
    """An amount for people, whatever its size: `$5.00`, `$4.972`, `$0.064`, `$0.00034`; the most is rounded up."""
    amount, rounding = Decimal(str(usd)), ROUND_CEILING if is_most else ROUND_HALF_EVEN
    places = max(_PLACES, _DIGITS - 1 - amount.adjusted()) if amount else 2
    rounded = amount.quantize(Decimal(1).scaleb(-places), rounding)
    whole, _, fraction = f"{rounded:,f}".partition(".")
    return f"${whole}.{fraction.rstrip('0'):0<2}"
