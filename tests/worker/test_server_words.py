"""What providers were seen to send, from the wire to the verdict: account, rate, request or passing trouble."""

import json
import re

import pytest

from tidemill.models.provider import CallError
from tidemill.models.replies import RawReply, error_from_status, parse_chat
from tidemill.worker.retries import Verdict, classify

DATE = {"date": "Sat, 28 Nov 2026 13:00:00 GMT"}
HOUR, DAY = 3600.0, 86_400.0


def error_of(status: int, body: object, headers: dict[str, str] | None = None) -> CallError:
    raw = RawReply(status, DATE | (headers or {}), json.dumps(body).encode())
    if status >= 300:
        return error_from_status(raw)
    with pytest.raises(CallError) as caught:
        parse_chat(raw)
    return caught.value


def judge(error: CallError) -> Verdict:
    return classify(
        error, failures=0, age_seconds=0.0, max_attempts=8, retry_seconds=3600.0, random=lambda: 0.5
    )  # the wait of a hold is exact, of a retry 5 % longer


def openai(message: str, type_: str | None = None, code: object = None, **more: object) -> object:
    return {"error": {"message": message, "type": type_, "code": code, "param": None, **more}}


def google(
    message: str,
    quota: str = "",
    delay: str = "",
    reason: str = "",
    status: str = "RESOURCE_EXHAUSTED",
    code: int = 429,
) -> list[object]:
    details: list[object] = []
    if quota:
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]})
    if delay:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    if reason:
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason})
    return [{"error": {"code": code, "message": message, "status": status, "details": details}}]


CURRENT_QUOTA = "You exceeded your current quota, please check your plan and billing details."
GROQ = "Rate limit reached for model `llama` in organization `org_01` service tier `on_demand` on "
MOONSHOT = "Your account org-1 <ak-2> is suspended due to insufficient balance, please recharge your account"
OPENROUTER_DAY = {
    "message": "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day",
    "code": 429,
    "metadata": {"headers": {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0",
                             "X-RateLimit-Reset": "1795910400000"}, "provider_name": None},
}  # fmt: skip
OPENROUTER_MINUTE = {
    "message": "Rate limit exceeded: free-models-per-min. Add 10 credits to unlock 1000 free model requests per day",
    "code": 429,
    "metadata": {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795870820000"}},
}
ZHIPU_FIVE_HOURS = {
    "error": {"code": "1308", "message": "已达到 5 小时的使用上限。您的限额将在 2026-11-28 23:00:00 重置。"}
}
REPLICATE_SLOW = (
    "Request was throttled. Your rate limit for creating predictions is reduced to 6 requests per minute with a burst "
    "of 1 requests while you have less than $5.0 in credit. Your rate limit resets in ~9s."
)

Case = tuple[int, object, dict[str, str], str, float]
CREDIT: list[Case] = [
    (429, openai(CURRENT_QUOTA, "insufficient_quota", "insufficient_quota"), {}, "insufficient_quota", 0),
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low to "
     "access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."}}, {},
     "insufficient_credits", 0),
    (402, openai("Insufficient credits. Add more using https://openrouter.ai/settings/credits", code=402), {},
     "insufficient_credits", 0),
    (402, openai("This request requires more credits, or fewer max_tokens. You requested up to 64000 tokens, but can "
     "only afford 2666.", code=402), {}, "insufficient_credits", 0),
    (403, openai("Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys", code=403), {},
     "insufficient_credits", 0),
    (402, openai("Insufficient Balance", "unknown_error", "invalid_request_error"), {}, "invalid_request_error", 0),
    (400, {"error": 'litellm.BadRequestError: DeepseekException - {"error":{"message":"Insufficient Balance","type":'
     '"unknown_error","param":null,"code":"invalid_request_error"}}'}, {}, "insufficient_credits", 0),
    (412, openai("Account tide-1 is suspended, possibly due to reaching the monthly spending limit or failure to pay "
     "past invoices. Please go to https://fireworks.ai/account/billing", "error", "PRECONDITION_FAILED"), {},
     "insufficient_credits", 0),
    (402, openai("Credit limit exceeded, please navigate to https://api.together.ai/settings/billing", "credit_limit"),
     {}, "credit_limit_x", 0),
    (429, "Your team 16f2 has either used all available credits or reached its monthly spending limit. To continue "
     "making API requests, please purchase more credits or raise your spending limit.", {"retry-after": "1"},
     "insufficient_credits", 0),
    (403, {"code": "The caller does not have permission to execute the specified operation", "error": "You have run "
     "out of credits or need a Grok subscription."}, {}, "insufficient_credits", 0),
    (429, openai(MOONSHOT, "exceeded_current_quota_error"), {}, "insufficient_quota", 0),
    (429, openai("Provider returned error", code=429, metadata={"raw": json.dumps(openai(MOONSHOT))}), {},
     "insufficient_credits", 0),
    (400, {"code": "Arrearage", "message": "Access denied, please make sure your account is in good standing.",
     "request_id": "8af5"}, {}, "arrearage", 0),
    (429, {"error": {"code": "1113", "message": "余额不足或无可用资源包,请充值。"}}, {}, "insufficient_quota", 0),
    (429, {"error": {"code": "1113", "message": "Insufficient balance or no resource package. Please recharge."}}, {},
     "insufficient_quota", 0),
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}, {},
     "insufficient_credits", 0),
    (402, {"error": "You have exceeded your monthly included credits for Inference Providers. Subscribe to PRO to get "
     "20x more monthly included credits."}, {}, "insufficient_credits", 0),
    (402, {"title": "Insufficient credit", "detail": "You have insufficient credit to run this model.", "status": 402},
     {}, "insufficient_credits", 0),
    (402, {"detail": "Quota exceeded and account balance is $0.0, please pay with fiat or send tao"}, {},
     "insufficient_credits", 0),
    (403, {"error": {"message": "用户额度不足, 剩余额度: ＄-0.000002", "type": "new_api_error", "code":
     "insufficient_user_quota"}}, {}, "insufficient_user_quota", 0),
    (401, {"type": "error", "error": {"type": "CreditsError", "message": "Insufficient balance."}}, {},
     "insufficient_quota", 0),
    (400, openai("Budget has been exceeded! Current cost: 0.12, Max budget: 0.1", "budget_exceeded", "400"), {},
     "insufficient_quota", 0),
    (402, {"message": "Payment required to access this resource. Visit your billing tab."}, {},
     "insufficient_credits", 0),
    (402, {"detail": "Cloud credits expired - Please contact NVIDIA representatives"}, {}, "insufficient_credits", 0),
    (403, {"error": {"code": "AccountOverdueError", "message": "The request failed because your account has an overdue "
     "balance.", "type": "Forbidden"}}, {}, "account_overdue_error", 0),
    (200, {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, {}, "insufficient_credits", 0),
    (200, {"error": {"message": "Insufficient credits", "code": 402}}, {}, "insufficient_credits", 0),
    (500, {"error": "insufficient balance"}, {}, "insufficient_credits", 0),
    (500, openai("The upstream answered: insufficient_quota"), {}, "insufficient_credits", 0),
    (403, {"error": "Your account balance is negative. Please add funds."}, {}, "insufficient_credits", 0),
    (400, openai("Prompt tokens limit exceeded: 36163 > 29652. To increase, visit the settings.", code=402), {},
     "insufficient_credits", 0),
    (432, {"error": {"message": "This request exceeds your plan's set usage limit: out of credits."}}, {},
     "insufficient_credits", 0),
    (429, google("Your prepayment credits are depleted. Please go to AI Studio to manage your billing."), {},
     "insufficient_credits", 0),
    (429, google("Resource has been exhausted", reason="INSUFFICIENT_G1_CREDITS_BALANCE"), {},
     "resource_exhausted_x", 0),
    (429, google("Your project has exceeded its monthly spending cap."), {}, "insufficient_credits", 0),
]  # fmt: skip
QUOTA: list[Case] = [
    (429, google(CURRENT_QUOTA, "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "34200.5s"), {}, "quota_used_up",
     34_200.5),
    (429, google(CURRENT_QUOTA, "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "26s"), {}, "quota_used_up", 26),
    (429, google("Quota exceeded for metric: generate_content_free_tier_requests, limit: 0, model: gemini-3-pro"), {},
     "quota_used_up", 0),
    (429, {"error": OPENROUTER_DAY}, {}, "quota_used_up", 11 * HOUR),
    (200, {"error": OPENROUTER_DAY}, {}, "quota_used_up", 11 * HOUR),
    (429, openai("Rate limit exceeded: free-models-per-day-high-balance.", "rate_limit_error", "429"), {},
     "quota_used_up", 0),
    (429, openai("Provider returned error", code=429, metadata={"limit_source": "openrouter_free_tier_daily"}), {},
     "quota_used_up", 0),
    (429, openai(f"{GROQ}tokens per day (TPD): Limit 100000, Used 99336, Requested 1443. Please try again in "
     "11m13.056s.",
     "tokens", "rate_limit_exceeded"), {}, "quota_used_up", 673.056),
    (429, openai("Rate limit reached for gpt-4o on requests per day (RPD): Limit 200, Used 200, Requested 1. "
     "Please try "
     "again in 7m12s.", "requests", "rate_limit_exceeded"), {}, "quota_used_up", 432),
    (429, {"message": "Tokens per day limit exceeded - too many tokens processed.", "type": "too_many_tokens_error",
     "param": "quota", "code": "token_quota_exceeded"}, {"retry-after": "86399"}, "quota_used_up", 86_399),
    (429, {"error": {"code": "RateLimitReached", "message": "Rate limit of 50 per 86400s exceeded for "
     "UserByModelByDay. "
     "Please wait 52220 seconds before retrying."}}, {}, "quota_used_up", 52_220),
    (429, openai("Too many requests."), {"x-ratelimit-type": "UserByModelByDay"}, "quota_used_up", 0),
    (429, {"errors": [{"message": "AiError: 4006: you have used up your daily free allocation of 10,000 "
     "neurons, please "
     "upgrade to Cloudflare's Workers Paid plan", "code": 4006}], "success": False, "result": {}}, {},
     "quota_used_up", 0),
    (429, {"message": "Too many tokens per day, please wait before trying again."}, {}, "quota_used_up", 0),
    (429, {"message": "You are using a Trial key, which is limited to 1000 API calls / month. You can continue to use "
     "the Trial key for free or upgrade to a Production key."}, {}, "quota_used_up", 0),
    (403, {"error": {"code": "AllocationQuota.FreeTierOnly", "message": "The free tier of the model has been "
     "exhausted.",
     "type": "AllocationQuota.FreeTierOnly"}}, {}, "allocation_quota_free_tier_only", 0),
    (200, {"error_code": 17, "error_msg": "Open api daily request limit reached"}, {}, "quota_used_up", 0),
    (429, ZHIPU_FIVE_HOURS, {}, "quota_used_up", 2 * HOUR),
    (400, openai("You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
     "invalid_request_error"), {}, "quota_used_up", DAY),  # at most a day, then one call tries again
    (429, openai("The usage limit has been reached", "usage_limit_reached", resets_in_seconds=7200), {},
     "quota_used_up", 7200),
    (401, {"detail": "Inactive subscription or usage limit reached. Please activate or upgrade your plan"}, {},
     "quota_used_up", 0),
    (429, openai("The event daily request rate of 2000 calls to has been exceeded. Requests are disabled until UTC "
     "midnight.", code=429), {}, "quota_used_up", 11 * HOUR),
    (429, {"error": "Too Many Requests", "message": "Monthly request quota exceeded"}, {}, "quota_used_up", 0),
    (429, openai("quota exceeded", code="quota_exceeded"), {}, "quota_exceeded", 0),
    (403, {"error": {"message": "You've reached your weekly limit. Resets Dec 3."}}, {}, "quota_used_up", 0),
    (429, openai("Hourly token limit exceeded for this key."), {}, "quota_used_up", 0),
    (429, openai("Number of request tokens has exceeded your daily rate limit", "rate_limit_error"), {},
     "quota_used_up", 0),
]  # fmt: skip
KEY: list[Case] = [
    (400, google("API key not valid. Please pass a valid API key.", reason="API_KEY_INVALID",
     status="INVALID_ARGUMENT", code=400),
     {}, "invalid_argument_x", 0),
    (400, google("API key expired. Please renew the API key.", status="INVALID_ARGUMENT", code=400), {},
     "invalid_api_key", 0),
    (401, {"code": "InvalidApiKey", "message": "Invalid API-key provided."}, {}, "invalid_api_key", 0),
    (401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key or wrong API endpoint."}},
     {}, "invalid_api_key", 0),
    (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***ey."}, {},
     "invalid_api_key", 0),
    (403, {"error": "Invalid API key"}, {}, "invalid_api_key", 0),
    (200, {"error": {"message": "invalid x-api-key", "type": "authentication_error"}}, {}, "invalid_api_key", 0),
]  # fmt: skip
ACCESS: list[Case] = [
    (400, google("User location is not supported for the API use.", status="FAILED_PRECONDITION", code=400), {},
     "permission_denied", 0),
    (403, google("Generative Language API has not been used in project 1 before or it is disabled.",
     reason="SERVICE_DISABLED", status="PERMISSION_DENIED", code=403), {}, "permission_denied_x", 0),
    (400, openai("Organization has been restricted. Please reach out to support.", "invalid_request_error",
     "organization_restricted"), {}, "organization_restricted", 0),
    (400, openai("This organization has been disabled.", "invalid_request_error"), {}, "permission_denied", 0),
    (404, {"error": {"message": "Your account has been deactivated."}}, {}, "permission_denied", 0),
    (511, {}, {}, "proxy_refuses", 0),
]  # fmt: skip
LONG_WAIT: list[Case] = [
    (429, openai("Requests have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after "
     "86400 seconds.", code="429"), {}, "rate_limit_exceeded", DAY),
    (429, openai("You have exhausted your capacity on this model. Your quota will reset after 3h15m."), {},
     "rate_limit_exceeded", 11_700),
    (503, openai("Maintenance"), {"retry-after": "7200"}, "overloaded", 7200),
    (429, openai("Slow", "requests", "rate_limit_exceeded"), {"x-ratelimit-remaining-tokens": "0",
     "x-ratelimit-reset-tokens": "6m0s"}, "rate_limit_exceeded", 360),
    (498, openai("flex", code="capacity_exceeded"), {"retry-after": "600"}, "capacity_exceeded", 600),
    (429, openai("Wait"), {"retry-after": "3600", "x-should-retry": "false"}, "rate_limit_exceeded", 3600),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "headers", "code", "wait"), [*CREDIT, *QUOTA, *KEY, *ACCESS, *LONG_WAIT])
def test_a_provider_that_serves_nobody_is_held_and_waited_for(
    status: int, body: object, headers: dict[str, str], code: str, wait: float
) -> None:
    verdict = judge(error_of(status, body, headers))
    assert (verdict.action, verdict.counted, verdict.pause_seconds) == ("hold", False, 0)
    assert verdict.delay_seconds == pytest.approx(wait)
    assert bool(re.search(r"until \d{4}-\d\d-\d\d \d\d:\d\d UTC", verdict.message)) == (wait > 0)
    assert verdict.message.endswith(".")
    if not code.endswith("_x"):  # the server's own name, whichever it is
        assert verdict.code == code


PASSING: list[Case] = [
    (429, google(f"{CURRENT_QUOTA} Please retry in 26.4s.", "GenerateRequestsPerMinutePerProjectPerModel", "26s"), {},
     "rate_limit_exceeded", 26),
    (429, openai(f"{CURRENT_QUOTA} Please retry in 26.4s."), {}, "rate_limit_exceeded", 26.4),
    (429, google("Resource has been exhausted (e.g. check quota)."), {}, "rate_limit_exceeded", 0),
    (429, openai("Rate limit reached for gpt-4o on requests per min (RPM): Limit 3, Used 3, Requested 1. "
     "Please try again "
     "in 20s. You can increase your rate limit by adding a payment method to your account at https://x.test/billing.",
     "requests", "rate_limit_exceeded"), {}, "rate_limit_exceeded", 20),
    (429, openai(f"{GROQ}tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443. Please try again in "
     "4.77s. Need "
     "more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing", "tokens",
     "rate_limit_exceeded"), {}, "rate_limit_exceeded", 4.77),
    (429, {"error": OPENROUTER_MINUTE}, {}, "rate_limit_exceeded", 20),
    (429, {"detail": REPLICATE_SLOW, "status": 429}, {}, "rate_limit_exceeded", 9),
    (429, openai("This request would exceed your organization's rate limit of 30,000 input tokens per minute.",
     "rate_limit_error"), {}, "rate_limit_exceeded", 0),
    (429, {"message": "You are using a Trial key, which is limited to 10 API calls / minute."}, {},
     "rate_limit_exceeded", 0),
    (429, {"message": "Too many tokens, please wait before trying again."}, {}, "rate_limit_exceeded", 0),
    (429, {"message": "Tokens per minute limit exceeded - too many tokens processed.", "code": "token_quota_exceeded"},
     {}, "token_quota_exceeded", 0),
    (429, {"error": {"code": "RateLimitReached", "message": "Rate limit of 10 per 60s exceeded for "
     "UserByModelByMinute. "
     "Please wait 11 seconds before retrying."}}, {}, "rate_limit_reached", 11),
    (429, openai("Quota exceeded for "
     "aiplatform.googleapis.com/generate_content_requests_per_minute_per_project_per_base"
     "_model with base model: gemini-pro. Please submit a quota increase request."), {}, "rate_limit_exceeded", 0),
    (429, openai("Your request exceeds the maximum usage size allowed during peak load. Please retry after 20 "
     "seconds."),
     {}, "rate_limit_exceeded", 20),
    (429, {"error": {"code": "1302", "message": "您的账户已达到速率限制，请您控制请求频率"}},
     {}, "rate_limit_exceeded", 0),
    (200, {"error_code": 18, "error_msg": "Open api qps request limit reached"}, {}, "rate_limit_exceeded", 0),
    (200, {"error": {"message": "Rate limit reached", "type": "throttling"}}, {}, "rate_limit_exceeded", 0),
    (400, {"__type": "ThrottlingException", "message": "Rate exceeded"}, {}, "rate_limit_exceeded", 0),
    (500, openai("Upstream refused", code=429), {}, "rate_limit_exceeded", 0),
    (429, openai("quota exceeded", code="quota_exceeded"), {"retry-after": "12"}, "quota_exceeded", 12),
    (429, openai("concurrency limit reached: 5 concurrent requests."), {}, "rate_limit_exceeded", 0),
    (420, openai("Enhance your calm"), {}, "rate_limit_exceeded", 0),
    (498, openai("flex tier has no room", code="capacity_exceeded"), {}, "capacity_exceeded", 0),
    (499, google("The operation was cancelled.", status="CANCELLED", code=499), {}, "cancelled", 0),
    *((status, {}, {}, "passing_error", 0.0) for status in (421, 423, 424, 425, 440, 444, 449, 460)),
    *((status, {}, {}, "server_error", 0.0) for status in (500, 502, 504, 520, 521, 522, 523, 524, 525, 526, 527, 530)),
    *((status, {}, {}, "server_error", 0.0) for status in (598, 599)),
    (500, {"error": "model runner has unexpectedly stopped"}, {}, "server_error", 0),
    (500, {"error": "model requires more system memory (7.5 GiB) than is available (5.2 GiB)"}, {}, "server_error", 0),
    (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, {},
     "unavailable_error_x", 0),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "headers", "code", "wait"), PASSING)
def test_what_passes_is_tried_again(status: int, body: object, headers: dict[str, str], code: str, wait: float) -> None:
    error = error_of(status, body, headers)
    verdict = judge(error)
    assert verdict.action == "retry"
    assert (error.retry_after_seconds or 0) == pytest.approx(wait)
    if not code.endswith("_x"):
        assert verdict.code == code
    if wait:
        assert verdict.pause_seconds == pytest.approx(wait)


ECHO = "my credit balance is too low and I am out of credits, API key not valid, try again in 7 hours"
FINAL: list[tuple[int, object, str]] = [
    (413, openai("Request too large for model `llama` in organization `org_01` service tier `on_demand` on "
     "tokens per minute"
     " (TPM): Limit 6000, Requested 6294, please reduce your message size and try again. Need more tokens? "
     "Upgrade to Dev"
     " Tier today at https://console.groq.com/settings/billing", "tokens", "rate_limit_exceeded"), "request_too_large"),
    (429, openai("Request too large for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Requested "
     "31538. The input or output tokens must be reduced in order to run successfully.", "tokens",
     "rate_limit_exceeded"),
     "request_too_large"),
    (429, openai("TPM: Limit 30,000, Requested 31,538"), "request_too_large"),
    (429, openai("You requested 9000 tokens, and the limit is 8000 tokens per minute"), "request_too_large"),
    (413, {"type": "error", "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}},
     "request_too_large"),
    (413, {"error": {"code": "tokens_limit_reached", "message": "Request body too large for gpt-4o model. Max "
     "size: 8000 "
     "tokens."}}, "request_too_large"),
    (413, {}, "payload_too_large"),
    (400, openai("Invalid 'input[0].content': string too long.", "invalid_request_error", "string_above_max_length"),
     "string_above_max_length"),
    (400, {"message": "Input is too long for requested model.", "__type": "ValidationException"},
     "context_length_exceeded"),
    (400, openai(f"invalid value: '{ECHO}'", "invalid_request_error"), "invalid_request"),
    (400, openai(f'Unsupported content: "{ECHO}', "invalid_request_error"), "invalid_request"),
    (422, {"detail": [{"loc": ["body", "n"], "msg": f"not a number: `{ECHO}`", "input": {"retry_after": 9999}}]},
     "unprocessable_request"),
    (400, openai(ECHO, "invalid_request_error", param="messages"), "invalid_request"),
    (400, openai(ECHO, "invalid_request_error", "invalid_prompt"), "invalid_prompt"),
    (403, {"error": {"message": "Your input was flagged: my account is out of credits", "code": 403}},
     "content_filter"),
    (500, {"error": {"code": 500, "message": "image input is not supported - hint: if this is unexpected, you "
     "may need to "
     "provide the mmproj", "type": "server_error"}}, "not_supported"),
    (500, {"error": "registry.ollama.ai/library/gemma does not support tools"}, "not_supported"),
    (500, {"error": "Model does not support images. Please use a model that does."}, "not_supported"),
    (500, {"error": {"message": "the request exceeds the available context size. try increasing it"}},
     "context_length_exceeded"),
    (500, {"error": {"message": "Failed to parse grammar", "type": "server_error"}}, "invalid_json_schema"),
    (500, {"error": "model 'x' not found, try pulling it first"}, "model_not_found"),
    (200, {"error": {"message": "image input is not supported by this server", "type": "server_error"}},
     "not_supported"),
    (501, {}, "not_supported"),
    (500, openai("Unsupported batch endpoint '/v1/responses'.", code="unsupported_endpoint"), "unsupported_endpoint"),
    (500, {"error": {"code": 500, "message": "unsupported content[].type", "type": "server_error"}}, "not_supported"),
    (500, {"error": '"all-minilm" does not support chat'}, "not_supported"),
    (500, {"error": {"message": "This server does not support multimodal", "type": "server_error"}}, "not_supported"),
    (500, {"error": "Requested tokens (9000) exceed context window of 4096"}, "context_length_exceeded"),
    (500, {"error": {"message": "Conversation roles must alternate user/assistant", "code": 500}}, "not_supported"),
    (502, openai("Provider returned error", code=400, metadata={"raw": "bad"}), "invalid_request"),
    (500, openai("Unknown field", "invalid_request_error"), "invalid_request"),
    (404, {"error": "model 'x' not found"}, "model_not_found"),
    (404, {"detail": "Not Found"}, "not_found"),
    (404, openai("No endpoints found for tide/none.", code=404), "model_not_found"),
    (418, {}, "invalid_request"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "code"), FINAL)
def test_what_can_never_work_fails_after_one_call_and_pauses_nobody(status: int, body: object, code: str) -> None:
    for headers in ({}, {"x-should-retry": "true"} if code == "request_too_large" else {}):
        verdict = judge(error_of(status, body, headers))
        assert (verdict.action, verdict.code, verdict.pause_seconds) == ("fail", code, 0)
        assert not verdict.refused
