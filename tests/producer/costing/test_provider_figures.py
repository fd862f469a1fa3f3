"""What the provider says stands beside the ledger, by day, and a difference is named."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import UseEnvironment
from tests.rows import add_batch, add_jobs, failure, put, success, take
from tidemill.models.bill import Span, UpstreamUse
from tidemill.producer.costing import provider_figures
from tidemill.producer.costing.provider_figures import Day, Figures
from tidemill.simulator import Simulator

UNIT = 10**12
TODAY = f"{datetime.now(UTC):%Y-%m-%d}"


@pytest.fixture
def server(embedded_home: Path, simulator: Simulator, use_environment: UseEnvironment) -> Simulator:
    """A provider that tells its costs to `admin`; here one answer was booked, and one call was cut off."""
    simulator.control(admin_key="admin", usd_per_million="1000/2000")
    use_environment({"OPENAI_BASE_URL": simulator.url, "OPENAI_API_KEY": "k", "OPENAI_ADMIN_KEY": "admin"})
    add_batch()
    answered, cut = take(add_jobs(2))
    put(success(answered), failure(cut, error_code="connection_cut"))
    return simulator


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("since", [None, "2025-01-01"])
def test_each_day_of_the_ledger_is_compared_however_far_back(since: str | None) -> None:
    figures = provider_figures.look(Span(since=since))
    assert (figures.note, figures.lost) == ("", 1)
    assert [each for each in figures.days if each.ours_e12] == [Day(TODAY, UNIT // 4, 0)]
    assert "The provider says less" in figures.lines()[-1]


@pytest.mark.usefixtures("server")
def test_what_cannot_be_compared_is_a_sentence(use_environment: UseEnvironment) -> None:
    assert "leave the batch out" in provider_figures.look(Span("b")).note
    for key, words in (("k", "does not let this OPENAI_ADMIN_KEY read costs (HTTP 403)"), ("", "set OPENAI_ADMIN_KEY")):
        use_environment({"OPENAI_ADMIN_KEY": key})
        assert words in provider_figures.look(Span()).note
    use_environment({"OPENAI_ADMIN_KEY": '"quoted"'})
    assert "OPENAI_ADMIN_KEY: begins or ends with a quote" in provider_figures.look(Span()).note


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://api.openai.com/v1", False),
        ("https://api.openai.com.example/v1", False),
        ("https://notapi.openai.com.de/v1", False),
        ("http://127.0.0.1.example/v1", False),
        ("https://openrouter.ai/api/v1", False),
    ],
)
def test_the_admin_key_goes_to_openai_and_to_this_machine_only(url: str, may: bool) -> None:
    assert provider_figures._may_have_key(url) is may


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (1_000 * UNIT, "They agree to a thousandth."),
        (1_002 * UNIT, "It may be other programs, keys or projects of the organization; or 2 lost calls"),
        (990 * UNIT, "The provider says less"),
    ],
)
def test_a_difference_is_named_with_what_may_explain_it(theirs: int, words: str) -> None:
    figures = Figures([], [Day(TODAY, 1_000 * UNIT, theirs)], "", 2, 0, {"gpt-6-luna, input": theirs})
    assert words in "\n".join(figures.lines())


def test_days_are_read_whatever_the_server_writes() -> None:
    amounts = (
        {"value": 0.06, "currency": "usd"},
        {"value": "0.000000001", "currency": "USD"},
        {"value": 9, "currency": "eur"},
    )
    results = [{"line_item": "a", "amount": amount} for amount in amounts]
    odd: list[dict[str, Any]] = [{"start_time": "x"}, {"start_time": 0, "results": None}]
    odd += [{"start_time": 0, "results": [None, {"amount": 3}]}]
    days, items = provider_figures._added_up([{"start_time": 86_400, "results": results}, *odd])
    assert days == {"1970-01-02": 60_000_001_000}
    assert items == {"a": 60_000_001_000}


def test_the_usage_of_an_upstream_batch_is_compared_with_its_lines() -> None:
    use = UpstreamUse(1, "b", "batch_1", {"usage": {"input_tokens": 30, "output_tokens": 15}}, 3, 30, 15)
    cases = [(use, "as the provider says"), (use._replace(input_tokens=20), "30 + 15 by the provider"),
             (use._replace(remote={}), "tells no usage")]  # fmt: skip
    for each, words in cases:
        assert words in Figures([each], [], "-").lines()[2]
