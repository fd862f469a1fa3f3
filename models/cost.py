"""What a job will cost is estimated before it is sent, and what it did cost is counted afterwards.

Tokens are counted by toktok (0.4 s to load), prices come from genai-prices' offline snapshot (0.2 s or more): both are
imported when first needed. A price that is not known is None, never 0.
"""

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from tidemill.models.batch_servers import batch_server
from tidemill.models.errors import SettingsError
from tidemill.models.money import shown
from tidemill.models.routes import WINDOWS
from tidemill.models.settings import settings

if TYPE_CHECKING:
    from decimal import Decimal

    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

# tiktoken's table (model.py); every newer OpenAI model is o200k_base, and for others it is the best estimate there is.
_CL100K_MODELS = ("gpt-4", "gpt-3.5", "gpt-35-turbo", "text-embedding-", "davinci-002", "babbage-002")
_O200K_MODELS = ("gpt-4o", "gpt-4.1", "gpt-4.5")  # begin like gpt-4, but are not
_DATE = re.compile(r"-(?:20\d{2}-?\d{2}-?\d{2})$")
_MILLION = 1_000_000
_OPEN_WEIGHTS = "gpt-oss"  # in OpenAI's table, though OpenAI does not serve it: others and you do
_OVERRIDE_KEYS = ("input", "output", "cached_input", "cache_write", "cache_write_long", "training")
_OPENAI = "openai"
"""Its table has a price for each tier; what has none, such as embeddings, is not cheaper by batch."""
_TIER_SHARES = {"batch": 0.5, "flex": 0.5, "priority": 2.0, "fast": 2.0, "2h": 0.7, "8h": 0.6}
"""Tier -> its share of the standard price, at OpenAI, and for prices of the user's own where the file says no other."""
_FULL_FLEX = "groq.com"
"""Whose flex tier costs as much as the standard one."""
_TIERS: dict[str, dict[str, str]] = {
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast"},
}
"""A tier as replies name it -> what genai-prices calls it; all others (default, auto, standard, scale) are standard."""
_LONG_WRITES = 2
"""OpenAI's cache writes that are kept for 12 hours cost 2.5 times the input; its usual ones cost 1.25 times."""
_KEEPS_FOR_12_HOURS = re.compile(r"^genai-prices (openai|azure)/")

TRAINING_PRICES_AS_OF = "2025-10"
_TRAINING_USD = {"gpt-4.1": 25.0, "gpt-4.1-mini": 5.0, "gpt-4.1-nano": 1.5, "gpt-4o": 25.0, "gpt-4o-mini": 3.0}
"""USD per million tokens of supervised training and preferences; openai.com/api/pricing."""


@dataclass(frozen=True, slots=True)
class Price:
    """A model's rates in USD per token, and their source.

    `long` is the price of a whole request with more than `long_over_tokens` input tokens; None: there is no such tier.
    Rates of what is written to the provider's cache are None where it costs the same as other input.
    `training_usd_per_token` comes only from the user's own prices; `training_price` knows the others.
    """

    input_usd_per_token: float
    cached_input_usd_per_token: float
    output_usd_per_token: float
    source: str
    long_over_tokens: int = 0
    long: "Price | None" = None
    training_usd_per_token: float | None = None
    cache_write_usd_per_token: float | None = None
    long_cache_write_usd_per_token: float | None = None
    usd_per_request: float = 0.0

    def times(self, share: float) -> "Price":
        """The price with every rate of a call multiplied; that of training stays."""
        if share == 1:
            return self
        return replace(
            self,
            input_usd_per_token=share * self.input_usd_per_token,
            cached_input_usd_per_token=share * self.cached_input_usd_per_token,
            output_usd_per_token=share * self.output_usd_per_token,
            long=self.long and self.long.times(share),
            cache_write_usd_per_token=_times(share, self.cache_write_usd_per_token),
            long_cache_write_usd_per_token=_times(share, self.long_cache_write_usd_per_token),
            usd_per_request=share * self.usd_per_request,
        )

    def cost(
        self, input_tokens: int, output_tokens: int, cached: int = 0, written: int = 0, written_long: int = 0
    ) -> float:
        """USD for one request.

        Args:
            input_tokens: all of them; the next ones are parts of it.
            cached: read from the provider's cache.
            written: written to the provider's cache.
            written_long: the part of `written` that is kept for hours.
        """
        if self.long is not None and input_tokens > self.long_over_tokens:
            return self.long.cost(input_tokens, output_tokens, cached, written, written_long)
        cached = min(cached, input_tokens)
        written = min(written, input_tokens - cached)
        written_long = min(written_long, written)
        write_rate = _or(self.cache_write_usd_per_token, self.input_usd_per_token)
        return (
            self.usd_per_request
            + (input_tokens - cached - written) * self.input_usd_per_token
            + cached * self.cached_input_usd_per_token
            + (written - written_long) * write_rate
            + written_long * _or(self.long_cache_write_usd_per_token, write_rate)
            + output_tokens * self.output_usd_per_token
        )


@dataclass(frozen=True, slots=True)
class OwnPrice:
    """A model's price in the user's file: the standard one, and those of the tiers that the file names."""

    standard: Price
    tiers: dict[str, Price]

    def in_tier(self, tier: str) -> Price:
        """The price in a tier, which may be "" or one that nobody knows: the standard one."""
        return self.tiers.get(tier) or self.standard.times(_share(tier))


def _times(share: float, rate: float | None) -> float | None:
    return None if rate is None else share * rate


def _or(rate: float | None, other: float) -> float:
    return other if rate is None else rate


def count_tokens(text: str, model: str) -> int:
    """Tokens of `text`, exact for OpenAI's models, an estimate for others; <|endoftext|> is plain text."""
    return count_many([text], model)[0]


def count_many(texts: Sequence[str], model: str) -> list[int]:
    """Tokens of each text, in order, as `count_tokens`; the texts are counted on all cores, without the GIL."""
    import toktok

    counts: list[int]
    try:
        counts = toktok.batch_count(texts, _encoding(model))
    except UnicodeEncodeError:  # a lone surrogate; the provider, too, gets a replacement of the same length
        printable = [text.encode("utf-8", "replace").decode() for text in texts]
        counts = toktok.batch_count(printable, _encoding(model))
    return counts


def estimate_tokens(text: str) -> int:
    """Tokens of `text`, rather too many than too few, to reserve a limit; loading the tables would take too long.

    English has 4 bytes and more to a token, other languages fewer characters but more bytes to each.
    """
    characters = len(text)
    return (characters if text.isascii() else len(text.encode("utf-8", "replace"))) // 4 + characters // 32 + 4


def chat_overhead_tokens(messages: int) -> int:
    """Tokens that the chat format adds: 3 a message and 3 to begin the reply (OpenAI cookbook, how to count tokens)."""
    return 3 * messages + 3


def price(model: str, tier: str = "") -> Price | None:
    """The price of a model now, or None when it is not known.

    The user's file (`TIDEMILL_PRICES`) counts first, then the table of the provider that `OPENAI_BASE_URL` belongs to,
    then OpenAI's. Other providers' tables are not searched: a model served at home is not sold at their price.

    Args:
        model: as in a request or as in a reply: `gpt-6-luna`, dated, `openai/...` or `ft:...`.
        tier: the service tier as a request or a reply names it, `batch` for the provider's Batch API. A tier without a
            price of its own has the standard one. The user's prices are standard ones: other tiers cost what the file
            says, else what the server is known to ask, else what OpenAI asks (batch and flex half, priority twice).

    Raises:
        SettingsError: the user's file cannot be read; the text names the file and the key.
    """
    return price_at(model, tier.strip().lower(), int(time.time() // _HALF_HOUR_SECONDS))


@cache
def load_prices() -> None:
    """Begin to load the providers' tables, on a thread, once a process; a reply that is priced meanwhile waits for it.

    Loading takes some 60 ms, in which a call may as well be in flight.
    """
    threading.Thread(target=_snapshot, name="prices", daemon=True).start()


def _snapshot() -> "DataSnapshot":
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot()


_HALF_HOUR_SECONDS = 1800
"""Some providers are cheaper at night, from a full or half hour on."""


@lru_cache(maxsize=1024)
def price_at(model: str, tier: str, half_hour: int) -> Price | None:
    """`price` in a half hour since 1970; it is looked up once a process."""
    own = overrides()
    names = _names(model)
    for name in names:
        if name in own:
            return own[name].in_tier(tier)
    if tier in WINDOWS:
        standard = price_at(model, "", half_hour)
        return standard and standard.times(_TIER_SHARES[tier])
    at = half_hour * _HALF_HOUR_SECONDS
    return next((price_ for name in names if (price_ := _list_price(name, tier, at)) is not None), None)


def _share(tier: str) -> float:
    """What a tier costs of the standard price at the server, where no table has a price for it."""
    server = batch_server(settings().openai_base_url)
    if tier == "batch" and server is not None:
        return server.price_factor
    if tier == "flex" and settings().host.endswith(_FULL_FLEX):
        return 1.0
    return _TIER_SHARES.get(tier, 1.0)


_served: dict[str, frozenset[str]] = {}


def note_tier(model: str, tier: str) -> None:
    """Note which tier a reply has named of a model that was asked without one."""
    named = tier if tier in _TIERS else ""
    if named not in (seen := _served.get(model, frozenset())):
        _served[model] = seen | {named}


def tiers_served(model: str) -> tuple[str, ...] | None:
    """The standard tier, and which others replies to this process have named unasked; None: none has come yet."""
    return None if model not in _served else ("", *sorted(_served[model] - {""}))


def forget_tiers() -> None:
    """Know no longer which tiers were served: another key or server may have others."""
    _served.clear()


def training_price(model: str) -> float | None:
    """USD per token and epoch of training a model, or None when it is not known; for an `ft:` model that of its base.

    The user's file (`TIDEMILL_PRICES`, key `training`) counts first, then OpenAI's list of `TRAINING_PRICES_AS_OF`.

    Raises:
        SettingsError: the user's file cannot be read; the text names the file and the key.
    """
    bare = model.removeprefix("openai/")
    base = bare.removeprefix("ft:").partition(":")[0]
    own = overrides()
    for name in (model, *_names(bare), *_names(base)):
        if name in own and own[name].standard.training_usd_per_token is not None:
            return own[name].standard.training_usd_per_token
    return next((_TRAINING_USD[name] / _MILLION for name in _names(base) if name in _TRAINING_USD), None)


@lru_cache(maxsize=1024)
def context_tokens(model: str) -> int | None:
    """How many tokens a model takes, prompt and answer together; None when not known. Looked up like a price."""
    sizes = (getattr(_entry(name)[1], "context_window", None) for name in _names(model))
    return next((int(size) for size in sizes if size), None)


@lru_cache(maxsize=1)
def overrides() -> dict[str, "OwnPrice"]:
    """The prices in the user's file, by model; empty without a file. Rates in it are USD per million tokens.

    Raises:
        SettingsError: the file is missing, is not TOML, or a price in it is not a number; names file and key.
    """
    import tomllib

    path = settings().prices
    if path is None:
        return {}
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}. TIDEMILL_PRICES names the file of prices.") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise SettingsError(f"{path}: is not TOML: {error}.") from None
    return {model: _override(f"{path}: [{model!r}]", table, str(path)) for model, table in tables.items()}


def format_usd(usd: float | None) -> str:
    """An amount for people: "$12.40", "$0.021", "$0.00034", "$0.00", or "unknown price" for None."""
    return "unknown price" if usd is None else shown(usd)


def format_tokens(tokens: int) -> str:
    """A number of tokens for people: "61,204"."""
    return f"{tokens:,}"


def _encoding(model: str) -> str:
    name = model.lower().removeprefix("openai/").removeprefix("ft:")
    return "cl100k_base" if name.startswith(_CL100K_MODELS) and not name.startswith(_O200K_MODELS) else "o200k_base"


def _names(model: str) -> list[str]:
    """The names to look a model up by, exact ones first: whole, without the provider, without the date."""
    bare = model.removeprefix("openai/")
    return list(dict.fromkeys((model, bare, _DATE.sub("", bare))))


def _list_price(model: str, tier: str, at: int) -> Price | None:
    from datetime import UTC, datetime

    seller, entry = _entry(model)
    if seller is None or entry is None:
        return None
    # Whoever sells another one's model may not have its tiers
    context = _TIERS.get(tier) if any(each is entry for each in seller.models) else None
    when = datetime.fromtimestamp(at, UTC)
    rates, standard = entry.get_prices(when, context), entry.get_prices(when)
    price_ = from_rates(rates, f"genai-prices {seller.id}/{entry.id}")
    is_unlisted = tier == "batch" and seller.id != _OPENAI and rates == standard
    return price_.times(_share(tier)) if price_ and is_unlisted else price_


def _entry(model: str) -> "tuple[Provider | None, ModelInfo | None]":
    """Who sells a model, and what genai-prices knows of it; (None, None) when it knows nothing."""
    for provider_id, url in ((None, settings().openai_base_url), ("openai", None)):
        try:
            seller, entry = _snapshot().find_provider_model(model, None, provider_id, url)
        except LookupError:
            continue
        if not (seller.id == _OPENAI and entry.id.startswith(_OPEN_WEIGHTS)):
            return seller, entry
    return None, None


def from_rates(rates: "ModelPrice", source: str) -> Price | None:
    """A genai-prices `ModelPrice` (USD per million tokens) with its tiers unfolded from the highest down."""
    full, output = rates.input_mtok, rates.output_mtok
    if full is None and output is None:
        return None
    cached = full if rates.cache_read_mtok is None else rates.cache_read_mtok
    written, written_long = rates.cache_write_mtok, rates.cache_write_1h_mtok
    all_rates = (full, cached, output, written, written_long)
    starts = sorted({tier.start for rate in all_rates for tier in getattr(rate, "tiers", ())})
    request = getattr(rates, "requests_kcount", None)
    result: Price | None = None
    above = 0
    for start in (*reversed(starts), -1):
        write = None if written is None else _rate(written, start)
        long = None if written_long is None else _rate(written_long, start)
        if long is None and write is not None and _KEEPS_FOR_12_HOURS.search(source):
            long = _LONG_WRITES * write
        result = Price(
            _rate(full, start),
            _rate(cached, start),
            _rate(output, start),
            source,
            above,
            result,
            cache_write_usd_per_token=write,
            long_cache_write_usd_per_token=long,
            usd_per_request=0.0 if request is None else float(request) / 1_000,
        )
        above = start
    return result


def _rate(rate: "Decimal | TieredPrices | None", start: int) -> float:
    """USD per token in the tier that begins at `start`; -1 is below all tiers."""
    from genai_prices.types import TieredPrices

    if rate is None:
        return 0.0  # embeddings have no output to pay for
    if not isinstance(rate, TieredPrices):
        return float(rate) / _MILLION
    reached = [tier.price for tier in rate.tiers if tier.start <= start]
    return float(reached[-1] if reached else rate.base) / _MILLION


def _override(where: str, table: object, source: str) -> OwnPrice:
    if not isinstance(table, dict):
        raise SettingsError(f"{where} must be a table such as input = 0.10, output = 0.50.")
    rates = {key: value for key, value in table.items() if key not in _TIER_SHARES}
    standard = _own_rates(where, rates, source)
    tiers = {
        tier: _own_rates(f"{where} {tier}", said, source)
        if isinstance(said, dict)
        else standard.times(_number(f"{where} {tier}", said, "a share of the price, such as 0.5, or a table"))
        for tier, said in table.items()
        if tier in _TIER_SHARES
    }
    return OwnPrice(standard, tiers)


def _own_rates(where: str, table: dict[str, object], source: str) -> Price:
    if unknown := next((key for key in table if key not in _OVERRIDE_KEYS), None):
        keys = ", ".join((*_OVERRIDE_KEYS, *_TIER_SHARES))
        raise SettingsError(f"{where} {unknown}: unknown key; the keys are {keys}.")
    rates = {key: _number(f"{where} {key}", value, "USD per million tokens") for key, value in table.items()}
    missing = next((key for key in ("input", "output") if key not in rates), None)
    if missing is not None:
        raise SettingsError(f"{where} {missing}: is missing; it is USD per million tokens.")
    rates = {"cached_input": rates["input"], **rates}
    training = rates["training"] / _MILLION if "training" in rates else None
    written, written_long = (
        rates[name] / _MILLION if name in rates else None for name in ("cache_write", "cache_write_long")
    )
    usual = (rates["input"] / _MILLION, rates["cached_input"] / _MILLION, rates["output"] / _MILLION)
    return Price(
        *usual,
        source,
        training_usd_per_token=training,
        cache_write_usd_per_token=written,
        long_cache_write_usd_per_token=written_long,
    )


def _number(where: str, value: object, meaning: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise SettingsError(f"{where}: must be {meaning}, a number from 0, not {value!r}.")
    return value
