"""Each thing that a row or a batch may wait for is said, and a row's life reads in the order in which it happened."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import insert, update

from tests.rows import (
    PROVIDER,
    add_batch,
    add_jobs,
    add_worker,
    batch_row,
    calls,
    change_batch,
    failure,
    next_due,
    put,
    rescuer,
    set_batch,
    set_job,
    success,
    take,
    take_one,
)
from tidemill.models import batches as batch_verbs
from tidemill.models import claims, holds
from tidemill.models.clock import now, now_after
from tidemill.models.database import transact, writing
from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.models.settling import Settlement
from tidemill.models.tables import attempts, creations, datasets, dialogues, fine_tunes
from tidemill.models.text import dumps
from tidemill.models.transitions import Enqueued, enqueue, rescue
from tidemill.models.twins import share
from tidemill.producer.batches import worker_list
from tidemill.producer.batches.control import status
from tidemill.producer.batches.deletion import delete_dialogue
from tidemill.producer.batches.explaining import explain

pytestmark = pytest.mark.usefixtures("database")


def story(name: str | int, capsys: pytest.CaptureFixture[str]) -> JsonObject:
    """What `tidemill explain NAME --json` prints."""
    capsys.readouterr()
    explain(str(name), as_json=True)
    account: JsonObject = json.loads(capsys.readouterr().out)
    return account


def page(name: str | int, capsys: pytest.CaptureFixture[str]) -> str:
    """What `tidemill explain NAME` prints."""
    capsys.readouterr()
    explain(str(name), as_json=False)
    return capsys.readouterr().out


def codes(account: JsonObject) -> list[str]:
    """What it waits for."""
    return [each["code"] for each in account["waits_for"]]


def names(account: JsonObject) -> list[str]:
    """What has happened."""
    return [each["event"] for each in account["events"]]


def says(account: JsonObject) -> str:
    """All that it waits for, in words."""
    return " ".join(each["says"] for each in account["waits_for"])


def hold(reason: str = "no credit") -> None:
    with writing() as connection:
        holds.hold(connection, PROVIDER, reason)


def enqueue_rows(rows: Iterable[dict[str, Any]], **common: Any) -> None:
    """Queue rows of the batch `b`, each a few fields of `Enqueued`."""
    given = [Enqueued(f"k{i}", f"c{i}", i, dumps({"prompt": "what?"}), dumps({}), **row) for i, row in enumerate(rows)]
    with writing() as connection:
        enqueue(connection, "b", 1, given, **common)


# --- a row's life ---


def test_a_row_with_a_retry_a_hold_a_loss_and_an_answer_reads_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch()
    add_worker("w1")
    (job_id,) = add_jobs(1)
    put(failure(take_one(job_id), "retried", error_code="server_error", error="no luck"))
    put(failure(take_one(job_id), "held", error_code="no_credit", error="no credit", counted=False))
    take_one(job_id, "w2")
    transact(lambda connection: rescue(connection, rescuer(dead=["w2"])))
    put(success(take_one(job_id), seconds=0.0))
    with writing() as connection:
        connection.execute(update(dialogues).values(sentiment="positive", sentiment_score=0.5, language="en"))
    account = story(job_id, capsys)
    assert names(account) == [
        "submitted",
        *("claimed", "called", "retried"),
        *("claimed", "called", "held"),
        *("claimed", "lost"),
        *("claimed", "called", "succeeded"),
        "judged",
    ]
    assert [each["epoch"] for each in account["events"] if each["event"] == "claimed"] == [1, 2, 3, 5]
    assert [each["host"] for each in account["events"] if each["event"] == "claimed"] == ["h", "h", None, "h"]
    times = [each["at"] for each in account["events"] if each["at"]]
    assert times == sorted(times)
    answered = account["events"][-2]
    assert (answered["http_status"], answered["request_id"], answered["cost_usd"]) == (200, "req-1", 0.25)
    assert (account["job"], account["batch"], account["row"], account["custom_id"]) == (job_id, "b", 1, "id-r0")
    assert (account["dialogue"], account["losses"], account["waits_for"]) == (job_id, 1, [])
    shown = page(job_id, capsys)
    assert shown.index("failed, to be tried again: 500") < shown.index("not served") < shown.index("lost: its worker")
    assert "prompt     question r0" in shown and "answered: 200" in shown and "judged positive (+0.50)" in shown
    assert "because" not in shown.replace("because of", ""), "a reply is nobody's business here"


def test_claims_without_a_call_and_revivals_show_though_the_ledger_does_not_keep_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    for _ in range(3):
        claimed = take_one(job_id)
        put(Settlement(claimed.id, claimed.epoch, "b", "snoozed"))
    assert names(story(job_id, capsys)) == ["submitted", "uncalled"]
    put(failure(take_one(job_id)))
    change_batch("retry")
    account = story(job_id, capsys)
    assert names(account) == ["submitted", "uncalled", "claimed", "called", "failed", "revived"]
    assert account["events"][1]["times"] == 3
    change_batch("cancel")
    account = story(job_id, capsys)
    assert names(account)[-2:] == ["revived", "cancelled"]
    assert account["waits_for"] == []


def test_a_row_whose_worker_vanished_three_times_says_why_it_failed(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch()
    add_worker()
    (job_id,) = add_jobs(1)
    for nth in range(claims.MAX_LOSSES):
        if nth == claims.ALONE_AFTER:
            assert codes(story(job_id, capsys)) == ["alone"]
        take([job_id], "dead", alone=True)
        transact(lambda connection: rescue(connection, rescuer(dead=["dead"])))
    account = story(job_id, capsys)
    assert names(account) == ["submitted", *("claimed", "lost") * 3, "ended"]
    assert "worker_lost" in account["events"][-1]["says"]


def test_an_answer_that_came_late_is_the_end_of_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    late = take_one(job_id)
    transact(lambda connection: rescue(connection, rescuer(dead=["w1"])))
    put(success(late))
    account = story(job_id, capsys)
    assert names(account) == ["submitted", "claimed", "called", "succeeded"]
    assert codes(account) == ["judgement"]


def test_a_refused_picture_and_a_shared_answer_have_no_call_and_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch()
    add_worker()
    enqueue_rows([{"content": "p"}, {"content": "p"}, {"error_code": "no_picture", "error": "It is empty."}])
    first, second = story("b:1", capsys)["job"], story("b:2", capsys)["job"]
    assert codes(story(second, capsys)) == ["twin"]
    put(success(take_one(first)))
    assert "is not judged yet" in says(story(second, capsys))
    with writing() as connection:
        connection.execute(update(dialogues).values(sentiment="neutral"))
        share(connection)
    shared = story(second, capsys)
    assert names(shared) == ["submitted", "shared", "judged"]
    assert shared["events"][1]["twin"] == first
    assert names(story("b:3", capsys)) == ["submitted", "refused"]
    assert "never asked; correct the input" in story("b", capsys)["failures"][0]["do"]


def test_a_row_whose_dialogue_was_deleted_says_so_and_what_it_has_cost(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch(read_at=now_after(0.0))
    first, _ = add_jobs(2)
    put(success(take_one(first)))
    delete_dialogue(first, is_sure=True, as_json=False)
    life = story(first, capsys)
    assert (life["error_code"], life["prompt"], life["waits_for"]) == ("deleted", "", [])
    assert names(life) == ["submitted", "claimed", "called", "succeeded", "deleted"]
    assert life["events"][0]["at"] is None, "nobody knows when the row was stored"
    assert "its dialogue was deleted" in life["events"][-1]["says"]
    assert story("b", capsys)["failures"][0]["do"].startswith("nothing: somebody wanted their words deleted")


def test_what_a_call_waited_for_its_turn_is_said_as_far_as_it_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    claimed = take_one(job_id)
    with writing() as connection:
        connection.execute(update(attempts).values(started_at=now_after(-22.0)))
    put(success(claimed, seconds=2.0))
    (call,) = calls(job_id)
    called = story(job_id, capsys)["events"][2]
    assert called["waited_seconds"] == pytest.approx((call.ended_at - call.started_at).total_seconds() - 2.0, abs=0.001)
    assert "waited 2" in called["says"]


def test_a_very_long_life_shows_its_beginning_and_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    for nth in range(25):
        put(failure(take_one(job_id), "retried", error=f"failure {nth}.", counted=False))
    shown = page(job_id, capsys)
    assert "… 16 more events, all with --json" in shown
    assert "failure 0." in shown and "failure 24." in shown and "failure 5." not in shown
    assert len(story(job_id, capsys)["events"]) == 76


# --- what a row waits for ---


def test_each_kind_of_waiting_has_its_word_and_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch()
    first, second, third = add_jobs(3)
    assert codes(story(first, capsys)) == ["no_worker"]
    assert "`tidemill watch b`" in says(story(first, capsys))
    add_worker(window=10, in_flight=10)
    account = story(third, capsys)
    assert codes(account) == ["queued"]
    assert "2 rows of its batch before it (10 places, 0 free)" in says(account)
    assert account["events"][0]["at"] is not None, "of a row that nobody has claimed it is known when it was stored"

    set_batch(route="batch")
    assert (codes(story(third, capsys)), says(story(third, capsys))) == (
        ["to_pack"],
        "It is due, to be packed into the next batch for the provider.",
    )
    set_batch(route="online")

    put(failure(take_one(second), "retried", delay_seconds=100.0))
    account = story(second, capsys)
    assert codes(account) == ["due_later"]
    assert account["waits_for"][0]["until"] and "its last call failed (server_error)" in says(account)

    take_one(third, "w1")
    assert "worker w1 (h, pid 1) has it since" in says(story(third, capsys))
    take_one(first, "gone")
    assert codes(story(first, capsys)) == ["lost_worker"]
    assert "at" in says(story(first, capsys))

    hold()
    change_batch("pause")
    account = story(second, capsys)
    assert codes(account) == ["paused", "held", "due_later"]
    assert "`tidemill resume b`" in says(account) and "no credit" in says(account)


def test_a_row_waits_for_the_broker_and_for_urgent_batches(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch()
    add_batch("urgent", priority=5)
    add_worker()
    (job_id,) = add_jobs(1)
    add_jobs(1, "urgent")
    assert "More urgent batches go first: urgent." in says(story(job_id, capsys))
    assert next_due()[-1] == job_id
    assert codes(story(job_id, capsys)) == ["sent"]


def test_a_turn_of_a_dialogue_waits_for_the_turn_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch("root")
    add_worker()
    (root,) = add_jobs(1, "root")
    put(success(take_one(root)))
    add_batch("b")
    enqueue_rows([{}, {}], dialogue_id=root)
    account = story("b:2", capsys)
    assert codes(account) == ["turn"]
    assert f"job {story('b:1', capsys)['job']}, an earlier turn, is queued" in says(account)


@pytest.mark.parametrize(
    ("environment", "start"),
    [({}, "No command runs its rows"), ({"TIDEMILL_BROKER_URL": "redis://127.0.0.1:1"}, "`tidemill worker`")],
)
def test_who_has_no_worker_is_told_which_one_to_start(
    environment: dict[str, str], start: str, use_environment: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    use_environment(environment)
    add_batch()
    (job_id,) = add_jobs(1)
    add_worker(provider="other.test")
    assert start in says(story(job_id, capsys))
    assert "those that are alive serve other.test" in says(story(job_id, capsys))


def test_a_fine_tune_says_what_the_provider_says_and_when_it_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch(kind="train", read_at=now())
    add_worker()
    (job_id,) = add_jobs(1)
    for _ in range(2):
        step = take_one(job_id)
        put(Settlement(step.id, step.epoch, "b", "stepped", delay_seconds=0.0))
    step = take_one(job_id)
    put(Settlement(step.id, step.epoch, "b", "stepped", delay_seconds=30.0))
    with writing() as connection:
        blob = {"sha256": "s", "bytes": 1, "examples": 1, "tokens": 1}
        dataset = {"id": "d", "name": "d", "method": "supervised", "training": blob, "report": {}, "created_at": now()}
        connection.execute(insert(datasets).values(**dataset))
        tune = {"remote_id": "ftjob-1", "status": "running", "created_at": now(), "seen_at": now()}
        tune["remote"] = {"estimated_finish": 4_000_000_000}
        connection.execute(insert(fine_tunes).values(job_id=job_id, dataset_id="d", **tune))
        doubt = {"step": "job", "round": 1, "token": "t", "sent_at": now()}
        connection.execute(insert(creations).values(owner=f"job {job_id}", **doubt))
    account = story("b", capsys)
    assert codes(account) == ["doubt", "provider", "due_later"], "the only open row speaks for its batch"
    row = story(job_id, capsys)
    assert names(row) == ["submitted", "stepped", "fine_tune"]
    assert row["events"][1]["times"] == 3
    assert row["events"][2]["says"] == 'the provider says "running" of ftjob-1'
    assert account["waits_for"][1]["until"] == "2096-10-02T07:06:40+00:00"


# --- how a row is called ---


def test_a_row_has_three_names(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch()
    first, second = add_jobs(2)
    for name in (str(second), f"job {second}", "b:2", "latest:2", "b:id-r1"):
        assert story(name, capsys)["job"] == second
    set_job(first, custom_id="12:30")
    assert story("b:12:30", capsys)["job"] == first


def test_what_is_not_there_is_one_sentence() -> None:
    add_batch()
    for job_id in add_jobs(2):
        set_job(job_id, custom_id="same")
    for name, sentence in {
        "99999": "There is no job 99999",
        "9" * 30: "There is no job 999",
        "b:3": "b has no row '3'",
        "b:0": "b has no row '0'",
        "b:nobody": "b has no row with the custom_id 'nobody'",
        "b:same": "b has several rows with the custom_id 'same': jobs",
        "nope:1": "There is no batch 'nope'",
        "nope": "There is no batch 'nope'",
    }.items():
        with pytest.raises(InputError, match=sentence):
            explain(name, as_json=False)


# --- a batch ---

_OF_A_BATCH = {
    *("batch", "kind", "model", "provider", "created_at", "rows", "queued", "running", "succeeded", "failed"),
    *("cancelled", "open", "tokens", "cost_usd", "rows_at_unknown_price", "unjudged", "state", "hold_reason", "sent"),
    *("due_later", "workers", "in_flight", "window", "rows_per_second", "rate_over_seconds", "eta_seconds", "limits"),
    *("learned_limits", "slowest", "failures", "waits_for", "route", "deadline_at", "at_provider", "upstream"),
    "budgets",
}
_OF_A_ROW = {
    *("job", "batch", "row", "custom_id", "key", "kind", "model", "provider", "prompt", "state", "epoch", "attempts"),
    *("failures", "losses", "input_tokens", "output_tokens", "cost_usd", "error_code", "error", "dialogue"),
    *("finish_reason", "finished_at", "events", "waits_for"),
}


def test_a_batch_says_what_it_waits_for_and_when_it_will_end(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch(read_at=now())
    add_worker(window=10, in_flight=2)
    ids = add_jobs(40)
    put(*(success(job) for job in take(ids[:20])))
    failed, later, *_ = take(ids[20:24])
    put(failure(failed, error_code="context_length_exceeded", error="too long"))
    put(failure(later, "retried", delay_seconds=200.0))
    account = story("b", capsys)
    assert account.keys() == _OF_A_BATCH
    assert story(ids[0], capsys).keys() == _OF_A_ROW
    assert codes(account) == ["running", "due_later", "queued"]
    assert (account["open"], account["running"], account["due_later"]) == (19, 2, 1)
    assert account["rows_per_second"] > 0
    assert account["eta_seconds"] == pytest.approx(200, abs=30), "not before the last row is due"
    assert [each["job"] for each in account["slowest"]] == ids[22:24]
    assert account["failures"][0]["do"].startswith("shorten these prompts")
    shown = page("b", capsys)
    assert "ends       in about 3 min" in shown and "pace       about" in shown
    assert f"oldest     job {ids[22]} (row 23, claimed" in shown
    assert "1 × context_length_exceeded: too long → shorten" in shown
    hold("no credit left")
    account = story("b", capsys)
    assert account["eta_seconds"] is None
    assert codes(account)[0] == "held" and "no credit left" in says(account)
    assert "not before what it waits for" in page("b", capsys)


def test_an_ended_batch_waits_for_nothing_but_its_judgements(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch(read_at=now())
    put(*map(success, take(add_jobs(2))))
    assert codes(story("b", capsys)) == ["judgement"]
    with writing() as connection:
        connection.execute(update(dialogues).values(sentiment="neutral"))
    account = story("b", capsys)
    assert (account["waits_for"], account["eta_seconds"]) == ([], 0.0)
    assert "every row has ended" in page("b", capsys)


def test_an_input_that_is_not_read_to_its_end_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch()
    add_worker()
    add_jobs(3)
    assert codes(story("b", capsys)) == ["input", "queued"]
    transact(lambda connection: batch_verbs.end_submission(connection, "b", []))
    assert codes(story("b", capsys)) == ["queued"]
    set_batch(state="cancelled")
    assert codes(story("b", capsys)) == ["cancelled"]
    assert batch_row().state == "cancelled"


def test_status_leads_on_to_explain_only_where_there_is_something_to_explain(
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_batch()
    (job_id,) = add_jobs(1)
    status("b", 10, as_json=False)
    assert "`tidemill explain b` says" in capsys.readouterr().out
    put(success(take_one(job_id)))
    status("b", 10, as_json=False)
    assert "explain" not in capsys.readouterr().out


# --- workers ---


def test_workers_are_listed_while_they_live(capsys: pytest.CaptureFixture[str]) -> None:
    worker_list.show(show_all=False, as_json=False)
    nobody = capsys.readouterr()
    assert (nobody.out, "Without a broker each command" in nobody.err) == ("", True)
    add_worker("0123456789", in_flight=3)
    add_worker("silent", seen_at=now_after(-60.0))
    worker_list.show(show_all=False, as_json=False)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["worker", "host", "pid", "provider", "version", "in", "flight", "window", "up", "seen"]
    assert [line.split()[:7] for line in lines] == [["01234567", "h", "1", PROVIDER, "0", "3", "10"]]
    worker_list.show(show_all=True, as_json=False)
    assert "gone, 1 min" in capsys.readouterr().out
    worker_list.show(show_all=True, as_json=True)
    listed = json.loads(capsys.readouterr().out)
    assert {each["id"]: each["alive"] for each in listed} == {"0123456789": True, "silent": False}
    assert listed[0].keys() == {
        *("id", "host", "pid", "provider", "version", "window", "in_flight", "started_at", "seen_at"),
        *("seen_seconds_ago", "alive"),
    }


def test_who_shares_a_broker_is_told_how_to_start_a_worker(
    use_environment: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    use_environment({"TIDEMILL_BROKER_URL": "redis://127.0.0.1:1"})
    worker_list.show(show_all=False, as_json=False)
    assert capsys.readouterr().err == "No worker is alive. Start one: `tidemill worker`.\n"
