"""Each row says what follows from one kind of failure; the first one that fits counts.

Above stands what is surer: what never fits, then names of the account, then names of the request, then words, then
statuses. `worker.retries` makes a verdict of a row.
"""

import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Literal

from tidemill.models.patterns import Pattern
from tidemill.models.provider import CallError, ErrorKind
from tidemill.models.replies import WEB_PAGE
from tidemill.models.waits import LONG_WAIT_SECONDS
from tidemill.worker import server_words as words

Action = Literal["retry", "hold", "fail"]

BASE_SECONDS = 0.5
OVERLOADED_BASE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One row; it fits if all its conditions that are not None do.

    `names` and `labels` are searched in the error's code, type and further reasons, `says` in its own words.
    """

    action: Action
    code: str  # stored if the server's own code means nothing
    kinds: Container[ErrorKind] | None = None
    statuses: Container[int | None] | None = None
    names: frozenset[str] | None = None
    labels: Pattern | None = None
    says: Callable[[str], object] | None = None  # last resort, for servers that give the reason only in the message
    brief: bool | None = None  # whether a short wait is asked for
    sentence: str = "{reason}"
    own_code: bool = True  # store the server's code rather than ours
    base_seconds: float = BASE_SECONDS
    counted: bool = True  # of retries
    pauses: bool = False
    refuses: bool = False
    waits: bool = False  # a hold that ends when the server says
    certain: bool = False  # x-should-retry does not change it
    most_retries: int | None = None  # if fewer make sense than max_attempts allows

    def fits(self, error: CallError) -> bool:
        """True when every condition of the row holds."""
        labels = [label for label in (error.code, error.type, *error.reasons) if label]
        return (
            (self.kinds is None or error.kind in self.kinds)
            and (self.statuses is None or error.status in self.statuses)
            and (self.names is None or not self.names.isdisjoint(snake(label) or label for label in labels))
            and (self.labels is None or any(map(self.labels.search, labels)))
            and (self.brief is None or self.brief == (0 < (error.retry_after_seconds or 0) <= LONG_WAIT_SECONDS))
            and (self.says is None or bool(self.says(words.own_words(error.message, error.status, error.param))))
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
QUOTA = (
    "The provider's quota for this account is used up ({reason}): wait, raise it, or start again with another "
    f"account's key in OPENAI_API_KEY; {RESUMES}."
)
PROXY = f"The proxy refuses the calls ({{reason}}): check HTTPS_PROXY or the network's sign-in page; {RESUMES}."
TOO_LARGE = "{reason}; the request alone is larger than the limit: shorten it, lower max_tokens, or raise the limit."
NO_MODEL = "{reason} (is the model right, and does this account have it?)"
UNREACHABLE = (
    "{reason}; check that the server runs and that OPENAI_BASE_URL is right; no attempt was spent, " + RESUMES + "."
)
REDIRECTED = (
    f"{{reason}}, and redirects are not followed: start again with OPENAI_BASE_URL set to where the API is; {RESUMES}."
)
WEB_PAGE_THERE = (
    "There is a web page, and no API ({reason}): start again with OPENAI_BASE_URL set to where the API is, often with "
    f"/v1 at its end; {RESUMES}."
)
WRONG_PATH = (
    "The server has no such path ({reason}): start again with OPENAI_BASE_URL set to where the API is, often with /v1 "
    f"at its end; {RESUMES}."
)

NAMED: frozenset[ErrorKind] = frozenset({"status", "failed"})  # the kinds with an error of the server's own

TOO_FAST = frozenset({420, 429, 430})
PASSING = frozenset({419, 421, 423, 424, 425, 440, 444, 449, 460, 463})
"""Statuses below 500 of proxies and gateways that say nothing about the request: locked, too early, lost on the way."""

REFUSALS = frozenset({200, 400, 401, 402, 403, 412, 432, 498, *TOO_FAST, *range(500, 600)})
"""Statuses with which a used-up quota was seen."""

BROKEN = frozenset({200, *range(500, 600)})

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
    Rule(
        "hold", "wrong_path", kinds={"malformed"}, names=frozenset({WEB_PAGE}), sentence=WEB_PAGE_THERE, own_code=False
    ),
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
    # What never fits, whatever the account has left
    Rule(
        "fail",
        "request_too_large",
        kinds=NAMED,
        says=words.never_fits,
        sentence=TOO_LARGE,
        own_code=False,
        certain=True,
    ),
    Rule("fail", "request_too_large", kinds=NAMED, names=words.TOO_LARGE_NAMES, sentence=TOO_LARGE, certain=True),
    Rule("fail", "payload_too_large", kinds=NAMED, statuses={413}, own_code=False, certain=True),
    # The account, by name
    Rule("hold", "insufficient_quota", kinds=NAMED, names=words.OUT_OF_CREDIT_NAMES, sentence=OUT_OF_CREDIT),
    Rule("hold", "quota_used_up", kinds=NAMED, names=words.QUOTA_NAMES, sentence=QUOTA, waits=True),
    Rule("hold", "insufficient_credits", kinds=NAMED, statuses={402}, sentence=OUT_OF_CREDIT),
    Rule("hold", "insufficient_credits", kinds=NAMED, names=frozenset({"402"}), sentence=OUT_OF_CREDIT),
    Rule("hold", "invalid_api_key", kinds=NAMED, names=words.BAD_KEY_NAMES, sentence=BAD_KEY),
    Rule("hold", "permission_denied", kinds=NAMED, names=words.NO_ACCESS_NAMES, sentence=NO_ACCESS),
    # What the model wrote breaks the schema or is no tool call, as the server itself has found: billed, like our own
    Rule("retry", "schema_mismatch", kinds=NAMED, names=words.MISMATCH_NAMES, own_code=False, most_retries=2),
    Rule(
        "retry",
        "schema_mismatch",
        kinds=NAMED,
        statuses={400, 422},
        says=words.MISMATCH.search,
        own_code=False,
        most_retries=2,
    ),
    Rule("retry", "tool_use_failed", kinds=NAMED, names=words.BAD_GENERATION_NAMES, most_retries=2),
    # The request, whatever the status
    Rule("fail", "invalid_json_schema", kinds=NAMED, says=words.BAD_SCHEMA.search),
    Rule("fail", "content_filter", kinds=NAMED, names=words.FILTER_NAMES),
    Rule("fail", "invalid_request", kinds=NAMED, names=words.PERMANENT_NAMES),
    Rule(
        "fail", "context_length_exceeded", kinds=NAMED, names=frozenset({"exceed_context_size_error"}), own_code=False
    ),
    Rule("fail", "content_filter", kinds=NAMED, statuses={403}, says=words.FLAGGED.search),
    # The account, in words
    Rule(
        "hold", "insufficient_credits", kinds=NAMED, says=words.NO_CREDIT.search, sentence=OUT_OF_CREDIT, own_code=False
    ),
    Rule(
        "hold",
        "quota_used_up",
        kinds=NAMED,
        statuses=REFUSALS,
        labels=words.PER_DAY,
        sentence=QUOTA,
        own_code=False,
        waits=True,
    ),
    Rule(
        "retry",
        "rate_limit_exceeded",
        kinds=NAMED,
        statuses={429},
        labels=words.PER_MINUTE,
        counted=False,
        pauses=True,
        refuses=True,
    ),
    Rule(
        "hold",
        "quota_used_up",
        kinds=NAMED,
        statuses=REFUSALS,
        says=words.LONG_QUOTA.search,
        sentence=QUOTA,
        own_code=False,
        waits=True,
    ),
    Rule(
        "hold",
        "insufficient_quota",
        kinds=NAMED,
        says=words.NO_QUOTA.search,
        brief=False,
        sentence=OUT_OF_CREDIT,
        own_code=False,
    ),
    Rule("hold", "quota_used_up", kinds=NAMED, names=words.SPENT_NAMES, brief=False, sentence=QUOTA, waits=True),
    Rule("hold", "invalid_api_key", kinds=NAMED, statuses={401}, sentence=BAD_KEY),
    Rule("hold", "invalid_api_key", kinds=NAMED, says=words.BAD_KEY.search, sentence=BAD_KEY, own_code=False),
    Rule("hold", "permission_denied", kinds=NAMED, says=words.NO_ACCESS.search, sentence=NO_ACCESS, own_code=False),
    Rule("hold", "permission_denied", kinds=NAMED, statuses={403}, sentence=NO_ACCESS),
    Rule("hold", "proxy_refuses", kinds=NAMED, statuses={407, 511}, sentence=PROXY),
    # Too fast
    Rule(
        "retry",
        "slow_down",
        kinds=NAMED,
        names=frozenset({"slow_down"}),
        base_seconds=OVERLOADED_BASE_SECONDS,
        counted=False,
        pauses=True,
        refuses=True,
    ),
    Rule(
        "retry",  # flex: no room at this price now, not charged; nobody else needs to wait for it
        "resource_unavailable",
        kinds=NAMED,
        statuses={429},
        says=words.NO_ROOM.search,
        base_seconds=OVERLOADED_BASE_SECONDS,
        counted=False,
        refuses=True,
    ),
    Rule(
        "retry",  # the same at Groq
        "capacity_exceeded",
        kinds=NAMED,
        statuses={498},
        base_seconds=OVERLOADED_BASE_SECONDS,
        counted=False,
        refuses=True,
    ),
    Rule("retry", "rate_limit_exceeded", kinds=NAMED, statuses=TOO_FAST, counted=False, pauses=True, refuses=True),
    Rule("retry", "rate_limit_exceeded", kinds=NAMED, names=words.RATE_NAMES, counted=False, pauses=True, refuses=True),
    Rule(
        "retry",
        "rate_limit_exceeded",
        kinds=NAMED,
        statuses={200},
        says=words.TOO_FAST.search,
        counted=False,
        pauses=True,
        refuses=True,
    ),
    # What never works, though the status says that it is the server's trouble
    Rule(
        "fail",
        "context_length_exceeded",
        kinds=NAMED,
        statuses={400, *BROKEN},
        says=words.NO_CONTEXT.search,
        own_code=False,
        certain=True,
    ),
    Rule(
        "fail",
        "model_not_found",
        kinds=NAMED,
        statuses=BROKEN,
        says=words.NO_MODEL.search,
        sentence=NO_MODEL,
        own_code=False,
    ),
    Rule("fail", "not_supported", kinds=NAMED, statuses=BROKEN, says=words.UNABLE.search, own_code=False, certain=True),
    Rule("fail", "not_supported", kinds=NAMED, statuses={501, 505}),
    Rule("fail", "invalid_request", kinds=NAMED, statuses=range(500, 600), names=words.INVALID_NAMES),
    # The server's own trouble
    Rule("retry", "overloaded", kinds=NAMED, statuses={503, 529}, base_seconds=OVERLOADED_BASE_SECONDS, refuses=True),
    Rule(
        "retry",
        "overloaded",
        kinds=NAMED,
        names=words.OVERLOAD_NAMES,
        base_seconds=OVERLOADED_BASE_SECONDS,
        refuses=True,
    ),
    Rule(
        "retry", "failed_to_download_image", kinds=NAMED, names=frozenset({"failed_to_download_image"}), most_retries=1
    ),
    Rule("retry", "server_error", kinds=NAMED, names=frozenset({"server_error"}), refuses=True),
    Rule("retry", "server_error", kinds=NAMED, statuses=range(500, 600), refuses=True),
    Rule("retry", "request_timeout", kinds=NAMED, statuses={408}),
    Rule("retry", "conflict", kinds=NAMED, statuses={409}),
    Rule("retry", "cancelled", kinds=NAMED, statuses={499}),
    Rule("retry", "passing_error", kinds=NAMED, statuses=PASSING),
    Rule("hold", "redirected", kinds=NAMED, statuses=range(300, 400), sentence=REDIRECTED),
    Rule("hold", "wrong_path", kinds=NAMED, statuses=range(200, 300), says=words.NO_PATH.search, sentence=WRONG_PATH),
    # The request, by status
    Rule("fail", "model_not_found", kinds=NAMED, statuses={400, 404}, says=words.NO_MODEL.search, sentence=NO_MODEL),
    Rule(
        "fail", "not_found", kinds=NAMED, statuses={404}, sentence="{reason} (are the model and OPENAI_BASE_URL right?)"
    ),
    Rule("fail", "unprocessable_request", kinds=NAMED, statuses={422}),
    Rule("fail", "invalid_request", kinds=NAMED, statuses=range(400, 500)),
    Rule("fail", "response_failed", kinds={"failed"}),
    # HTTP 200 with an error that names no status: the server failed after it had begun
    Rule("retry", "server_error", kinds={"status"}, refuses=True),
)


def snake(name: str | None) -> str:
    """A server's code in snake_case (also "DeploymentNotFound"); "" for none, for numbers and for prose."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", (name or "").strip()).lower().replace("-", "_").replace(".", "_")
    return snake if re.fullmatch(r"[a-z][a-z0-9_]{1,63}", snake) else ""
