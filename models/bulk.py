"""A thousand rows cost one statement, written once for both databases and compiled once in a process.

A `BulkRows` is a table in any SQLAlchemy statement: joined in an UPDATE, selected from in an INSERT. Its rows are sent
as a few JSON texts, because orjson writes those in a twentieth of the time that the driver takes for arrays, and both
databases read them natively.

`run` executes a statement that every job passes through. SQLAlchemy takes a millisecond or two to build one, and SQLite
plans it anew each time that a parameter is compared with an indexed column. As a text that holds its constants it costs
0.03. SQLite gets the rows as parameters there, in VALUES, which it reads in half of the time that JSON takes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import orjson
from sqlalchemy import (
    CTE,
    JSON,
    BigInteger,
    BindParameter,
    ClauseElement,
    Connection,
    CursorResult,
    Dialect,
    Float,
    Row,
    Subquery,
    Table,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    null,
    select,
    text,
    true,
)
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

if TYPE_CHECKING:
    from sqlalchemy.dialects.postgresql import Insert as PostgresInsert

ColumnType = Literal["int", "float", "text"]
_TYPES: dict[ColumnType, type[TypeEngine[Any]]] = {"int": BigInteger, "float": Float, "text": Text}


class Given(BindParameter[Any]):
    """A parameter of a statement for `run`; every other value in such a statement is a constant of its text."""

    inherit_cache = True


@compiles(Given)
def _given(element: Given, compiler: SQLCompiler, **options: Any) -> str:
    return str(compiler.visit_bindparam(element, **{**options, "literal_binds": False}))  # type: ignore[no-untyped-call]


@compiles(Given, "sqlite")
def _given_by_number(element: Given, compiler: SQLCompiler, **_options: Any) -> str:
    names = vars(compiler).setdefault("given_names", [])
    if element.key not in names:
        names.append(element.key)
    return f"?{names.index(element.key) + 1}"


Build: TypeAlias = "Callable[[Connection], ClauseElement]"
"""Makes a statement for this kind of database, always the same one; a function of a module."""


Returned: TypeAlias = "Row[*tuple[Any, ...]]"
"""A row that a statement returns."""


class _Text(NamedTuple):
    """A compiled statement, and on SQLite the names of what it is given, in order."""

    sql: str
    given_names: list[str]


_texts: dict[tuple[Build, str], _Text] = {}


def run(
    connection: Connection, build: Build, rows: "FilledRows", given: Mapping[str, object] = MappingProxyType({})
) -> list[Returned]:
    """Execute a statement over rows; it is built and compiled at its first use with each kind of database.

    Args:
        connection: to execute it on.
        build: makes the statement, in which `rows.shape.values()` stands for the rows.
        rows: what is in them.
        given: a text or number for each `Given` in it; others are ignored.

    Returns:
        What it returns, as the driver has it: no type of SQLAlchemy's has a part in it.
    """
    place = build, connection.dialect.name
    if (compiled := _texts.get(place)) is None:
        compiled = _texts[place] = _text(build(connection), connection.dialect)
    if connection.dialect.name == "postgresql":
        return _all(connection.exec_driver_sql(compiled.sql, {**given, **rows.by_column()}))
    values = [given[name] for name in compiled.given_names]
    returned: list[Returned] = []
    for start in range(0, len(rows.rows), _MOST_VALUES):
        part = rows.rows[start : start + _MOST_VALUES]
        # Few different sizes, so that SQLite finds its prepared statement again; the rest is rows of nulls.
        size = 1 << (len(part) - 1).bit_length()
        sql = compiled.sql.replace(_VALUES, _numbers(len(values) + 1, size, len(rows.shape.columns)))
        spare = [None] * ((size - len(part)) * len(rows.shape.columns))
        returned += _all(connection.exec_driver_sql(sql, (*values, *chain.from_iterable(part), *spare)))
    return returned


def _all(result: CursorResult[*tuple[Any, ...]]) -> list[Returned]:
    return list(result.all()) if result.returns_rows else []


def _text(statement: ClauseElement, dialect: Dialect) -> _Text:
    compiled = statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    return _Text(str(compiled), vars(compiled).get("given_names", []))


_VALUES = "(VALUES {rows})"
_MOST_VALUES = 1024
"""Rows of one statement on SQLite, which takes at least 32,766 parameters."""


@cache
def _numbers(first: int, rows: int, columns: int) -> str:
    """Places for so many rows: `(VALUES (?3,?4),(?5,?6))`."""
    starts = range(first, first + rows * columns, columns)
    places = (f"({','.join(f'?{number}' for number in range(start, start + columns))})" for start in starts)
    return f"(VALUES {','.join(places)})"


def insert_for(connection: Connection) -> "Callable[[Table], PostgresInsert | SqliteInsert]":
    """This database's own INSERT, which knows ON CONFLICT; SQLAlchemy's general one does not."""
    if connection.dialect.name == "sqlite":
        return sqlite_insert
    from sqlalchemy.dialects.postgresql import insert  # the whole dialect, which SQLite does not need

    return insert


class BulkRows:
    """The shape of a set of rows: column names with their types, in order.

    Text must be storable as it is (`models.text.encode` or `dumps` has been applied).
    """

    def __init__(self, **columns: ColumnType) -> None:
        self.columns = columns

    def table(self, connection: Connection) -> Subquery | CTE:
        """The rows as something to select from; its columns have the names of this shape."""
        return self._by_column() if connection.dialect.name == "postgresql" else self._by_row()

    def parameters(self, connection: Connection, rows: Sequence[tuple[object, ...]]) -> dict[str, str]:
        """The parameters of a statement over `table()`; every row has one value a column, in order."""
        if connection.dialect.name != "postgresql":
            return {"rows": orjson.dumps(rows).decode()}
        return self.filled(rows).by_column()

    def values(self, connection: Connection) -> Subquery | CTE:
        """The same in a statement for `run`; no row has null in its first column."""
        if connection.dialect.name == "postgresql":
            return self._by_column()
        columns = [
            literal_column(f"column{number}", _TYPES[kind]).label(name)
            for number, (name, kind) in enumerate(self.columns.items(), 1)
        ]
        rows = select(*columns).select_from(text(_VALUES))
        return rows.where(literal_column("column1").is_not(null())).subquery("rows")

    def filled(self, rows: Sequence[tuple[object, ...]]) -> "FilledRows":
        """Rows of this shape, for `run`; every row has one value a column, in order."""
        return FilledRows(self, rows)

    def _by_column(self) -> CTE:
        """An array a column, which Postgres takes apart much faster than an array a row."""
        columns = [
            cast(func.json_array_elements_text(cast(Given(f"rows_{name}", type_=Text), JSON)), _TYPES[kind]).label(name)
            for name, kind in self.columns.items()
        ]
        # Materialized, or a nested loop would read the texts anew for each row of a table: Postgres plans one where its
        # figures say that hardly any row qualifies, and they may be a minute old.
        return select(*columns).cte("rows").prefix_with("MATERIALIZED")

    def _by_row(self) -> Subquery:
        array = func.json_each(bindparam("rows", type_=Text)).table_valued("value", name="array")
        columns = [func.json_extract(array.c.value, f"$[{i}]").label(name) for i, name in enumerate(self.columns)]
        # The WHERE keeps SQLite's parser from reading a following ON CONFLICT as a join's.
        return select(*columns).where(true()).subquery("rows")


@dataclass(frozen=True, slots=True)
class FilledRows:
    """Rows with their shape."""

    shape: BulkRows
    rows: Sequence[tuple[object, ...]]

    def by_column(self) -> dict[str, str]:
        """A JSON text a column, as Postgres takes them."""
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.shape.columns)
        return {
            f"rows_{name}": orjson.dumps(each).decode() for name, each in zip(self.shape.columns, columns, strict=True)
        }
