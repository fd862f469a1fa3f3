"""An installed copy can bring its own database up to date, and says so when it must not.

The embedded SQLite file migrates itself; a shared database only by `tidemill db upgrade`, because other workers use it.
Alembic takes half a second to import, so the check that every command makes reads one row instead.
"""

import logging
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from tidemill.models.database import explained, reading, writing
from tidemill.models.errors import DatabaseError

HEAD = "0005"
"""The revision that this version needs; a house test compares it with the newest file in versions/."""


def current(connection: Connection) -> str | None:
    """The revision that the database has; None when it holds no table of ours."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def ensure() -> None:
    """Make sure that the database has the schema of this version; an embedded one is brought up to date.

    Raises:
        DatabaseError: a shared database has another schema, or any database a newer one; the text says what to do.
    """
    with reading() as connection:
        found, embedded = current(connection), connection.dialect.name == "sqlite"
    if found == HEAD:
        return
    _refuse_newer(found)
    if not embedded:
        was = f"has the old schema {found}" if found else "has no tables of tidemill's yet"
        raise DatabaseError(
            f"The database {was}; this version needs {HEAD}. Run `tidemill db upgrade` once, then try again."
        )
    upgrade()


def _refuse_newer(found: str | None) -> None:
    if found is not None and found > HEAD:
        raise DatabaseError(
            f"The database has schema {found}, and this tidemill knows {HEAD}. Upgrade it: pip install -U tidemill"
        )


def upgrade() -> str:
    """Bring the database to HEAD in one transaction; several at once wait for each other. Returns the revision.

    Raises:
        DatabaseError: the database has a newer schema, or does not answer.
    """
    from alembic import command
    from alembic.util import CommandError

    with explained(), writing() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('tidemill migrations'))"))
        _refuse_newer(current(connection))
        found = current(connection)
        try:
            command.upgrade(configuration(connection), "head")
        except CommandError:
            raise DatabaseError(
                f"The database has schema {found}, which is none of this tidemill's. Set TIDEMILL_DATABASE_URL or "
                "TIDEMILL_HOME to its own database, or put a copy back."
            ) from None
    return HEAD


def configuration(connection: Connection) -> Any:
    """Alembic's configuration for this package on a given connection."""
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config
