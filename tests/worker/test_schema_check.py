"""A paid answer is never lost to its schema: it fits, is asked again, or fails with its text, usage and price."""

from typing import Any

import pytest

from tests.rows import MODEL
from tidemill.models.claims import Claimed
from tidemill.models.options import Options
from tidemill.models.provider import Reply, Usage
from tidemill.models.replies import CallError, RawReply, error_from_status
from tidemill.models.schemas import Complaint
from tidemill.models.settling import Settlement
from tidemill.worker import settlements
from tidemill.worker.questions import build
from tidemill.worker.schema_check import Checker

SCHEMA = {"type": "object", "required": ["n"]}
QUESTION = build(Options(MODEL, schema=SCHEMA), {"prompt": "How many?"})
USAGE = Usage(7, 3)


@pytest.fixture(autouse=True)
def _settings(clean_environment: None) -> None:
    """No setting of the developer's decides what a token costs."""


def job(failures: int = 0) -> Claimed:
    return Claimed(1, 3, "b", {"prompt": "How many?"}, failures, 0.0)


def reply(text: str, reason: str = "stop", **more: Any) -> Reply:
    return Reply(text, MODEL, reason, USAGE, "req", {}, 200, mark="length" if reason == "length" else None, **more)


def settled(text: str, complaint: Complaint | None, reason: str = "stop", failures: int = 0) -> Settlement:
    return settlements.of_reply(job(failures), QUESTION, reply(text, reason), USAGE, 0.1, complaint=complaint)


def test_the_answer_that_is_kept_is_the_json_itself() -> None:
    ended = settled('```json\n{"n": 4.020}\n```', None)
    assert ended.answer is not None
    assert (ended.outcome, ended.answer.messages[-1].content) == ("succeeded", '{"n": 4.020}')


@pytest.mark.parametrize(
    ("complaint", "reason", "failures", "outcome", "code"),
    [
        (Complaint("why"), "stop", 0, "retried", "schema_mismatch"),
        (Complaint("why"), "stop", 2, "failed", "schema_mismatch"),
        (Complaint("why", is_final=True), "stop", 0, "failed", "schema_mismatch"),
        (Complaint("why"), "length", 0, "failed", "length"),  # the next one would be cut at the same place
    ],
)
def test_a_complaint_keeps_text_usage_and_price(
    complaint: Complaint, reason: str, failures: int, outcome: str, code: str
) -> None:
    ended = settled('{"m": "seven"', complaint, reason, failures)
    assert (ended.outcome, ended.error_code, ended.answer) == (outcome, code, None)
    assert "why" in str(ended.error) and str(ended.error).endswith('{"m": "seven"')
    assert (ended.input_tokens, ended.output_tokens) == (7, 3)
    assert (ended.cost_usd or 0) > 0


def test_a_reply_that_calls_a_tool_is_no_answer_yet() -> None:
    assert settlements.text_to_check(QUESTION, reply("", "tool_calls", tool_calls=({"id": "c"},))) is None
    assert settlements.text_to_check(QUESTION, reply("{}")) == "{}"
    assert settlements.text_to_check(build(Options(MODEL), {"prompt": "x"}), reply("{}")) is None


@pytest.mark.parametrize(("failures", "outcome"), [(0, "retried"), (2, "failed")])
def test_what_a_server_itself_finds_to_break_the_schema_is_a_mismatch_too(failures: int, outcome: str) -> None:
    body = (
        b'{"error":{"message":"Failed to generate JSON.","type":"invalid_request_error",'
        b'"code":"json_validate_failed","failed_generation":"{\\"n\\": sev"}}'
    )
    error: CallError = error_from_status(RawReply(400, {}, body))
    ended = settlements.of_error(job(failures), error, settlements.verdict_on(error, job(failures)), 0.1, MODEL)
    assert (ended.outcome, ended.error_code, ended.counted) == (outcome, "schema_mismatch", True)
    assert str(ended.error).endswith('{"n": sev')


async def test_a_schema_that_never_ends_takes_two_seconds_and_no_worker_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tidemill.worker.schema_check.CHECK_SECONDS", 0.3)
    monkeypatch.setattr("tidemill.worker.schema_check.PATIENT_SECONDS", 0.5)
    checker = Checker()
    try:
        assert await checker.complaint(SCHEMA, '{"n": 1}') is None
        endless = await checker.complaint({"pattern": "^(a+)+$"}, '"' + "a" * 60 + '!"')
        assert endless is not None
        assert "longer than 0.5 s" in endless.sentence and endless.is_final
        assert await checker.complaint(SCHEMA, "{}") == Complaint(
            "the reply breaks the schema at $: 'n' is a required property"
        )
    finally:
        checker.close()
