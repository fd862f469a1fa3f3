"""Looking: what a user sees of batches and dialogues."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.flows.tidemill import Tidemill, answers
from tests.servers import Postgres
from tidemill.migrations import HEAD
from tidemill.simulator import Simulator

HTTP = ("--transport", "http")
ROWS = [
    {"custom_id": "a", "prompt": "Where does the river rise?"},
    {"custom_id": "b", "prompt": "Where does the 100% WOOL come from?"},
    {"custom_id": "c", "prompt": "!!context is too long"},
]


@pytest.fixture(scope="module")
def library(_simulator_process: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tidemill]:
    """A home with one batch of three rows, of which one failed, and one single prompt after it."""
    folder = tmp_path_factory.mktemp("library")
    environment = {"TIDEMILL_HOME": str(folder / "home"), "OPENAI_BASE_URL": _simulator_process.url}
    made = Tidemill(environment, folder)
    path = made.write("rivers.jsonl", "\n".join(map(json.dumps, ROWS)))
    assert made("ask", "-i", path, "-o", "rivers.csv", *HTTP, "--max-tokens", "100").code == 1
    made("ask", "Only one", *HTTP).ok()
    yield made


def test_status_lists_batches_the_newest_first(library: Tidemill) -> None:
    listed = library("status").ok().out.splitlines()
    assert listed[0].split() == [
        *("batch", "model", "created", "rows", "succeeded", "failed", "open", "tokens", "cost", "state"),
    ]
    assert [line.split("-")[0] for line in listed[1:]] == ["prompt", "rivers"]
    assert listed[2].split()[-1] == "done"
    told = library("status", "--json", "--limit", "1").ok().json
    assert [(line["rows"], line["succeeded"]) for line in told] == [(1, 1)]


def test_status_of_one_batch_says_why_rows_failed(library: Tidemill) -> None:
    shown = library("status", "rivers").ok().out
    assert "3 rows: 2 succeeded, 1 failed, 0 open" in shown
    assert "1 × context_length_exceeded: This model's maximum context length" in shown
    told = library("status", "rivers", "--json").ok().json
    assert (told["rows"], told["failed"], told["failures"][0]["error_code"]) == (3, 1, "context_length_exceeded")


def test_a_row_and_a_batch_are_explained(library: Tidemill) -> None:
    row = library("explain", "rivers:1", "--json").ok().json
    assert (row["custom_id"], row["state"], row["prompt"]) == ("a", "succeeded", ROWS[0]["prompt"])
    assert [each["event"] for each in row["events"]] == ["submitted", "claimed", "called", "succeeded", "judged"]
    assert library("explain", "job", str(row["job"]), "--json").ok().json == row
    shown = library.on_a_terminal("explain", "rivers:c")
    assert "failed for good: 400" in shown and max(map(len, shown.splitlines())) <= 80
    batch = library("explain", "rivers").ok().out
    assert "every row has ended" in batch and "1 × context_length_exceeded" in batch and "→ shorten" in batch
    nobody = library("explain", "rivers:nobody")
    assert (nobody.code, nobody.out) == (2, "")
    assert library("workers", "--json").ok().json == []


def test_results_come_in_every_form_and_say_the_same(library: Tidemill) -> None:
    rows = library("results", "rivers").ok().rows
    assert [row["custom_id"] for row in rows] == ["a", "b", "c"]
    assert answers(rows[:2])
    assert (rows[2]["status"], rows[2]["reply"], rows[2]["attempts"]) == ("failed", None, 1)
    assert rows[0]["cost_usd"] > 0
    for name in ("all.jsonl", "all.csv", "all.parquet"):
        said = library("results", "rivers", "-o", name).ok()
        assert "3 rows written" in said.err
        assert said.out == ""
    assert [json.loads(line) for line in (library.folder / "all.jsonl").read_text().splitlines()] == rows
    for frame in (pd.read_csv(library.folder / "all.csv"), pd.read_parquet(library.folder / "all.parquet")):
        assert list(frame["reply"][:2]) == [row["reply"] for row in rows[:2]]


def test_dialogues_are_listed_shown_searched_and_exported(library: Tidemill) -> None:
    listed = library("dialogues", "list", "--json").ok().json
    assert [dialogue["messages"][0]["content"] for dialogue in listed] == [
        *("Only one", ROWS[1]["prompt"], ROWS[0]["prompt"]),
    ]
    table = library("dialogues", "list", "--batch", "rivers").ok().out.splitlines()
    assert [line.split()[0] for line in table] == ["id", str(listed[1]["id"]), str(listed[2]["id"])]

    found = library("dialogues", "search", "wool 100%", "--json").ok().json
    assert [dialogue["messages"][0]["content"] for dialogue in found] == [ROWS[1]["prompt"]]
    nothing = library("dialogues", "search", "no such words")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "No dialogue fits.\n")

    told = library("dialogues", "show", str(listed[2]["id"]), "--json").ok().json
    assert [message["role"] for message in told["messages"]] == ["user", "assistant"]
    assert [attempt["outcome"] for attempt in told["attempts"]] == ["succeeded"]
    assert ROWS[0]["prompt"] in library("dialogues", "show", str(listed[2]["id"])).ok().out

    library("dialogues", "export", "--batch", "rivers", "-o", "dialogues.jsonl").ok()
    lines = (library.folder / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["messages"][0]["content"] for line in lines] == [ROWS[0]["prompt"], ROWS[1]["prompt"]]


def test_dialogues_are_found_by_their_sentiment(library: Tidemill) -> None:
    everything = library("dialogues", "list", "--json").ok().json
    for sentiment in {dialogue["sentiment"] for dialogue in everything}:
        some = library("dialogues", "list", "--sentiment", sentiment, "--json").ok().json
        assert some == [dialogue for dialogue in everything if dialogue["sentiment"] == sentiment]


def test_models_are_listed_with_their_prices(library: Tidemill) -> None:
    (mini,) = (model for model in library("models", "--json").ok().json if model["id"] == "gpt-4o-mini")
    assert (mini["input_usd_per_million"], mini["output_usd_per_million"]) == (0.15, 0.6)
    assert re.search(r"gpt-4o-mini +0\.15 +0\.6", library("models").ok().out)


def test_doctor_says_that_all_is_well_and_shows_no_key(library: Tidemill) -> None:
    told = library("doctor", OPENAI_API_KEY="sk-very-secret").ok().out
    assert told.count("ok ") == 12
    assert "FIX" not in told
    assert "sk-very-secret" not in told
    assert {"OPENAI_API_KEY", "TIDEMILL_HOME", "TIDEMILL_WINDOW"} <= {line.split(" ")[0] for line in told.splitlines()}


def test_doctor_says_what_to_fix(library: Tidemill) -> None:
    ran = library(
        *("doctor", "--json"),
        OPENAI_BASE_URL="http://127.0.0.1:9/v1",
        TIDEMILL_BROKER_URL="redis://:secret@127.0.0.1:9/0",
    )
    assert ran.code == 1
    wrong = {check["name"]: check["says"] for check in ran.json["checks"] if not check["ok"]}
    assert set(wrong) == {"broker", "provider", "workers"}
    assert "secret" not in ran.out


def test_help_is_there_for_every_command_with_an_example(library: Tidemill) -> None:
    for command in ("ask", "status", "dialogues search", "worker"):
        assert f"Example: tidemill {command}" in library(*command.split(), "--help").ok().out


def test_a_shared_database_is_made_by_db_upgrade_only(
    postgres_server: Postgres, simulator: Simulator, folder: Path
) -> None:
    url = postgres_server.database()
    fresh = Tidemill({"TIDEMILL_DATABASE_URL": url, "OPENAI_BASE_URL": simulator.url}, folder)
    for command in (("ask", "anything"), ("status",), ("worker",)):
        ran = fresh(*command)
        assert ran.code == 2
        assert re.fullmatch(r"tidemill: The database .* Run `tidemill db upgrade` once, then try again\.\n", ran.err)
    assert f"has schema {HEAD}" in fresh("db", "upgrade").ok().out
    assert f"has schema {HEAD}" in fresh("db", "upgrade").ok().out
    assert fresh("status", "--json").ok().json == []
