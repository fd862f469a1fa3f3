"""A thousand rows cost one statement, written once for both databases and compiled once in a process.

A `BulkRows` sends a set of rows as a few JSON texts, and is a table in any SQLAlchemy statement: joined in an UPDATE,
selected from in an INSERT. It is JSON because orjson writes that in a twentieth of the time that the driver takes for
arrays, and both databases read it natively.

`run` executes a statement that every row passes through. SQLAlchemy takes two milliseconds to build and compile one of
them, and SQLite plans it anew each time that a parameter is compared with an indexed column; as a text that holds its
constants, it costs 0.03.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import orjson
from sqlalchemy import (
    BigInteger,
    BindParameter,
    Column,
    Connection,
    CursorResult,
    Dialect,
    Executable,
    Float,
    FromClause,
    MetaData,
    Subquery,
    Table,
    Text,
    cast,
    func,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

ColumnType = Literal["int", "float", "text"]
_TYPES: dict[ColumnType, type[TypeEngine[Any]]] = {"int": BigInteger, "float": Float, "text": Text}


class Given(BindParameter[Any]):
    """A parameter of a statement for `run`; every other value in such a statement is a constant of its text."""

    inherit_cache = True


@compiles(Given)
def _given(element: Given, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.visit_bindparam(element, **{**options, "literal_binds": False})


class _Text(NamedTuple):
    """A compiled statement, and the constants that SQLAlchemy does not write into it: those of RETURNING."""

    sql: str
    constants: dict[str, object]


_texts: dict[tuple[Callable[[Connection], Executable], str], _Text] = {}


def run(
    connection: Connection, build: Callable[[Connection], Executable], parameters: Mapping[str, object]
) -> CursorResult[Any]:
    """Execute a statement that is built and compiled at its first use with each kind of database.

    Args:
        connection: to execute it on.
        build: makes the statement, always the same one; must be a function of a module.
        parameters: a text or number for each `Given` in it; others are ignored. Rows come back as the driver has them.
    """
    place = build, connection.dialect.name
    if (text := _texts.get(place)) is None:
        text = _texts[place] = _text(build(connection), connection.dialect)
    return connection.exec_driver_sql(text.sql, {**text.constants, **parameters})


def _text(statement: Executable, dialect: Dialect) -> _Text:
    by_name = dialect if dialect.name == "postgresql" else type(dialect)(paramstyle="named")
    compiled = statement.compile(dialect=by_name, compile_kwargs={"literal_binds": True})
    assert isinstance(compiled, SQLCompiler)
    constants = {name: each.value for name, each in compiled.binds.items() if not isinstance(each, Given)}
    return _Text(str(compiled), constants)


def insert_for(connection: Connection) -> Callable[[Table], PostgresInsert | SqliteInsert]:
    """This database's own INSERT, which knows ON CONFLICT; SQLAlchemy's general one does not."""
    return postgres_insert if connection.dialect.name == "postgresql" else sqlite_insert


class BulkRows:
    """The shape of a set of rows: column names with their types, in order.

    Text must be storable as it is (`models.text.encode` or `dumps` has been applied).
    """

    def __init__(self, **columns: ColumnType) -> None:
        self.columns = columns

    def table(self, connection: Connection) -> Subquery:
        """The rows as something to select from; its columns have the names of this shape."""
        return self._by_column() if connection.dialect.name == "postgresql" else self._by_row()

    def parameters(self, connection: Connection, rows: Sequence[tuple[object, ...]]) -> dict[str, str]:
        """The parameters of a statement over `table()`; every row has one value a column, in order."""
        if connection.dialect.name != "postgresql":
            return {"rows": orjson.dumps(rows).decode()}
        columns = zip(*rows, strict=True) if rows else [()] * len(self.columns)
        return {f"rows_{name}": orjson.dumps(each).decode() for name, each in zip(self.columns, columns, strict=True)}

    def staged(self, connection: Connection, rows: Sequence[tuple[object, ...]]) -> tuple[FromClause, dict[str, str]]:
        """The same for thousands of rows: a table and its parameters; on Postgres, COPY sends the rows ahead."""
        if connection.dialect.name != "postgresql":
            return self.table(connection), self.parameters(connection, rows)
        columns = [Column(name, _TYPES[kind]) for name, kind in self.columns.items()]
        stage = Table("staged", MetaData(), *columns, prefixes=["TEMPORARY"], postgresql_on_commit="DROP")
        stage.create(connection, checkfirst=False)
        with connection.connection.cursor() as cursor, cursor.copy("COPY staged FROM STDIN") as copy:  # type: ignore[attr-defined]
            for row in rows:
                copy.write_row(row)
        return stage, {}

    def _by_column(self) -> Subquery:
        """An array a column, which Postgres takes apart much faster than an array a row."""
        columns = [
            cast(func.json_array_elements_text(cast(Given(f"rows_{name}", type_=Text), JSON)), _TYPES[kind]).label(name)
            for name, kind in self.columns.items()
        ]
        return select(*columns).subquery("rows")

    def _by_row(self) -> Subquery:
        array = func.json_each(Given("rows", type_=Text)).table_valued("value", name="array")
        columns = [func.json_extract(array.c.value, f"$[{i}]").label(name) for i, name in enumerate(self.columns)]
        # The WHERE keeps SQLite's parser from reading a following ON CONFLICT as a join's.
        return select(*columns).where(true()).subquery("rows")
