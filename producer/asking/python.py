"""Scripts and notebooks submit the same batches as the command line, with the same ids: `from tidemill import ask`."""

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Unpack, cast

from tidemill import migrations
from tidemill.models.allowed import check_names, check_values
from tidemill.models.options import AskOptions
from tidemill.models.rereading import reread_settings
from tidemill.producer.asking.prompts import Prompts, as_turns
from tidemill.producer.asking.question import complete_options
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.submit import open_batch, submit
from tidemill.producer.intake.sources import files_of
from tidemill.producer.intake.tables import ReadOptions, Source, as_frame, is_frame
from tidemill.producer.screen.display import say

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ask"]


def ask(
    source: "Source | pd.Series",
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
    assistant: str | None = None,
    no_assistant: bool = False,
    dialogue: int | None = None,
    **options: Unpack[AskOptions],
) -> Batch:
    """Submit prompts and return their batch at once; `wait()` on it runs or watches the work.

    Args:
        source: a DataFrame, a Series, prompts, rows as mappings, or the path, glob or URL of a file (a plain string is
            one); a list of `Path`s is several files.
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
        assistant: whose instructions, model and options fill what is not set; None for the default one.
        no_assistant: ask without the default one too.
        dialogue: the id of any turn of a dialogue; the prompts become its next turns.
        **options: how to ask: the fields of `AskOptions`; None means not set.

    Raises:
        OptionError: there is no such option, or not with that value; nothing has been read or stored.
        InputError, SettingsError, DatabaseError: one sentence that says what to fix; nothing is lost.
    """
    reread_settings()
    check_names(options, (*AskOptions.__annotations__, *_PARAMETERS))
    check_values({**options, "limit": limit, "priority": priority})
    migrations.ensure()
    source = as_frame(source)
    files = files_of(source)
    complete = complete_options(options, assistant, no_assistant=no_assistant, dialogue=dialogue)
    if dialogue is not None and files is None and not hasattr(source, "columns"):
        source = cast("Source", list(cast("Iterable[object]", source)))  # they are looked at before they are read
    order = Order(
        options=complete.options,
        rows=Prompts(files or source, ReadOptions(column, template, skip_bad_rows, limit, format)),
        name=name or (files.name if files else "frame"),
        source_name=name or (files.known_by if files else None),
        priority=priority,
        new=new,
        moved_from=moved_from,
        assistant_id=complete.assistant_id,
        on_bad_row=say,
    )
    if dialogue is not None:
        order = as_turns(order, name)
    opened = open_batch(order)
    if not is_frame(source):
        submit(opened)
        return Batch(opened.batch_id, opened.submission, order.options.dialogue)
    opened.tally.keys = []
    submit(opened)
    keys = tuple(key for _, key in opened.tally.keys)
    index = source.index.take([number - 1 for number, _ in opened.tally.keys])
    return Batch(opened.batch_id, opened.submission, order.options.dialogue, keys, index)


_PARAMETERS = [name for name in inspect.signature(ask).parameters if name not in ("source", "options")]
"""What `ask` takes besides options: a misspelt option may mean one of them."""
