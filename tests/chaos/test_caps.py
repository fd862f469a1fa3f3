"""A cap holds while workers are killed: the small version of `python -m tests.chaos.capped`."""

from pathlib import Path

import pytest

from tests.chaos.capped import FAULTS, check, most_of_a_call, run_under_cap
from tests.flows.tidemill import Tidemill
from tidemill.models.settings import settings
from tidemill.simulator import Simulator


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_two_workers_that_are_killed_spend_no_more_than_the_cap(
    database: str, simulator: Simulator, tmp_path: Path
) -> None:
    """B1, B10: the provider's own bill is the judge, and less than the price of a call is left."""
    simulator.control(latency_ms=60, faults=FAULTS)
    user = Tidemill(
        {
            "TIDEMILL_HOME": str(settings().home),
            "TIDEMILL_DATABASE_URL": settings().database_url or "",
            "TIDEMILL_LEASE_SECONDS": "3",
            "OPENAI_BASE_URL": simulator.url,
        },
        tmp_path,
    )
    outcome = run_under_cap(user, simulator, 10 * most_of_a_call(), rows=100, kills=1, processes=2, window=20)
    print(outcome, database)
    check(outcome)
