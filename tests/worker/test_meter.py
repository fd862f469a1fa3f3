"""The minutes of the log and the metrics are sums of plain numbers, so the sums are held here, without a worker."""

import json
import os

import pytest

from tests.conftest import WaitUntil
from tidemill.models.settling import Outcome, Settlement
from tidemill.worker.fleet import Fleet
from tidemill.worker.meter import (
    LATENCY,
    OTHER,
    Counts,
    Histogram,
    Meter,
    added,
    by_label,
    difference,
    parts,
    quantile,
    total,
)
from tidemill.worker.storms import CALM_SECONDS, STORM_SECONDS, Storms


def ended(job: int, outcome: Outcome = "succeeded", code: str | None = None, status: int | None = 200) -> Settlement:
    settlement = Settlement(job, 1, "b", outcome, http_status=status, error_code=code, seconds=0.4)
    return settlement._replace(input_tokens=3, output_tokens=5, cost_usd=0.25)


def metered(*settlements: Settlement, late: tuple[int, ...] = ()) -> Meter:
    meter = Meter()
    meter.count(settlements, {(each.job_id, 1) for each in settlements if each.job_id not in late})
    return meter


def test_calls_are_counted_by_outcome_and_code_with_what_they_used() -> None:
    meter = metered(ended(1), ended(2, "retried", "rate", 429), ended(3), ended(4, "snoozed"), late=(3,))
    counts = meter.read()
    assert by_label(counts, "attempts:") == {"succeeded:": 1, "retried:rate": 1, "stale:": 1}
    assert (counts["input_tokens"], counts["output_tokens"], counts["cost_usd"]) == (9, 15, 0.75)
    assert parts(counts, LATENCY)[-1] == (float("inf"), 3)


def test_a_call_that_never_got_through_or_was_refused_has_a_kind_and_a_held_one_has_not() -> None:
    counts = metered(
        *(ended(1, "retried", "x", 429), ended(2, "failed", "x", 503), ended(3, "retried", "x", None)),
        *(ended(4, "failed", "x", 400), ended(5, "held", "quota", 429)),
    ).read()
    assert by_label(counts, "refused:") == {"429": 1, "503": 1, "no reply": 1}


def test_a_server_that_makes_codes_up_makes_no_endless_list() -> None:
    counts = metered(*(ended(job, "failed", f"code_{job}", 400) for job in range(200))).read()
    assert len(by_label(counts, "attempts:")) == 61
    assert counts[f"attempts:failed:{OTHER}"] == 140


def test_failures_are_kept_by_batch_and_code_until_they_are_told() -> None:
    meter = metered(*(ended(job, "failed", "bad", 400) for job in (1, 2, 3)))
    ((key, failure),) = meter.take_failures().items()
    assert (key, failure.rows, failure.job, failure.epoch) == (("b", "bad"), 3, 3, 1)
    assert meter.take_failures() == {}


@pytest.mark.parametrize(
    ("seconds", "share", "low", "high"),
    [([1.2] * 10, 0.5, 1, 1.5), ([0.05] * 90 + [20.0] * 10, 0.95, 16, 24), ([5_000.0], 0.5, 600, 600)],
)
def test_a_quantile_is_within_its_part_of_the_histogram(
    seconds: list[float], share: float, low: float, high: float
) -> None:
    histogram = Histogram("h")
    for each in seconds:
        histogram.observe(each)
    value = quantile(histogram.counts, "h", share)
    assert value is not None and low <= value <= high
    assert quantile(Histogram("h").counts, "h", share) is None


def test_counts_are_added_and_subtracted_number_by_number() -> None:
    first, second = {"a:x": 1.0, "b": 2.0}, {"a:x": 3.0, "a:y": 4.0}
    assert added((first, second)) == {"a:x": 4, "b": 2, "a:y": 4}
    assert difference(second, first) == {"a:x": 2, "a:y": 4}
    assert total(added((first, second)), "a:") == 8


# --- storms ---


def counts_of(answered: int, refused: int) -> Counts:
    return {"attempts:succeeded:": answered, "attempts:retried:rate": refused, "refused:429": refused}


def test_a_storm_is_told_when_it_begins_and_when_it_is_over() -> None:
    storms, told = Storms(), []
    for second in range(120):
        refused = 4 * min(second, 20)
        begun, over = storms.look(second, counts_of(second, refused))
        told += [("begins", second, kind) for kind in begun] + [("ends", second, kind) for kind in over]
        assert all(storm.calls == 80 for storm in over.values())
    assert told == [("begins", 2, "429"), ("ends", 20 + int(CALM_SECONDS) + 1, "429")]


@pytest.mark.parametrize(("answered", "refused"), [(0, 4), (1_000, 100)], ids=["few", "a small share"])
def test_some_refusals_are_no_storm(answered: int, refused: int) -> None:
    storms = Storms()
    storms.look(0.0, counts_of(0, 0))
    assert storms.look(STORM_SECONDS, counts_of(answered, refused)) == ({}, {})


# --- the fleet ---


def test_a_fleet_adds_its_processes_up_and_keeps_what_those_that_are_gone_have_counted(wait_until: WaitUntil) -> None:
    fleet = Fleet()
    assert fleet.trouble()
    pipes = [os.pipe() for _ in range(2)]
    for number, (ours, _) in enumerate(pipes):
        fleet.listen(number, ours)
        os.write(pipes[number][1], json.dumps({"gauges": {"calls": 2}, "counts": {"a": 5}}).encode() + b"\n")
    wait_until(lambda: fleet.counts() == {"a": 10}, "both are heard")
    assert fleet.gauges() == {"calls": 4, "processes": 2}
    assert fleet.trouble() is None
    os.write(pipes[0][1], b'{"gauges": {"cal')  # killed while it wrote
    os.close(pipes[0][1])
    wait_until(lambda: fleet.gauges() == {"calls": 2, "processes": 1}, "one is gone")
    assert fleet.counts() == {"a": 10}
    ours, its = os.pipe()
    fleet.listen(0, ours)
    assert (fleet.restarts, fleet.trouble()) == (1, "worker 0 has not started yet")
    for pipe in (its, pipes[1][1]):
        os.close(pipe)
