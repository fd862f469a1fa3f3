"""What training may cost is known before it begins only if it is known how often each example is read."""

from tidemill import migrations
from tidemill.models import cost, training_bound
from tidemill.models.budgets import Budget
from tidemill.models.cost import format_tokens
from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.models.money import usd
from tidemill.producer.batches import affording
from tidemill.producer.batches import budget_words as words
from tidemill.producer.batches.spending import Spending
from tidemill.producer.training.datasets import Dataset, DatasetOptions


def check_terms(options: DatasetOptions, spending: Spending) -> None:
    """Refuse a cap under which nobody could say what training costs, before anything is read.

    Raises:
        InputError: the epochs or the price are not known.
    """
    if spending.budget_usd_e9 is not None:
        _check_known(options, "--budget")


def check_fits(dataset: Dataset, options: DatasetOptions, spending: Spending) -> None:
    """Refuse training that may cost more than a cap leaves, before anything is stored.

    Raises:
        InputError: it may, or nobody can say what it costs.
    """
    for budget in affording.in_force(spending):
        _check_known(options, affording.name_of(budget, spending))
        most = most_usd_e9(dataset)
        if most is not None and most > budget.left:
            raise InputError(
                f"Training may cost up to {_price(dataset, most)}, and {words.shown(budget.left)} is left of the "
                f"{words.title(budget)}; nothing was stored or sent. Fewer --epochs or a higher budget would do."
            )


def most_usd_e9(dataset: Dataset) -> int | None:
    """What training on these examples costs at most; None where epochs or price are not known."""
    part, report = dataset.train, dataset.report
    counts = {"tokens": part.tokens, "examples": part.examples, "size": part.path.stat().st_size}
    return training_bound.most_usd_e9(report.model, report.epochs, **counts)


def line(dataset: Dataset, spending: Spending) -> str | None:
    """Whether training fits into the narrowest cap, for a dry run; None where none was asked for."""
    if (fit := _fit(dataset, spending)) is None:
        return None
    budget, most = fit
    fits = "fits" if most <= budget.left else "does not fit"
    return f"{words.title(budget)}, {words.shown(budget.left)} left: training {fits}, at most {_price(dataset, most)}"


def to_json(dataset: Dataset, spending: Spending) -> JsonObject:
    """The same for scripts, as a field `budget`; nothing where none was asked for."""
    if (fit := _fit(dataset, spending)) is None:
        return {}
    budget, most = fit
    left = {"kind": budget.kind, "cap_usd": usd(budget.cap), "left_usd": usd(budget.left)}
    return {"budget": {**left, "most_usd": usd(most), "fits": most <= budget.left}}


def _fit(dataset: Dataset, spending: Spending) -> tuple[Budget, int] | None:
    """The narrowest cap and what training costs at most; a dry run without a budget needs no database."""
    most = most_usd_e9(dataset)
    if spending.budget_usd_e9 is None or most is None:
        return None
    migrations.ensure()
    budget = words.narrowest(affording.in_force(spending))
    return None if budget is None else (budget, most)


def _price(dataset: Dataset, most: int) -> str:
    part = dataset.train
    each = f"{format_tokens(part.tokens)} tokens, {dataset.report.epochs} × each"
    return f"{words.shown(most, is_most=True)} ({each}, and what the format adds)"


def _check_known(options: DatasetOptions, why: str) -> None:
    if options.epochs is None:
        raise InputError(
            f"{why} needs --epochs: how often each example is read decides the price, and the provider would choose it."
        )
    if cost.training_price(options.model) is None:
        raise InputError(affording.unknown_price(why, options.model, of_training=True))
