"""What follows from each failure that the reference names: every status, error code and malformed reply has a case.

Cases go through `models.replies`, from the server's bytes, so that the table is tested against what really arrives.
"""

import json
from collections.abc import Callable
from typing import Any, get_args

import pytest

from tidemill.models.provider import CallError, ErrorKind
from tidemill.models.replies import RawReply, error_from_status, parse_chat, parse_responses
from tidemill.worker.retries import Verdict, classify
from tidemill.worker.rules import NAMED, RULES
from tidemill.worker.server_words import PERMANENT_NAMES


def judge(error: CallError, *, failures: int = 0, age: float = 0.0, random: float = 0.5, **limits: Any) -> Verdict:
    limits = {"max_attempts": 8, "retry_seconds": 3600.0, **limits}
    return classify(error, failures=failures, age_seconds=age, random=lambda: random, **limits)


def http(status: int, code: object = None, type_: str | None = None, message: str = "m", **headers: str) -> CallError:
    body = {"error": {"message": message, "type": type_, "param": None, "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return error_from_status(RawReply(status, named, json.dumps(body).encode()))


def raw(status: int, body: bytes) -> CallError:
    return error_from_status(RawReply(status, {}, body))


def in_200(parse: Callable[[RawReply], object], body: object) -> CallError:
    with pytest.raises(CallError) as caught:
        parse(RawReply(200, {}, body if isinstance(body, bytes) else json.dumps(body).encode()))
    return caught.value


def failed_response(code: str) -> CallError:
    return in_200(parse_responses, {"status": "failed", "output": [], "error": {"code": code, "message": "m"}})


def short(verdict: Verdict) -> tuple[str, str, bool, bool]:
    return verdict.action, verdict.code, verdict.counted, verdict.pause_seconds > 0


# --- the table of the reference, section 2.5, row by row --------------------------------------------------------------

RATE = ("retry", "rate_limit_exceeded", False, True)
OUT_OF_CREDIT = (
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "insufficient_quota",
    "billing_hard_limit_reached",
)


@pytest.mark.parametrize("type_", ["requests", "tokens", None])
@pytest.mark.parametrize("code", ["rate_limit_exceeded", None, 429])
def test_a_rate_limit_is_waited_for_by_everyone_and_costs_no_attempt(type_: str | None, code: object) -> None:
    assert short(judge(http(429, code, type_))) == RATE


@pytest.mark.parametrize("status", [429, 503])
def test_slow_down_pauses_everyone_for_longer(status: int) -> None:
    slow = judge(http(status, "slow_down", "rate_limit_error"))
    assert short(slow) == ("retry", "slow_down", False, True)
    assert slow.pause_seconds > judge(http(429)).pause_seconds


@pytest.mark.parametrize("code", OUT_OF_CREDIT)
@pytest.mark.parametrize("status", [429, 400, 403])
def test_out_of_credit_holds_the_batch_by_its_code(code: str, status: int) -> None:
    verdict = judge(http(status, code, "whatever"), failures=100, age=1e9)
    assert short(verdict) == ("hold", code, False, False)
    assert "out of credit" in verdict.message
    assert "OPENAI_API_KEY" in verdict.message
    assert "resumes by itself" in verdict.message


@pytest.mark.parametrize("code", [*OUT_OF_CREDIT, "a_code_of_next_year"])
def test_out_of_credit_holds_the_batch_by_its_type_alone(code: str) -> None:
    assert short(judge(http(429, code, "insufficient_quota"))) == ("hold", code, False, False)
    assert judge(http(429, None, "insufficient_quota")).code == "insufficient_quota"


def test_no_room_in_flex_is_waited_for_by_this_job_alone() -> None:
    verdict = judge(http(429, None, None, "Resource Unavailable"))
    assert short(verdict) == ("retry", "resource_unavailable", False, False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (http(503, "server_is_overloaded", "service_unavailable_error"), "server_is_overloaded"),
        (http(503, None, "service_unavailable_error"), "overloaded"),
        (http(503, None, None, "The engine is currently overloaded"), "overloaded"),
        (http(503, 503, "unavailable_error", "Loading model"), "overloaded"),
        (http(529, None, "overloaded_error"), "overloaded"),
        (raw(503, b"<html><title>Slow Down</title></html>"), "overloaded"),
    ],
)
def test_an_overloaded_server_gets_more_time(error: CallError, code: str) -> None:
    verdict = judge(error, random=1.0)
    assert short(verdict) == ("retry", code, True, False)
    assert verdict.delay_seconds == 2.0


@pytest.mark.parametrize("status", [500, 502, 504, 520, 599])
def test_a_server_error_is_tried_again(status: int) -> None:
    assert short(judge(http(status))) == ("retry", "server_error", True, False)
    assert judge(raw(status, b"<html>oops</html>")).action == "retry"


@pytest.mark.parametrize(("status", "code"), [(408, "request_timeout"), (409, "conflict")])
def test_408_and_409_are_tried_again(status: int, code: str) -> None:
    assert short(judge(http(status))) == ("retry", code, True, False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (http(400, "context_length_exceeded"), "context_length_exceeded"),
        (http(400, 400, "exceed_context_size_error"), "context_length_exceeded"),
        (http(400, "invalid_prompt"), "invalid_prompt"),
        (http(400, "content_filter"), "content_filter"),
        (http(400, "invalid_image_format"), "invalid_image_format"),
        (http(400, None, "invalid_request_error", "service_tier not allowed"), "invalid_request"),
        (http(400, 400, "BadRequestError"), "invalid_request"),
        (http(403, "training_not_available"), "training_not_available"),
        (http(403, "model_not_found"), "model_not_found"),
        (http(403, 403, None, "Your input was flagged"), "content_filter"),
        (http(404, "model_not_found"), "model_not_found"),
        (http(404, "DeploymentNotFound"), "deployment_not_found"),
        (raw(404, b'{"detail":"Not Found"}'), "not_found"),
        (http(413), "payload_too_large"),
        (raw(413, b"<html>"), "payload_too_large"),
        (raw(422, b'{"detail":[{"loc":["body"],"msg":"bad"}]}'), "unprocessable_request"),
        (http(405), "invalid_request"),
        (http(418), "invalid_request"),
        (http(451), "invalid_request"),
        (http(500, "context_length_exceeded"), "context_length_exceeded"),
        (http(501), "not_supported"),
    ],
)
def test_a_request_that_can_never_work_fails(error: CallError, code: str) -> None:
    assert short(judge(error)) == ("fail", code, True, False)


@pytest.mark.parametrize(
    ("error", "code", "names"),
    [
        (http(401, "invalid_api_key"), "invalid_api_key", "OPENAI_API_KEY"),
        (http(401), "invalid_api_key", "OPENAI_API_KEY"),
        (raw(401, b"<html>"), "invalid_api_key", "OPENAI_API_KEY"),
        (http(401, "account_deactivated"), "account_deactivated", "OPENAI_API_KEY"),
        (http(400, "invalid_api_key"), "invalid_api_key", "OPENAI_API_KEY"),
        (http(403, "unsupported_country_region_territory"), "unsupported_country_region_territory", "region"),
        (http(403), "permission_denied", "OPENAI_API_KEY"),
        (raw(403, b"<html>blocked</html>"), "permission_denied", "OPENAI_BASE_URL"),
        (http(402, 402, None, "Insufficient credits"), "insufficient_credits", "credit"),
        (raw(308, b""), "redirected", "OPENAI_BASE_URL"),
        (CallError("connect", "Cannot connect to x", code="connection_refused"), "connection_refused", "URL"),
        (CallError("connect", "Cannot connect to x", code="dns_failure"), "dns_failure", "OPENAI_BASE_URL"),
        (CallError("connect", "Cannot connect to x", code="tls_failure"), "tls_failure", "OPENAI_BASE_URL"),
        (CallError("connect", "Cannot connect to x"), "connect_failed", "OPENAI_BASE_URL"),
    ],
)
def test_a_provider_that_serves_nobody_holds_the_batch_unharmed(error: CallError, code: str, names: str) -> None:
    verdict = judge(error, failures=100, age=1e9)
    assert short(verdict) == ("hold", code, False, False)
    assert names in verdict.message
    assert "resumes by itself" in verdict.message


# --- replies that are none --------------------------------------------------------------------------------------------

EMPTY_CHOICE = {"message": {"content": None}}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CallError("timeout", "t"), ("retry", "timeout", True, False)),
        (CallError("reset", "t"), ("retry", "connection_reset", True, False)),
        (CallError("cut", "t"), ("retry", "connection_cut", True, False)),
        (CallError("request", "t"), ("fail", "invalid_request_body", True, False)),
        (in_200(parse_chat, b"<html>"), ("hold", "wrong_path", False, False)),
        (in_200(parse_chat, {}), ("retry", "malformed_reply", True, False)),
        (in_200(parse_chat, {"choices": []}), ("retry", "empty_reply", True, False)),
        (in_200(parse_chat, {"choices": [EMPTY_CHOICE]}), ("retry", "empty_reply", True, False)),
        (in_200(parse_chat, {"choices": [EMPTY_CHOICE | {"finish_reason": "length"}]}),
         ("fail", "length", True, False)),
        (in_200(parse_chat, {"choices": [EMPTY_CHOICE | {"finish_reason": "content_filter"}]}),
         ("fail", "content_filter", True, False)),
        (in_200(parse_chat, {"choices": [{"message": {"refusal": "no"}}]}), ("fail", "refused", True, False)),
        (in_200(parse_chat, {"choices": [{"message": {"content": "a"}, "finish_reason": "abort"}]}),
         ("retry", "broken_off", True, False)),
        (in_200(parse_chat, {"choices": [EMPTY_CHOICE | {"finish_reason": "odd"}]}),
         ("fail", "unfinished_response", True, False)),
        (in_200(parse_chat, {"error": {"code": 429, "message": "m"}}), RATE),
        (in_200(parse_chat, {"error": {"code": 502, "message": "m"}}), ("retry", "server_error", True, False)),
        (in_200(parse_chat, {"error": {"code": 503, "message": "m"}}), ("retry", "overloaded", True, False)),
        (in_200(parse_chat, {"error": {"code": 402, "message": "m"}}), ("hold", "insufficient_credits", False, False)),
        (in_200(parse_chat, {"error": {"code": 400, "message": "m"}}), ("fail", "invalid_request", True, False)),
        (in_200(parse_chat, {"error": "broke"}), ("retry", "server_error", True, False)),
        (in_200(parse_chat, {"error": {"code": "insufficient_quota"}}), ("hold", "insufficient_quota", False, False)),
        (in_200(parse_responses, {"status": "queued", "output": []}), ("fail", "response_queued", True, False)),
    ],
)  # fmt: skip
def test_a_reply_that_is_none_has_its_own_row(error: CallError, expected: tuple[str, str, bool, bool]) -> None:
    assert short(judge(error)) == expected


@pytest.mark.parametrize(
    "body",
    [
        {"error": "Unexpected endpoint or method. (POST /chat/completions). Returning 200 anyway"},
        {"error": {"message": "Unknown request URL: POST /chat/completions"}},
        {"error": {"message": "Invalid URL (POST /v1/v1/chat/completions)"}},
        {"detail": "Not Found"},
        {"error": "Cannot POST /chat/completions"},
        {"message": "Route POST:/chat/completions not found", "error": "Not Found", "statusCode": 404},
        {"message": "no Route matched with those values"},
        {"statusCode": 404, "message": "Resource not found"},
    ],
)
def test_a_success_that_knows_no_such_path_holds_the_batch_and_names_the_setting(body: object) -> None:
    verdict = judge(in_200(parse_chat, body), failures=7)
    assert short(verdict) == ("hold", "wrong_path", False, False)
    assert "OPENAI_BASE_URL" in verdict.message


def test_a_server_that_breaks_off_each_time_is_not_paid_for_ever() -> None:
    broken = CallError("broken", "m")
    assert [judge(broken, failures=number).action for number in range(5)] == ["retry"] * 3 + ["fail"] * 2


# --- response.error.code, the whole list of the reference, section 1.4 ------------------------------------------------

RESPONSE_FAILURES = (
    "invalid_prompt",
    "data_residency_mismatch",
    "bio_policy",
    "misalignment_policy_violation",
    "vector_store_timeout",
    "invalid_image",
    "invalid_image_format",
    "invalid_base64_image",
    "invalid_image_url",
    "image_too_large",
    "image_too_small",
    "image_parse_error",
    "image_content_policy_violation",
    "invalid_image_mode",
    "image_file_too_large",
    "unsupported_image_media_type",
    "empty_image_file",
    "image_file_not_found",
    "a_code_of_next_year",
)


@pytest.mark.parametrize("code", RESPONSE_FAILURES)
def test_a_failed_response_is_final(code: str) -> None:
    assert short(judge(failed_response(code))) == ("fail", code, True, False)


def test_the_three_failed_responses_that_are_tried_again() -> None:
    assert short(judge(failed_response("server_error"))) == ("retry", "server_error", True, False)
    assert short(judge(failed_response("rate_limit_exceeded"))) == RATE
    assert short(judge(failed_response("failed_to_download_image"))) == (
        "retry", "failed_to_download_image", True, False
    )  # fmt: skip
    again = judge(failed_response("failed_to_download_image"), failures=1)
    assert (again.action, again.message) == ("fail", "gave up after 2 attempts: m.")


def test_a_rate_limit_of_another_status_is_still_one() -> None:
    assert short(judge(http(403, "rate_limit_exceeded"))) != RATE  # 403 says that the account is the matter
    assert short(judge(http(400, "rate_limit_exceeded"))) == RATE


# --- what the server says about retrying ------------------------------------------------------------------------------


def test_x_should_retry_outweighs_the_table_but_not_a_hold() -> None:
    assert judge(http(500, x_should_retry="false")).action == "fail"
    assert judge(http(429, x_should_retry="false")).action == "fail"
    assert judge(http(401, x_should_retry="true")).action == "hold"
    assert judge(http(429, "insufficient_quota", x_should_retry="false")).action == "hold"
    wished = judge(http(400, x_should_retry="true"))
    assert (wished.action, wished.counted) == ("retry", True)
    assert judge(http(400, x_should_retry="true"), failures=7).action == "fail"


def test_retry_after_is_kept_and_never_undercut() -> None:
    assert judge(http(429, retry_after="10"), random=0.0).delay_seconds == 10.0
    assert judge(http(429, retry_after="10"), random=1.0).delay_seconds == pytest.approx(11.0)
    assert judge(http(429, retry_after="10")).pause_seconds == 10.0
    assert judge(http(429, retry_after_ms="200", retry_after="10"), random=0.0).delay_seconds == 0.2
    assert judge(http(500, retry_after="10"), failures=5, random=0.0).delay_seconds == 10.0
    assert judge(http(429, retry_after="0"), random=1.0).delay_seconds == 0.5


def test_a_retry_after_that_cannot_fit_ends_the_job_at_once() -> None:
    verdict = judge(http(503, retry_after="200"), age=3500.0)
    assert (verdict.action, verdict.counted) == ("fail", True)
    assert "asks to wait 200 s and only 100 s are left" in verdict.message
    assert judge(http(503, retry_after="200"), age=3500.0, retry_seconds=86_400.0).action == "retry"
    assert judge(http(429, retry_after="10"), age=3590.0, random=1.0).delay_seconds == 10.0


def test_a_rate_limit_that_asks_for_a_long_wait_is_a_hold_and_costs_no_row() -> None:
    assert judge(http(429, retry_after="300")).action == "retry"
    verdict = judge(http(429, retry_after="7200"), age=3_000.0, failures=7)
    assert (verdict.action, verdict.code, verdict.counted) == ("hold", "rate_limit_exceeded", False)
    assert verdict.message.startswith("The provider asks everybody to wait 120 minutes (")
    assert (verdict.delay_seconds, verdict.pause_seconds) == (7200.0, 0.0)
    assert judge(http(429, retry_after="1e7")).delay_seconds == 86_400.0


# --- backing off and giving up ----------------------------------------------------------------------------------------


def test_backoff_doubles_under_a_cap_with_full_jitter() -> None:
    ceilings = [judge(http(500), failures=n, random=1.0, max_attempts=99).delay_seconds for n in range(10)]
    assert ceilings == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert judge(http(500), failures=5, random=0.0).delay_seconds == 0.0
    assert judge(http(500), failures=10_000, max_attempts=20_000, random=1.0).delay_seconds == 60.0


def test_uncounted_waits_grow_with_the_age_of_the_job() -> None:
    waits = [judge(http(429), age=age, random=1.0).delay_seconds for age in (0.0, 3.0, 40.0, 3000.0)]
    assert waits == [0.5, 3.0, 40.0, 60.0]


def test_rate_limits_are_bounded_by_time_alone() -> None:
    assert judge(http(429), failures=7, age=3599.0).action == "retry"
    late = judge(http(429), age=3600.0)
    assert (late.action, late.code) == ("fail", "rate_limit_exceeded")
    assert late.message == "gave up after 3600 s (TIDEMILL_RETRY_SECONDS): m."


def test_the_last_attempt_keeps_its_own_code() -> None:
    assert judge(http(502), failures=6).action == "retry"
    last = judge(http(502, message="Bad gateway."), failures=7)
    assert (last.action, last.code, last.counted) == ("fail", "server_error", True)
    assert last.message == "gave up after 8 attempts: Bad gateway."
    assert judge(http(502), max_attempts=1).message == "gave up after 1 attempt: m."


def test_a_delay_never_reaches_beyond_the_retry_time() -> None:
    assert judge(http(500), failures=6, age=3590.0, random=1.0).delay_seconds == 10.0


def test_a_reply_that_is_too_large_is_never_paid_again() -> None:
    assert short(judge(CallError("too_large", code="reply_too_large"))) == ("fail", "reply_too_large", True, False)


def test_a_machine_with_too_many_open_files_holds_nobody_and_counts_nothing() -> None:
    verdict = judge(CallError("local", code="too_many_open_files"), failures=7)
    assert short(verdict) == ("retry", "too_many_open_files", False, False)


# --- the table itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", get_args(ErrorKind))
@pytest.mark.parametrize("status", [None, 100, 200, 304, 400, 499, 500, 599, 999])
@pytest.mark.parametrize("code", [None, "x", "999", "Some Prose: {0}", "é"])
def test_every_failure_has_a_verdict(kind: ErrorKind, status: int | None, code: str | None) -> None:
    verdict = judge(CallError(kind, "{braces} {0}", status, code))
    assert verdict.code.replace("_", "").isalnum()
    assert verdict.code == verdict.code.lower()
    assert "{braces} {0}" in verdict.message
    assert verdict.message[-1] in ".)"


MESSAGES = (
    "was flagged", "Resource Unavailable", "Limit 6, Requested 7", "Insufficient balance", "requests per day (RPD)",
    "You exceeded your current quota", "API key not valid", "Account is suspended", "Rate limit", "prompt is too long",
    "model x not found", "image input is not supported", "Cannot POST /", "Failed to generate JSON",
    "JSON schema conversion failed",
)  # fmt: skip
NAMES = (
    None, "insufficient_quota", "invalid_api_key", "content_filter", "slow_down", "rate_limit_exceeded",
    "server_error", "server_is_overloaded", "failed_to_download_image", "exceed_context_size_error",
    "unsupported_encoding", "request_too_large", "usage_limit_reached", "account_suspended", "LimitPerDay",
    "LimitPerMinute", "quota_exceeded", "402", "400", "web_page", "json_validate_failed", "tool_use_failed",
    next(iter(PERMANENT_NAMES)),
)  # fmt: skip


def test_every_row_can_be_reached() -> None:
    errors = [
        CallError(kind, message, status, name)
        for kind in get_args(ErrorKind)
        for status in ((None, 200, *range(300, 600)) if kind in NAMED else (None,))
        for message, name in (*((message, None) for message in MESSAGES), *(("m", name) for name in NAMES))
    ]
    reached = {id(next(rule for rule in RULES if rule.fits(error))) for error in errors}
    assert [rule for rule in RULES if id(rule) not in reached] == []
