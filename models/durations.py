"""How long is written in one way everywhere, `90s`, `10m`, `6h`, `90d`, and read by people in one way."""

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


def in_words(seconds: float) -> str:
    """A duration for people: `43 ms`, `0.4 s`, `5 s`, `1 min 38 s`, `12 min`, `2 h 05 min`, `3 d 4 h`."""
    if 0 < seconds < 0.0995:
        return f"{1_000 * seconds:.0f} ms"
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    minutes, left = divmod(round(max(0.0, seconds)), 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days} d {hours_left} h"
    if hours:
        return f"{hours} h {minutes_left:02} min"
    return f"{minutes} min {left:02} s".removesuffix(" 00 s") if minutes else f"{left} s"
