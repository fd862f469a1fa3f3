"""A model that ends soon is said, one that has ended is refused, and only OpenAI's own server has these dates."""

from datetime import date

import pytest

from tidemill.models.errors import SettingsError
from tidemill.models.shutdown import HOST, check, shutdown_date

TODAY = date(2026, 11, 25)


@pytest.mark.parametrize(
    ("model", "end"),
    [
        ("gpt-4.1", date(2027, 1, 14)),
        ("gpt-4.1-2025-04-14", date(2027, 1, 14)),
        ("openai/gpt-4o-mini", date(2027, 1, 14)),
        ("gpt-4o-2024-05-13", date(2026, 10, 23)),  # earlier than gpt-4o
        ("gpt-4-0613", date(2026, 10, 23)),
        ("gpt-5-mini", date(2026, 12, 11)),
        ("o3", date(2026, 12, 11)),
        ("ft:gpt-4.1-mini:acme:support:x1", date(2027, 1, 14)),
        ("ft:gpt-4.1-mini-2025-04-14:acme::x1", date(2027, 1, 14)),
        ("gpt-6-luna", None),
        ("gpt-4.1-of-my-own", None),
    ],
)
def test_the_date_of_a_model(model: str, end: date | None) -> None:
    assert shutdown_date(model, HOST) == shutdown_date(model, f"eu.{HOST}:443") == end


@pytest.mark.parametrize("provider", ["localhost:8000", "api.openai.com.example.org", "models.example.org"])
def test_another_server_has_its_own_models(provider: str) -> None:
    assert shutdown_date("gpt-4", provider) is None
    assert check("gpt-4", provider, TODAY) is None


def test_a_model_that_ends_within_sixty_days_is_said() -> None:
    assert check("gpt-4.1", HOST, TODAY) == (
        "gpt-4.1 is shut down by OpenAI on 2027-01-14, in 50 days; gpt-6-sol is a successor."
    )
    assert check("gpt-4.1", HOST, date(2026, 11, 1)) is None
    assert "in 1 day;" in (check("gpt-5", HOST, date(2026, 12, 10)) or "")


@pytest.mark.parametrize("today", [date(2026, 12, 11), date(2030, 1, 1)])
def test_a_model_that_has_ended_is_refused_with_one_that_lives(today: date) -> None:
    with pytest.raises(SettingsError, match=r"gpt-5-mini was shut down by OpenAI on 2026-12-11; name .* gpt-6-luna\."):
        check("gpt-5-mini", HOST, today)


def test_a_fine_tuned_model_ends_with_its_base() -> None:
    with pytest.raises(SettingsError, match=r"gpt-4\.1 was shut down .*, and what was tuned from it; name another"):
        check("ft:gpt-4.1:acme::x1", HOST, date(2027, 1, 14))


def test_no_successor_has_an_end_itself() -> None:
    from tidemill.models.shutdown import _ENDS

    assert {successor for _, successor, _ in _ENDS if shutdown_date(successor, HOST)} == set()
