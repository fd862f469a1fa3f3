"""Pause, resume, cancel and retry act at once and say what they did; status says what went wrong."""

import json

import pytest

from tests.rows import add_batch, add_jobs, batch_row, count, failure, next_due, put, set_batch, take
from tidemill.models.clock import now_after
from tidemill.models.errors import InputError
from tidemill.models.tables import jobs
from tidemill.producer.batches import control

pytestmark = pytest.mark.usefixtures("database")


def put_failed(rows: int, **how: object) -> None:
    ids = add_jobs(rows, prefix=f"f{count(jobs)}-")
    state = batch_row().state
    set_batch(state="open")
    put(*(failure(job, **how) for job in take(ids)))
    set_batch(state=state)


@pytest.mark.parametrize(("what", "changed"), [("retry", 2), ("cancel", 2), ("pause", 1), ("resume", 1)])
def test_every_change_says_what_it_did(what: str, changed: int, capsys: pytest.CaptureFixture[str]) -> None:
    add_batch(state="paused" if what == "resume" else "open")
    put_failed(2) if what == "retry" else add_jobs(2)
    control.change(what, "latest", as_json=False)
    printed = capsys.readouterr().out
    assert printed.startswith("b: ")
    assert what not in ("retry", "cancel") or str(changed) in printed
    control.change(what, "b", as_json=False)
    again = capsys.readouterr().out
    assert again.startswith("b: ") and again != printed
    control.change(what, "b", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"batch": "b", what: 0}


def test_a_change_of_an_unknown_batch_is_an_error() -> None:
    with pytest.raises(InputError, match="There is no batch"):
        control.change("pause", "nope", as_json=False)


def test_status_of_one_batch_shows_counts_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch()
    put_failed(2, error_code="server_error", error="broken\nover two lines")
    add_jobs(1)
    set_batch(hold_reason="no credit", held_at=now_after(0), held_until=now_after(60.0))
    control.status("b", 10, as_json=False)
    out = capsys.readouterr().out
    assert "3 rows: 0 succeeded, 2 failed, 1 open" in out
    assert "on hold: no credit" in out
    assert "2 × server_error: broken" in out and "broken\nover" not in out
    control.status("latest", 10, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["failures"] == [{"rows": 2, "error_code": "server_error", "example": "broken\nover two lines"}]
    assert (printed["batch"], printed["open"], printed["hold_reason"]) == ("b", 1, "no credit")


def test_status_of_all_is_a_table_or_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    control.status(None, 10, as_json=False)
    assert "No batches yet" in capsys.readouterr().err
    add_batch("done")
    add_batch("open")
    add_jobs(2, "open")
    control.status(None, 10, as_json=False)
    out = capsys.readouterr().out
    assert "done" in out and "open" in out and "gpt-6-luna" in out
    control.status(None, 10, as_json=True)
    assert {(each["batch"], each["rows"]) for each in json.loads(capsys.readouterr().out)} == {("done", 0), ("open", 2)}


def test_probing_makes_the_next_look_due_now() -> None:
    add_batch(hold_reason="no credit", held_at=now_after(0), held_until=now_after(300.0))
    add_jobs(1)
    assert next_due() == []
    control.probe(batch_row().provider)
    assert len(next_due()) == 1
