"""Each transition is one line that names the job and never what it says; who is told is decided by one setting."""

import logging

import pytest

from tests.conftest import UseEnvironment
from tests.rows import PROVIDER, add_batch, add_jobs, failure, success, take
from tidemill.models import journal
from tidemill.models.transitions import Settlement
from tidemill.worker.settle import Ending, write


@pytest.fixture(autouse=True)
def _at_info(caplog: pytest.LogCaptureFixture, embedded_home: object) -> None:
    caplog.set_level(logging.INFO, "tidemill")


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


def test_a_snooze_is_for_those_who_look_closely(caplog: pytest.LogCaptureFixture) -> None:
    add_batch()
    (job,) = take(add_jobs(1))
    write([Ending(Settlement(job.id, job.epoch, job.batch_id, "snoozed", 3.0), PROVIDER)], [])
    assert caplog.messages == []


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
