"""A live call, whatever comes of it, is one settlement."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import SecretStr

from tests.rows import MODEL
from tests.tls import server_context
from tests.worker.test_limits import Clock
from tidemill.models.claims import Claimed
from tidemill.models.options import Options
from tidemill.models.provider import Provider
from tidemill.models.settling import Settlement
from tidemill.simulator import Simulator
from tidemill.worker.ask import ask
from tidemill.worker.calling import Calling
from tidemill.worker.limits import Limiter, limiter
from tidemill.worker.pace import Limits

CHAT = Options(model=MODEL)
RESPONSES = Options(model=MODEL, endpoint="responses")
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


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
    defaults: dict[str, Any] = {"request": {"prompt": "Why is the sky blue?"}, "failures": 0, "age_seconds": 0.0}
    calling = Calling(provider, limits, "bucket", may_call=lambda: True)
    return await ask(Claimed(1, 3, "b", **(defaults | job)), options, calling)


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
    provider: Provider, limits: Limiter, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.worker.ask.MAX_WAIT_SECONDS", 0.2)
    await limits.pause(f"bucket|{MODEL}", 100.0)
    ended = await asked(provider, limits)
    assert (ended.outcome, ended.http_status, ended.counted) == ("snoozed", None, False)
    assert ended.delay_seconds > 0
    assert simulator.paid() == []


@pytest.mark.parametrize("options", [CHAT, Options(MODEL, rpm=6_000)], ids=["at once", "after a wait"])
async def test_a_call_that_nobody_wants_any_more_when_its_turn_comes_is_a_snooze(
    options: Options, provider: Provider, limits: Limiter, simulator: Simulator
) -> None:
    for _ in range(2):
        await limits.reserve(f"bucket|{MODEL}", 1, Limits(options.rpm), 9)
    calling = Calling(provider, limits, "bucket", may_call=lambda: False)
    ended = await ask(Claimed(1, 3, "b", {"prompt": "Why?"}, 0, 0.0), options, calling)
    assert (ended.outcome, ended.counted) == ("snoozed", False)
    assert simulator.counters()["total"] == 0


@pytest.mark.parametrize("transport", ["sdk", "http"])
async def test_a_call_that_nobody_wants_any_more_when_its_connection_is_there_is_not_sent(
    transport: Literal["sdk", "http"], limits: Limiter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, received = [True], list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(1))
        writer.close()

    context = server_context(tmp_path)
    context.sni_callback = lambda *_: wanted.clear()  # while the connection is being opened
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}/v1"
    provider = Provider(
        base_url=url, api_key=SecretStr("test-key"), transport=transport, timeout_seconds=20, connections=4
    )
    calling = Calling(provider, limits, "bucket", may_call=lambda: bool(wanted))
    ended = await ask(Claimed(1, 3, "b", {"prompt": "Why?"}, 0, 0.0), CHAT, calling)
    assert (ended.outcome, ended.counted, ended.seconds) == ("snoozed", False, None)
    await provider.aclose()
    server.close()
    assert not any(received)


async def test_a_limit_reached_at_the_provider_pauses_everybody_on_the_model(
    provider: Provider, limits: Limiter, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.worker.ask.MAX_WAIT_SECONDS", 0.2)
    simulator.control(mode="429", retry_after_seconds=60.0)
    assert (await asked(provider, limits)).outcome == "retried"
    simulator.control(mode="ok")
    assert (await asked(provider, limits)).outcome == "snoozed"
    assert (await asked(provider, limits, Options("gpt-6-other"))).outcome == "succeeded"


async def test_refusals_without_a_single_answer_are_a_hold_after_two_minutes(
    provider: Provider, simulator: Simulator
) -> None:
    clock = Clock()
    limits = Limiter(clock=clock)
    outcomes = []
    for mode, seconds in (
        ("503", 0),
        ("503", 61),
        ("503", 60),
        ("429ms", 1),
        ("ok", 1),
        ("503", 1),
        ("503", 1),
        ("503", 1),
    ):
        simulator.control(mode=mode)
        clock.move(seconds)
        ended = await asked(provider, limits)
        outcomes.append((ended.outcome, "has answered nobody since" in (ended.hold_reason or "")))
        clock.move(1)  # beyond the pause of a throttling
    tried, held = ("retried", False), ("retried", True)
    assert outcomes == [tried, tried, held, held, ("succeeded", False), tried, tried, tried]


async def test_no_row_gives_up_for_what_happens_to_all_others_too(provider: Provider, simulator: Simulator) -> None:
    clock = Clock()
    limits = Limiter(clock=clock)
    simulator.control(mode="503")
    assert (await asked(provider, limits, failures=7)).outcome == "failed"
    for job_id in (1, 2, 3):
        clock.move(8)
        calling = Calling(provider, limits, "bucket", may_call=lambda: True)
        ended = await ask(Claimed(job_id, 3, "b", {"prompt": "Why?"}, 7, 0.0), CHAT, calling)
    assert (ended.outcome, ended.hold_reason is None) == ("failed", False)


async def test_an_answer_that_uses_up_a_limit_announces_the_hold(
    provider: Provider, limits: Limiter, simulator: Simulator
) -> None:
    simulator.control(mode="last")
    ended = await asked(provider, limits)
    assert ended.outcome == "succeeded"
    assert "serves nobody until" in (ended.hold_reason or "")
    assert ended.hold_seconds == 5 * 3600 + 12 * 60
    assert await limits.pause_seconds(f"bucket|{MODEL}") == 0  # else the hold's probe could not go
