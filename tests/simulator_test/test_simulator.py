"""Every promise of Tidemill is tested against the simulator's books, so the books are tested first."""

import asyncio
import http.client
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.waiting import limit, wait_until
from tidemill.simulator import Simulator, SimulatorDownError, prompt_hash, reply_tag
from tidemill.simulator.calls import Call
from tidemill.simulator.faults import BATCH_FAULTS, CONTENT_FAULTS, FAULTS, FLEX_FAULTS, LINE_FAULTS
from tidemill.simulator.limits import Bucket, Limits, go_duration
from tidemill.simulator.options import FIELDS, Options, SimulatorOptions

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    with Simulator(slow_seconds=0.2) as sim:
        yield sim


@pytest.fixture
def sim(running: Simulator) -> Simulator:
    running.reset()
    return running


def post(sim: Simulator, path: str, body: dict[str, Any], key: str = "sk-test") -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(f"{sim.url}{path}", json.dumps(body).encode(), {"Authorization": f"Bearer {key}"})
    try:
        with opener.open(request, timeout=limit()) as reply:
            return reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def ask(sim: Simulator, content: Any, **more: Any) -> tuple[int, dict[str, str], bytes]:
    body = {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}],
    }
    return post(sim, "/chat/completions", body | more)


def respond(sim: Simulator, given: Any, **more: Any) -> tuple[int, dict[str, str], bytes]:
    return post(sim, "/responses", {"model": "m", "input": given} | more)


def test_a_reply_names_its_prompt_and_is_the_same_every_time(sim: Simulator) -> None:
    status, headers, body = ask(sim, "What is a tide mill?")
    reply = json.loads(body)
    text = reply["choices"][0]["message"]["content"]
    assert (status, reply["model"], reply["choices"][0]["finish_reason"]) == (200, "m", "stop")
    assert text.endswith(reply_tag("What is a tide mill?")) and 140 < len(text) < 240
    assert reply["usage"]["completion_tokens"] == -(-len(text) // 4)
    assert headers["x-request-id"].startswith("req_") and "x-ratelimit-limit-requests" not in headers
    again = json.loads(ask(sim, [{"type": "text", "text": "What is a tide mill?"}])[2])
    assert again["choices"][0]["message"]["content"] == text and again["id"] != reply["id"]
    output = json.loads(respond(sim, "What is a tide mill?")[2])["output"][0]["content"][0]
    assert output["text"] == text
    assert sim.paid_by_prompt() == {prompt_hash("What is a tide mill?"): 3}


def test_images_are_part_of_the_prompts_identity(sim: Simulator) -> None:
    url = "data:image/png;base64,AAAA"
    _, _, chat = ask(sim, [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": url}}])
    parts = [{"type": "input_text", "text": "Look"}, {"type": "input_image", "image_url": url}]
    _, _, response = respond(sim, [{"role": "user", "content": parts}])
    assert json.loads(chat)["choices"][0]["message"]["content"].endswith(reply_tag("Look", url))
    assert json.loads(response)["output"][0]["content"][0]["text"].endswith(reply_tag("Look", url))
    assert prompt_hash("Look", url) != prompt_hash("Look")
    assert [entry["images"] for entry in sim.paid()] == [1, 1]


def test_small_token_limits_cut_and_schemas_are_satisfied(sim: Simulator) -> None:
    cut = json.loads(ask(sim, "hello", max_completion_tokens=5)[2])
    assert (cut["choices"][0]["finish_reason"], cut["usage"]["completion_tokens"]) == ("length", 5)
    response = json.loads(respond(sim, "hello", max_output_tokens=16)[2])
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    schema = {
        "type": "object",
        "properties": {
            "mood": {"type": "string", "enum": ["good", "bad"]},
            "why": {"type": ["string", "null"]},
            "score": {"type": "number", "minimum": 0.5, "maximum": 1},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 2},
            "sure": {"type": "boolean"},
        },
        "required": ["mood", "why", "score", "tags", "sure"],
        "additionalProperties": False,
        "$defs": {"tag": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "mood", "schema": schema, "strict": True}}
    answer = json.loads(json.loads(ask(sim, "hello", response_format=wanted)[2])["choices"][0]["message"]["content"])
    jsonschema.validate(answer, schema)
    assert reply_tag("hello") in answer["why"]
    flat = {"format": {"type": "json_schema", "name": "mood", "schema": schema}}
    jsonschema.validate(
        json.loads(json.loads(respond(sim, "x", text=flat)[2])["output"][0]["content"][0]["text"]), schema
    )


# name -> (HTTP status, error code, paid). None for the status: no whole HTTP reply arrives.
EXPECTED: dict[str, tuple[int | None, Any, bool]] = {
    "402": (402, 402, False), "403": (403, "unsupported_country_region_territory", False),
    "408": (408, "request_timeout", False), "409": (409, "conflict", False),
    "422": (422, "unprocessable_entity", False),
    "429": (429, "rate_limit_exceeded", False), "429ms": (429, "rate_limit_exceeded", False),
    "500": (500, None, False), "502html": (502, None, False), "503": (503, "server_is_overloaded", False),
    "529": (529, None, False), "badkey": (401, "invalid_api_key", False), "bomb": (200, None, True),
    "content_filter": (200, None, True), "context": (400, "context_length_exceeded", False), "cut": (None, None, True),
    "drip": (200, None, True), "empty": (200, None, True), "error200": (200, 502, False), "failed": (200, 502, False),
    "flat": (400, None, False), "german": (200, None, True), "huge": (200, None, True), "length": (200, None, True),
    "last": (200, None, True),
    "notfound": (404, "model_not_found", False), "nousage": (200, None, True), "nul": (200, None, True),
    "nullcontent": (200, None, True), "quota": (429, "credit_balance_exhausted", False), "refusal": (200, None, True),
    "reset": (None, None, False), "reset_after": (None, None, True), "slow": (200, None, True),
    "slow_down": (429, "slow_down", False), "nostream": (200, None, True), "unstreamed": (200, None, True),
    "thinks": (200, None, True), "wrongjson": (200, None, False),
    "404": (404, None, False), "queue_full": (429, "token_limit_exceeded", False),
    # of lines, batches, contents and the flex tier: a call online is answered well
    **dict.fromkeys((*LINE_FAULTS, *BATCH_FAULTS, *CONTENT_FAULTS, *FLEX_FAULTS), (200, None, True)),
}  # fmt: skip


def test_every_fault_is_what_it_says_and_bills_what_it_should(sim: Simulator) -> None:
    assert EXPECTED.keys() == FAULTS.keys()
    for name, (status, code, paid) in EXPECTED.items():
        before = sim.counters()["paid"]
        if status is None:
            with pytest.raises((http.client.HTTPException, OSError)):
                ask(sim, f"!!{name} please")
        else:
            got, headers, body = ask(sim, f"!!{name} please")
            assert got == status and headers["x-request-id"], name
            if code is not None:
                assert json.loads(body)["error"]["code"] == code, name
        assert sim.counters()["paid"] - before == paid, name
    assert sim.counters()["by_fault"] == dict.fromkeys(FAULTS, 1)
    assert sim.counters()["by_status"]["reset"] == 2


def test_odd_replies_look_as_providers_send_them(sim: Simulator) -> None:
    def message(name: str) -> Any:
        return json.loads(ask(sim, f"!!{name}")[2])["choices"][0]["message"]

    assert message("nul")["content"].startswith("\x00\ud83d")
    assert message("nullcontent")["content"] is None
    assert message("refusal")["refusal"].startswith("I'm sorry")
    assert json.loads(ask(sim, "!!empty")[2])["choices"] == []
    assert "usage" not in json.loads(ask(sim, "!!nousage")[2])
    assert len(ask(sim, "!!huge")[2]) > 4_900_000
    assert ask(sim, "!!429")[1]["retry-after"] == "1" and ask(sim, "!!429ms")[1]["retry-after-ms"] == "200"
    assert json.loads(respond(sim, "!!failed")[2])["status"] == "failed"
    assert json.loads(respond(sim, "!!content_filter")[2])["incomplete_details"] == {"reason": "content_filter"}
    assert json.loads(respond(sim, "!!refusal")[2])["output"][0]["content"][0]["type"] == "refusal"
    with pytest.raises(json.JSONDecodeError):
        json.loads(ask(sim, "!!wrongjson")[2])
    started = time.monotonic()
    assert ask(sim, "!!slow")[0] == 200 and time.monotonic() - started >= 0.19


def test_a_prompts_script_runs_in_order_and_a_switched_server_uses_none_of_it_up(sim: Simulator) -> None:
    sim.control(mode="down503", faults={"500": 1.0})
    assert ask(sim, "!!429*2 !!409*1 wow!!nothing")[0] == 503
    with pytest.raises(urllib.error.HTTPError) as refused:
        opener.open(f"{sim.url}/models")
    with refused.value as error:
        assert error.code == 503
    sim.control(mode="ok")
    assert [ask(sim, "!!429*2 !!409*1 wow!!nothing")[0] for _ in range(5)] == [429, 429, 409, 200, 200]
    assert ask(sim, "wow!!nothing")[0] == 500
    with pytest.raises(ValueError, match="unknown fault: nosuch"):
        sim.control(faults={"nosuch": 1.0})


def test_random_faults_depend_on_seed_and_prompt_but_not_on_order(sim: Simulator) -> None:
    def failed(prompts: list[str], seed: int) -> set[str]:
        sim.reset()
        sim.control(faults={"500": 0.2, "429": 0.1}, seed=seed)
        return {prompt for prompt in prompts if ask(sim, prompt)[0] != 200}

    prompts = [f"prompt {number}" for number in range(100)]
    first = failed(prompts, 1)
    assert 15 <= len(first) <= 45
    assert failed(prompts[::-1], 1) == first != failed(prompts, 2)


def test_keys_models_and_unreadable_requests(sim: Simulator) -> None:
    sim.control(key="sk-right-key-0001", models=["gpt-tide"])
    status, _, body = post(sim, "/chat/completions", {}, key="sk-wrong-key-123456")
    assert status == 401 and "sk-wrong********************3456." in json.loads(body)["error"]["message"]
    good_key = {"Authorization": "Bearer sk-right-key-0001"}
    with opener.open(urllib.request.Request(f"{sim.url}/models", headers=good_key)) as reply:
        assert [model["id"] for model in json.load(reply)["data"]] == ["gpt-tide"]
    sim.control(key=None)
    with opener.open(f"{sim.url}/models/gpt-tide") as reply:
        assert json.load(reply)["id"] == "gpt-tide"
    assert ask(sim, "hi")[0] == 404
    sim.reset()
    assert post(sim, "/nosuch", {})[0] == 404
    assert json.loads(ask(sim, "!!nostream hi", stream=True)[2])["error"]["param"] == "stream"
    assert json.loads(ask(sim, "hi", stream_options={})[2])["error"]["param"] == "stream_options"
    assert post(sim, "/responses", {"model": "m"})[0] == 400 and post(sim, "/chat/completions", {})[0] == 400
    assert sim.paid() == []


def call_of(tokens: int, max_tokens: int | None = None) -> Call:
    return Call("chat", "m", "", [], b"", tokens, max_tokens, None)


def test_limits_are_exact() -> None:
    window = Limits(rpm=2, tpm=None, policy="window", burst_seconds=60, now=0)
    assert [window.admit(call_of(1), now) is None for now in (0, 30, 59.9, 60, 60.1, 89.9, 90)] == [
        True, True, False, True, False, False, True,
    ]  # fmt: skip
    bucket = Limits(rpm=None, tpm=600, policy="bucket", burst_seconds=6, now=0)
    assert bucket.admit(call_of(10, max_tokens=60), 0) is None
    overrun = bucket.admit(call_of(60), 1)
    assert overrun is not None and overrun.wait_seconds == pytest.approx(5.0)
    assert bucket.admit(call_of(60), 6) is None
    assert b"remaining-tokens: 0\r\nx-ratelimit-reset-tokens: 6s\r\n" in bucket.headers(6)
    too_large = bucket.admit(call_of(601), 100)
    assert too_large is not None and too_large.too_large
    metered = Bucket(60, 1, 0.0)
    admitted = 0
    for tick in range(1000):
        if not metered.wait_seconds(tick / 10, 1):
            metered.take(tick / 10, 1)
            admitted += 1
    assert admitted == 100
    assert [go_duration(s) for s in (0.006, 1.2, 60, 3600)] == ["6ms", "1.2s", "1m0s", "1h0m0s"]


def test_over_the_limit_says_how_long_to_wait(sim: Simulator) -> None:
    sim.control(rpm=2, tpm=100_000, limit_policy="window")
    first, _, third = (ask(sim, f"p{number}") for number in range(3))
    assert first[1]["x-ratelimit-limit-requests"] == "2" and first[1]["x-ratelimit-remaining-requests"] == "1"
    assert third[0] == 429 and 1 <= int(third[1]["retry-after"]) <= 60 and int(third[1]["retry-after-ms"]) > 50_000
    assert json.loads(third[2])["error"]["code"] == "rate_limit_exceeded"
    assert sim.counters()["limited"] == 1 and len(sim.paid()) == 2


def test_a_gate_lets_as_many_calls_through_as_it_is_told_and_the_others_wait(sim: Simulator) -> None:
    sim.control(gate=2)
    with ThreadPoolExecutor(5) as callers:
        calls = [callers.submit(ask, sim, f"p{number}") for number in range(5)]
        wait_until(lambda: (sim.counters()["paid"], sim.counters()["in_flight"]) == (2, 3), "two are answered")
        sim.control(gate=1)
        wait_until(lambda: (sim.counters()["paid"], sim.counters()["in_flight"]) == (3, 2), "one more is")
        sim.control(latency_ms=1)  # what is said of other options moves no gate
        assert sim.counters()["paid"] == 3
        sim.control(gate="open")
        assert [call.result(limit())[0] for call in calls] == [200] * 5
    for wrong in ("ajar", -1):
        with pytest.raises(ValueError, match="not one of open, shut"):
            sim.control(gate=wrong)


def test_a_streamed_reply_stops_half_way_until_its_gate_is_open(sim: Simulator) -> None:
    sim.control(stream_gate="shut")
    body = {"model": "m", "messages": [{"role": "user", "content": "Why?"}], "stream": True}
    with opener.open(f"{sim.url}/chat/completions", json.dumps(body).encode(), timeout=limit()) as reply:
        first = reply.readline()
        assert first.startswith(b"data: {")
        sim.control(stream_gate="open")
        assert reply.read().endswith(b"data: [DONE]\n\n")


def test_a_caller_who_hangs_up_still_pays(sim: Simulator) -> None:
    sim.control(gate="shut")
    with pytest.raises(TimeoutError):
        opener.open(f"{sim.url}/responses", json.dumps({"model": "m", "input": "bye"}).encode(), timeout=0.05)
    sim.control(gate="open")
    sim.wait_until_idle()
    assert [entry["gone"] for entry in sim.paid()] == [True]
    assert sim.counters()["max_in_flight"] == 1


def test_killed_and_back_on_the_same_port_with_its_paid_log(tmp_path: Path) -> None:
    with Simulator(log=tmp_path / "paid.jsonl") as sim:
        ask(sim, "before")
        port = sim.port
        assert sim.kill() == -signal.SIGKILL
        assert len(sim.paid()) == 1
        with pytest.raises(SimulatorDownError):
            sim.counters()
        sim.start()
        ask(sim, "after")
        assert sim.port == port
        assert sim.paid_by_prompt() == {prompt_hash("before"): 1, prompt_hash("after"): 1}
        assert sim.stop() == 0


def test_a_simulator_never_outlives_its_starter() -> None:
    command = [sys.executable, "-m", "tidemill.simulator", "--exit-with-stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert json.loads(process.stdout.readline())["pid"] == process.pid
        process.stdin.close()
        assert process.wait(limit()) == 0


def test_one_table_of_options() -> None:
    assert list(FIELDS) == [field.name for field in fields(Options)] == list(SimulatorOptions.__annotations__)


async def test_the_official_client_accepts_both_bodies(sim: Simulator) -> None:
    openai = pytest.importorskip("openai")
    async with openai.AsyncOpenAI(
        base_url=sim.url, api_key="sk-test", max_retries=0, _strict_response_validation=True
    ) as client:
        chat, response = await asyncio.gather(
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}]),
            client.responses.create(model="m", input="hello"),
        )
        assert chat.choices[0].message.content == response.output_text
        assert chat._request_id.startswith("req_")
        with pytest.raises(openai.RateLimitError) as refused:
            await client.responses.create(model="m", input="!!quota")
        assert refused.value.code == "credit_balance_exhausted"
