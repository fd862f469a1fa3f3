"""A fine-tune goes on step by step, whatever dies between and within the steps, and is created once at the provider."""

import asyncio
import contextlib
import hashlib
import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, update

from tests.conftest import UseEnvironment
from tests.rows import add_batch, batch_row, calls, count, job_row, put, rescuer, set_job, take_one
from tidemill.models import blobs, budgets, reservations
from tidemill.models.batches import revive
from tidemill.models.claims import Claimed
from tidemill.models.clock import now_after
from tidemill.models.database import reading, writing
from tidemill.models.due import next_jobs
from tidemill.models.fine_tunes import keep_dataset
from tidemill.models.options import Options, Transport
from tidemill.models.provider import Provider
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.settling import Settlement
from tidemill.models.tables import attempts, datasets, fine_tune_checkpoints, fine_tune_events, fine_tunes, jobs
from tidemill.models.tables import creations as creations_table
from tidemill.models.text import dumps
from tidemill.models.transitions import Enqueued, cancel, enqueue, rescue
from tidemill.producer.training.fine_tune_lookup import events_of, find, points_of
from tidemill.producer.training.fine_tune_pages import event_line
from tidemill.simulator import Simulator
from tidemill.worker import creations
from tidemill.worker import train as train_module
from tidemill.worker.calling import Calling
from tidemill.worker.limits import limiter
from tidemill.worker.train import METADATA, train

LINE = '{"messages":[{"role":"user","content":"2 + %d?"},{"role":"assistant","content":"It is %d."}]}\n'
MODEL = "gpt-4.1-mini"


class DiedError(BaseException):
    """Stands for kill -9: nothing in the worker may catch it."""


@pytest.fixture
def provider(database: str, simulator: Simulator, use_environment: UseEnvironment) -> Simulator:
    """The simulator, whose fine-tunes end at once."""
    use_environment(
        {
            "OPENAI_BASE_URL": simulator.url,
            "OPENAI_API_KEY": "test-key",
            "TIDEMILL_DOUBT_SECONDS": "0.3",
            "TIDEMILL_POLL_SECONDS": "0.1",
        }
    )
    simulator.control(tuning_seconds=0)
    return simulator


def stored(lines: int) -> dict[str, Any]:
    content = "".join(LINE % (n, n + 2) for n in range(lines)).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    blobs.put(content, sha256)
    return {"sha256": sha256, "bytes": len(content), "examples": lines, "tokens": 10 * lines}


def add_train_job(validation: int = 0, lines: int = 12, **params: Any) -> int:
    """A queued train job with so many examples; returns its id."""
    files = {"training": stored(lines), "validation": stored(validation) if validation else None}
    add_batch(kind="train", options=Options(MODEL, params=params).to_json())
    with writing() as connection:
        keep_dataset(connection, id="d1", name="sums", method="supervised", report={}, **files)
        enqueue(
            connection,
            "b",
            1,
            [Enqueued("k", "sums", 0, dumps({"dataset": "d1", "provider": settings().provider}), dumps({}))],
        )
        return connection.scalar(select(jobs.c.id)) or 0


def run(job: Claimed, transport: Transport = "http", may_call: Callable[[], bool] = lambda: True) -> Settlement:
    """One step of a claimed job."""

    async def once() -> Settlement:
        configured = settings()
        door = Provider(
            base_url=configured.openai_base_url,
            api_key=configured.openai_api_key,
            transport=transport,
            timeout_seconds=5,
            connections=2,
        )
        try:
            return await train(
                job, Options.from_json(batch_row().options), Calling(door, limiter(None), "bucket", may_call)
            )
        finally:
            await door.aclose()

    return asyncio.run(once())


def step(job_id: int, transport: Transport = "http") -> Settlement:
    """Claim, run one step, settle; due again at once."""
    settlement = run(take_one(job_id), transport)
    put(settlement)
    set_job(job_id, available_at=now_after(-1.0))
    return settlement


def to_the_end(job_id: int, transport: Transport = "http", most: int = 60) -> Settlement:
    """Step until it has ended."""
    for _ in range(most):
        settlement = step(job_id, transport)
        if job_row(job_id).state != "queued":
            return settlement
        time.sleep(min(settlement.delay_seconds, 0.1))
    raise AssertionError(f"it has not ended after {most} steps: {settlement}")


def come_back(job_id: int) -> None:
    """Its worker has died, which somebody notices."""
    set_job(job_id, lease_until=now_after(-1.0))
    with writing() as connection:
        assert rescue(connection, rescuer()) == 1


def add_places(job_id: int, **runs: Any) -> None:
    """Say of the job's dataset where its lines are from."""
    files = [["qa.csv", "row"], ["", "dialogue"]]
    places = {file: {"files": files, "runs": its_runs} for file, its_runs in runs.items()}
    with writing() as connection:
        connection.execute(update(datasets).values(report={"places": places}))


def tune() -> Any:
    with reading() as connection:
        return connection.execute(select(fine_tunes)).one()


def created_once(provider: Simulator) -> bool:
    """Whether every file and every job was created exactly once."""
    made = [*provider.files_by_name().values(), *provider.tunings_by_metadata(METADATA).values()]
    return bool(made) and set(made) == {1} and len(provider.tunings()) == 1


@pytest.mark.parametrize("transport", ["sdk", "http"])
def test_a_fine_tune_is_uploaded_created_followed_and_collected(provider: Simulator, transport: Transport) -> None:
    job_id = add_train_job(validation=3, suffix="sums", seed=7)
    settlement = to_the_end(job_id, transport)
    (made,) = provider.tunings()
    assert (made["model"], made["seed"], "sums" in made["fine_tuned_model"]) == (MODEL, 7, True)
    sent = {each["id"]: each["sha256"] for each in provider.files()}
    assert sent[made["training_file"]] == stored(12)["sha256"]
    assert sent[made["validation_file"]] == stored(3)["sha256"]
    assert created_once(provider)
    row = tune()
    assert (row.remote_id, row.status, row.model) == (made["id"], "succeeded", made["fine_tuned_model"])
    assert (row.trained_tokens, row.note) == (made["trained_tokens"], None)
    assert [point["step"] for point in row.curve] == list(range(1, len(row.curve) + 1))
    assert count(fine_tune_events) > len(row.curve)
    assert count(fine_tune_checkpoints) > 0
    assert settlement.input_tokens == made["trained_tokens"]
    assert settlement.cost_usd == pytest.approx(made["trained_tokens"] * 5e-6)
    job = job_row(job_id)
    assert (job.state, job.attempts, job.error) == ("succeeded", 1, None)
    assert [call.outcome for call in calls(job_id)] == ["succeeded"]  # steps between are no attempts


def test_a_running_fine_tune_is_looked_at_again_and_again_without_an_attempt(provider: Simulator) -> None:
    provider.control(tuning_seconds=60)
    job_id = add_train_job()
    for _ in range(6):
        assert step(job_id).outcome == "stepped"
    assert tune().status in ("validating_files", "queued", "running")
    assert (job_row(job_id).attempts, job_row(job_id).failures, calls(job_id)) == (0, 0, [])


@pytest.mark.parametrize("at", range(8))
def test_a_worker_that_dies_before_it_notes_what_it_did_creates_nothing_twice(
    provider: Simulator, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """`at` counts the writes of a whole life; the process ends instead of making that one."""
    job_id = add_train_job(validation=3)
    written = 0
    real = creations.write

    async def die_at(act: Any, *arguments: Any) -> Any:
        nonlocal written
        written += 1
        if written == at + 1:
            raise DiedError
        return await real(act, *arguments)

    monkeypatch.setattr(creations, "write", die_at)
    with contextlib.suppress(DiedError):
        to_the_end(job_id)
    if job_row(job_id).state == "running":
        come_back(job_id)
    if job_row(job_id).state == "queued":
        to_the_end(job_id)
    assert job_row(job_id).state == "succeeded"
    assert created_once(provider)
    assert written > at


@pytest.mark.parametrize("path", ["POST /v1/files", "POST /v1/fine_tuning/jobs"])
@pytest.mark.parametrize("fault", ["reset_after*1", "500*2", "reset*1", "429*1"])
def test_a_lost_reply_is_looked_for_before_anything_is_asked_again(provider: Simulator, path: str, fault: str) -> None:
    provider.control(scripts={path: f"!!{fault}"})
    job_id = add_train_job()
    to_the_end(job_id)
    assert job_row(job_id).state == "succeeded"
    assert created_once(provider)


def test_a_creation_in_doubt_is_not_repeated_before_its_time(
    provider: Simulator, use_environment: UseEnvironment
) -> None:
    use_environment({"TIDEMILL_DOUBT_SECONDS": "60"})
    provider.control(scripts={"POST /v1/fine_tuning/jobs": "!!reset*1"})  # nothing is created
    job_id = add_train_job()
    step(job_id)
    assert step(job_id).outcome == "retried"
    for _ in range(3):
        assert (step(job_id).outcome, len(provider.tunings())) == ("stepped", 0)
    with writing() as connection:
        connection.execute(update(creations_table).values(sent_at=now_after(-61.0)))
    to_the_end(job_id)
    assert created_once(provider)


def test_a_worker_that_lost_the_job_meanwhile_sends_nothing(provider: Simulator) -> None:
    job_id = add_train_job()
    job = take_one(job_id)
    come_back(job_id)
    assert put(run(job)) == set()
    settlement = run(take_one(job_id), may_call=lambda: False)
    assert (settlement.outcome, provider.files()) == ("snoozed", [])


def test_training_that_is_not_available_fails_at_once_in_one_sentence(provider: Simulator) -> None:
    provider.control(training_not_available=True)
    job_id = add_train_job()
    to_the_end(job_id, most=3)
    job = job_row(job_id)
    assert (job.state, job.attempts, job.error_code) == ("failed", 1, "training_not_available")
    assert "OPENAI_BASE_URL" in job.error
    assert "--export" in job.error


def test_a_server_without_fine_tuning_is_named_as_one(provider: Simulator, use_environment: UseEnvironment) -> None:
    use_environment({"OPENAI_BASE_URL": provider.url.removesuffix("/v1") + "/nothing"})
    job_id = add_train_job()
    to_the_end(job_id, most=2)
    assert (job_row(job_id).state, job_row(job_id).error_code) == ("failed", "no_fine_tuning")


def test_a_fine_tune_that_fails_at_the_provider_says_why_and_retry_creates_a_new_one(provider: Simulator) -> None:
    provider.control(tuning_fails=True)
    job_id = add_train_job()
    to_the_end(job_id)
    assert (job_row(job_id).state, tune().status) == ("failed", "failed")
    assert job_row(job_id).error
    provider.control(tuning_fails=False)
    with writing() as connection:
        assert revive(connection, "b") == 1
    to_the_end(job_id)
    assert job_row(job_id).state == "succeeded"
    assert [len(provider.tunings()), set(provider.tunings_by_metadata(METADATA).values())] == [2, {1}]
    assert set(provider.files_by_name().values()) == {1}  # the file is there already


def test_following_outlasts_any_trouble(provider: Simulator) -> None:
    provider.control(tuning_seconds=0.5)
    job_id = add_train_job()
    step(job_id)
    step(job_id)
    provider.control(scripts={"GET /v1/fine_tuning/jobs/{id}": "!!500*4"})
    set_job(job_id, failures=7, first_attempt_at=now_after(-100_000.0))  # as many and as long ago as can be
    assert [step(job_id).outcome for _ in range(4)] == ["stepped"] * 4
    assert "500" in tune().note or "server" in tune().note.lower()
    to_the_end(job_id)
    assert (job_row(job_id).state, tune().note) == ("succeeded", None)


@pytest.mark.parametrize("control", ["pause", "resume", "cancel"])
def test_what_somebody_wants_is_passed_on(provider: Simulator, control: str) -> None:
    provider.control(tuning_seconds=60)
    job_id = add_train_job()
    for _ in range(3):
        step(job_id)
    (made,) = provider.tunings()
    if made["status"] == "validating_files" and control != "cancel":
        with writing() as connection:
            connection.execute(update(fine_tunes).values(wanted=control))
        step(job_id)
        assert tune().wanted is None  # refused, which is noted or seen
        return
    with writing() as connection:
        connection.execute(update(fine_tunes).values(wanted=control))
    step(job_id)
    assert tune().wanted is None
    if control == "cancel":
        to_the_end(job_id)
        assert (job_row(job_id).state, tune().status) == ("cancelled", "cancelled")


def test_cancelled_before_the_job_exists_creates_none(provider: Simulator) -> None:
    job_id = add_train_job()
    step(job_id)
    with writing() as connection:
        connection.execute(update(fine_tunes).values(wanted="cancel"))
    to_the_end(job_id, most=2)
    assert (job_row(job_id).state, provider.tunings()) == ("cancelled", [])


def test_a_result_in_base64_is_read(provider: Simulator) -> None:
    provider.control(result_base64=True)
    to_the_end(add_train_job())
    assert len(tune().curve) > 1


def test_a_look_that_fails_ends_nothing(provider: Simulator) -> None:
    provider.control(scripts={"POST /v1/fine_tuning/jobs": "!!reset_after*1", "GET /v1/fine_tuning/jobs": "!!500*9"})
    job_id = add_train_job()
    step(job_id)
    assert step(job_id).outcome == "retried"
    for _ in range(9):
        assert step(job_id).outcome == "stepped"
    to_the_end(job_id)
    assert job_row(job_id).state == "succeeded"
    assert created_once(provider)


def test_a_job_that_an_earlier_request_made_late_is_cancelled_and_told(provider: Simulator) -> None:
    provider.control(tuning_seconds=60)
    job_id = add_train_job()
    step(job_id)
    step(job_id)
    (made,) = provider.tunings()
    with writing() as connection:
        connection.execute(update(creations_table).where(creations_table.c.step == "job").values(sends=2))
    duplicate = {"model": MODEL, "training_file": made["training_file"], "metadata": made["metadata"]}
    request = urllib.request.Request(
        f"{provider.url}/fine_tuning/jobs", json.dumps(duplicate).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request).close()
    step(job_id)
    states = {each["id"]: each["status"] for each in provider.tunings()}
    assert states.pop(made["id"]) != "cancelled"
    assert list(states.values()) == ["cancelled"]
    warned = fine_tune_events.c.level == "warn"
    assert count(fine_tune_events, warned) == 1
    step(job_id)
    assert count(fine_tune_events, warned) == 1


def test_a_job_of_another_server_is_left_alone(provider: Simulator) -> None:
    job_id = add_train_job()
    set_job(job_id, request={"dataset": "d1", "provider": "elsewhere.test"})
    assert step(job_id).outcome == "snoozed"
    assert (provider.files(), "elsewhere.test" in tune().note) == ([], True)


def test_what_an_earlier_round_told_is_not_told_of_the_next(provider: Simulator) -> None:
    provider.control(tuning_fails=True, tuning_steps=20)
    job_id = add_train_job()
    to_the_end(job_id)
    assert count(fine_tune_events) > 5
    provider.control(tuning_fails=False, tuning_steps=2)
    with writing() as connection:
        revive(connection, "b")
    assert (tune().round, tune().curve, tune().model) == (2, None, None)
    to_the_end(job_id)
    with reading() as connection:
        statement = select(fine_tunes.c.round, fine_tunes.c.curve, fine_tunes.c.job_id)
        row: Any = connection.execute(statement).one()
    assert [point.step for point in points_of(row)] == [1, 2, 3]  # one an epoch at the least


def test_a_step_that_succeeds_gives_the_next_all_its_attempts(provider: Simulator) -> None:
    provider.control(scripts={"POST /v1/files": "!!500*3"})
    job_id = add_train_job()
    for _ in range(12):
        step(job_id)
        if tune().remote_id is None and provider.files():
            break
        time.sleep(0.1)
    step(job_id)
    assert job_row(job_id).failures in (0, 1, 2, 3)
    to_the_end(job_id)
    assert job_row(job_id).failures == 0


def test_a_403_for_the_creation_is_final_whatever_its_code(provider: Simulator) -> None:
    provider.control(scripts={"POST /v1/fine_tuning/jobs": "!!403"})
    job_id = add_train_job()
    to_the_end(job_id, most=2)
    assert (job_row(job_id).state, job_row(job_id).error_code) == ("failed", "training_not_available")


def test_a_name_that_comes_late_is_taken_up(provider: Simulator) -> None:
    provider.control(tuning_nameless=True)
    job_id = add_train_job()
    while (remote := tune().remote if count(fine_tunes) else None) is None or remote["status"] != "succeeded":
        assert step(job_id).outcome == "stepped"
    for _ in range(3):
        assert step(job_id).outcome == "stepped"  # it is looked for
    with reading() as connection:
        messages = connection.scalars(select(fine_tune_events.c.message)).all()
    assert sum("names no model yet" in message for message in messages) == 1
    provider.control(tuning_nameless=False)
    assert to_the_end(job_id).outcome == "succeeded"
    assert tune().model == provider.tunings()[0]["fine_tuned_model"]


def test_without_a_name_it_fails_booked_once_and_a_retry_trains_nothing_again(
    provider: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "_NAME_SECONDS", 0.2)
    provider.control(tuning_nameless=True)
    job_id = add_train_job()
    settlement = to_the_end(job_id)
    assert (settlement.outcome, settlement.error_code) == ("failed", "no_model")
    assert "names no model" in (settlement.error or "")
    trained = provider.tunings()[0]["trained_tokens"]
    paid = job_row(job_id).cost_usd
    assert (job_row(job_id).input_tokens, paid) == (trained, pytest.approx(trained * 5e-6))
    with writing() as connection:
        assert revive(connection, "b") == 1
    assert to_the_end(job_id).error_code == "no_model"  # it was looked for again, and is still not there
    provider.control(tuning_nameless=False)
    with writing() as connection:
        assert revive(connection, "b") == 1
    assert to_the_end(job_id).outcome == "succeeded"
    assert tune().model == provider.tunings()[0]["fine_tuned_model"]
    assert (job_row(job_id).cost_usd, created_once(provider)) == (paid, True)


def test_a_line_that_the_provider_refuses_leads_to_the_row_of_its_owner(provider: Simulator) -> None:
    job_id = add_train_job(lines=9)  # the next line is no example
    add_places(job_id, training=[[0, 2, 3], [0, 17, 6]])
    content = "".join(LINE % (n, n) for n in range(3)) + '{"messages": []}\n' + LINE % (1, 1) * 9
    blobs.put(content.encode(), sha256 := hashlib.sha256(content.encode()).hexdigest())
    with writing() as connection:
        connection.execute(update(datasets).values(training={"sha256": sha256}))
    settlement = to_the_end(job_id)
    assert settlement.error_code == "invalid_training_file"
    assert "Example 4 of the training file is qa.csv row 17." in (settlement.error or "")
    row = find("latest")
    events = [event_line(event, row) for event in events_of(row) if event.level == "error"]
    assert events[0].endswith("Example 4 of the training file is qa.csv row 17.")


def test_what_is_wrong_with_an_uploaded_file_is_said_with_the_row(provider: Simulator) -> None:
    details = (
        "Invalid file format. Example 2 cannot be parsed. Error: line contains invalid json: line 1 column 3 (line 2)"
    )
    provider.control(file_refusal=details)
    job_id = add_train_job(validation=3)
    add_places(job_id, training=[[0, 40, 12]], validation=[[1, 7, 3]])
    settlement = to_the_end(job_id)
    assert settlement.outcome == "failed"
    for said in (details, "Example 2 of the training file is qa.csv row 41.", "the validation file is dialogue 8."):
        assert said in (settlement.error or "")
    assert "Example 1 " not in (settlement.error or "")


def test_training_reserves_what_it_may_cost_over_all_steps_and_waits_where_that_does_not_fit(
    provider: Simulator,
) -> None:
    job_id = add_train_job(method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}})
    _cap(1_000)
    step(job_id)
    step(job_id)
    assert provider.tunings() == []
    waiting = _fleet()
    assert waiting.is_reached
    assert (waiting.reserved, waiting.next_call > 1_000) == (0, True)
    with reading() as connection:
        note = connection.scalar(select(fine_tunes.c.note))
        assert next_jobs(connection, Scope(), lambda: 1) == []
    assert note == "It waits for its budget: training may cost up to $0.006."
    _cap(10**9)
    for _ in range(20):
        settlement = step(job_id)
        with reading() as connection:
            assert budgets.imbalances(connection) == []
        if settlement.outcome == "succeeded":
            break
        assert _fleet().reserved in (0, waiting.next_call)
    (call,) = calls(job_id)
    assert (_fleet().reserved, _fleet().doubtful, call.reserved_usd_e9) == (0, 0, waiting.next_call)
    assert 0 < _fleet().spent == round(call.cost_usd * 1e9) <= waiting.next_call


@pytest.mark.parametrize("may_exist", [True, False])
def test_a_cancelled_fine_tune_is_maybe_spent_if_it_may_exist_at_the_provider(
    provider: Simulator, may_exist: bool
) -> None:
    job_id = add_train_job(method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}})
    _cap(10**9)
    while not _fleet().reserved:
        step(job_id)
    most = _fleet().reserved
    with writing() as connection:
        reservations.note_next_call(connection, "b", 10**9)
    assert (_fleet().is_reached, _fleet().training) == (True, most)  # it may run for days: nobody waits for it
    with writing() as connection:
        if not may_exist:
            connection.execute(update(creations_table).values(remote_id=None, sent_at=None))
        cancel(connection, "b")
    assert (_fleet().reserved, _fleet().doubtful) == (0, most if may_exist else 0)
    with writing() as connection:
        assert budgets.imbalances(connection) == []
        assert budgets.of_ledger(connection, "fleet", "")["doubtful_usd_e9"] == _fleet().doubtful
        assert budgets.forgive(connection) == (most if may_exist else 0)


@pytest.mark.parametrize("status", ["cancelled", "failed"])
def test_what_a_fine_tune_has_trained_is_paid_however_it_ends(provider: Simulator, status: str) -> None:
    """The provider's own figure counts; a retry trains anew, and is paid, too."""
    job_id = add_train_job(method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}})
    _cap(10**9)
    to_the_end(job_id)
    first = job_row(job_id)
    with writing() as connection:  # as if it had been broken off
        remote = tune().remote | {"status": status, "fine_tuned_model": None, "trained_tokens": 1_001}
        connection.execute(update(fine_tunes).values(remote=remote, status=status, model=None))
        connection.execute(update(attempts).values(request_id="another"))
    set_job(job_id, state="queued")
    settlement = to_the_end(job_id)
    assert (settlement.outcome, settlement.input_tokens, settlement.is_doubtful) == (status, 1_001, False)
    assert job_row(job_id).cost_usd == pytest.approx(first.cost_usd + 1_001 * 5e-6)
    with writing() as connection:
        assert revive(connection, "b") == 1
    to_the_end(job_id)
    assert (job_row(job_id).state, len(provider.tunings())) == ("succeeded", 2)
    assert job_row(job_id).cost_usd == pytest.approx(2 * first.cost_usd + 1_001 * 5e-6)
    with reading() as connection:
        assert _fleet().spent == budgets.of_ledger(connection, "fleet", "")["spent_usd_e9"]


def test_training_of_unknown_length_is_not_begun_under_a_budget(provider: Simulator) -> None:
    job_id = add_train_job()
    _cap(10**12)
    step(job_id)
    step(job_id)
    assert provider.tunings() == []
    with reading() as connection:
        assert "--epochs" in str(connection.scalar(select(fine_tunes.c.note)))
    assert _fleet().is_unpriced


def _cap(usd_e9: int) -> None:
    with writing() as connection:
        budgets.set_cap(connection, "fleet", "", usd_e9)


def _fleet() -> budgets.Budget:
    with reading() as connection:
        return budgets.covering(connection, "b")[-1]
