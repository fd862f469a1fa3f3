"""Scripts and notebooks have pictures described as the command line has: `from tidemill import describe`."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, cast

from tidemill import migrations
from tidemill.models.options import DescribeOptions
from tidemill.models.rereading import reread_settings
from tidemill.producer.asking.python import checked_options, submit_all
from tidemill.producer.asking.python_words import in_python_words
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.off_the_loop import off_the_loop
from tidemill.producer.batches.spending import spending_of
from tidemill.producer.describing import captioning
from tidemill.producer.describing.picture_files import Pictures
from tidemill.producer.intake.formats import ENDINGS
from tidemill.producer.intake.tables import ArrowTable, Source, as_frame

if TYPE_CHECKING:
    import pandas as pd

    Places = str | Path | Iterable[str | Path] | pd.DataFrame | pd.Series | ArrowTable | Iterable[Mapping[str, object]]

__all__ = ["adescribe", "describe"]


@in_python_words
def describe(
    source: "Places",
    *,
    recursive: bool = False,
    exclude: Sequence[str] = (),
    column: str | None = None,
    format: str | None = None,  # noqa: A002  # as the flag is called
    sheet: str | None = None,
    preset: str | None = None,
    fetch: bool = False,
    name: str | None = None,
    priority: int = 0,
    new: bool = False,
    moved_from: str | None = None,
    limit: int | None = None,
    assistant: str | None = None,
    no_assistant: bool = False,
    budget: str | float | None = None,
    route: str | None = None,
    deadline: str | float | None = None,
    **options: Unpack[DescribeOptions],
) -> Batch:
    """Submit pictures and return their batch at once; `wait()` on it runs or watches the work.

        batch = tidemill.describe("photos/", recursive=True, preset="alt-text")

    Args:
        source: the path of a picture or a folder, or a URL, or several of them; or a table of paths: a frame, table or
            column of pandas, polars or Arrow, rows as mappings, or a file whose name ends as a table's does (.csv).
        recursive: include the folders in a folder.
        exclude: globs of names or paths that are left out.
        column: the table's column that holds the paths.
        format, sheet: what the file of a table is, and which sheet of a workbook, as `--format` and `--sheet`.
        preset: caption, alt-text, tags or json, for what `prompt` and `schema` do not say.
        fetch: fetch URLs here, and send the pictures.
        name, priority, new, moved_from, limit, assistant, no_assistant: as for `tidemill.ask`; `limit` counts pictures.
        budget, route, deadline: as for `tidemill.ask`.
        **options: how to ask: the fields of `DescribeOptions`; None means not set.

    Raises:
        OptionError: there is no such option, or not with that value; nothing has been read or stored.
        InputError, SettingsError, DatabaseError, BlobError: one sentence that says what to fix; nothing is lost.
    """
    reread_settings()
    checked, schema = checked_options(options, DescribeOptions, _PARAMETERS, limit=limit, priority=priority)
    spending = spending_of(budget, route, deadline)
    migrations.ensure()
    paths, table = _paths_or_table(source, is_table=format is not None or sheet is not None)
    order = captioning.order_for(
        Pictures(paths, table, column, recursive, fetch, limit, format, exclude=tuple(exclude), sheet=sheet),
        checked,
        preset=preset,
        name=name,
        assistant=assistant,
        no_assistant=no_assistant,
        priority=priority,
        new=new,
        moved_from=moved_from,
        spending=spending,
    )
    return submit_all(order, table, schema)


def _paths_or_table(source: object, *, is_table: bool) -> "tuple[tuple[str, ...], Source | None]":
    if isinstance(source, str | Path):
        is_table = is_table or ("://" not in str(source) and Path(source).suffix.lower() in ENDINGS)
        return ((), source) if is_table else ((str(source),), None)
    table = as_frame(cast("Source", source), "path")
    if isinstance(table, list | tuple | set) and all(isinstance(each, str | Path) for each in table):
        return tuple(map(str, table)), None
    return (), table


adescribe = off_the_loop(describe)

_PARAMETERS = [name for name in inspect.signature(describe).parameters if name not in ("source", "options")]
"""What `describe` takes besides options: a misspelt option may mean one of them."""
