"""What the provider's headers say is understood, and nonsense in them is nothing."""

import pytest

from worker.bucket import go_duration

DURATIONS = {"1s": 1, "6m0s": 360, "120ms": 0.12, "1h2m3.5s": 3723.5, "2m59.56s": 179.56, "12": 12, "500µs": 0.0005}
NO_DURATIONS = ["0s", "", None, "-1s", "soon", "1.2.3s", "NaN", "9e9", "1e"]


@pytest.mark.parametrize(
    ("text", "seconds"), [*DURATIONS.items(), ("99999999h", 86_400), *((no, 0) for no in NO_DURATIONS)]
)
def test_go_durations(text: str | None, seconds: float) -> None:
    assert go_duration(text) == pytest.approx(seconds)
