"""The row of a budget is what all claims under a cap wait for, so whoever ends a call changes it last."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, event, insert

from tests.rows import MODEL, add_batch, add_jobs, failure, rescuer, success, take
from tidemill.models import budgets
from tidemill.models.bookings import BATCH, FLEET
from tidemill.models.claims import Claimed
from tidemill.models.clock import now
from tidemill.models.database import transact, writing
from tidemill.models.money import USD_E9
from tidemill.models.options import Options
from tidemill.models.settling import settle
from tidemill.models.tables import fine_tunes
from tidemill.models.transitions import cancel, release, rescue

_WRITTEN = re.compile(r"(?:(?<!FOR )UPDATE|INTO|DELETE FROM) \"?(\w+)")

pytestmark = pytest.mark.usefixtures("database")


@contextmanager
def written_tables() -> Iterator[list[str]]:
    """The tables that statements write meanwhile, in their order."""
    tables: list[str] = []

    def note(*of: object) -> None:
        tables.extend(_WRITTEN.findall(str(of[2])))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield tables
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture
def jobs_under_way() -> list[Claimed]:
    """Two calls that have reserved, and a fine-tune that has."""
    add_batch(options=Options(MODEL, max_tokens=10).to_json())
    with writing() as connection:
        for kind, name in ((BATCH, "b"), (FLEET, "")):
            budgets.set_cap(connection, kind, name, USD_E9)
    claimed = take(add_jobs(3))
    with writing() as connection:
        tune = {"job_id": claimed[2].id, "reserved_usd_e9": 5, "reserved_at": now(), "created_at": now()}
        connection.execute(insert(fine_tunes).values(round=1, dataset_id="d", **tune))
    return claimed


ENDS: dict[str, Callable[[list[Claimed]], object]] = {
    "settle": lambda claimed: transact(
        lambda connection: settle(connection, [success(claimed[0]), failure(claimed[1]), failure(claimed[2])])
    ),
    "rescue": lambda _: transact(lambda connection: rescue(connection, rescuer(dead=["w1"]))),
    "release": lambda _: transact(lambda connection: release(connection, "w1")),
    "cancel": lambda _: transact(lambda connection: cancel(connection, "b")),
}


@pytest.mark.parametrize("end", ENDS)
def test_budgets_are_the_last_that_the_end_of_a_call_locks(jobs_under_way: list[Claimed], end: str) -> None:
    with written_tables() as tables:
        ENDS[end](jobs_under_way)
    assert (tables.count("budgets"), tables[-1]) == (1, "budgets")


def test_budgets_are_the_last_that_forgiving_locks(jobs_under_way: list[Claimed]) -> None:
    ENDS["release"](jobs_under_way)
    with written_tables() as tables:
        transact(lambda connection: budgets.forgive(connection, "b"))
    assert (tables.count("budgets"), tables[-1]) == (1, "budgets")
