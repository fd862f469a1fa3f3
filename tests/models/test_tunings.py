"""What servers say of their fine-tuning jobs is understood in every form that it comes in."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tidemill.models import tunings


@pytest.mark.parametrize(
    ("events", "order"),
    [
        ([{"created_at": 1}, {"created_at": 2}], 1),
        ([{"created_at": 2.5}, {"created_at": 2.1}], -1),
        ([{"created_at": "2026-11-25T10:00:00Z"}, {"created_at": "2026-11-25T09:00:00Z"}], -1),
        ([{"created_at": 1, "data": {"step": n, "train_loss": 0.5}} for n in (1, 2)], 1),
        ([{"created_at": 1}, {"created_at": 1}], 0),
        ([{"created_at": None}, {}], 0),
        ([], 0),
    ],
)
def test_the_order_of_a_list_is_seen_and_never_guessed(events: list[dict[str, Any]], order: int) -> None:
    assert tunings.order_of(events) == order


@pytest.mark.parametrize(
    ("remote", "trained", "ended"),
    [
        ({"status": "succeeded"}, True, True),
        ({"status": "Completed"}, True, True),
        ({"status": "done", "fine_tuned_model": "m", "finished_at": 7}, True, True),
        ({"status": "FAILED", "fine_tuned_model": "m", "finished_at": 7}, False, True),
        ({"status": "cancelled"}, False, True),
        ({"status": "paused", "fine_tuned_model": None}, False, False),
        ({}, False, False),
    ],
)
def test_an_end_is_known_by_its_word_or_by_what_it_left(remote: dict[str, Any], trained: bool, ended: bool) -> None:
    assert (tunings.is_trained(remote), tunings.has_ended(remote)) == (trained, ended)


@pytest.mark.parametrize(
    ("value", "time"),
    [
        (1_764_064_800, datetime(2025, 11, 25, 10, tzinfo=UTC)),
        (1_764_064_800_000, datetime(2025, 11, 25, 10, tzinfo=UTC)),
        ("1764064800.0", datetime(2025, 11, 25, 10, tzinfo=UTC)),
        ("2025-11-25T10:00:00", datetime(2025, 11, 25, 10, tzinfo=UTC)),
        ("2025-11-25T11:00:00+01:00", datetime(2025, 11, 25, 10, tzinfo=UTC)),
        ("yesterday", None),
        (None, None),
        ([], None),
        (1e300, None),
    ],
)
def test_a_time_is_read_in_seconds_milliseconds_or_words(value: object, time: datetime | None) -> None:
    assert tunings.time_of({"created_at": value}) == time


def test_an_event_without_an_id_is_known_by_what_it_says() -> None:
    assert tunings.event_id({"id": "e" * 300}) == "e" * 200
    nameless = {"id": "", "message": "step 1"}
    assert tunings.event_id(nameless) == tunings.event_id(dict(reversed(nameless.items())))
    assert tunings.event_id(nameless) != tunings.event_id({"id": "", "message": "step 2"})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"code": "invalid_file", "message": "Line 3."}, ("invalid_file", "Line 3.")),
        ({"code": None, "message": "Line 3.", "param": None}, (None, "Line 3.")),
        ({"code": 17}, ("17", None)),
        ("out of memory", (None, "out of memory")),
        ({}, (None, None)),
        (None, (None, None)),
    ],
)
def test_a_reason_is_an_object_or_a_text(error: object, reason: tuple[str | None, str | None]) -> None:
    assert tunings.reason_of({"status": "failed", "error": error}) == reason
