"""Commands about money: what may be spent.

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
