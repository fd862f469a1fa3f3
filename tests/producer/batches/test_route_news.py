"""Why rows go online is said as it is: the server takes none, few are left, or there is no time."""

from datetime import UTC, datetime

import pytest

from tidemill.models.tables import STATES
from tidemill.producer.batches.progress import Progress
from tidemill.producer.batches.route_news import change


@pytest.mark.parametrize(
    ("before", "running", "ended", "words"),
    [
        ("8h", 12, 0, "The server does not take this model by 8h"),
        ("8h", 3, 97, "The last 3 rows go online."),
        ("batch", 3, 97, "The last 3 rows go online."),
    ],
)
def test_who_waits_hears_why_rows_go_online(before: str, running: int, ended: int, words: str) -> None:
    so_far = Progress({**dict.fromkeys(STATES, 0), "queued": running, "succeeded": ended}, route="online")
    assert change(before, so_far).startswith(words)


def test_rows_that_are_out_follow_at_a_deadline() -> None:
    so_far = Progress({**dict.fromkeys(STATES, 0), "running": 40}, at_provider=40, deadline_at=datetime.now(UTC))
    assert "40 rows at the provider will follow" in change("batch", so_far)
