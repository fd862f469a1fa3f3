"""How fast a batch is, and what its failures ask of its owner, is worked out from a few numbers and words."""

import pytest

from tidemill.producer.batches.outlook import Rate, advice, rate


@pytest.mark.parametrize(
    ("ages", "expected"),
    [
        ([], None),
        ([3.0], None),
        ([700.0, 800.0], None),
        ([0.5 * n for n in range(1, 101)], Rate(2.0, 50.0)),  # all of the sample: in its own time
        ([1.0 * n for n in range(1, 101)], Rate(1.0, 60.0)),
        ([100.0 * n for n in range(1, 9)], Rate(0.01, 600.0)),  # too few in the last minute
        ([0.1] * 400, Rate(400.0, 1.0)),
        ([1.0, *[5_000.0] * 9] * 40, None),  # tried again here and there
        ([30.0, 2.0, 700.0, 20.0, *[5_000.0] * 90], Rate(0.005, 600.0)),
    ],
)
def test_the_pace_is_that_of_the_last_minute_if_it_says_enough(ages: list[float], expected: Rate | None) -> None:
    assert rate(ages) == expected


def test_every_advice_names_the_batch_or_something_to_change() -> None:
    assert advice("server_error", "b") == "`tidemill retry b` asks again, then `tidemill watch b`"
    assert "`tidemill retry b`" in advice("worker_lost", "b")
