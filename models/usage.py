"""Tokens are billed by what the server counted, under whatever names it counts them.

Names: OpenAI (both endpoints), Azure, Anthropic, Bedrock, Gemini, DeepSeek, Moonshot, Qwen, xAI, Ollama, and what
gateways make of them. `promptTokens`, `prompt-tokens` and `prompt_tokens` are one name.
"""

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

MOST_TOKENS = 100_000_000


_APART_READ = "cache_read_input_tokens cache_read_input_token_count"
_APART_WRITTEN = "cache_creation_input_tokens cache_write_input_tokens cache_write_input_token_count"
"""Names of Anthropic and Bedrock, whose `input_tokens` do not include them."""

_NAMES = {
    "plain": "prompt_tokens",
    "read": "prompt_tokens input_tokens prompt_token_count input_token_count prompt_eval_count",
    "written": """completion_tokens output_tokens completion_token_count output_token_count candidates_token_count
        eval_count generated_tokens""",
    "total": "total_tokens total_token_count",
    "apart": f"{_APART_READ} {_APART_WRITTEN}",
    "cached": f"""{_APART_READ} cached_tokens cached_input_tokens cache_read_tokens prompt_cache_hit_tokens
        cached_prompt_tokens cached_prompt_text_tokens cached_content_token_count""",
    "stored": f"{_APART_WRITTEN} cache_write_tokens cache_creation_tokens cached_creation_tokens",
    "short": "ttl_30m_tokens ephemeral_5m_input_tokens cache_write_5m_tokens",
    "long": "ttl_12h_tokens ephemeral_1h_input_tokens cache_write_1h_tokens",
}
"""What is counted -> under which names; a name may count for several."""

_OF_THE_ANSWER = re.compile(r"completion|output|candidates|response")
_DEPTH = 4
"""How deep the details of the input may be nested."""
_NUMBER = re.compile(r'"(\w+)"\s*:\s*"?(\d+(?:\.\d+)?)\b')
_TIER = re.compile(r'(?<!\\)"service_tier"\s*:\s*"(\w+)"')


class Usage(NamedTuple):
    """Tokens as the server counted them, and the tier that they were served in.

    `cached_input_tokens` and `cache_write_tokens` are parts of `input_tokens` with prices of their own: what was read
    from the provider's cache, and what was written to it. `long_cache_write_tokens`, a part of the latter, is kept for
    hours at another price. `tier` is the reply's `service_tier`; "" when it names none.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    long_cache_write_tokens: int = 0
    tier: str = ""


def read_usage(payload: Mapping[str, object]) -> Usage | None:
    """The usage in a reply's object; None when it has none that can be read."""
    for holder in _holders(payload):
        if isinstance(holder, dict):
            tier = payload.get("service_tier") or holder.get("service_tier")
            usage = _usage(_counts(holder), tier.strip().lower() if isinstance(tier, str) else "")
            if usage is not None:
                return usage
    return None


def _holders(payload: Mapping[str, object]) -> Iterator[object]:
    """Where servers put the usage; Ollama puts it between everything else."""
    yield payload.get("usage")
    yield payload.get("usage_metadata")
    yield payload.get("usageMetadata")
    gateway = payload.get("x_groq")
    yield gateway.get("usage") if isinstance(gateway, dict) else None
    yield payload if "prompt_eval_count" in payload else None


def usage_in_fragment(body: bytes) -> Usage | None:
    """The usage in what is left of a reply that cannot be read as a whole."""
    text = body.decode("utf-8", "replace")
    start = max(text.rfind('"usage"'), text.rfind('"usageMetadata"'))
    if start < 0 or text[start - 1] == "\\":  # inside the answer
        return None
    tiers = _TIER.findall(text)
    first = {_key(name): int(float(number)) for name, number in reversed(_NUMBER.findall(text, start))}
    counts: dict[str, int] = {}
    for name, count in first.items():
        _note(counts, _roles(name), count)
    return _usage(counts, tiers[-1].lower() if tiers else "")


def _usage(counts: Mapping[str, int], tier: str) -> Usage | None:
    """The usage of counts by what they count, as in `_NAMES`."""
    read, written, total = counts.get("read"), counts.get("written"), counts.get("total", 0)
    if read is None and written is None:
        return None
    if read is None:
        read = max(0, total - (written or 0))
    cached, short, long = counts.get("cached", 0), counts.get("short", 0), counts.get("long", 0)
    stored = max(counts.get("stored", 0), short + long)
    if "apart" in counts and "plain" not in counts:
        read += cached + stored
    # Gemini and xAI leave what was thought out of the answer's tokens, and in the total; it is billed
    written = max(written or 0, total - read)
    cached = min(cached, read)
    stored = min(stored, read - cached)
    return Usage(read, written, cached, stored, min(long, stored), tier)


def _counts(usage: Mapping[str, object]) -> dict[str, int]:
    """All readable counts by what they count, also those in the details of the input."""
    counts: dict[str, int] = {}
    _add(counts, usage, _DEPTH)
    return counts


def _add(counts: dict[str, int], usage: Mapping[str, object], depth: int) -> None:
    for name, value in usage.items():
        if isinstance(value, dict):
            if depth and not _is_of_the_answer(name):
                _add(counts, value, depth - 1)
        elif (roles := _roles(name)) and (count := _count(value)) is not None:
            _note(counts, roles, count)


def _note(counts: dict[str, int], roles: tuple[str, ...], count: int) -> None:
    """The largest count counts: gateways send several, and 0 in those that they do not use."""
    for role in roles:
        counts[role] = max(count, counts.get(role, 0))


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


_KEYS = {role: {_key(name) for name in names.split()} for role, names in _NAMES.items()}


@lru_cache(maxsize=4_096)
def _roles(name: str) -> tuple[str, ...]:
    """What is counted under a name."""
    return tuple(role for role, keys in _KEYS.items() if _key(name) in keys)


@lru_cache(maxsize=4_096)
def _is_of_the_answer(name: str) -> bool:
    return _OF_THE_ANSWER.search(_key(name)) is not None


def _count(value: object) -> int | None:
    """A number of tokens; None for anything else, and for more than any model could have read."""
    if type(value) is int:  # as from nearly every server
        return value if 0 <= value <= MOST_TOKENS else None
    if isinstance(value, str):
        try:
            value = float(value.replace(",", ""))
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if 0 <= value <= MOST_TOKENS else None
