"""What follows from a failed call is looked up in one table, never guessed.

The HTTP status alone does not decide: 429 may mean "wait a second" or "the account is empty". The first row below that
fits counts. Three things can follow:
- retry: the job is queued again, due after `delay_seconds`;
- hold: the provider serves nobody now (no credit, bad key, out of reach); the batch waits, the job loses no attempt;
- fail: a repetition would only be billed again.
Sources: OpenAI's error codes and `response.error.code`, the retry rules of its own client, and the errors of
vLLM, llama.cpp, Azure, OpenRouter and Google; tests/worker/test_retries.py has a case for each.
"""

import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from random import random as uniform
from typing import Literal

from tidemill.models.provider import CallError, ErrorKind

Action = Literal["retry", "hold", "fail"]

BASE_SECONDS = 0.5
OVERLOADED_BASE_SECONDS = 2.0
CAP_SECONDS = 60.0
RETRY_AFTER_JITTER = 0.1
RATE_PAUSE_SECONDS = 1.0
LONG_WAIT_SECONDS = 300.0  # a longer wait for a rate limit is a hold, which is visible and fails no row
MAX_HOLD_SECONDS = 86_400.0
MAX_PAUSE_SECONDS = 3600.0  # then one call tries again, whatever the server has asked for


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from one failed call.

    `pause_seconds` is for all workers of the model, whatever happens to this job.
    """

    action: Action
    code: str  # stable snake_case: the server's own code if it means something, else ours
    message: str  # one sentence for the user
    delay_seconds: float = 0.0  # of a retry; of a hold only if the server says how long
    counted: bool = False  # whether the call counts towards max_attempts
    pause_seconds: float = 0.0  # > 0: nobody calls this model for that long


@dataclass(frozen=True, slots=True)
class Rule:
    """One row; it fits if all its conditions that are not None do. `names` are searched in `code` and `type`."""

    action: Action
    code: str  # stored if the server's own code means nothing
    kinds: Container[ErrorKind] | None = None
    statuses: Container[int | None] | None = None
    names: frozenset[str] | None = None
    pattern: re.Pattern[str] | None = None  # last resort, for servers that give the reason only in the message
    sentence: str = "{reason}"
    own_code: bool = True  # store the server's code rather than ours
    base_seconds: float = BASE_SECONDS
    counted: bool = True  # of retries
    pauses: bool = False
    most_retries: int | None = None  # if fewer make sense than max_attempts allows

    def fits(self, error: CallError) -> bool:
        """True when every condition of the row holds."""
        return (
            (self.kinds is None or error.kind in self.kinds)
            and (self.statuses is None or error.status in self.statuses)
            and (self.names is None or not self.names.isdisjoint((_snake(error.code), _snake(error.type))))
            and (self.pattern is None or self.pattern.search(error.message) is not None)
        )


RESUMES = "the batch waits and resumes by itself"
OUT_OF_CREDIT = (
    "The provider's account is out of credit or over its spending limit ({reason}): add credit or raise the limit, "
    f"or start again with another account's key in OPENAI_API_KEY; {RESUMES}."
)
BAD_KEY = (
    "The provider does not accept the key ({reason}): make it valid, or start again with a valid one in "
    f"OPENAI_API_KEY; {RESUMES}."
)
NO_ACCESS = (
    "The provider does not serve this key, account or region ({reason}): check the account's access, "
    f"OPENAI_API_KEY and OPENAI_BASE_URL; {RESUMES}."
)
UNREACHABLE = (
    "{reason}; check that the server runs and that OPENAI_BASE_URL is right; no attempt was spent, " + RESUMES + "."
)
REDIRECTED = (
    f"{{reason}}, and redirects are not followed: start again with OPENAI_BASE_URL set to where the API is; {RESUMES}."
)
WRONG_PATH = (
    "The server has no such path ({reason}): start again with OPENAI_BASE_URL set to where the API is, often with /v1 "
    f"at its end; {RESUMES}."
)
_PATH_UNKNOWN = re.compile(
    r"unexpected endpoint|\bcannot (get|post) /|^not found\b|\b(page|resource) not found|method not allowed|"
    r"\bno route\b|invalid url \(|"
    r"\b(unknown|unrecogni[sz]ed|unsupported|invalid|no such) (request )?(endpoint|path|route|url)\b|"
    r"\b(endpoint|route)\b.{0,60}\bnot (found|exist|supported)",
    re.IGNORECASE,
)

OUT_OF_CREDIT_NAMES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_credits",
    }
)
BAD_KEY_NAMES = frozenset(
    {
        "invalid_api_key",
        "incorrect_api_key",
        "account_deactivated",
        "invalid_organization",
    }
)
PERMANENT_NAMES = frozenset(
    {
        "context_length_exceeded",
        "invalid_prompt",
        "model_not_found",
        "training_not_available",
        "unsupported_parameter",
        "unsupported_value",
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
    }
)
FILTER_NAMES = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "image_content_policy_violation",
    }
)
RATE_NAMES = frozenset({"rate_limit_exceeded"})
OVERLOAD_NAMES = frozenset(
    {
        "server_is_overloaded",
        "service_unavailable_error",
        "engine_overloaded",
        "overloaded_error",
    }
)
NAMED: frozenset[ErrorKind] = frozenset({"status", "failed"})  # the kinds with an error of the server's own

RULES: tuple[Rule, ...] = (
    # The server was not reached
    Rule("hold", "connect_failed", kinds={"connect"}, sentence=UNREACHABLE),
    # Nothing was sent, because this machine has too many files open
    Rule(
        "retry",
        "too_many_open_files",
        kinds={"local"},
        sentence="{reason}; raise the limit of open files (ulimit -n), or lower TIDEMILL_WINDOW.",
        base_seconds=OVERLOADED_BASE_SECONDS,
        counted=False,
    ),
    # Nothing was sent, because the store of pictures is out of reach
    Rule("retry", "picture_unreadable", kinds={"store"}, base_seconds=OVERLOADED_BASE_SECONDS),
    # The request was sent, and no usable answer came back; it may have been billed
    Rule("retry", "timeout", kinds={"timeout"}),
    Rule("retry", "connection_reset", kinds={"reset"}),
    Rule("retry", "connection_cut", kinds={"cut"}),
    Rule("fail", "unsupported_encoding", kinds={"malformed"}, names=frozenset({"unsupported_encoding"})),
    Rule("retry", "malformed_reply", kinds={"malformed"}),
    Rule("retry", "empty_reply", kinds={"empty"}),
    Rule("retry", "broken_off", kinds={"broken"}, most_retries=3),
    # Answers, paid and final
    Rule("fail", "reply_too_large", kinds={"too_large"}, sentence="{reason}; ask for less, or lower max_tokens."),
    Rule("fail", "refused", kinds={"refused"}),
    Rule("fail", "content_filter", kinds={"content_filter"}),
    Rule("fail", "length", kinds={"length"}, sentence="{reason}; raise max_tokens or lower the reasoning effort."),
    Rule("fail", "unfinished_response", kinds={"unfinished"}),
    Rule("fail", "invalid_request_body", kinds={"request"}),
    # The account, whatever the status
    Rule("hold", "insufficient_quota", kinds=NAMED, names=OUT_OF_CREDIT_NAMES, sentence=OUT_OF_CREDIT),
    Rule("hold", "insufficient_credits", kinds=NAMED, statuses={402}, sentence=OUT_OF_CREDIT),
    Rule("hold", "invalid_api_key", kinds=NAMED, statuses={401}, sentence=BAD_KEY),
    Rule("hold", "invalid_api_key", kinds=NAMED, names=BAD_KEY_NAMES, sentence=BAD_KEY),
    # The request, whatever the status
    Rule("fail", "content_filter", kinds=NAMED, names=FILTER_NAMES),
    Rule("fail", "invalid_request", kinds=NAMED, names=PERMANENT_NAMES),
    Rule(
        "fail", "context_length_exceeded", kinds=NAMED, names=frozenset({"exceed_context_size_error"}), own_code=False
    ),
    Rule(
        "fail",
        "content_filter",
        kinds=NAMED,
        statuses={403},
        pattern=re.compile(r"\bflagged\b|\bmoderation\b", re.IGNORECASE),
    ),
    Rule("hold", "permission_denied", kinds=NAMED, statuses={403}, sentence=NO_ACCESS),
    # Too fast
    Rule(
        "retry",
        "slow_down",
        kinds=NAMED,
        names=frozenset({"slow_down"}),
        base_seconds=OVERLOADED_BASE_SECONDS,
        counted=False,
        pauses=True,
    ),
    Rule(
        "retry",  # flex: no room at this price now, not charged; nobody else needs to wait for it
        "resource_unavailable",
        kinds=NAMED,
        statuses={429},
        pattern=re.compile(r"resource unavailable", re.IGNORECASE),
        base_seconds=OVERLOADED_BASE_SECONDS,
        counted=False,
    ),
    Rule("retry", "rate_limit_exceeded", kinds=NAMED, statuses={429}, counted=False, pauses=True),
    Rule("retry", "rate_limit_exceeded", kinds=NAMED, names=RATE_NAMES, counted=False, pauses=True),
    # The server's own trouble
    Rule("retry", "overloaded", kinds=NAMED, statuses={503, 529}, base_seconds=OVERLOADED_BASE_SECONDS),
    Rule("retry", "overloaded", kinds=NAMED, names=OVERLOAD_NAMES, base_seconds=OVERLOADED_BASE_SECONDS),
    Rule(
        "retry", "failed_to_download_image", kinds=NAMED, names=frozenset({"failed_to_download_image"}), most_retries=1
    ),
    Rule("retry", "server_error", kinds=NAMED, names=frozenset({"server_error"})),
    Rule("retry", "server_error", kinds=NAMED, statuses=range(500, 600)),
    Rule("retry", "request_timeout", kinds=NAMED, statuses={408}),
    Rule("retry", "conflict", kinds=NAMED, statuses={409}),
    Rule("hold", "redirected", kinds=NAMED, statuses=range(300, 400), sentence=REDIRECTED),
    Rule("hold", "wrong_path", kinds=NAMED, statuses=range(200, 300), pattern=_PATH_UNKNOWN, sentence=WRONG_PATH),
    # The request, by status
    Rule(
        "fail", "not_found", kinds=NAMED, statuses={404}, sentence="{reason} (are the model and OPENAI_BASE_URL right?)"
    ),
    Rule("fail", "payload_too_large", kinds=NAMED, statuses={413}),
    Rule("fail", "unprocessable_request", kinds=NAMED, statuses={422}),
    Rule("fail", "invalid_request", kinds=NAMED, statuses=range(400, 500)),
    Rule("fail", "response_failed", kinds={"failed"}),
    # HTTP 200 with an error that names no status: the server failed after it had begun
    Rule("retry", "server_error", kinds={"status"}),
)


def classify(
    error: CallError,
    *,
    failures: int,
    age_seconds: float,
    max_attempts: int,
    retry_seconds: float,
    random: Callable[[], float] = uniform,
) -> Verdict:
    """Decide what follows from a failed call.

    Args:
        failures: counted failures of this job BEFORE this one.
        age_seconds: time since the job's first call.
        max_attempts: counted failures, this one included, after which the job fails.
        retry_seconds: age after which the job fails; a longer Retry-After fails it at once.
        random: uniform over [0, 1).
    """
    rule = next(rule for rule in RULES if rule.fits(error))
    action = _action(rule, error)
    wait = error.retry_after_seconds or 0.0
    if action == "retry" and rule.pauses and wait > LONG_WAIT_SECONDS:
        reason = error.message.rstrip(" .")
        message = f"The provider asks everybody to wait {wait / 60:,.0f} minutes ({reason}); {RESUMES}"
        return Verdict("hold", rule.code, _sentence(message), delay_seconds=min(wait, MAX_HOLD_SECONDS))
    code = (_snake(error.code) if rule.own_code else "") or rule.code
    message = rule.sentence.format(reason=error.message.rstrip(" ."))
    pause = _pause(rule, error)
    if action != "retry":
        return Verdict(action, code, _sentence(message), counted=action == "fail", pause_seconds=pause)
    # A retry that the server asks for against the table is counted, so that it ends at some time
    counted = rule.counted or rule.action != "retry"
    most = max_attempts if rule.most_retries is None else min(max_attempts, rule.most_retries + 1)
    if failures + counted >= most:
        end = f"gave up after {failures + counted} attempt{'' if failures + counted == 1 else 's'}"
    else:
        end = _out_of_time(error, age_seconds, retry_seconds)
    if end:
        return Verdict("fail", code, _sentence(f"{end}: {message}"), counted=counted, pause_seconds=pause)
    delay = _delay(rule, error, failures, age_seconds, random)
    delay = max(0.0, min(delay, retry_seconds - age_seconds))
    return Verdict("retry", code, _sentence(message), delay, counted, pause)


def _action(rule: Rule, error: CallError) -> Action:
    """The row's action, unless the server says whether to retry; no header overrides a hold."""
    if error.should_retry is None or rule.action == "hold" or error.kind not in NAMED:
        return rule.action
    return "retry" if error.should_retry else "fail"


def _out_of_time(error: CallError, age_seconds: float, retry_seconds: float) -> str:
    """Why no time is left for another attempt; "" if there is."""
    left = retry_seconds - age_seconds
    if left <= 0:
        return f"gave up after {retry_seconds:g} s (TIDEMILL_RETRY_SECONDS)"
    wait = error.retry_after_seconds or 0.0
    if wait > left:
        return (
            f"gave up, for the provider asks to wait {wait:.0f} s and only {left:.0f} s are left for retries "
            "(TIDEMILL_RETRY_SECONDS)"
        )
    return ""


def _delay(rule: Rule, error: CallError, failures: int, age_seconds: float, random: Callable[[], float]) -> float:
    """Retry-After and a little more (never less), else full jitter under an exponentially rising ceiling.

    Failures that are not counted would not raise the ceiling, so it also rises with the job's age. That is the same
    curve, for the sum of exponential waits is as long as the last of them.
    """
    if error.retry_after_seconds:
        return error.retry_after_seconds * (1 + RETRY_AFTER_JITTER * random())
    ceiling = rule.base_seconds * 2.0 ** min(failures, 20)
    if not rule.counted:
        ceiling = max(ceiling, age_seconds)
    return min(ceiling, CAP_SECONDS) * random()


def _pause(rule: Rule, error: CallError) -> float:
    if not rule.pauses:
        return 0.0
    return min(error.retry_after_seconds or RATE_PAUSE_SECONDS * rule.base_seconds / BASE_SECONDS, MAX_PAUSE_SECONDS)


def _snake(name: str | None) -> str:
    """A server's code in snake_case (also "DeploymentNotFound"); "" for none, for numbers and for prose."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", (name or "").strip()).lower().replace("-", "_").replace(".", "_")
    return snake if re.fullmatch(r"[a-z][a-z0-9_]{1,63}", snake) else ""


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", ")")) else text + "."
