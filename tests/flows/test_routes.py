"""Cheaper routes: a row waits for them as long as it can, and no longer."""

from tests.flows.tidemill import Tidemill
from tidemill.simulator import Simulator

HTTP = ("--transport", "http", "--model", "gpt-5-mini")


def test_a_row_for_which_flex_has_no_room_goes_out_at_the_standard_tier(
    tidemill: Tidemill, simulator: Simulator
) -> None:
    path = tidemill.prompts("flex.jsonl", ["room for this", "!!flex429*1 room soon"])
    ran = tidemill("ask", "-i", path, "-o", "flex.csv", "--route", "flex", *HTTP).ok()
    assert simulator.paid_by_route() == {"flex": 2}
    assert "standard tier" not in ran.err

    ran = tidemill("ask", "!!flex498 never any room", "--route", "flex", "--deadline", "4s", *HTTP).ok()
    assert simulator.paid_by_route() == {"flex": 2, "online": 1}
    assert "The answer came at the standard tier, for its price" in ran.err
    ledger = tidemill.query("SELECT route, cost_usd < standard_usd FROM attempts WHERE outcome = 'succeeded'")
    assert sorted(map(tuple, ledger), key=str) == [("flex", 1), ("flex", 1), (None, 0)]


def test_a_batch_that_is_stuck_at_the_provider_comes_back_in_time(tidemill: Tidemill, simulator: Simulator) -> None:
    simulator.control(batch_seconds=1e6)
    path = tidemill.prompts("stuck.jsonl", [f"stuck {number}" for number in range(5)])
    command = ("ask", "-i", path, "-o", "answers.jsonl", "--route", "batch", *HTTP)
    with tidemill.started(*command, TIDEMILL_POLL_SECONDS="0.2") as running:
        running.until(simulator.batches, "it is at the provider")
        tidemill(*command[:3], *command[5:], "--deadline", "3s", "--detach").ok()  # time is known later than the rows
        running.says("The rest goes online, to be done by")
        ran = running.ended()
    assert ran.code == 0, ran
    assert [batch["status"] for batch in simulator.batches()] == ["cancelled"]
    assert simulator.paid_by_route() == {"online": 5}
