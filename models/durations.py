"""How long is said in one way everywhere: `90s`, `10m`, `6h`, `90d`."""

import re

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw])")


def seconds_of(text: str) -> float:
    """The seconds that a duration such as `90s`, `1h30m` or `90d` means; it is longer than nothing.

    Raises:
        ValueError: it is no duration; the text says what one looks like.
    """
    compact = text.strip().lower().replace(" ", "")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(compact))
    if _PART.sub("", compact) or not 0 < seconds < 1e10:
        raise ValueError("write it with its unit: 90s, 10m, 1h30m, 6h, 90d or 2w")
    return seconds


def spoken(seconds: float) -> str:
    """A duration in a sentence: `0.4 s`, `75 s`, `12 min`, `3 h 5 min`."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"
