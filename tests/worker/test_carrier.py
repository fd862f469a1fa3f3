"""Beside its calls a worker carries upstream batches: those of its scopes, until it stops."""

import os
import sqlite3
import subprocess
import sys
import threading
from itertools import count

import pytest
from sqlalchemy import event, select

from tests.conftest import UseEnvironment, WaitUntil
from tests.worker.test_upstream import add_rows, questions, rows_upstream, server, states
from tidemill.models.database import engine, reading
from tidemill.models.scope import Scope
from tidemill.models.tables import upstream_batches
from tidemill.simulator import Simulator
from tidemill.worker import process

__all__ = ["server"]


def _now() -> list[tuple[str, str | None, str | None]]:
    with reading() as connection:
        columns = upstream_batches.c.step, upstream_batches.c.status, upstream_batches.c.worker_id
        return [(row.step, row.status, row.worker_id) for row in connection.execute(select(*columns))]


def test_a_command_carries_what_it_waits_for_and_nothing_else(server: Simulator, wait_until: WaitUntil) -> None:
    add_rows(*questions(3))
    add_rows(*questions(3, "other"), batch_id="other")
    process.start(4, Scope("b"))
    try:
        wait_until(lambda: states() == {"succeeded": 3}, "the rows are answered")
    finally:
        process.stop()
    assert states("other") == {"queued": 3}
    assert rows_upstream("other") == []
    assert [each.ended_at is not None for each in rows_upstream()] == [True]  # although nobody waited for that


@pytest.fixture
def patient(server: Simulator, use_environment: UseEnvironment) -> Simulator:
    """The same, where whoever waits for a lease or for calls in flight waits for ever."""
    use_environment({"TIDEMILL_LEASE_SECONDS": "36000", "TIDEMILL_DRAIN_SECONDS": "36000"})
    return server


def test_a_worker_that_stops_leaves_its_batches_to_the_next_one(patient: Simulator, wait_until: WaitUntil) -> None:
    patient.control(scripts={"POST /v1/batches": "!!stuck_finalizing*1"})
    add_rows(*questions(3))
    process.start(4)
    try:
        wait_until(lambda: [each[:2] for each in _now()] == [("follow", "finalizing")], "it is followed")
    finally:
        process.stop()
    assert _now() == [("follow", "finalizing", None)]
    assert states() == {"running": 3}  # no stopping worker gives back what is at the provider


_CARRY = """
import time
from tidemill.models.scope import Scope
from tidemill.worker import process
process.start(4, Scope("b"))
time.sleep(600)
"""


def test_the_step_of_a_killed_process_goes_on_at_once(patient: Simulator, wait_until: WaitUntil) -> None:
    patient.control(latency_ms=3_600_000)  # the step waits for the provider, with its file on the way
    add_rows(*questions(3))
    carrying = subprocess.Popen([sys.executable, "-c", _CARRY], env=os.environ)
    try:
        wait_until(lambda: [each[0] for each in _now() if each[2]] == ["upload"], "it has the step")
    finally:
        carrying.kill()
        carrying.wait()
    patient.control(latency_ms=0)
    process.start(4, Scope("b"))
    try:
        wait_until(lambda: states() == {"succeeded": 3}, "the rows are answered")
    finally:
        process.stop()


@pytest.mark.usefixtures("patient")
def test_a_step_goes_on_when_the_database_is_back(wait_until: WaitUntil) -> None:
    add_rows(*questions(3))
    commits = count()

    def fail(_connection: object) -> None:
        """The disk fails at the commit of the first packing, and of what is done with the third step."""
        if threading.current_thread().name.startswith("asyncio_") and next(commits) in (1, 5):
            raise sqlite3.OperationalError("disk I/O error")

    event.listen(engine(), "commit", fail)
    process.start(4, Scope("b"))
    try:
        wait_until(lambda: states() == {"succeeded": 3}, "the rows are answered")
    finally:
        process.stop()
        event.remove(engine(), "commit", fail)
    assert next(commits) > 5
