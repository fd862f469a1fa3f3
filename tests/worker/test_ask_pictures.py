"""A picture is read from the store only for the call; what happens where it cannot be read."""

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.conftest import UseEnvironment
from tidemill.models import blobs
from tidemill.models.claims import Claimed
from tidemill.models.options import Options
from tidemill.models.provider import Provider, Reply, Usage
from tidemill.models.refusals import REFUSAL
from tidemill.models.settling import Settlement
from tidemill.simulator import Simulator, prompt_hash
from tidemill.worker.ask import ask
from tidemill.worker.calling import Calling
from tidemill.worker.limits import limiter
from tidemill.worker.marks import mark_of
from tidemill.worker.questions import build

CONTENT = b"pixels"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PICTURE = {"path": "a.jpg", "sha256": SHA256, "format": "jpeg", "width": 640, "height": 480}
REQUEST = {"prompt": "What is it?", "picture": PICTURE}
DATA_URL = f"data:image/jpeg;base64,{base64.b64encode(CONTENT).decode()}"
CHAT = Options("gpt-4o", system="Be brief.", max_tokens=50)


@pytest.fixture
async def provider(embedded_home: Path, simulator: Simulator) -> AsyncIterator[Provider]:
    made = Provider(base_url=simulator.url, api_key=SecretStr("k"), transport="http", timeout_seconds=20, connections=4)
    yield made
    await made.aclose()


async def asked(provider: Provider) -> Settlement:
    job = Claimed(1, 1, "b", REQUEST, 0, 0.0)
    return await ask(job, CHAT, Calling(provider, limiter(None), "bucket", may_call=lambda: True))


async def test_the_picture_is_sent_whole(provider: Provider, simulator: Simulator) -> None:
    blobs.put(CONTENT, SHA256)
    settlement = await asked(provider)
    assert settlement.outcome == "succeeded"
    assert simulator.paid_by_prompt() == {prompt_hash("What is it?", DATA_URL): 1}


def test_a_refusal_in_words_is_kept_and_marked() -> None:
    about_a_picture, of_prompt = build(CHAT, REQUEST, DATA_URL), build(CHAT, {"prompt": "Refuse!"})
    usage = Usage(10, 5)
    fine, refusal = (
        Reply(text, "m", "stop", usage, None, {}, 200) for text in ("A cat.", "I'm sorry, but I can't help with that.")
    )
    assert mark_of(refusal, about_a_picture, usage)[0] == REFUSAL
    assert mark_of(fine, about_a_picture, usage) == mark_of(refusal, of_prompt, usage) == (None, None)


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
