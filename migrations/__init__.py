"""An installed copy brings its own database up to date, or says why it must not.

The embedded SQLite file is migrated automatically; a shared database only by `tidemill db upgrade`, because other
workers use it. Alembic takes half a second to import, so the check of every command only reads one row.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from tidemill.models import batches
from tidemill.models.database import LONG_SECONDS, reading, transact, writing
from tidemill.models.errors import DatabaseError
from tidemill.models.server_names import has_path, is_same_host
from tidemill.models.settings import settings

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0012"
"""The revision that this version needs; a house test compares it with the newest file in versions/."""


_LOOK = text("SELECT version_num, EXISTS (SELECT 1 FROM batches WHERE provider NOT LIKE '%/%') FROM alembic_version")
"""The revision, and whether a batch has the server's name of version 0.1: all that most commands need to know."""


def current(connection: Connection) -> str | None:
    """The revision of the database; None if it has no tables of ours."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def ensure() -> None:
    """Make sure that the database has the schema of this version; an embedded one is upgraded.

    Raises:
        DatabaseError: a shared database has another schema, or any database a newer one; the text says what to do.
    """
    with reading() as connection:
        embedded = connection.dialect.name == "sqlite"
        try:
            revision, has_old_names = connection.execute(_LOOK).one()
        except SQLAlchemyError:  # no tables, or not these, or what the next look will say
            connection.rollback()
            revision, has_old_names = current(connection), True
    if revision != HEAD:
        _check_not_newer(revision)
        if not embedded:
            state = f"has the old schema {revision}" if revision else "has no tables of tidemill's yet"
            raise DatabaseError(
                f"The database {state}; this version needs {HEAD}. Run `tidemill db upgrade` once, then try again."
            )
        upgrade()
    if has_old_names:
        _name_servers()


def _name_servers() -> None:
    """Version 0.1 knew a server by its host alone: its batches at the configured host get the server's whole name."""
    own = settings().provider
    with reading() as connection:
        old_names = [each for each in batches.servers(connection) if not has_path(each) and is_same_host(each, own)]
    if old_names:
        transact(lambda connection: batches.adopt(connection, own, old_names))


def _check_not_newer(revision: str | None) -> None:
    if revision is not None and revision > HEAD:
        raise DatabaseError(
            f"The database has schema {revision}, and this tidemill knows {HEAD}. Upgrade it: pip install -U tidemill"
        )


def upgrade() -> str:
    """Upgrade the database to HEAD in one transaction; several at once wait for each other. Returns the revision.

    Raises:
        DatabaseError: the database has a newer schema, or does not answer.
    """
    from alembic import command
    from alembic.util import CommandError

    with writing(LONG_SECONDS) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('tidemill migrations'))"))
        revision = current(connection)
        _check_not_newer(revision)
        try:
            command.upgrade(configuration(connection), "head")
        except CommandError:
            raise DatabaseError(
                f"The database has schema {revision}, which is none of this tidemill's. Set TIDEMILL_DATABASE_URL or "
                "TIDEMILL_HOME to its own database, or put a copy back."
            ) from None
    return HEAD


def configuration(connection: Connection) -> "Config":
    """Alembic's configuration for this package on a connection."""
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
