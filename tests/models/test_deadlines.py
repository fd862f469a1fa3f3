"""When a batch must go online to be done by its deadline is arithmetic, with what was learned of the provider."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from tests.rows import PROVIDER, add_batch, add_jobs, set_job
from tests.waiting import limit
from tidemill.models import deadlines
from tidemill.models.clock import now, now_after
from tidemill.models.database import reading, writing
from tidemill.models.settings import settings
from tidemill.models.tables import upstream_batches

HOUR, MINUTE = 3600.0, 60.0


@pytest.mark.parametrize(
    ("whole", "margin"),
    [(6 * HOUR, 15 * MINUTE), (HOUR, 15 * MINUTE), (10 * MINUTE, 150), (MINUTE, 15), (8, 2), (0, 0), (-5, 0)],
)
def test_a_quarter_of_an_hour_is_kept_free_or_a_quarter_of_the_time(whole: float, margin: float) -> None:
    assert deadlines.margin_seconds(whole) == margin


@pytest.mark.parametrize(
    ("rest", "rows_per_second", "whole", "lead"),
    [
        (10_000, 10.0, 6 * HOUR, 1500 + 900),
        (0, 10.0, 6 * HOUR, 900),
        (10_000, 0.5, 6 * HOUR, 30_000 + 900),  # more than there is: at once
        (100, 10.0, 10 * MINUTE, 15 + 150),
        (12, 6.0, 8, 3 + 2),
    ],
)
def test_the_rest_goes_online_while_it_can_still_be_done(
    rest: int, rows_per_second: float, whole: float, lead: float
) -> None:
    assert deadlines.lead_seconds(rest, rows_per_second, whole) == pytest.approx(lead)


@pytest.mark.parametrize(
    ("durations", "seconds"),
    [
        ([], HOUR),
        ([60.0] * 4, HOUR),  # too few to say so
        ([60.0, 9 * HOUR], 9 * HOUR),  # but long enough to warn
        ([60.0] * 5, 60.0),
        ([float(n) for n in range(1, 11)], 9.0),
        ([420.0] * 19 + [86_400.0], 420.0),
    ],
)
def test_nine_of_ten_batches_say_how_long_they_take(durations: list[float], seconds: float) -> None:
    assert deadlines.p90(durations) == seconds


def _every(seconds: float, rows: int) -> list[datetime]:
    return [datetime(2026, 11, 29, tzinfo=UTC) + timedelta(seconds=seconds * i) for i in range(rows)]


@pytest.mark.parametrize(
    ("finished", "rows_per_second"),
    [
        (_every(0.5, 100), 2.0),
        ([*_every(0.5, 100), datetime(2026, 11, 29, 9, tzinfo=UTC)], 2.0),  # one that came hours later
        (_every(0.5, 20), None),
        (_every(0.0, 100), None),
        ([], None),
    ],
)
def test_rows_that_ended_say_how_fast_it_goes(finished: list[datetime], rows_per_second: float | None) -> None:
    assert deadlines.rate(finished) == (rows_per_second and pytest.approx(rows_per_second))


def add_upstream(batch_id: str = "b", **values: Any) -> None:
    """An upstream batch of a batch."""
    given = {"token": secrets.token_hex(4), "step": "follow", "model": "m", "endpoint": "e", "due_at": now()}
    given |= {"created_at": now(), "provider": PROVIDER}
    with writing() as connection:
        connection.execute(insert(upstream_batches).values(batch_id=batch_id, **(given | values)))


def test_how_long_batches_take_is_learned_from_those_that_the_provider_has_run(database: str) -> None:
    with reading() as connection:
        assert deadlines.batch_seconds(connection, PROVIDER) == HOUR
    for number in range(10):
        took: dict[str, Any] = {"sent_at": now_after(-100.0 - number), "ended_at": now_after(0.0)}
        add_upstream(status="COMPLETED" if number % 2 else "succeeded", token=f"done {number}", **took)
        add_upstream(status="cancelled", token=f"cancelled {number}", sent_at=now_after(-9.0), ended_at=now_after(0.0))
        add_upstream(status="completed", token=f"other {number}", provider="another", **took)
    with reading() as connection:
        assert deadlines.batch_seconds(connection, PROVIDER) == pytest.approx(108, abs=limit(2))


def test_how_fast_rows_end_online_is_learned_from_the_latest_batch_that_says_it(database: str) -> None:
    with reading() as connection:
        assert deadlines.live_rate(connection, PROVIDER) == settings().window / 10
    add_batch("slow", created_at=now_after(-50.0))
    add_batch("fast", created_at=now_after(-40.0))
    add_batch("short")
    for batch_id, step in (("slow", 1.0), ("fast", 0.25)):
        for number, job_id in enumerate(add_jobs(40, batch_id)):
            set_job(
                job_id,
                state="succeeded",
                finished_at=datetime(2026, 11, 29, tzinfo=UTC) + number * timedelta(seconds=step),
            )
    with reading() as connection:
        assert deadlines.live_rate(connection, PROVIDER) == pytest.approx(4.0)
