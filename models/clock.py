"""Times are compared on the database's clock, so a wrong clock elsewhere does no harm."""

from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Float, String, func, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from tidemill.models.tables import UtcDateTime


class now_after(FunctionElement[datetime]):  # noqa: N801  # a SQL function, named like one
    """The database's present time plus a number of seconds (a number, parameter or column; may be negative)."""

    inherit_cache = True
    name = "now_after"
    type = UtcDateTime()


@compiles(now_after, "postgresql")
def _postgresql(element: now_after, compiler: SQLCompiler, **options: object) -> str:
    # clock_timestamp(), because now() stands still for the length of a transaction.
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"


@compiles(now_after, "sqlite")
def _sqlite(element: now_after, compiler: SQLCompiler, **options: object) -> str:
    # The form in which SQLAlchemy stores times, so that comparing the text compares the times.
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+.3f seconds', {seconds}))"


class day_of(FunctionElement[str]):  # noqa: N801  # a SQL function, named like one
    """The day of a time in UTC, as `2026-11-28`."""

    inherit_cache = True
    name = "day_of"
    type = String()


@compiles(day_of, "postgresql")
def _postgresql_day(element: day_of, compiler: SQLCompiler, **options: object) -> str:
    return f"to_char(({compiler.process(element.clauses, **options)}) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"


@compiles(day_of, "sqlite")
def _sqlite_day(element: day_of, compiler: SQLCompiler, **options: object) -> str:
    return f"substr({compiler.process(element.clauses, **options)}, 1, 10)"  # as it is stored


def now() -> now_after:
    """The database's present time."""
    return now_after(literal_column("0.0"))


def seconds_since(connection: Connection, earlier: ColumnElement[datetime]) -> ColumnElement[float]:
    """Seconds from a column's time to the database's present time, as something to select."""
    if connection.dialect.name == "postgresql":
        return func.extract("epoch", now() - earlier).cast(Float)
    return (func.julianday(now()) - func.julianday(earlier)) * literal_column("86400.0")
