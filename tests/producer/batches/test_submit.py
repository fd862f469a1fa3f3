"""The same input is the same batch, and each of its rows one job: however often it is submitted, in whatever form.

Nothing runs here; rows that have ended are made to end by hand. Inputs are larger than a chunk (32 rows, then 1,000).
"""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import select

from tests.conftest import RunCli
from tests.rows import MODEL, arrived, batch_row, change_batch, count, failure, put, set_batch, set_job, success, take
from tidemill import ask
from tidemill.models.claims import Claimed
from tidemill.models.database import reading
from tidemill.models.errors import InputError
from tidemill.models.options import Options
from tidemill.models.tables import batches, jobs
from tidemill.producer.asking.prompts import Prompts
from tidemill.producer.batches.keys import Prepared, keys_of
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.submit import open_batch, submit
from tidemill.producer.intake.tables import ReadOptions

pytestmark = pytest.mark.usefixtures("database")
OPTIONS = Options(model=MODEL)


def prompts(count: int, prefix: str = "prompt") -> list[str]:
    return [f"{prefix} {i}" for i in range(count)]


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def order(source: Any, how: ReadOptions | None = None, **values: Any) -> Order:
    named = str(source.resolve()) if isinstance(source, Path) else None
    values = {"options": OPTIONS, "source_name": named} | values
    return Order(rows=Prompts(source, how or ReadOptions()), **values)


def submitted(source: Any, how: ReadOptions | None = None, **values: Any) -> str:
    """Submit all of it; the batch's id."""
    opened = open_batch(order(source, how, **values))
    submit(opened)
    return opened.batch_id


def stored(batch_id: str) -> list[Any]:
    """The rows that results would show, in order."""
    with reading() as connection:
        rows = select(jobs).where(jobs.c.batch_id == batch_id, jobs.c.position.is_not(None))
        return list(connection.execute(rows.order_by(jobs.c.position)))


def states(batch_id: str) -> Counter[str]:
    return Counter(row.state for row in stored(batch_id))


def asked(batch_id: str) -> list[str]:
    return [row.request["prompt"] for row in stored(batch_id)]


def claim_rows(batch_id: str) -> list[Claimed]:
    return take([row.id for row in stored(batch_id)])


# --- once ---


@pytest.mark.parametrize("rows", [1, 32, 33, 1_032, 3_000])
def test_every_row_becomes_one_queued_job_in_the_inputs_order(rows: int, tmp_path: Path) -> None:
    lines = prompts(rows)
    opened = open_batch(order(write_lines(tmp_path / "p.txt", lines), name="My Prompts!"))
    stored_so_far: list[int] = []
    assert submit(opened, stored_so_far.append) == rows
    assert asked(opened.batch_id) == lines
    assert [row.position for row in stored(opened.batch_id)] == list(range(rows))
    assert states(opened.batch_id) == {"queued": rows}
    assert stored_so_far[-1] == rows and stored_so_far == sorted(stored_so_far)
    batch = batch_row(opened.batch_id)
    assert opened.batch_id.startswith("my-prompts-")
    assert (batch.columns, batch.submission, batch.state) == (["prompt"], 1, "open")
    assert batch.read_at is not None
    assert batch.provider == "api.openai.com/v1"


@pytest.mark.usefixtures("a_broker")
def test_the_first_jobs_are_in_the_broker_when_submit_returns() -> None:
    batch_id = submitted(prompts(40))
    ids = [job_id for message in arrived() for job_id in message]
    assert ids == [row.id for row in stored(batch_id)]


def test_an_empty_input_makes_no_batch(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        submitted(write_lines(tmp_path / "empty.txt", []))
    assert count(batches) == 0


def test_a_bad_row_in_a_small_file_costs_nothing(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"p {i}"}) for i in range(500)] + ['{"prompt": 5']
    with pytest.raises(InputError, match="line 501"):
        submitted(write_lines(tmp_path / "p.jsonl", lines))
    assert count(batches) == count(jobs) == 0


def test_bad_rows_that_are_skipped_are_reported_and_the_rest_is_stored(tmp_path: Path) -> None:
    sentences: list[str] = []
    path = write_lines(tmp_path / "p.jsonl", ['{"prompt": "a"}', "{nonsense", '{"prompt": "b"}'])
    batch_id = submitted(path, how=ReadOptions(skip_bad_rows=True), on_bad_row=sentences.append)
    assert asked(batch_id) == ["a", "b"]
    (sentence,) = [each for each in sentences if "line 2" in each]
    assert "p.jsonl" in sentence


def test_unstorable_characters_in_prompts_ids_and_columns_come_back() -> None:
    ugly = "nul \x00 half \ud83d end"
    batch_id = submitted([{"custom_id": ugly, "prompt": ugly, "note": ugly}])
    (row,) = stored(batch_id)
    assert (row.custom_id, row.request, row.columns["note"]) == (ugly, {"prompt": ugly}, ugly)


def test_a_name_that_no_id_can_hold_still_gives_one() -> None:
    assert submitted(["x"], name="日本語").startswith("batch-")
    assert len(submitted(["y"], name="long " * 100)) <= 80


# --- again ---


@pytest.mark.parametrize("rows", [5, 3_000])
def test_the_same_input_twice_is_the_same_batch_and_adds_no_row(rows: int, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.txt", prompts(rows))
    first = submitted(path)
    before = [(row.id, row.key, row.custom_id, row.position) for row in stored(first)]
    assert submitted(path) == first
    assert [(row.id, row.key, row.custom_id, row.position) for row in stored(first)] == before
    assert (count(jobs), count(batches), batch_row(first).submission) == (rows, 1, 2)


def test_done_rows_are_kept_failed_and_cancelled_ones_are_tried_again_and_open_ones_go_on() -> None:
    lines = prompts(5)
    batch_id = submitted(lines)
    done, failed, running, *_ = claim_rows(batch_id)[:3]
    put(success(done), failure(failed))
    submitted(lines)
    assert [row.state for row in stored(batch_id)] == ["succeeded", "queued", "running", "running", "running"]
    by_id = {row.id: row for row in stored(batch_id)}
    assert by_id[running.id].epoch == running.epoch  # the call in flight still counts
    assert (by_id[failed.id].failures, by_id[failed.id].error) == (0, None)
    assert by_id[done.id].epoch == done.epoch


def test_a_cancelled_batch_that_is_submitted_again_is_open_again() -> None:
    batch_id = submitted(prompts(3))
    change_batch("cancel", batch_id)
    assert states(batch_id) == {"cancelled": 3}
    assert submitted(prompts(3)) == batch_id
    assert states(batch_id) == {"queued": 3}
    assert batch_row(batch_id).state == "open"


def test_a_paused_batch_stays_paused_when_it_is_submitted_again() -> None:
    batch_id = submitted(prompts(3))
    set_batch(batch_id, state="paused")
    submitted(prompts(3))
    assert batch_row(batch_id).state == "paused"


@pytest.mark.usefixtures("a_broker")
def test_a_held_batch_is_probed_at_once_when_somebody_comes_back() -> None:
    from tidemill.models.clock import now_after

    batch_id = submitted(prompts(3))
    set_batch(batch_id, hold_reason="no credit", held_at=now_after(-9.0), held_until=now_after(300.0))
    arrived()
    for row in stored(batch_id):
        set_job(row.id, sent_at=None)
    submitted(prompts(3))
    batch = batch_row(batch_id)
    assert batch.hold_reason == "no credit" and batch.probe_job_id is not None


def test_new_makes_another_batch_of_the_same_input(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.txt", prompts(3))
    first = submitted(path)
    assert submitted(path, new=True) != first
    assert count(jobs) == 6


def test_other_options_make_another_batch_how_fast_does_not() -> None:
    first = submitted(prompts(3))
    assert submitted(prompts(3), options=Options(model=MODEL, system="Be brief.")) != first
    assert submitted(prompts(3), options=Options(model=MODEL, rpm=5), priority=7) == first
    batch = batch_row(first)
    assert (batch.options["rpm"], batch.priority) == (5, 7)


# --- a changed input ---


def test_a_changed_row_is_a_new_job_and_the_old_one_leaves_the_results(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.txt", prompts(3))
    first = submitted(path)
    put(*map(success, claim_rows(first)))
    write_lines(path, ["prompt 0", "something else", "prompt 2"])
    assert submitted(path) == first
    assert asked(first) == ["prompt 0", "something else", "prompt 2"]
    assert [row.state for row in stored(first)] == ["succeeded", "queued", "succeeded"]
    assert count(jobs) == 4  # what was paid for stays in the table
    assert count(jobs, jobs.c.position.is_(None), jobs.c.state == "succeeded") == 1


def test_an_open_row_that_the_input_no_longer_holds_does_not_run_any_more(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.txt", prompts(40))
    first = submitted(path)
    write_lines(path, prompts(10))
    submitted(path)
    assert states(first) == {"queued": 10}
    assert count(jobs, jobs.c.state == "cancelled", jobs.c.position.is_(None)) == 30


def test_a_row_that_comes_back_takes_its_answer_up_again(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.txt", prompts(3))
    first = submitted(path)
    put(*map(success, claim_rows(first)))
    for lines in (prompts(2), prompts(3)):
        submitted(write_lines(path, lines))
    assert states(first) == {"succeeded": 3}
    assert count(jobs) == 3


def test_rows_that_change_places_keep_their_answers(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.txt", prompts(50))
    first = submitted(path)
    put(*map(success, claim_rows(first)))
    write_lines(path, list(reversed(prompts(50))))
    submitted(path)
    assert asked(first) == list(reversed(prompts(50)))
    assert states(first) == {"succeeded": 50}
    assert count(jobs) == 50


def test_an_input_that_grows_adds_only_the_new_rows(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.txt", prompts(1_500))
    first = submitted(path)
    write_lines(path, prompts(2_500))
    assert submitted(path) == first
    assert (count(jobs), asked(first)) == (2_500, prompts(2_500))


def test_a_frame_with_some_new_rows_is_still_the_same_batch() -> None:
    first = submitted(prompts(20))
    assert submitted([*prompts(20), "one more"]) == first
    assert count(jobs) == 21
    assert submitted(prompts(20, "another")) != first


def test_a_moved_file_is_known_by_its_rows(tmp_path: Path) -> None:
    first = submitted(path := write_lines(tmp_path / "a.txt", prompts(5)))
    path.unlink()
    assert submitted(write_lines(tmp_path / "b.txt", prompts(5))) == first
    assert submitted(write_lines(tmp_path / "b.txt", prompts(3))) == first  # it is this file's batch from now on
    assert asked(first) == prompts(3)


def test_another_file_is_another_batch_however_alike_it_is(tmp_path: Path) -> None:
    first = submitted(write_lines(tmp_path / "all.txt", prompts(50)))
    assert submitted(write_lines(tmp_path / "sample.txt", prompts(20))) != first
    assert (len(asked(first)), batch_row(first).state) == (50, "open")
    assert count(jobs, jobs.c.state == "cancelled") == 0


def test_an_input_with_a_name_takes_no_rows_from_one_without(tmp_path: Path) -> None:
    first = submitted(prompts(4))
    assert submitted(write_lines(tmp_path / "two.txt", prompts(2))) == first
    assert count(jobs, jobs.c.state == "cancelled") == 0
    assert len(asked(first)) == 4


# --- duplicates ---


@pytest.mark.parametrize(
    "lines",
    [
        ["same"] * 3,
        ["same", *prompts(100), "same"],
        ["same", *prompts(1_200), "same", *prompts(1_200, "more"), "same", "same"],
        ["same"] * 3_000,
        [*prompts(500)] * 5,
    ],
    ids=["in one chunk", "in two chunks", "in three chunks", "nothing else", "whole blocks"],
)
def test_rows_that_ask_the_same_are_separate_jobs_and_stay_so(lines: list[str], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.txt", lines)
    first = submitted(path)
    assert asked(first) == lines
    keys = [row.key for row in stored(first)]
    assert len(set(keys)) == len(lines) == count(jobs)
    assert len({row.custom_id for row in stored(first)}) == len(lines)
    submitted(path)
    assert [row.key for row in stored(first)] == keys
    assert count(jobs) == len(lines)


def test_one_duplicate_fewer_leaves_one_row_fewer(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.txt", ["same"] * 40)
    first = submitted(path)
    submitted(write_lines(path, ["same"] * 39))
    assert len(stored(first)) == 39


def test_the_same_prompt_under_two_ids_is_two_jobs_and_keeps_them() -> None:
    rows = [{"custom_id": "a", "prompt": "x"}, {"custom_id": "b", "prompt": "x"}]
    batch_id = submitted(rows)
    assert [row.custom_id for row in stored(batch_id)] == ["a", "b"]


def test_keys_number_what_came_before() -> None:
    from tidemill.producer.intake.tables import Row

    digests = [Prepared.of(Row(None, {}, {"prompt": "x"}, i)).digest for i in range(3)]
    first = keys_of(digests, Counter())
    digest = first[0]
    assert first == [digest, f"{digest}-2", f"{digest}-3"]
    assert keys_of(digests, Counter({digest: 3})) == [f"{digest}-4", f"{digest}-5", f"{digest}-6"]


# --- limit ---


def test_a_limit_submits_the_first_rows_and_lifting_it_adds_the_rest(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.txt", prompts(2_000))
    first = submitted(path, how=ReadOptions(limit=5))
    assert asked(first) == prompts(5)
    assert submitted(path) == first
    assert asked(first) == prompts(2_000)
    submitted(path, how=ReadOptions(limit=3))
    assert len(stored(first)) == 2_000  # a limit says nothing about the rows beyond it


# --- one identity, many forms ---


def test_a_frame_a_file_and_the_command_give_the_same_ids(tmp_path: Path, run_cli: RunCli) -> None:
    rows = [{"custom_id": f"row-{i}", "question": f"What is {i} + {i}?", "level": i} for i in range(40)]
    path = tmp_path / "questions.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["custom_id", "question", "level"])
        writer.writeheader()
        writer.writerows(rows)
    by_frame = ask(pd.DataFrame(rows), model=MODEL)
    before = [(row.id, row.key, row.custom_id) for row in stored(by_frame.id)]
    assert [custom_id for *_, custom_id in before] == [row["custom_id"] for row in rows]
    by_list = ask(rows, model=MODEL)
    by_file = ask(path, model=MODEL)
    done = run_cli(["ask", "-i", str(path), "--model", MODEL, "--detach", "--json"], env={"OPENAI_API_KEY": "test-key"})
    assert done.returncode == 0, done.stderr
    assert {by_list.id, by_file.id, json.loads(done.stdout)["batch"]} == {by_frame.id}
    assert [(row.id, row.key, row.custom_id) for row in stored(by_frame.id)] == before


def test_without_ids_of_their_own_rows_have_the_same_ids_in_every_form(tmp_path: Path) -> None:
    lines = [*prompts(50), "prompt 0"]
    by_list = submitted(lines)
    ids = [row.custom_id for row in stored(by_list)]
    by_file = submitted(write_lines(tmp_path / "p.txt", lines))
    by_csv = submitted(write_lines(tmp_path / "p.csv", ["prompt", *lines]), new=True)
    assert by_file == by_list
    assert [row.custom_id for row in stored(by_csv)] == ids


# --- at the same time ---


def test_two_submissions_of_the_same_file_at_once_make_one_batch_without_doubles(tmp_path: Path) -> None:
    lines = [*prompts(2_000), *prompts(100)]
    path = write_lines(tmp_path / "p.txt", lines)
    with ThreadPoolExecutor(3) as pool:
        batch_ids = set(pool.map(lambda _: submitted(path), range(3)))
    assert len(batch_ids) == 1
    assert count(batches) == 1
    assert sorted(asked(batch_ids.pop())) == sorted(lines)
    assert count(jobs) == len(lines)


def test_different_inputs_at_once_do_not_meet(tmp_path: Path) -> None:
    paths = [write_lines(tmp_path / f"{name}.txt", prompts(1_100, name)) for name in ("a", "b", "c")]
    with ThreadPoolExecutor(3) as pool:
        batch_ids = list(pool.map(submitted, paths))
    assert [asked(batch_id) for batch_id in batch_ids] == [prompts(1_100, name) for name in ("a", "b", "c")]


def test_a_submission_that_breaks_off_continues_where_it_stopped(tmp_path: Path) -> None:
    lines = prompts(2_500)
    path = write_lines(tmp_path / "p.txt", lines)

    def break_off(rows: int) -> None:
        if rows > 1_000:
            raise KeyboardInterrupt

    opened = open_batch(order(path))
    with pytest.raises(KeyboardInterrupt):
        submit(opened, break_off)
    half = len(stored(opened.batch_id))
    assert 1_000 < half < 2_500
    assert batch_row(opened.batch_id).read_at is None
    put(*map(success, claim_rows(opened.batch_id)[:10]))
    assert submitted(path) == opened.batch_id
    assert asked(opened.batch_id) == lines
    assert states(opened.batch_id)["succeeded"] == 10


def test_a_command_that_dies_before_its_first_row_leaves_a_batch_that_the_next_one_finds(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.txt", prompts(5))
    opened = open_batch(order(path))
    assert submitted(path) == opened.batch_id
