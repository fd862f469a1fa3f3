"""Rows of route batch are lines of the provider's own batches: asked once, paid once, whatever dies or is refused."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count as count_up
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Engine, delete, event, select, update

from tests.conftest import UseEnvironment
from tests.rows import add_batch, add_worker, batch_row, change_batch, job_row, next_due, rescuer, set_batch
from tests.waiting import limit, wait_until
from tidemill.models import budgets, due, holds, upstream, whereabouts
from tidemill.models.batch_servers import Counts
from tidemill.models.bookings import BATCH
from tidemill.models.bounds import most_usd_e9
from tidemill.models.claims import Claimant
from tidemill.models.database import engine, reading, transact, writing
from tidemill.models.options import Options
from tidemill.models.provider import Provider
from tidemill.models.provider_looks import has_batch_api
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.tables import OPEN_STATES, attempts, batches, creations, jobs, upstream_batches, workers
from tidemill.models.tables import budgets as rows_of_budgets
from tidemill.models.text import dumps
from tidemill.models.transitions import Enqueued, enqueue, rescue
from tidemill.models.upstream import UpstreamBatch
from tidemill.simulator import Simulator
from tidemill.worker import collecting, packing, upstream_faults
from tidemill.worker import upstream as upstream_module
from tidemill.worker.meter import Meter
from tidemill.worker.upstream import advance
from tidemill.worker.upstream_run import Run

EVERY_POINT = int(os.environ.get("TIDEMILL_TEST_EVERY_POINT", "0"))
"""1: a kill at each point, and not at some."""


_T = TypeVar("_T")


class DiedError(BaseException):
    """Stands for kill -9: nothing in the worker may catch it."""


@pytest.fixture
def server(embedded_home: object, simulator: Simulator, use_environment: UseEnvironment) -> Simulator:
    """The simulator, whose batches end at once."""
    return _at_once(simulator, use_environment)


@pytest.fixture
def any_server(database: str, simulator: Simulator, use_environment: UseEnvironment) -> Simulator:
    """The same for a test that runs on both databases."""
    return _at_once(simulator, use_environment)


def _at_once(simulator: Simulator, use_environment: UseEnvironment) -> Simulator:
    use_environment(
        {
            "OPENAI_BASE_URL": simulator.url,
            "OPENAI_API_KEY": "test-key",
            "TIDEMILL_DOUBT_SECONDS": "0.05",
            "TIDEMILL_POLL_SECONDS": "0.02",
        }
    )
    simulator.control(batch_seconds=0, batch_cancel_seconds=0)
    return simulator


def add_rows(*prompts: str, batch_id: str = "b", **options: Any) -> list[int]:
    """A batch that was read to its end, whose rows go out by batch; returns the ids of its rows."""
    asked = Options("gpt-6-luna", **options).to_json()
    add_batch(batch_id, route="batch", read_at=datetime.now(UTC), options=asked)
    rows = [
        Enqueued(f"{batch_id}{n}", str(n), n, dumps({"prompt": prompt}), dumps({})) for n, prompt in enumerate(prompts)
    ]
    with writing() as connection:
        enqueue(connection, batch_id, 1, rows)
        return list(connection.scalars(select(jobs.c.id).where(jobs.c.batch_id == batch_id).order_by(jobs.c.id)))


def questions(number: int, batch_id: str = "b") -> list[str]:
    return [f"question {batch_id} {n}" for n in range(number)]


def take(worker_id: str = "w1", batch_id: str | None = None) -> list[UpstreamBatch]:
    """What this worker has to do next."""
    with reading() as connection:
        is_known = connection.scalar(select(workers.c.id).where(workers.c.id == worker_id))
    if is_known is None:
        add_worker(worker_id)
    worker, scopes = Claimant(worker_id, settings().provider, 30.0), [Scope(batch_id)]
    with reading() as connection:
        unpacked = due.batches_to_pack(connection, scopes)
    begun = [transact(partial(upstream.begin, batch_id=each, worker=worker)) for each in unpacked]
    taken = transact(lambda connection: upstream.take(connection, worker, scopes, 4))
    return [*(each for each in begun if each is not None), *taken]


def make(*taken: UpstreamBatch) -> None:
    """Make steps, as a worker does."""
    asyncio.run(_make(lambda: taken))


async def _make(next_steps: Callable[[], Sequence[UpstreamBatch] | None], once: bool = True) -> None:
    """Make these steps; unless `once`, what comes next, until there is None."""
    async with _provider() as provider:
        while (taken := next_steps()) is not None:
            for batch in taken:
                worker = Claimant(str(batch.worker_id), settings().provider, 30.0)
                options = Options.from_json(batch_row(batch.batch_id).options)
                await advance(Run(batch, options, provider, worker, [Scope(batch.batch_id)], lambda _: None, Meter()))
            if once:
                return


@asynccontextmanager
async def _provider() -> AsyncIterator[Provider]:
    provider = Provider(
        base_url=settings().openai_base_url,
        api_key=settings().openai_api_key,
        transport="http",
        timeout_seconds=5,
        connections=2,
    )
    try:
        yield provider
    finally:
        await provider.aclose()


def states(batch_id: str = "b") -> Counter[str]:
    with reading() as connection:
        return Counter(connection.scalars(select(jobs.c.state).where(jobs.c.batch_id == batch_id)))


def rows_upstream(batch_id: str = "b") -> list[UpstreamBatch]:
    with reading() as connection:
        return upstream.all_of(connection, batch_id)


def to_the_end(worker_id: str = "w1", batch_id: str | None = None, seconds: float = 20.0) -> None:
    """Make steps until every row has ended, and every upstream batch."""
    deadline = time.monotonic() + limit(seconds)

    def next_steps() -> list[UpstreamBatch] | None:
        if taken := take(worker_id, batch_id):
            return taken
        if not _is_any_open():
            return None
        assert time.monotonic() < deadline, states(batch_id or "b")
        time.sleep(0.005)
        with writing() as connection:  # retries of rows wait for nothing here
            queued = update(jobs).where(jobs.c.state == "queued")
            connection.execute(queued.values(available_at=datetime(2026, 1, 1, tzinfo=UTC)))
        return []

    asyncio.run(_make(next_steps, once=False))


def _is_any_open() -> bool:
    with reading() as connection:
        open_rows = select(jobs.c.id).where(jobs.c.state.in_(OPEN_STATES))
        not_ended = select(upstream_batches.c.id).where(upstream_batches.c.ended_at.is_(None))
        return connection.scalar(open_rows.limit(1)) is not None or connection.scalar(not_ended.limit(1)) is not None


def outcomes(batch_id: str = "b") -> Counter[str]:
    with reading() as connection:
        ended = select(attempts.c.outcome).join(jobs, jobs.c.id == attempts.c.job_id)
        return Counter(map(str, connection.scalars(ended.where(jobs.c.batch_id == batch_id))))


def paid_once(server: Simulator, number: int) -> bool:
    """Whether each of so many prompts was billed exactly once."""
    paid = server.paid_by_prompt()
    return len(paid) == number and set(paid.values()) == {1}


def test_rows_go_out_as_one_batch_and_come_back_at_half_the_price(any_server: Simulator) -> None:
    add_rows(*questions(12))
    to_the_end()
    assert states() == {"succeeded": 12}
    assert outcomes() == {"succeeded": 12}
    assert paid_once(any_server, 12)
    assert len(any_server.batches()) == 1
    with reading() as connection:
        money = connection.execute(select(attempts.c.route, attempts.c.cost_usd, attempts.c.standard_usd)).all()
    assert {row.route for row in money} == {"batch"}
    assert all(row.cost_usd == pytest.approx(row.standard_usd / 2) for row in money)
    (ended,) = rows_upstream()
    assert ended.lines == 12
    assert not ended.note
    assert not list((settings().home / "upstream").iterdir())
    assert all(each["deleted"] for each in any_server.files() if each["purpose"] == "batch")


# --- R1, R17: whatever dies ---


@contextmanager
def dying_at_commit(at: int) -> Iterator[None]:
    """The process ends just before its n-th commit: what it has sent since the one before is not written down."""
    commits = count_up()

    def die(_connection: object) -> None:
        if next(commits) == at:
            raise DiedError

    listened: Engine = engine()
    event.listen(listened, "commit", die)
    try:
        yield
    finally:
        event.remove(listened, "commit", die)


@contextmanager
def dying_at_send(at: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process ends just before it sends its n-th request."""
    sends, send = count_up(), Provider._send

    async def die(self: Provider, *arguments: Any, **named: Any) -> Any:
        if next(sends) == at:
            raise DiedError
        return await send(self, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Provider, "_send", die)
        yield


@pytest.mark.parametrize(("point", "stride"), [("commit", 7), ("send", 2)])
def test_r1_r17_a_kill_at_any_point_costs_no_row_and_no_second_payment(
    server: Simulator, monkeypatch: pytest.MonkeyPatch, point: str, stride: int
) -> None:
    monkeypatch.setattr(collecting, "BULK_LINES", 2)
    for at in count_up(0, EVERY_POINT or stride):
        batch_id, before = f"b{at}", len(server.batches())
        add_rows(*questions(5, batch_id), batch_id=batch_id)
        died = dying_at_commit(at) if point == "commit" else dying_at_send(at, monkeypatch)
        with died:
            try:
                to_the_end("dead", batch_id)
                is_over = True
            except DiedError:
                is_over = False
        with writing() as connection:
            upstream.free_of(connection, "dead")
        to_the_end("w2", batch_id)
        assert states(batch_id) == {"succeeded": 5}, at
        assert outcomes(batch_id) == {"succeeded": 5}, at
        assert len(server.batches()) == before + 1, at
        if is_over:
            break
    assert at > 4
    assert set(server.paid_by_prompt().values()) == {1}


@pytest.mark.parametrize("path", ["POST /v1/files", "POST /v1/batches"])
@pytest.mark.parametrize("fault", ["reset_after*1", "500*2"])
def test_r1_a_lost_reply_is_looked_for_before_anything_is_sent_again(server: Simulator, path: str, fault: str) -> None:
    server.control(scripts={path: f"!!{fault}"}, list_lag_seconds=0.02, retry_after_seconds=0)
    add_rows(*questions(3))
    to_the_end()
    assert len(server.batches()) == 1
    assert paid_once(server, 3)


# --- R2: two at once ---


def test_r1_a_file_of_which_only_a_part_has_arrived_is_not_taken_for_ours(server: Simulator, tmp_path: Path) -> None:
    server.control(scripts={"POST /v1/files": "!!500*1"})
    add_rows(*questions(4))
    next_until(lambda: rows_upstream()[0].failures if rows_upstream() else 0)
    with reading() as connection:
        token = connection.scalar(select(creations.c.token))
    (tmp_path / "half").write_bytes(b'{"custom_id": "1.1", "method": "POST", "url": "/v1/chat/completions"')
    asyncio.run(_upload(f"tidemill-{token}.jsonl", tmp_path / "half"))
    to_the_end()
    assert outcomes() == {"succeeded": 4}
    assert paid_once(server, 4)


async def _upload(name: str, path: Path) -> None:
    async with _provider() as provider:
        await provider.upload_file(name, path, "batch")


def test_r2_no_row_is_in_two_files_and_a_late_worker_writes_nothing(any_server: Simulator) -> None:
    add_rows(*questions(6))
    (first,) = take("w1")
    assert take("w2") == []  # while one packs, nobody else does
    with writing() as connection:  # frozen for longer than its lease
        connection.execute(update(upstream_batches).values(lease_until=datetime(2026, 1, 1, tzinfo=UTC)))
    (second,) = take("w2")
    assert second.id == first.id
    make(second)
    make(first)  # wakes, and finds that it is another's
    assert states() == {"running": 6}
    to_the_end("w2")
    assert [each.lines for each in rows_upstream()] == [6]
    assert outcomes() == {"succeeded": 6}
    assert paid_once(any_server, 6)


def test_the_step_of_a_worker_that_nobody_knows_is_free(any_server: Simulator) -> None:
    add_rows(*questions(2))
    (begun,) = take("w1")
    assert take("w2") == []
    with writing() as connection:  # it was struck off, or died before it was written down
        connection.execute(delete(workers).where(workers.c.id == "w1"))
    assert [each.id for each in take("w2")] == [begun.id]
    make(begun)
    assert states() == {"queued": 2}


def test_r2_nobody_rescues_the_rows_before_their_long_lease_ends(server: Simulator) -> None:
    (job_id, *_) = add_rows(*questions(2))
    (packing_now,) = take()
    make(packing_now)
    with writing() as connection:
        assert rescue(connection, rescuer()) == 0
        connection.execute(update(jobs).values(lease_until=datetime(2026, 1, 1, tzinfo=UTC)))
        assert rescue(connection, rescuer()) == 2
    assert job_row(job_id).losses == 0  # no process has died of it
    assert outcomes() == {"lost": 2}


# --- R3 to R7: what comes back ---


def test_r3_r15_whatever_the_server_leaves_out_its_files_are_read(server: Simulator) -> None:
    faults = ["empty_ids", "late_ids", "null_counts", "no_counts", "odd_status", "no_batch_usage"]
    server.control(scripts={"POST /v1/batches": " ".join(f"!!{fault}*1" for fault in faults)})
    for fault in faults:
        add_rows(*questions(3, fault), "!!context What?", batch_id=fault)
    to_the_end()
    for fault in faults:
        assert states(fault) == {"succeeded": 3, "failed": 1}, fault
    assert len(server.batches()) == len(faults)


def test_r3_a_batch_without_any_good_line_has_only_a_file_of_errors(server: Simulator) -> None:
    (job_id,) = add_rows("!!context What?")
    to_the_end()
    assert server.batches()[0]["output_file_id"] is None
    assert job_row(job_id).error_code == "context_length_exceeded"
    assert outcomes() == {"failed": 1}


def test_r4_a_broken_off_batch_gives_up_what_was_paid_and_only_the_rest_is_asked_again(any_server: Simulator) -> None:
    faults = ["expired", "cancelled_there", "failed_halfway"]
    any_server.control(scripts={"POST /v1/batches": " ".join(f"!!{fault}*1" for fault in faults)})
    for fault in faults:
        add_rows(*questions(6, fault), batch_id=fault)
    to_the_end()
    for fault in faults:
        assert outcomes(fault) == {"succeeded": 6}  # what was not run leaves nothing in the ledger
        assert [each.lines for each in rows_upstream(fault)] == [6, 3]
    assert paid_once(any_server, 18)


def test_r5_r6_r18_each_line_is_judged_by_itself(server: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "MOST_LOOKS", 2)
    prompts = ["good", "!!twice*1 b", "!!foreign*1 c", "!!missing*1 d", "!!broken*1 e", "!!error_in_output*1 f"]
    ids = add_rows(*prompts, "!!status0*1 g", "!!not_run*1 h", "!!500*1 i")
    to_the_end()
    by_row = {prompt: job_row(job_id) for prompt, job_id in zip([*prompts, "g", "h", "i"], ids, strict=True)}
    assert by_row.pop("!!error_in_output*1 f").state == "failed"
    assert {row.state for row in by_row.values()} == {"succeeded"}
    assert by_row["!!twice*1 b"].attempts == 1
    assert by_row["!!missing*1 d"].attempts == 2  # the first one is lost: it may have been billed
    assert by_row["h"].attempts == 1  # the provider says that it was not run
    assert by_row["i"].failures == 1


@pytest.mark.parametrize("counts", ["good", "null_counts"])
@pytest.mark.parametrize("fault", ["short*2", "nobytes*2", "404*2", "cut*1"])
def test_r7_files_that_hold_less_than_is_done_are_read_again_and_nothing_is_asked_again(
    server: Simulator, fault: str, counts: str
) -> None:
    batch = {"POST /v1/batches": f"!!{counts}*1"} if counts != "good" else {}
    server.control(scripts={"GET /v1/files/{id}/content": f"!!{fault}", **batch})
    add_rows(*questions(8))
    to_the_end()
    assert outcomes() == {"succeeded": 8}
    assert len(server.batches()) == 1


@pytest.mark.parametrize(
    ("counts", "answers", "errors", "words"),
    [
        (Counts(40, 36, 4), 36, 4, None),
        (Counts(40, 36, 4), 36, 0, "40 lines are done, and shows 36 so far"),
        (Counts(40, 36, 4), 30, 10, "36 lines have an answer, and shows 30 answers so far"),
        (Counts(40, 36, None), 30, 6, None),  # nobody says how many of them are good
        (Counts(None, None, None), 0, 0, None),
    ],
)
def test_r7_what_is_missing_is_said(counts: Counts, answers: int, errors: int, words: str | None) -> None:
    missing = upstream_module._what_is_missing(counts, answers, errors)
    assert (words in missing) if words and missing else missing == words


def test_r7_nobody_waits_for_a_count_when_every_row_has_its_line(server: Simulator) -> None:
    server.control(scripts={"POST /v1/batches": "!!all_completed*1"})
    add_rows(*questions(2), "!!context What?")
    wait_for("collect", "completed")
    make(*take())
    assert states() == {"succeeded": 2, "failed": 1}
    assert [each.ended_at is not None for each in rows_upstream()] == [True]


# --- R8 to R10: too much at once ---


def test_r8_a_full_queue_is_learned_from_the_words_and_costs_no_attempt(server: Simulator) -> None:
    server.control(batch_queue_tokens=120)
    ids = add_rows(*questions(20))
    to_the_end()
    assert outcomes() == {"succeeded": 20}
    assert {job_row(job_id).attempts for job_id in ids} == {1}
    sizes = [(each.refused, each.lines) for each in rows_upstream()]
    assert sizes[0] == ("queue", 20)
    assert all(refused is None for refused, _ in sizes[1:])
    assert paid_once(server, 20)


def test_r8_what_little_the_queue_has_left_is_no_reason_for_a_file(server: Simulator) -> None:
    """Each file costs hours: rows wait for those that are out, and do not follow them one by one."""
    server.control(batch_queue_tokens=300, batch_gate="shut")
    add_rows(*questions(60))
    next_until(lambda: "finalizing" in {each.meaning for each in rows_upstream()})  # and the first one was too much
    assert pack() == [18]  # of 23 that are room for
    server.control(batch_gate="open")
    to_the_end()
    assert outcomes() == {"succeeded": 60}
    assert [each.lines for each in rows_upstream()] == [60, 18, 18, 18, 6]


@pytest.mark.parametrize("fault", ["bad_line", "bad_line_unnamed"])
def test_r9_one_bad_line_fails_alone(server: Simulator, fault: str) -> None:
    ids = add_rows(*questions(4), f"!!{fault} What?", *questions(4, "c"))
    to_the_end()
    assert states() == {"succeeded": 8, "failed": 1}
    assert job_row(ids[4]).error.startswith("This request is not valid")
    assert set(server.paid_by_prompt().values()) == {1}


def test_r9_a_file_that_is_refused_whatever_is_in_it_ends_soon(server: Simulator) -> None:
    server.control(models=["gpt-9"])
    add_rows(*questions(6))
    to_the_end()
    assert states() == {"failed": 6}
    assert len(server.batches()) == 1


def test_r10_a_file_that_is_too_large_is_halved(server: Simulator) -> None:
    server.control(most_upload_bytes=1_500)
    add_rows(*questions(16))
    to_the_end()
    assert outcomes() == {"succeeded": 16}
    assert max(each.lines for each in rows_upstream() if each.refused is None) < 16
    assert paid_once(server, 16)


# --- R11 to R15: the provider ---


def test_r11_r12_what_somebody_cancels_is_read_to_its_end(server: Simulator) -> None:
    server.control(scripts={"POST /v1/batches": "!!stuck_finalizing*1"})
    add_rows(*questions(4))
    wait_for("follow", "finalizing")
    with writing() as connection:
        connection.execute(update(batches).values(state="cancelled"))
        assert whereabouts.want_cancel(connection, "b") == 1
    to_the_end()
    assert states() == {"succeeded": 4}  # all was paid by then
    assert len(server.batches()) == 1


def test_r12_a_cancel_that_comes_when_the_batch_has_completed_is_no_reason_to_wait(server: Simulator) -> None:
    server.control(batch_gate="shut")
    add_rows(*questions(4))
    wait_for("follow", "finalizing")
    server.control(batch_gate="open")
    wait_until(lambda: server.batches()[0]["status"] == "completed", "the provider has completed it, unseen")
    with writing() as connection:
        connection.execute(update(batches).values(state="cancelled"))
        assert whereabouts.want_cancel(connection, "b") == 1
    to_the_end()
    assert states() == {"succeeded": 4}


@pytest.mark.parametrize("who_sees_it", ["maintenance", "carrier"])
def test_r11_rows_are_asked_again_when_the_provider_is_stuck_until_their_lease_ends(
    server: Simulator, who_sees_it: str
) -> None:
    server.control(scripts={"POST /v1/batches": "!!stuck_validating*1"})
    add_rows(*questions(3))
    wait_for("follow", "validating")
    with writing() as connection:
        connection.execute(update(upstream_batches).values(kept_until=datetime(2026, 1, 1, tzinfo=UTC)))
        connection.execute(update(jobs).values(lease_until=datetime(2026, 1, 1, tzinfo=UTC)))
        if who_sees_it == "maintenance":
            assert rescue(connection, rescuer()) == 3
    to_the_end()
    assert states() == {"succeeded": 3}
    assert outcomes() == {"lost": 3, "succeeded": 3}
    assert [each.lines for each in rows_upstream()] == [3, 3]
    assert server.batches()[0]["status"] == "cancelled"  # so that nobody pays for it, too
    assert paid_once(server, 3)


def test_r12_what_was_not_run_by_then_is_cancelled(server: Simulator) -> None:
    server.control(scripts={"POST /v1/batches": "!!stuck_validating*1"})
    add_rows(*questions(4))
    wait_for("follow", "validating")
    with writing() as connection:
        connection.execute(update(batches).values(state="cancelled"))
        whereabouts.want_cancel(connection, "b")
    to_the_end()
    assert states() == {"cancelled": 4}
    assert server.paid() == []


def test_r13_a_batch_that_the_provider_does_not_know_is_not_bought_again(
    server: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_faults, "UNKNOWN_SECONDS", 0.1)
    server.control(scripts={"POST /v1/batches": "!!stuck_finalizing*1"})
    (job_id,) = add_rows("question")
    wait_for("follow", "finalizing")
    server.control(scripts={"GET /v1/batches/{id}": "!!404"})
    to_the_end()
    assert job_row(job_id).error_code == "upstream_unknown"
    assert "--new" in job_row(job_id).error
    change_batch("retry")
    assert states() == {"failed": 1}


def test_r14_credit_that_ends_inside_the_lines_holds_the_rest(server: Simulator) -> None:
    server.control(scripts={"POST /v1/batches": "!!quota_midway*1"})
    add_rows(*questions(6))
    while batch_row().hold_reason is None:
        make(*take())
    assert "credit" in batch_row().hold_reason
    assert states() == {"succeeded": 3, "queued": 3}
    with writing() as connection:
        holds.probe_at_once(connection, settings().provider)
    assert len(next_due()) == 1  # the probe is a live call
    with writing() as connection:
        connection.execute(update(jobs).values(sent_at=None))
        holds.end(connection, settings().provider)
    to_the_end()
    assert paid_once(server, 6)


def test_r14_a_creation_without_credit_is_tried_until_there_is_some(
    server: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "PROBE_SECONDS", (0.01,))
    server.control(scripts={"POST /v1/batches": "!!quota*2"})
    add_rows(*questions(3))
    to_the_end()
    assert outcomes() == {"succeeded": 3}
    assert batch_row().hold_reason is None
    assert len(server.batches()) == 1


def test_a_server_without_a_batch_api_is_said_on_each_row(server: Simulator) -> None:
    server.control(no_batches=True)
    (job_id,) = add_rows("question")
    to_the_end()
    assert job_row(job_id).error_code == "no_batch_api"
    assert "--route online" in job_row(job_id).error


def test_an_endpoint_that_a_batch_api_does_not_take_is_said_at_once(server: Simulator) -> None:
    server.control(chat_batches=True)
    ids = add_rows(*questions(9), endpoint="responses")
    to_the_end()
    assert len(rows_upstream()) == 1
    assert {job_row(job_id).error_code for job_id in ids} == {"not_supported"}
    assert job_row(ids[0]).error.startswith("The server's Batch API does not take /v1/responses (")
    assert "--endpoint chat" in job_row(ids[0]).error


@pytest.mark.parametrize("path", ["POST /v1/files", "POST /v1/batches"])
def test_a_single_404_is_no_proof_that_a_server_has_no_batch_api(server: Simulator, path: str) -> None:
    server.control(scripts={path: "!!404*1", "GET /v1/batches": "!!404*1"})
    assert has_batch_api(settings()) is True
    add_rows(*questions(3))
    to_the_end()
    assert len(server.batches()) == 1
    assert paid_once(server, 3)


@pytest.mark.parametrize("dialect", ["together", "novita"])
def test_r15_other_servers_words_are_read(server: Simulator, dialect: str) -> None:
    server.control(batch_dialect=dialect)
    add_rows(*questions(3), "!!context What?")
    to_the_end()
    assert states() == {"succeeded": 3, "failed": 1}
    assert len(server.batches()) == 1


# --- R20: our own ---


def test_r20_a_picture_that_is_gone_costs_its_row_alone(server: Simulator) -> None:
    gone = {"sha256": "0" * 64, "format": "png", "width": 10, "height": 10, "bytes": 10}
    ids = add_rows(*questions(2))
    with writing() as connection:
        request = {"prompt": "What is it?", "picture": gone}
        connection.execute(update(jobs).where(jobs.c.id == ids[0]).values(request=request))
    to_the_end()
    assert job_row(ids[0]).error_code == "picture_missing"
    assert states() == {"failed": 1, "succeeded": 1}
    assert rows_upstream()[0].lines == 1


def test_r20_a_defect_of_ours_gives_the_rows_back(server: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    add_rows(*questions(4))
    calls, build_file = count_up(), packing.build_file

    def fail_at_first(*arguments: Any) -> Any:
        if next(calls) < 3:
            raise RuntimeError
        return build_file(*arguments)

    monkeypatch.setattr(packing, "build_file", fail_at_first)
    to_the_end()
    assert outcomes() == {"succeeded": 4}
    assert [each.lines for each in rows_upstream()] == [4, 2, 2]


# --- what goes out together ---


def test_rows_of_two_models_go_out_in_two_batches(server: Simulator) -> None:
    add_rows(*questions(2))
    body = {"model": "gpt-6-sol", "messages": [{"role": "user", "content": "Why?"}]}
    line = {"url": "/v1/chat/completions", "body": body}
    with writing() as connection:
        enqueue(connection, "b", 1, [Enqueued("l", "l", 9, dumps(line), dumps({}))])
    to_the_end()
    assert sorted((each.model, each.lines) for each in rows_upstream()) == [("gpt-6-luna", 2), ("gpt-6-sol", 1)]
    assert states() == {"succeeded": 3}


def test_online_workers_pass_over_rows_that_go_out_by_batch(server: Simulator) -> None:
    add_rows(*questions(2))
    assert next_due() == []
    with writing() as connection:
        connection.execute(update(batches).values(route="online"))
    assert len(next_due()) == 2


def test_an_input_that_is_still_read_is_waited_for(server: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    add_rows(*questions(3))
    set_batch(read_at=None)
    assert take() == []
    monkeypatch.setattr(due, "ENOUGH_ROWS", 3)
    assert len(take()) == 1


# --- near a cap on money ---


def set_cap(rows: int, *, by_hand: bool = True) -> None:
    """Cap what batch "b" may cost at so many of its rows; unless by hand, as if others had given it back."""
    asked = Options("gpt-6-luna", max_tokens=50)
    row = most_usd_e9(asked, {"prompt": questions(1)[0]}, route="batch")
    assert row is not None
    with writing() as connection:
        if by_hand:
            budgets.set_cap(connection, BATCH, "b", rows * row)
        else:
            connection.execute(update(rows_of_budgets).values(cap_usd_e9=rows * row))


def pack() -> list[int]:
    """Make steps until nothing is left but to look at what is out; how many lines its files have."""

    def lines_out() -> list[int]:
        make(*take())
        known = [each for each in rows_upstream() if each.ended_at is None]
        return [each.lines for each in known] if all(each.step == "follow" for each in known) else []

    return next_until(lines_out)


def test_near_a_cap_rows_wait_until_files_that_are_out_give_enough_back(any_server: Simulator) -> None:
    """Each file costs hours, and one row is not worth them while others may come with it."""
    any_server.control(batch_gate="shut")
    add_rows(*(f"question b {n % 10}" for n in range(60)), max_tokens=50)
    set_cap(8)
    assert pack() == [8]
    set_cap(9, by_hand=False)  # one row more would fit
    assert pack() == [8]
    set_cap(11, by_hand=False)
    assert pack() == [8, 3]
    set_cap(12)  # who raises a cap need not wait
    assert pack() == [8, 3, 1]
    any_server.control(batch_gate="open")
    next_until(lambda: outcomes().get("succeeded", 0) > 12)
    assert [each.lines for each in rows_upstream()][3] > 3  # packed when the others were read, and not between


def next_until(condition: Callable[[], _T]) -> _T:
    """Make steps until this is true; returns what it says."""
    for _ in range(500):
        if known := condition():
            return known
        make(*take())
    raise AssertionError(rows_upstream())


def wait_for(step: str, status: str) -> None:
    """Make steps until the provider's batch has a status."""

    def is_reached() -> bool:
        if [(each.step, each.status) for each in rows_upstream()] == [(step, status)]:
            return True
        make(*take())
        return False

    wait_until(is_reached, f"{step}: {status}")
