"""An operator reads a worker's log minute by minute; each of them says what happened, or what is waited for."""

import logging
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import UseEnvironment, WaitUntil
from tests.rows import add_batch, add_jobs
from tidemill.models import batches
from tidemill.models.database import engine, transact
from tidemill.simulator import Simulator
from tidemill.worker import process, reporter, runner
from tidemill.worker.runner import Runner


@pytest.fixture
def told(
    embedded_home: Path,
    simulator: Simulator,
    use_environment: UseEnvironment,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Runner]:
    """A worker in this process whose minutes are short, and whose log is heard."""
    use_environment({"OPENAI_BASE_URL": simulator.url, "OPENAI_API_KEY": "test-key", "TIDEMILL_DRAIN_SECONDS": "0"})
    engine()
    caplog.set_level(logging.INFO, "tidemill")
    monkeypatch.setattr(reporter, "MINUTE_SECONDS", 0.3)
    monkeypatch.setattr(reporter, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(runner, "_HOLD_SECONDS", 0.1)
    yield process.start(8)
    process.stop()


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.event for record in caplog.records if hasattr(record, "event")]


def in_minutes(caplog: pytest.LogCaptureFixture, outcome: str) -> int:
    """How many calls all minutes together say ended so: those of a moment may fall into two."""
    minutes = [record.fields for record in caplog.records if getattr(record, "event", "") == "minute"]  # type: ignore[attr-defined]
    return sum(fields[outcome] for fields in minutes)


def test_every_minute_is_explained(
    told: Runner, simulator: Simulator, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    provider = simulator.url.removeprefix("http://")
    add_batch("b", provider=provider)
    simulator.control(gate="shut")
    add_jobs(3, "b")
    wait_until(lambda: "no call has ended: 3 in flight" in caplog.text, "it says what it waits for")
    simulator.control(gate="open")
    wait_until(lambda: in_minutes(caplog, "succeeded") == 3, "a minute says what ended")
    wait_until(lambda: "idle: no row is due" in caplog.text, "it says that it has nothing to do")

    simulator.control(mode="quota")
    add_jobs(1, "b", prefix="held")
    wait_until(lambda: events(caplog).count("hold") > 1, "each minute says that it still waits")
    assert f"{provider} is still on hold, the next try is in" in caplog.text
    simulator.control(mode="ok")
    transact(lambda connection: batches.come_back(connection, "b", provider))
    wait_until(lambda: "answers again after" in caplog.text, "it says that it goes on")

    simulator.control(mode="context")
    add_jobs(4, "b", prefix="failing")
    wait_until(lambda: in_minutes(caplog, "failed") == 4, "failures are in the minute")
    assert "failed (context_length_exceeded " in caplog.text
    simulator.control(mode="500")
    add_jobs(1, "b", prefix="again")
    wait_until(lambda: "rows that wait for a limit or their next try: 1" in caplog.text, "it says what is due later")
    process.stop()
    assert "has started: version" in caplog.get_records("setup")[0].message
    assert events(caplog)[-1] == "stop"
    failed = [record.fields["rows"] for record in caplog.records if getattr(record, "event", "") == "failed"]  # type: ignore[attr-defined]
    assert sum(failed) == 4
    idle = [number for number, event in enumerate(events(caplog)) if event == "idle"]
    assert all(second - first > 1 for first, second in pairwise(idle)), "idle is said once"
    assert told.meter.take_failures() == {}


def test_a_watched_call_costs_next_to_nothing() -> None:
    from tidemill.models.settling import Settlement
    from tidemill.worker.meter import Meter

    meter, ended = Meter(), [Settlement(1, 1, "b", "succeeded", seconds=0.4, http_status=200)] * 1_000
    calls = 0

    def note(_frame: object, event: str, _of: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        meter.count(ended, {(1, 1)})
    finally:
        sys.setprofile(None)
    assert 0 < calls / len(ended) < 10
