"""The cheapest route that is done in time is chosen from plain facts."""

import pytest

from tidemill.models.choosing import FEW_ROWS, Facts, choose, refuses_flex, takes_flex

HOUR, OPENAI = 3600.0, "api.openai.com/v1"
MANY, FEW = 1000, FEW_ROWS - 1


@pytest.mark.parametrize(
    ("rows", "seconds_left", "has_batch_api", "can_flex", "batch_seconds", "route"),
    [
        (FEW, None, True, True, HOUR, "online"),
        (FEW_ROWS, None, True, True, HOUR, "batch"),
        (MANY, None, True, False, 20 * HOUR, "batch"),
        (MANY, None, False, True, HOUR, "flex"),
        (MANY, None, False, False, HOUR, "online"),
        (FEW, 6 * HOUR, True, True, HOUR, "batch"),  # a deadline says that there is time
        (MANY, 6 * HOUR, True, True, HOUR, "batch"),
        (MANY, 1.25 * HOUR, True, True, HOUR, "batch"),
        (MANY, 1.24 * HOUR, True, True, HOUR, "flex"),  # a quarter of an hour is kept free
        (MANY, HOUR, True, False, HOUR, "online"),
        (MANY, 600, True, True, 420, "batch"),  # learned: they take 7 minutes there
        (MANY, 600, True, True, 480, "flex"),
        (MANY, 6 * HOUR, True, True, 8 * HOUR, "flex"),
        (MANY, 6 * HOUR, False, False, HOUR, "online"),
        (MANY, -5.0, True, True, HOUR, "flex"),
    ],
)
def test_the_cheapest_route_in_time_is_chosen(
    rows: int, seconds_left: float | None, has_batch_api: bool, can_flex: bool, batch_seconds: float, route: str
) -> None:
    choice = choose(Facts(rows, seconds_left, None if has_batch_api else "it has none", can_flex, batch_seconds))
    assert choice.route == route
    assert choice.reason and not choice.reason.endswith(".")


@pytest.mark.parametrize(
    ("model", "server", "takes", "refuses"),
    [
        ("gpt-5-mini", OPENAI, True, False),
        ("openai/gpt-5", OPENAI, True, False),
        ("gpt-6.1-sol", OPENAI, True, False),
        ("gpt-6-luna", OPENAI, True, False),
        ("gpt-6.2-sol", OPENAI, False, True),
        ("gpt-7", OPENAI, False, True),
        ("gpt-10-mini", OPENAI, False, True),
        ("gpt-4.1", OPENAI, False, True),
        ("o3", OPENAI, True, False),
        ("o4-mini-2025-04-16", OPENAI, True, False),
        ("something-new", OPENAI, False, False),
        ("gpt-6.2-sol", "localhost:8000/v1", False, False),
        ("gpt-5-mini", "api.groq.com/openai/v1", False, False),  # there it saves nothing
    ],
)
def test_it_is_known_of_models_of_openai_whether_they_are_served_at_flex(
    model: str, server: str, takes: bool, refuses: bool
) -> None:
    assert (takes_flex(model, server), refuses_flex(model, server)) == (takes, refuses)
