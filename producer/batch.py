"""Why this module exists: the same batches in a notebook or script as on the command line, with the same ids."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import migrations
from models.errors import SettingsError
from models.feed import Scope
from models.options import Options
from models.settings import Endpoint, Transport, settings
from producer.display import Display, Quiet
from producer.follow import follow
from producer.intake import Reading
from producer.progress import Progress, progress
from producer.results import columns_of, rows_of, to_frame, write
from producer.submit import Order, open_batch, submit

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows submitted together, as this submission held them."""

    id: str
    submission: int = 0
    """Rows that this submission or a later one held; 0 for all."""

    @property
    def scope(self) -> Scope:
        """The rows, for the feed and for counting."""
        return Scope(batch_id=self.id, submission=self.submission)

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


def begin(source: Any, *, name: str | None, new: bool, priority: int, options: Mapping[str, Any], **how: Any) -> Batch:
    """Submit all rows of a source; see `producer.ask`."""
    migrations.ensure()
    is_path = isinstance(source, str | Path) and str(source) != "-"
    order = Order(
        options=make_options(options),
        source=source,
        reading=Reading(**how),
        name=name or (Path(source).stem if is_path else "frame"),
        source_name=name or (str(Path(source).resolve()) if is_path else None),
        priority=priority,
        new=new,
        on_bad_row=lambda sentence: print(f"tidemill: {sentence}", file=sys.stderr),
    )
    opened = open_batch(order)
    submit(opened)
    return Batch(opened.batch_id, opened.submission)


_ALLOWED: dict[str, tuple[str, ...]] = {"endpoint": get_args(Endpoint), "transport": get_args(Transport)}


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
