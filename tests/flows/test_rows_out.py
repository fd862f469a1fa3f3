"""What is done to a batch while its rows are at the provider's Batch API means the same as ever (R16)."""

import signal

from tests.flows.tidemill import Tidemill
from tidemill.simulator import Simulator, prompt_hash

HTTP = ("--transport", "http")


def test_stopped_cancelled_and_tried_again_nothing_is_paid_twice(tidemill: Tidemill, simulator: Simulator) -> None:
    simulator.control(batch_seconds=1e6)
    path = tidemill.prompts("out.jsonl", [f"out {number}" for number in range(5)])
    with tidemill.started(
        "ask", "-i", path, "--name", "out", "--route", "batch", *HTTP, TIDEMILL_POLL_SECONDS="0.2"
    ) as running:
        running.says("5 rows have been at the provider's Batch API")
        running.signal(signal.SIGINT)
        ran = running.ended()
    assert ran.code == 130 and "Ctrl-C does no harm" in ran.err
    assert "5 rows stay at the provider" in ran.err.splitlines()[-1]
    told = tidemill("status", "latest", "--json").ok().json
    assert (told["at_provider"], told["route"], len(told["upstream"])) == (5, "batch", 1)
    assert "Then delete it." in tidemill("delete", "latest", "--yes").err

    assert "which is told to cancel them" in tidemill("cancel", "latest").ok().out
    assert "5 cancelled, 0 open" in tidemill("watch", "latest", TIDEMILL_POLL_SECONDS="0.2").last_line
    assert tidemill("retry", "latest").ok()
    simulator.control(batch_seconds=0.2)
    ran = tidemill("watch", "latest", TIDEMILL_POLL_SECONDS="0.2").ok()
    assert "The route batch has saved $0.0" in ran.err and "5 succeeded" in ran.last_line
    assert simulator.paid_by_route() == {"batch": 5}
    assert [batch["status"] for batch in simulator.batches()] == ["cancelled", "completed"]


def test_a_changed_input_and_another_route_leave_what_is_out_where_it_is(
    tidemill: Tidemill, simulator: Simulator
) -> None:
    simulator.control(batch_gate="shut")
    prompts = [f"row {number}" for number in range(6)]
    path = tidemill.prompts("rows.jsonl", prompts)
    command = ("ask", "-i", path, "-o", "answers.jsonl", *HTTP)
    with tidemill.started(*command, "--route", "batch", TIDEMILL_POLL_SECONDS="0.2") as first:
        first.says("6 rows have been at the provider's Batch API")
        tidemill.prompts("rows.jsonl", [*prompts[:4], "new"])
        with tidemill.started(
            *command, "--route", "online", TIDEMILL_POLL_SECONDS="0.2"
        ) as second:  # the same batch, from two commands
            second.says("rows have been at the provider's Batch API")
            simulator.control(batch_gate="open")
            assert [each.ended().code for each in (second, first)] == [0, 0]
    assert simulator.paid_by_prompt() == {prompt_hash(prompt): 1 for prompt in [*prompts, "new"]}
    assert simulator.paid_by_route() == {"batch": 6, "online": 1}
    rows = tidemill("results", "latest").ok().rows
    assert [(row["prompt"], row["status"]) for row in rows] == [
        (prompt, "succeeded") for prompt in [*prompts[:4], "new"]
    ]
    billed = "SELECT count(*), sum(cost_usd < standard_usd) FROM attempts"
    assert tidemill.query(billed) == [(7, 6)], "what left the input was paid, and is in the ledger"
