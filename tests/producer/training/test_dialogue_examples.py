"""A model learns only what fits of stored dialogues: the rest is context, or is left out and reported."""

from typing import Any

import pytest
from sqlalchemy import insert, update

from tests.rows import add_batch, add_jobs, put, set_job, success, take_one
from tidemill.models.answers import Answer, Message
from tidemill.models.clock import now
from tidemill.models.database import writing
from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.models.pictures import dump_message as picture_message
from tidemill.models.tables import dialogues, messages
from tidemill.producer.asking.dialogues import Filters
from tidemill.producer.training.dialogue_examples import StoredDialogues, day, examples_of_dialogues
from tidemill.producer.training.example_files import InputSummary
from tidemill.producer.training.examples import BadRow, Example, faults

pytestmark = pytest.mark.usefixtures("database")

GOOD: JsonObject = {"sentiment": "positive"}
BAD: JsonObject = {"sentiment": "negative"}


def turn(turn_id: int, *texts: str, root: int | None = None, **values: Any) -> None:
    """A turn: its messages are user, assistant, user, ...; one that begins with `system:` is instructions."""
    defaults = {"batch_id": "b", "model": "m", "finish_reason": "stop", "sentiment": "neutral", "created_at": now()}
    roles = iter(["user", "assistant"] * len(texts))
    rows = [
        ("system", text.removeprefix("system:")) if text.startswith("system:") else (next(roles), text)
        for text in texts
    ]
    with writing() as connection:
        connection.execute(insert(dialogues).values(id=turn_id, root_id=root, **(defaults | values)))
        connection.execute(
            insert(messages),
            [
                {"dialogue_id": turn_id, "position": number, "role": role, "content": text}
                for number, (role, text) in enumerate(rows)
            ],
        )


def examples(**filters: Any) -> list[Example | BadRow]:
    return list(examples_of_dialogues(StoredDialogues(filters.pop("words", None), Filters(**filters)), InputSummary()))


def shown(example: Example | BadRow) -> list[str]:
    """`role: content` of each message, in brackets where it is not learnt."""
    assert isinstance(example, Example)
    marked = [(f"{each['role']}: {each['content']}", each.get("weight")) for each in example.body["messages"]]
    return [f"({text})" if weight == 0 else text for text, weight in marked]


def test_a_dialogue_is_one_example_up_to_its_last_turn_that_fits() -> None:
    turn(1, "a?", "A.", **GOOD)
    turn(2, "b?", "B.", root=1, **GOOD)
    turn(3, "c?", "C.", root=1, **BAD)
    turn(4, "d?", "D.", **BAD)
    (only,) = examples(sentiment="positive")
    assert shown(only) == ["user: a?", "assistant: A.", "user: b?", "assistant: B."]
    assert only.place.line == 1
    assert [each.place.line for each in examples()] == [1, 4]


def test_earlier_replies_that_do_not_fit_are_read_and_not_learnt() -> None:
    turn(1, "a?", "A.", **BAD)
    turn(2, "b?", "B.", root=1, **GOOD)
    (only,) = examples(sentiment="positive")
    assert shown(only) == ["user: a?", "(assistant: A.)", "user: b?", "assistant: B."]


def test_the_instructions_are_those_of_the_last_turn_and_replies_to_others_are_not_learnt() -> None:
    turn(1, "system:one", "a?", "A.")
    turn(2, "b?", "B.", root=1)
    turn(3, "system:two", "c?", "C.", root=1)
    turn(4, "d?", "D.", root=1)
    (only,) = examples()
    assert shown(only) == [
        "system: two",
        *("user: a?", "(assistant: A.)", "user: b?", "(assistant: B.)"),
        *("user: c?", "assistant: C.", "user: d?", "assistant: D."),
    ]


def test_cut_answers_and_pictures_are_left_out_and_said() -> None:
    turn(1, "a?", "A wor", finish_reason="length")
    turn(2, "b?", "B wor", finish_reason="length")
    turn(3, "c?", "C.", root=2)
    turn(4, picture_message("d?", {"path": "d.jpg"}), "D.")
    first, second, third = examples()
    assert isinstance(first, BadRow)
    assert first.code == "cut_answer"
    assert shown(second) == ["user: b?", "(assistant: B wor)", "user: c?", "assistant: C."]
    assert isinstance(third, BadRow)
    assert third.code == "picture"


def test_tools_and_their_calls_are_learnt_whole_without_what_only_a_server_understands() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    add_batch("b")
    (job_id,) = add_jobs(1, "b")
    set_job(job_id, request={"url": "/v1/chat/completions", "body": {"tools": tools, "messages": []}})
    said = {
        "role": "assistant",
        "content": None,
        "tool_calls": [call | {"extra_content": {"x": 1}}],
        "annotations": [1],
    }
    spoken: list[JsonObject] = [{"role": "user", "content": "a?", "name": "ann"}, said]
    spoken += [{"role": "tool", "content": "12", "tool_call_id": "c1"}, {"role": "assistant", "content": "A."}]
    put(success(take_one(job_id), answer=Answer("m", "stop", tuple(map(Message.of, spoken)))))
    (only,) = examples()
    assert isinstance(only, Example)
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert only.body == {"messages": [spoken[0], called, *spoken[2:]], "tools": tools}
    assert list(faults(only.body, "supervised")) == []


def test_filters_by_model_time_words_and_length() -> None:
    turn(1, "a red ball?", "A.", model="gpt-6-luna-2026")
    turn(2, "blue?", "A long answer.", model="gpt-5")
    with writing() as connection:
        past = day("--since", "2026-01-02")
        connection.execute(update(dialogues).where(dialogues.c.id == 1).values(created_at=past))
    assert [each.place.line for each in examples(model="gpt-6")] == [1]
    assert [each.place.line for each in examples(until=day("--until", "2026-01-03"))] == [1]
    assert [each.place.line for each in examples(since=day("--since", "2026-01-03"))] == [2]
    assert [each.place.line for each in examples(words="BALL red")] == [1]
    assert [each.place.line for each in examples(least_characters=5)] == [2]
    with pytest.raises(InputError, match=r"No dialogue fits \(stored dialogues, answered by gpt-7\)"):
        examples(model="gpt-7")


def test_many_dialogues_come_page_by_page_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.producer.training.dialogue_examples._PAGE", 3)
    for number in range(1, 11):
        turn(number, "a?", "A.", root=None if number < 8 else 2)
    assert [each.place.line for each in examples()] == [1, 2, 3, 4, 5, 6, 7]
