"""The most that a call may cost is worked out in a few microseconds before it is made: a budget reserves so much.

A token is never less than a byte of what is sent, so bytes are a bound without any table of tokens. The answer is at
most what the question allows, else what the model can write. Only what a provider bills beyond that (its own tools'
fees, a limit that it does not keep) can cost more.
"""

import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from tidemill.models import cost
from tidemill.models.answers import Message
from tidemill.models.endpoints import ENDPOINTS, Endpoint, by_url
from tidemill.models.errors import SettingsError
from tidemill.models.json_types import JsonObject
from tidemill.models.money import MOST_USD_E9, usd_e9
from tidemill.models.options import Options
from tidemill.models.routes import ONLINE, ROUTES
from tidemill.models.text import dumps, loads
from tidemill.models.vision import most_picture_tokens, picture_tokens

_FORMAT_TOKENS = 32
"""What a chat's format adds to one prompt, rather too many; a message in a list has more bytes around it than that."""
_MESSAGE_TOKENS = 16
"""What it adds to each message of a history, whose JSON is not counted."""

_UNSEEN_TOKENS = 1_050_000
"""Input that only the provider knows, such as an earlier answer that it keeps, where the model's size is not known."""

_MOST_OUTPUT_TOKENS = 128_000
"""The most that any model is known to write in one answer; for models whose size is not known."""
_OUTPUT_TOKENS: tuple[tuple[str, int], ...] = (
    ("gpt-3.5", 4_096),
    ("gpt-4.1", 32_768),
    ("gpt-4o", 16_384),
    ("chatgpt-4o", 16_384),
    ("o1", 100_000),
    ("o3", 100_000),
    ("o4", 100_000),
    ("gpt-5", 128_000),
    ("gpt-6", 128_000),
)
"""The beginning of a model's name -> the most that it writes, reasoning included; OpenAI's pages of models."""

_COUNTED_EXACTLY = re.compile(r"(openai/)?(ft:)?(gpt-\d|chatgpt-4o|o\d)")
"""Models whose tokens our tables count as OpenAI does."""

_WORTH_COUNTING = 0.9
"""The tables of tokens are loaded only for a call of whose bound more than a tenth may be saved."""

_TIERS = {"default": ("",), "standard": ("",), "flex": ("flex", ""), "priority": ("priority", ""), "fast": ("fast", "")}
_ANY_TIER = ("", "priority", "fast")
"""A project may be set to another tier: where a call asks for none, or for `auto`, its reply may name a dearer one.

Which one that is, the first replies tell.
"""

_HALF_HOUR_SECONDS = 1_800
_OWN_TOOLS = ("function", "custom")
_KEPT_THERE = ("previous_response_id", "conversation")
_READ_PARTS = ("text", "input_text", "output_text", "refusal", "input_audio")
"""Parts of a message of which no token is less than a byte."""
_PICTURE_PARTS = ("image_url", "input_image")

_ESTIMATE_FACTOR = 2.1
"""Tokens of pictures are estimated with 1.2 a patch where a model's rule is not documented; 2.46 is the dearest."""


class Rates(NamedTuple):
    """The dearest that a model's tokens may be, in USD a token, and from how many input tokens on they are dearer."""

    input: float
    output: float
    request: float
    long_over: int = 0
    long_input: float = 0.0
    long_output: float = 0.0

    def usd_e9(self, input_tokens: int, output_tokens: int) -> int:
        """The most that one request costs, in 1e-9 USD."""
        if self.long_over and input_tokens > self.long_over:
            input_rate, output_rate = self.long_input, self.long_output
        else:
            input_rate, output_rate = self.input, self.output
        return usd_e9(self.request + input_tokens * input_rate + output_tokens * output_rate)


class Terms(NamedTuple):
    """What the fields of a body decide of the price."""

    tiers: tuple[str, ...]
    output_tokens: int
    unseen_tokens: int
    """Input that is not in the body."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of the calls of one batch, by one route; what they share is worked out once."""

    options: Options
    route: str
    fixed_tokens: int
    terms: Terms

    @classmethod
    def of(cls, options: Options, route: str = ONLINE) -> "Bounds":
        """Those of a batch with these options. Raises SettingsError if no endpoint of that name is installed."""
        added = [options.system or "", *(dumps(each) for each in (options.schema, options.params) if each)]
        body = {"model": options.model, **options.params}
        terms = _terms(options.model, ENDPOINTS[options.endpoint], body, route, options.max_tokens)
        return cls(options, route, sum(map(_bytes, added)) + _FORMAT_TOKENS, terms)

    def most_usd_e9(
        self, request: JsonObject, history: Sequence[Message] = (), request_bytes: int | None = None
    ) -> int | None:
        """The most that one call may cost, in 1e-9 USD; None: no price is known.

        Args:
            request: the job's, as it is stored.
            history: what is sent before it.
            request_bytes: of the request as JSON, if that is known.
        """
        if "dataset" in request:
            return 0  # a step of a fine-tune; what training may cost is reserved apart
        size = _bytes(dumps(request)) if request_bytes is None else request_bytes
        if "body" in request:
            return self._of_line(request, size, history)
        tokens = size + self.fixed_tokens + self.terms.unseen_tokens + self._unread_tokens(request)
        return self._priced(self.options.model, self.terms, tokens + self._history_tokens(history))

    def exact_usd_e9(self, request: JsonObject, history: Sequence[Message], most_usd_e9: int) -> int | None:
        """The same by the exact count of the prompt's tokens, which loads the tables.

        None where it is not to be had, or could take no tenth off the quick bound.
        """
        model, prompt = self.options.model, request.get("prompt")
        if not isinstance(prompt, str) or "body" in request:
            return None
        beside = self.fixed_tokens + self.terms.unseen_tokens + self._unread_tokens(request)
        least = self._priced(model, self.terms, beside)
        if least is None or least > most_usd_e9 * _WORTH_COUNTING or not _COUNTED_EXACTLY.match(model.lower()):
            return None
        if any(message.rest or message.picture for message in history):
            return None
        texts = [prompt, *(message.read for message in history)]
        tokens = sum(cost.count_many(texts, model)) + _MESSAGE_TOKENS * len(texts)
        return self._priced(model, self.terms, tokens + beside)

    def _of_line(self, request: JsonObject, size: int, history: Sequence[Message]) -> int | None:
        endpoint = by_url(request.get("url")) or ENDPOINTS[self.options.endpoint]
        body = {"model": self.options.model, **request["body"]}
        model = str(body["model"])
        terms = _terms(model, endpoint, body, self.route)
        tokens = size + self.fixed_tokens + terms.unseen_tokens + _turns_tokens(model, endpoint.turns(body))
        return self._priced(model, terms, tokens + self._history_tokens(history))

    def _priced(self, model: str, terms: Terms, input_tokens: int) -> int | None:
        seen = cost.tiers_served(model) if terms.tiers is _ANY_TIER else None
        rates = rates_of(model, terms.tiers if seen is None else seen)
        return None if rates is None else rates.usd_e9(input_tokens, terms.output_tokens)

    def _unread_tokens(self, request: JsonObject) -> int:
        """Tokens of what the bytes of a request say nothing of: pictures."""
        picture, turns = request.get("picture"), request.get("messages")
        if isinstance(picture, dict):
            return self._picture_tokens(picture)
        return _turns_tokens(self.options.model, turns) if isinstance(turns, list) else 0

    def _picture_tokens(self, picture: JsonObject) -> int:
        model, detail = self.options.model, self.options.detail or "auto"
        if "width" not in picture:
            return most_picture_tokens(model, detail)
        seen = picture_tokens(model, picture["width"], picture["height"], detail)
        return math.ceil(seen.tokens * _ESTIMATE_FACTOR) if seen.is_estimate else seen.tokens

    def _history_tokens(self, history: Sequence[Message]) -> int:
        return sum(self._message_tokens(message) for message in history)

    def _message_tokens(self, message: Message) -> int:
        shown = message.picture
        if shown is not None:
            return _bytes(shown.text) + self._picture_tokens(shown.picture) + _MESSAGE_TOKENS
        rest = _bytes(dumps(message.rest)) if message.rest else 0
        parts = sum(_part_tokens(self.options.model, part) for part in message.parts or ())
        return _bytes(message.content) + rest + parts + _MESSAGE_TOKENS


def _turns_tokens(model: str, turns: Iterable[object]) -> int:
    contents = (turn.get("content") for turn in turns if isinstance(turn, dict))
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return sum(_part_tokens(model, part) for part in parts if isinstance(part, dict))


def _part_tokens(model: str, part: JsonObject) -> int:
    """What a part of a message may count beyond its own bytes; less, for a picture whose bytes are in it."""
    kind = part.get("type")
    if kind in _READ_PARTS:
        return 0
    if kind not in _PICTURE_PARTS:
        return _size_of(model)  # a file: any number of pages
    shown = part.get("image_url")
    url = shown.get("url") if isinstance(shown, dict) else shown
    inline = len(url) if isinstance(url, str) and url.startswith("data:") else 0
    return most_picture_tokens(model, "original") - inline


@lru_cache(maxsize=256)
def bounds_of(options: str, route: str) -> Bounds | None:
    """The bounds of a batch with these options, as they are stored; None: its endpoint is not installed here."""
    try:
        return Bounds.of(Options.from_json(loads(options)), route)
    except SettingsError:
        return None


def most_of(bounds: Bounds | None, request: JsonObject, history: Sequence[Message]) -> int | None:
    """The most that a call may cost; None: nobody knows, also of a request of a shape that no kind of ours has."""
    try:
        most = None if bounds is None else bounds.most_usd_e9(request, history)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return None if most is None else min(most, MOST_USD_E9)


def exact_of(bounds: Bounds | None, request: JsonObject, history: Sequence[Message], most: int) -> int:
    """The same by the exact count of its tokens, where that is to be had and less than `most`, its quick bound."""
    exact = None if bounds is None else bounds.exact_usd_e9(request, history, most)
    return most if exact is None else min(most, exact)


def most_usd_e9(
    options: Options, request: JsonObject, history: Sequence[Message] = (), route: str = ONLINE
) -> int | None:
    """The most that one call may cost, in 1e-9 USD; None: no price is known.

    Args:
        options: its batch's.
        request: as its job stores it.
        history: what is sent before it, for a later turn of a dialogue.
        route: by which it goes out.
    """
    return Bounds.of(options, route).most_usd_e9(request, history)


def rates_of(model: str, tiers: tuple[str, ...]) -> Rates | None:
    """The dearest rates of a model in any of these tiers; None: its price is not known."""
    return _rates(model, tiers, int(time.time() // _HALF_HOUR_SECONDS))


def forget_rates() -> None:
    """Look prices up anew: the settings have changed, or the file of prices may have."""
    _rates.cache_clear()
    bounds_of.cache_clear()


@lru_cache(maxsize=256)
def _rates(model: str, tiers: tuple[str, ...], _half_hour: int) -> Rates | None:
    try:
        known = [price for tier in tiers if (price := cost.price(model, tier)) is not None]
    except SettingsError:  # the file of prices cannot be read: what is not known is not spent
        return None
    if not known:
        return None
    longs = [price.long or price for price in known]
    return Rates(
        max(map(_input_rate, known)),
        max(price.output_usd_per_token for price in known),
        max(price.usd_per_request for price in (*known, *longs)),
        min((price.long_over_tokens for price in known if price.long is not None), default=0),
        max(map(_input_rate, (*longs, *known))),
        max(price.output_usd_per_token for price in (*longs, *known)),
    )


def _input_rate(price: cost.Price) -> float:
    """The dearest that a token of the input may be: read, found in the provider's cache, or written to it."""
    written = (price.cache_write_usd_per_token, price.long_cache_write_usd_per_token)
    return max(price.input_usd_per_token, price.cached_input_usd_per_token, *(each or 0.0 for each in written))


def _terms(model: str, endpoint: Endpoint, body: JsonObject, route: str, room: int | None = None) -> Terms:
    """Those of a body; `room` is what else it allows the answer."""
    rooms = [body[name] for name in endpoint.room_fields if _is_count(body.get(name))] or ([room] if room else [])
    answers = max((body[name] for name in ("n", "best_of") if _is_count(body.get(name))), default=1)
    asked = body.get("service_tier")
    tiers = _TIERS.get(asked.strip().lower(), _ANY_TIER) if isinstance(asked, str) else _ANY_TIER
    own = ROUTES[route].tier
    if own:  # a live call of another tier may have to go out without it in the end
        tiers = (own,) if ROUTES[route].is_upstream else (own, *tiers)
    return Terms(tiers, answers * (max(rooms) if rooms else most_output_tokens(model)), _unseen_tokens(model, body))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def most_output_tokens(model: str) -> int:
    """The most that a model writes in one answer, with what it thinks; its whole size where no more is known."""
    name = model.lower().removeprefix("openai/").removeprefix("ft:")
    known = (tokens for beginning, tokens in _OUTPUT_TOKENS if name.startswith(beginning))
    return next(known, None) or cost.context_tokens(model) or _MOST_OUTPUT_TOKENS


def _unseen_tokens(model: str, body: JsonObject) -> int:
    """Input that only the provider sees: what it has kept, and what its own tools find."""
    tools = body.get("tools")
    own = {str(tool.get("type")) for tool in tools if isinstance(tool, dict)} if isinstance(tools, list) else set()
    is_unseen = any(body.get(name) for name in _KEPT_THERE) or own - set(_OWN_TOOLS)
    return _size_of(model) if is_unseen else 0


def _size_of(model: str) -> int:
    return cost.context_tokens(model) or _UNSEEN_TOKENS


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
