"""The command that reads the rows decides how they go out, and says so; contradictions are refused at the front."""

from typing import Any

import pytest

from tests.conftest import UseEnvironment
from tests.producer.batches.test_submit import order, prompts
from tests.rows import batch_row, count
from tidemill.models.choosing import Choice
from tidemill.models.errors import OptionError
from tidemill.models.options import Options
from tidemill.models.tables import batches
from tidemill.producer.asking.estimate import estimate
from tidemill.producer.batches.routing import sentence
from tidemill.producer.batches.spending import spending_of
from tidemill.producer.batches.submit import open_batch, submit
from tidemill.simulator import Simulator

MODEL = "gpt-5-mini"
SHARES = {"online": 1.0, "batch": 0.5}


@pytest.fixture(autouse=True)
def _server(embedded_home: object, simulator: Simulator, use_environment: UseEnvironment) -> None:
    use_environment({"OPENAI_BASE_URL": simulator.url, "OPENAI_API_KEY": "k"})


def submitted(rows: int, options: Options | None = None, **spending: Any) -> tuple[str, list[str]]:
    """The route that so many rows got, and what was said."""
    said: list[str] = []
    values: dict[str, Any] = {"options": options or Options(MODEL), "on_bad_row": said.append, "new": True}
    opened = open_batch(order(prompts(rows), spending=spending_of(**spending), **values))
    submit(opened)
    return batch_row(opened.batch_id).route, said


@pytest.mark.parametrize(
    ("rows", "spending", "route", "words"),
    [
        (49, {"route": "auto"}, "online", "so few rows"),
        (50, {"route": "auto"}, "batch", "Route: batch, at half the price; 9 of 10"),
        (2, {"deadline": "6h"}, "batch", "at half the price"),
        (60, {"deadline": "30m"}, "online", "the deadline leaves 22 min"),
        (60, {"deadline": "30m", "route": "batch"}, "batch", None),
        (60, {}, "online", None),
    ],
)
def test_a_route_is_chosen_once_the_rows_are_known(
    rows: int, spending: dict[str, Any], route: str, words: str | None
) -> None:
    got, said = submitted(rows, **spending)
    assert got == route
    assert len(said) == (words is not None) and (words is None or words in said[0]), said


def test_a_batch_that_a_killed_command_left_is_chosen_for_by_the_next_one() -> None:
    opened = open_batch(order(prompts(60), spending=spending_of(route="auto"), options=Options(MODEL), source_name="p"))
    assert batch_row(opened.batch_id).route == "auto"
    again = open_batch(order(prompts(60), options=Options(MODEL), source_name="p"))
    submit(again)
    assert (again.batch_id, batch_row(opened.batch_id).route) == (opened.batch_id, "batch")


def test_without_a_batch_api_auto_goes_online_and_batch_is_refused(simulator: Simulator) -> None:
    simulator.control(no_batches=True)
    route, said = submitted(60, route="auto")
    assert route == "online" and "the server has no Batch API" in said[0]
    before = count(batches)
    with pytest.raises(OptionError, match="no Batch API"):
        submitted(60, route="batch")
    assert count(batches) == before


@pytest.mark.parametrize(
    ("server", "options", "route", "words"),
    [
        (None, Options(MODEL, params={"service_tier": "priority"}), "flex", "both name a tier"),
        (None, Options(MODEL, params={"service_tier": "flex"}), "batch", "both name a tier"),
        ("https://api.openai.com/v1", Options("gpt-6.2-sol"), "flex", "not served at flex"),
        ("https://openrouter.ai/api/v1", Options(MODEL), "batch", "another shape"),
    ],
)
def test_what_can_never_work_is_refused_before_anything_is_stored(
    use_environment: UseEnvironment, server: str | None, options: Options, route: str, words: str
) -> None:
    if server:
        use_environment({"OPENAI_BASE_URL": server})
    with pytest.raises(OptionError, match=words):
        submitted(1, options, route=route)
    assert count(batches) == 0


def test_the_sentence_names_no_price_that_is_not_known() -> None:
    assert sentence(Choice("batch", "why"), "nobody-sells-this") == "Route: batch; why."
    assert sentence(Choice("online", "why"), MODEL) == "Route: online; why."


@pytest.mark.parametrize(
    ("rows", "spending", "route", "words"),
    [
        (49, {"route": "auto"}, "online", "route: auto, which is online\n  so few rows are not worth"),
        (50, {"route": "auto"}, "batch", "route: auto, which is batch, at half the price; online: at most $"),
        (60, {"deadline": "30m"}, "online", "the deadline leaves 22 min"),
    ],
)
def test_a_dry_run_says_what_would_be_chosen(rows: int, spending: dict[str, Any], route: str, words: str) -> None:
    counted = estimate(order(prompts(rows), spending=spending_of(**spending), options=Options(MODEL, max_tokens=100)))
    assert counted.route == route and words in counted.text()
    assert counted.total_usd == pytest.approx((counted.most_online_usd or counted.total_usd or 0.0) * SHARES[route])
    assert count(batches) == 0
