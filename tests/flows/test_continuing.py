"""Dialogues that go on: every turn is asked with all that was said before it, one at a time, and none is lost or asked
twice; assistants; and models that are about to end.
"""

import json
from itertools import pairwise
from typing import Any

from tests.flows.tidemill import Ran, Tidemill
from tests.flows.wire import wire
from tidemill.simulator import Simulator, prompt_hash, reply_tag

HTTP = ("--transport", "http")
SKY = "Why is the sky blue?"


def begun(tidemill: Tidemill, prompt: str = SKY, *options: str) -> str:
    """Ask a first prompt; the id of its dialogue."""
    return str(tidemill("ask", prompt, "--json", "--new", *HTTP, *options).ok().json["dialogue"])


def shown(tidemill: Tidemill, dialogue: str) -> dict[str, Any]:
    told: dict[str, Any] = tidemill("dialogues", "show", dialogue, "--json").ok().json
    return told


def prompts_of(told: dict[str, Any]) -> list[str]:
    return [message["content"] for message in told["messages"] if message["role"] == "user"]


def contents(body: dict[str, Any], name: str = "messages") -> list[str]:
    return [message["content"] for message in body[name]]


def go_on(tidemill: Tidemill, dialogue: str, *args: str) -> Ran:
    return tidemill("ask", "--dialogue", dialogue, *args, *HTTP)


def test_a_dialogue_goes_on_by_the_id_of_any_of_its_turns(anywhere: Tidemill) -> None:
    dialogue = begun(anywhere)
    assert go_on(anywhere, dialogue, "and then?").ok().out.endswith(f"{reply_tag('and then?')}\n")
    later = str(go_on(anywhere, dialogue, "and then?", "--json").ok().json["dialogue"])  # again: a turn of its own

    told = shown(anywhere, later)
    assert (str(told["id"]), len(told["turns"])) == (dialogue, 3)
    assert prompts_of(told) == [SKY, "and then?", "and then?"]
    assert [message["role"] for message in told["messages"]] == ["user", "assistant"] * 3
    listed = anywhere("dialogues", "list", "--limit", "2", "--json").ok().json
    assert [(str(each["dialogue"]), prompts_of(each)) for each in listed] == [
        (dialogue, ["and then?"]),
        (dialogue, ["and then?"]),
    ]
    batch = listed[0]["batch"]
    assert [prompts_of(each) for each in anywhere("dialogues", "export", "--batch", batch).ok().rows] == [
        [SKY, "and then?", "and then?"]
    ]


def test_what_is_sent_is_the_dialogue_so_far_asked_as_it_began(tidemill: Tidemill) -> None:
    with wire() as sent:
        server: dict[str, Any] = {"OPENAI_BASE_URL": sent.url}
        options = ("--model", "gpt-4o", "--system", "Be kind.", "--temperature", "0.5", "--max-tokens", "48", *HTTP)
        tidemill("ask", SKY, *options, **server).ok()
        tidemill("ask", "--dialogue", "1", "and then?", "--detach", **server).ok()  # left open: it goes first
        rude = ("--system", "Be rude.", "--temperature", "0", "--endpoint", "responses")
        tidemill("ask", "--dialogue", "1", "and now?", *rude, **server).ok()
    assert contents(sent.bodies[1]) == ["Be kind.", SKY, "Yes.", "and then?"]
    assert {name: value for name, value in sent.bodies[1].items() if name != "messages"} == {
        "model": "gpt-4o",
        "temperature": 0.5,
        "max_tokens": 48,
    }
    assert sent.paths[2] == "/v1/responses"
    assert contents(sent.bodies[2], "input") == ["Be rude.", SKY, "Yes.", "and then?", "Yes.", "and now?"]
    assert (sent.bodies[2]["temperature"], sent.bodies[2]["max_output_tokens"]) == (0, 48)


def test_instructions_that_change_are_recorded_where_they_came_in_and_the_last_ones_stay(tidemill: Tidemill) -> None:
    with wire() as sent:
        server: dict[str, Any] = {"OPENAI_BASE_URL": sent.url}
        tidemill("ask", SKY, "--system", "ONE", *HTTP, **server).ok()
        for prompt, more in (("two", ("--system", "TWO")), ("three", ()), ("four", ("--system", "TWO"))):
            tidemill("ask", "--dialogue", "1", prompt, *more, **server).ok()
    assert [[each["content"] for each in body["messages"] if each["role"] == "system"] for body in sent.bodies] == [
        ["ONE"],
        *[["TWO"]] * 3,
    ]
    whole = ["ONE", SKY, "Yes.", "TWO", "two", "Yes.", "three", "Yes.", "four", "Yes."]
    assert contents(shown(tidemill, "1")) == whole
    assert contents(tidemill("dialogues", "export").ok().rows[0]) == whole


def test_rows_of_a_file_are_turns_one_after_the_other_also_over_a_kill(
    tidemill: Tidemill, simulator: Simulator
) -> None:
    dialogue = begun(tidemill)
    rows = [f"turn {number}" for number in range(8)]
    path = tidemill.prompts("turns.jsonl", rows)
    simulator.control(latency_ms=300, latency_shape="fixed")
    with tidemill.started("ask", "-i", path, "--dialogue", dialogue, *HTTP) as running:
        running.until(lambda: simulator.counters()["paid"] >= 3, "some are answered")
    simulator.control(latency_ms=0)
    ran = tidemill("ask", "-i", path, "--dialogue", dialogue, "-o", "-", *HTTP).ok()
    assert [row["prompt"] for row in ran.rows] == rows
    assert prompts_of(shown(tidemill, dialogue)) == [SKY, *rows]
    paid = simulator.paid_by_prompt()
    assert sum(paid[prompt_hash(row)] for row in rows) <= len(rows) + 1  # the one that was under way may be paid twice


def test_two_commands_at_the_same_time_ask_one_turn_after_the_other(anywhere: Tidemill, simulator: Simulator) -> None:
    dialogue = begun(anywhere)
    simulator.control(gate="shut")
    with anywhere.started("ask", "--dialogue", dialogue, "one", *HTTP) as first:
        first.until(lambda: simulator.counters()["in_flight"] == 1, "its call is under way")
        with anywhere.started("ask", "--dialogue", dialogue, "two", *HTTP) as second:
            second.until(lambda: _open(anywhere) == 2, "both turns are stored")
            simulator.control(gate="open")
            assert (first.ended().code, second.ended().code) == (0, 0)
    told = shown(anywhere, dialogue)
    assert prompts_of(told) == [SKY, "one", "two"]
    calls = [(call["started_at"], call["ended_at"]) for call in told["attempts"]]
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(calls)), calls


def _open(user: Tidemill) -> int:
    return int(user.query("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")[0][0])


def test_a_turn_that_has_become_too_long_fails_unpaid_and_trimming_lets_it_go_out(
    tidemill: Tidemill, simulator: Simulator
) -> None:
    dialogue = begun(tidemill, "long " * 5_000, "--model", "gpt-4")
    path = tidemill.prompts("turns.jsonl", ["word " * 4_000, "short"])
    command = ("ask", "-i", path, "--dialogue", dialogue, "-o", "-", *HTTP)
    ran = tidemill(*command)
    assert [row["error_code"] for row in ran.rows] == ["context_length_exceeded", None]
    assert "has 5,0" in ran.rows[0]["error"] and "gpt-4 takes 8,192. --trim oldest" in ran.rows[0]["error"]
    assert simulator.counters()["paid"] == 2
    assert [row["error_code"] for row in tidemill(*command, "--trim", "oldest").ok().rows] == [None, None]


# --- tools ---

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"at": "Oslo"}'},
    "extra_content": {"google": {"thought_signature": "c2ln"}},
}
_MAY_HOLD = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls"},
    "tool": {"role", "content", "tool_call_id"},
}


def strict(body: dict[str, Any]) -> dict[str, Any]:
    """Answer the first question with a call, all else with text, and refuse what OpenAI refuses."""
    waiting: set[str] = set()
    for message in body["messages"]:
        allowed, calls = _MAY_HOLD[message["role"]], message.get("tool_calls")
        is_empty = message["content"] is None and not calls
        if message.keys() - allowed or is_empty or (waiting and message["role"] != "tool") or calls == []:
            return {"error": {"message": f"not allowed: {message}", "code": "invalid_value"}}
        if message["role"] == "tool" and message.get("tool_call_id") not in waiting:
            return {"error": {"message": f"answers no call: {message}", "code": "invalid_value"}}
        waiting -= {message.get("tool_call_id")}
        waiting |= {call["id"] for call in calls or ()}
    if waiting or not body.get("tools"):
        return {"error": {"message": f"no result of {waiting}, or no tools", "code": "invalid_value"}}
    more: dict[str, Any] = {
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "reasoning": "Hm.",
    }
    if len(body["messages"]) == 1:
        return {"role": "assistant", "content": None, "tool_calls": [CALL], **more}
    return {"role": "assistant", "content": "It is cold.", "tool_calls": [], "annotations": [{"type": "x"}], **more}


def test_a_strict_server_takes_the_next_turn_of_a_dialogue_with_tools(tidemill: Tidemill) -> None:
    question: dict[str, Any] = {"role": "user", "content": "Is it cold?", "name": "ann"}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "-3"}
    body = {"model": "gpt-4o", "messages": [question], "tools": TOOLS, "temperature": 0.5, "parallel_tool_calls": False}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    tidemill.write("line.jsonl", json.dumps(line))
    tidemill.write("result.jsonl", json.dumps({"messages": [result]}))
    with wire(strict) as sent:
        server: dict[str, Any] = {"OPENAI_BASE_URL": sent.url}
        (row,) = tidemill("ask", "-i", "line.jsonl", "-o", "-", *HTTP, **server).ok().rows
        assert (json.loads(row["reply"]), row["tool_calls"], row["sentiment"]) == ([CALL], [CALL], "unknown")
        tidemill("ask", "-i", "result.jsonl", "--dialogue", "1", "-o", "-", *HTTP, **server).ok()
        tidemill("ask", "--dialogue", "1", "and now?", "--temperature", "0", *HTTP, **server).ok()
        exported = tidemill("dialogues", "export").ok()
        tidemill.write("again.jsonl", json.dumps({"messages": exported.rows[0]["messages"][:-1]}))
        again = ("ask", "-i", "again.jsonl", "-o", "-", "--param", f"tools={json.dumps(TOOLS)}", *HTTP)
        tidemill(*again, **server).ok()
    answer = {"role": "assistant", "content": "It is cold."}
    turns = [question, {"role": "assistant", "content": None, "tool_calls": [CALL]}, result, answer]
    turns.append({"role": "user", "content": "and now?"})
    assert [sent.bodies[number]["messages"] for number in range(3)] == [turns[:1], turns[:3], turns]
    as_asked = {"model": "gpt-4o", "tools": TOOLS, "temperature": 0, "parallel_tool_calls": False}
    assert sent.bodies[2] == as_asked | {"messages": turns}


# --- assistants ---

ASSISTANTS = [
    {
        "id": "asst_1",
        "object": "assistant",
        "name": "support",
        "instructions": "Be kind.",
        "model": "gpt-4o",
        "temperature": 0.2,
        "top_p": 0.9,
        "tools": [{"type": "code_interpreter"}],
        "response_format": "auto",
    },
    {"name": "terse", "instructions": "One word."},
]


def test_an_assistant_fills_what_is_not_said_and_its_dialogues_are_found(tidemill: Tidemill) -> None:
    tidemill.write("assistants.json", json.dumps({"object": "list", "data": ASSISTANTS}))
    ran = tidemill("assistants", "import", "assistants.json").ok()
    assert ran.out == "assistants.json: 2 added, 0 updated, 0 unchanged\n"
    assert "support: Tidemill has no use for tools" in ran.err
    with wire() as sent:
        server: dict[str, Any] = {"OPENAI_BASE_URL": sent.url}
        tidemill("ask", SKY, "--assistant", "support", "--max-tokens", "9", *HTTP, **server).ok()
        tidemill("assistants", "use", "terse").ok()
        by_default = tidemill("ask", SKY, *HTTP, **server).ok()
        tidemill("ask", "--dialogue", "1", "and then?", **server).ok()
    assert by_default.err == "tidemill: assistant: terse\n"
    assert sent.bodies[0] == {
        "model": "gpt-4o",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": SKY}],
        "temperature": 0.2,
        "top_p": 0.9,
        "max_tokens": 9,
    }
    assert contents(sent.bodies[1]) == ["One word.", SKY]
    assert contents(sent.bodies[2]) == ["Be kind.", SKY, "Yes.", "and then?"]
    found = tidemill("dialogues", "list", "--assistant", "support", "--json").ok().json
    assert [each["id"] for each in found] == [3, 1]


def test_pictures_are_described_by_an_assistant_too(tidemill: Tidemill) -> None:
    tidemill("assistants", "add", "curator", "--instructions", "You know art.", "--model", "gpt-4o").ok()
    with wire() as sent:
        named = ("--assistant", "curator", *HTTP)
        tidemill("describe", "https://x.test/a.png", *named, OPENAI_BASE_URL=sent.url).ok()
        tidemill("ask", "--dialogue", "1", "and the frame?", *HTTP, OPENAI_BASE_URL=sent.url).ok()
    assert (sent.bodies[0]["model"], sent.bodies[0]["messages"][0]["content"]) == ("gpt-4o", "You know art.")
    picture = sent.bodies[0]["messages"][1]["content"]
    assert contents(sent.bodies[1]) == ["You know art.", picture, "Yes.", "and the frame?"]


# --- models that end ---


def test_a_model_that_has_ended_is_refused_before_anything_is_sent(tidemill: Tidemill) -> None:
    server: dict[str, Any] = {"OPENAI_BASE_URL": "https://api.openai.com/v1"}
    ran = tidemill("ask", SKY, "--model", "gpt-3.5-turbo-16k", **server)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "tidemill: gpt-3.5-turbo-16k was shut down by OpenAI on 2024-09-13; name another --model, such as gpt-6-luna.\n"
    )
    tidemill("ask", SKY, "--model", "gpt-3.5-turbo-16k", *HTTP).ok()  # a server of one's own may call it so
