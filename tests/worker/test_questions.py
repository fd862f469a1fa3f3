"""What goes out is what was asked for, under the names that the server knows."""

from typing import Any

import pytest

from tests.rows import MODEL
from tidemill.models.answers import Message
from tidemill.models.options import Options
from tidemill.models.vision import picture_tokens
from tidemill.worker.questions import URL_TOKENS, build

CHAT = Options(model=MODEL)
RESPONSES = Options(model=MODEL, endpoint="responses")
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def test_a_prompt_becomes_a_user_message_and_nothing_else_is_said() -> None:
    question = build(CHAT, {"prompt": "Why?"})
    assert question.endpoint.name == "chat"
    assert question.body == {"model": MODEL, "messages": [{"role": "user", "content": "Why?"}]}
    assert question.messages == (Message("user", "Why?"),)


def test_responses_take_the_prompt_as_input() -> None:
    question = build(RESPONSES, {"prompt": "Why?"})
    assert question.endpoint.name == "responses"
    assert question.body == {"model": MODEL, "input": [{"role": "user", "content": "Why?"}]}
    assert question.messages == (Message("user", "Why?"),)


def test_messages_of_a_row_go_to_responses_in_its_words() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "12"},
    ]
    question = build(RESPONSES, {"messages": messages})
    assert question.body["input"] == [
        {"role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "12"},
    ]
    assert [message.whole for message in question.messages[1:]] == messages[1:]


def test_a_system_prompt_goes_first_in_chat_and_into_instructions_in_responses() -> None:
    chat = build(Options(MODEL, system="Be brief."), {"prompt": "Why?"})
    assert chat.body["messages"][0] == {"role": "system", "content": "Be brief."}
    responses = build(Options(MODEL, "responses", system="Be brief."), {"prompt": "Why?"})
    assert responses.body["instructions"] == "Be brief."
    assert chat.messages == responses.messages == (Message("system", "Be brief."), Message("user", "Why?"))


def test_messages_of_a_row_keep_their_own_system_prompt() -> None:
    messages = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Why?"}]
    question = build(Options(MODEL, system="The batch's."), {"messages": messages})
    assert question.body["messages"] == messages
    without = build(Options(MODEL, system="The batch's."), {"messages": messages[1:]})
    assert [each.content for each in without.messages] == ["The batch's.", "Why?"]


def test_building_does_not_change_the_request() -> None:
    request = {"messages": [{"role": "user", "content": "Why?"}]}
    build(Options(MODEL, system="s", params={"seed": 1}), request)
    assert request == {"messages": [{"role": "user", "content": "Why?"}]}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-6-luna", "max_completion_tokens"),
        ("gpt-5", "max_completion_tokens"),
        ("o3-mini", "max_completion_tokens"),
        ("openai/gpt-5-mini", "max_completion_tokens"),
        ("gpt-4o", "max_tokens"),
        ("llama-3.1-8b", "max_tokens"),
        ("qwen/o-model", "max_tokens"),
        ("mistral-small", "max_tokens"),
    ],
)
def test_the_cap_on_tokens_has_the_name_that_the_model_knows(model: str, name: str) -> None:
    body = build(Options(model, max_tokens=7), {"prompt": "x"}).body
    assert {key: value for key, value in body.items() if key.startswith("max")} == {name: 7}
    assert build(Options(model, "responses", max_tokens=7), {"prompt": "x"}).body["max_output_tokens"] == 7


def test_options_have_the_shape_of_their_endpoint() -> None:
    shared: dict[str, Any] = {"temperature": 0.0, "reasoning_effort": "low", "schema": SCHEMA}
    chat = build(Options(MODEL, **shared), {"prompt": "x"}).body
    assert (chat["temperature"], chat["reasoning_effort"]) == (0.0, "low")
    assert chat["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True},
    }
    responses = build(Options(MODEL, "responses", **shared), {"prompt": "x"}).body
    assert (responses["temperature"], responses["reasoning"]) == (0.0, {"effort": "low"})
    assert responses["text"]["format"] == {"type": "json_schema", "name": "reply", "schema": SCHEMA, "strict": True}


@pytest.mark.parametrize("options", [CHAT, RESPONSES])
def test_further_parameters_go_last_and_win(options: Options) -> None:
    options = Options(
        options.model, options.endpoint, temperature=1.0, params={"seed": 5, "temperature": 0.5, "stop": None}
    )
    body = build(options, {"prompt": "x"}).body
    assert (body["seed"], body["temperature"], body["stop"]) == (5, 0.5, None)


@pytest.mark.parametrize(
    ("url", "endpoint", "body"),
    [
        ("/v1/chat/completions", "chat", {"model": "other", "messages": [{"role": "user", "content": "q"}], "n": 1}),
        ("/v1/responses", "responses", {"model": "other", "input": "q", "instructions": "i"}),
    ],
)
def test_a_batch_line_goes_out_as_it_is(url: str, endpoint: str, body: dict[str, Any]) -> None:
    question = build(Options(MODEL, system="unused", temperature=1.0), {"url": url, "body": body})
    assert (question.endpoint.name, question.body, question.model) == (endpoint, body, "other")
    assert question.messages[-1] == Message("user", "q")


def test_a_batch_line_without_a_model_takes_the_batchs() -> None:
    assert build(CHAT, {"url": "/v1/responses", "body": {"input": "q"}}).model == MODEL


def test_content_in_parts_is_kept_in_parts() -> None:
    parts = [{"type": "text", "text": "q"}]
    question = build(CHAT, {"messages": [{"role": "user", "content": parts}]})
    assert question.messages == (Message("user", "q", {"content": parts}),)
    assert question.body["messages"][0]["content"] == parts


# --- pictures ---

SHA256 = "0" * 64
PICTURE = {"path": "a.jpg", "sha256": SHA256, "format": "jpeg", "width": 640, "height": 480}
REQUEST = {"prompt": "What is it?", "picture": PICTURE}
DATA_URL = "data:image/jpeg;base64,cGl4ZWxz"
ABOUT_A_PICTURE = Options("gpt-4o", system="Be brief.", max_tokens=50)


def test_chat_is_sent_text_and_picture_as_parts() -> None:
    question = build(ABOUT_A_PICTURE, REQUEST, DATA_URL)
    assert question.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": DATA_URL}},
            ],
        },
    ]


def test_responses_are_sent_them_in_their_own_words() -> None:
    question = build(Options("gpt-4o", "responses", detail="low"), REQUEST, DATA_URL)
    assert question.body["input"][0]["content"] == [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": DATA_URL, "detail": "low"},
    ]


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_the_dialogue_names_the_picture_and_holds_none_of_its_bytes(endpoint: Any) -> None:
    question = build(Options("gpt-4o", endpoint, system="Be brief."), REQUEST, DATA_URL)
    system, user = question.messages
    assert (system.role, system.content, user.role) == ("system", "Be brief.", "user")
    assert SHA256 in user.content and "a.jpg" in user.content
    assert "base64" not in user.content
    assert question.texts == ["Be brief.", "What is it?"]


def test_what_is_reserved_counts_the_picture_by_its_size_and_not_its_name() -> None:
    without = build(ABOUT_A_PICTURE, {"prompt": "What is it?"}).most_tokens
    assert build(ABOUT_A_PICTURE, REQUEST).most_tokens - without == picture_tokens("gpt-4o", 640, 480, "auto").tokens
    elsewhere = {"prompt": "What is it?", "picture": {"path": "https://x/a.jpg", "url": "https://x/a.jpg"}}
    assert build(ABOUT_A_PICTURE, elsewhere).most_tokens - without == URL_TOKENS
