"""A log line holds names and errors of strangers, and must stay one harmless line."""

import logging

from tidemill.models.text import printable


class Lines(logging.Formatter):
    """Formats each record as one line; a traceback, where there is one, follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # as logging calls it
        """The line, without characters that could act, hide or begin another line."""
        return printable(super().formatMessage(record)).replace("\n", "\\n")

    def formatException(self, ei: object) -> str:  # noqa: N802
        """The traceback."""
        return printable(super().formatException(ei))  # type: ignore[arg-type]
