"""Each transition is one line that names the job and never what it says; who is told is decided by one setting."""

import json
import logging

import pytest

from tests.conftest import UseEnvironment
from tests.rows import PROVIDER, add_batch, add_jobs, failure, success, take
from tidemill.models import journal
from tidemill.models.lines import JsonFormatter, Lines, Seldom
from tidemill.models.settling import Settlement
from tidemill.worker.settle import Ending, write


@pytest.fixture(autouse=True)
def _at_info(caplog: pytest.LogCaptureFixture, embedded_home: object) -> None:
    caplog.set_level(logging.DEBUG, "tidemill")


def test_what_is_settled_is_told_with_job_epoch_batch_tokens_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    add_batch()
    first, second, third = take(add_jobs(3))
    held = failure(third, "held")._replace(error="no credit", http_status=402)
    endings = [success(first, "the reply"), failure(second, "failed"), held]
    write([Ending(each, PROVIDER) for each in endings], [])
    lines = caplog.messages
    assert [line.split(" · ")[0].split(" of ")[0] for line in lines[:3]] == [
        f"job {first.id} epoch 1",
        f"job {second.id} epoch 1",
        f"job {third.id} epoch 1",
    ]
    assert " succeeded " in lines[0] and " failed " in lines[1] and " held " in lines[2]
    assert lines[3] == f"{PROVIDER} is on hold: no credit"
    assert len(lines) == 4
    assert "the reply" not in "".join(lines)


def test_what_came_too_late_is_told_as_such(caplog: pytest.LogCaptureFixture) -> None:
    add_batch()
    (job,) = take(add_jobs(1))
    write([Ending(success(job._replace(epoch=job.epoch + 1)), PROVIDER)], [])
    assert "succeeded, too late to be stored" in caplog.messages[0]


def test_claims_are_one_line_a_message(caplog: pytest.LogCaptureFixture) -> None:
    add_batch("a")
    journal.log_claim(take(add_jobs(3, "a")), "0123456789abcdef")
    (line,) = caplog.messages
    assert line.startswith("worker 01234567 claimed 3 of a: jobs ")


def test_what_becomes_of_one_job_is_for_those_who_look_closely(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidemill")
    add_batch()
    first, second = take(add_jobs(2))
    journal.log_claim([first, second], "0123456789abcdef")
    snoozed = Settlement(first.id, first.epoch, first.batch_id, "snoozed", 3.0)
    write([Ending(snoozed, PROVIDER), Ending(success(second), PROVIDER)], [])
    assert caplog.messages == []


def test_no_line_has_the_text_of_an_error_for_it_may_repeat_the_prompt(caplog: pytest.LogCaptureFixture) -> None:
    add_batch()
    (job,) = take(add_jobs(1))
    refused = failure(job, "failed")._replace(error="Bad prompt: 'the secret question'", error_code="bad_request")
    write([Ending(refused, PROVIDER)], [])
    assert "bad_request" in caplog.text
    assert "secret" not in caplog.text


def test_the_end_of_a_hold_says_how_long_it_was(caplog: pytest.LogCaptureFixture) -> None:
    journal.log_lift(PROVIDER, 754.2)
    assert caplog.messages == [f"{PROVIDER} answers again after 12 min 34 s on hold; its batches go on"]


def test_as_json_a_line_is_one_object_with_its_event_and_fields() -> None:
    record = logging.makeLogRecord({"levelno": 20, "levelname": "INFO", "msg": "%s", "args": ("two\nlines\x1b[0m",)})
    record.created, record.msecs = 1.5, 500.0
    record.event, record.fields = "hold", {"provider": "p", "seconds": 2.5}
    line = JsonFormatter().format(record)
    assert line.isascii() and "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "info",
        "event": "hold",
        "message": "two\nlines\x1b[0m",
        "provider": "p",
        "seconds": 2.5,
    }


@pytest.mark.parametrize("form", [Lines("%(message)s"), JsonFormatter()])
def test_a_library_s_line_has_the_form_of_ours_and_no_error_s_text(form: logging.Formatter) -> None:
    question = "the secret" + " question"  # the traceback shows the line below
    try:
        raise ValueError(question)
    except ValueError as error:
        exc_info = (ValueError, error, error.__traceback__)
    values = {"name": "asyncio", "levelname": "ERROR", "msg": "task failed", "exc_info": exc_info}
    line = form.format(logging.makeLogRecord(values))
    assert "task failed" in line and "ValueError" in line and "test_journal.py" in line
    assert "secret question" not in line
    if isinstance(form, JsonFormatter):
        assert json.loads(line)["logger"] == "asyncio"
        assert json.loads(line)["event"] == "library"


def test_the_same_trouble_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    seldom = Seldom()
    for waiting in (3, 5):
        seldom.note(logging.WARNING, "waits_to_store", f"{waiting} endings wait", about="database away")
    seldom.note(logging.WARNING, "waits_to_store", "no room for 9 endings", about="disk full")
    assert caplog.messages == ["3 endings wait", "no room for 9 endings"]


@pytest.mark.parametrize(
    ("setting", "default", "level"),
    [("", "info", logging.INFO), ("", "warning", logging.WARNING), ("debug", "info", logging.DEBUG)],
)
def test_the_setting_goes_before_the_default(
    setting: str, default: str, level: int, use_environment: UseEnvironment
) -> None:
    use_environment({"TIDEMILL_LOG_LEVEL": setting})
    ours = logging.getLogger("tidemill")
    before = ours.level
    try:
        journal.set_level(default)
        assert ours.level == level
    finally:
        ours.setLevel(before)
