"""Prompts are the rows of an order: one that was typed, those of a file, or the next turns of a dialogue."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from tidemill.models.errors import InputError
from tidemill.models.options import Options
from tidemill.producer.asking import continuing
from tidemill.producer.asking.estimate import Estimate, estimate
from tidemill.producer.asking.question import asked_with
from tidemill.producer.batches.order import Order
from tidemill.producer.intake.tables import ReadOptions, Row, Source, read
from tidemill.producer.screen.display import say

CHECKED_FIRST_BYTES = 4_000_000
"""Files up to this size are read through once before the first row is submitted, so that a bad row costs nothing."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts, and how they are read from their source."""

    kind: ClassVar[str] = "ask"
    source: Source
    how: ReadOptions = field(default_factory=ReadOptions)

    @property
    def is_one(self) -> bool:
        """Whether it is a single prompt, not a file that may hold one."""
        return isinstance(self.source, list) and len(self.source) == 1

    @property
    def is_partial(self) -> bool:
        """Whether only the first of them are taken."""
        return self.how.limit is not None

    @property
    def files(self) -> Sequence[Path]:
        """The file that they are read from."""
        is_path = isinstance(self.source, str | Path) and self.source != "-"
        return [Path(str(self.source))] if is_path else []

    def chunks(self, options: Options, on_note: Callable[[str], None]) -> Iterator[list[Row]]:
        """The prompts as rows; a file that is not too big has been read through before the first of them come.

        Raises:
            InputError: the input cannot be read, or a row of it cannot be used.
        """
        for file in self.files:
            if file.is_file() and file.stat().st_size <= CHECKED_FIRST_BYTES:
                for _ in read(self.source, self.how, on_bad_row=lambda _sentence: None):
                    pass
        yield from read(self.source, self.how, on_bad_row=on_note)

    def estimate(self, order: Order) -> Estimate:
        """Tokens and price of the order that these are the rows of."""
        return estimate(order)


def order_for(
    prompt: str | None,
    input_: str | None,
    options: Mapping[str, Any],
    how: Mapping[str, Any],
    *,
    name: str | None = None,
    assistant: str | None = None,
    no_assistant: bool = False,
    dialogue: int | None = None,
    **batch: Any,
) -> Order:
    """What the command line asks for: one prompt, or the rows of an input.

    Args:
        prompt, input_: exactly one of them.
        options: `models.options.AskOptions`, checked; None means not said.
        how: of `producer.intake.tables.ReadOptions`.
        name: what to call the batch.
        assistant, no_assistant: whose instructions, model and options fill what is not said.
        dialogue: the id of any turn of the dialogue that the prompts go on.
        **batch: priority and new, as for `Order`.

    Raises:
        InputError: neither or both are given, the prompt is empty, or there is no such assistant or dialogue.
    """
    if (prompt is None) == (input_ is None):
        raise InputError("Give a prompt, or a file of prompts with -i: tidemill ask 'Why is the sky blue?'")
    if prompt is not None and not prompt.strip():
        raise InputError("The prompt is empty; write it in quotes, or name a file of prompts with -i.")
    chosen = asked_with(options, assistant, no_assistant=no_assistant, dialogue=dialogue)
    common: dict[str, Any] = {**chosen._asdict(), "on_bad_row": say, **batch}
    read_options = ReadOptions(**how)
    if prompt is not None:
        digest = hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest()
        typed = Prompts([prompt], read_options)
        order = Order(rows=typed, name=name or "prompt", source_name=name or f"prompt {digest}", **common)
    else:
        assert input_ is not None
        path = None if input_ == "-" else Path(input_)
        source_name = name or (str(path.resolve()) if path else None)
        rows = Prompts(input_, read_options)
        order = Order(rows=rows, name=name or (path.stem if path else "stdin"), source_name=source_name, **common)
    return order if dialogue is None else as_turns(order, name)


def as_turns(order: Order, name: str | None) -> Order:
    """The order of prompts as the next turns of the dialogue in its options.

    Raises:
        InputError: the next turn cannot be asked.
    """
    dialogue, rows = order.options.dialogue, order.rows
    assert dialogue is not None
    assert isinstance(rows, Prompts)
    typed = rows.source if isinstance(rows.source, list) and rows.is_one else ()
    continuing.check(order.options, [prompt for prompt in typed if isinstance(prompt, str)])
    source_name = continuing.source_name(dialogue, rows.source, name)
    return replace(order, name=name or f"dialogue {dialogue}", source_name=source_name)
