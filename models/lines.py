"""A log line holds names and errors of strangers, and must stay one harmless line: as text, or as JSON for machines.

Each line of ours is an event with a stable name and fields, written by `note`. docs/operating.md has a row for each.
"""

import json
import logging
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from tidemill.models.text import printable

Field = str | int | float | None

_Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
"""As `sys.exc_info` has it."""

_OURS = logging.getLogger("tidemill")
_SELDOM_SECONDS = 60.0


def note(level: int, event: str, sentence: str, **fields: Field) -> None:
    """Log an event of ours: its name, a sentence, and what stands in it as fields.

    Neither may hold a prompt, a reply or a key.
    """
    _OURS.log(level, "%s", sentence, extra={"event": event, "fields": fields})


class Seldom:
    """Notes what several threads, or one again and again, would say of the same trouble: once a minute."""

    def __init__(self) -> None:
        self._noted_at: dict[tuple[str, str], float] = {}

    def note(self, level: int, event: str, sentence: str, about: str, **fields: Field) -> None:
        """As `note`, unless this event was noted about the same thing within the last minute."""
        at, key = time.monotonic(), (event, about)
        self._noted_at = {each: then for each, then in self._noted_at.items() if at - then < _SELDOM_SECONDS}
        if key not in self._noted_at:
            self._noted_at[key] = at
            note(level, event, sentence, **fields)


def place_of(error: BaseException) -> str:
    """The kind of an error and where it was raised; its text may hold what a row says."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


class Lines(logging.Formatter):
    """Formats each record as one line; a traceback, where there is one, follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # as logging calls it
        """The line, without characters that could act, hide or begin another line."""
        return printable(super().formatMessage(record)).replace("\n", "\\n")

    def formatException(self, ei: _Raised) -> str:  # noqa: N802
        """The traceback without the error's text, which may hold what a row says."""
        kind, _, frames = ei
        return printable("".join([*traceback.format_tb(frames), kind.__name__ if kind else ""]))


class JsonFormatter(Lines):
    """Formats each record as one JSON object, those of libraries, too.

    `time` (UTC), `level`, `event` and `message` are always there, then the event's fields. The event of a library's
    line is `library`, and `logger` names it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The object, in ASCII: nothing in it can act or begin another line."""
        event: str | None = getattr(record, "event", None)
        line: dict[str, Field] = {
            "time": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": event or "library",
            "message": record.getMessage(),
            **({} if event else {"logger": record.name}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
