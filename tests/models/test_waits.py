"""A wait is understood in every header, field and sentence in which servers announce one, and nonsense is nothing."""

from datetime import UTC, datetime

import pytest

from tidemill.models.waits import asked_seconds, exhausted_seconds, reset_seconds, sentence_seconds

AT = datetime(2026, 11, 28, 13, 0, tzinfo=UTC)
DATE = {"date": "Sat, 28 Nov 2026 13:00:00 GMT"}
HOUR, DAY = 3600.0, 86_400.0

NONSENSE: tuple[object, ...] = (
    "", None, "-1s", "-1", "soon", "1.2.3s", "NaN", "inf", "9e9", "1e", "1e400", "99999999h", True, [], {},
    "1764345600", "2025-11-28T14:00:00Z", "Sun, 99 Nov 2026 10:00:00 GMT", "2999-01-01", 10**400,
)  # fmt: skip
RESETS: list[tuple[object, float | None]] = [
    ("1s", 1), ("6m0s", 360), ("5h12m0s", 18_720), ("120ms", 0.12), ("1h2m3.5s", 3723.5), ("2m59.56s", 179.56),
    ("12", 12), (12, 12), (1.5, 1.5), ("500µs", 0.0005), ("34200.5s", 34_200.5), ("1d2h", 93_600), ("0s", 0), ("0", 0),
    ("1795874400", HOUR), ("1795874400000", HOUR), (1795874400000, HOUR), ("1795874400.0", HOUR),
    ("2026-11-28T14:00:00Z", HOUR), ("2026-11-28T14:00:00.123456789+00:00", HOUR), ("2026-11-28 15:00+01:00", HOUR),
    ("Sat, 28 Nov 2026 14:00:00 GMT", HOUR),
]  # fmt: skip


@pytest.mark.parametrize(("value", "seconds"), [*RESETS, *((each, None) for each in NONSENSE)])
def test_a_reset_is_a_span_a_time_or_a_date(value: object, seconds: float | None) -> None:
    assert reset_seconds(value, AT) == (None if seconds is None else pytest.approx(seconds, abs=0.2))


SENTENCES: list[tuple[str, float | None]] = [
    ("Please try again in 7m12s. Visit https://x.test/limits to learn more.", 432),
    ("Rate limit reached: Limit 3, Used 3, Requested 1. Please try again in 20s.", 20),
    ("Please try again in 1h2m3.5s.", 3723.5),
    ("Please retry in 26.465s", 26.465),
    ("try again in 120ms", 0.12),
    ("Try again in 6 minutes", 360),
    ("Try again in 1 hour, 5 minutes", 3900),
    ("try again in 2 hours and 30 minutes", 9000),
    ("Please try again in an hour.", HOUR),
    ("retry after 30 seconds", 30),
    ("Please retry after 86400 seconds. Please go here to increase it.", DAY),
    ("Please wait 52220 seconds before retrying.", 52_220),
    ("Your rate limit resets in ~9s.", 9),
    ("Your quota will reset after 3h15m.", 11_700),
    ("Expected quota reset within 24h.", DAY),
    ("请在 30 秒后重试", 30),
    ("wait until 2026-11-29T00:00:00Z", 11 * HOUR),
    ("You will regain access on 2026-12-01 at 00:00 UTC.", 59 * HOUR),
    ("Your limit will reset at 2026-11-28 15:30:00", 2.5 * HOUR),
    ("您的限额将在 2026-11-28 23:41:44 重置。", 9704),
    ("available again at Sun, 29 Nov 2026 00:00:00 GMT", 11 * HOUR),
    ("Requests are disabled until UTC midnight.", 11 * HOUR),
    ("The quota will be reset at midnight Pacific Time (PT)", 19 * HOUR),
    ("It resets daily at 00:00 UTC", 11 * HOUR),
    ("try again later", None),
    ("Try again tomorrow", None),
    ("Your limit resets every 24 hours", None),
    ("The model answered in 20s, which is too slow", None),
    ("Your limit will reset at 2025-11-22 15:30:00", None),
    ("retry-after: 12", 12),
    ("", None),
]


@pytest.mark.parametrize(("sentence", "seconds"), SENTENCES)
def test_a_sentence_says_how_long(sentence: str, seconds: float | None) -> None:
    assert sentence_seconds(sentence, AT) == (None if seconds is None else pytest.approx(seconds))


EXHAUSTED: list[tuple[dict[str, str], float | None]] = [
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "5h12m0s"}, 18_720),
    ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1795874400"}, HOUR),
    ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795874400000"}, HOUR),
    ({"x-rate-limit-remaining": "0", "x-rate-limit-reset": "1795874400"}, HOUR),
    ({"x-ratelimit-remaining-requests-day": "0", "x-ratelimit-reset-requests-day": "33011.38"}, 33_011.38),
    ({"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "2026-11-28T14:00:00Z"},
     HOUR),
    ({"ratelimit-remaining": "0", "ratelimit-reset": "3600"}, HOUR),
    ({"ratelimit": '"default";r=0;t=3600, "burst";r=3;t=9'}, HOUR),
    ({"ratelimit": "limit=100, remaining=0, reset=3600"}, HOUR),
    ({"ratelimit": '"default";r=1;t=3600'}, None),
    ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "5h12m0s"}, None),
    ({"x-ratelimit-remaining-requests": "0"}, None),
    ({"x-ratelimit-reset-requests": "5h12m0s"}, None),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0s"}, None),  # it refills evenly
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "5h", "x-ratelimit-limit-requests": "0"},
     None),
    ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "5h"}, None),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "99999999h"}, None),
    ({}, None),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "seconds"), EXHAUSTED)
def test_a_reply_that_used_up_its_budget_says_until_when(headers: dict[str, str], seconds: float | None) -> None:
    assert exhausted_seconds(DATE | headers) == seconds


def test_a_reset_is_read_against_the_replys_own_date() -> None:
    early = {"date": "Sat, 28 Nov 2026 12:00:00 GMT", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795874400"}
    assert exhausted_seconds(early) == 2 * HOUR


Fields = list[tuple[str, object]]
ASKED: list[tuple[dict[str, str], Fields, str, float | None]] = [
    ({"retry-after": "7"}, [("retry_after", 9)], "Try again in 20s.", 7),
    ({"retry-after-ms": "250", "retry-after": "7"}, [], "", 0.25),
    ({"x-ms-retry-after-ms": "1500"}, [], "", 1.5),
    ({"retry-after": "1795874400"}, [], "", HOUR),
    ({"retry-after": "0"}, [("retryDelay", "34200.5s")], "", 34_200.5),
    ({"retry-after": "0"}, [], "", 0),
    ({}, [("retryDelay", "45.837906927s")], "", 45.837906927),
    ({}, [("retry_after_ms", 1500)], "", 1.5),
    ({}, [("retry_after", "12")], "", 12),
    ({}, [("retry_after_seconds", 12.5)], "Try again in 20s.", 12.5),
    ({}, [("resets_in_seconds", 7200)], "", 7200),
    ({}, [("resets_at", 1795874400)], "", HOUR),
    ({}, [("quotaResetTimeStamp", "2026-11-28T14:00:00Z")], "", HOUR),
    ({}, [("headers", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795910400000"})], "free-models", 11 * HOUR),
    ({"x-ratelimit-reset": "1795874400"}, [], "", HOUR),
    ({"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-tokens": "0",
      "x-ratelimit-reset-tokens": "6m0s"}, [], "", 360),
    ({"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "5h"}, [], "", None),
    ({}, [("retry_after", True), ("retry", 3), ("attempts", 3), ("retry_after", -5)], "", None),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "fields", "message", "seconds"), ASKED)
def test_an_error_asks_for_a_wait_anywhere(
    headers: dict[str, str], fields: Fields, message: str, seconds: float | None
) -> None:
    assert asked_seconds(DATE | headers, fields, message) == (None if seconds is None else pytest.approx(seconds))
