"""The same batches in a notebook or script as on the command line, with the same ids."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from tidemill import migrations
from tidemill.models.errors import SettingsError
from tidemill.models.options import Options, Trim
from tidemill.models.scope import Scope
from tidemill.models.settings import Endpoint, Transport, settings
from tidemill.producer.asking import assistants, continuing, prompts
from tidemill.producer.batches.follow import follow
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.progress import Progress, progress
from tidemill.producer.batches.results import columns_of, rows_of, to_frame, write
from tidemill.producer.batches.submit import open_batch, submit
from tidemill.producer.intake.tables import ReadOptions
from tidemill.producer.screen.display import Display, Quiet

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows submitted together, as this submission held them."""

    id: str
    submission: int = 0
    """Rows that this submission or a later one held; 0 for all."""
    dialogue_id: int | None = None
    """The dialogue that they go on."""

    @property
    def scope(self) -> Scope:
        """The rows, for the feed and for counting."""
        return Scope(self.id, self.submission, self.dialogue_id)

    def wait(self, *, window: int | None = None, display: Display | None = None) -> Progress:
        """Return once every row has ended; without a broker the worker runs inside this call."""
        with display or Quiet() as shown:
            return follow(self.scope, window or settings().window, shown)

    def progress(self) -> Progress:
        """How far it is, now."""
        return progress(self.scope)

    def to_frame(self) -> "pd.DataFrame":
        """Input and answers side by side, in input order."""
        frame = to_frame(rows_of(self.id, self.submission))
        return frame if len(frame) else frame.reindex(columns=columns_of(self.id))

    def save(self, path: str | Path) -> int:
        """Write the rows to a .jsonl, .csv or .parquet file; returns how many there are."""
        return write(rows_of(self.id, self.submission), str(path), columns_of(self.id))


def begin(
    source: Any,
    *,
    name: str | None,
    new: bool,
    priority: int,
    options: Mapping[str, Any],
    assistant: str | None = None,
    no_assistant: bool = False,
    dialogue: int | None = None,
    **how: Any,
) -> Batch:
    """Submit all rows of a source; see `producer.ask`."""
    migrations.ensure()
    is_path = isinstance(source, str | Path) and str(source) != "-"
    if dialogue is not None and not is_path and not hasattr(source, "columns"):
        source = list(source)  # it is looked at before it is read
    chosen = asked_with(options, assistant, no_assistant=no_assistant, dialogue=dialogue)
    order = Order(
        options=chosen.options,
        rows=prompts.Prompts(source, ReadOptions(**how)),
        name=name or (Path(source).stem if is_path else "frame"),
        source_name=name or (str(Path(source).resolve()) if is_path else None),
        priority=priority,
        new=new,
        assistant_id=chosen.assistant_id,
        on_bad_row=lambda sentence: print(f"tidemill: {sentence}", file=sys.stderr),
    )
    if dialogue is not None:
        order = prompts.as_turns(order, name)
    opened = open_batch(order)
    submit(opened)
    return Batch(opened.batch_id, opened.submission, order.options.dialogue)


class AskedWith(NamedTuple):
    """Options that are complete, and the assistant that some of them are from."""

    options: Options
    assistant_id: int | None


def asked_with(
    said: Mapping[str, Any], assistant: str | None, *, no_assistant: bool, dialogue: int | None = None
) -> AskedWith:
    """What a batch is asked with: what was said, then what its assistant says, then how its dialogue began.

    Raises:
        InputError: there is no such assistant or dialogue.
        SettingsError: as `make_options`.
    """
    root = None if dialogue is None else continuing.root(dialogue)
    if root is None and said.get("trim") is not None:
        raise SettingsError("--trim is about the turns of a dialogue; name one with --dialogue.")
    below = None if root is None else assistants.Chosen(root.options, root.assistant_id)
    chosen = assistants.choose(said, assistant, no_assistant=no_assistant, below=below)
    going_on = {} if root is None else {"dialogue": root.id}
    return AskedWith(make_options(chosen.options | going_on), chosen.assistant_id)


_ALLOWED: dict[str, tuple[str, ...]] = {
    "endpoint": get_args(Endpoint),
    "transport": get_args(Transport),
    "trim": get_args(Trim),
}


def make_options(given: Mapping[str, Any]) -> Options:
    """Options from keyword arguments, those that are None left out.

    Raises:
        SettingsError: there is no option of that name, or not with that value.
    """
    known = {each.name for each in fields(Options)}
    if unknown := given.keys() - known:
        raise SettingsError(
            f"There is no option {', '.join(sorted(unknown))}; the options are {', '.join(sorted(known))}."
        )
    said = {name: value for name, value in given.items() if value is not None}
    for name, allowed in _ALLOWED.items():
        if said.get(name, allowed[0]) not in allowed:
            raise SettingsError(f"--{name} is {said[name]!r}; it must be {' or '.join(allowed)}.")
    return Options(**{"model": settings().model, **said})
