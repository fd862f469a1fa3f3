"""TAB completes ids of batches and names of assistants from the database; where it cannot read it, it says nothing."""

import io
import threading
from contextlib import redirect_stderr, suppress
from typing import Any

MOST = 50
"""Words at once; a person types one more letter to see others."""

_SECONDS = 2.0
"""How long TAB may take: a person waits, and a server may be away."""

Words = list[tuple[str, str]]
"""What may stand there, each with what a shell may show beside it."""


def batch_ids(incomplete: str) -> Words:
    """`latest`, and ids of batches, the newest first, each with its name."""

    def statement() -> Any:
        from sqlalchemy import select

        from tidemill.models.tables import batches

        fitting = batches.c.id.startswith(incomplete, autoescape=True)
        return select(batches.c.id, batches.c.name).where(fitting).order_by(batches.c.created_at.desc()).limit(MOST)

    return [("latest", "the newest batch"), *_in_time(statement)]


def budget_names(incomplete: str) -> Words:
    """What may have a cap: a day, all, or a batch; and what else `tidemill budget` does."""
    words = [("day", "each day, in UTC"), ("fleet", "all batches together"), ("forgive", "what is maybe spent")]
    return [each for each in words if each[0].startswith(incomplete)] + batch_ids(incomplete)


def assistant_names(incomplete: str) -> Words:
    """Names of assistants, each with its model."""

    def statement() -> Any:
        from sqlalchemy import select

        from tidemill.models.tables import assistants

        fitting = assistants.c.name.startswith(incomplete, autoescape=True)
        return select(assistants.c.name, assistants.c.model).where(fitting).order_by(assistants.c.name).limit(MOST)

    return _in_time(statement)


def groupings(incomplete: str) -> list[str]:
    """By what `costs` adds up."""
    from tidemill.producer.costing.costs import GROUPINGS

    return [name for name in GROUPINGS if name.startswith(incomplete)]


def _in_time(statement: Any) -> Words:
    """What the database answers in time; nothing where there is none yet, or something is wrong with it."""
    words: Words = []

    def read() -> None:
        from tidemill.models.database import reading
        from tidemill.models.settings import settings

        if not settings().database_url and not (settings().home / "tidemill.db").exists():
            return
        with reading(_SECONDS) as connection:
            words.extend((word, beside or "") for word, beside in connection.execute(statement()))

    def read_quietly() -> None:
        with suppress(Exception):  # the line that is being typed is no place for an error
            read()

    # As a daemon: a server that does not answer must not keep the shell waiting.
    thread = threading.Thread(target=read_quietly, daemon=True)
    with redirect_stderr(io.StringIO()):
        thread.start()
        thread.join(_SECONDS)
    return words
