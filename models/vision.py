"""A picture costs what the model sees of it, so one table gives both price and size.

Sources: OpenAI's guide "Images and vision" (July 2026) for the rules and multipliers; the same page of September
2026 for GPT-5.6 and GPT-6, which the July page does not list, so they are estimates here. The guide's examples are in
 tests/models/test_vision.py.
"""

import math
from dataclasses import dataclass

from tidemill.models.options import Detail

_PATCH_SIDE = 32
_TILE_SIDE = 512
_TILES_WITHIN = 2048
_TILES_SHORT_SIDE = 768
_LOW_SIDE = 512
"""At detail `low` a model gets a picture of at most this many pixels a side."""


@dataclass(frozen=True, slots=True)
class PictureTokens:
    """What a picture costs in input tokens; `is_estimate` where the model's rule or multiplier is not documented."""

    tokens: int
    is_estimate: bool


@dataclass(frozen=True, slots=True)
class _Tiles:
    """The picture is shrunk to 2048 px a side and 768 px the short side; each tile of 512 px costs `tile_tokens`."""

    base_tokens: int
    tile_tokens: int


@dataclass(frozen=True, slots=True)
class _Patches:
    """Each patch of 32 px costs `multiplier` tokens; `high` and `original` are (patches, pixels a side) at most."""

    multiplier: float
    high: tuple[int, int]
    original: tuple[int, int] | None = None
    auto_is_original: bool = False
    is_estimate: bool = False


_SMALL, _LARGE = (1_536, 2048), (2_500, 2048)
_GPT_4O, _O_SERIES = _Tiles(85, 170), _Tiles(75, 150)
_NEWEST = _Patches(1.2, (2_500, 65_535), (30_000, 65_535), auto_is_original=True, is_estimate=True)
"""GPT-5.6 and later: `original` is not shrunk, but is an error above 30,000 patches."""

_RULES: dict[str, _Tiles | _Patches] = {
    "gpt-6.2": _NEWEST,
    "gpt-6.1": _NEWEST,
    "gpt-6": _NEWEST,
    "gpt-5.6": _NEWEST,
    "gpt-5.5": _Patches(1.2, _LARGE, (10_000, 6000), auto_is_original=True, is_estimate=True),
    "gpt-5.4": _Patches(1.2, _LARGE, (10_000, 6000), is_estimate=True),
    "gpt-5.4-mini": _Patches(1.62, _SMALL),
    "gpt-5.4-nano": _Patches(2.46, _SMALL),
    "gpt-5.3-codex": _Patches(1.2, _SMALL, is_estimate=True),
    "gpt-5.2": _Patches(1.2, _SMALL, is_estimate=True),
    "gpt-5-mini": _Patches(1.62, _SMALL),
    "gpt-5-nano": _Patches(2.46, _SMALL),
    "gpt-4.1-mini": _Patches(1.62, _SMALL),
    "gpt-4.1-nano": _Patches(2.46, _SMALL),
    "o4-mini": _Patches(1.72, _SMALL),
    "gpt-5": _Tiles(70, 140),
    "gpt-4.5": _GPT_4O,
    "gpt-4.1": _GPT_4O,
    "gpt-4o": _GPT_4O,
    "chatgpt-4o": _GPT_4O,
    "gpt-4o-mini": _Tiles(2833, 5667),
    "o1": _O_SERIES,
    "o3": _O_SERIES,
    "computer-use-preview": _Tiles(65, 129),
}
"""The beginning of a model's name, up to a hyphen -> its rule; the longest match counts."""

_UNKNOWN = _Patches(1.2, _LARGE, is_estimate=True)
"""Any other model: patches, the commonest rule, with the budget that most models have at `high`."""

_DEAREST = max(rule.multiplier for rule in _RULES.values() if isinstance(rule, _Patches))


def picture_tokens(model: str, width: int, height: int, detail: Detail) -> PictureTokens:
    """Input tokens of one picture of `width` x `height` pixels; `original` is `high` for models that have none.

    Any model has an answer; for an unknown one it may be far from what its server counts.
    """
    rule = _rule(model)
    if isinstance(rule, _Tiles) and detail == "low":
        return PictureTokens(rule.base_tokens, is_estimate=False)
    visible_width, visible_height = _visible_size(rule, width, height, detail)
    if isinstance(rule, _Tiles):
        tiles = math.ceil(visible_width / _TILE_SIDE) * math.ceil(visible_height / _TILE_SIDE)
        return PictureTokens(rule.base_tokens + tiles * rule.tile_tokens, is_estimate=False)
    return PictureTokens(math.ceil(_patches(visible_width, visible_height) * rule.multiplier), rule.is_estimate)


def most_picture_tokens(model: str, detail: Detail) -> int:
    """What a picture of any size costs at most, of which only its address is known."""
    rule = _rule(model)
    if isinstance(rule, _Tiles):
        tiles = math.ceil(_TILES_WITHIN / _TILE_SIDE) * math.ceil(_TILES_SHORT_SIDE / _TILE_SIDE)
        return rule.base_tokens + tiles * rule.tile_tokens
    wants_original = detail == "original" or (detail == "auto" and rule.auto_is_original)
    patches, _ = (rule.original if wants_original else None) or rule.high
    return math.ceil(patches * (_DEAREST if rule.is_estimate else rule.multiplier))


def usable_size(model: str, width: int, height: int, detail: Detail, max_side: int) -> tuple[int, int]:
    """The size in pixels to which a picture is shrunk before it is sent; the model would shrink it to that anyway.

    It is never larger than the picture, within `max_side`, at least 1 px a side, and has the picture's proportions.
    A picture turned by 90 degrees gets this size turned.
    """
    return _visible_size(_rule(model), *_within(width, height, max_side), detail)


def _rule(model: str) -> _Tiles | _Patches:
    """The rule of a model named as in a request: `gpt-4o`, dated, `openai/...` or `ft:...`."""
    name = model.lower().removeprefix("openai/").removeprefix("ft:").partition(":")[0]
    while name and name not in _RULES:
        name = name.rpartition("-")[0]
    return _RULES.get(name, _UNKNOWN)


def _visible_size(rule: _Tiles | _Patches, width: int, height: int, detail: Detail) -> tuple[int, int]:
    """The size at which a model looks at a picture."""
    if detail == "low":
        return _within(width, height, _LOW_SIDE)
    if isinstance(rule, _Tiles):
        width, height = _within(width, height, _TILES_WITHIN)
        return _scaled(width, height, _TILES_SHORT_SIDE / min(width, height))
    wants_original = detail == "original" or (detail == "auto" and rule.auto_is_original)
    budget, side = (rule.original if wants_original else None) or rule.high
    return _within_patches(*_within(width, height, side), budget)


def _within_patches(width: int, height: int, budget: int) -> tuple[int, int]:
    """Shrunk to a budget of patches, by the guide's formula."""
    if _patches(width, height) <= budget:
        return width, height
    shrink = math.sqrt(_PATCH_SIDE**2 * budget / (width * height))
    whole = min(math.floor(side * shrink / _PATCH_SIDE) / (side * shrink / _PATCH_SIDE) for side in (width, height))
    # The formula would leave nothing of a strip thinner than a patch: it gets one row of patches.
    return _scaled(width, height, shrink * whole or budget * _PATCH_SIDE / max(width, height))


def _patches(width: int, height: int) -> int:
    return math.ceil(width / _PATCH_SIDE) * math.ceil(height / _PATCH_SIDE)


def _within(width: int, height: int, side: int) -> tuple[int, int]:
    return _scaled(width, height, side / max(width, height))


def _scaled(width: int, height: int, factor: float) -> tuple[int, int]:
    """Shrunk by `factor`; a factor above 1 changes nothing."""
    return (width, height) if factor >= 1 else (max(1, round(width * factor)), max(1, round(height * factor)))
