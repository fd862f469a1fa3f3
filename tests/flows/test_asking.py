"""Asking: one prompt or a file of them, in every form of input, with every option, into every form of output."""

import csv
import io
import json
import re
import time

import pandas as pd
import pytest
from jsonschema import validate

from tests.flows.tidemill import Tidemill, answers, summary
from tests.flows.wire import wire
from tidemill.simulator import Simulator, prompt_hash, reply_tag

SKY = "Why is the sky blue?"
TRANSPORTS = pytest.mark.parametrize("transport", ["sdk", "http"])


# --- one prompt ---


def test_one_prompt_prints_its_answer_and_nothing_else(anywhere: Tidemill) -> None:
    ran = anywhere("ask", SKY, "--transport", "http", "--new").ok()
    assert ran.out.endswith(f"{reply_tag(SKY)}\n")
    assert ran.out.count("\n") == 1
    assert ran.said == ""


def test_the_same_prompt_is_answered_from_the_database(tidemill: Tidemill, simulator: Simulator) -> None:
    first, second = tidemill("ask", SKY).ok(), tidemill("ask", SKY).ok()
    assert first.out == second.out
    assert "--new asks again" in second.err
    assert simulator.counters()["paid"] == 1


def test_one_prompt_waits_for_the_judge_only_where_its_judgement_is_shown(tidemill: Tidemill) -> None:
    prompt, *http = "!!german Where is the mill?", "--transport", "http"
    asked = tidemill("ask", prompt, *http).ok()
    assert asked.out.startswith("Die Mühle steht am Fluss")
    shown = tidemill("ask", prompt, "--json", *http).ok().json
    assert (shown["reply"].rstrip(), shown["sentiment"]) == (asked.out.rstrip(), "unknown")


def test_one_prompt_that_is_not_answered_says_why(tidemill: Tidemill) -> None:
    ran = tidemill("ask", "!!refusal please", "--transport", "http")
    assert (ran.code, ran.out) == (1, "")
    assert "I'm sorry, but I can't help with that." in ran.err
    assert "(refused)" in ran.err


# --- inputs and outputs ---

AWKWARD = [
    "plain",
    "a comma, and a second, one",
    'he said "why?" and left',
    "line one\nline two\n\n  line four",
    "Windows\r\nlines",
    "ünïcödé 🌊 漢字",
    "  blanks around  ",
    "=SUM(A1:A9)",
    'everything, "at\nonce" 🌊',
    "plain",
]


def test_csv_with_a_bom_quotes_and_lines_in_cells_is_one_row_each_in_input_order(anywhere: Tidemill) -> None:
    prompts = [f"{awkward} {turn}" if turn else awkward for turn in range(20) for awkward in AWKWARD]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["number", "prompt", "note"])
    writer.writerows([number, prompt, f"note {number}"] for number, prompt in enumerate(prompts))
    path = anywhere.write("awkward.csv", b"\xef\xbb\xbf" + text.getvalue().encode())

    ran = anywhere("ask", "-i", path, "--column", "prompt", "-o", "answers.csv", "--transport", "http", "--new").ok()

    assert ran.out == ""
    assert re.match(summary(200, 200), ran.last_line), ran.last_line
    with (anywhere.folder / "answers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prompt"] for row in rows] == prompts
    assert [row["number"] for row in rows] == [str(number) for number in range(200)]
    assert answers(rows)
    assert {row["sentiment"] for row in rows} <= {"positive", "negative", "neutral"}
    assert list(rows[0]) == [
        *("number", "prompt", "note", "custom_id", "status", "reply", "sentiment", "sentiment_score", "model"),
        *("input_tokens", "output_tokens", "cost_usd", "attempts", "error_code", "error"),
    ]


def test_jsonl_rows_may_be_prompts_messages_or_openai_batch_lines(tidemill: Tidemill) -> None:
    dialogue = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "And now?"},
    ]
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "From a batch file"}]}
    asked = {"model": "gpt-4o-mini", "input": "As a response"}
    lines = [
        {"prompt": "A prompt", "custom_id": "first"},
        {"messages": dialogue},
        {"custom_id": "line-1", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {"custom_id": "line-2", "method": "POST", "url": "/v1/responses", "body": asked},
    ]
    path = tidemill.write("mixed.jsonl", "\n".join(json.dumps(line) for line in lines))

    rows = tidemill("ask", "-i", path, "-o", "-", "--transport", "http").ok().rows

    tags = [reply_tag(prompt) for prompt in ("A prompt", "And now?", "From a batch file", "As a response")]
    assert [row["reply"][-len(tag) :] for row, tag in zip(rows, tags, strict=True)] == tags
    assert [row["custom_id"] for row in rows[:1] + rows[2:]] == ["first", "line-1", "line-2"]
    assert rows[1]["messages"] == dialogue
    assert [row["model"] for row in rows] == ["gpt-6-luna", "gpt-6-luna", "gpt-4o-mini", "gpt-4o-mini"]


def test_a_template_is_filled_from_the_columns_and_parquet_comes_out(tidemill: Tidemill) -> None:
    reviews = [{"text": "Lovely.", "stars": 5}, {"text": "Awful.", "stars": 1}]
    path = tidemill.write("reviews.jsonl", "\n".join(map(json.dumps, reviews)))

    tidemill(
        *("ask", "-i", path, "-t", "Is {{this}} kind? {text} ({stars})", "--system", "Answer yes or no."),
        *("-o", "answers.parquet", "--transport", "http"),
    ).ok()

    frame = pd.read_parquet(tidemill.folder / "answers.parquet")
    asked = [f"Is {{this}} kind? {review['text']} ({review['stars']})" for review in reviews]
    assert all(reply.endswith(reply_tag(prompt)) for reply, prompt in zip(frame["reply"], asked, strict=True))
    assert str(frame["input_tokens"].dtype) == "int64"


def test_lines_through_a_pipe_come_out_as_json_lines_on_stdout_alone(anywhere: Tidemill, simulator: Simulator) -> None:
    lines = [f"piped question {number}" for number in range(40)]

    ran = anywhere("ask", "-i", "-", "-o", "-", "--transport", "http", input="\n".join(lines) + "\n").ok()

    assert [row["prompt"] for row in ran.rows] == lines
    assert answers(ran.rows)
    assert re.match(summary(40, 40), ran.last_line)
    assert simulator.paid_by_prompt() == {prompt_hash(line): 1 for line in lines}


@pytest.mark.parametrize("ending", ["xlsx", "parquet", "json", "tsv"])
def test_other_tables_are_read_too(tidemill: Tidemill, ending: str) -> None:
    frame = pd.DataFrame({"question": [f"from {ending} 1", f"from {ending} 2"], "n": [1, 2]})
    path = tidemill.folder / f"questions.{ending}"
    {
        "xlsx": lambda: frame.to_excel(path, index=False),
        "parquet": lambda: frame.to_parquet(path),
        "json": lambda: frame.to_json(path, orient="records"),
        "tsv": lambda: frame.to_csv(path, sep="\t", index=False),
    }[ending]()

    rows = tidemill("ask", "-i", path, "-o", "-", "--transport", "http").ok().rows

    assert answers(rows, "question")
    assert [int(row["n"]) for row in rows] == [1, 2]


def test_json_on_a_run_prints_its_sums(tidemill: Tidemill) -> None:
    path = tidemill.prompts("two.jsonl", ["one", "!!refusal"])
    ran = tidemill("ask", "-i", path, "--json", "--transport", "http", "-o", "two.csv")
    assert ran.code == 1
    assert ran.json | {"batch": "", "seconds": 0, "tokens": 0, "cost_usd": 0} == {
        "batch": "",
        "rows": 2,
        "succeeded": 1,
        "failed": 1,
        "cancelled": 0,
        "queued": 0,
        "running": 0,
        "open": 0,
        "tokens": 0,
        "cost_usd": 0,
        "rows_at_unknown_price": 0,
        "unjudged": 0,
        "state": "open",
        "hold_reason": None,
        "route": "online",
        "deadline_at": None,
        "at_provider": 0,
        "budgets": [],
        "seconds": 0,
    }


# --- what is sent ---


@TRANSPORTS
def test_every_option_is_a_field_of_the_request(tidemill: Tidemill, transport: str) -> None:
    with wire('{"kind": true}') as sent:
        schema = {"type": "object", "properties": {"kind": {"type": "boolean"}}, "required": ["kind"]}
        tidemill.write("schema.json", json.dumps(schema))
        ran = tidemill(
            *("ask", SKY, "--system", "Be kind.", "--temperature", "0.5", "--max-tokens", "48"),
            *("--reasoning-effort", "low", "--param", "seed=7", "--param", 'stop=["END"]', "--param", "user=ann"),
            *("--schema", "schema.json", "--transport", transport),
            OPENAI_BASE_URL=sent.url,
        ).ok()
    assert ran.out == '{"kind": true}\n'
    assert sent.paths == ["/v1/chat/completions"]
    assert sent.keys == ["Bearer test-key"]
    assert sent.bodies == [
        {
            "model": "gpt-6-luna",
            "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": SKY}],
            "temperature": 0.5,
            "max_completion_tokens": 48,
            "reasoning_effort": "low",
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": schema, "strict": True},
            },
            "seed": 7,
            "stop": ["END"],
            "user": "ann",
        }
    ]


def test_the_responses_endpoint_gets_the_same_in_its_own_words(tidemill: Tidemill) -> None:
    with wire() as sent:
        tidemill(
            *("ask", SKY, "--endpoint", "responses", "--system", "Be kind.", "--max-tokens", "48"),
            *("--temperature", "0.5", "--reasoning-effort", "low", "--transport", "http"),
            OPENAI_BASE_URL=sent.url,
        ).ok()
    assert sent.paths == ["/v1/responses"]
    assert sent.bodies == [
        {
            "model": "gpt-6-luna",
            "input": [{"role": "user", "content": SKY}],
            "instructions": "Be kind.",
            "temperature": 0.5,
            "max_output_tokens": 48,
            "reasoning": {"effort": "low"},
        }
    ]


def test_nothing_is_sent_that_was_not_said_and_other_servers_get_max_tokens(tidemill: Tidemill) -> None:
    with wire() as sent:
        tidemill(
            *("ask", SKY, "--model", "llama-3", "--max-tokens", "48", "--transport", "http"),
            OPENAI_BASE_URL=sent.url + "/",
            OPENAI_API_KEY="",
        ).ok()
    assert sent.keys == [None]
    assert sent.bodies == [
        {"model": "llama-3", "messages": [{"role": "user", "content": SKY}], "max_tokens": 48},
    ]


def test_the_responses_endpoint_is_answered_over_the_sdk(anywhere: Tidemill, simulator: Simulator) -> None:
    path = anywhere.prompts("responses.jsonl", ["one", "two", "three"])
    rows = anywhere("ask", "-i", path, "-o", "-", "--endpoint", "responses", "--transport", "sdk", "--new").ok().rows
    assert answers(rows)
    assert {call["endpoint"] for call in simulator.paid()} == {"responses"}


# --- schema ---

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"type": "boolean"}, "why": {"type": "string"}},
    "required": ["kind", "why"],
    "additionalProperties": False,
}


def test_answers_with_a_schema_fit_it(tidemill: Tidemill) -> None:
    tidemill.write("schema.json", json.dumps(SCHEMA))
    path = tidemill.prompts("kind.jsonl", ["Is it kind?", "Is it not?"])
    rows = tidemill("ask", "-i", path, "--schema", "schema.json", "-o", "-", "--transport", "http").ok().rows
    for row in rows:
        validate(json.loads(row["reply"]), SCHEMA)


def test_a_reply_that_breaks_the_schema_is_asked_again_and_then_failed(tidemill: Tidemill) -> None:
    tidemill.write("schema.json", json.dumps(SCHEMA))
    with wire('{"kind": "perhaps"}') as sent:
        ran = tidemill(
            *("ask", "Is it kind?", "--schema", "schema.json", "--transport", "http"), OPENAI_BASE_URL=sent.url
        )
    assert (ran.code, ran.out) == (1, "")
    assert "breaks the schema" in ran.err
    assert "(schema_mismatch)" in ran.err
    assert len(sent.bodies) == 3


# --- how fast, how urgent, what it is called ---


def test_rpm_spaces_the_calls(tidemill: Tidemill, simulator: Simulator) -> None:
    path = tidemill.prompts("paced.jsonl", [f"paced {number}" for number in range(12)])
    before = time.time()  # the first call may be late; none of the others is early
    tidemill("ask", "-i", path, "-o", "-", "--rpm", "180", "--transport", "http").ok()
    began = sorted(call["started_at"] for call in simulator.paid())
    assert len(began) == 12
    assert began[-1] - before >= 11 / 3 * 0.6  # three a second, but for a small burst at the beginning


def test_the_window_bounds_the_calls_in_flight(tidemill: Tidemill, simulator: Simulator) -> None:
    simulator.control(gate="shut")
    path = tidemill.prompts("window.jsonl", [f"window {number}" for number in range(40)])
    with tidemill.started("ask", "-i", path, "-o", "-", "--window", "5", "--transport", "http") as running:
        running.until(lambda: simulator.counters()["in_flight"] == 5, "the window is full")
        simulator.control(gate="open")
        running.ended().ok()
    assert simulator.counters()["max_in_flight"] == 5


def test_the_higher_priority_goes_first(alone: Tidemill, simulator: Simulator) -> None:
    simulator.control(latency_ms=20, latency_shape="fixed")
    alone.environment["TIDEMILL_WINDOW"] = "2"
    for name, priority in (("later", 0), ("sooner", 5)):
        path = alone.prompts(f"{name}.jsonl", [f"{name} {number}" for number in range(20)])
        options = ("--detach", "--priority", str(priority), "--transport", "http")
        alone("ask", "-i", path, *options).ok()
    with alone.started("worker"):
        rows = alone("watch", "later", "--json").ok().json
        alone("watch", "sooner").ok()
    assert rows["succeeded"] == 20
    order = [call["prompt"].split()[0] for call in simulator.paid()]
    last_of_the_urgent = max(place for place, name in enumerate(order) if name == "sooner")
    # Only what the broker held already, twice the window, and what was under way may have gone before.
    assert order[: last_of_the_urgent + 1].count("later") <= 8


def test_a_name_finds_the_batch_again_wherever_the_rows_come_from(tidemill: Tidemill, simulator: Simulator) -> None:
    for file in ("one.jsonl", "other.jsonl"):
        path = tidemill.prompts(file, ["named question"])
        tidemill("ask", "-i", path, "--name", "June Review", "--transport", "http", "-o", "-").ok()
    (line,) = tidemill("status", "--json").ok().json
    assert line["batch"].startswith("june-review-")
    assert simulator.counters()["paid"] == 1


HOSTILE = "\x1b]0;pwned\x07\x9b2J\u202egpj"


def test_a_strangers_text_does_nothing_on_a_terminal(tidemill: Tidemill, simulator: Simulator) -> None:
    path = tidemill.folder / f"a{HOSTILE}.jsonl"
    path.write_text(json.dumps({"prompt": f"say {HOSTILE}"}) + "\n", encoding="utf-8")
    commands = [
        ["ask", f"say {HOSTILE}"],
        ["ask", "-i", path.name, "-o", "-"],
        ["ask", "-i", f"{HOSTILE}.csv", "-o", "x.jsonl"],
        ["ask", "--endpoint", HOSTILE, "x"],
        [HOSTILE],
        ["status"],
        ["status", HOSTILE],
        ["dialogues", "list"],
        ["dialogues", "show", "1"],
        ["dialogues", "export"],
    ]
    for command in commands:
        shown = tidemill.on_a_terminal(*command)
        assert shown and "Traceback" not in shown, (command, shown)
        assert not [each for each in ("\x1b]0;", "\x07", "\x9b", "\u202e") if each in shown], (command, shown)
    exported = tidemill("dialogues", "export").ok().rows
    assert exported[0]["messages"][0]["content"] == f"say {HOSTILE}"


# --- several files ---


def test_several_files_are_one_batch_which_the_same_command_finds_again(
    tidemill: Tidemill, simulator: Simulator
) -> None:
    tidemill.write("part2.csv", "prompt,topic\nWhy?,sky\n")
    tidemill.write("part10.json", '["How?"]')
    tidemill.write("system.md", "Be brief.\n")
    command = ("ask", "-i", "part*", "--system", "@system.md", "-o", "out.xlsx", "--transport", "http")
    tidemill(*command).ok()
    tidemill.write("part3.jsonl", '{"prompt": "Where?", "place": "here"}\n')
    assert "continues: 2 answered already" in tidemill(*command).ok().err
    assert simulator.counters()["paid"] == 3
    frame = pd.read_excel(tidemill.folder / "out.xlsx", engine="calamine")
    assert list(frame["prompt"]) == ["Why?", "Where?", "How?"]
    assert list(frame.columns[:3]) == ["prompt", "topic", "place"]
    tidemill("results", "latest", "--where", "topic=sky", "--columns", "prompt", "-o", "a.csv.gz", "-o", "b.tsv").ok()
    assert pd.read_csv(tidemill.folder / "a.csv.gz").to_dict("list") == {"prompt": ["Why?"]}
    assert (tidemill.folder / "b.tsv").read_text() == "prompt\nWhy?\n"
