"""A worker says in one sentence why it cannot start, or what it can do without, whatever starts it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, WARNING
from typing import BinaryIO

from tidemill.migrations import ensure
from tidemill.models import blobs, journal
from tidemill.models.call_settings import check_client
from tidemill.models.cost import load_prices
from tidemill.models.database import transact
from tidemill.models.errors import TidemillError
from tidemill.models.lines import note
from tidemill.models.reservations import reconsider
from tidemill.models.settings import settings
from tidemill.models.text import printable

_is_json = False
"""Whether the log is one of JSON, so that a plain sentence would spoil it."""


def show_log() -> None:
    """Show the log on stderr in the form of the setting. Raises TidemillError if a setting cannot work."""
    global _is_json
    journal.show_in_worker()
    _is_json = settings().log == "json"


@contextmanager
def or_exit() -> Iterator[None]:
    """End the process with the sentence of an error."""
    try:
        yield
    except TidemillError as error:
        say(error, level=ERROR, event="cannot_start")
        sys.exit(error.exit_code)


def check() -> None:
    """Raise TidemillError if no call could be made or stored; a store of pictures that is away is only said."""
    check_client(settings())
    ensure()
    transact(reconsider)
    load_prices()  # a claim under a budget needs them before the first call
    try:
        blobs.check()
    except blobs.BlobError as error:
        say(error)


def missing_key() -> str | None:
    """That there is no key for a server that is likely to need one, in a sentence; None otherwise."""
    if settings().openai_api_key is not None or not settings().openai_base_url.startswith("https:"):
        return None
    return (
        f"OPENAI_API_KEY is not set, so {settings().provider} is called without a key. If it needs one, set it and "
        "start the worker again; until then rows wait on hold."
    )


def say(sentence: object, *, level: int = WARNING, event: str = "starting") -> None:
    """Say a sentence on stderr: as it is, before or beside the log, or as a line of a log of JSON."""
    if _is_json:
        note(level, event, str(sentence))
    else:
        print(f"tidemill: {printable(str(sentence))}", file=sys.stderr, flush=True)  # noqa: T201


def pipe() -> BinaryIO | None:
    """The pipe to the process that started this one, where that serves metrics: the number is the second argument."""
    return os.fdopen(int(sys.argv[2]), "wb") if len(sys.argv) > 2 else None
