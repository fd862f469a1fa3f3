"""Trouble at the provider: every fault ends in the right answer or one clear reason; holds cost nothing and lift
themselves; a server that goes away and comes back loses nothing.
"""

import re
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.flows.tidemill import Tidemill, answers, summary
from tidemill.simulator import Simulator, prompt_hash, reply_tag

HTTP = ("--transport", "http")
PROBE_SECONDS = 5.0
"""How often a held provider is tried at most."""

PASSING = (
    *("429", "429ms", "slow_down", "408", "409", "500", "502html", "503", "529"),
    *("reset", "reset_after", "cut", "wrongjson", "error200", "empty", "nullcontent"),
)
"""Faults after which the same call may well succeed."""

LASTING = {
    "refusal": "refused",
    "content_filter": "content_filter",
    "context": "context_length_exceeded",
    "notfound": "model_not_found",
    "flat": "invalid_request",
    "422": "unprocessable_entity",
}
"""Faults that the same call would only meet again -> the code that the row shows."""


@pytest.mark.parametrize("transport", ["sdk", "http"])
def test_passing_faults_are_retried_until_the_answer_is_there(
    tidemill: Tidemill, simulator: Simulator, transport: str
) -> None:
    prompts = [f"!!{fault}*1 and then fine" for fault in PASSING]
    _answered_in_the_end(tidemill, simulator, prompts, transport)


def test_passing_faults_are_retried_by_workers_too(anywhere: Tidemill, simulator: Simulator) -> None:
    prompts = [f"!!{fault}*2 and then all is well" for fault in ("500", "reset", "cut", "wrongjson", "429ms")]
    _answered_in_the_end(anywhere, simulator, prompts, "http")


def _answered_in_the_end(user: Tidemill, simulator: Simulator, prompts: list[str], transport: str) -> None:
    path = user.prompts("passing.jsonl", prompts)
    model = f"passing-{transport}"  # a pause after a 429 is for one model
    options = ("-o", "-", "--new", "--json", "--model", model, "--transport", transport)
    ran = user("ask", "-i", path, *options)
    assert ran.code == 0, [(row["prompt"], row["error"]) for row in ran.rows if row["status"] != "succeeded"]
    assert answers(ran.rows)
    assert all(row["attempts"] >= 2 for row in ran.rows)
    _every_paid_call_is_in_the_ledger(user, simulator, prompts)


def _every_paid_call_is_in_the_ledger(user: Tidemill, simulator: Simulator, prompts: list[str]) -> None:
    wanted = "SELECT j.request, count(*) FROM jobs j JOIN attempts a ON a.job_id = j.id GROUP BY j.id, j.request"
    calls = dict(tuple(row) for row in user.query(wanted))
    paid = simulator.paid_by_prompt()
    for prompt in prompts:
        (made,) = (count for request, count in calls.items() if f'"{prompt}"' in str(request).replace("'", '"'))
        assert paid[prompt_hash(prompt)] <= made, prompt


@pytest.mark.parametrize("transport", ["sdk", "http"])
def test_lasting_faults_fail_their_row_at_once_and_no_other(
    tidemill: Tidemill, simulator: Simulator, transport: str
) -> None:
    prompts = ["all is well", *(f"!!{fault} for ever" for fault in LASTING)]
    path = tidemill.prompts("lasting.jsonl", prompts)
    ran = tidemill("ask", "-i", path, "-o", "-", "--transport", transport)
    assert ran.code == 1
    assert re.match(summary(len(prompts), 1, len(LASTING)), ran.last_line)
    assert [row["error_code"] for row in ran.rows] == [None, *LASTING.values()]
    assert all(row["error"] for row in ran.rows[1:])
    assert all(row["attempts"] == 1 for row in ran.rows)
    assert simulator.counters()["total"] == len(prompts)
    billed = {call["prompt"]: call["output_tokens"] for call in simulator.paid()}
    assert len(billed) == 3  # the answer, the refusal, and what the filter stopped
    assert [row["output_tokens"] for row in ran.rows] == [billed.get(prompt, 0) for prompt in prompts]


@pytest.mark.parametrize("transport", ["sdk", "http"])
def test_a_reply_that_would_fill_the_memory_fails_its_row_after_one_call(
    tidemill: Tidemill, simulator: Simulator, transport: str
) -> None:
    path = tidemill.prompts("bombs.jsonl", ["all is well", *(f"!!bomb number {n}" for n in range(10))])
    ran = tidemill("ask", "-i", path, "-o", "-", "--transport", transport)
    assert [row["error_code"] for row in ran.rows] == [None, *["reply_too_large"] * 10]
    assert "larger than 64 MB" in ran.rows[1]["error"]
    assert len(simulator.paid()) == 11


def test_an_answer_that_is_cut_is_kept_and_marked(tidemill: Tidemill) -> None:
    path = tidemill.prompts("cut.jsonl", ["all is well", "!!length for ever"])
    ran = tidemill("ask", "-i", path, "-o", "-", *HTTP).ok()
    assert [(row["status"], row["error_code"]) for row in ran.rows] == [("succeeded", None), ("succeeded", "length")]
    assert all(row["reply"] for row in ran.rows)
    assert "1 answer cut at the limit of tokens; a higher --max-tokens" in ran.err


def test_a_row_is_given_up_after_max_attempts(tidemill: Tidemill, simulator: Simulator) -> None:
    ran = tidemill("ask", "!!500 for ever", *HTTP, TIDEMILL_MAX_ATTEMPTS="2")
    assert (ran.code, ran.out) == (1, "")
    assert "gave up after 2 attempts: The server had an error" in ran.err
    assert simulator.counters()["total"] == 2


def test_a_rate_limit_stops_all_calls_for_as_long_as_the_server_asks(tidemill: Tidemill, simulator: Simulator) -> None:
    simulator.control(retry_after_seconds=2)  # for exactly as long: tests/worker/test_limits.py
    path = tidemill.prompts("limited.jsonl", ["!!429*1 first", *(f"behind it {number}" for number in range(20))])
    tidemill("ask", "-i", path, "-o", "-", "--window", "1", *HTTP).ok()
    assert simulator.counters()["by_status"]["429"] == 1
    ((asked_at,),) = tidemill.query("SELECT started_at FROM attempts WHERE http_status = 429")
    asked = datetime.fromisoformat(asked_at).replace(tzinfo=UTC).timestamp()
    began = sorted(call["started_at"] for call in simulator.paid())
    assert len(began) == 21
    assert began[0] - asked >= 2


def test_replies_that_no_database_can_hold_come_out_as_they_were(anywhere: Tidemill) -> None:
    prompts = ["!!nul one", "!!nul two", "and a \u0000 in the prompt"]
    path = anywhere.prompts("nul.jsonl", prompts)
    rows = anywhere("ask", "-i", path, "-o", "-", "--new", *HTTP).ok().rows
    assert [row["prompt"] for row in rows] == prompts
    assert answers(rows)
    assert [row["reply"][:2] for row in rows[:2]] == ["\x00\ud83d", "\x00\ud83d"]
    for form in ("csv", "parquet"):
        anywhere("results", "latest", "-o", f"nul.{form}").ok()


def test_a_reply_without_usage_is_counted_by_us(tidemill: Tidemill) -> None:
    path = tidemill.prompts("nousage.jsonl", ["!!nousage How many tokens is this?"])
    (row,) = tidemill("ask", "-i", path, "-o", "-", *HTTP).ok().rows
    assert row["input_tokens"] > 5
    assert row["output_tokens"] > 20
    assert row["cost_usd"] > 0


def test_a_model_without_a_known_price_is_shown_as_such(tidemill: Tidemill) -> None:
    path = tidemill.prompts("unpriced.jsonl", ["How much?"])
    ran = tidemill("ask", "-i", path, "-o", "-", "--model", "nobody-knows-this-model", *HTTP).ok()
    assert ran.rows[0]["cost_usd"] is None
    assert "unknown" in ran.last_line


# --- holds ---


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [("quota", "out of credit or over its spending limit"), ("badkey", "does not accept the key")],
)
def test_a_held_batch_says_why_costs_no_attempt_and_resumes_by_itself(
    anywhere: Tidemill, simulator: Simulator, mode: str, sentence: str
) -> None:
    simulator.control(mode=mode)
    path = anywhere.prompts("held.jsonl", [f"held by {mode} {number}" for number in range(30)])
    with anywhere.started("ask", "-i", path, "-o", "-", "--new", "--name", f"held-{mode}", *HTTP) as running:
        running.says(sentence)
        assert "resumes by itself" in running.err
        simulator.wait_until_idle()
        since, asked = time.monotonic(), simulator.counters()["total"]
        told = anywhere("status", f"held-{mode}", "--json").ok().json
        assert (told["open"], told["failed"]) == (30, 0)
        assert sentence in told["hold_reason"]
        total = simulator.counters()["total"]
        assert total - asked <= 1 + (time.monotonic() - since) / PROBE_SECONDS
        simulator.control(mode="ok")
        ran = running.ended()
    assert ran.code == 0
    assert ran.err.count(sentence) == 1
    assert answers(ran.rows)
    assert {row["attempts"] for row in ran.rows} == {1}
    assert simulator.counters()["paid"] == 30


def test_somebody_who_has_mended_the_key_need_not_wait(tidemill: Tidemill, simulator: Simulator) -> None:
    simulator.control(key="sk-right")
    path = tidemill.prompts("key.jsonl", ["which key?"])
    with tidemill.started("ask", "-i", path, "-o", "-", *HTTP, OPENAI_API_KEY="sk-wrong") as running:
        running.says("Incorrect API key provided")
    assert "on hold" in tidemill("status").ok().out
    assert answers(tidemill("ask", "-i", path, "-o", "-", *HTTP, OPENAI_API_KEY="sk-right").ok().rows)


# --- a server that goes away ---


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Simulator]:
    """A provider that may die: its books are in a file."""
    with Simulator(latency_ms=100, latency_shape="fixed", log=tmp_path / "paid.jsonl") as server:
        yield server


def test_a_server_that_is_down_at_the_start_is_waited_for(tidemill: Tidemill, mortal: Simulator) -> None:
    mortal.kill()
    tidemill.environment["OPENAI_BASE_URL"] = mortal.url
    path = tidemill.prompts("down.jsonl", [f"down {number}" for number in range(20)])
    with tidemill.started("ask", "-i", path, "-o", "-", *HTTP) as running:
        running.says("check that the server runs")
        mortal.start()
        ran = running.ended()
    assert ran.code == 0
    assert answers(ran.rows)
    assert {row["attempts"] for row in ran.rows} == {1}


def test_a_server_that_dies_midway_and_comes_back_loses_nothing(tidemill: Tidemill, mortal: Simulator) -> None:
    tidemill.environment["OPENAI_BASE_URL"] = mortal.url
    prompts = [f"midway {number}" for number in range(300)]
    path = tidemill.prompts("midway.jsonl", prompts)
    mortal.control(gate=60)
    with tidemill.started("ask", "-i", path, "-o", "-", "--window", "30", *HTTP) as running:
        running.until(lambda: len(mortal.paid()) == 60, "it is under way")
        mortal.kill()
        running.says("check that the server runs")
        mortal.start()
        ran = running.ended()
    assert ran.code == 0
    assert answers(ran.rows)
    paid = mortal.paid_by_prompt()
    assert set(paid) == {prompt_hash(prompt) for prompt in prompts}
    assert sum(paid.values()) - 300 <= 30


def test_the_answer_to_a_prompt_is_never_another_prompts(anywhere: Tidemill, simulator: Simulator) -> None:
    simulator.control(latency_ms=80, faults={"500": 0.1, "reset": 0.05, "429ms": 0.05, "cut": 0.05})
    prompts = [f"mine and mine alone {number}" for number in range(400)]
    path = anywhere.prompts("mine.jsonl", prompts)
    ran = anywhere("ask", "-i", path, "-o", "-", "--new", "--model", "mine", *HTTP).ok()
    assert [row["prompt"] for row in ran.rows] == prompts
    assert [row["reply"][-11:] for row in ran.rows] == [reply_tag(prompt) for prompt in prompts]


def test_a_row_that_is_refused_for_itself_fails_and_does_not_hold_the_others_for_ever(
    tidemill: Tidemill, simulator: Simulator
) -> None:
    prompts = ["!!403 always", *(f"fine {number}" for number in range(40))]  # some are left after each hold
    path = tidemill.prompts("refused.jsonl", prompts)
    ran = tidemill("ask", "-i", path, "-o", "-", "--window", "1", *HTTP)
    assert ran.code == 1
    assert [row["status"] for row in ran.rows] == ["failed", *["succeeded"] * 40]
    assert ran.rows[0]["error_code"] == "unsupported_country_region_territory"
    assert "1 × unsupported_country_region_territory: The provider does not serve this key" in ran.err


def test_a_long_wait_that_the_provider_asks_for_is_said_and_costs_no_row(
    tidemill: Tidemill, simulator: Simulator
) -> None:
    simulator.control(retry_after_seconds=7200)
    path = tidemill.prompts("waiting.jsonl", ["!!429*1 first", "second"])
    with tidemill.started("ask", "-i", path, "-o", "answers.jsonl", "--window", "1", *HTTP) as running:
        running.says("The provider asks everybody to wait 120 minutes")
        running.signal(signal.SIGINT)
        assert running.ended().code == 130
    simulator.control(retry_after_seconds=0)
    assert re.match(summary(2, 2), tidemill("ask", "-i", path, "-o", "answers.jsonl", *HTTP).ok().last_line)


def test_an_answer_that_uses_up_the_days_limit_holds_the_rest_and_says_until_when(
    tidemill: Tidemill, simulator: Simulator
) -> None:
    simulator.control(mode="last")
    path = tidemill.prompts("last.jsonl", [f"of a day {number}" for number in range(4)])
    with tidemill.started("ask", "-i", path, "-o", "answers.jsonl", "--window", "1", *HTTP) as running:
        running.says("serves nobody until 20")
        told = tidemill("status", "latest", "--json").ok().json
        assert told["succeeded"] >= 1
        assert told["open"] == 4 - told["succeeded"] >= 1
        assert "UTC; the batch waits and resumes by itself" in told["hold_reason"]
        running.signal(signal.SIGINT)
        assert running.ended().code == 130
    simulator.control(mode="ok")
    assert re.match(summary(4, 4), tidemill("ask", "-i", path, "-o", "answers.jsonl", *HTTP).ok().last_line)
    assert simulator.counters()["paid"] == 4


def test_a_server_that_serves_nothing_of_the_kind_is_told_with_the_last_line(tidemill: Tidemill) -> None:
    path = tidemill.prompts("nowhere.jsonl", ["one", "two"])
    base = tidemill.environment["OPENAI_BASE_URL"].replace("/v1", "/v2")
    ran = tidemill("ask", "-i", path, "-o", "answers.jsonl", *HTTP, OPENAI_BASE_URL=base)
    assert ran.code == 1
    assert re.search(r"tidemill: 2 × \w+: .*OPENAI_BASE_URL", ran.err)
