"""Batches, flex and the background are tested against the simulator, so these are tested with the official client."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from openai import APIConnectionError, APIStatusError, BadRequestError, NotFoundError, OpenAI
from openai.types import Batch

from tests.waiting import wait_until
from tidemill.simulator import Simulator, reply_tag
from tidemill.simulator.batches import OPEN

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    with Simulator(batch_seconds=0, batch_cancel_seconds=0, background_seconds=0) as sim:
        yield sim


@pytest.fixture
def sim(running: Simulator) -> Simulator:
    running.reset()
    return running


@pytest.fixture
def client(sim: Simulator) -> Iterator[OpenAI]:
    with opened(sim) as made:
        yield made


def opened(sim: Simulator, key: str = "sk-test", strict: bool = False) -> OpenAI:
    return OpenAI(base_url=sim.url, api_key=key, max_retries=0, _strict_response_validation=strict)


def line(prompt: str, custom_id: str = "", **more: Any) -> dict[str, Any]:
    body = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": prompt}]}
    return {"custom_id": custom_id or prompt, "method": "POST", "url": CHAT, "body": body} | more


def jsonl(*lines: object) -> bytes:
    return b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in lines)


def created(client: OpenAI, *lines: object, **more: Any) -> Batch:
    file = client.files.create(file=("lines.jsonl", jsonl(*lines)), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h", **more)


def ended(client: OpenAI, batch: Batch) -> Batch:
    found = [batch]

    def has_ended() -> bool:
        found.append(client.batches.retrieve(batch.id))
        return found[-1].status not in OPEN

    wait_until(has_ended, "the batch ends")
    return found[-1]


def read(client: OpenAI, file_id: str | None) -> list[Any]:
    lines = client.files.content(file_id).text.splitlines() if file_id else []
    return [json.loads(each) if each.endswith("}") else each for each in lines]


def test_a_batch_answers_all_its_lines_and_is_paid_by_batch(sim: Simulator) -> None:
    prompts = [f"Question {number}" for number in range(40)]
    client = opened(sim, strict=True)
    first = created(client, *map(line, prompts), line("!!422 no"), metadata={"tidemill": "token"})
    assert (first.status, first.output_file_id, first.metadata) == ("validating", None, {"tidemill": "token"})
    assert first.expires_at == first.created_at + 86_400
    batch = ended(client, first)
    assert (batch.status, batch.model, batch.errors) == ("completed", "gpt-6-luna", None)
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 41, "completed": 40, "failed": 1}
    assert None not in (batch.in_progress_at, batch.finalizing_at, batch.completed_at)

    answers, [refused] = read(client, batch.output_file_id), read(client, batch.error_file_id)
    assert sorted(each["custom_id"] for each in answers) == sorted(prompts)
    assert [each["custom_id"] for each in answers] != prompts  # in no order
    for answer in answers:
        assert answer["error"] is None
        assert answer["response"]["status_code"] == 200
        text = answer["response"]["body"]["choices"][0]["message"]["content"]
        assert text.endswith(reply_tag(answer["custom_id"]))
    assert (refused["custom_id"], refused["response"]["status_code"], refused["error"]) == ("!!422 no", 422, None)

    assert sim.paid_by_route() == {"batch": 40}
    assert sorted(entry["custom_id"] for entry in sim.paid()) == sorted(prompts)
    assert batch.usage is not None
    counters = sim.counters()
    assert batch.usage.input_tokens == counters["paid_input_tokens"]
    assert batch.usage.output_tokens == counters["paid_output_tokens"]
    assert sim.batches_by_metadata("tidemill") == {"token": 1}


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        ([line("a"), b"{not json"], "invalid_json_line", 2),
        ([line("a"), b"[]"], "missing_required_parameter", 2),
        ([line("a"), line("b", "a")], "duplicate_custom_id", 2),
        ([line("a"), line("b", url="/v1/responses")], "invalid_url", 2),
        ([line("a", method="GET")], "invalid_method", 1),
        ([line("a"), line("b", body={"model": "other", "messages": [{"role": "user", "content": "x"}]})],
         "mismatched_model", 2),
        ([line("a", body={"model": "m"})], "missing_required_parameter", 1),
        ([line("a"), line("b"), line("!!bad_line c")], "invalid_request", 3),
        ([line("a"), line("!!bad_line_unnamed c")], "invalid_request", None),
        ([b""], "empty_file", None),
    ],
)  # fmt: skip
def test_one_bad_line_fails_the_file(sim: Simulator, client: OpenAI, lines: list[Any], code: str, number: int) -> None:
    batch = ended(client, created(client, *lines))
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.code, error.line) for error in batch.errors.data] == [(code, number)]
    assert sim.paid() == []


def test_lines_come_back_twice_broken_foreign_or_not_at_all(sim: Simulator, client: OpenAI) -> None:
    names = ("twice", "missing", "promised", "foreign", "broken", "error_in_output", "status0", "not_run", "nousage",
             "wrongjson")  # fmt: skip
    prompts = [f"!!{name} {name}" for name in names]
    batch = ended(client, created(client, *(line(prompt, name) for prompt, name in zip(prompts, names, strict=True))))
    output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
    whole = [each for each in output if isinstance(each, dict)]
    by_id = {each["custom_id"]: each for each in [*whole, *errors]}
    assert Counter(each["custom_id"] for each in whole) == {
        "twice": 2, "foreign": 1, "of-another-file": 1, "error_in_output": 1, "status0": 1, "nousage": 1, "wrongjson": 1
    }  # fmt: skip
    assert len(output) == len(whole) + 1  # the broken one
    assert batch.request_counts is not None
    assert batch.request_counts.completed == len(names) - 2  # two were not run; one is only promised
    assert (by_id["error_in_output"]["response"]["status_code"], by_id["error_in_output"]["error"]) == (400, None)
    assert by_id["status0"]["response"]["status_code"] == 0
    assert by_id["not_run"]["error"]["code"] == "batch_expired"
    assert "usage" not in by_id["nousage"]["response"]["body"]
    assert isinstance(by_id["wrongjson"]["response"]["body"], str)
    assert {entry["custom_id"] for entry in sim.paid()} == {"twice", "foreign", "broken", "nousage"}


@pytest.mark.parametrize(
    ("fault", "status", "completed", "paid", "code"),
    [
        ("expired", "expired", 5, 5, "batch_expired"),
        ("cancelled_there", "cancelled", 5, 5, "batch_cancelled"),
        ("failed_halfway", "failed", 5, 5, "batch_expired"),
        ("quota_midway", "completed", 5, 5, "insufficient_quota"),
    ],
)
def test_a_batch_can_end_halfway(
    sim: Simulator, client: OpenAI, fault: str, status: str, completed: int, paid: int, code: str
) -> None:
    sim.control(scripts={"POST /v1/batches": f"!!{fault}*1"})
    lines = [line(f"Question {number}") for number in range(10)]
    batch = ended(client, created(client, *lines))
    assert batch.status == status
    assert len(read(client, batch.output_file_id)) == completed == len(sim.paid()) == paid
    rest = read(client, batch.error_file_id)
    assert {(each["error"] or each["response"]["body"]["error"])["code"] for each in rest} == {code}
    assert len(rest) == 5
    assert ended(client, created(client, *lines)).status == "completed"  # only the first one


def test_what_a_batch_says_of_itself_can_be_wrong(sim: Simulator, client: OpenAI) -> None:
    def shown(fault: str) -> dict[str, Any]:
        sim.control(mode=fault)
        batch = ended(client, created(client, line("a")))
        card: dict[str, Any] = client.batches.with_raw_response.retrieve(batch.id).http_response.json()
        return card

    assert shown("no_output_id")["output_file_id"] is None
    assert shown("empty_ids")["error_file_id"] == ""
    assert shown("null_counts")["request_counts"] == {"total": None, "completed": None, "failed": None}
    assert shown("no_counts")["request_counts"] is None
    assert shown("no_batch_usage")["usage"] is None
    assert read(client, shown("empty_error_file")["error_file_id"]) == []
    late = shown("late_ids")
    assert late["output_file_id"] is None
    assert client.batches.retrieve(late["id"]).output_file_id is not None


def test_a_full_queue_fails_a_batch_until_others_have_ended(sim: Simulator, client: OpenAI) -> None:
    lines = [line("word " * 40, str(number)) for number in range(10)]
    sim.control(batch_queue_tokens=800, mode="stuck_finalizing")
    holds = created(client, *lines)
    wait_until(lambda: client.batches.retrieve(holds.id).status == "finalizing", "the first batch holds the queue")
    sim.control(mode="ok")
    refused = ended(client, created(client, *lines))
    assert refused.status == "failed"
    assert refused.errors is not None
    assert refused.errors.data is not None
    assert refused.errors.data[0].code == "token_limit_exceeded"
    assert "Limit: 800 enqueued tokens" in (refused.errors.data[0].message or "")
    client.batches.cancel(holds.id)
    assert ended(client, holds).status == "cancelled"
    assert ended(client, created(client, *lines)).status == "completed"


def test_a_cancelled_batch_keeps_what_was_paid(sim: Simulator, client: OpenAI) -> None:
    sim.control(batch_seconds=60)
    batch = created(client, *(line(f"Question {number}") for number in range(10)))
    assert client.batches.cancel(batch.id).status == "cancelling"
    gone = ended(client, batch)
    assert (gone.status, gone.output_file_id, sim.paid()) == ("cancelled", None, [])
    with pytest.raises(APIStatusError, match="Cannot cancel"):
        client.batches.cancel(batch.id)

    sim.control(mode="late_cancel")
    late = created(client, line("a"))
    client.batches.cancel(late.id)
    done = ended(client, late)
    assert (done.status, len(read(client, done.output_file_id))) == ("completed", 1)
    assert done.cancelling_at is not None


def test_a_kill_of_the_server_loses_no_batch_and_pays_no_line_twice(tmp_path: Path) -> None:
    prompts = [f"Question {number}" for number in range(300)]
    with Simulator(log=tmp_path / "paid.jsonl", batch_seconds=1.5) as sim, opened(sim) as client:
        batch = created(client, *map(line, prompts), metadata={"k": "v"})
        response = client.responses.create(model="gpt-6-luna", input="Later", background=True)
        wait_until(lambda: len(sim.paid()) > 20, "some lines are run")
        sim.kill()
        sim.start()
        done = ended(client, batch)
        assert (done.status, done.metadata) == ("completed", {"k": "v"})
        assert sorted(each["custom_id"] for each in read(client, done.output_file_id)) == sorted(prompts)
        wait_until(lambda: client.responses.retrieve(response.id).status == "completed", "the response is done")
        assert set(sim.paid_by_prompt().values()) == {1}
        assert sim.paid_by_route() == {"batch": 300, "background": 1}
        assert done.usage is not None
        assert done.usage.total_tokens == sum(
            entry["input_tokens"] + entry["output_tokens"] for entry in sim.paid() if entry["route"] == "batch"
        )


def test_faults_of_the_routes_are_scripted(sim: Simulator, client: OpenAI) -> None:
    sim.control(scripts={"POST /v1/batches": "!!reset_after*1 !!429*1 !!queue_full*1"})
    file = client.files.create(file=("lines.jsonl", jsonl(*map(line, "abcdef"))), purpose="batch")

    def create() -> Batch:
        return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")

    with pytest.raises(APIConnectionError):
        create()
    with pytest.raises(APIStatusError, match="Rate limit"):
        create()
    with pytest.raises(APIStatusError, match="Enqueued token limit"):
        create()
    assert len(sim.batches()) == 1
    batch = ended(client, client.batches.list().data[0])
    sim.control(scripts={"GET /v1/files/{id}/content": "!!404*1 !!nobytes*1 !!short*1"})
    with pytest.raises(NotFoundError):
        read(client, batch.output_file_id)
    nothing, part, whole = (len(read(client, batch.output_file_id)) for _ in range(3))
    assert 0 == nothing < part < whole == 6

    sim.control(list_lag_seconds=60)
    assert (client.batches.list().data, client.files.list().data) == ([], [])
    sim.control(own_batches=True, list_lag_seconds=0)
    with opened(sim, "sk-other") as other, pytest.raises(NotFoundError):
        other.batches.retrieve(batch.id)
    sim.control(no_batches=True)
    for action in (create, lambda: client.batches.retrieve(batch.id), client.batches.list):
        with pytest.raises(NotFoundError, match="Invalid URL"):
            action()


def test_other_servers_say_it_in_other_words(sim: Simulator) -> None:
    def shown(dialect: str) -> dict[str, Any]:
        sim.control(batch_dialect=dialect, mode="stuck_finalizing")
        with OpenAI(base_url=sim.url, api_key="k", max_retries=0) as client:
            file = client.files.create(file=("lines.jsonl", jsonl(line("a"))), purpose="batch")
            raw = client.batches.with_raw_response.create(
                input_file_id=file.id, endpoint=CHAT, completion_window="24h"
            ).http_response.json()
            batch_id = raw.get("job", raw)["id"]

            def look() -> dict[str, Any]:
                shown: dict[str, Any] = client.batches.with_raw_response.retrieve(batch_id).http_response.json()
                return shown

            wait_until(lambda: "finali" in look()["status"].lower(), "it was run")
            return look()

    together, novita, azure = shown("together"), shown("novita"), shown("azure")
    assert (together["status"], together["progress"], together["request_counts"]) == ("FINALIZING", 100.0, None)
    assert novita["status"] == "FINALIZING"
    assert (azure["status"], azure["output_file_id"], azure["error_file_id"]) == ("finalizing", "", "")


def test_flex_is_refused_or_served_and_says_so(sim: Simulator, client: OpenAI) -> None:
    def ask(prompt: str, tier: Any = "flex") -> str | None:
        message: Any = {"role": "user", "content": prompt}
        return client.chat.completions.create(model="m", messages=[message], service_tier=tier).service_tier

    assert ask("a") == "flex"
    assert ask("!!flex429 a", "auto") == "default"
    for name, status, words in (("429", 429, "Resource Unavailable"), ("498", 498, "capacity"), ("400", 400, "flex")):
        with pytest.raises(APIStatusError, match=words) as refused:
            ask(f"!!flex{name} a")
        assert refused.value.status_code == status
    assert isinstance(refused.value, BadRequestError)
    assert refused.value.param == "service_tier"
    assert ask("!!flexfallback a") == "default"
    assert sim.paid_by_route() == {"flex": 1, "online": 2}


def test_a_response_in_the_background_is_done_later(sim: Simulator, client: OpenAI) -> None:
    sim.control(background_seconds=60)
    lost = client.responses.create(model="m", input="Never", background=True)
    assert (lost.status, lost.output_text) == ("queued", "")
    assert client.responses.cancel(lost.id).status == "cancelled"
    sim.control(background_seconds=0)
    options: Any = {"background_options": {"completion_window": "8h"}}
    later = client.responses.create(model="m", input="Later", background=True, extra_body=options)
    wait_until(lambda: client.responses.retrieve(later.id).status == "completed", "it is done")
    assert client.responses.retrieve(later.id).output_text.endswith(reply_tag("Later"))
    with pytest.raises(BadRequestError, match="completion window"):
        client.responses.create(model="m", input="Now", extra_body=options)
    assert sim.paid_by_route() == {"8h": 1}
