"""Prompts are the rows of an order: one that was typed, those of a file, or the next turns of a dialogue."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tidemill.models.canonical import unix_lines
from tidemill.models.errors import InputError
from tidemill.models.options import AskOptions, Options
from tidemill.producer.asking import continuing
from tidemill.producer.asking.question import complete_options
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.spending import UNSAID, Spending
from tidemill.producer.intake.piped import piped_text
from tidemill.producer.intake.sources import Files, files_of
from tidemill.producer.intake.tables import ReadOptions, Row, Source, read
from tidemill.producer.screen.display import say

if TYPE_CHECKING:
    from tidemill.producer.asking.estimate import Estimate

CHECKED_FIRST_BYTES = 4_000_000
"""Files up to this size are read through once before the first row is submitted, so that a bad row costs nothing."""

KEPT_CHUNKS = 10
"""Of a thousand rows at most: what is kept of such a file from that reading. Short rows take many times their bytes."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts, and how they are read from their source."""

    kind: ClassVar[str] = "ask"
    source: Source
    how: ReadOptions = field(default_factory=ReadOptions)

    @property
    def is_one(self) -> bool:
        """Whether it is a single prompt, not a file that happens to hold one."""
        return isinstance(self.source, list) and len(self.source) == 1

    @property
    def is_partial(self) -> bool:
        """Whether only the first of them are read."""
        return self.how.limit is not None

    @property
    def files(self) -> Sequence[Path]:
        """The files that they are read from, as far as they are here."""
        files = files_of(self.source)
        return files.paths() if files else []

    def chunks(self, options: Options, on_note: Callable[[str], None]) -> Iterator[list[Row]]:
        """The prompts as rows; files that are not too big are read through before the first of them comes.

        Raises:
            InputError: the input cannot be read, or a row of it cannot be used.
        """
        files = files_of(self.source)
        if files and files.size() <= CHECKED_FIRST_BYTES:
            yield from self._checked(on_note)
            return
        yield from read(self.source, self.how, on_bad_row=on_note, on_note=on_note)

    def _checked(self, on_note: Callable[[str], None]) -> Iterator[list[Row]]:
        """All rows, once it is sure that all can be read; few of them are not read again."""
        skipped: list[str] = []
        unread = read(self.source, self.how, on_bad_row=skipped.append, on_note=on_note)
        kept = list(islice(unread, KEPT_CHUNKS))
        if deque(unread, maxlen=1):  # read to its end, and there is more
            yield from read(self.source, self.how, on_bad_row=on_note)
            return
        for sentence in skipped:
            on_note(sentence)
        yield from kept

    def estimate(self, order: Order) -> "Estimate":
        """Tokens and price of the order that these are the rows of."""
        from tidemill.producer.asking.estimate import estimate  # for a dry run only

        return estimate(order)


def order_for(
    prompt: str | None,
    input_: str | Files | None,
    options: AskOptions,
    how: ReadOptions | None = None,
    *,
    name: str | None = None,
    assistant: str | None = None,
    no_assistant: bool = False,
    dialogue: int | None = None,
    priority: int = 0,
    new: bool = False,
    moved_from: str | None = None,
    spending: Spending = UNSAID,
) -> Order:
    """The order of the command line: one prompt, or the rows of an input.

    Args:
        prompt, input_: exactly one of them.
        options: checked; None means not set.
        how: which column or template, and which rows.
        name: what to call the batch.
        assistant, no_assistant: whose instructions, model and options fill what is not set.
        dialogue: the id of any turn of the dialogue that the prompts continue.
        priority, new, moved_from, spending: as for `Order`.

    Raises:
        InputError: prompt and input are both there or both missing, the prompt is empty, or there is no such
            assistant or dialogue.
    """
    how = how or ReadOptions()
    files = None if input_ is None else files_of(input_)
    if prompt is not None and files is not None:
        raise InputError(f"A prompt and the file {files} were given, and a run asks one of them: drop the other.")
    if prompt is None and files is None:
        raise InputError("Give a prompt, or a file of prompts with -i: tidemill ask 'Why is the sky blue?'")
    if prompt is not None:
        _check_prompt(prompt, how)
        text = piped_text(say)
        prompt = f"{text}\n\n{prompt}" if text else prompt
    complete = complete_options(options, assistant, no_assistant=no_assistant, dialogue=dialogue)
    own_source: str | None
    if prompt is not None:
        source: Source = [prompt]
        own_name = "prompt"
        content = unix_lines(prompt).encode(errors="surrogatepass")
        own_source = f"prompt {hashlib.sha256(content).hexdigest()}"
    else:
        assert files is not None
        source, own_name, own_source = files, files.name, files.known_by
    order = Order(
        options=complete.options,
        rows=Prompts(source, how),
        name=name or own_name,
        source_name=name or own_source,
        priority=priority,
        new=new,
        moved_from=moved_from,
        assistant_id=complete.assistant_id,
        on_bad_row=say,
        spending=spending,
    )
    return order if dialogue is None else as_turns(order, name)


def _check_prompt(prompt: str, how: ReadOptions) -> None:
    """Refuse a prompt that is none, and what can only be about the rows of a file."""
    if not prompt.strip():
        raise InputError("The prompt is empty; write it in quotes, or name a file of prompts with -i.")
    if prompt.strip() == "-":
        raise InputError("The prompt is -: write -i - to read prompts from standard input.")
    if Path(prompt).suffix and os.path.isfile(prompt):  # noqa: PTH113  # Path's may raise
        raise InputError(f"{prompt} is a file: -i {prompt} asks its rows; a blank at the end asks the mere words.")
    for flag, value in (("--column", how.column), ("-t", how.template), ("--format", how.format)):
        if value is not None:
            raise InputError(
                f"{flag} is about the rows of a file, and a prompt was given: drop it, or name a file with -i."
            )


def as_turns(order: Order, name: str | None) -> Order:
    """The order, its prompts being the next turns of the dialogue in its options.

    Raises:
        InputError: the next turn cannot be asked.
    """
    dialogue, rows = order.options.dialogue, order.rows
    assert dialogue is not None
    assert isinstance(rows, Prompts)
    typed = rows.source if isinstance(rows.source, list) and rows.is_one else ()
    continuing.check(order.options, [prompt for prompt in typed if isinstance(prompt, str)])
    if (sentence := continuing.other_server(dialogue)) is not None:
        order.on_bad_row(sentence)
    source_name = continuing.source_name(dialogue, rows.source, name)
    return replace(order, name=name or f"dialogue {dialogue}", source_name=source_name)
