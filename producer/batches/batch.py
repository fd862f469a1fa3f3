"""Rows that were submitted together are followed, read and saved as one thing, in scripts and by commands."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.models.rereading import reread_settings
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.producer.batches.answer_file import AnswerFile
from tidemill.producer.batches.follow import follow
from tidemill.producer.batches.progress import Progress, progress, resolve
from tidemill.producer.batches.results import to_frame
from tidemill.producer.batches.stored_rows import columns_of, rows_of, rows_with_keys
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
    """The dialogue that they continue."""
    keys: tuple[str, ...] | None = field(default=None, compare=False, repr=False)
    """Of rows of a frame: what each is known by, in the frame's order."""
    index: "pd.Index | None" = field(default=None, compare=False, repr=False)
    """Of rows of a frame: their labels in it."""

    @property
    def scope(self) -> Scope:
        """The rows, for the feed and for counting."""
        return Scope(self.id, self.submission, self.dialogue_id)

    def wait(self, *, window: int | None = None, display: Display | None = None) -> Progress:
        """Return once every row has ended; without a broker, a worker runs inside this call.

        It takes up what the environment says now. Several waits in one process, on threads, share one worker; the
        window of the first one counts for all.

        Raises:
            SettingsError: the environment has changed so that no call can be made, or while others wait.
            InputError: the database has no such batch, or OPENAI_BASE_URL names another server than the batch's.
            DatabaseError: the database could not be used for half a minute; nothing is lost.
        """
        reread_settings()
        resolve(self.id)
        with display or Quiet() as shown:
            return follow(self.scope, window or settings().window, shown)

    def progress(self) -> Progress:
        """How far it is, now."""
        return progress(self.scope)

    def to_frame(self) -> "pd.DataFrame":
        """Input and answers side by side, in input order; what was asked from a frame has that frame's index.

        So `frame["reply"] = batch.to_frame()["reply"]` puts each answer beside its prompt. Rows that were skipped or
        cut off by a limit are not there.
        """
        if self.keys is not None and self.index is not None:
            return to_frame(rows_with_keys(self.id, self.submission, self.keys)).set_axis(self.index)
        frame = to_frame(rows_of(self.id, self.submission))
        return frame if len(frame) else frame.reindex(columns=columns_of(self.id))

    def save(self, path: str | Path, *, escape_formulas: bool = False) -> int:
        """Write the rows to a .jsonl, .csv or .parquet file; returns how many there are.

        With `escape_formulas`, text in CSV that a spreadsheet would run as a formula gets a `'` before it.
        """
        with AnswerFile(self.id, self.submission, str(path), escape_formulas=escape_formulas) as file:
            return file.finish()
