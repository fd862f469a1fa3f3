"""What goes out is what was asked for, under the names that the server knows; what comes back is one settlement."""

from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from pydantic import SecretStr

from tests.rows import MODEL
from tests.simulator import Simulator
from tidemill.models.answers import Message
from tidemill.models.options import Options
from tidemill.models.provider import Provider
from tidemill.models.transitions import Claimed, Settlement
from tidemill.worker.ask import ask, build
from tidemill.worker.limits import Limiter, limiter

CHAT = Options(model=MODEL)
RESPONSES = Options(model=MODEL, endpoint="responses")
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


# --- the body ---


def test_a_prompt_becomes_a_user_message_and_nothing_else_is_said() -> None:
    question = build(CHAT, {"prompt": "Why?"})
    assert question.endpoint == "chat"
    assert question.body == {"model": MODEL, "messages": [{"role": "user", "content": "Why?"}]}
    assert question.messages == (Message("user", "Why?"),)


def test_responses_take_the_prompt_as_input() -> None:
    question = build(RESPONSES, {"prompt": "Why?"})
    assert question.endpoint == "responses"
    assert question.body == {"model": MODEL, "input": [{"role": "user", "content": "Why?"}]}
    assert question.messages == (Message("user", "Why?"),)


def test_a_system_prompt_goes_first_in_chat_and_into_instructions_in_responses() -> None:
    chat = build(Options(MODEL, system="Be brief."), {"prompt": "Why?"})
    assert chat.body["messages"][0] == {"role": "system", "content": "Be brief."}
    responses = build(Options(MODEL, "responses", system="Be brief."), {"prompt": "Why?"})
    assert responses.body["instructions"] == "Be brief."
    assert chat.messages == responses.messages == (Message("system", "Be brief."), Message("user", "Why?"))


def test_messages_of_a_row_keep_their_own_system_prompt() -> None:
    given = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Why?"}]
    question = build(Options(MODEL, system="The batch's."), {"messages": given})
    assert question.body["messages"] == given
    without = build(Options(MODEL, system="The batch's."), {"messages": given[1:]})
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
    said: dict[str, Any] = {"temperature": 0.0, "reasoning_effort": "low", "schema": SCHEMA}
    chat = build(Options(MODEL, **said), {"prompt": "x"}).body
    assert (chat["temperature"], chat["reasoning_effort"]) == (0.0, "low")
    assert chat["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True},
    }
    responses = build(Options(MODEL, "responses", **said), {"prompt": "x"}).body
    assert (responses["temperature"], responses["reasoning"]) == (0.0, {"effort": "low"})
    assert responses["text"]["format"] == {"type": "json_schema", "name": "reply", "schema": SCHEMA, "strict": True}


@pytest.mark.parametrize("options", [CHAT, RESPONSES])
def test_further_parameters_go_last_and_win(options: Options) -> None:
    given = Options(
        options.model, options.endpoint, temperature=1.0, params={"seed": 5, "temperature": 0.5, "stop": None}
    )
    body = build(given, {"prompt": "x"}).body
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
    assert (question.endpoint, question.body, question.model) == (endpoint, body, "other")
    assert question.messages[-1] == Message("user", "q")


def test_a_batch_line_without_a_model_takes_the_batchs() -> None:
    assert build(CHAT, {"url": "/v1/responses", "body": {"input": "q"}}).model == MODEL


def test_content_in_parts_is_kept_as_json() -> None:
    parts = [{"type": "text", "text": "q"}]
    question = build(CHAT, {"messages": [{"role": "user", "content": parts}]})
    assert question.messages == (Message("user", '[{"type":"text","text":"q"}]'),)
    assert question.body["messages"][0]["content"] == parts


# --- the call ---


@pytest.fixture(params=["sdk", "http"])
async def provider(request: pytest.FixtureRequest, simulator: Simulator) -> AsyncIterator[Provider]:
    transport: Literal["sdk", "http"] = request.param
    made = Provider(
        base_url=simulator.url,
        api_key=SecretStr("test-key"),
        transport=transport,
        timeout_seconds=20,
        connections=4,
    )
    yield made
    await made.aclose()


@pytest.fixture
def limits() -> Limiter:
    return limiter(None)


async def asked(provider: Provider, limits: Limiter, options: Options = CHAT, **job: Any) -> Settlement:
    given: dict[str, Any] = {"request": {"prompt": "Why is the sky blue?"}, "failures": 0, "age_seconds": 0.0}
    return await ask(Claimed(1, 3, "b", **(given | job)), options, provider, limits, "bucket", may_call=lambda: True)


@pytest.mark.parametrize("options", [CHAT, RESPONSES], ids=["chat", "responses"])
async def test_an_answer_is_a_success_with_its_dialogue_tokens_and_price(
    options: Options, provider: Provider, limits: Limiter, simulator: Simulator
) -> None:
    ended = await asked(provider, limits, options)
    assert (ended.job_id, ended.epoch, ended.batch_id, ended.outcome) == (1, 3, "b", "succeeded")
    assert (ended.counted, ended.http_status, ended.error) == (False, 200, None)
    assert ended.answer is not None
    assert [turn.role for turn in ended.answer.messages] == ["user", "assistant"]
    assert ended.answer.messages[-1].content
    (paid,) = simulator.paid()
    assert (ended.input_tokens, ended.output_tokens) == (paid["input_tokens"], paid["output_tokens"])
    assert (ended.cost_usd or 0) > 0
    assert (ended.seconds or 0) > 0


async def test_a_model_without_a_price_costs_an_unknown_sum(provider: Provider, limits: Limiter) -> None:
    ended = await asked(provider, limits, Options("nobody-sells-this"))
    assert (ended.outcome, ended.cost_usd) == ("succeeded", None)
    assert (ended.input_tokens or 0) > 0


@pytest.mark.parametrize(
    ("mode", "outcome", "counted", "status"),
    [
        ("500", "retried", True, 500),
        ("429", "retried", None, 429),
        ("422", "failed", None, 422),
        ("402", "held", False, 402),
    ],
)
async def test_a_failed_call_becomes_what_the_table_says(
    mode: str,
    outcome: str,
    counted: bool | None,
    status: int,
    provider: Provider,
    limits: Limiter,
    simulator: Simulator,
) -> None:
    simulator.control(mode=mode)
    ended = await asked(provider, limits)
    assert (ended.outcome, ended.http_status, ended.answer) == (outcome, status, None)
    assert ended.error and ended.error_code
    if counted is not None:
        assert ended.counted == counted
    if outcome == "retried":
        assert ended.delay_seconds > 0


async def test_a_server_out_of_reach_is_no_answer(provider: Provider, limits: Limiter, simulator: Simulator) -> None:
    simulator.kill()
    ended = await asked(provider, limits)
    assert ended.outcome in ("held", "retried")
    assert (ended.http_status, ended.input_tokens) == (None, None)


async def test_the_last_attempt_that_fails_fails_the_job(
    provider: Provider, limits: Limiter, simulator: Simulator
) -> None:
    simulator.control(mode="500")
    assert (await asked(provider, limits, failures=7)).outcome == "failed"
    assert (await asked(provider, limits, failures=1, age_seconds=1e6)).outcome == "failed"


async def test_a_reply_that_breaks_the_schema_is_tried_again_and_then_failed(
    provider: Provider, limits: Limiter
) -> None:
    impossible = Options(MODEL, schema={"type": "object", "properties": {}, "not": {}})
    first = await asked(provider, limits, impossible)
    assert (first.outcome, first.error_code, first.counted) == ("retried", "schema_mismatch", True)
    assert (first.input_tokens or 0) > 0  # it was paid for
    assert first.answer is None
    last = await asked(provider, limits, impossible, failures=2)
    assert (last.outcome, last.error_code) == ("failed", "schema_mismatch")


async def test_a_reply_that_fits_the_schema_is_a_success(provider: Provider, limits: Limiter) -> None:
    ended = await asked(provider, limits, Options(MODEL, schema=SCHEMA))
    assert ended.outcome == "succeeded"


async def test_a_turn_that_is_too_far_away_is_a_snooze_and_no_call(
    provider: Provider, limits: Limiter, simulator: Simulator
) -> None:
    await limits.pause(f"bucket|{MODEL}", 100.0)
    ended = await asked(provider, limits)
    assert (ended.outcome, ended.http_status, ended.counted) == ("snoozed", None, False)
    assert ended.delay_seconds > 0
    assert simulator.paid() == []


async def test_a_limit_reached_at_the_provider_pauses_everybody_on_the_model(
    provider: Provider, limits: Limiter, simulator: Simulator
) -> None:
    simulator.control(mode="429", retry_after_seconds=60.0)
    assert (await asked(provider, limits)).outcome == "retried"
    simulator.control(mode="ok")
    assert (await asked(provider, limits)).outcome == "snoozed"
    assert (await asked(provider, limits, Options("gpt-6-other"))).outcome == "succeeded"
