"""A run under a cap stops before the next dollar, says why, loses nothing, and goes on once there is room."""

import json

from tests.flows.tidemill import Tidemill
from tidemill.simulator import Simulator

ROWS = [f"question {number:02}" for number in range(60)]


def test_a_run_that_has_reached_its_budget_says_so_and_goes_on_when_it_is_raised(
    tidemill: Tidemill, simulator: Simulator
) -> None:
    path = tidemill.prompts("prompts.jsonl", ROWS)
    command = ("ask", "-i", path, "--max-tokens", "1000", "-o", "answers.jsonl")
    below = tidemill(*command, "--budget", "0.0001")
    assert (below.code, simulator.paid()) == (2, [])
    assert "One call may cost up to $0.0" in below.err

    reached = tidemill(*command, "--budget", "0.0013")
    assert reached.code == 1
    assert "reached: $0.0" in reached.last_line
    assert "; the next call may cost up to $0.0" in reached.last_line
    assert reached.last_line.endswith("then the same command, goes on.")
    answered = len(simulator.paid())
    assert 0 < answered < len(ROWS)
    assert len((tidemill.folder / "answers.jsonl").read_text().splitlines()) == answered
    (batch,) = tidemill("budget", "--json").ok().json
    assert (batch["is_reached"], batch["reserved_usd"], batch["maybe_spent_usd"]) == (True, 0, 0)
    assert batch["spent_usd"] + batch["next_call_usd"] > batch["cap_usd"] >= batch["spent_usd"]
    watched = tidemill("watch", "latest", "--json")
    assert (watched.code, watched.json["open"]) == (1, len(ROWS) - answered)
    assert watched.json["budgets"][0]["is_reached"]
    python = tidemill.python(
        "import tidemill\n"
        "from tidemill import errors\n"
        "try: tidemill.batch('latest').wait()\n"
        "except errors.BudgetReachedError as error: print(error)"
    ).ok()
    assert python.out.startswith("budget of $0.0013 reached: ")

    simulator.control(gate="shut")
    tidemill("budget", "latest", "0.0024").ok()
    with tidemill.started(*command) as running:
        running.until(lambda: _reserved(tidemill) > 0, "a call is under way")
        assert tidemill.query("SELECT count(*) FROM jobs WHERE state = 'running'") == [(1,)]
        said = tidemill("budget", "latest", "5").ok().out
        assert " It was $0.0024." in said
        everything = len(ROWS) - answered
        running.until(
            lambda: tidemill.query("SELECT count(*) FROM jobs WHERE state = 'running'") == [(everything,)],
            "all others are under way, too",
        )
        simulator.control(gate="open")
        assert running.ended().code == 0
    assert len(simulator.paid()) == len(ROWS)
    rows = [json.loads(line) for line in (tidemill.folder / "answers.jsonl").read_text().splitlines()]
    assert {row["status"] for row in rows} == {"succeeded"}


def _reserved(tidemill: Tidemill) -> int:
    ((reserved,),) = tidemill.query("SELECT reserved_usd_e9 FROM budgets WHERE kind = 'batch'")
    return int(reserved)
