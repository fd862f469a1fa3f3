"""What somebody asks for: how, and rows of any kind, of which the rest of this room knows no more than `Rows`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tidemill.models.options import Options
from tidemill.producer.intake.tables import Row


class DryRun(Protocol):
    """What rows would come to, without anything being sent."""

    def text(self) -> str:
        """For people."""
        ...

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        ...


class Rows(Protocol):
    """The rows of an order; each kind of them is implemented in the room that knows it."""

    @property
    def kind(self) -> str:
        """What is done with each row: "ask", "describe", "train" or any other, as workers know it."""
        ...

    @property
    def is_one(self) -> bool:
        """Whether it is a single row whose answer alone is told."""
        ...

    @property
    def is_partial(self) -> bool:
        """Whether more rows may be there than it takes."""
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
        """What the order, whose rows these are, would come to.

        Raises:
            InputError: as `chunks`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody asks for: rows, how to ask them, and what to call their batch.

    `source_name` tells inputs apart: the path of a file, or a name given by the user; None for pipes and frames, which
    are known by their rows alone.
    """

    options: Options
    rows: Rows
    name: str = "prompts"
    source_name: str | None = None
    priority: int = 0
    new: bool = False
    assistant_id: int | None = None
    """The assistant that some of the options are from."""
    on_bad_row: Callable[[str], None] = print

    @property
    def question_hash(self) -> str:
        """Hash of what decides the answers, but for the rows."""
        return self.options.question_hash(self.rows.kind)

    @property
    def is_whole(self) -> bool:
        """Whether rows that it does not hold have left the input: not when it holds only some, or has no name."""
        return self.source_name is not None and not self.rows.is_partial
