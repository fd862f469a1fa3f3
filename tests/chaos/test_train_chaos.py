"""Fine-tunes while their workers are killed every moment: each one ends, and each is created once at the provider."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.site import Site, open_site
from tests.waiting import wait_until

FINE_TUNES = int(os.environ.get("TIDEMILL_TEST_FINE_TUNES", "16"))
KILLS = max(8, FINE_TUNES // 2)

_SEND_OFF = """
import hashlib
from tidemill.models import blobs
from tidemill.models.database import writing
from tidemill.models.fine_tunes import keep_dataset
from tidemill.models.options import Options
from tidemill.models.settings import settings
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.submit import open_batch, submit
from tidemill.producer.training.tuning import DatasetRow

content = b"".join(
    b'{"messages":[{"role":"user","content":"%d?"},{"role":"assistant","content":"It is."}]}' % n + bytes([10])
    for n in range(12)
)
sha256 = hashlib.sha256(content).hexdigest()
blobs.put(content, sha256)
file = {"sha256": sha256, "bytes": len(content), "examples": 12, "tokens": 120}
with writing() as connection:
    keep_dataset(connection, id="d", name="d", method="supervised", training=file, validation=file, report={})
for number in range(COUNT):
    row = DatasetRow("d", settings().provider, None)
    submit(open_batch(Order(Options("gpt-4.1-mini", transport="http"), row, name=f"n{number}", new=True)))
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Slow enough that most kills interrupt a creation."""
    with open_site(tmp_path, window=1) as made:
        yield made


def test_fine_tunes_are_created_once_however_often_their_workers_are_killed(site: Site) -> None:
    faults = {"POST /v1/files": "!!reset_after*1", "POST /v1/fine_tuning/jobs": "!!reset_after*1"}
    site.provider.control(faults={"500": 0.02}, scripts=faults, latency_ms=300, tuning_seconds=3)
    assert site.user.python(_SEND_OFF.replace("COUNT", str(FINE_TUNES))).ok()
    began, kills = time.monotonic(), 0
    while kills < KILLS and _open(site):
        site.kill_a_worker()
        kills += 1
        if kills % 3 == 0:
            site.chance.choice([site.flush_the_broker, site.crash_postgres])()
        # Three losses in one step would be taken for the job's own doing.
        wait_until(lambda: site.all_are_up() and not _suspects(site), "what was lost has made a step since")
        time.sleep(site.chance.uniform(0.1, 1.0))
    wait_until(lambda: not _open(site), "all have ended")
    ended = Counter(map(tuple, site.user.query("SELECT state, error_code FROM jobs")))
    assert ended == {("succeeded", None): FINE_TUNES}
    assert set(site.provider.tunings_by_metadata("tidemill").values()) == {1}
    made = {each["id"] for each in site.provider.tunings()}
    assert len(made) == FINE_TUNES
    assert made == {row[0] for row in site.user.query("SELECT remote_id FROM fine_tunes")}
    assert set(site.provider.files_by_name().values()) == {1}
    assert len(site.provider.files_by_name()) == 2 * FINE_TUNES
    print(f"{kills} kills in {time.monotonic() - began:.0f} s")


def _open(site: Site) -> bool:
    return bool(site.user.query("SELECT 1 FROM jobs WHERE state IN ('queued', 'running') LIMIT 1"))


def _suspects(site: Site) -> bool:
    return bool(site.user.query("SELECT 1 FROM jobs WHERE losses > 1 AND state IN ('queued', 'running') LIMIT 1"))
