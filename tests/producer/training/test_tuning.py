"""A dataset is one row of an order, known by what it is and whose it is; its dry run is the report on it."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.rows import batch_row, count
from tidemill.models.options import Options
from tidemill.models.tables import jobs
from tidemill.producer.batches.order import Order, Rows
from tidemill.producer.batches.submit import open_batch, submit
from tidemill.producer.training.datasets import DatasetOptions, build
from tidemill.producer.training.examples import Example, Place
from tidemill.producer.training.tuning import DatasetRow

OPTIONS = Options("gpt-4.1-mini")


@pytest.fixture
def row(tmp_path: Path) -> DatasetRow:
    body = {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2."}]}
    dataset = build([Example(Place("d.csv", 2, "row"), body)], DatasetOptions("supervised", OPTIONS.model), tmp_path)
    return DatasetRow("d", "provider.test", dataset.report)


def test_it_is_one_row_without_an_answer_that_reads_no_file(row: DatasetRow) -> None:
    rows: Rows = row
    assert (rows.kind, rows.is_one, rows.is_partial, list(rows.files)) == ("train", False, False, [])
    ((only,),) = rows.chunks(OPTIONS, lambda _note: None)
    assert (only.custom_id, only.request) == ("d", {"dataset": "d", "provider": "provider.test"})


def test_its_dry_run_is_the_report(row: DatasetRow) -> None:
    order = Order(OPTIONS, row)
    assert "there is 1 example to learn from" in order.rows.estimate(order).text()
    assert order.rows.estimate(order).to_json()["train"]["examples"] == 1


@pytest.mark.usefixtures("database")
def test_the_same_dataset_is_the_same_job_and_at_another_server_another_one(row: DatasetRow) -> None:
    first = open_batch(Order(OPTIONS, row))
    submit(first)
    same = open_batch(Order(OPTIONS, row))
    elsewhere = open_batch(Order(OPTIONS, replace(row, provider="elsewhere.test")))
    assert (same.batch_id, same.resumed) == (first.batch_id, True)
    assert (elsewhere.batch_id == first.batch_id, elsewhere.resumed) == (False, False)
    assert (batch_row(first.batch_id).kind, count(jobs)) == ("train", 1)
