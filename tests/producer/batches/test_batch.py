"""A batch in Python: its rows as they end, waits that stop, verbs, looks that never fail, frames of every library."""

import asyncio
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel, field_validator

import tidemill
from tests.conftest import UseEnvironment, WaitUntil
from tidemill import Batch, ask, errors
from tidemill.models import embedded
from tidemill.producer.batches import row_orders
from tidemill.producer.batches.row_orders import FinishedOrder
from tidemill.simulator import Simulator

QUESTIONS = [f"Question {number}?" for number in range(11)]


@pytest.fixture
def provider(embedded_home: Path, simulator: Simulator, use_environment: UseEnvironment) -> Iterator[Simulator]:
    """The simulator as this process's provider; no worker is left in the end."""
    use_environment({"OPENAI_BASE_URL": simulator.url, "OPENAI_API_KEY": "test-key", "TIDEMILL_DRAIN_SECONDS": "0.2"})
    yield simulator
    assert not embedded.is_running()


def submitted(prompts: Any, **options: Any) -> Batch:
    return ask(prompts, transport="http", **options)


# --- rows as they end, and waits that stop ---


def test_rows_come_as_they_end_each_once_and_leaving_the_loop_stops_the_work(
    provider: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_orders, "_PROBED_ROWS", 2)  # so that there are many pages
    batch = submitted(QUESTIONS)
    first = [row["prompt"] for row in islice(batch, 2)]
    assert set(first) <= set(QUESTIONS)
    rows = list(batch)
    assert sorted(row["prompt"] for row in rows) == sorted(QUESTIONS)
    assert {row["status"] for row in rows} == {"succeeded"}
    assert all(row["sentiment"] for row in rows)
    assert [row["prompt"] for row in batch.rows()] == QUESTIONS

    async def under_asyncio() -> list[str]:
        return [row["prompt"] async for row in await tidemill.aask(QUESTIONS[:3], new=True, transport="http")]

    assert sorted(asyncio.run(under_asyncio())) == sorted(QUESTIONS[:3])


def _fail(*_: object) -> None:
    raise errors.DatabaseError("The database is away.")


def test_a_database_that_is_away_for_a_moment_loses_no_row(
    provider: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = submitted(QUESTIONS)
    order = FinishedOrder(batch.id, batch.submission)
    assert [row for page in order.pages(ended=True) for row in page.rows] == []
    batch.wait()
    with monkeypatch.context() as away:
        away.setattr(row_orders, "page_of", _fail)
        with pytest.raises(errors.DatabaseError):
            list(order.pages(ended=True, most=len(QUESTIONS)))
    rows = [row["prompt"] for page in order.pages(ended=True) for row in page.rows]
    assert sorted(rows) == sorted(QUESTIONS)


def test_what_goes_wrong_while_rows_come_is_raised_where_they_are_read(provider: Simulator) -> None:
    with pytest.raises(errors.InputError, match="There is no batch 'gone'"):
        list(Batch("gone"))


def test_a_wait_ends_at_its_limit_or_with_its_task_and_loses_nothing(
    provider: Simulator, wait_until: WaitUntil
) -> None:
    provider.control(gate="shut")
    batch = submitted(QUESTIONS[:2])
    with pytest.raises(errors.NotEndedError, match=rf"Stopped after .* with 2 rows of {batch.id} open") as caught:
        batch.wait(0.2)
    assert isinstance(caught.value, TimeoutError)

    async def cancelled() -> None:
        task = asyncio.ensure_future(batch)
        await asyncio.to_thread(wait_until, lambda: provider.counters()["in_flight"] == 2, "calls are in flight")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert not embedded.is_running()
    assert batch.progress().states["queued"] == 2
    provider.control(gate="open")

    async def awaited() -> Batch:
        return await batch

    assert asyncio.run(awaited()) is batch
    assert batch.progress().all_succeeded


# --- looks and verbs ---


def test_a_batch_says_what_failed_and_can_be_changed(
    provider: Simulator, use_environment: UseEnvironment, tmp_path: Path
) -> None:
    batch = submitted(["!!422 <b>Why?</b>", "Why?", "!!422 How?"], name="some")
    assert batch.pause()
    assert not batch.pause()
    assert " · 3 rows: 0 succeeded, 0 failed, 3 open · 0 tokens · $0.00 · paused>" in repr(batch)
    assert batch.resume()
    batch.wait()
    assert [(each.rows, each.code) for each in batch.failures] == [(2, "unprocessable_entity")]
    assert [row["prompt"] for row in batch.failed_rows()] == ["!!422 <b>Why?</b>", "!!422 How?"]
    places = tmp_path / "failed.csv", tmp_path / "failed.jsonl"
    assert batch.save(*places, status="failed", where=["prompt~why"], columns="prompt,error_code") == 1
    assert places[0].read_text().splitlines()[1:] == ["!!422 <b>Why?</b>,unprocessable_entity"]
    assert json.loads(places[1].read_text())["prompt"] == "!!422 <b>Why?</b>"
    assert batch.cost == batch.progress().cost_usd
    page = batch._repr_html_() or ""
    assert f'<a href="#tidemill-{batch.id}-failures">2</a>' in page
    assert "<summary>Why 2 rows failed</summary>" in page
    assert (batch.retry(), batch.cancel(), batch.retry()) == (2, 2, 2)
    assert tidemill.batch(batch.id[:-2]) == Batch(batch.id)
    assert [each.id for each in tidemill.batches()] == [batch.id]
    assert tidemill.dialogue(batch.turn or 0).messages[0] == {"role": "user", "content": "Why?"}
    use_environment({"TIDEMILL_HOME": str(tmp_path / "elsewhere")})
    assert repr(batch) == f"<Batch {batch.id}>"
    assert batch._repr_html_() is None


# --- frames ---


def test_pandas_polars_and_arrow_ask_the_same_and_get_their_order_back(provider: Simulator) -> None:
    columns: dict[str, list[Any]] = {"id": [7, None, 9], "prompt": ["C?", "A?", "B?"]}
    frame = pl.DataFrame(columns)
    table = pa.table(columns)
    batch = submitted(frame)
    batch.wait()
    sources = (table, table.to_batches()[0], pa.RecordBatchReader.from_stream(table), pd.DataFrame(columns))
    assert {submitted(each).id for each in sources} == {batch.id}
    submitted(frame.sort("prompt")).wait()  # other positions, the same rows
    answers = batch.to_polars()
    assert answers["prompt"].to_list() == columns["prompt"]
    assert answers["id"].to_list() == columns["id"]
    types = {"id": pl.Int64, "attempts": pl.Int64, "cost_usd": pl.Float64, "error": pl.String}
    assert {name: answers.schema[name] for name in types} == types
    assert list(batch.to_frame()["prompt"]) == columns["prompt"]
    columns_alone = (frame["prompt"], table["prompt"], table["prompt"].combine_chunks(), pd.Series(columns["prompt"]))
    assert len({submitted(each).id for each in columns_alone}) == 1
    assert submitted(["!!422 no"], name="none").to_polars().shape == (1, 13)


# --- answers as objects ---


class Review(BaseModel):
    """What a reviewer thinks."""

    stars: int
    why: str | None = None


class Strange(Review):
    """Refuses what its schema allows."""

    @field_validator("stars")
    @classmethod
    def _none_fits(cls, stars: int) -> int:
        raise ValueError(f"{stars} is out of fashion")


def test_answers_come_back_as_objects_and_those_that_do_not_fit_are_counted(provider: Simulator) -> None:
    batch = submitted(["Good?", "!!422 Bad?"], schema=Review, new=True)
    batch.wait()
    reviews = batch.parsed()
    assert isinstance(reviews[0], Review)
    assert (len(reviews), reviews[1], reviews.invalid) == (2, None, {})
    again = submitted(["Good?", "!!422 Bad?"], schema=Review)
    assert again.id == batch.id
    strange = tidemill.batch(batch.id).parsed(Strange)
    assert list(strange) == [None, None]
    assert "out of fashion" in strange.invalid[0]
    with pytest.raises(errors.InputError, match=r"batch\.parsed\(Review\)"):
        tidemill.batch(batch.id).parsed()
