"""Sending off fine-tunes: the id at once, the same job for the same command, a say in it, and the model in the end."""

import signal
import uuid
from pathlib import Path

import pytest

from tests.flows.tidemill import Tidemill
from tidemill.simulator import Simulator


def table(tidemill: Tidemill, rows: int = 20) -> Path:
    """A table that no other test has sent off."""
    mark = uuid.uuid4().hex[:8]
    told = "".join(f"What is {n} and {n} of {mark}?,It is {2 * n}.\n" for n in range(rows))
    return tidemill.write("qa.csv", f"question,answer\n{told}")


def test_a_table_becomes_a_model(anywhere: Tidemill, simulator: Simulator) -> None:
    simulator.control(tuning_seconds=1.0)
    path = table(anywhere)
    ran = anywhere("train", path, "--val", "0.2", "--suffix", "sums", "--epochs", "2").ok()
    job = ran.out.strip()
    assert job.startswith("sums-")
    assert "THE PRICE of training gpt-4.1-mini" in ran.err
    watched = anywhere("fine-tunes", "watch", job).ok()
    (made,) = simulator.tunings()
    assert watched.out.strip() == made["fine_tuned_model"]
    assert "The job has successfully completed" in watched.err
    assert made["method"]["supervised"]["hyperparameters"]["n_epochs"] == 2
    (row,) = [each for each in anywhere("fine-tunes", "list", "--json").ok().json if each["id"] == job]
    assert (row["description"], row["model"], row["status"]) == ("sums", "gpt-4.1-mini", "succeeded")
    assert (row["examples"], row["trained_tokens"]) == (16, made["trained_tokens"])
    shown = anywhere("fine-tunes", "show", made["fine_tuned_model"], "--json").ok().json
    assert (shown["id"], len(shown["checkpoints"]), shown["dialogues"]) == (job, 2, [])
    times = [(event["created"], event["message"]) for event in shown["events"]]
    assert times == sorted(times, key=lambda each: each[0])
    assert times[0][1].startswith("Created")
    told = anywhere("fine-tunes", "show", job).ok().out
    assert "loss" in told
    assert "accuracy" in told


def test_the_same_command_finds_its_job_and_new_trains_again(tidemill: Tidemill, simulator: Simulator) -> None:
    simulator.control(tuning_seconds=0)
    tidemill.environment["TIDEMILL_POLL_SECONDS"] = "0.2"
    path = table(tidemill)
    first = tidemill("train", path, "--wait").ok()
    again = tidemill("train", path, "--wait").ok()
    assert again.out == first.out
    assert "is this very job" in again.err
    assert len(simulator.tunings()) == 1
    other = tidemill("train", path, "--wait", "--suffix", "other").ok()
    assert other.out != first.out
    assert tidemill("train", path, "--wait", "--new").ok().out != first.out
    assert len(simulator.tunings()) == 3


def test_stopped_and_killed_commands_lose_nothing(tidemill: Tidemill, simulator: Simulator) -> None:
    # Whoever looks how far it is sees nothing, and goes on waiting.
    simulator.control(tuning_seconds=0, scripts={"GET /v1/fine_tuning/jobs/{id}": "!!500"})
    tidemill.environment["TIDEMILL_POLL_SECONDS"] = "0.2"
    path = table(tidemill)
    for number in (signal.SIGINT, signal.SIGKILL):
        with tidemill.started("train", path, "--wait") as running:
            running.until(simulator.tunings, "it is created")
            running.signal(number)
            assert running.ended().code in (130, -9)
    simulator.control(scripts={})
    ran = tidemill("train", path, "--wait").ok()
    (made,) = simulator.tunings()
    assert ran.out.strip() == made["fine_tuned_model"]
    assert set(simulator.files_by_name().values()) == {1}


def test_pause_resume_and_cancel_reach_the_provider(anywhere: Tidemill, simulator: Simulator) -> None:
    simulator.control(tuning_seconds=3600)
    job = anywhere("train", table(anywhere), "--json").ok().json["id"]
    if "TIDEMILL_BROKER_URL" in anywhere.environment:
        with anywhere.started("fine-tunes", "watch", job) as watching:
            watching.until(simulator.tunings, "a worker has created it")
    simulator.control(tuning_seconds=0)
    ids = [each["id"] for each in simulator.tunings()]
    assert "cannot" in anywhere("fine-tunes", "resume", job).err.lower()
    # It is validated for the first seconds, and may be paused after them: both answers are the provider's own.
    paused = anywhere("fine-tunes", "pause", job)
    assert (paused.code, "paused" in paused.out) in ((0, True), (2, False))
    ran = anywhere("cancel", job).ok()
    assert "cancelled" in ran.out
    assert [each["status"] for each in simulator.tunings()] == ["cancelled"]
    assert [each["id"] for each in simulator.tunings()] == ids
    watched = anywhere("fine-tunes", "watch", job)
    assert (watched.code, "cancelled" in watched.err) == (1, True)
    late = anywhere("fine-tunes", "pause", job)
    assert (late.code, "there is nothing to pause" in late.err) == (2, True)


def test_a_closed_door_is_said_in_one_sentence_with_the_ways_out(tidemill: Tidemill, simulator: Simulator) -> None:
    simulator.control(training_not_available=True)
    ran = tidemill("train", table(tidemill))
    assert (ran.code, ran.out) == (1, "")
    last = ran.err.strip().splitlines()[-1]
    assert "OPENAI_BASE_URL" in last
    assert "--export" in last
    simulator.control(training_not_available=False, tuning_seconds=0)
    path = tidemill.folder / "qa.csv"
    assert tidemill("train", path, "--wait").ok().out.startswith("ft:")  # the same command tries again


def test_dialogues_become_a_model_that_can_be_traced_to_them(tidemill: Tidemill, simulator: Simulator) -> None:
    simulator.control(tuning_seconds=0)
    prompts = tidemill.prompts("p.jsonl", [f"Question number {n}?" for n in range(30)])
    tidemill("ask", "-i", prompts, "-o", "a.jsonl", "--transport", "http").ok()
    tidemill("ask", "--dialogue", "1", "And then?").ok()
    ran = tidemill("train", "--from-dialogues", "--since", "2026-01-01", "--search", "question", "--wait").ok()
    model = ran.out.strip()
    shown = tidemill("fine-tunes", "show", model, "--json").ok().json
    assert shown["dialogues"] == list(range(1, 31))
    assert shown["description"] == "dialogues"
    tidemill("train", "--from-dialogues", "--search", "number", "--export", "out.jsonl").ok()
    first = (tidemill.folder / "out.jsonl").read_text().splitlines()[0]
    assert first.count('"role":"user"') == 1  # the later turn does not fit the words, and is left out
    kinds = tidemill("dialogues", "list", "--limit", "100", "--json").ok().json
    positive = sum(each["sentiment"] == "positive" for each in kinds)
    report = tidemill("train", "--from-dialogues", "--sentiment", "positive", "--dry-run", "--json").json
    assert report["train"]["examples"] + report["bad_rows"] in (positive, positive - 1)
    none = tidemill("train", "--from-dialogues", "--until", "2020-01-01", "--dry-run")
    assert (none.code, "No dialogue fits" in none.err) == (2, True)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["train"], "--from-dialogues"),
        (["train", "qa.csv", "--sentiment", "positive"], "without --from-dialogues"),
        (["train", "--from-dialogues", "--since", "yesterday"], "--since"),
        (["train", "--from-dialogues", "--method", "dpo"], "--method dpo"),
        (["train", "qa.csv", "--suffix", "x" * 65], "--suffix"),
        (["fine-tunes", "show", "nothing"], "There is no fine-tune"),
        (["fine-tunes", "plot", "latest"], "There is no fine-tune"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(tidemill: Tidemill, given: list[str], says: str) -> None:
    table(tidemill)
    ran = tidemill(*given)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran
    assert says in ran.err


def test_curves_are_drawn_and_ids_are_listed(tidemill: Tidemill, simulator: Simulator) -> None:
    simulator.control(tuning_seconds=0)
    assert tidemill("fine-tunes", "list").ok().out == ""
    tidemill("train", table(tidemill), "--wait").ok()
    tidemill("fine-tunes", "plot", "latest", "-o", "curve.svg").ok()
    assert "<svg" in (tidemill.folder / "curve.svg").read_text()
    assert "training" in tidemill("fine-tunes", "plot", "latest").ok().out
    assert "succeeded" in tidemill("fine-tunes", "list").ok().out
    assert tidemill("status").ok().out.count("qa-") == 1
