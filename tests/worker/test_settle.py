"""A paid answer is stored once, whatever the database does meanwhile, and whatever the row beside it holds."""

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, select

from tests.conftest import UseEnvironment, WaitUntil
from tests.rows import (
    PROVIDER,
    add_batch,
    add_jobs,
    batch_row,
    calls,
    count,
    dialogue,
    failure,
    job_row,
    put,
    set_batch,
    success,
    take,
    take_one,
)
from tests.servers import Postgres
from tests.waiting import limit
from tidemill.models import sqlite
from tidemill.models.answers import Answer, Message
from tidemill.models.clock import now_after
from tidemill.models.database import close, reading, writing
from tidemill.models.settling import Settlement
from tidemill.models.tables import attempts, batches, dialogues, jobs, messages
from tidemill.worker import judge, settle
from tidemill.worker.judge import Judge
from tidemill.worker.sentiment import Judgement
from tidemill.worker.settle import Ending, Settler, write


@pytest.fixture
def ended() -> set[tuple[int, int]]:
    """What the settler has said to be written."""
    return set()


@pytest.fixture
def settler(ended: set[tuple[int, int]]) -> Iterator[Settler]:
    def note(written: Iterable[Settlement]) -> None:
        ended.update((each.job_id, each.epoch) for each in written)

    made = Settler(Judge(), hurry=lambda: True, on_written=note)
    yield made
    made.close(limit(5))


def ending(settlement: Settlement) -> Ending:
    return Ending(settlement, PROVIDER)


def sentiments() -> dict[int, str | None]:
    with reading() as connection:
        return {row.id: row.sentiment for row in connection.execute(select(dialogues.c.id, dialogues.c.sentiment))}


# --- the thread ---


@pytest.mark.usefixtures("database")
def test_outcomes_are_stored_told_and_judged(
    settler: Settler, ended: set[tuple[int, int]], wait_until: WaitUntil
) -> None:
    add_batch()
    claimed = take(add_jobs(150))
    replies = ["This is wonderful, I love it!", "This is awful, I hate it.", "Es tut mir leid."]
    for i, job in enumerate(claimed):
        settler.put(success(job, replies[i % 3]), PROVIDER)
    wait_until(lambda: len(ended) == 150, "all are written")
    assert ended == {(job.id, job.epoch) for job in claimed}
    assert count(jobs, jobs.c.state == "succeeded") == count(dialogues) == 150
    wait_until(lambda: None not in sentiments().values(), "all are judged")
    assert [sentiments()[job.id] for job in claimed] == ["positive", "negative", "unknown"] * 50
    assert settler.trouble is None


@pytest.mark.usefixtures("embedded_home")
def test_an_answer_whose_commit_went_through_unheard_is_judged(settler: Settler, wait_until: WaitUntil) -> None:
    add_batch()
    (job,) = take(add_jobs(1))
    put(success(job, "Es tut mir leid."))
    settler.put(success(job, "Es tut mir leid."), PROVIDER)
    wait_until(lambda: list(sentiments().values()) == ["unknown"], "it is judged")


@pytest.mark.usefixtures("database")
def test_a_reply_that_is_not_in_doubt_is_stored_with_its_judgement(
    settler: Settler, ended: set[tuple[int, int]], wait_until: WaitUntil
) -> None:
    add_batch()
    replies = ["What a great day.", "42", "はい、そうです。", "", "Es tut mir leid."]
    for job, reply in zip(take(add_jobs(5)), replies, strict=True):
        settler.put(success(job, reply), PROVIDER)
    wait_until(lambda: len(ended) == 5, "all are written")
    with reading() as connection:
        stored = connection.execute(select(dialogues).order_by(dialogues.c.id)).all()
    judged = [(row.sentiment, row.sentiment_score, row.language) for row in stored[:4]]
    score = pytest.approx(0.6249)
    assert judged == [
        ("positive", score, "en"),
        ("neutral", 0.0, None),
        ("unknown", None, "ja"),
        ("unknown", None, None),
    ]


@pytest.mark.usefixtures("embedded_home")
def test_closing_waits_for_no_judge_that_has_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "CHILD", "import time; time.sleep(600)")
    add_batch()
    settler = Settler(Judge(), hurry=lambda: True, on_written=lambda _: None)
    settler.put(success(take_one(add_jobs(1)[0]), "Es tut mir leid."), PROVIDER)
    settler.close(3600)
    assert list(sentiments().values()) == [None]  # the next worker's maintenance finds it


@pytest.mark.usefixtures("embedded_home")
def test_a_reply_on_which_judging_fails_is_stored(
    settler: Settler, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "judge_now", {}.__getitem__)
    add_batch()
    settler.put(success(take_one(add_jobs(1)[0]), "What a great day."), PROVIDER)
    wait_until(lambda: list(sentiments().values()) == ["positive"], "the child judges it")


@pytest.mark.usefixtures("embedded_home")
def test_closing_writes_what_was_handed_over_and_its_judgements(ended: set[tuple[int, int]]) -> None:
    add_batch()
    settler = Settler(Judge(), hurry=lambda: False, on_written=lambda _: None)
    for job in take(add_jobs(5)):
        settler.put(success(job, "What a great day."), PROVIDER)
    settler.close(limit(10))
    assert list(sentiments().values()) == ["positive"] * 5


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("broken", ["input_tokens", "output_tokens"])
def test_a_row_that_cannot_be_stored_does_not_keep_the_others_from_it(
    broken: str, settler: Settler, ended: set[tuple[int, int]], wait_until: WaitUntil
) -> None:
    add_batch()
    claimed = take(add_jobs(20))
    unstorable: Any = {broken: 2**70}
    bad = success(claimed[7], **unstorable)
    for job in claimed:
        settler.put(bad if job.id == bad.job_id else success(job), PROVIDER)
    wait_until(lambda: len(ended) == 20, "all are written")
    assert count(jobs, jobs.c.state == "succeeded") == count(dialogues) == 19
    refused = job_row(bad.job_id)
    assert (refused.state, refused.error_code) == ("failed", "not_storable")
    assert "the database refuses it" in refused.error
    assert dialogue(bad.job_id) is None


@pytest.fixture
def impatient_home(embedded_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An embedded database whose connections wait for no lock."""
    monkeypatch.setattr(sqlite, "_PRAGMAS", (*sqlite._PRAGMAS, "busy_timeout=0"))
    return embedded_home


def test_answers_wait_for_a_locked_database(impatient_home: Path, settler: Settler, wait_until: WaitUntil) -> None:
    add_batch()
    claimed = take(add_jobs(3))
    holder = sqlite3.connect(impatient_home / "tidemill.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    for job in claimed:
        settler.put(success(job), PROVIDER)
    wait_until(lambda: settler.trouble is not None, "the settler says what keeps it")
    assert "locked" in (settler.trouble or "")
    assert count(dialogues) == 0
    holder.execute("COMMIT")
    holder.close()
    wait_until(lambda: count(dialogues) == 3, "all are stored")
    wait_until(lambda: settler.trouble is None, "the trouble is over")


def test_answers_wait_for_a_database_that_refuses_everybody(
    postgres_server: Postgres,
    postgres_url: str,
    use_environment: UseEnvironment,
    settler: Settler,
    wait_until: WaitUntil,
) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    add_batch()
    first, *others = take(add_jobs(30))
    name = make_url(postgres_url).database
    for only_reads in ("on", "off"):
        postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {only_reads}")
        close()  # its connections: new ones begin with what was set
        if only_reads == "on":
            settler.put(success(first), PROVIDER)  # alone, so that no other row could be to blame
            wait_until(lambda: settler.trouble is not None, "the settler says what keeps it")
            for job in others:
                settler.put(success(job), PROVIDER)
    wait_until(lambda: count(dialogues) == 30, "all are stored")
    assert count(jobs, jobs.c.state == "succeeded") == 30


def test_answers_outlive_a_crash_of_the_server(
    postgres_server: Postgres,
    postgres_url: str,
    use_environment: UseEnvironment,
    settler: Settler,
    ended: set[tuple[int, int]],
    wait_until: WaitUntil,
) -> None:
    use_environment({"TIDEMILL_DATABASE_URL": postgres_url})
    add_batch()
    claimed = take(add_jobs(400))
    for job in claimed[:200]:
        settler.put(success(job), PROVIDER)
    postgres_server.restart_at_once()
    for job in claimed[200:]:
        settler.put(success(job), PROVIDER)
    wait_until(lambda: len(ended) == 400, "all are written")
    assert count(jobs, jobs.c.state == "succeeded") == count(dialogues) == 400
    assert count(attempts, attempts.c.outcome == "succeeded") == 400
    assert count(messages) == 800
    assert count(jobs, jobs.c.input_tokens == 10, jobs.c.cost_usd == 0.25) == 400  # nothing was counted twice


def test_a_settler_that_must_end_gives_a_dead_database_up(
    impatient_home: Path, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    add_batch()
    job = take_one(add_jobs(1)[0])
    holder = sqlite3.connect(impatient_home / "tidemill.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    settler = Settler(Judge(), hurry=lambda: True, on_written=lambda _: None)
    settler.put(success(job), PROVIDER)
    wait_until(lambda: settler.trouble is not None, "the settler has tried")
    settler.close(0)
    holder.close()
    assert "will run again" in caplog.text
    assert job_row(job.id).state == "running"  # its lease will end


# --- one write ---


@pytest.mark.usefixtures("database")
def test_a_refused_key_holds_the_providers_batches_and_an_answer_lifts_it() -> None:
    add_batch()
    first, second = add_jobs(2)
    write([ending(failure(take_one(first), "held", counted=False, http_status=401, error="The key is wrong."))], [])
    assert batch_row().hold_reason == "The key is wrong."
    assert take([second]) == []
    set_batch(probe_job_id=second, held_at=now_after(-1.0))
    probe = take_one(second)
    write([ending(success(probe))], [])
    assert batch_row().hold_reason is None


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(("status", "lifted"), [(None, False), (400, True)], ids=["no answer at all", "a refusal"])
def test_what_counts_as_an_answer_of_the_provider(status: int | None, lifted: bool) -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    set_batch(hold_reason="out of reach", held_at=now_after(-1.0), held_until=now_after(60.0), probe_job_id=job_id)
    write([ending(failure(take_one(job_id), http_status=status))], [])
    assert (batch_row().hold_reason is None) == lifted


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("outcome", ["retried", "failed"])
def test_a_probe_that_is_refused_like_everybody_lifts_nothing_and_counts_nothing(outcome: str) -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    set_batch(hold_reason="nobody", held_at=now_after(-1.0), held_until=now_after(60.0), probe_job_id=job_id)
    write([ending(failure(take_one(job_id), outcome, http_status=503, refused=True, error="Busy."))], [])
    assert batch_row().hold_reason == "nobody"
    job = job_row(job_id)
    assert (job.state, job.failures) == ("queued", 0)
    assert [call.outcome for call in calls(job_id)] == ["held"]


@pytest.mark.usefixtures("database")
def test_an_answer_that_announces_a_long_wait_holds_the_batches_and_lifts_no_hold() -> None:
    add_batch()
    first, early, probe = add_jobs(3)
    began_before = take_one(early)
    wait: dict[str, Any] = {"hold_reason": "Nothing remains until noon.", "hold_seconds": 3600.0}
    write([ending(success(take_one(first), **wait))], [])
    assert job_row(first).state == "succeeded"
    assert batch_row().hold_reason == "Nothing remains until noon."
    set_batch(held_at=now_after(1.0), probe_job_id=probe)
    write([ending(success(began_before))], [])
    assert batch_row().hold_reason == "Nothing remains until noon."
    set_batch(held_at=now_after(-1.0), held_until=now_after(-1.0))
    write([ending(success(take_one(probe), **wait))], [])
    with reading() as connection:
        is_due = connection.scalar(select(batches.c.held_until > now_after(3000.0)))
    assert (batch_row().hold_reason, is_due) == ("Nothing remains until noon.", True)


@pytest.mark.usefixtures("database")
def test_a_snooze_of_a_held_batch_says_nothing_about_the_provider() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    set_batch(hold_reason="no credit", held_at=now_after(-1.0), held_until=now_after(60.0), probe_job_id=job_id)
    write([ending(failure(take_one(job_id), "snoozed", counted=False, http_status=None))], [])
    assert batch_row().hold_reason == "no credit"
    assert calls(job_id) == []


@pytest.mark.usefixtures("database")
def test_judgements_are_stored_with_or_without_a_score() -> None:
    add_batch()
    first, second = take(add_jobs(2))
    write([ending(success(first)), ending(success(second))], [])
    write([], [(first.id, Judgement("negative", -0.5, "en")), (second.id, Judgement("unknown", None, None))])
    with reading() as connection:
        dialogue_rows = connection.execute(select(dialogues).order_by(dialogues.c.id)).all()
    assert [(row.sentiment, row.sentiment_score, row.language) for row in dialogue_rows] == [
        ("negative", -0.5, "en"),
        ("unknown", None, None),
    ]


@pytest.mark.usefixtures("database")
def test_one_transaction_holds_outcomes_and_judgements() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    job = take_one(job_id)
    with pytest.raises(TypeError):
        write([ending(success(job))], [(job_id, Judgement("positive", 2**70, None))])
    assert job_row(job_id).state == "running"
    with writing() as connection:
        assert connection.execute(select(dialogues)).all() == []


@pytest.mark.usefixtures("database")
def test_a_row_that_is_refused_time_and_again_while_others_are_answered_fails() -> None:
    add_batch()
    refused, *others = add_jobs(3)
    for other in others:
        write([ending(failure(take_one(refused), "held", counted=False, http_status=403))], [])
        set_batch(probe_job_id=other, held_at=now_after(-1.0))
        write([ending(success(take_one(other)))], [])
    assert job_row(refused).state == "queued"
    write([ending(failure(take_one(refused), "held", counted=False, http_status=403, error="no"))], [])
    job = job_row(refused)
    assert (job.state, job.error, job.failures) == ("failed", "no", 1)
    assert batch_row().hold_reason is None


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("answered", "never_called", "counted", "state"),
    [
        (1, 0, True, "failed"),  # only such rows are left: what ails them is their own
        (0, 0, True, "queued"),
        (1, 1, True, "queued"),  # in an outage there are others
        (1, 0, False, "queued"),  # too fast is nobody's own fault
    ],
)
def test_rows_that_are_left_over_end_and_an_outage_costs_none(
    answered: int, never_called: int, counted: bool, state: str
) -> None:
    add_batch()
    bad, worse, *others = add_jobs(2 + answered + never_called)
    for other in others[:answered]:
        write([ending(success(take_one(other)))], [])
    for job_id in (bad, worse):
        write([ending(failure(take_one(job_id), "retried", refused=True))], [])
    wanted: dict[str, Any] = {"refused": True, "counted": counted, "hold_reason": "Nobody is served."}
    write([ending(failure(take_one(bad), **wanted))], [])
    assert job_row(bad).state == state
    assert (batch_row().hold_reason is None) == (state == "failed")


@pytest.mark.usefixtures("database")
def test_names_that_are_too_long_for_their_columns_are_cut_and_cost_no_answer() -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    claimed = take_one(job_id)
    answer = Answer("m" * 300, "f" * 90, (Message("r" * 50, "why?"), Message("assistant", "because")))
    settlement = success(claimed, request_id="i" * 400, answer=answer)
    assert write([ending(settlement)], []) == {(job_id, claimed.epoch)}
    assert dialogue(job_id) == [("r" * 20, "why?"), ("assistant", "because")]
    (call,) = calls(job_id)
    assert call.request_id == "i" * 200
