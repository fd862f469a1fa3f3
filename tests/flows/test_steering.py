"""Steering: what can be done to a batch under way."""

import re

from tests.flows.tidemill import Tidemill, answers, summary
from tidemill.simulator import Simulator, prompt_hash

HTTP = ("--transport", "http")
ROWS = "SELECT count(*) FROM jobs JOIN batches ON batches.id = batch_id WHERE name = :name AND jobs.state = :state"


def test_a_paused_batch_waits_until_it_is_resumed(anywhere: Tidemill, simulator: Simulator) -> None:
    simulator.control(gate="shut")
    path = anywhere.prompts("paused.jsonl", [f"paused {number}" for number in range(600)])
    command = ("ask", "-i", path, "-o", "paused.csv", "--name", "paused", "--window", "20", *HTTP)
    with anywhere.started(*command) as running:
        running.until(lambda: simulator.counters()["in_flight"] >= 20, "it is under way")
        assert "paused; calls in flight end" in anywhere("pause", "paused").ok().out
        running.says("The batch is paused")
        simulator.control(gate="open")
        under_way = {"name": "paused", "state": "running"}
        running.until(
            lambda: anywhere.query(ROWS, **under_way) == [(0,)], "what had begun has ended, or was given back"
        )
        simulator.wait_until_idle()
        paid = simulator.counters()["paid"]
        assert anywhere("status", "paused", "--json").ok().json["state"] == "paused"
        assert simulator.counters()["paid"] == paid < 600
        assert anywhere("resume", "paused", "--json").ok().json["resume"] == 1
        ran = running.ended()
    assert ran.code == 0
    assert re.match(summary(600, 600), ran.last_line)
    assert simulator.counters()["paid"] == 600


def test_a_cancelled_batch_ends_and_keeps_its_answers_until_it_is_retried(
    anywhere: Tidemill, simulator: Simulator
) -> None:
    simulator.control(gate="shut")
    prompts = [f"cancelled {number}" for number in range(600)]
    path = anywhere.prompts("cancelled.jsonl", prompts)
    command = ("ask", "-i", path, "-o", "-", "--name", "cancelled", "--window", "20", *HTTP)
    with anywhere.started(*command) as running:
        running.until(lambda: simulator.counters()["in_flight"] >= 20, "it is under way")
        simulator.control(gate=20)
        stored = {"name": "cancelled", "state": "succeeded"}
        running.until(lambda: anywhere.query(ROWS, **stored) == [(20,)], "some are answered")
        assert "rows that had not ended" in anywhere("cancel", "cancelled").ok().out
        simulator.control(gate="open")
        ran = running.ended()
    assert ran.code == 1
    statuses = [row["status"] for row in ran.rows]
    assert set(statuses) == {"succeeded", "cancelled"}
    assert answers([row for row in ran.rows if row["status"] == "succeeded"])
    simulator.wait_until_idle()
    paid_in_vain = simulator.counters()["paid"] - statuses.count("succeeded")
    window = 20 if "TIDEMILL_DATABASE_URL" not in anywhere.environment else 2 * 64
    assert 0 <= paid_in_vain <= 2 * window  # in flight, or begun in the moment until the workers saw it

    assert f"queued again: {statuses.count('cancelled')} rows" in anywhere("retry", "cancelled").ok().out
    watched = anywhere("watch", "cancelled").ok()
    assert re.match(summary(600, 600), watched.last_line)
    once_or_twice = simulator.paid_by_prompt()
    assert sum(once_or_twice[prompt_hash(prompt)] for prompt in prompts) == 600 + paid_in_vain


def test_retry_asks_failed_rows_again_and_watch_reports_them(tidemill: Tidemill) -> None:
    path = tidemill.prompts("retried.jsonl", ["fine", "!!refusal*1 at first"])
    assert tidemill("ask", "-i", path, *HTTP).code == 1
    assert tidemill("retry", "latest", "--json").ok().json["retry"] == 1
    told = tidemill("watch", "latest", "--json").ok().json
    assert (told["succeeded"], told["failed"]) == (2, 0)
    assert "no row had failed" in tidemill("retry", "latest").ok().out


def test_a_batch_is_deleted_once_somebody_is_sure(tidemill: Tidemill) -> None:
    batch = tidemill("ask", "-i", tidemill.prompts("gone.jsonl", ["here", "today"]), "--json", *HTTP).ok().json["batch"]
    assert tidemill("delete", "1", "--yes", "--json").ok().json["dialogue"] == 1
    refused = tidemill("delete", "latest")
    assert refused.code == 2
    assert f"{batch} was not deleted; --yes deletes it" in refused.err
    assert tidemill("delete", "latest", "--yes", "--json").ok().json == {"batch": batch, "delete": 2}
    assert [tidemill.query(f"SELECT count(*) FROM {name}")[0][0] for name in ("jobs", "messages", "tallies")] == [0] * 3
