"""Fine-tuning is tested against the simulator's files and jobs, so these are tested with the official client."""

import base64
import csv
import http.client
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI, PermissionDeniedError

from tests.waiting import limit
from tidemill.simulator import Simulator
from tidemill.simulator.shelf import Shelf
from tidemill.simulator.training import file_error
from tidemill.simulator.tunings import Tuning

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
EXAMPLE = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
PAIR = {
    "input": {"messages": [{"role": "user", "content": "Hi"}]},
    "preferred_output": [{"role": "assistant", "content": "Hello!"}],
    "non_preferred_output": [{"role": "assistant", "content": "What?"}],
}


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    with Simulator(tuning_seconds=0) as sim:
        yield sim


@pytest.fixture
def sim(running: Simulator) -> Simulator:
    running.reset()
    return running


@pytest.fixture
def client(sim: Simulator) -> Iterator[OpenAI]:
    with OpenAI(base_url=sim.url, api_key="sk-test", max_retries=0) as opened:
        yield opened


def jsonl(*examples: Any) -> bytes:
    return b"".join(json.dumps(example).encode() + b"\n" for example in examples)


def uploaded(client: OpenAI, name: str = "train.jsonl", content: bytes = jsonl(*[EXAMPLE] * 12)) -> str:
    return client.files.create(file=(name, content), purpose="fine-tune").id


def post(sim: Simulator, path: str, body: bytes, content_type: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{sim.url}{path}", body, {"Content-Type": content_type})
    try:
        with opener.open(request, timeout=limit()) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["error"]


def test_a_file_comes_back_as_it_was_sent(sim: Simulator, client: OpenAI) -> None:
    content = jsonl(EXAMPLE) + "--x\r\n\r\nüber\r\n".encode() + bytes(range(256))
    made = client.files.create(file=("tide mill ü.jsonl", content), purpose="fine-tune")
    assert (made.bytes, made.filename, made.status) == (len(content), "tide mill ü.jsonl", "processed")
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).content == content
    more = [uploaded(client, f"{number}.jsonl") for number in range(3)]
    client.files.create(file=("b.jsonl", b"{}"), purpose="batch")
    page = client.files.list(purpose="fine-tune", limit=3)
    assert [file.id for file in page.data] == more[::-1] and page.has_more
    assert [file.id for file in page] == [*more[::-1], made.id]
    assert next(iter(client.files.list(order="asc"))) == made
    assert client.files.delete(made.id).deleted
    with pytest.raises(NotFoundError):
        client.files.content(made.id)
    assert made.id not in {file.id for file in client.files.list()}
    books = sim.files()[0]
    assert (books["sha256"], books["deleted"]) == (sha256(content).hexdigest(), True)
    assert sim.files_by_name()["0.jsonl"] == 1


def test_parts_come_in_any_order_and_bad_forms_are_refused(sim: Simulator) -> None:
    def form(*parts: tuple[str, str]) -> tuple[int, dict[str, Any]]:
        body = "".join(f"--b\r\ncontent-disposition: form-data; {name}\r\n\r\n{value}\r\n" for name, value in parts)
        return post(sim, "/files", f"{body}--b--\r\n".encode(), 'multipart/form-data; boundary="b"')

    purpose, file = ('name="purpose"', "fine-tune"), ('name="file"; filename="a.jsonl"', "{}")
    assert [form(file, purpose)[0], form(purpose, file)[0]] == [200, 200]
    assert sim.files_by_name() == {"a.jsonl": 2}
    assert form(purpose)[1]["param"] == form(purpose, (file[0], ""))[1]["param"] == "file"
    assert form(file)[1]["param"] == form(file, (purpose[0], "nonsense"))[1]["param"] == "purpose"
    assert form(purpose, (file[0].replace("jsonl", "csv"), "x"))[1]["code"] == "invalid_file_format"
    assert post(sim, "/files", b"{}", "application/json")[0] == 400
    assert post(sim, "/files", b"--b\r\n", "multipart/form-data; boundary=b")[0] == 400


def test_a_job_goes_from_files_to_a_model(sim: Simulator, client: OpenAI) -> None:
    sim.control(tuning_steps=9)
    job = client.fine_tuning.jobs.create(
        model="gpt-4.1-mini",
        training_file=uploaded(client),
        validation_file=uploaded(client, "valid.jsonl", jsonl(EXAMPLE)),
        suffix="tide",
        seed=7,
        metadata={"token": "t1"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}},
    )
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded" and done.error is None and done.metadata == {"token": "t1"}
    assert done.fine_tuned_model == f"ft:gpt-4.1-mini:tidemill:tide:{job.id.removeprefix('ftjob-')}"
    assert done.seed == 7 and done.hyperparameters.n_epochs == 4 and done.finished_at and done.trained_tokens
    assert done.method and done.method.supervised and done.method.supervised.hyperparameters
    assert done.method.supervised.hyperparameters.n_epochs == 4

    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert len({event.id for event in events}) == len(events) == 4 + 9 + 4 + 2
    assert [events[-1].message, events[0].message] == [
        f"Created fine-tuning job: {job.id}",
        "The job has successfully completed",
    ]
    steps: list[Any] = [event.data for event in events if event.type == "metrics"][::-1]
    assert [(step["step"], step["total_steps"]) for step in steps] == [(number, 9) for number in range(1, 10)]
    assert steps[-1]["train_loss"] < steps[0]["train_loss"] and steps[0]["valid_mean_token_accuracy"] > 0

    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [checkpoint.step_number for checkpoint in checkpoints] == [9, 6, 4]
    assert checkpoints[0].fine_tuned_model_checkpoint == f"{done.fine_tuned_model}:ckpt-step-9"
    assert checkpoints[0].metrics.train_loss == steps[-1]["train_loss"]

    (result,) = done.result_files
    assert client.files.retrieve(result).purpose == "fine-tune-results"
    content = client.files.content(result).content
    rows = list(csv.DictReader(content.decode().splitlines()))
    assert list(rows[0]) == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert len(rows) == 9 and float(rows[8]["train_loss"]) == steps[-1]["train_loss"] and rows[0]["valid_loss"]
    sim.control(result_base64=True)
    assert base64.b64decode(client.files.content(result).content) == content

    sim.control(models=["gpt-4.1-mini"])
    assert done.fine_tuned_model in {model.id for model in client.models.list()}
    tuned = client.chat.completions.create(
        model=done.fine_tuned_model, messages=[{"role": "user", "content": "2 + 2?"}]
    )
    assert tuned.choices[0].message.content


def test_a_strict_client_accepts_every_object(sim: Simulator) -> None:
    with OpenAI(base_url=sim.url, api_key="sk-test", max_retries=0, _strict_response_validation=True) as client:
        for method, example in (("supervised", EXAMPLE), ("dpo", PAIR)):
            file = uploaded(client, content=jsonl(*[example] * 10))
            given: Any = {"type": method}
            job = client.fine_tuning.jobs.create(model="m", training_file=file, method=given)
            assert job.status == "succeeded" and job.method and job.method.type == method
            assert client.fine_tuning.jobs.retrieve(job.id) == job
        assert len(list(client.fine_tuning.jobs.list())) == 2
        assert list(client.fine_tuning.jobs.list_events(job.id))
        assert list(client.fine_tuning.jobs.checkpoints.list(job.id))
        assert len(list(client.files.list())) == 4


def test_jobs_are_listed_newest_first_and_found_by_metadata(sim: Simulator, client: OpenAI) -> None:
    file = uploaded(client)
    tokens = ("a", "b", "a", "c")
    made = [
        client.fine_tuning.jobs.create(model="m", training_file=file, metadata={"token": token, "by": "test"}).id
        for token in tokens
    ]
    page = client.fine_tuning.jobs.list(limit=3)
    assert [job.id for job in page.data] == made[:0:-1] and page.has_more
    assert [job.id for job in page] == made[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"token": "a"})] == [made[2], made[0]]
    assert list(client.fine_tuning.jobs.list(metadata={"token": "a", "by": "nobody"})) == []
    assert sim.tunings_by_metadata("token") == {"a": 2, "b": 1, "c": 1}
    with pytest.raises(BadRequestError):
        client.fine_tuning.jobs.list(after="ftjob-nosuch")


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (jsonl(*[EXAMPLE] * 9), "invalid_n_examples", "9 example(s)"),
        (jsonl(*[EXAMPLE] * 10) + b"{oops\n", "invalid_training_file", "Line 11: not valid JSON"),
        (jsonl(*[EXAMPLE] * 10, PAIR), "invalid_training_file", "Line 11: 'messages'"),
        (jsonl({"messages": EXAMPLE["messages"][:1]}), "invalid_training_file", "last message"),
        (jsonl({"messages": [{"role": "robot", "content": ""}]}), "invalid_training_file", "role 'robot'"),
    ],
)
def test_a_bad_training_file_fails_the_job_and_not_the_request(
    client: OpenAI, content: bytes, code: str, says: str
) -> None:
    made = client.fine_tuning.jobs.create(model="m", training_file=uploaded(client, content=content))
    failed = client.fine_tuning.jobs.retrieve(made.id)
    assert failed.status == "failed" and failed.fine_tuned_model is None and failed.result_files == []
    assert failed.error and (failed.error.code, failed.error.param) == (code, "training_file")
    assert says in failed.error.message
    events = list(client.fine_tuning.jobs.list_events(made.id))
    assert [event.level for event in events] == ["error", "info", "info"]
    assert events[0].message == failed.error.message


def test_preference_pairs_are_read_as_such() -> None:
    assert file_error(jsonl(*[PAIR] * 10), "dpo", "training_file") is None
    assert file_error(jsonl(EXAMPLE), "dpo", "validation_file")
    wrong = PAIR | {"preferred_output": [{"role": "user", "content": "x"}]}
    assert file_error(jsonl(wrong), "dpo", "validation_file")


def test_bad_requests_name_their_parameter(sim: Simulator, client: OpenAI) -> None:
    file = uploaded(client)
    good = {"model": "m", "training_file": file}
    bad: dict[str, dict[str, Any]] = {
        "model": {"model": None},
        "training_file": {"training_file": "file-nosuch"},
        "validation_file": {"validation_file": "file-nosuch"},
        "suffix": {"suffix": "s" * 65},
        "seed": {"seed": -1},
        "metadata.token": {"metadata": {"token": 1}},
        "method.type": {"method": {"type": "magic"}},
        "hyperparameters.n_epochs": {"hyperparameters": {"n_epochs": 51}},
    }
    for param, change in bad.items():
        status, error = post(sim, "/fine_tuning/jobs", json.dumps(good | change).encode(), "application/json")
        assert (status, error["param"]) == (400, param)
    assert post(sim, "/fine_tuning/jobs", b"{", "application/json")[0] == 400
    assert sim.tunings() == []
    with pytest.raises(NotFoundError):
        client.fine_tuning.jobs.retrieve("ftjob-nosuch")


def test_pause_resume_and_cancel(sim: Simulator, client: OpenAI) -> None:
    sim.control(tuning_seconds=3600)
    jobs = client.fine_tuning.jobs
    file = uploaded(client)
    job = jobs.create(model="m", training_file=file)
    assert job.status == "validating_files" and job.hyperparameters.n_epochs == "auto"
    with pytest.raises(BadRequestError, match="status is validating_files"):
        jobs.pause(job.id)
    cancelled = jobs.cancel(job.id)
    assert cancelled.status == "cancelled" and cancelled.finished_at
    assert jobs.list_events(job.id).data[0].message == "The job has been cancelled"
    for command in (jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(BadRequestError, match="status is cancelled"):
            command(job.id)
    sim.control(tuning_seconds=limit(5))
    job = jobs.create(model="m", training_file=file)
    while jobs.retrieve(job.id).status == "validating_files":
        time.sleep(0.02)
    assert str(jobs.pause(job.id).status) == "paused"
    seen = jobs.list_events(job.id).data
    assert jobs.resume(job.id).status in ("queued", "running")
    jobs.cancel(job.id)
    later = jobs.list_events(job.id).data
    assert later[-len(seen) :] == seen
    assert [tuning["commands"] for tuning in sim.tunings()] == [["cancel"], ["pause", "resume", "cancel"]]


def tuning(**changes: Any) -> Tuning:
    fields: dict[str, Any] = {
        "id": "ftjob-1", "created_at": 1000.0, "model": "m", "training_file": "file-1", "validation_file": None,
        "suffix": None, "seed": 1, "metadata": {}, "method": "supervised", "hyperparameters": {}, "tokens": 10,
        "seconds": 100.0, "steps": 6, "breaks": False, "file_error": None,
    }  # fmt: skip
    return Tuning(**fields | changes)


def test_a_paused_clock_stands_still() -> None:
    job = tuning()
    assert [job.status(1000 + after) for after in (0, 9, 11, 21, 99, 101)] == [
        "validating_files", "validating_files", "queued", "running", "running", "succeeded",
    ]  # fmt: skip
    before = job.events(1050)
    job.commands += [(1050.0, "pause")]
    assert job.status(10_000) == "paused" and len(job.events(10_000)) == len(before) + 1
    job.commands += [(1250.0, "resume")]
    assert job.events(1250)[: len(before)] == before
    assert [job.status(at) for at in (1299, 1301)] == ["running", "succeeded"]
    assert job.finished_at(2000) == 1300.0
    times = [event["created_at"] for event in job.events(2000)]
    assert all(earlier <= later for earlier, later in pairwise(times)) and times[-1] == 1300
    assert [found["step_number"] for found in job.checkpoints(1273)] == [2, 4]


def test_a_job_that_breaks_off_keeps_what_it_had(sim: Simulator, client: OpenAI) -> None:
    sim.control(tuning_fails=True)
    job = client.fine_tuning.jobs.create(model="m", training_file=uploaded(client))
    failed = client.fine_tuning.jobs.retrieve(job.id)
    assert failed.status == "failed" and failed.error and failed.error.code == "server_error"
    events = list(client.fine_tuning.jobs.list_events(job.id))
    assert 0 < sum(event.type == "metrics" for event in events) < 20 and events[0].level == "error"
    assert client.fine_tuning.jobs.checkpoints.list(job.id).data


def test_no_training_and_models_that_end(sim: Simulator, client: OpenAI) -> None:
    file = uploaded(client)
    sim.control(training_not_available=True)
    with pytest.raises(PermissionDeniedError) as refused:
        client.fine_tuning.jobs.create(model="m", training_file=file)
    assert refused.value.code == "training_not_available"
    sim.control(training_not_available=False, shutdown={"gpt-old": "2020-01-31", "gpt-4o-mini": "2999-12-31"})
    dates = {model.id: model.shutdown_date for model in client.models.list()}
    assert (dates["gpt-old"], dates["gpt-4o-mini"], dates["gpt-4.1-mini"]) == ("2020-01-31", "2999-12-31", None)
    assert client.models.retrieve("gpt-old").shutdown_date == "2020-01-31"
    assert client.models.retrieve("another").shutdown_date is None
    with pytest.raises(BadRequestError) as ended:
        client.fine_tuning.jobs.create(model="gpt-old", training_file=file)
    assert ended.value.code == "model_not_available"
    assert sim.tunings() == []
    with pytest.raises(ValueError, match="isoformat"):
        sim.control(shutdown={"gpt-old": "soon"})


def test_a_reply_can_be_lost_after_the_deed(sim: Simulator) -> None:
    sim.control(scripts={"POST /v1/files": "!!reset_after*1", "GET /v1/files": "!!500*1 !!429*1"})
    body = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
    body += b'content-disposition: form-data; name="file"; filename="NAME"\r\n\r\n{}\r\n--b--\r\n'
    form = "multipart/form-data; boundary=b"
    for name in (b"one", b"two"):
        with pytest.raises((http.client.HTTPException, OSError)):
            post(sim, "/files", body.replace(b"NAME", name), form)
        assert post(sim, "/files", body.replace(b"NAME", name), form)[0] == 200
    assert sim.files_by_name() == {"one": 2, "two": 2}
    assert post(sim, "/files", body.replace(b"NAME", b"!!503*1 three"), form)[0] == 503
    for status in (500, 429, 200):
        connection = http.client.HTTPConnection("127.0.0.1", sim.port)
        connection.request("GET", "/v1/files")
        assert connection.getresponse().status == status
        connection.close()
    job = json.dumps({"model": "m", "training_file": sim.files()[0]["id"], "metadata": {"token": "!!reset_after"}})
    assert post(sim, "/fine_tuning/jobs", job.encode(), "application/json")[0] == 400
    sim.control(scripts={})
    tunable = body.replace(b"batch", b"fine-tune").replace(b"NAME", b"t.jsonl")
    file = post(sim, "/files", tunable, form)[1]["id"]
    job = json.dumps({"model": "m", "training_file": file, "metadata": {"token": "!!reset_after*1"}})
    with pytest.raises((http.client.HTTPException, OSError)):
        post(sim, "/fine_tuning/jobs", job.encode(), "application/json")
    assert sim.tunings_by_metadata("token") == {"!!reset_after*1": 1}
    sim.control(mode="down503")
    assert post(sim, "/fine_tuning/jobs", job.encode(), "application/json")[0] == 503
    assert sim.counters()["by_fault"]["503"] == 2
    for scripts, says in (
        ({"POST /v1/nosuch": "!!500"}, "unknown route"),
        ({"POST /v1/files": "500"}, "unknown fault"),
    ):
        with pytest.raises(ValueError, match=says):
            sim.control(scripts=scripts)


def test_replies_are_late_and_what_they_tell_of_is_not(sim: Simulator) -> None:
    sim.control(latency_ms=300, latency_shape="fixed")
    connection = http.client.HTTPConnection("127.0.0.1", sim.port)
    body = '--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
    body += 'content-disposition: form-data; name="file"; filename="n"\r\n\r\n{}\r\n--b--\r\n'
    connection.request("POST", "/v1/files", body, {"content-type": "multipart/form-data; boundary=b"})
    while not sim.files():
        time.sleep(0.01)
    connection.close()
    assert sim.files_by_name() == {"n": 1}


def test_assistants_are_there_as_long_as_one_asks_for_them(sim: Simulator) -> None:
    def get(query: str) -> dict[str, Any]:
        with opener.open(f"{sim.url}/assistants?{query}") as reply:
            found: dict[str, Any] = json.load(reply)
            return found

    with pytest.raises(urllib.error.HTTPError) as gone:
        get("")
    with gone.value as error:
        assert error.code == 404
    sim.control(assistants=25)
    first = get("order=asc")
    assert len(first["data"]) == 20 and first["has_more"] and first["last_id"] == "asst_20"
    assert first["data"][0].keys() >= {"name", "instructions", "model", "tools", "metadata", "temperature", "top_p"}
    rest = get("order=asc&after=asst_20&limit=100")
    assert [each["id"] for each in rest["data"]] == [f"asst_{number}" for number in range(21, 26)]
    assert not rest["has_more"] and get("limit=1")["first_id"] == "asst_25"


def test_files_and_jobs_outlive_a_kill(tmp_path: Path) -> None:
    log = tmp_path / "paid.jsonl"
    with Simulator(log=log, tuning_seconds=0) as sim:
        with OpenAI(base_url=sim.url, api_key="sk-test", max_retries=0) as client:
            gone = uploaded(client, "gone.jsonl")
            job = client.fine_tuning.jobs.create(model="m", training_file=uploaded(client), metadata={"token": "t"})
            client.files.delete(gone)
            done = client.fine_tuning.jobs.retrieve(job.id)
            content = client.files.content(done.result_files[0]).content
        books = (sim.files(), sim.tunings())
        sim.kill()
        with log.with_name("paid.jsonl.shelf").open("ab") as cut_short:
            cut_short.write(b'{"file": {"id": "fi')
        sim.start()
        assert (sim.files(), sim.tunings()) == books and sim.paid() == []
        with OpenAI(base_url=sim.url, api_key="sk-test", max_retries=0) as client:
            assert client.fine_tuning.jobs.retrieve(job.id) == done
            assert client.files.content(done.result_files[0]).content == content
            client.files.delete(done.result_files[0])
            late = uploaded(client, "late.jsonl")
        sim.kill()
        sim.start()
        assert [file["deleted"] for file in sim.files()] == [True, False, True, False]
        assert sim.files()[-1]["id"] == late
        sim.reset()
        assert sim.files() == sim.tunings() == []


def test_commands_are_kept_with_their_times(tmp_path: Path) -> None:
    path = tmp_path / "shelf"
    shelf = Shelf(path)
    fields = {name: getattr(tuning(), name) for name in Tuning.__slots__ if name != "commands"}
    made = shelf.add_tuning(**fields)
    shelf.command(made, "pause", 1050.5)
    shelf.close()
    again = Shelf(path)
    assert again.tunings["ftjob-1"] == made and made.commands == [(1050.5, "pause")]
    again.close()


def test_its_switches_are_flags_too() -> None:
    command = [sys.executable, "-m", "tidemill.simulator", "--exit-with-stdin", "--tuning-seconds=5", "--tuning-fails"]
    command += ["--shutdown=gpt-old=2026-10-23", "--script=POST /v1/files=!!500*1", "--result-base64=false"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        with opener.open(f"{url.removesuffix('/v1')}/_log") as reply:
            options = json.load(reply)["options"]
        process.stdin.close()
        assert process.wait(limit()) == 0
    assert options["tuning_seconds"] == 5 and options["tuning_fails"] and not options["result_base64"]
    assert options["shutdown"] == {"gpt-old": "2026-10-23"}
    assert options["scripts"] == {"POST /v1/files": "!!500*1"}
    with Simulator(tuning_fails=True, shutdown={"a": "2026-10-23"}, scripts={"GET /v1/files": "!!500"}) as sim:
        started = sim.log()["options"]
        assert started["tuning_fails"] and started["shutdown"] and started["scripts"] == {"GET /v1/files": "!!500"}
