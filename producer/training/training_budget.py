"""What training may cost is known before it begins only if it is known how often each example is read."""

from tidemill import migrations
from tidemill.models import cost
from tidemill.models.budgets import Budget
from tidemill.models.cost import format_tokens
from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.models.money import usd, usd_e9
from tidemill.producer.batches import affording
from tidemill.producer.batches import budget_words as words
from tidemill.producer.batches.spending import Spending
from tidemill.producer.training.dataset_report import Report
from tidemill.producer.training.datasets import DatasetOptions


def check_terms(options: DatasetOptions, spending: Spending) -> None:
    """Refuse a cap under which nobody could say what training costs, before anything is read.

    Raises:
        InputError: the epochs or the price are not known.
    """
    if spending.budget_usd_e9 is not None:
        _check_known(options, "--budget")


def check_fits(report: Report, options: DatasetOptions, spending: Spending) -> None:
    """Refuse training that may cost more than a cap leaves, before anything is stored.

    Raises:
        InputError: it may, or nobody can say what it costs.
    """
    for budget in affording.in_force(spending):
        _check_known(options, affording.name_of(budget, spending))
        most = most_usd_e9(report)
        if most is not None and most > budget.left:
            raise InputError(
                f"Training may cost {_price(report, most)}, and {words.shown(budget.left)} is left of the "
                f"{words.title(budget)}; nothing was stored or sent. Fewer --epochs or a higher budget would do."
            )


def most_usd_e9(report: Report) -> int | None:
    """What training on these examples costs at most; None where epochs or price are not known."""
    epoch = report.epoch_usd
    return None if epoch is None or report.epochs is None else usd_e9(epoch * report.epochs)


def line(report: Report, spending: Spending) -> str | None:
    """Whether training fits into the narrowest cap, for a dry run; None where none was asked for."""
    if (fit := _fit(report, spending)) is None:
        return None
    budget, most = fit
    fits = "fits" if most <= budget.left else "does not fit"
    return f"{words.title(budget)}, {words.shown(budget.left)} left: training {fits}, for {_price(report, most)}"


def to_json(report: Report, spending: Spending) -> JsonObject:
    """The same for scripts, as a field `budget`; nothing where none was asked for."""
    if (fit := _fit(report, spending)) is None:
        return {}
    budget, most = fit
    left = {"kind": budget.kind, "cap_usd": usd(budget.cap), "left_usd": usd(budget.left)}
    return {"budget": {**left, "most_usd": usd(most), "fits": most <= budget.left}}


def _fit(report: Report, spending: Spending) -> tuple[Budget, int] | None:
    """The narrowest cap and what training costs at most; a dry run without a budget needs no database."""
    most = most_usd_e9(report)
    if spending.budget_usd_e9 is None or most is None:
        return None
    migrations.ensure()
    budget = words.narrowest(affording.in_force(spending))
    return None if budget is None else (budget, most)


def _price(report: Report, most: int) -> str:
    return f"{words.shown(most)} ({format_tokens(report.train.tokens)} tokens, {report.epochs or 0} × each)"


def _check_known(options: DatasetOptions, why: str) -> None:
    if options.epochs is None:
        raise InputError(
            f"{why} needs --epochs: how often each example is read decides the price, and the provider would choose it."
        )
    if cost.training_price(options.model) is None:
        raise InputError(affording.unknown_price(why, options.model, of_training=True))
