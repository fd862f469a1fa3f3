"""Answers as they come, and runs that end: what somebody sees while a run goes on, and after it was cut short."""

import json
import re
import signal
from pathlib import Path
from typing import Any

from tests.flows.tidemill import Tidemill, answers, summary
from tidemill.simulator import Simulator, prompt_hash, reply_tag

HTTP = ("--transport", "http")


def rows_in(path: Path) -> list[dict[str, Any]]:
    """What a reader of the file has by now; all lines are whole but, while it grows or after a kill, the last one."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_a_killed_run_leaves_the_rows_that_had_ended_and_the_same_command_completes_the_file(
    tidemill: Tidemill, simulator: Simulator
) -> None:
    prompts = [f"row {number}" for number in range(40)]
    path, output = tidemill.prompts("p.jsonl", prompts), tidemill.write("out.jsonl", "older\n")
    simulator.control(gate="shut")
    command = ("ask", "-i", path, "-o", output, "--window", "4", *HTTP)
    with tidemill.started(*command) as running:
        running.until(lambda: simulator.counters()["in_flight"] == 4, "it is under way")
        assert output.read_text() == "older\n"
        simulator.control(gate=20)
        running.until(lambda: output.read_text() != "older\n" and len(rows_in(output)) > 4, "the file grows")
        running.signal(signal.SIGKILL)
        running.process.wait()
    left = rows_in(output)
    assert answers(left)
    assert [row["prompt"] for row in left] == prompts[: len(left)]
    simulator.control(gate="open")
    simulator.wait_until_idle()
    ran = tidemill(*command).ok()
    assert re.match(summary(40, 40), ran.last_line)
    assert [row["prompt"] for row in rows_in(output)] == prompts
    assert answers(rows_in(output))
    assert simulator.counters()["paid"] <= 40 + 3 * 4  # in flight, or answered and not stored yet


def test_a_run_ends_when_its_time_is_over_or_a_row_has_failed(tidemill: Tidemill, simulator: Simulator) -> None:
    path = tidemill.prompts("p.jsonl", [f"row {number}" for number in range(21)])
    simulator.control(gate="shut")
    command = ("ask", "-i", path, "-o", "-", "--order", "finished", *HTTP, "--window", "1")
    ran = tidemill(*command, "--max-wait", "1s", "--json", TIDEMILL_DRAIN_SECONDS="0.1")
    assert ran.code == 3
    assert (ran.json["open"], ran.json["succeeded"]) == (21, 0)
    assert "Stopped after 1 s with 21 rows of p-" in ran.last_line
    assert ran.last_line.endswith("Run it again, and it goes on.")

    simulator.control(gate="open", mode="badkey")
    ran = tidemill(*command, "--fail-fast")
    assert ran.code == 3
    assert "because the provider serves nobody: The provider does not accept the key" in ran.last_line

    simulator.control(mode="422", gate=1)  # the hold is still there, and tried once more
    ran = tidemill(*command, "--fail-fast", TIDEMILL_DRAIN_SECONDS="0.1")
    assert ran.code == 1
    assert ran.last_line == (
        "tidemill: Stopped, because a row has failed (unprocessable_entity): The request could not be processed."
    )
    assert [row["error_code"] for row in ran.rows] == ["unprocessable_entity"]


def test_one_answer_is_on_the_terminal_while_it_is_written_and_is_stored_as_it_was_shown(
    tidemill: Tidemill, simulator: Simulator
) -> None:
    simulator.control(token_ms=5, reply_chars=400, stream_gate="shut")
    states: list[str] = []

    def look(shown: bytes) -> None:
        if not states and shown.count(b" ") > 3:
            states.extend(row.state for row in tidemill.query("SELECT state FROM jobs"))
            simulator.control(stream_gate="open")

    prompt = "!!cut*1 !!thinks tide"
    shown = tidemill.on_a_terminal("ask", prompt, *HTTP, look=look)
    assert states == ["running"]
    (stored,) = tidemill.query("SELECT content FROM messages WHERE role = 'assistant'")
    before, sentence, after = shown.partition("\r\ntidemill: The answer broke off and is asked for again;")
    assert sentence
    assert stored.content.startswith(before)
    assert after.partition("\r\n")[2] == f"{stored.content}\r\n"
    assert stored.content.endswith(reply_tag(prompt))
    assert simulator.paid_by_prompt() == {prompt_hash(prompt): 2}


def test_what_is_shown_while_it_is_written_acts_on_no_terminal(tidemill: Tidemill, simulator: Simulator) -> None:
    shown = tidemill.on_a_terminal("ask", "!!nul tide", *HTTP)
    assert shown.startswith("\\x00\\ud83d")
    assert shown.endswith(f"{reply_tag('!!nul tide')}\r\n")
    assert shown.count("\n") == 1
