"""Training data: checked, told, split and exported, with nothing sent, and nothing written when something is wrong."""

import json
from pathlib import Path

import pytest

from tests.flows.tidemill import Tidemill

ROWS = [(f"What is {number} and {number}?", f"It is {2 * number}, as everybody knows.") for number in range(40)]


@pytest.fixture
def table(tidemill: Tidemill) -> str:
    tidemill.write("qa.csv", "question,answer\n" + "".join(f'"{asked}","{told}"\n' for asked, told in ROWS))
    return "qa.csv"


def test_a_dry_run_reports_and_leaves_nothing_behind(tidemill: Tidemill, table: str) -> None:
    ran = tidemill("train", table, "--val", "0.1", "--dry-run").ok()
    for told in ("40 rows · columns: question → answer", "36 examples", "4 examples", "$", "Nothing was sent."):
        assert told in ran.out
    assert ran.err == ""
    assert [each.name for each in tidemill.folder.iterdir()] == ["qa.csv"]


def test_the_report_as_json_says_the_same(tidemill: Tidemill, table: str) -> None:
    told = tidemill("train", table, "--val", "0.1", "--dry-run", "--json").ok().json
    assert (told["train"]["examples"], told["validation"]["examples"]) == (36, 4)
    assert told["assumed_usd"] == pytest.approx(told["epoch_usd"] * told["assumed_epochs"])
    assert (told["errors"], told["warnings"], told["findings"][0]["code"]) == (0, 0, "few")


def test_an_export_is_what_the_api_takes_whatever_the_table_s_form(tidemill: Tidemill, table: str) -> None:
    lines = "".join(json.dumps({"prompt": asked, "completion": told}) + "\n" for asked, told in ROWS)
    tidemill.write("qa.jsonl", "\ufeff" + lines)
    for source in (table, "qa.jsonl"):
        tidemill("train", source, "--val", "0.1", "--export", f"{Path(source).suffix[1:]}-out.jsonl").ok()
    written = (tidemill.folder / "csv-out.jsonl").read_bytes()
    assert written == (tidemill.folder / "jsonl-out.jsonl").read_bytes()
    first = json.loads(written.splitlines()[0])
    assert [message["role"] for message in first["messages"]] == ["user", "assistant"]
    both = written + (tidemill.folder / "csv-out.validation.jsonl").read_bytes()
    assert sorted(json.loads(line)["messages"][0]["content"] for line in both.splitlines()) == sorted(
        asked for asked, _ in ROWS
    )
    again = tidemill("train", "csv-out.jsonl", "--export", "again.jsonl").ok()  # its own form is a source as well
    assert "columns: messages" in again.out
    assert (tidemill.folder / "again.jsonl").read_bytes() == written


def test_stdout_carries_the_examples_alone(tidemill: Tidemill, table: str) -> None:
    ran = tidemill("train", "-", "--export", "-", input="no,json")
    assert (ran.code, ran.out) == (2, "")  # a pipe is read as lines, and these are no JSON
    lines = "".join(json.dumps({"question": asked, "answer": told}) + "\n" for asked, told in ROWS)
    ran = tidemill("train", "-", "--export", "-", input=lines).ok()
    assert len(ran.rows) == 40
    assert "WHAT WAS READ" in ran.err


def test_an_error_stops_the_export_and_skipping_drops_the_row(tidemill: Tidemill, table: str) -> None:
    with (tidemill.folder / table).open("a") as file:
        file.write('"What else?",\n')
    ran = tidemill("train", table, "--export", "out.jsonl")
    assert ran.code == 2
    assert "qa.csv row 42: message 2 (assistant) is empty" in ran.out
    assert "--skip-bad-rows" in ran.last_line
    assert not (tidemill.folder / "out.jsonl").exists()
    ran = tidemill("train", table, "--export", "out.jsonl", "--skip-bad-rows").ok()
    assert "1 row with errors: dropped" in ran.out
    assert len((tidemill.folder / "out.jsonl").read_text().splitlines()) == 40


def test_strict_takes_a_warning_for_an_error(tidemill: Tidemill, table: str) -> None:
    with (tidemill.folder / table).open("a") as file:
        file.write(f'"{ROWS[0][0]}","{ROWS[0][1]}"\n')
    assert tidemill("train", table, "--dry-run").code == 0
    ran = tidemill("train", table, "--dry-run", "--strict")
    assert ran.code == 2
    assert "qa.csv row 42: the same as row 2" in ran.out
    assert "1 warning" in ran.last_line


def test_what_not_to_say_is_the_rejected_side_or_has_weight_0(tidemill: Tidemill, table: str) -> None:
    tidemill.write("bad.csv", "question,answer\n" + "".join(f'"{asked}",Who knows\n' for asked, _ in ROWS[:12]))
    ran = tidemill("train", ".", "--negative", "bad.csv", "--method", "dpo", "--export", "pairs.jsonl").ok()
    assert "28 rows without a pair left out" in ran.out
    pairs = [json.loads(line) for line in (tidemill.folder / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) == 12
    assert {each["non_preferred_output"][0]["content"] for each in pairs} == {"Who knows"}
    told = tidemill("train", table, "--negative", "bad.csv", "--dry-run", "--json").ok().json
    assert (told["train"]["examples"], told["counts"]) == (52, {"teaches_nothing": 12, "few": 1})


def test_what_cannot_be_read_is_one_sentence(tidemill: Tidemill, table: str) -> None:
    ran = tidemill("train", table, "--prompt-column", "frage", "--export", "out.jsonl")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert "its columns are: 'question', 'answer'" in ran.err
