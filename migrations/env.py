"""Alembic runs this file to learn its connection and our tables."""

from typing import Literal

from alembic import context
from sqlalchemy import TypeDecorator

from tidemill.models.tables import complete_metadata

_PLAIN = {
    "SafeText": "sa.Text()",
    "Json": "sa.Text()",
    "UtcDateTime": "sa.DateTime(timezone=True)",
    "Word": "sa.String(12)",
}


def _plain_type(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Write the database's own type into revisions, so that they outlive our classes."""
    return _PLAIN[type(item).__name__] if kind == "type" and isinstance(item, TypeDecorator) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=complete_metadata(),
    render_as_batch=True,
    render_item=_plain_type,
    compare_type=True,
    compare_server_default=True,
)

# The caller has the transaction, so that an upgrade is done whole or not at all.
context.run_migrations()
