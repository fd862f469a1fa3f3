"""Of one dialogue one turn runs at a time, the oldest first; what was said is put together from all of its turns."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from tests.conftest import WaitUntil
from tests.rows import (
    MODEL,
    add_batch,
    add_jobs,
    add_worker,
    claimant,
    failure,
    job_row,
    next_due,
    put,
    set_batch,
    set_job,
    success,
    take,
    take_one,
)
from tests.waiting import limit
from tidemill.models import turns
from tidemill.models.answers import Answer, Message
from tidemill.models.claims import Claimed, claim
from tidemill.models.clock import now
from tidemill.models.database import reading, writing
from tidemill.models.scope import Scope
from tidemill.models.tables import assistants, batches, dialogues, jobs
from tidemill.models.text import dumps
from tidemill.models.transitions import Enqueued, cancel, enqueue, revive

pytestmark = pytest.mark.usefixtures("database")


def add_root(**batch: Any) -> int:
    """An answered job: a dialogue of one turn."""
    add_batch("root", **batch)
    (job_id,) = add_jobs(1, "root")
    put(success(take_one(job_id)))
    return job_id


def add_turns(root: int, count: int, batch_id: str = "turns") -> list[int]:
    """So many queued turns of a dialogue, in a batch of their own."""
    add_batch(batch_id)
    rows = [Enqueued(f"t{i}", f"t{i}", i, dumps({"prompt": f"turn {i}"}), dumps({})) for i in range(count)]
    with writing() as connection:
        enqueue(connection, batch_id, 1, rows, root)
        return list(connection.scalars(select(jobs.c.id).where(jobs.c.batch_id == batch_id).order_by(jobs.c.position)))


def answer_turn(job: Claimed) -> None:
    turn_messages = (Message("user", job.request["prompt"]), Message("assistant", f"answer to {job.request['prompt']}"))
    put(success(job, answer=Answer(MODEL, "stop", turn_messages, job.dialogue_id)))


# --- one at a time ---


def test_only_the_oldest_open_turn_is_claimed_and_none_while_it_runs() -> None:
    first, second, third = add_turns(add_root(), 3)
    (running,) = take([first, second, third])
    assert running.id == first
    assert take([second, third]) == []
    answer_turn(running)
    assert [job.id for job in take([third, second])] == [second]


def test_a_turn_that_ended_badly_does_not_block_the_next() -> None:
    first, second, third = add_turns(add_root(), 3)
    put(failure(take_one(first)))
    set_job(second, state="cancelled")
    assert [job.id for job in take([third])] == [third]


def test_a_revived_turn_waits_for_the_one_that_runs() -> None:
    first, second = add_turns(add_root(), 2)
    put(failure(take_one(first)))
    running = take_one(second)
    with writing() as connection:
        assert len(revive(connection, "turns")) == 1
    assert take([first]) == []
    answer_turn(running)
    assert [job.id for job in take([first])] == [first]


def test_turns_of_other_dialogues_and_ordinary_jobs_are_not_held_up() -> None:
    one, other = add_root(), None
    (other,) = add_jobs(1, "root", prefix="other")
    put(success(take_one(other)))
    blocked = add_turns(one, 2, "one")
    free = add_turns(other, 1, "two")
    add_batch()
    plain = add_jobs(2)
    take_one(blocked[0])
    assert {job.id for job in take([*blocked, *free, *plain])} == {*free, *plain}


@pytest.mark.parametrize("database", ["postgres"], indirect=True)  # SQLite has one writer
def test_two_workers_at_the_same_moment_never_run_two_turns(wait_until: WaitUntil) -> None:
    first, second = add_turns(add_root(), 2)
    put(failure(take_one(first)))
    with ThreadPoolExecutor(1) as pool:
        with writing() as connection:
            assert [job.id for job in claim(connection, [second], claimant())] == [second]
            with writing() as elsewhere:
                revive(elsewhere, "turns")
            older = pool.submit(take, [first], "w2")  # to it the younger turn is still queued
            wait_until(lambda: older.done() or _somebody_waits(), "the other worker has looked")
        assert older.result(limit()) == []
    assert (job_row(first).state, job_row(second).state) == ("queued", "running")


def _somebody_waits() -> bool:
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    with reading() as connection:
        return bool(connection.scalar(waiting))


# --- the feed ---


def test_turns_are_sent_one_after_the_other() -> None:
    first, second = add_turns(add_root(), 2)
    assert next_due() == [first]
    assert next_due() == []
    running = take_one(first)
    assert next_due() == []
    answer_turn(running)
    assert next_due() == [second]


def test_a_command_also_sends_the_turns_that_must_come_before_its_own() -> None:
    root = add_root()
    (left,) = add_turns(root, 1, "left open")
    (own,) = add_turns(root, 1, "own")
    add_batch("elsewhere")
    add_jobs(3, "elsewhere")
    add_worker(window=10)
    scope = Scope("own", 1, root)
    assert next_due(scope) == [left]
    answer_turn(take_one(left))
    assert next_due(scope) == [own]
    assert next_due(Scope("own", 1)) == []


def test_a_cancelled_batch_lets_the_dialogue_go_on() -> None:
    root = add_root()
    add_turns(root, 2, "given up")
    (own,) = add_turns(root, 1, "own")
    with writing() as connection:
        cancel(connection, "given up")
    set_batch("given up", state="cancelled")
    assert next_due() == [own]


# --- what was said ---


def test_a_turn_is_claimed_with_all_that_was_answered_before_it() -> None:
    root = add_root()
    first, second, third = add_turns(root, 3)
    one = take_one(first)
    assert [message.content for message in one.history] == ["why?", "because"]
    answer_turn(one)
    put(failure(take_one(second)))
    history = take_one(third).history
    assert [(each.role, each.content) for each in history] == [
        ("user", "why?"),
        ("assistant", "because"),
        ("user", "turn 0"),
        ("assistant", "answer to turn 0"),
    ]
    with writing() as connection:
        revive(connection, "turns")


def test_of_instructions_that_changed_the_last_ones_are_in_force() -> None:
    root = add_root()
    first, second, third = add_turns(root, 3)
    for turn, instructions in ((first, "ONE"), (second, "TWO")):
        shown = (Message("system", instructions), Message("user", "q"), Message("assistant", "a"))
        put(success(take_one(turn), answer=Answer(MODEL, "stop", shown, root)))
    history = [(each.role, each.content) for each in take_one(third).history]
    assert history == [
        ("system", "TWO"),
        ("user", "why?"),
        ("assistant", "because"),
        *[("user", "q"), ("assistant", "a")] * 2,
    ]
    with reading() as connection:
        assert [each.content for each in turns.messages_of(connection, root)] == [
            "why?",
            "because",
            "ONE",
            "q",
            "a",
            "TWO",
            "q",
            "a",
        ]
        assert [each.content for each in turns.history(connection, root, before=second)] == [
            "ONE",
            "why?",
            "because",
            "q",
            "a",
        ]


@pytest.mark.parametrize("turn_id", [0, -1, 2**63, 10**30])
def test_a_number_that_no_database_can_hold_names_no_dialogue(turn_id: int) -> None:
    with reading() as connection:
        assert turns.root_of(connection, turn_id) is None


def test_an_ordinary_job_has_no_history() -> None:
    add_batch()
    (job,) = take(add_jobs(1))
    assert (job.dialogue_id, job.history) == (None, ())


def test_a_dialogue_is_found_by_any_of_its_turns() -> None:
    root = add_root()
    first, second = add_turns(root, 2)
    answer_turn(take_one(first))
    answer_turn(take_one(second))
    with reading() as connection:
        assert {turns.root_of(connection, each) for each in (root, first, second)} == {root}
        assert turns.root_of(connection, second + 1) is None
        assert turns.count_turns(connection, root) == 3
        assert [each.turn_id for each in turns.messages_of(connection, root)] == [
            root,
            root,
            first,
            first,
            second,
            second,
        ]
        assert [each.turn_id for each in turns.messages_of(connection, root, before=second)] == [
            root,
            root,
            first,
            first,
        ]


def test_a_turn_names_its_dialogue_and_whose_instructions_it_was_asked_with() -> None:
    root = add_root()
    (turn,) = add_turns(root, 1)
    with writing() as connection:
        connection.execute(insert(assistants).values(id=5, name="support", options={}, created_at=now()))
        connection.execute(update(batches).where(batches.c.id == "turns").values(assistant_id=5))
    answer_turn(take_one(turn))
    with reading() as connection:
        statement = select(dialogues.c.id, dialogues.c.root_id, dialogues.c.assistant_id).order_by(dialogues.c.id)
        assert [tuple(row) for row in connection.execute(statement)] == [(root, None, None), (turn, root, 5)]


@pytest.mark.parametrize(
    ("role", "content", "in_words"),
    [
        ("user", "plain", "plain"),
        ("user", '[{"type":"text","text":"what"},{"type":"image_url","image_url":{"url":"data:x"}}]', "what"),
        ("user", '[{"type":"cat"}]', '[{"type":"cat"}]'),
        ("user", "[{half", "[{half"),
        ("assistant", '[{"type":"text","text":"a"}]', '[{"type":"text","text":"a"}]'),
    ],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_content_in_parts_is_told_from_text_that_looks_like_it(role: str, content: str, in_words: str) -> None:
    assert Message(role, content).words == in_words
