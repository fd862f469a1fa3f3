"""Text and JSON come back from either database exactly as they were; models/text.py says how they are written."""

from typing import Any

from sqlalchemy import Dialect, String, Text, literal_column
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


class Word(TypeDecorator[str]):
    """One of a few words, which stand in a condition as they are.

    A partial index is used only if the condition says its words. Of a parameter SQLite learns too late, and compiles
    the statement again each time; Postgres may have planned for any value.
    """

    impl = String
    cache_ok = True

    class comparator_factory(TypeDecorator.Comparator[str]):  # noqa: N801  # SQLAlchemy's name
        """Writes out what the column is compared with."""

        def operate(self, op: Any, *other: Any, **options: Any) -> Any:
            """Compare, as SQLAlchemy does."""
            return super().operate(op, *map(_written_out, other), **options)


def _written_out(value: object) -> object:
    if isinstance(value, str) and value.isidentifier() and value.isascii():
        return literal_column(f"'{value}'", String)
    return [_written_out(each) for each in value] if isinstance(value, list | tuple) else value
