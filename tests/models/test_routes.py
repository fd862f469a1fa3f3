"""A route that is added is priced and explained, or a test here says what is missing."""

from pathlib import Path

import pytest

from tests.rows import MODEL
from tidemill.models import cost
from tidemill.models.routes import BATCH, FLEX, NOT_LIVE, ONLINE, ROUTES, UPSTREAM, WINDOWS
from tidemill.producer.costing.costs import GROUPINGS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ROUTES)
def test_a_route_costs_at_most_what_it_costs_online(name: str) -> None:
    own, online = cost.price(MODEL, ROUTES[name].tier), cost.price(MODEL)
    assert own is not None
    assert online is not None
    assert (own.output_usd_per_token < online.output_usd_per_token) == (name != ONLINE)


@pytest.mark.parametrize("name", ROUTES)
def test_a_route_stands_in_the_table_of_the_manual(name: str) -> None:
    rows = [line for line in (ROOT / "docs/routes.md").read_text().splitlines() if line.startswith("| `")]
    assert any(f"`{name}`" in row.split("|")[1] for row in rows)


def test_rows_of_a_route_are_either_called_by_a_worker_or_kept_by_the_provider() -> None:
    assert {ONLINE, FLEX} == ROUTES.keys() - set(NOT_LIVE)
    assert {BATCH, *WINDOWS} == set(UPSTREAM)
    assert all(ROUTES[name].place for name in UPSTREAM)


def test_the_help_of_costs_names_every_grouping() -> None:
    source = (ROOT / "producer/cli/money_commands.py").read_text()
    assert f"Add up by {', '.join(GROUPINGS[:-1])} or {GROUPINGS[-1]}." in source
