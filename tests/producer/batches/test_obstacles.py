"""Whoever waits knows for what: at once, again after a while, and when it is over."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.producer.batches.still import Clock, Kept
from tests.rows import add_batch, add_jobs, put, take
from tests.rows import failure as failed
from tidemill.models import live
from tidemill.models.budgets import Budget
from tidemill.models.tables import STATES
from tidemill.producer.batches import obstacles
from tidemill.producer.batches.obstacles import Obstacles
from tidemill.producer.batches.progress import Progress

HELD = "The provider does not accept the key; the batch waits and resumes by itself."


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, embedded_home: Path) -> Clock:
    """The clock that obstacles look at."""
    clock = Clock()
    monkeypatch.setattr(obstacles, "time", clock)
    return clock


class Runner:
    """A worker inside this process that has no trouble."""

    scopes = ()
    in_flight = 0
    trouble: str | None = None


def progress(**states: int) -> Progress:
    return Progress(states=dict.fromkeys(STATES, 0) | states)


def watching(silence_seconds: float | None = 60.0) -> tuple[Callable[[Progress], list[str]], Runner]:
    """A function that shows a look to obstacles and returns what they say, and their worker."""
    display, runner = Kept(), Runner()
    watched = Obstacles(display, runner, "b", silence_seconds)  # type: ignore[arg-type]

    def look(so_far: Progress) -> list[str]:
        display.sentences.clear()
        watched.say_new(so_far)
        return list(display.sentences)

    return look, runner


def test_a_hold_is_said_at_once_each_minute_and_when_it_is_over(clock: Clock) -> None:
    look, _ = watching()
    under_way = progress(queued=2)
    held = replace(under_way, hold_reason=HELD)
    assert look(under_way) == []
    assert look(held) == [HELD]
    clock.seconds += 59
    assert look(held) == []
    clock.seconds += 2
    assert look(held) == [f"Still waiting after 1 min: {HELD}"]
    assert look(held) == []
    clock.seconds += 125
    assert look(held) == [f"Still waiting after 3 min: {HELD}"]
    assert look(under_way) == ["The provider answers again after 3 min; going on."]
    assert look(under_way) == []


def test_other_obstacles_are_said_in_the_same_way(clock: Clock) -> None:
    look, runner = watching()
    under_way = progress(queued=2)
    assert look(replace(under_way, state="paused")) == ["The batch is paused; `tidemill resume b` continues it."]
    runner.trouble = "The disk is full."
    clock.seconds += 5
    assert look(under_way) == ["The batch was resumed after 5 s; going on.", "The disk is full."]
    clock.seconds += 6
    runner.trouble = None
    assert look(under_way) == ["The trouble is over after 6 s; going on."]


def test_a_call_that_takes_long_is_said_to_be_under_way(clock: Clock) -> None:
    look, _ = watching(10.0)
    assert look(progress(running=1)) == []
    clock.seconds += 10
    assert look(progress(running=1)) == ["No answer yet after 10 s. 1 call is under way or waiting for a limit."]
    clock.seconds += 30
    assert look(progress(running=1)) == []
    clock.seconds += 30
    assert look(progress(running=1)) == ["No answer yet after 1 min. 1 call is under way or waiting for a limit."]


def test_rows_that_wait_for_their_next_call_say_why_the_last_one_failed(clock: Clock) -> None:
    add_batch()
    ids = add_jobs(3)
    put(*(failed(job, outcome="retried", delay_seconds=100.0, error="Overloaded.") for job in take(ids)))
    look, _ = watching()
    assert look(progress(queued=3)) == []
    clock.seconds += 60
    (sentence,) = look(progress(queued=3))
    assert re.fullmatch(
        r"No row has ended for 1 min\. 3 rows are queued, the next one due in 1 min .. s\. "
        r"Its last call failed: Overloaded\.",
        sentence,
    )
    assert look(progress(queued=2, succeeded=1)) == []
    clock.seconds += 59
    assert look(progress(queued=2, succeeded=1)) == []


def test_an_answer_that_is_being_written_is_no_silence(clock: Clock) -> None:
    class Listener:
        heard_at = 0.0

        def begin(self) -> None: ...
        def hear(self, text: str) -> None: ...

    look, _ = watching(10.0)
    listener = Listener()
    with live.listening("b", listener):
        assert look(progress(running=1)) == []
        clock.seconds += 9
        listener.heard_at = clock.seconds
        clock.seconds += 9
        assert look(progress(running=1)) == []
        clock.seconds += 1
        assert look(progress(running=1)) != []


def test_a_budget_without_room_is_said_after_ten_seconds_in_which_no_row_ended(clock: Clock) -> None:
    look, _ = watching(None)
    narrow = Budget("batch", "b", 5 * 10**9, 4 * 10**9, 10**9, 0, 64_000_000)
    waiting = replace(progress(queued=2, running=1), budgets=[narrow])
    assert look(waiting) == []
    clock.seconds += 9
    assert look(waiting) == []
    clock.seconds += 2
    assert look(waiting) == [
        "No room in the budget of $5.00 until calls in flight give some back; the next call may cost "
        "up to $0.064 (--max-tokens lowers that)."
    ]
    ended = replace(progress(queued=2, succeeded=1), budgets=[replace(narrow, reserved=0)])
    assert look(ended) == ["There is room in the budget after 0 s; going on."]
    assert ended.spending() == "$4.00 of $5.00"
