"""How long a server asks to wait is read here, in whatever header, field or sentence it says so.

Sources: RFC 9110 (Retry-After), the IETF's RateLimit drafts, the headers of OpenAI, Groq, Azure, Anthropic, Cerebras,
OpenRouter and GitHub, Google's RetryInfo, and sentences of errors in public reports. Every wait is in seconds from the
reply's own Date, so that a wrong clock here does no harm.
"""

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple

from tidemill.models.patterns import Pattern

LONG_WAIT_SECONDS = 300.0
"""A longer wait is a hold, which everybody sees; a shorter one is slept through."""

_MOST_SECONDS = 400 * 86_400.0  # nobody means more than a year
_FIRST_TIME = 1e9  # a larger number is a time since 1970, not a span
_EVEN_MINUTE = (54.0, 61.0)

_UNITS = (
    ("ms|msecs?|millis|milliseconds?", 1e-3),
    ("us|µs|microseconds?", 1e-6),
    ("ns|nanoseconds?", 1e-9),
    ("s|secs?|seconds?|秒", 1.0),
    ("m|mins?|minutes?|分钟", 60.0),
    ("h|hrs?|hours?|小时", 3600.0),
    ("d|days?|天", 86_400.0),
    ("w|weeks?", 604_800.0),
)
_UNIT = "|".join(names for names, _ in _UNITS)
_COUNT = r"\d+(?:\.\d+)?|\b(?:an?|one)\b"
_PART = Pattern(rf"({_COUNT})\s*({_UNIT})(?![a-z])", re.IGNORECASE)
_SPAN = rf"(?:(?:{_COUNT})\s*(?:{_UNIT})(?![a-z])\s*(?:,\s*|and\s+)?)+"
_GO_SPAN = Pattern(r"(?:\d+(?:\.\d+)?(?:ms|us|µs|ns|[smhdw]))+")
_AGAIN = r"again|retry|retrying|wait|resets?|resetting|available|resumes?|regain|renews?|refresh(?:es)?|until"
_SPAN_SENTENCE = Pattern(
    rf"(?:\bwait\s+(?:for\s+)?|请(?:等待|在)?\s*|\b(?:{_AGAIN})\b[^.!?\n]{{0,60}}?\b(?:in|after|for|within)\b:?\s*)"
    rf"(?:about|approximately|around|at least|another|~)?\s*({_SPAN})",
    re.IGNORECASE,
)
_BARE_SENTENCE = Pattern(r"\bretry[- _]after['\"]?[:=]?\s*(\d+(?:\.\d+)?)(?![\w.-])", re.IGNORECASE)
_DATE = r"\d{4}-\d\d-\d\d(?:(?:T|\s+(?:at\s+)?)\d\d:\d\d(?::\d\d)?(?:\.\d+)?)?\s*(?:Z|UTC|GMT|[+-]\d\d:?\d\d)?"
_DATE_SENTENCE = Pattern(rf"(?:{_AGAIN}|access|将在)\b[^!?\n]{{0,60}}?({_DATE})", re.IGNORECASE)
_HTTP_DATE_SENTENCE = Pattern(
    rf"\b(?:{_AGAIN})\b[^.!?\n]{{0,40}}?(\w{{3}}, \d\d \w{{3}} \d{{4}} \d\d:\d\d:\d\d GMT)", re.IGNORECASE
)
_CLOCK_SENTENCE = Pattern(
    rf"\b(?:{_AGAIN})\b[^.!?\n]{{0,40}}?(?:(\d\d?):(\d\d)|midnight)\s*\(?(UTC|GMT|P[SD]?T|Pacific)\b"
    rf"|\b(?:{_AGAIN})\b[^.!?\n]{{0,40}}?\b(UTC|GMT) midnight",
    re.IGNORECASE,
)
_PACIFIC_HOURS = 8
_CHINA = timezone(timedelta(hours=8))
_FIELD = Pattern(
    r"(?:ratelimit|quota|next)?(?:retry(?:after|in|at|delay|time|until)|resets?(?:after|in|at|delay|time(?:stamp)?)?"
    r"|wait(?:time|for)?|cooldown|estimatedtime)(?P<unit>s|secs?|seconds|ms|millis|milliseconds|minutes|hours)?"
)
_FIELD_UNITS = {"ms": 1e-3, "millis": 1e-3, "milliseconds": 1e-3, "minutes": 60.0, "hours": 3600.0}


class Budget(NamedTuple):
    """What a reply's headers say of one limit; None where they say nothing readable."""

    name: str
    limit: float | None = None
    remaining: float | None = None
    reset_seconds: float | None = None

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing remains; a limit of 0 is no limit but one that does not apply."""
        return self.remaining == 0 and self.limit != 0 and "audio" not in self.name


def sent_at(headers: Mapping[str, str]) -> datetime:
    """The time of a reply on the server's clock; ours where it has none."""
    return _http_date(headers.get("date")) or datetime.now(UTC)


@lru_cache(maxsize=1_024)
def concerns_waits(name: str) -> bool:
    """Whether a header (lower case) is needed to read waits and limits."""
    return "ratelimit" in name or "rate-limit" in name or "retry-after" in name or name == "date"


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """How long the server asks to wait by Retry-After or its cousins in milliseconds.

    Negative, infinite and unreadable values give None.
    """
    at = sent_at(headers)
    for name, unit in (("retry-after-ms", 1e-3), ("x-ms-retry-after-ms", 1e-3), ("retry-after", 1.0)):
        seconds = reset_seconds(headers.get(name), at, unit)
        if seconds is not None:
            return seconds
    return None


def asked_seconds(headers: Mapping[str, str], fields: Iterable[tuple[str, object]], message: str) -> float | None:
    """How long an error asks to wait: its headers' word, else its body's, else its sentence's, else the resets.

    Args:
        fields: names and values in the error's body, at any depth; `headers` among them are those of a server behind.
    """
    at = sent_at(headers)
    asked = retry_after_seconds(headers)
    if asked:
        return asked
    resets = budgets_wait(headers)
    for name, value in fields:
        if name == "headers" and isinstance(value, Mapping):
            behind = {str(key).lower(): str(each) for key, each in value.items()}
            behind.setdefault("date", headers.get("date", ""))
            resets = retry_after_seconds(behind) or budgets_wait(behind) or resets
        elif (field := _FIELD.fullmatch(re.sub(r"[-_ ]", "", name.lower()))) and not isinstance(value, bool):
            seconds = reset_seconds(value, at, _FIELD_UNITS.get(field["unit"] or "", 1.0))
            if seconds:
                return seconds
    return sentence_seconds(message, at) or resets or asked


def budgets_wait(headers: Mapping[str, str]) -> float | None:
    """How long a refused call has to wait for the budgets in these headers: for the exhausted ones, if any is said."""
    exhausted = exhausted_seconds(headers)
    if exhausted:
        return exhausted
    known = [each for each in budgets(headers) if each.reset_seconds and not _fills_evenly(each)]
    unsaid = [each.reset_seconds for each in known if each.remaining is None and each.reset_seconds]
    return min(unsaid, default=None) if len(unsaid) == len(known) else None


def exhausted_seconds(headers: Mapping[str, str]) -> float | None:
    """How long until the budgets that a reply has used up are filled again; None where something remains."""
    if "ratelimit" not in headers and not any("remaining" in name and _is_zero(headers[name]) for name in headers):
        return None
    known = [each for each in budgets(headers) if each.is_exhausted and not _fills_evenly(each)]
    return max((each.reset_seconds for each in known if each.reset_seconds), default=None)


def budgets(headers: Mapping[str, str]) -> list[Budget]:
    """The budgets that a reply's headers tell of, in any of the known spellings.

    `x-ratelimit-reset-requests-day`, `anthropic-ratelimit-tokens-reset`, `ratelimit-reset` and `ratelimit:
    "default";r=0;t=30` say the same in another order.
    """
    at = sent_at(headers)
    known = _of_one_header(headers.get("ratelimit", ""), at)
    for name, value in headers.items():
        words = name.replace("rate-limit", "ratelimit").split("-")
        if not any(word.startswith("ratelimit") for word in words):
            continue
        what = next((word for word in words if word in ("remaining", "reset", "limit")), None)
        if what is None:
            continue
        key = "-".join(word for word in words if word not in (what, "after", "ms"))
        budget = known.get(key, Budget(key))
        if what == "reset":
            seconds = reset_seconds(value, at, 1e-3 if words[-1] == "ms" else 1.0)
            budget = budget._replace(reset_seconds=seconds if seconds is not None else budget.reset_seconds)
        elif what == "limit":
            budget = budget._replace(limit=amount(value))
        else:
            budget = budget._replace(remaining=amount(value))
        known[key] = budget
    return list(known.values())


def reset_seconds(value: object, at: datetime, unit: float = 1.0) -> float | None:
    """Seconds from `at` until a reset, which is a number, a Go duration, a time since 1970 or a date.

    What is negative, infinite, absurdly far away or unreadable gives None.
    """
    text = str(value).strip().strip('"') if isinstance(value, str | int | float) else ""
    number = _number(text)
    if number is None:
        seconds = go_duration(text)
        date = None if seconds is not None else _date(text) or _http_date(text)
        seconds = (date - at).total_seconds() if date else seconds
    elif number * unit < _FIRST_TIME:
        seconds = number * unit
    else:
        while number >= 100 * _FIRST_TIME:  # milliseconds, microseconds, nanoseconds
            number /= 1000
        seconds = number - at.timestamp()
    return _in_bounds(seconds)


def go_duration(text: str) -> float | None:
    """Seconds of a Go duration ("1s", "6m0s", "120ms", time.ParseDuration); None for anything else."""
    return _span_seconds(text) if _GO_SPAN.fullmatch(text) else None


def sentence_seconds(text: str, at: datetime) -> float | None:
    """The wait that a sentence asks for: "try again in 7m12s", "until 2026-11-29T00:00:00Z", "resets at 00:00 UTC"."""
    if span := _SPAN_SENTENCE.search(text):
        return _in_bounds(_span_seconds(span[1]))
    if bare := _BARE_SENTENCE.search(text):
        return reset_seconds(bare[1], at)
    if date := _DATE_SENTENCE.search(text):
        due = _date(date[1], _CHINA if re.search(r"[\u4e00-\u9fff]", text) else UTC)
        return _in_bounds((due - at).total_seconds()) if due else None
    if http := _HTTP_DATE_SENTENCE.search(text):
        return reset_seconds(http[1], at)
    if clock := _CLOCK_SENTENCE.search(text):
        zone = (clock[3] or clock[4]).upper()
        hours = int(clock[1] or 0) + (0 if zone in ("UTC", "GMT") else _PACIFIC_HOURS)
        due = at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(hours=hours, minutes=int(clock[2] or 0))
        return (due - at).total_seconds() % 86_400.0
    return None


def amount(text: str | None) -> float | None:
    """A header's count; None if there is none, or it is negative or absurd."""
    number = _number(text) if text else None
    return number if number is not None and 0 <= number <= 1e15 else None


def until(seconds: float) -> str:
    """When a wait of so many seconds ends, for people: `until 2026-11-28 18:14 UTC`."""
    return f"until {datetime.now(UTC) + timedelta(seconds=min(seconds, _MOST_SECONDS)):%Y-%m-%d %H:%M} UTC"


def _is_zero(text: str) -> bool:
    return not text.strip(" 0.") and "0" in text


def _fills_evenly(budget: Budget) -> bool:
    """Whether a budget may be one that refills evenly: such a one always says that it is full in about a minute."""
    return _EVEN_MINUTE[0] <= (budget.reset_seconds or 0) <= _EVEN_MINUTE[1] and budget.name.startswith("x-ratelimit-")


def _of_one_header(text: str, at: datetime) -> dict[str, Budget]:
    """The IETF's `ratelimit` header, in its older form (one budget) or its newer one (several)."""
    known: dict[str, Budget] = {}
    for form in [text] if "reset=" in text else text.split(","):
        left = re.search(r"\b(?:remaining|r)=(\d+)", form)
        reset = re.search(r"\b(?:reset|t)=(\d+)", form)
        if left or reset:
            name = f"ratelimit {len(known)}"
            remaining, seconds = amount(left[1]) if left else None, reset_seconds(reset[1], at) if reset else None
            known[name] = Budget(name, remaining=remaining, reset_seconds=seconds)
    return known


def _span_seconds(text: str) -> float:
    return sum(float(count if count[0].isdigit() else 1) * _unit_seconds(unit) for count, unit in _PART.findall(text))


def _unit_seconds(unit: str) -> float:
    return next(seconds for names, seconds in _UNITS if re.fullmatch(names, unit, re.IGNORECASE))


def _in_bounds(seconds: float | None) -> float | None:
    return seconds if seconds is not None and 0 <= seconds <= _MOST_SECONDS else None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _date(text: str, zone: timezone = UTC) -> datetime | None:
    """An ISO date, also as people write it: `2026-10-01 at 00:00 UTC`. Without a zone it is in `zone`."""
    plain = re.sub(r"\s*(?:UTC|GMT)$", "+00:00", re.sub(r"\s+(?:at\s+)?(?=\d)", "T", text.strip()), flags=re.IGNORECASE)
    try:
        date = datetime.fromisoformat(re.sub(r"\s+", "", plain))
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=zone)


def _http_date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
