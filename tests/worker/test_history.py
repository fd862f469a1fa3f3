"""A later turn goes out with the dialogue before it, under the instructions that count, and no longer than fits."""

from dataclasses import replace
from typing import Any

import pytest

from tidemill.models import cost, pictures
from tidemill.models.answers import Message
from tidemill.models.options import Options
from tidemill.models.provider import CallError
from tidemill.worker.history import TOO_LONG, fit_history
from tidemill.worker.questions import Question, build

SYSTEM = Message("system", "Be brief.")
HISTORY = (SYSTEM, Message("user", "Why?"), Message("assistant", "Because."))
MODEL = "gpt-4"  # takes 8,192 tokens
CHAT, RESPONSES = Options(MODEL), Options(MODEL, "responses")
TURN = {"prompt": "And then?"}
USER_TURN = {"role": "user", "content": "q"}


@pytest.fixture(autouse=True)
def _settings(clean_environment: None) -> None:
    """No setting of the developer's decides which table of models is read."""


def contents(messages: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages]


@pytest.mark.parametrize(("options", "name"), [(CHAT, "messages"), (RESPONSES, "input")])
def test_what_was_said_goes_before_the_new_turn(options: Options, name: str) -> None:
    question = build(options, TURN, history=HISTORY)
    assert question.body[name] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
        {"role": "user", "content": "And then?"},
    ]
    assert question.messages == (Message("user", "And then?"),)  # all that its own row will hold
    assert question.texts == ["Be brief.", "Why?", "Because.", "And then?"]


@pytest.mark.parametrize(("options", "name"), [(CHAT, "messages"), (RESPONSES, "input")])
@pytest.mark.parametrize("history", [HISTORY, HISTORY[1:]])
def test_instructions_that_are_new_replace_those_before_and_are_recorded(
    options: Options, name: str, history: tuple[Message, ...]
) -> None:
    options = replace(options, system="Be long.")
    question = build(options, TURN, history=history)
    assert contents(question.body[name]) == ["Be long.", "Why?", "Because.", "And then?"]
    assert "instructions" not in question.body
    assert question.messages == (Message("system", "Be long."), Message("user", "And then?"))
    assert question.texts == ["Why?", "Because.", "Be long.", "And then?"]
    assert build(options, TURN, history=fit_history(options, question)) == question


@pytest.mark.parametrize(("options", "name"), [(CHAT, "messages"), (RESPONSES, "input")])
def test_instructions_that_are_the_same_are_not_recorded_again(options: Options, name: str) -> None:
    options = replace(options, system="Be brief.")
    assert build(options, TURN, history=HISTORY) == build(replace(options, system=None), TURN, history=HISTORY)


@pytest.mark.parametrize(
    "request_",
    [
        {"messages": [{"role": "system", "content": "Mine."}, {"role": "user", "content": "q"}]},
        {"url": "/v1/chat/completions", "body": {"messages": [{"role": "system", "content": "Mine."}, USER_TURN]}},
        {"url": "/v1/responses", "body": {"instructions": "Mine.", "input": "q"}},
    ],
)
def test_instructions_of_a_row_are_those_of_its_turn(request_: dict[str, Any]) -> None:
    question = build(CHAT, request_, history=HISTORY)
    sent = question.body["input" if question.endpoint.name == "responses" else "messages"]
    assert contents(sent) == ["Mine.", "Why?", "Because.", "q"]
    assert "instructions" not in question.body
    assert question.messages == (Message("system", "Mine."), Message("user", "q"))


def test_a_batch_line_goes_on_too() -> None:
    body = {"model": "other", "messages": [{"role": "user", "content": "q"}], "n": 1}
    question = build(CHAT, {"url": "/v1/chat/completions", "body": body}, history=HISTORY)
    assert contents(question.body["messages"]) == ["Be brief.", "Why?", "Because.", "q"]
    assert (question.model, question.body["n"], question.messages) == ("other", 1, (Message("user", "q"),))
    asked = build(CHAT, {"url": "/v1/responses", "body": {"input": "q"}}, history=HISTORY)
    assert contents(asked.body["input"]) == ["Be brief.", "Why?", "Because.", "q"]


def test_parts_go_out_as_parts_and_a_picture_is_shown_again() -> None:
    parts = [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": "https://x/a.png"}}]
    stored = Message(
        "user", '[{"type":"text","text":"Look"},{"type":"image_url","image_url":{"url":"https://x/a.png"}}]'
    )
    assert build(CHAT, TURN, history=(stored,)).body["messages"][0]["content"] == parts
    picture = {"path": "a.jpg", "sha256": "0" * 64, "format": "jpeg", "width": 640, "height": 480}
    described = Message("user", pictures.dump_message("What is it?", picture))
    question = build(CHAT, TURN, "data:image/jpeg;base64,AA", (described, Message("assistant", "A mill.")))
    assert question.body["messages"][0]["content"][1]["image_url"]["url"] == "data:image/jpeg;base64,AA"
    assert question.picture_tokens > 0
    assert question.messages == (Message("user", "And then?"),)


def test_tokens_are_reserved_for_all_that_is_sent() -> None:
    more = build(CHAT, TURN, history=HISTORY).most_tokens - build(CHAT, TURN).most_tokens
    assert more > sum(cost.count_tokens(message.content, MODEL) for message in HISTORY)


# --- too long ---


def long_dialogue(turns: int, words: int = 1_000) -> tuple[Message, ...]:
    turn_messages = [(Message("user", f"q{i} " + "word " * words), Message("assistant", f"a{i}")) for i in range(turns)]
    return (SYSTEM, *(message for turn in turn_messages for message in turn))


def question(options: Options, history: tuple[Message, ...]) -> Question:
    return build(options, TURN, history=history)


def test_a_dialogue_that_fits_is_left_alone() -> None:
    history = long_dialogue(7)
    assert fit_history(CHAT, question(CHAT, history)) == history


def test_a_dialogue_that_does_not_fit_is_refused_with_the_counts() -> None:
    with pytest.raises(CallError, match=r"has 9,\d\d\d tokens so far; .* gpt-4 takes 8,192\. --trim oldest") as raised:
        fit_history(CHAT, question(CHAT, long_dialogue(9)))
    assert (raised.value.kind, raised.value.code) == ("request", TOO_LONG)


def test_trimming_takes_the_oldest_turns_whole_and_keeps_the_instructions() -> None:
    trimming = Options(MODEL, trim="oldest")
    kept = fit_history(trimming, question(trimming, long_dialogue(9)))
    assert [message.content[:2] for message in kept] == ["Be", *(f"{x}{i}" for i in range(1, 9) for x in "qa")]
    assert (
        cost.chat_overhead_tokens(len(kept) + 1) + sum(cost.count_tokens(each.content, MODEL) for each in kept) + 3
        <= 8_192
    )


def test_a_tools_result_keeps_the_call_that_it_answers() -> None:
    trimming = Options(MODEL, trim="oldest")
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "word " * 3_000}}
    called = Message.of({"role": "assistant", "content": None, "tool_calls": [call]})
    result = {"messages": [{"role": "tool", "tool_call_id": "c", "content": "word " * 3_000}]}
    history = (*long_dialogue(5), Message("user", "q"), called)
    kept = fit_history(trimming, build(trimming, result, history=history))
    assert kept[-2:] == history[-2:] and len(kept) < len(history)
    too_long = {"messages": [{"role": "tool", "tool_call_id": "c", "content": "word " * 6_000}]}
    with pytest.raises(CallError, match="gpt-4 takes 8,192"):
        fit_history(trimming, build(trimming, too_long, history=history))


def test_room_for_the_answer_counts() -> None:
    trimming = Options(MODEL, trim="oldest", max_tokens=4_000)
    kept = fit_history(trimming, question(trimming, long_dialogue(9)))
    assert [message.content[:2] for message in kept] == ["Be", *(f"{x}{i}" for i in range(5, 9) for x in "qa")]


def test_a_prompt_that_is_too_long_by_itself_is_refused_even_so() -> None:
    trimming = Options(MODEL, trim="oldest")
    alone = build(trimming, {"prompt": "word " * 9_000}, history=HISTORY)
    with pytest.raises(CallError, match="gpt-4 takes 8,192"):
        fit_history(trimming, alone)


def test_a_model_of_unknown_size_is_asked() -> None:
    unknown = Options("my-own-model")
    history = long_dialogue(20)
    assert fit_history(unknown, question(unknown, history)) == history
