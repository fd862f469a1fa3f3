"""At the flex tier a call is half the price while the provider has room; a row that it keeps waiting pays the full one.

No row fails because flex is full. What is refused there is not charged, and is tried again for as long as the row can
wait; then the row goes out at the standard tier. Where a model is not served at flex at all, the same call goes out
without, and flex is not asked for again.
Sources: OpenAI's guide to flex processing (429 "Resource Unavailable", at least 900 s of patience), Groq's (498).
"""

import re
from logging import INFO

from tidemill.models.claims import Claimed
from tidemill.models.json_types import JsonObject
from tidemill.models.lines import note
from tidemill.models.provider import CallError
from tidemill.models.routes import FLEX, ONLINE
from tidemill.models.settings import settings
from tidemill.worker import settlements
from tidemill.worker.calling import Calling
from tidemill.worker.questions import Question
from tidemill.worker.retries import Verdict
from tidemill.worker.rules import RULES

TIMEOUT_SECONDS = 900.0
"""A call at flex may take this long before it counts as lost."""

PATIENCE_SECONDS = 600.0
"""For so long a row is tried at flex, if it has the time."""

TRIES = 2
"""After so many failures that count, a timeout for example, a row goes out at the standard tier."""

FULL = frozenset({"resource_unavailable", "capacity_exceeded"})
"""The rules (`worker.rules`) that say that there is no room at this price now."""

_SHARE_OF_TIME = 0.25
"""Of the time that is left before a deadline, what one wait or one call at flex may take."""

_REFUSING = frozenset({400, 403, 404, 422})
_TIER = re.compile(r"service[_ ]tier|\bflex\b", re.IGNORECASE)


def routes(job: Claimed, question: Question, calling: Calling) -> tuple[str, ...]:
    """By which routes the row goes out now: if the first one refuses it for good, by the next one."""
    if (
        calling.route != FLEX
        or "service_tier" in question.body
        or question.model in calling.provider.models_without_flex
    ):
        return (ONLINE,)
    tries = max(1, min(TRIES, settings().max_attempts - 1))
    has_waited = job.failures >= tries or job.age_seconds >= patience_seconds(calling.seconds_left)
    return (ONLINE,) if has_waited else (FLEX, ONLINE)


def patience_seconds(seconds_left: float | None) -> float:
    """For how long a row is tried at flex: never until it would give up, and less where a deadline comes near."""
    most = min(PATIENCE_SECONDS, settings().retry_seconds / 2)
    return most if seconds_left is None else min(most, max(0.0, seconds_left * _SHARE_OF_TIME))


def with_tier(body: JsonObject, route: str) -> JsonObject:
    """The body as it goes out by a route."""
    return {**body, "service_tier": FLEX} if route == FLEX else body


def timeout_seconds(route: str, seconds_left: float | None) -> float | None:
    """How long a call by this route may take; None: as long as any."""
    if route != FLEX:
        return None
    most = TIMEOUT_SECONDS if seconds_left is None else min(TIMEOUT_SECONDS, seconds_left * _SHARE_OF_TIME)
    return max(most, settings().timeout_seconds)


def is_over(error: CallError, job: Claimed, question: Question, calling: Calling) -> bool:
    """Whether an error of flex says that the same call must go out without it at once; it has billed nothing."""
    if refuses_tier(error):
        if question.model not in calling.provider.models_without_flex:
            calling.provider.models_without_flex.add(question.model)
            sentence = (
                f"{question.model} is not served at flex here: its rows go out at the standard tier, for its price."
            )
            note(INFO, "flex_refused", sentence, model=question.model)
        return True
    wait = error.retry_after_seconds or 0.0
    return is_full(error) and wait > patience_seconds(calling.seconds_left) - job.age_seconds


def refuses_tier(error: CallError) -> bool:
    """Whether the server takes the request, but for its tier."""
    words = f"{error.param} {error.code} {error.message}"
    return error.kind == "status" and error.status in _REFUSING and _TIER.search(words) is not None


def is_full(error: CallError) -> bool:
    """Whether there is no room at this price now."""
    return next(rule for rule in RULES if rule.fits(error)).code in FULL


def verdict_on(error: CallError, job: Claimed, route: str, calling: Calling) -> Verdict:
    """What follows from an error by this route: a full flex is a wait and nothing else, and only this row's."""
    verdict = settlements.verdict_on(error, job)
    if route != FLEX or not is_full(error):
        return verdict
    left = max(0.0, patience_seconds(calling.seconds_left) - job.age_seconds)
    delay = min(verdict.delay_seconds, left) if verdict.action == "retry" else left
    return Verdict("retry", verdict.code, f"Flex has no room at present ({error.message.rstrip(' .')}).", delay)
