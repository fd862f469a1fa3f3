"""A doubtful answer is kept, and says so; what the model thought is stored beside the answer and nowhere else."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.rows import MODEL, add_batch, add_jobs, job_row, put, take
from tidemill.models.claims import Claimed
from tidemill.models.database import reading
from tidemill.models.options import Options
from tidemill.models.replies import CallError, RawReply, parse_chat
from tidemill.models.scope import Scope
from tidemill.models.settling import Settlement
from tidemill.models.tables import dialogues, messages
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.progress import marked
from tidemill.producer.batches.results import REASONING
from tidemill.worker import settlements
from tidemill.worker.questions import build


def settled(message: dict[str, Any], options: Options | None = None, **choice: Any) -> Settlement:
    body = {"choices": [{"message": message, **choice}], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}
    reply = parse_chat(RawReply(200, {}, json.dumps(body).encode()))
    question = build(options or Options(MODEL), {"prompt": "q"})
    job = Claimed(1, 1, "b", {}, 0, 0.0)
    return settlements.of_reply(job, question, reply, settlements.usage_of(question, reply), 0.1)


@pytest.mark.parametrize(
    ("message", "choice", "max_tokens", "code", "words"),
    [
        ({"content": "Hi"}, {"finish_reason": "stop"}, 4, None, ""),
        ({"content": "Hi"}, {"finish_reason": "MAX_TOKENS"}, 4, "length", "--max-tokens"),
        ({"content": "Hi"}, {"finish_reason": "OTHER"}, 4, "unknown_finish_reason", "OTHER"),
        ({"content": "Hi"}, {"finish_reason": None}, 40, "no_finish_reason", "does not say"),
        ({"content": "Hi"}, {"finish_reason": None}, 4, "length", "--max-tokens"),
        ({"content": "Hi"}, {}, 4, "length", "--max-tokens"),
        ({"content": "Hi"}, {}, 40, None, ""),
        ({"content": "Hi"}, {}, None, None, ""),
        ({"content": "", "reasoning": "Hi"}, {"finish_reason": "stop"}, None, "misplaced_answer", "reasoning parser"),
    ],
)
def test_a_doubtful_answer_is_kept_with_a_mark(
    message: dict[str, Any], choice: dict[str, Any], max_tokens: int | None, code: str | None, words: str
) -> None:
    ended = settled(message, Options(MODEL, max_tokens=max_tokens), **choice)
    assert (ended.outcome, ended.error_code, ended.counted) == ("succeeded", code, False)
    assert words in (ended.error or "")
    assert ended.answer is not None
    assert ended.answer.messages[-1].content == "Hi"


@pytest.mark.parametrize(
    ("body", "asked_tier", "usd"),
    [
        ({}, None, 0.0012),
        ({"service_tier": "default"}, "flex", 0.0012),
        ({"service_tier": "flex"}, None, 0.0006),
        ({"service_tier": "priority"}, "auto", 0.0024),
        ({}, "flex", 0.0006),
        ({"usage": {"prompt_tokens_details": {"cache_write_tokens": 4_000}}}, None, 0.0013),
    ],
)
def test_money_is_booked_by_what_the_reply_names(body: dict[str, Any], asked_tier: str | None, usd: float) -> None:
    usage = {"prompt_tokens": 10_000, "completion_tokens": 400} | body.get("usage", {})
    choice = {"message": {"content": "Hi"}, "finish_reason": "stop"}
    payload = {"model": MODEL, "choices": [choice], **body, "usage": usage}
    question = build(Options(MODEL, params={"service_tier": asked_tier} if asked_tier else {}), {"prompt": "q"})
    reply = parse_chat(RawReply(200, {}, json.dumps(payload).encode()))
    ended = settlements.of_reply(
        Claimed(1, 1, "b", {}, 0, 0.0), question, reply, settlements.usage_of(question, reply), 0.1
    )
    assert ended.cost_usd == pytest.approx(usd)


def test_a_malformed_reply_books_what_was_billed() -> None:
    usage = b'"usage": {"prompt_tokens": 10000, "completion_tokens": 400}, "service_tier": "flex"'
    body = b'{"choices": [{"message": {"cont, ' + usage
    with pytest.raises(CallError) as caught:
        parse_chat(RawReply(200, {}, body))
    job = Claimed(1, 1, "b", {}, 0, 0.0)
    ended = settlements.of_error(job, caught.value, settlements.verdict_on(caught.value, job), 0.1, MODEL)
    assert (ended.outcome, ended.input_tokens, ended.output_tokens) == ("retried", 10_000, 400)
    assert ended.cost_usd == pytest.approx(0.0006)


@pytest.mark.usefixtures("database")
def test_what_the_model_thought_is_stored_beside_the_answer(tmp_path: Path) -> None:
    add_batch()
    ended = settled({"content": "<think>hm \0</think>Paris"}, finish_reason="weird")
    plain = settled({"content": "Rome"}, finish_reason="stop")
    first, second = take(add_jobs(2))
    put(ended._replace(job_id=first.id, epoch=first.epoch), plain._replace(job_id=second.id, epoch=second.epoch))
    assert job_row(first.id).error_code == "unknown_finish_reason"
    assert marked(Scope(batch_id="b")) == [("unknown_finish_reason", 1, ended.error)]
    with reading() as connection:
        thoughts = list(connection.scalars(select(dialogues.c.reasoning).order_by(dialogues.c.id)))
        contents = list(connection.scalars(select(messages.c.content)))
    assert thoughts == ["hm \0", None]
    assert not any("hm" in content for content in contents)
    Batch("b").save(tmp_path / "a.jsonl")
    Batch("b").save(tmp_path / "a.csv")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(line["reply"], line.get(REASONING)) for line in lines] == [("Paris", "hm \0"), ("Rome", None)]
    assert REASONING not in lines[1]
    assert "hm" not in (tmp_path / "a.csv").read_text()
