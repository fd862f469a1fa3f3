"""The comparison finds what is lost, recorded twice, mixed up, or paid again without an excuse."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import update

from tests.rows import add_batch, add_jobs, failure, put, set_job, success, take
from tidemill.models.answers import Answer, Message
from tidemill.models.database import reading, writing
from tidemill.models.tables import dialogues, messages
from tidemill.producer.rehearsing.books import Books, Casualty, compare
from tidemill.simulator import prompt_hash, reply_tag

PROMPTS = ("a?", "b?")


def reply_to(prompt: str) -> Answer:
    return Answer("m", "stop", (Message("user", prompt), Message("assistant", f"so {reply_tag(prompt)}")))


def answered(*, without_last: bool = False, swapped: bool = False) -> None:
    """Jobs 1 and 2 with the answers to both prompts, judged."""
    add_batch()
    jobs = take(add_jobs(2))
    prompts = [*reversed(PROMPTS)] if swapped else [*PROMPTS]
    texts = [Answer("m", "stop", (Message("user", asked), *reply_to(prompt).messages[1:]))
             for asked, prompt in zip(PROMPTS, prompts, strict=True)]  # fmt: skip
    outcomes = [success(job, answer=text, request_id=f"req-{job.id}") for job, text in zip(jobs, texts, strict=True)]
    put(*(outcomes[:1] if without_last else outcomes))
    if without_last:
        put(failure(jobs[1], request_id="req-2"))
    with writing() as connection:
        connection.execute(update(dialogues).values(sentiment="neutral"))


def paid(prompt: str, request_id: str, began: float = 0.0, caller: str = "c") -> dict[str, Any]:
    return {
        "prompt_hash": prompt_hash(prompt),
        "request_id": request_id,
        "fault": None,
        "caller": caller,
        "started_at": began,
        "at": began + 1,
    }


BOTH = [paid("a?", "req-1"), paid("b?", "req-2")]


def books(calls: Sequence[dict[str, Any]] = BOTH, casualties: Sequence[Casualty] | None = ()) -> Books:
    with reading() as connection:
        return compare(connection, PROMPTS, calls, batch_name="b", casualties=casualties)


def test_books_that_agree_have_no_problem(database: str) -> None:
    answered()
    found = books()
    assert (found.lost, found.recorded_twice, found.paid_more_than_once, found.problems) == (0, 0, 0, ())


def test_a_prompt_without_an_answer_is_lost(database: str) -> None:
    answered(without_last=True)
    found = books()
    assert found.lost == 1
    assert "1 prompts have no answer, such as ['b?']" in found.problems[0]


def test_an_answer_that_stands_twice_is_recorded_twice(database: str) -> None:
    answered()
    with writing() as connection:
        again = {"dialogue_id": 1, "position": 2, "role": "assistant", "content": f"so {reply_tag('a?')}"}
        connection.execute(messages.insert().values(again))
    assert books().recorded_twice == 1


def test_the_answer_of_another_prompt_is_no_answer(database: str) -> None:
    answered(swapped=True)
    assert "2 prompts have the answer of another" in books().problems[0]


def test_a_call_that_is_not_in_the_ledger_is_found(database: str) -> None:
    answered()
    assert "1 paid calls are not in the ledger" in books([BOTH[0], paid("b?", "req-unknown")]).problems[0]


def test_tokens_that_do_not_add_up_are_found(database: str) -> None:
    answered()
    set_job(1, input_tokens=99)
    assert books().problems == ("the jobs have 119 tokens, their calls 30",)


def test_a_call_may_be_paid_again_only_if_it_was_in_flight_in_what_was_killed(database: str) -> None:
    answered()
    calls = [*BOTH, paid("a?", "req-1", began=50)]
    killed_then = Casualty("c", 0.5, 0.5)
    assert books(calls, [killed_then]).problems == ()
    assert books(calls, [killed_then]).taken == 2, "both prompts were in flight: the bound"
    for excuse in (Casualty("another", 0.5, 0.5), Casualty("c", 20, 20)):
        assert "1 calls were paid again that were not in flight" in books(calls, [excuse]).problems[0]


def test_a_call_that_the_provider_itself_cut_is_no_second_payment(database: str) -> None:
    answered()
    assert books([*BOTH, paid("a?", "req-1") | {"fault": "cut"}]).paid_more_than_once == 0


def test_without_the_times_of_kills_the_ledger_says_what_was_taken(database: str) -> None:
    answered()
    assert books([*BOTH, paid("a?", "req-1")], None).problems
