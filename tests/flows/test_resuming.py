"""Resuming: the same command goes on where it was; nothing is asked twice, and only what is new or failed is asked."""

import re
from collections.abc import Callable

from tests.flows.tidemill import Tidemill, answers, summary
from tidemill.simulator import Simulator, prompt_hash

HTTP = ("--transport", "http")


def test_the_same_command_sends_nothing_and_writes_the_same_file(anywhere: Tidemill, simulator: Simulator) -> None:
    path = anywhere.prompts("same.jsonl", ["the same 1", "the same 2", "the same 1"])
    first = anywhere("ask", "-i", path, "-o", "one.jsonl", *HTTP).ok()
    second = anywhere("ask", "-i", path, "-o", "two.jsonl", *HTTP).ok()
    assert simulator.paid_by_prompt() == {prompt_hash("the same 1"): 2, prompt_hash("the same 2"): 1}
    assert (anywhere.folder / "one.jsonl").read_bytes() == (anywhere.folder / "two.jsonl").read_bytes()
    assert re.match(summary(3, 3), first.last_line)
    assert re.match(summary(3, 3), second.last_line)


def test_a_changed_row_is_asked_and_rows_that_moved_are_not(anywhere: Tidemill, simulator: Simulator) -> None:
    path = anywhere.prompts("changing.jsonl", ["stays 1", "old", "stays 2"])
    before = anywhere("ask", "-i", path, "-o", "-", *HTTP).ok().rows
    anywhere.prompts("changing.jsonl", ["stays 2", "new", "stays 1", "more"])

    after = anywhere("ask", "-i", path, "-o", "-", *HTTP).ok().rows

    assert [row["prompt"] for row in after] == ["stays 2", "new", "stays 1", "more"]
    assert answers(after)
    assert {row["custom_id"] for row in before} >= {row["custom_id"] for row in after if "stays" in row["prompt"]}
    assert simulator.paid_by_prompt() == {
        prompt_hash(prompt): 1 for prompt in ("stays 1", "old", "stays 2", "new", "more")
    }


def test_new_asks_everything_again(tidemill: Tidemill, simulator: Simulator) -> None:
    path = tidemill.prompts("again.jsonl", ["again 1", "again 2"])
    for extra in ((), ("--new",)):
        tidemill("ask", "-i", path, "-o", "-", *HTTP, *extra).ok()
    assert simulator.paid_by_prompt() == {prompt_hash("again 1"): 2, prompt_hash("again 2"): 2}
    assert len(tidemill("status", "--json").json) == 2


def test_failed_rows_are_tried_again(anywhere: Tidemill, simulator: Simulator) -> None:
    path = anywhere.prompts("failing.jsonl", ["fine", "!!refusal*1 at first"])
    first = anywhere("ask", "-i", path, "-o", "-", *HTTP, "--new")
    second = anywhere("ask", "-i", path, "-o", "-", *HTTP)
    assert (first.code, [row["status"] for row in first.rows]) == (1, ["succeeded", "failed"])
    assert re.match(summary(2, 1, 1), first.last_line)
    assert (second.code, [row["status"] for row in second.rows]) == (0, ["succeeded", "succeeded"])
    assert simulator.paid_by_prompt()[prompt_hash("fine")] == 1


def test_a_taste_of_the_first_rows_and_then_the_whole(tidemill: Tidemill, simulator: Simulator) -> None:
    path = tidemill.prompts("taste.jsonl", [f"taste {number}" for number in range(6)])
    first = tidemill("ask", "-i", path, "--limit", "2", "-o", "-", *HTTP).ok()
    assert [row["prompt"] for row in first.rows] == ["taste 0", "taste 1"]
    assert simulator.counters()["paid"] == 2
    assert len(tidemill("ask", "-i", path, "-o", "-", *HTTP).ok().rows) == 6
    assert simulator.counters()["paid"] == 6
    assert len(tidemill("status", "--json").json) == 1


def test_a_dry_run_counts_and_prices_and_sends_nothing(tidemill: Tidemill, simulator: Simulator) -> None:
    path = tidemill.prompts("dry.jsonl", ["dry 1", "dry 2", "dry 3"])
    command = ("ask", "-i", path, "--max-tokens", "100", *HTTP)
    tidemill(*command, "--limit", "1", "-o", "-").ok()
    before = simulator.counters()["total"], tidemill("status").out

    told = tidemill(*command, "--dry-run").ok()
    counted = tidemill(*command, "--dry-run", "--json").ok().json

    assert "3 rows for gpt-6-luna: 1 done" in told.out
    assert "Nothing was sent." in told.out
    assert (counted["rows"], counted["done"], counted["to_send"]) == (3, 1, 2)
    assert counted["most_output_tokens"] == 200
    assert 0 < counted["input_usd"] < counted["most_usd"]
    assert (simulator.counters()["total"], tidemill("status").out) == before
    assert tidemill.query("SELECT count(*) FROM jobs") == [(1,)]


def test_detach_submits_and_watch_follows(anywhere: Tidemill) -> None:
    path = anywhere.prompts("detached.jsonl", ["detached 1", "detached 2"])
    submitted = anywhere("ask", "-i", path, "--detach", "--json", "--new", *HTTP).ok().json
    assert submitted["rows"] == 2
    watched = anywhere("watch", submitted["batch"]).ok()
    assert re.match(summary(2, 2), watched.last_line)
    assert answers(anywhere("results", submitted["batch"]).ok().rows)


SCRIPT = """
from tidemill import ask
batch = ask({source!r}, column="prompt", transport="http")
batch.wait()
frame = batch.to_frame()
print(batch.id, *frame["reply"].str[-11:], sep="|")
"""


def test_python_finds_the_batch_of_the_command_line_and_the_other_way_round(
    anywhere: Tidemill, simulator: Simulator
) -> None:
    path = anywhere.prompts("both.jsonl", ["both 1", "both 2"])
    typed = anywhere("ask", "-i", path, "--json", "-o", "both.csv", "--column", "prompt", *HTTP).ok().json
    scripted = anywhere.python(SCRIPT.format(source=str(path))).ok()
    assert scripted.out.startswith(f"{typed['batch']}|")
    assert simulator.paid_by_prompt() == {prompt_hash("both 1"): 1, prompt_hash("both 2"): 1}

    frame = [{"prompt": "from Python 1"}, {"prompt": "from Python 2"}]
    batch = anywhere.python(SCRIPT.format(source=frame)).ok().out.partition("|")[0]
    rows = anywhere("results", batch).ok().rows
    assert answers(rows)
    assert [row["prompt"] for row in rows] == ["from Python 1", "from Python 2"]


def test_two_copies_of_the_command_at_once_pay_each_prompt_once(anywhere: Tidemill, simulator: Simulator) -> None:
    simulator.control(latency_ms=200)
    prompts = [f"twice at once {number}" for number in range(1500)]
    path = anywhere.prompts("copies.jsonl", prompts)
    with (
        anywhere.started("ask", "-i", path, "-o", "one.jsonl", *HTTP) as one,
        anywhere.started("ask", "-i", path, "-o", "two.jsonl", *HTTP) as two,
    ):
        ended = one.ended(), two.ended()
    assert [ran.code for ran in ended] == [0, 0], ended
    assert simulator.paid_by_prompt() == {prompt_hash(prompt): 1 for prompt in prompts}
    assert (anywhere.folder / "one.jsonl").read_bytes() == (anywhere.folder / "two.jsonl").read_bytes()
    assert len(anywhere.query("SELECT id FROM batches WHERE name = 'copies'")) == 1


def test_a_second_copy_that_comes_later_joins_in(tidemill: Tidemill, simulator: Simulator) -> None:
    simulator.control(latency_ms=300)
    prompts = [f"joined {number}" for number in range(400)]
    path = tidemill.prompts("joined.jsonl", prompts)
    with tidemill.started("ask", "-i", path, "-o", "one.jsonl", "--window", "40", *HTTP) as one:
        one.until(_paid(simulator, 40), "it is at work")
        two = tidemill("ask", "-i", path, "-o", "two.jsonl", "--window", "40", *HTTP).ok()
        one.ended()
    assert re.match(summary(400, 400), two.last_line)
    assert simulator.paid_by_prompt() == {prompt_hash(prompt): 1 for prompt in prompts}


def _paid(simulator: Simulator, least: int) -> Callable[[], bool]:
    return lambda: simulator.counters()["paid"] >= least
