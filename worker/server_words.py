"""What providers call their errors, in codes and in sentences; what follows from it is in `worker.retries`.

A code says more than a sentence, so that the names are asked first. Each pattern stands for the public sentences beside
it in tests/worker/test_server_words.py. In an error about the request itself what is quoted is left out: it may be the
user's own text.
"""

import re

from tidemill.models.patterns import Pattern

OUT_OF_CREDIT_NAMES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",  # Anthropic
        "billing_disabled",  # Google
        "insufficient_credits",
        "insufficient_credit",
        "insufficient_balance",
        "insufficient_funds",
        "insufficient_user_quota",  # one-api, new-api
        "insufficient_g1_credits_balance",  # Google
        "pre_consume_token_quota_failed",
        "not_enough_balance",  # Novita
        "credit_balance_too_low",
        "credit_limit",  # Together
        "credit_limit_exceeded",
        "credits_error",  # OpenCode
        "out_of_credits",
        "payment_required",
        "budget_exceeded",  # LiteLLM
        "spend_limit_exceeded",
        "spending_limit_exceeded",
        "exceeded_current_quota_error",  # Moonshot
        "arrearage",  # DashScope
        "prepaid_bill_overdue",
        "postpaid_bill_overdue",
        "account_overdue_error",  # Volcengine
        "1113",  # Zhipu
    }
)
SPENT_NAMES = frozenset({"quota_exceeded", "quota_exhausted"})
"""A quota is used up, unless a short wait is said."""

QUOTA_NAMES = frozenset(
    {
        "quota_used_up",
        "allocation_quota_free_tier_only",  # DashScope
        "free_usage_limit_error",  # OpenCode
        "usage_limit_reached",
        "usage_limit_exceeded",
        "daily_limit_exceeded",
        "weekly_limit_exceeded",
        "monthly_limit_exceeded",
        "daily_quota_exceeded",
        "monthly_quota_exceeded",
        "account_quota_exceeded",  # Volcengine
        "set_limit_exceeded",
        "openrouter_free_tier_daily",
        "1308",  # Zhipu: five hours
        "1310",  # Zhipu: a week or month
    }
)
BAD_KEY_NAMES = frozenset(
    {
        "invalid_api_key",
        "incorrect_api_key",
        "account_deactivated",
        "invalid_organization",
        "api_key_invalid",  # Google
        "api_key_expired",
        "expired_api_key",
        "invalid_key",
        "invalid_iam_token",  # Baidu
        "invalid_authentication",
        "invalid_authentication_error",  # Moonshot
        "authentication_error",  # Anthropic
        "unauthenticated",
        "unauthorized",
        "401",
    }
)
NO_ACCESS_NAMES = frozenset(
    {
        "account_suspended",
        "account_disabled",
        "consumer_suspended",  # Google
        "service_disabled",
        "organization_restricted",  # Groq
        "organization_disabled",
        "access_terminated_error",  # Moonshot
        "unsupported_country_region_territory",
    }
)
PERMANENT_NAMES = frozenset(
    {
        "context_length_exceeded",
        "invalid_prompt",
        "invalid_json_schema",
        "model_not_found",
        "training_not_available",
        "unsupported_parameter",
        "unsupported_value",
        "unsupported_endpoint",  # of a line in a batch
        "unsupported_method",
        "string_above_max_length",
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
        "invalid_image_mode",
        "image_file_too_large",
        "unsupported_image_media_type",
        "empty_image_file",
        "image_file_not_found",
        "not_supported_error",  # llama.cpp
    }
)
INVALID_NAMES = frozenset(
    {
        "invalid_request_error",
        "invalid_request",
        "invalid_argument",
        "bad_request",
        "bad_request_error",
        "validation_error",
        "validation_exception",
        "400",
        "404",
        "422",
    }
)
"""What a request is called that the server behind the server has refused; the one in front says 5xx."""

TOO_LARGE_NAMES = frozenset(
    {
        "request_too_large",  # Anthropic
        "request_entity_too_large",
        "payload_too_large",
        "tokens_limit_reached",  # GitHub Models: of one request
    }
)
FILTER_NAMES = frozenset({"content_filter", "content_policy_violation", "image_content_policy_violation"})
MISMATCH_NAMES = frozenset({"json_validate_failed", "json_decoding_error"})
BAD_GENERATION_NAMES = frozenset({"tool_use_failed", "output_parse_failed"})
RATE_NAMES = frozenset(
    {
        "rate_limit_exceeded",
        "rate_limit_error",
        "rate_limit_reached",
        "rate_limited",
        "too_many_requests",
        "resource_exhausted",
        "throttling",
        "throttling_exception",  # Bedrock
        "throttling_rate_quota",  # DashScope
        "throttling_allocation_quota",
        "limit_requests",
        "limit_burst_rate",
        "429",
    }
)
OVERLOAD_NAMES = frozenset(
    {
        "server_is_overloaded",
        "service_unavailable_error",
        "engine_overloaded",
        "engine_overloaded_error",
        "overloaded_error",
        "overloaded",
        "model_overloaded",
    }
)


def _any(*patterns: str) -> Pattern:
    return Pattern("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


_LACKS = r"(?:insufficient|not enough|out of|no more|no|requires? more|more|deplet\w+)"
_USED_UP = r"(?:insufficient|not enough|exhausted|depleted|used up|expired|overdue|too low|negative)"
_OVER = r"(?:exceed(?:ed|s|ing)?|reach(?:ed|es|ing)|hit|over)"
_SPENDING = r"(?:spend|spending|billing|budget|key) (?:hard )?(?:limit|cap)"

NO_CREDIT = _any(
    r"\bcredit (?:balance|limit)\b.{0,30}\b(?:too low|exceeded|exhausted|depleted|reached|insufficient)",
    rf"\b{_LACKS} (?:\w+ ){{0,3}}(?:credits?|balance|funds)\b",
    rf"\b(?:balance|credits?|funds) (?:\S+ ){{0,3}}{_USED_UP}\b|\bbalance (?:is|of) \W{{0,2}}0(?:\.0+)?\b",
    r"\bused (?:up )?(?:all|your)\b.{0,20}\b(?:credits|points)\b",
    rf"\b{_OVER}\b.{{0,40}}\b(?:included credits|premium request allowance)",
    rf"\b{_OVER} (?:\w+ ){{0,4}}{_SPENDING}\b|\b{_SPENDING}\b.{{0,30}}\b{_OVER}\b",
    r"\bbudget has been exceeded\b|\boverdue (?:balance|payment|invoice|bill)|\bin arrears\b",
    r"\baccount is in good standing\b|\bbilling (?:is not active|to be enabled)\b",
    r"\bpayment (?:is )?required to\b|\bplease (?:recharge|top up)\b",
    r"\badd (?:more )?funds\b|\b(?:insufficient_(?:quota|credits?|balance|funds)|billing_hard_limit|budget_exceeded)\b",
    r"余额不足|餘額不足|欠费|额度不足|额度已用[尽完]|请充值",
)
"""No money, whatever else is said."""

NO_QUOTA = _any(r"exceeded your current quota", r"\bquota\b.{0,20}\b(?:exhausted|used up)\b", r"\binsufficient quota\b")
"""No money at most providers; at Google also too fast, and then a short wait is said."""

_LIMIT = r"(?:limits?|quota|allocation|allowance|cap|rate)"
_SHORT = (
    r"per[-_ ]?min|per[-_ ]?sec|/ ?(?:min(?:ute)?|sec(?:ond)?|s)\b|\b[RTQ]P[MS]\b|\bqps\b|(?:Per|By)(?:Minute|Second)"
    r"|per ?(?:10|60) ?s\b"
)
_LONG = (
    r"\bper[-_ ](?:\w+[-_ ])?(?:hour|day|week|month)\b|-per-day|/ ?(?:hour|day|week|month)\b|\b[RT]PD\b"
    rf"|(?:Per|By)(?:Day|Month)|per 86400 ?s|\b(?:hourly|daily|weekly|monthly)\b.{{0,40}}\b{_LIMIT}\b"
    rf"|\b{_LIMIT}\b.{{0,40}}\b(?:for (?:to)?day|this (?:week|month)|tomorrow|hourly|daily|weekly|monthly)\b"
    rf"|\b\d+[- ]hours?\b.{{0,20}}\b{_LIMIT}\b|\b{_LIMIT}\b.{{0,30}}\b\d+[- ]hours?\b"
    rf"|\b{_OVER} (?:your|the) (?:\w+ ){{0,4}}(?:usage|plan|total) limits?\b"
    r"|\b(?:usage|total request) limit (?:has been )?(?:reached|exceeded)|\blimit: 0\b"
    r"|\bfree (?:tier|quota|allocation|trial)\b.{0,60}\b(?:exhausted|used up|exceeded|expired|ended)\b"
    r"|每日|每天|每月|每周|使用上限|日限额"
)
LONG_QUOTA = Pattern(rf"^(?:(?!{_SHORT}).)*?(?:{_LONG})", re.IGNORECASE | re.DOTALL)
"""A limit of hours, days, weeks or months is named, and none of a minute before it."""

PER_DAY = Pattern(r"per_?(?:day|week|month)|by_?(?:day|month)|daily|weekly|monthly", re.IGNORECASE)
"""In labels, such as Google's GenerateRequestsPerDayPerProjectPerModel-FreeTier and GitHub's UserByModelByDay."""

PER_MINUTE = Pattern(r"per_?(?:minute|second)|by_?(?:minute|second)", re.IGNORECASE)

BAD_KEY = _any(
    r"\bAPI[- ]?key (?:is )?(?:not valid|invalid|expired|not found|incorrect|missing)\b",
    r"\b(?:invalid|incorrect|wrong|expired) (?:\w+ )?(?:API[- ]?key|subscription key|access token|auth\w* token)\b",
    r"\b(?:invalid|incorrect) (?:authentication|credentials)\b|无效的(?:令牌|密钥)",
)
NO_ACCESS = _any(
    r"\b(?:account|organization|project|consumer|workspace|team)\b(?: \S+){0,6}? (?:is|has been|was|been)(?: \w+)?"
    r" (?:suspended|disabled|deactivated|restricted|terminated|blocked|banned|denied access)\b",
    r"\blocation is not supported\b|\b(?:country|region),? (?:\S+ ){0,4}not supported\b",
    r"\bhas not been used in project\b.{0,60}\bdisabled\b|\borganization must be verified\b",
)

_TOO_LARGE = _any(
    r"\brequest (?:body )?(?:is )?too (?:large|big|long)\b",
    r"\b(?:input or output tokens|message size|prompt) must be reduced\b",
    r"\brequested more (?:tokens )?than\b.{0,40}\b(?:limit|allowed)\b",
)
NO_CONTEXT = _any(
    r"\bexceeds? (?:the )?(?:available |maximum |model'?s? )*context\b",
    r"\bmaximum context length\b|\bcontext (?:length|window|size) (?:is |was |has been )?exceeded\b",
    r"\b(?:prompt|input)(?: length)? (?:is )?too (?:long|large)\b",
    r"\bexceeds? n_ctx\b|\btoo many (?:input )?tokens for\b",
    r"\binput \(\d+ tokens\) is (?:too large|larger)\b",
)
UNABLE = _any(
    r"\b(?:image|audio|video|vision|tools?|multimodal|schema)(?: \w+)? (?:is|are) not supported\b",
    r"\bdoes(?: not|n'?t) support (?:\S+ )?"
    r"(?:images?|tools?|vision|multimodal|audio|chat|embeddings|generat\w+|completions?|thinking)\b",
    r"\b(?:not a|no) (?:vision|multimodal) model\b|\bnot (?:compiled|built) for multimodal\b|\bmmproj\b",
    r"\bfailed to load image\b|\bcannot identify image\b|\bunsupported (?:content|param|image|media)",
    r"\broles must alternate\b|\bnot (?:yet )?implemented\b",
)
"""What a server cannot do at all, though it says so with a 500 (llama.cpp, Ollama, LM Studio, vLLM)."""

NO_MODEL = _any(
    r"\bmodels?\b.{0,80}\b(?:not found|(?:does|do) not exist|is not available|unknown|not exist|no longer available)",
    r"\b(?:unknown|invalid|no such|unsupported) model\b|\bno endpoints? found\b",
)
NO_PATH = _any(
    r"unexpected endpoint|\bcannot (?:get|post) /|^not found\b|\b(?:page|resource) not found|method not allowed",
    r"\bno route\b|invalid url \(",
    r"\b(?:unknown|unrecogni[sz]ed|unsupported|invalid|no such) (?:request )?(?:endpoint|path|route|url)\b",
    r"\b(?:endpoint|route)\b.{0,60}\bnot (?:found|exist|supported)",
)
MISMATCH = _any(
    r"failed to (?:generate|validate) json|generated json does not match|could not decode the generated json",
)
BAD_SCHEMA = _any(
    r"\bfailed to (?:parse|compile|initialize) (?:the )?(?:grammar|json schema)\b|features not supported by xgrammar",
    r"\bpars(?:e|ing) grammar\b|\b(?:invalid|unsupported) (?:grammar|(?:json )?schema)\b",
    r"\bjson schema\b.{0,40}\b(?:invalid|unsupported|conversion failed)\b",
)
FLAGGED = Pattern(r"\bflagged\b|\bmoderation\b", re.IGNORECASE)
NO_ROOM = Pattern(r"resource unavailable|\bcapacity[_ ]exceeded\b", re.IGNORECASE)
TOO_FAST = _any(r"\brate limit", r"\btoo many requests\b", r"\bthrottl", r"\bqps\b.{0,20}\blimit")

_SIZES = (
    Pattern(r"\blimit:? (?P<limit>\d[\d,]*)\b.{0,60}?\brequested:? (?P<requested>\d[\d,]*)\b", re.IGNORECASE),
    Pattern(
        r"\brequested:? (?P<requested>\d[\d,]*)\b.{0,60}?\blimit(?:ed|s)?(?: (?:is|of|to))?:? (?P<limit>\d[\d,]*)\b",
        re.IGNORECASE,
    ),
)
_QUOTED = Pattern(r"\"[^\"]*(?:\"|$)|`[^`]*(?:`|$)|“[^”]*(?:”|$)|(?<!\w)'[^']*(?:'(?!\w)|$)")
_ABOUT_THE_REQUEST = frozenset({400, 404, 413, 415, 422})


def own_words(message: str, status: int | None, param: str | None) -> str:
    """What a message says by itself: without what it quotes, and nothing if it is about a part of the request.

    That may be the user's own text, which says nothing about the account.
    """
    if status not in _ABOUT_THE_REQUEST:
        return message
    return "" if param else _QUOTED.sub(" ", message)


def never_fits(message: str) -> bool:
    """Whether a message says that this one request is larger than the limit itself: waiting would not help.

    "Limit 6000, Requested 6294" never fits; "Limit 6000, Used 5034, Requested 1443" does, in a while.
    """
    for pattern in _SIZES:
        if sizes := pattern.search(message):
            limit, requested = (int(sizes[name].replace(",", "")) for name in ("limit", "requested"))
            return requested > limit > 0
    return _TOO_LARGE.search(message) is not None
