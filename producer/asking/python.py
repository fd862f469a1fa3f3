"""Scripts and notebooks submit the same batches as the command line, with the same ids: `from tidemill import ask`."""

import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from tidemill import migrations
from tidemill.models.allowed import check_names, check_values
from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.models.options import AskOptions
from tidemill.models.rereading import reread_settings
from tidemill.models.text import one_line
from tidemill.producer.asking import dialogues
from tidemill.producer.asking.prompts import Prompts, as_turns
from tidemill.producer.asking.python_words import in_python_words
from tidemill.producer.asking.question import complete_options
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.off_the_loop import off_the_loop
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.spending import Spending, spending_of
from tidemill.producer.batches.submit import open_batch, submit
from tidemill.producer.batches.typed_answers import as_options
from tidemill.producer.intake.arrow_tables import Table
from tidemill.producer.intake.sources import files_of
from tidemill.producer.intake.tables import ArrowTable, ReadOptions, Source, as_frame, is_frame
from tidemill.producer.screen.display import say

if TYPE_CHECKING:
    import pandas as pd

    from tidemill.producer.asking.estimate import Estimate

    PromptSource = str | Path | pd.DataFrame | pd.Series | ArrowTable | Iterable[str] | Iterable[Mapping[str, object]]

__all__ = ["Dialogue", "aask", "adialogue", "aestimate", "ask", "dialogue", "estimate"]


@in_python_words
def ask(
    source: "PromptSource",
    *,
    column: str | None = None,
    template: str | None = None,
    name: str | None = None,
    priority: int = 0,
    new: bool = False,
    moved_from: str | None = None,
    limit: int | None = None,
    skip_bad_rows: bool = False,
    format: str | None = None,  # noqa: A002  # as the flag is called
    sheet: str | None = None,
    assistant: str | None = None,
    no_assistant: bool = False,
    dialogue: int | None = None,
    budget: str | float | None = None,
    route: str | None = None,
    deadline: str | float | None = None,
    **options: Unpack[AskOptions],
) -> Batch:
    """Submit prompts and return their batch at once; `wait()` on it runs or watches the work.

        batch = tidemill.ask(frame, column="text", system="Yes or no?", max_tokens=5)

    Args:
        source: a frame, table or column of pandas, polars or Arrow; prompts; rows as mappings; or the path, glob or URL
            of a file (a plain string is one). A list of `Path`s is several files.
        column: the column that holds the prompt, as `--column`.
        template: a prompt with `{column}` placeholders, as `-t`.
        name: what to call the batch; together with the options it is also what the batch is found by again.
        priority: higher goes first.
        new: begin a new batch, even where these prompts have been asked before.
        moved_from: the address that the server had when the batch was begun, such as "localhost:8000/v1"; the batch
            goes on at its address of today.
        limit: submit the first rows only.
        skip_bad_rows: leave out rows that cannot be used.
        format: what the file is, as `--format`; None: by its name and how it begins.
        sheet: name or number of a workbook's sheet; None for the first one.
        assistant: whose instructions, model and options fill what is not set; None for the default one.
        no_assistant: ask without the default one too.
        dialogue: the id of any turn of a dialogue; the prompts become its next turns.
        budget: US dollars that the batch may cost at most, as `--budget`.
        route: online, flex, batch, 2h, 8h or auto, as `--route`.
        deadline: a duration such as "6h", or seconds, as `--deadline`.
        **options: how to ask: the fields of `AskOptions`; None means not set. `schema` is a JSON schema, or a class of
            fields (a pydantic model, a dataclass, a TypedDict), whose objects `Batch.parsed()` gives.

    Raises:
        OptionError: there is no such option, or not with that value; nothing has been read or stored.
        InputError, SettingsError, DatabaseError: one sentence that says what to fix; nothing is lost.
    """
    how = ReadOptions(column, template, skip_bad_rows, limit, format, sheet)
    order, rows, schema = _order_of(
        source,
        options,
        how,
        spending_of(budget, route, deadline),
        name=name,
        priority=priority,
        new=new,
        moved_from=moved_from,
        assistant=assistant,
        no_assistant=no_assistant,
        dialogue=dialogue,
    )
    return submit_all(order, rows, schema)


def _order_of(
    source: "PromptSource",
    options: AskOptions,
    how: ReadOptions,
    spending: Spending,
    *,
    name: str | None,
    priority: int,
    new: bool,
    moved_from: str | None,
    assistant: str | None,
    no_assistant: bool,
    dialogue: int | None,
) -> tuple[Order, object, type[Any] | None]:
    """What a caller asks for as an order, what its rows are read from, and the class that answers are to fit."""
    reread_settings()
    checked, schema = checked_options(options, AskOptions, _PARAMETERS, limit=how.limit, priority=priority)
    _check_path(source)
    migrations.ensure()
    rows = as_frame(source)
    files = files_of(rows)
    complete = complete_options(cast("AskOptions", checked), assistant, no_assistant=no_assistant, dialogue=dialogue)
    if dialogue is not None and files is None and not is_frame(rows):
        rows = cast("Source", list(cast("Iterable[object]", rows)))  # they are looked at before they are read
    order = Order(
        options=complete.options,
        rows=Prompts(files or rows, how),
        name=name or (files.name if files else "frame"),
        source_name=name or (files.known_by if files else None),
        priority=priority,
        new=new,
        moved_from=moved_from,
        assistant_id=complete.assistant_id,
        on_bad_row=say,
        spending=spending,
    )
    return order if dialogue is None else as_turns(order, name), rows, schema


def _check_path(source: object) -> None:
    """Refuse what looks like a prompt in the place of a file."""
    if isinstance(source, str) and any(map(str.isspace, source)) and "://" not in source and "*" not in source:
        path = source.replace("\0", "")
        if not os.path.exists(path):  # noqa: PTH110  # Path's may raise
            raise InputError(
                f"There is no file {one_line(source, 80)!r}, and a string is a path; a prompt goes into a list: "
                f"ask([{one_line(source, 40)!r}])."
            )


def checked_options(
    options: Mapping[str, object], kind: type[Any], parameters: Iterable[str], **numbers: object
) -> tuple[JsonObject, type[Any] | None]:
    """A caller's options, with a JSON schema in the place of a class; and the class.

    Args:
        options: as they were passed.
        kind: the TypedDict of `models.options` that has them.
        parameters: what else the caller may have meant.
        **numbers: of those, what is checked as an option is.

    Raises:
        OptionError: there is no such option, or not with that value.
    """
    check_names(options, (*kind.__annotations__, *parameters))
    checked, schema = as_options(options)
    check_values({**checked, **numbers})
    return checked, schema


def submit_all(order: Order, rows: object, schema: type[Any] | None) -> Batch:
    """Store all rows of an order; the batch knows the order of those that are from a frame or a table.

    Args:
        order: is submitted.
        rows: what its rows are read from.
        schema: the class that the answers are asked to fit.
    """
    opened = open_batch(order)
    if not (is_frame(rows) or isinstance(rows, Table)):
        submit(opened)
        return Batch(opened.batch_id, opened.submission, order.options.dialogue, schema=schema)
    opened.tally.keys = []
    submit(opened)
    keys = tuple(key for _, key in opened.tally.keys)
    index = rows.index.take([number - 1 for number, _ in opened.tally.keys]) if is_frame(rows) else None
    return Batch(opened.batch_id, opened.submission, order.options.dialogue, keys, index, schema)


@in_python_words
def estimate(
    source: "PromptSource",
    *,
    column: str | None = None,
    template: str | None = None,
    name: str | None = None,
    priority: int = 0,
    new: bool = False,
    moved_from: str | None = None,
    limit: int | None = None,
    skip_bad_rows: bool = False,
    format: str | None = None,  # noqa: A002  # as the flag is called
    sheet: str | None = None,
    assistant: str | None = None,
    no_assistant: bool = False,
    dialogue: int | None = None,
    budget: str | float | None = None,
    route: str | None = None,
    deadline: str | float | None = None,
    **options: Unpack[AskOptions],
) -> "Estimate":
    """What `ask` with the same arguments would cost; nothing is sent or stored. As `--dry-run`.

        print(tidemill.estimate("prompts.csv", max_tokens=200).text())

    Args:
        source: as for `ask`, as are all others.

    Returns:
        Estimate: `rows`, `to_send`, `input_tokens`, `input_usd`, `total_usd` (the most; None if it has no bound), and
            `reach`: how many rows fit into a budget, `surely` and `probably`.

    Raises:
        OptionError, InputError, SettingsError: as `ask`.
    """
    how = ReadOptions(column, template, skip_bad_rows, limit, format, sheet)
    order, _, _ = _order_of(
        source,
        options,
        how,
        spending_of(budget, route, deadline),
        name=name,
        priority=priority,
        new=new,
        moved_from=moved_from,
        assistant=assistant,
        no_assistant=no_assistant,
        dialogue=dialogue,
    )
    return cast("Prompts", order.rows).estimate(order)


# --- dialogues ---


@dataclass(frozen=True, slots=True)
class Dialogue:
    """All turns of a dialogue; each look reads what is stored by then."""

    id: int
    """The number of its first turn."""

    @property
    def messages(self) -> list[JsonObject]:
        """What was said, in the shape of Chat Completions: `[{"role": "user", "content": "Why?"}, ...]`."""
        return dialogues.whole(self.id).messages

    @property
    def turns(self) -> list[JsonObject]:
        """Its turns: `id`, `batch`, `model`, `sentiment` (None: not judged yet), `sentiment_score`, `created_at`."""
        return dialogues.whole(self.id).turns

    @property
    def sentiment(self) -> str | None:
        """How its last reply is judged: positive, negative, neutral or unknown; None: not yet."""
        return cast("str | None", self.turns[-1]["sentiment"])

    def ask(self, prompt: str, **options: Unpack[AskOptions]) -> Batch:
        """Ask the next turn: a batch of one row, as `tidemill.ask([prompt], dialogue=...)` makes it.

            tidemill.dialogue(17).ask("And then?").wait()

        Raises:
            OptionError, InputError, SettingsError, DatabaseError: as `tidemill.ask`.
        """
        return ask([prompt], dialogue=self.id, **options)


def dialogue(turn: int) -> Dialogue:
    """The dialogue that has this turn.

        tidemill.dialogue(17).messages[-1]["content"]

    Args:
        turn: the number of any turn, as `Batch.turn` and the command line have it.

    Raises:
        InputError: there is no such turn.
    """
    reread_settings()
    migrations.ensure()
    return Dialogue(dialogues.root_of(turn))


aask, aestimate, adialogue = off_the_loop(ask), off_the_loop(estimate), off_the_loop(dialogue)

_PARAMETERS = [name for name in inspect.signature(ask).parameters if name not in ("source", "options")]
"""What `ask` takes besides options: a misspelt option may mean one of them."""
