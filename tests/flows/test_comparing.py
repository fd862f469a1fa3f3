"""Comparing before paying: two batches side by side, and a changed question for a sample that is paid for once."""

import csv
import json
from html.parser import HTMLParser
from typing import Any

import pytest

from tests import pictures
from tests.flows.tidemill import Tidemill
from tests.flows.wire import wire
from tidemill.simulator import Simulator

HTTP = ("--transport", "http")
ROWS = 40
OTHER = ("--model", "gpt-4o-mini", "--max-tokens", "60")


def test_a_sample_is_asked_with_a_change_and_compared_and_nothing_is_paid_twice(
    tidemill: Tidemill, simulator: Simulator
) -> None:
    table = "".join(f"what is {n} <script>alert({n})</script>?,{n}\n" for n in range(ROWS))
    path = tidemill.write("questions.csv", f"question,n\n{table}")
    batch = tidemill("ask", "-i", path, "--json", *HTTP).ok().json["batch"]
    ran = tidemill("diff", batch, *OTHER, "--sample", "8", "--json").ok()
    assert f"8 of {ROWS} rows for gpt-4o-mini: 8 calls" in ran.err
    told = ran.json
    assert (told["matched_by"], told["pairs"], told["same"]) == ("sample", 8, 8)  # the reply follows from the prompt
    assert (told["a"]["models"], told["b"]["models"]) == ({"gpt-6-luna": 8}, {"gpt-4o-mini": 8})
    assert told["sample"]["all_usd"] == pytest.approx(told["b"]["cost_usd"] / 8 * ROWS)
    assert len(simulator.paid()) == ROWS + 8

    again = tidemill("diff", batch, *OTHER, "--sample", "8").ok()  # goes on with the same batch
    assert "no call is made" in again.err
    assert "The same answer: 8 of 8 (100 %)." in again.out
    assert len(simulator.paid()) == ROWS + 8
    more = tidemill("diff", batch, *OTHER, "--sample", "12", "--json").ok().json  # has the rows of the smaller one
    assert (more["b"]["batch"], more["pairs"]) == (told["b"]["batch"], 12)
    assert len(simulator.paid()) == ROWS + 12

    shorter = ("-t", "Shorter: {question}", "--sample", "8", "--seed", "7")
    changed = tidemill("diff", batch, *shorter, "-o", "page.html", "--json").ok().json
    assert (changed["same"], changed["both_answered"]) == (0, 8)
    assert changed["rows"][0]["b_asked"] == f"Shorter: {changed['rows'][0]['a_asked']}"
    page = (tidemill.folder / "page.html").read_text("utf-8")
    HTMLParser().feed(page)
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(" in page

    ran = tidemill("diff", batch, "-t", "!!422 {question}", "--sample", "1", "--json")
    assert (ran.code, ran.json["b"]["failed"]) == (1, 1), "what is only half an answer is no success"

    ran = tidemill("diff", batch, changed["b"]["batch"], "-o", "both.csv", "--rows", "1").ok()  # two batches
    assert f"8 rows compared, matched by the input's columns; only A has {ROWS - 8} more rows." in ran.out
    assert ran.out.count("\nrow ") == 1
    with (tidemill.folder / "both.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == sorted((row["row"] for row in rows), key=int)
    assert all(row["b_asked"] == f"Shorter: {row['question']}" and row["a_reply"] != row["b_reply"] for row in rows)
    assert len(simulator.paid()) == ROWS + 12 + 8


def test_rows_with_messages_a_body_or_a_picture_are_asked_with_the_change(tidemill: Tidemill) -> None:
    turns = [{"role": "system", "content": "Be rude."}, {"role": "user", "content": "Why?"}]
    line = {"method": "POST", "url": "/v1/chat/completions", "body": {"model": "old", "messages": turns, "seed": 7}}
    tidemill.write("turns.jsonl", f"{json.dumps({'messages': turns})}\n{json.dumps(line)}\n")
    tidemill.write("photo.jpg", pictures.encoded(pictures.photo(64, 48), "JPEG"))
    with wire() as sent:
        server: dict[str, Any] = {"OPENAI_BASE_URL": sent.url}
        tidemill("ask", "-i", "turns.jsonl", *HTTP, **server).ok()
        told = tidemill("diff", "latest", "--model", "new", "--system", "Be kind.", "--json", **server).ok().json
        assert (told["pairs"], told["same"], told["rows"]) == (2, 2, [])
        tidemill("describe", "photo.jpg", *HTTP, **server).ok()
        tidemill("diff", "latest", "--model", "new", "--prompt", "What is {stem}?", **server).ok()
    kind = {"model": "new", "messages": [{"role": "system", "content": "Be kind."}, turns[1]]}
    assert sorted(sent.bodies[2:4], key=len) == [kind, {**kind, "seed": 7}]
    text, picture = sent.bodies[5]["messages"][0]["content"]
    assert (sent.bodies[5]["model"], text["text"]) == ("new", "What is photo?")
    assert picture == sent.bodies[4]["messages"][0]["content"][1]
