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
