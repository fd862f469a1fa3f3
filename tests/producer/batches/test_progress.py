"""What is shown is counted from the rows: states, tokens, money; a batch is found by as little as is unambiguous."""

import pytest

from tests.rows import add_batch, add_jobs, failure, put, set_batch, set_job, success, take
from tidemill.models.clock import now_after
from tidemill.models.errors import InputError
from tidemill.models.scope import Scope
from tidemill.producer.batches.progress import Progress, list_batches, progress, resolve

pytestmark = pytest.mark.usefixtures("database")


def test_rows_are_counted_by_state_with_tokens_and_money() -> None:
    add_batch()
    add_batch("other")
    add_jobs(9, "other")
    ids = add_jobs(6)
    done, also, failed, _running = take(ids[:4])
    put(success(done), success(also), failure(failed, input_tokens=7, output_tokens=0, cost_usd=0.5))
    so_far = progress(Scope(batch_id="b"))
    assert so_far.states == {"queued": 2, "running": 1, "succeeded": 2, "failed": 1, "cancelled": 0}
    assert (so_far.rows, so_far.open, so_far.ended) == (6, 3, 3)
    assert (so_far.tokens, so_far.cost_usd, so_far.unpriced) == (37, 1.0, 0)
    assert so_far.unjudged == 2
    assert not so_far.is_complete and not so_far.all_succeeded


def test_a_batch_is_complete_when_all_rows_have_ended_and_all_replies_are_judged() -> None:
    from sqlalchemy import update

    from tidemill.models.database import writing
    from tidemill.models.tables import dialogues

    add_batch()
    put(*map(success, take(add_jobs(2))))
    assert not progress(Scope(batch_id="b")).is_complete
    with writing() as connection:
        connection.execute(update(dialogues).values(sentiment="neutral"))
    so_far = progress(Scope(batch_id="b"))
    assert so_far.is_complete and so_far.all_succeeded


def test_rows_that_left_the_input_and_older_submissions_are_not_counted() -> None:
    add_batch()
    gone, old, _new = add_jobs(3)
    set_job(gone, position=None)
    set_job(_new, submission=2)
    assert progress(Scope(batch_id="b")).rows == 2
    assert progress(Scope(batch_id="b", submission=2)).rows == 1
    assert old


def test_an_unknown_price_is_said() -> None:
    add_batch()
    first, second, third = take(add_jobs(3))
    put(success(first, cost_usd=None))
    assert progress(Scope(batch_id="b")).cost() == "unknown price"
    put(success(second))
    so_far = progress(Scope(batch_id="b"))
    assert (so_far.unpriced, so_far.cost()) == (1, "$0.25 and unknown prices")
    put(failure(third))  # no tokens, no price to know
    assert progress(Scope(batch_id="b")).unpriced == 1


def test_nothing_called_costs_nothing() -> None:
    add_batch()
    add_jobs(1)
    assert progress(Scope(batch_id="b")).cost() == "$0.00"


@pytest.mark.parametrize(
    ("states", "seconds", "line"),
    [
        ({"succeeded": 531, "failed": 2}, 41.2, "533 rows: 531 succeeded, 2 failed, 0 open · 0 tokens · $0.00 · 41 s"),
        ({"succeeded": 1}, None, "1 row: 1 succeeded, 0 failed, 0 open · 0 tokens · $0.00"),
        ({"queued": 5, "cancelled": 3}, None, "8 rows: 0 succeeded, 0 failed, 3 cancelled, 5 open · 0 tokens · $0.00"),
    ],
)
def test_the_last_line_of_a_run(states: dict[str, int], seconds: float | None, line: str) -> None:
    full = Progress().states | states
    assert Progress(states=full).summary(seconds) == line


def test_scripts_get_every_number() -> None:
    as_json = Progress(states=Progress().states | {"succeeded": 2}, tokens=5, cost_usd=0.5, hold_reason="x").to_json()
    assert as_json["rows"] == as_json["succeeded"] == 2
    assert (as_json["open"], as_json["tokens"], as_json["cost_usd"], as_json["hold_reason"]) == (0, 5, 0.5, "x")


def test_batches_are_listed_newest_first() -> None:
    for age, name in enumerate(("new", "middle", "old")):
        add_batch(name)
        set_batch(name, created_at=now_after(-60.0 * age))
    add_jobs(2, "middle")
    summaries = list_batches(2)
    assert [(each.id, each.progress.rows) for each in summaries] == [("new", 0), ("middle", 2)]


def test_a_batch_is_found_by_its_id_the_beginning_of_it_or_as_the_latest() -> None:
    for age, name in enumerate(("prompts-aa11", "prompts-ab22", "other-cc")):
        add_batch(name)
        set_batch(name, created_at=now_after(-60.0 * age))
    assert resolve("prompts-aa11").id == resolve("prompts-aa").id == resolve("latest").id == "prompts-aa11"
    assert resolve("o").id == "other-cc"
    with pytest.raises(InputError, match=r"may be .*prompts-a.*\. Write more of the id"):
        resolve("prompts-a")
    with pytest.raises(InputError, match=r"There is no batch 'nope'"):
        resolve("nope")
    with pytest.raises(InputError):
        resolve("")  # begins every id
    with pytest.raises(InputError):
        resolve("%")  # is a character, not a pattern


def test_an_id_that_another_one_begins_with_means_itself() -> None:
    add_batch("a")
    add_batch("ab")
    assert resolve("a").id == "a"


def test_without_any_batch_there_is_no_latest() -> None:
    with pytest.raises(InputError, match="There is no batch"):
        resolve("latest")
