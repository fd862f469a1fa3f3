"""A picture's body in both shapes, read from the store only for the call, and what happens where it cannot be read."""

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.conftest import UseEnvironment
from tests.simulator import Simulator, prompt_hash
from tidemill.models import blobs
from tidemill.models.options import Options
from tidemill.models.provider import Provider
from tidemill.models.transitions import Claimed, Settlement
from tidemill.models.vision import picture_tokens
from tidemill.worker import describe
from tidemill.worker.ask import _tokens, ask, build
from tidemill.worker.limits import limiter

CONTENT = b"pixels"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PICTURE = {"path": "a.jpg", "sha256": SHA256, "format": "jpeg", "width": 640, "height": 480}
REQUEST = {"prompt": "What is it?", "picture": PICTURE}
DATA_URL = f"data:image/jpeg;base64,{base64.b64encode(CONTENT).decode()}"
CHAT = Options("gpt-4o", system="Be brief.", max_tokens=50)


def test_chat_is_sent_text_and_picture_as_parts() -> None:
    question = build(CHAT, REQUEST, DATA_URL)
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
    with_picture, without = _tokens(build(CHAT, REQUEST)), _tokens(build(CHAT, {"prompt": "What is it?"}))
    assert with_picture - without == picture_tokens("gpt-4o", 640, 480, "auto").tokens
    elsewhere = {"prompt": "What is it?", "picture": {"path": "https://x/a.jpg", "url": "https://x/a.jpg"}}
    assert _tokens(build(CHAT, elsewhere)) - without == describe.URL_TOKENS


def test_a_url_is_passed_on_as_it_is() -> None:
    assert describe.url_of({"path": "x", "url": "https://pictures.test/x"}) == "https://pictures.test/x"


# --- the call ---


@pytest.fixture
async def provider(embedded_home: Path, simulator: Simulator) -> AsyncIterator[Provider]:
    made = Provider(base_url=simulator.url, api_key=SecretStr("k"), transport="http", timeout_seconds=20, connections=4)
    yield made
    await made.aclose()


async def asked(provider: Provider) -> Settlement:
    job = Claimed(1, 1, "b", REQUEST, 0, 0.0)
    return await ask(job, CHAT, provider, limiter(None), "bucket", may_call=lambda: True)


async def test_the_picture_is_sent_whole(provider: Provider, simulator: Simulator) -> None:
    blobs.put(CONTENT, SHA256)
    settlement = await asked(provider)
    assert settlement.outcome == "succeeded"
    assert simulator.paid_by_prompt() == {prompt_hash("What is it?", DATA_URL): 1}


async def test_a_picture_that_is_not_in_the_store_fails_its_row_unpaid(
    provider: Provider, simulator: Simulator
) -> None:
    settlement = await asked(provider)
    assert (settlement.outcome, settlement.error_code) == ("failed", "picture_missing")
    assert "TIDEMILL_BLOBS_URL" in (settlement.error or "")
    assert simulator.counters()["total"] == 0


async def test_a_store_out_of_reach_is_tried_again(
    provider: Provider, simulator: Simulator, tmp_path: Path, use_environment: UseEnvironment
) -> None:
    (tmp_path / "no-folder").write_text("a file")
    use_environment({"TIDEMILL_BLOBS_URL": str(tmp_path / "no-folder")})
    settlement = await asked(provider)
    assert (settlement.outcome, settlement.error_code, settlement.counted) == ("retried", "picture_unreadable", True)
    assert simulator.counters()["total"] == 0
