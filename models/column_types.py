"""Text and JSON come back from either database exactly as they were; models/text.py says how they are written."""

from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

from tidemill.models.text import decode, dumps, encode, loads


class SafeText(TypeDecorator[str]):
    """TEXT for any Python string, NUL and lone surrogates included."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Escape what the database cannot store."""
        return None if value is None else encode(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the string as it was."""
        return None if value is None else decode(value)


class Json(TypeDecorator[object]):
    """A JSON value in a TEXT column, the same on every database; None is NULL."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: object, dialect: Dialect) -> str | None:
        """Write the value as JSON; errors as `dumps`."""
        return None if value is None else dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> object:
        """Read the value from JSON."""
        return None if value is None else loads(value)
