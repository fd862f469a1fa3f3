"""A fleet knows its processes, starts again what ended, and notes who could store nothing and when."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_until
from tidemill.producer.rehearsing.fleet import Fleet, children_of


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet({**os.environ, "TIDEMILL_HOME": str(tmp_path)}, tmp_path)
    yield made
    made.stop()


def test_children_are_found_and_the_dead_are_none() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert children_of([os.getpid()])[child.pid] == os.getpid()
        child.kill()
        wait_until(lambda: child.pid not in children_of([os.getpid()]), "it is dead, though nobody has waited for it")


def test_what_ended_is_started_again_until_it_has_succeeded(fleet: Fleet) -> None:
    failing = fleet.add("failing", "status", "no-such-batch", has_workers=False, needs_success=True)
    first = failing.caller
    assert failing.process is not None
    failing.process.wait()
    (sentence,) = fleet.tend()
    assert sentence.startswith("failing ended with 2: ")
    assert failing.caller != first, "each start has a key of its own"
    good = fleet.add("good", "--help", has_workers=False, needs_success=True)
    wait_until(lambda: good.has_succeeded, "it has succeeded")
    caller = good.caller
    fleet.tend()
    assert good.caller == caller


def test_who_was_killed_or_frozen_is_noted_with_the_time(fleet: Fleet) -> None:
    member = fleet.add("worker", "watch", "x", has_workers=False)
    assert member.process is not None
    before = time.time()
    fleet.freeze(member, member.process.pid)
    assert fleet.workers() == [], "who is frozen is not hit again"
    fleet.thaw(member.process.pid)
    fleet.kill(member, member.process.pid)
    frozen, killed = fleet.casualties(0)
    assert before <= frozen.since <= frozen.until <= killed.since <= killed.until
    assert {frozen.caller, killed.caller} == {member.caller}


def test_what_dies_soon_after_an_outage_has_stored_nothing_since_it_began(fleet: Fleet) -> None:
    member = fleet.add("worker", "watch", "x", has_workers=False)
    assert member.process is not None
    began = time.time() - 30
    fleet.note_outage(began)
    fleet.kill(member, member.process.pid)
    assert [each.since for each in fleet.casualties(10)] == [began]
    assert [each.since for each in fleet.casualties(-10)] != [began], "long after it that is no excuse"
