"""Alembic runs it to learn which connection and which tables it works on."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import TypeDecorator

from tidemill.models.tables import metadata

_PLAIN = {"SafeText": "sa.Text()", "Json": "sa.Text()", "UtcDateTime": "sa.DateTime(timezone=True)"}


def _plain_type(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Write the type that the database sees into revisions, so that they outlive our classes."""
    return _PLAIN[type(item).__name__] if kind == "type" and isinstance(item, TypeDecorator) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    render_item=_plain_type,
    compare_type=True,
    compare_server_default=True,
)

# The caller holds the transaction, so that an upgrade is done wholly or not at all.
context.run_migrations()
