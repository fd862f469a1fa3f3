"""Durations are read as people write them, and nothing else is taken for one; people read them in one way."""

import pytest

from tidemill.models.durations import in_words, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5_400),
        (" 1 h 30 M ", 5_400),
        ("1.5h", 5_400),
        ("90d", 7_776_000),
        ("2w", 1_209_600),
    ],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "m", "-5m", "0s", "10 minutes", "1e3s", "5ms", "1.2.3h", "nan", "9" * 300 + "d"]
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="10m"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3.0, "0 s"),
        (0.0, "0 s"),
        (0.043, "43 ms"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (5.0, "5 s"),
        (59.6, "1 min"),
        (98.0, "1 min 38 s"),
        (7_500.0, "2 h 05 min"),
        (273_600.0, "3 d 4 h"),
    ],
)
def test_a_duration_is_read_by_people(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
