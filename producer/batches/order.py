"""An order says what to ask and how; its rows may be of any kind, because this room knows only the protocol `Rows`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tidemill.models import batches
from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Options
from tidemill.models.settings import settings
from tidemill.producer.batches.keys import Occurrences, Prepared
from tidemill.producer.batches.spending import UNSAID, Spending
from tidemill.producer.intake.tables import Row


class DryRun(Protocol):
    """What rows would cost, counted without sending anything."""

    def text(self) -> str:
        """For people."""
        ...

    def to_json(self) -> JsonObject:
        """For scripts."""
        ...


class Rows(Protocol):
    """The rows of an order; each kind of them is implemented in the room that knows it."""

    @property
    def kind(self) -> str:
        """What workers do with each row: "ask", "describe", "train" or another kind."""
        ...

    @property
    def is_one(self) -> bool:
        """Whether it is a single row, of which only the answer is printed."""
        ...

    @property
    def is_partial(self) -> bool:
        """Whether the input may have more rows than these."""
        ...

    @property
    def files(self) -> Sequence[Path]:
        """The files that it reads, so that none of them is overwritten."""
        ...

    def chunks(self, options: Options, on_note: Callable[[str], None]) -> Iterator[list[Row]]:
        """The rows in lists, the first of them short, so that workers start at once.

        `on_note` gets a sentence for what a user should know of a row.

        Raises:
            InputError: there is no row, or the input cannot be read.
        """
        ...

    def estimate(self, order: "Order") -> DryRun:
        """What the order that has these rows would cost.

        Raises:
            InputError: as `chunks`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """Rows, how to ask them, and what to call their batch.

    `source_name` tells inputs apart: the path of a file, or a name given by the user; None for pipes and frames, which
    are known by their rows alone.
    """

    options: Options
    rows: Rows
    name: str = "prompts"
    source_name: str | None = None
    priority: int = 0
    new: bool = False
    moved_from: str | None = None
    """The address that the server had when the batch was begun: the batch goes on at its address of today."""
    assistant_id: int | None = None
    """The assistant that some of the options come from."""
    on_bad_row: Callable[[str], None] = print
    spending: Spending = UNSAID
    """How much it may cost, by which route, and by when."""

    def __post_init__(self) -> None:
        """Refuse what is two things at once."""
        if self.new and self.moved_from is not None:
            raise InputError("--new begins another batch, and --moved-from goes on with one that there is: drop one.")

    @property
    def question_hash(self) -> str:
        """Hash of all that decides the answers, except the rows."""
        return self.options.question_hash(self.rows.kind)

    def sought(self, rows: Sequence[Prepared]) -> batches.Sought:
        """What the batch of the order is looked up by, these being its first rows."""
        none_before = Occurrences()
        return batches.Sought(
            {self.question_hash, self.options.question_hash(self.rows.kind, spelled=True)},
            settings().provider,
            self.source_name,
            {*none_before.keys(rows), *none_before.spelled_keys(rows)},
            len(rows),
        )

    @property
    def is_whole(self) -> bool:
        """Whether it has all rows of an input with a name, so that other rows of its batch have left the input."""
        return self.source_name is not None and not self.rows.is_partial
