"""Training under a cap begins only if epochs and price are known and all of it fits."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.rows import count
from tidemill.models import budgets
from tidemill.models.bookings import DAY
from tidemill.models.database import transact
from tidemill.models.errors import InputError
from tidemill.models.tables import batches
from tidemill.producer.batches.spending import UNSAID, Spending, spending_of
from tidemill.producer.training import training_budget
from tidemill.producer.training.datasets import Dataset, DatasetOptions, build
from tidemill.producer.training.examples import Example, Place
from tidemill.producer.training.tuning import Terms, submit_job

pytestmark = pytest.mark.usefixtures("embedded_home")

OPTIONS = DatasetOptions("supervised", "gpt-4.1-mini", epochs=3)
PLENTY = spending_of("5")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    body = {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2."}]}
    return build([Example(Place("d.csv", 2, "row"), body)], OPTIONS, tmp_path)


def most_usd(dataset: Dataset) -> float:
    most = training_budget.most_usd_e9(dataset)
    assert most
    return most / 1e9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (replace(OPTIONS, epochs=None), "^--budget needs --epochs: how often each example is read"),
        (replace(OPTIONS, model="my-7b"), r"^--budget needs the price of training my-7b, [\s\S]*\ntraining = "),
    ],
)
def test_what_nobody_could_price_is_refused_before_anything_is_read(options: DatasetOptions, words: str) -> None:
    with pytest.raises(InputError, match=words):
        training_budget.check_terms(options, PLENTY)
    training_budget.check_terms(options, UNSAID)


def test_training_that_does_not_fit_is_refused_before_anything_is_stored(dataset: Dataset) -> None:
    too_little = Spending(round(most_usd(dataset) * 1e9) - 1)
    with pytest.raises(InputError, match=r"^Training may cost up to .* 3 × each, .* is left of the budget of "):
        submit_job(dataset, OPTIONS, Terms(spending=too_little), "d", "d.csv")
    transact(lambda connection: budgets.set_cap(connection, DAY, "", 1))
    with pytest.raises(InputError, match=r"is left of the budget of \$0\.000000001 a day"):
        submit_job(dataset, OPTIONS, Terms(), "d", "d.csv")
    with pytest.raises(InputError, match=r"^The budget of \$0\.000000001 a day needs --epochs"):
        submit_job(dataset, replace(OPTIONS, epochs=None), Terms(), "d", "d.csv")
    assert count(batches) == 0
    transact(lambda connection: budgets.set_cap(connection, DAY, "", None))
    batch, _ = submit_job(dataset, OPTIONS, Terms(spending=PLENTY), "d", "d.csv")
    assert batch.budget is not None
    assert batch.budget.cap == 5.0


def test_a_dry_run_says_whether_it_fits(dataset: Dataset) -> None:
    line = training_budget.line(dataset, PLENTY)
    assert line is not None
    assert line.startswith("budget of $5.00, $5.00 left: training fits, at most $0.00")
    assert training_budget.to_json(dataset, spending_of(0))["budget"]["fits"] is False
    assert training_budget.line(dataset, UNSAID) is None
    assert training_budget.to_json(dataset, UNSAID) == {}
