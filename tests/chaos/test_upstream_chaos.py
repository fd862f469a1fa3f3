"""Upstream batches while their workers are killed every moment: no line is lost, and none is paid for twice."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.site import Site, open_site
from tests.waiting import wait_until

BATCHES = int(os.environ.get("TIDEMILL_TEST_UPSTREAM_BATCHES", "0"))
KILLS = max(4, BATCHES // 2)
ROWS = 20

_STORE = """
from sqlalchemy import insert
from tidemill.models.clock import now
from tidemill.models.database import writing
from tidemill.models.options import Options
from tidemill.models.settings import settings
from tidemill.models.tables import batches
from tidemill.models.text import dumps
from tidemill.models.transitions import Enqueued, enqueue

for number in range(BATCHES):
    name, asked = f"b{number}", Options("gpt-6-luna").to_json()
    rows = [
        Enqueued(f"{name} {row}", str(row), row, dumps({"prompt": f"question {name} {row}"}), dumps({}))
        for row in range(ROWS)
    ]
    with writing() as connection:
        connection.execute(
            insert(batches).values(
                id=name, kind="ask", name=name, question_hash=name, provider=settings().provider, options=asked,
                columns=[], submission=1, created_at=now(), read_at=now(), route="batch",
            )
        )
        enqueue(connection, name, 1, rows)
"""


pytestmark = pytest.mark.skipif(not BATCHES, reason="`make chaos` has it; a killed step is in test_carrier.py")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Files and batches are created slowly, so that kills interrupt that."""
    with open_site(tmp_path, window=1) as made:
        yield made


def test_no_line_is_lost_or_paid_twice_however_often_the_workers_are_killed(site: Site) -> None:
    scripts = {"POST /v1/files": "!!reset_after*1", "POST /v1/batches": "!!reset_after*1"}
    site.provider.control(scripts=scripts, latency_ms=200, batch_seconds=2, list_lag_seconds=0.5)
    assert site.user.python(_STORE.replace("BATCHES", str(BATCHES)).replace("ROWS", str(ROWS))).ok()
    began, kills = time.monotonic(), 0
    while kills < KILLS and _open(site):
        site.chance.choice([site.kill_a_worker, site.kill_a_worker, site.freeze_a_worker])()
        kills += 1
        if kills % 4 == 0:
            site.crash_postgres()
        time.sleep(site.chance.uniform(0.1, 1.5))
        site.thaw()
    site.thaw(everything=True)
    wait_until(lambda: not _open(site), "all have ended")
    assert Counter(row[0] for row in site.user.query("SELECT state FROM jobs")) == {"succeeded": BATCHES * ROWS}
    paid = site.provider.paid_by_prompt()
    assert len(paid) == BATCHES * ROWS
    assert set(paid.values()) == {1}
    assert set(site.provider.batches_by_metadata("tidemill").values()) == {1}
    outcomes = Counter(row[0] for row in site.user.query("SELECT outcome FROM attempts"))
    assert outcomes == {"succeeded": BATCHES * ROWS}
    print(f"{kills} kills, {len(site.provider.batches())} batches in {time.monotonic() - began:.0f} s")


def _open(site: Site) -> bool:
    is_open = "SELECT 1 FROM jobs WHERE state IN ('queued', 'running') LIMIT 1"
    return bool(site.user.query(is_open) or site.user.query("SELECT 1 FROM upstream_batches WHERE ended_at IS NULL"))
