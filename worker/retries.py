"""What follows from a failed call is looked up in one table, never guessed.

The HTTP status alone does not decide: 429 may mean "wait a second" or "the account is empty". The first row below that
fits counts. Three things can follow:
- retry: the job is queued again, due after `delay_seconds`;
- hold: the provider serves nobody now (no credit, bad key, out of reach, a long wait); the batch waits, the job loses
  no attempt;
- fail: a repetition would only be billed again.
Sources: OpenAI's error codes and `response.error.code`, the retry rules of its own client, and what other providers
were seen to send (`worker.server_words`); tests/worker/test_retries.py has a case for each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import random as uniform

from tidemill.models.provider import CallError
from tidemill.models.waits import LONG_WAIT_SECONDS, exhausted_seconds, until
from tidemill.worker.pace import Unserved
from tidemill.worker.rules import BASE_SECONDS, NAMED, RESUMES, RULES, Action, Rule, snake

CAP_SECONDS = 60.0
RETRY_AFTER_JITTER = 0.1
RATE_PAUSE_SECONDS = 1.0
MAX_HOLD_SECONDS = 86_400.0
MAX_PAUSE_SECONDS = 3600.0  # then one call tries again, whatever the server has asked for
UNSERVED_SECONDS = 120.0  # after this long without a single answer, refusals are a hold
GIVE_UP_SECONDS = 20.0  # and after this long, if a job would give up for what happens to others, too


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
    refused: bool = False  # whether the server has not even tried: it would have said so to anybody


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
        retry_seconds: age after which the job fails; a Retry-After beyond it fails it at once.
        random: uniform over [0, 1).
    """
    rule = next(rule for rule in RULES if rule.fits(error))
    action = _action(rule, error)
    wait = error.retry_after_seconds or 0.0
    reason = error.message.rstrip(" .")
    refused = rule.refuses and error.should_retry is not False
    if (action == "retry" or rule.refuses) and error.kind in NAMED and wait > LONG_WAIT_SECONDS:
        message = f"The provider asks everybody to wait {wait / 60:,.0f} minutes ({reason}), {until(wait)}; {RESUMES}"
        return Verdict("hold", rule.code, _sentence(message), min(wait, MAX_HOLD_SECONDS), refused=refused)
    code = (snake(error.code) if rule.own_code else "") or rule.code
    if rule.waits and wait:
        message = rule.sentence.format(reason=f"{reason}; {until(wait)}")
        return Verdict("hold", code, message, min(wait, MAX_HOLD_SECONDS))
    message = rule.sentence.format(reason=reason)
    pause = _pause(rule, error)
    if action != "retry":
        return Verdict(action, code, _sentence(message), 0.0, action == "fail", pause, refused)
    # A retry that the server asks for against the table is counted, so that it ends at some time
    counted = rule.counted or rule.action != "retry"
    most = max_attempts if rule.most_retries is None else min(max_attempts, rule.most_retries + 1)
    if failures + counted >= most:
        end = f"gave up after {failures + counted} attempt{'' if failures + counted == 1 else 's'}"
    else:
        end = _out_of_time(error, age_seconds, retry_seconds)
    if end:
        return Verdict("fail", code, _sentence(f"{end}: {message}"), 0.0, counted, pause, refused)
    delay = _delay(rule, error, failures, age_seconds, random)
    delay = max(0.0, min(delay, retry_seconds - age_seconds))
    return Verdict("retry", code, _sentence(message), delay, counted, pause, refused)


def unserved_reason(verdict: Verdict, error: CallError, unserved: Unserved) -> str | None:
    """Why everybody waits, if for a while nobody was answered and everybody refused; else None.

    This is the net below all rules: whatever words a provider finds for it, it serves nobody. No job gives up for it.
    """
    patience = GIVE_UP_SECONDS if verdict.action == "fail" and unserved.is_general else UNSERVED_SECONDS
    if not verdict.refused or verdict.action == "hold" or unserved.seconds < patience:
        return None
    since = datetime.now(UTC) - timedelta(seconds=unserved.seconds)
    lead = f"The provider has answered nobody since {since:%H:%M} UTC and refuses every call"
    return f"{lead} ({error.message.rstrip(' .')}); {RESUMES}."


def announced_hold(headers: Mapping[str, str]) -> tuple[str, float] | None:
    """The reason and the seconds of a hold that an answer announces: nothing remains, and not for a while."""
    wait = exhausted_seconds(headers) or 0.0
    if wait <= LONG_WAIT_SECONDS:
        return None
    reason = (
        f"The provider has answered with the last of what its limit allows, and serves nobody {until(wait)}; {RESUMES}."
    )
    return reason, min(wait, MAX_HOLD_SECONDS)


def _action(rule: Rule, error: CallError) -> Action:
    """The row's action, unless the server says whether to retry; no header overrides a hold."""
    if error.should_retry is None or rule.action == "hold" or rule.certain or error.kind not in NAMED:
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


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", ")")) else text + "."
