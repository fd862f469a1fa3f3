"""The same batches in a notebook or script as on the command line: what `from tidemill import ask` is."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from tidemill.producer.batches.batch import Batch

__all__ = ["ask"]


def ask(
    source: "str | Path | pd.DataFrame | Iterable[str] | Iterable[Mapping[str, Any]]",
    *,
    column: str | None = None,
    template: str | None = None,
    name: str | None = None,
    priority: int = 0,
    new: bool = False,
    limit: int | None = None,
    skip_bad_rows: bool = False,
    assistant: str | None = None,
    no_assistant: bool = False,
    dialogue: int | None = None,
    **options: Any,
) -> "Batch":
    """Submit prompts and return their batch at once; `wait()` on it runs or watches the work.

    Args:
        source: a DataFrame, prompts, rows as mappings, or the path of a file (a plain string is a path).
        column: the column that holds the prompt, as `--column`.
        template: a prompt with `{column}` placeholders, as `-t`.
        name: what to call the batch; together with the options it is also what the batch is found by again.
        priority: higher goes first.
        new: begin a new batch even where this one has been asked before.
        limit: submit the first rows only.
        skip_bad_rows: go on without rows that cannot be used.
        assistant: the name of one, whose instructions, model and options fill what is not said; else the default one.
        no_assistant: take not even the default one.
        dialogue: the id of any turn of a dialogue; the prompts become its next turns.
        **options: fields of `models.options.Options`: model, system, temperature, max_tokens, reasoning_effort,
            params, schema, endpoint, transport, rpm, tpm, trim.

    Raises:
        InputError, SettingsError, DatabaseError: one sentence that says what to mend; nothing is lost.
    """
    from tidemill.producer.batches.batch import begin

    return begin(
        source,
        column=column,
        template=template,
        name=name,
        priority=priority,
        new=new,
        limit=limit,
        skip_bad_rows=skip_bad_rows,
        assistant=assistant,
        no_assistant=no_assistant,
        dialogue=dialogue,
        options=options,
    )
