"""What the provider's headers say is understood, and nonsense in them is nothing."""

import itertools

import pytest

from tidemill.worker.bucket import Bucket
from tidemill.worker.pace import SECOND

# --- a limit that nobody tells ---


def served(bucket: Bucket, calls: int, seconds: float, now: float) -> float:
    """Let so many calls be answered, evenly over so many seconds; the time after them."""
    for number in range(calls):
        at = int((now + (number + 1) * seconds / calls) * SECOND)
        bucket.count_grant(at)
        bucket.count_answer(at)
    return now + seconds


def refused(bucket: Bucket, now: float, calls: int = 30) -> bool:
    """Let so many calls be refused at once; whether the guess is lower for it."""
    for _ in range(calls):
        bucket.count_grant(int(now * SECOND))
    return sum(bucket.count_throttling(int(now * SECOND)) for _ in range(calls)) > 0


def test_refusals_without_headers_make_a_guess_of_what_was_answered() -> None:
    bucket = Bucket("b")
    now = served(bucket, 50, 5.0, 100.0)
    assert refused(bucket, now)
    assert bucket.learned.rpm == pytest.approx(0.9 * 600, rel=0.1)
    assert bucket.changes.rpm == bucket.learned.rpm  # the other workers are told
    assert not refused(bucket, now + 1.0)  # calls that were under way: one refusal, not many


def test_further_refusals_lower_the_guess_and_calm_raises_it_by_growing_steps() -> None:
    bucket = Bucket("b")
    now = served(bucket, 50, 5.0, 100.0)
    guesses = []
    for _ in range(3):
        assert refused(bucket, now)
        guesses.append(bucket.learned.rpm or 0)
        now += 2.5
    assert guesses[2] == pytest.approx(0.81 * guesses[0])
    for _ in range(6):
        now = served(bucket, 30, 3.0, now)
        guesses.append(bucket.learned.rpm or 0)
    steps = [later / earlier for earlier, later in itertools.pairwise(guesses[2:])]
    assert all(step >= 1 for step in steps)
    assert steps[-1] > steps[0]


def test_few_refusals_among_many_answers_begin_no_guess() -> None:
    bucket = Bucket("b")
    now = 100.0
    for _ in range(20):
        now = served(bucket, 20, 1.0, now)
        assert not refused(bucket, now, 2)
    assert bucket.learned.rpm is None


def test_refusals_that_come_before_any_answer_are_compared_with_what_was_sent() -> None:
    bucket = Bucket("b")
    for _ in range(250):
        bucket.count_grant(100 * SECOND)
    served(bucket, 3, 0.1, 100.0)
    assert not refused(bucket, 100.1, 12)
    assert refused(bucket, 100.2, 240)


def test_few_refusals_lower_a_guess_no_further_than_to_what_is_answered() -> None:
    bucket = Bucket("b")
    now = served(bucket, 50, 5.0, 100.0)
    refused(bucket, now)
    guess = bucket.learned.rpm or 0
    for _ in range(60):
        now = served(bucket, 9, 1.0, now)  # as fast as the guess allows
        refused(bucket, now, 1)
    assert (bucket.learned.rpm or 0) > 0.9 * guess


def test_a_guess_that_nobody_uses_up_stays() -> None:
    bucket = Bucket("b")
    now = served(bucket, 50, 5.0, 100.0)
    refused(bucket, now)
    guess = bucket.learned.rpm
    served(bucket, 10, 30.0, now)
    assert bucket.learned.rpm == guess


def test_a_provider_that_tells_its_limit_is_believed_and_nothing_is_guessed() -> None:
    bucket = Bucket("b")
    bucket.learn({"x-ratelimit-limit-requests": "500"}, 100 * SECOND)
    now = served(bucket, 50, 5.0, 100.0)
    assert not refused(bucket, now)
    assert bucket.learned.rpm == 500
    assert not bucket.is_guessed


# --- nobody is served ---


def refusals(bucket: Bucket, *seconds: float) -> list[float]:
    return [bucket.count_refusal(1, int(at * SECOND)).seconds for at in seconds]


def test_a_run_of_refusals_is_counted_from_its_first_and_needs_a_few() -> None:
    assert refusals(Bucket("b"), 100, 230) == [0, 0]
    assert refusals(Bucket("b"), 100, 160, 230, 250) == [0, 0, 130, 150]


def test_a_run_is_general_once_a_few_jobs_were_refused() -> None:
    bucket = Bucket("b")
    jobs = (1, 1, 2, 2, 3, 4)
    assert [bucket.count_refusal(job, 100 * SECOND).is_general for job in jobs] == [False] * 4 + [True] * 2


def test_an_answer_ends_a_run_of_refusals() -> None:
    bucket = Bucket("b")
    refusals(bucket, 100, 160, 230)
    bucket.count_answer(231 * SECOND)
    assert refusals(bucket, 232, 233, 234, 360) == [0, 0, 2, 128]


def test_refusals_that_are_far_apart_are_no_run() -> None:
    assert refusals(Bucket("b"), 100, 160, 230, 1000, 1001, 1002) == [0, 0, 130, 0, 0, 2]


def test_a_call_that_may_still_be_answered_speaks_for_the_provider() -> None:
    bucket = Bucket("b")
    bucket.under_way.append(90 * SECOND)  # it began before the run
    assert refusals(bucket, 100, 160, 230) == [0, 0, 0]
    bucket.under_way.clear()
    bucket.under_way.append(150 * SECOND)  # no refusal takes so long
    assert refusals(bucket, 235) == [0]
    bucket.under_way.clear()
    bucket.under_way.append(230 * SECOND)
    assert refusals(bucket, 236) == [136]


# --- what headers say ---


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "1e300", "1e-300", "many", "", None])
def test_a_limit_that_cannot_be_one_is_none(text: str | None) -> None:
    bucket = Bucket("b")
    headers = {} if text is None else {"x-ratelimit-limit-requests": text, "x-ratelimit-limit-tokens": text}
    assert not bucket.learn(headers, 100 * SECOND)
    assert not bucket.limited


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s"}, 20),
        ({"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "20"}, 20),
        (
            {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795871000", "date": "Sat, 28 Nov 2026 13:03:00 GMT"},
            20,
        ),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "5h12m0s"}, 0),  # a hold
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0s"}, 0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "99999999h"}, 0),
        ({"x-ratelimit-reset-requests": "20s"}, 0),
    ],
)
def test_a_pause_lasts_until_the_reset_unless_that_is_far_away(headers: dict[str, str], seconds: float) -> None:
    bucket = Bucket("b")
    assert bucket.pause_until_reset(headers, 100 * SECOND) == (seconds > 0)
    assert bucket.cells.pause == (0 if not seconds else (100 + seconds) * SECOND)
