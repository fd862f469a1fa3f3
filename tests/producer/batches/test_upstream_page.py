"""Nobody waits in silence for rows at the provider's Batch API: every command says where they are, and what to do."""

import json
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from tests.producer.batches.still import Clock, Kept
from tests.rows import (
    add_batch,
    add_jobs,
    add_worker,
    count,
    end_upstream,
    put,
    put_out,
    set_batch,
    set_upstream,
    success,
    take,
)
from tidemill.models import ledger
from tidemill.models.clock import now_after
from tidemill.models.database import reading
from tidemill.models.scope import Scope
from tidemill.models.tables import upstream_batches
from tidemill.producer.batches import control, explaining, upstream_news, upstream_words, worker_list
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.progress import progress
from tidemill.producer.batches.upstream_news import UpstreamNews

pytestmark = pytest.mark.usefixtures("database")

COUNTS = {"request_counts": {"total": 3, "completed": 2, "failed": 0}}


def put_three_out(**values: Any) -> list[int]:
    """A batch of five rows, three of which are out, and a worker."""
    add_batch(route="batch")
    add_worker()
    ids = add_jobs(5)
    put_out(ids[:3], remote=COUNTS, **values)
    return ids


def printed(act: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    act()
    return capsys.readouterr().out


def test_status_says_where_rows_are_how_far_and_until_when(capsys: pytest.CaptureFixture[str]) -> None:
    put_three_out(note="The provider's queue is full.")
    set_batch(deadline_at=now_after(7200.0))
    out = printed(lambda: control.status("b", 10, as_json=False), capsys)
    assert re.search(
        r"3 rows have been at the provider's Batch API since ..:..:.. UTC \(.*\), at half the price: "
        r"1 upstream batch, 2 of 3 lines done there\. The provider gives up at .* UTC \(in .*\)\.",
        out,
    )
    assert '  batch_t0: "in_progress", 2 of 3 lines done there, seen' in out and "queue is full" in out
    assert "2 rows wait to go out by the route batch." in out
    assert "Every row should have ended at" in out
    assert "What is left goes online at" in out
    told = json.loads(printed(lambda: control.status("b", 10, as_json=True), capsys))
    assert (told["route"], told["at_provider"], told["running"], told["saved_usd"]) == ("batch", 3, 3, None)
    assert "T" in told["created_at"]  # as all other times
    assert told["goes_online_at"] < told["deadline_at"]
    assert told["deadline_at"].endswith("+00:00")
    (one,) = told["upstream"]
    assert (one["remote_id"], one["status"], one["lines"], one["completed"]) == ("batch_t0", "in_progress", 3, 2)
    assert {"id", "failed", "sent_at", "seen_at", "expires_at", "note", "wanted"} < one.keys()


def test_the_list_tells_a_batch_that_is_out_from_one_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch(route="batch")
    put_out(add_jobs(2))
    assert "at provider" in printed(lambda: control.status(None, 10, as_json=False), capsys)


def test_what_was_saved_is_said_while_it_runs_and_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch(route="batch")
    put(*(success(job, cost_usd=0.5, standard_usd=1.0, route="batch") for job in put_out(add_jobs(2))))
    end_upstream()
    out = printed(lambda: control.status("b", 10, as_json=False), capsys)
    assert "Its route has saved $1.00 so far." in out and "Batch API" not in out
    assert Batch("b").saved == 1.0


@pytest.mark.parametrize(("verb", "sentence"), [("pause", "still collects them"), ("cancel", "told to cancel them")])
def test_what_is_out_is_named_where_a_batch_is_stopped(
    verb: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put_three_out()
    out = printed(lambda: control.change(verb, "b", as_json=False), capsys)
    assert out.count("\n") == 2 and "3 rows are at the provider" in out and sentence in out
    if verb == "cancel":
        assert "cancelled: 2 rows" in out
        again = printed(lambda: control.change(verb, "b", as_json=False), capsys)
        assert again.count("\n") == 1 and "told to cancel" in again and "no row was open" not in again
        explained = printed(lambda: explaining.explain("b", as_json=False), capsys)
        assert "What it has answered by then is paid" in " ".join(explained.split())
    assert json.loads(printed(lambda: control.change(verb, "b", as_json=True), capsys))["at_provider"] == 3


def test_explain_says_of_a_batch_and_of_a_row_that_the_provider_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    ids = put_three_out()
    told = json.loads(printed(lambda: explaining.explain("b", as_json=True), capsys))
    assert [each["code"] for each in told["waits_for"] if each["code"] in ("at_provider", "running", "to_pack")] == [
        "at_provider",
        "to_pack",
    ]
    assert (told["eta_seconds"], told["slowest"], len(told["upstream"])) == (None, [], 1)
    row = json.loads(printed(lambda: explaining.explain(str(ids[0]), as_json=True), capsys))
    (reason,) = row["waits_for"]
    assert reason["code"] == "at_provider" and reason["until"] is not None
    assert reason["says"].startswith("The row has been at the provider's Batch API since")
    packed = row["events"][-1]
    assert (packed["event"], packed["remote_id"]) == ("packed", "batch_t0")
    end_upstream()
    assert "packed as a line of upstream batch" in printed(lambda: explaining.explain(f"job {ids[0]}", False), capsys)


def test_workers_says_what_is_out_without_any_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    put_three_out()
    assert "3 rows in 1 upstream batch" in printed(lambda: worker_list.show(show_all=False, as_json=False), capsys)


def test_python_has_a_record_of_each_upstream_batch() -> None:
    put_three_out()
    (one,) = Batch("b").upstream
    assert (one.remote_id, one.status, one.done, one.lines) == ("batch_t0", "in_progress", 2, 3)
    so_far = Batch("b").progress()
    assert (so_far.at_provider, so_far.done_there) == (3, 2)


def test_rows_that_were_never_sent_are_not_said_to_stay_at_the_provider() -> None:
    put_three_out()
    assert upstream_words.stays(3, Batch("b").upstream, "b").startswith("3 rows stay at the provider, which goes on")
    set_upstream(sent_at=None, remote_id=None)
    assert upstream_words.stays(3, Batch("b").upstream, "b") == (
        "3 rows are packed, and may not be at the provider yet. The same command, `tidemill watch b` or a worker goes "
        "on with that."
    )


# --- a run that waits ---


def test_a_run_says_what_it_waits_for_and_how_far_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, shown = Clock(), Kept()
    monkeypatch.setattr(upstream_news, "time", clock)
    news = UpstreamNews(shown, "b")

    def look(seconds: float = 5.0) -> Sequence[str]:
        clock.seconds += seconds
        shown.sentences.clear()
        news.say_new(progress(Scope("b")))
        return list(shown.sentences)

    add_batch(route="batch")
    ids = add_jobs(3)
    (goes,) = look()
    assert "answers take minutes to hours" in goes and "Ctrl-C does no harm" in goes and "at half the price" in goes
    assert look() == []
    put_out(ids, sent_at=None, remote_id=None, status=None)
    assert look() == [], "it is on its way"
    set_upstream(sent_at=now_after(0), remote=COUNTS)
    (where,) = look()
    assert "2 of 3 lines done there" in where
    set_upstream(note="The queue is full.")
    assert look() == ["The provider: The queue is full."]
    assert look() == []
    set_batch(hold_reason="No credit is left.")
    set_upstream(note="No credit is left.")
    assert look() == [], "the display says why a batch is on hold"
    set_batch(hold_reason=None)
    assert len(look(300.0)) == 1
    put_all = take(add_jobs(1, prefix="x"))
    set_batch(route="online")
    assert "1 row goes by the route online." in look(300.0)[0]
    assert put_all and count(upstream_batches) == 1


def test_rows_on_the_way_and_silent_servers_have_words_too() -> None:
    add_batch(route="batch")
    put_out(add_jobs(1), sent_at=None, remote_id=None, status=None, seen_at=None, expires_at=None)
    with reading() as connection:
        now = ledger.clock(connection)
    (one,) = Batch("b").upstream
    said = upstream_words.whereabouts(1, [one], "gpt-6-luna", now)
    assert said == "1 row is on the way to the provider's Batch API, in 1 upstream batch."
    assert upstream_words.line(one, now).endswith(": not there yet, 1 line")
    there = one._replace(sent_at=now - timedelta(minutes=5), status="cancelling")
    said = upstream_words.whereabouts(1, [there] * 7, "a-model-of-ones-own", now)
    assert re.fullmatch(
        r"1 row has been at the provider's Batch API since .* \(5 min\): 7 upstream batches\. It is told .*", said
    )
    for route, share in (("2h", "70"), ("8h", "60")):
        said = upstream_words.whereabouts(1, [there._replace(route=route)], "gpt-6-luna", now)
        assert "the provider, in the background since" in said and f"at {share} % of the price: 1 upstream" in said
    assert upstream_words.lines([there] * 7, now)[-1] == "and 2 more"
    assert upstream_words.price_words("gpt-6-luna", "online") == "" == upstream_words.price_words("x", "batch")
