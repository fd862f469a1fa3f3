"""Commands about money: what may be spent, and what was.

Each only parses and calls, and imports what it needs when it runs.
"""

import re
from typing import Annotated, Any

import typer

from tidemill.models.errors import InputError
from tidemill.producer.cli import completing, flags
from tidemill.producer.cli.help_pages import Command, Commands

money_app = Commands()

_NEGATIVE = re.compile(r"-[.\d]")


class _WithAmount(Command):
    """A command with an amount, which a minus would make an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after a look for an amount below nothing."""
        for each in args:
            if _NEGATIVE.match(each):
                raise InputError(f"{each} is no budget: write US dollars as a number, such as 5 or 0.50.")
        return super().parse_args(ctx, args)


@money_app.command(cls=_WithAmount, epilog="Example: tidemill budget latest 10")
def budget(
    what: Annotated[
        str | None,
        typer.Argument(
            help="A batch; day: each day, in UTC; fleet: all batches together; forgive: what is maybe spent counts no "
            "longer. Lists all when left out.",
            metavar="BATCH|day|fleet|forgive",
            autocompletion=completing.budget_names,
            show_default=False,
        ),
    ] = None,
    amount: Annotated[
        str | None,
        typer.Argument(
            help="US dollars that may be spent at most; none takes the cap away. Behind forgive: a BATCH.",
            metavar="USD|none",
            show_default=False,
        ),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Show, set, raise, lower or remove what a batch, a day or all batches may cost; rows that wait go on at once."""
    from tidemill.producer.batches import budget_page

    budget_page.budget(what, amount, as_json)


@money_app.command(epilog="Example: tidemill costs --by model --since 7d --chart costs.svg")
def costs(
    *,
    batch: Annotated[
        str | None,
        typer.Argument(
            help="Only this batch: its id, the beginning of one, or `latest`.",
            metavar="BATCH",
            autocompletion=completing.batch_ids,
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="Add up by batch, model, route, day, assistant, kind or provider.",
            show_default="day; of one batch: model",
            autocompletion=completing.groupings,
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DAY", help="The first day, in UTC: 2026-11-01, or how long ago: 7d.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="DAY", help="The last day, in the same way.")] = None,
    chart: Annotated[str | None, typer.Option(metavar="FILE", help="Draw the groups into an .svg file.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show the provider's own figures beside those of the ledger.")
    ] = False,
    as_json: flags.Json = False,
) -> None:
    """Show what calls have cost: spent, saved by cheaper routes, and wasted."""
    from tidemill.producer.costing import cost_page

    cost_page.show(batch, by=by, since=since, until=until, chart=chart, compare=compare, as_json=as_json)
