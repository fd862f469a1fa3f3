"""A worker says in one sentence why it cannot start, or what it can do without, whatever starts it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tidemill.migrations import ensure
from tidemill.models import blobs
from tidemill.models.errors import TidemillError
from tidemill.models.provider import check_client
from tidemill.models.settings import settings
from tidemill.models.text import printable


@contextmanager
def or_exit() -> Iterator[None]:
    """End the process with the sentence of an error."""
    try:
        yield
    except TidemillError as error:
        say(error)
        sys.exit(error.exit_code)


def check() -> None:
    """Raise TidemillError if no call could be made or stored; a store of pictures that is away is only said."""
    check_client(settings())
    ensure()
    try:
        blobs.check()
    except blobs.BlobError as error:
        say(error)


def say(sentence: object) -> None:
    """Print a sentence to stderr: logging may not be set up yet."""
    print(f"tidemill: {printable(str(sentence))}", file=sys.stderr)  # noqa: T201
