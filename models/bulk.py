"""Why this module exists: a thousand rows cost one statement, written once for both databases.

A `Rows` is a set of rows sent as one parameter (arrays on Postgres, a JSON text on SQLite) and usable as a table in any
SQLAlchemy statement: joined in an UPDATE, selected from in an INSERT. Measured: eight times cheaper than executemany.
"""

from collections.abc import Sequence
from typing import Any, Literal

import orjson
from sqlalchemy import BigInteger, Connection, Float, Subquery, Text, bindparam, cast, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

Type = Literal["int", "float", "text"]
_TYPES: dict[str, type[TypeEngine[Any]]] = {"int": BigInteger, "float": Float, "text": Text}


class Rows:
    """The shape of a set of rows: column names with their types, in order.

    Text must be storable as it is (`models.text.encode` or `dumps` has been applied).
    """

    def __init__(self, **columns: Type) -> None:
        self.columns = columns

    def table(self, connection: Connection) -> Subquery:
        """The rows as something to select from; its columns carry the names given."""
        build = self._arrays if connection.dialect.name == "postgresql" else self._json
        return build()

    def parameters(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
        """What to execute a statement over `table()` with; every row has one value a column, in order."""
        if connection.dialect.name == "postgresql":
            values = zip(*rows, strict=True) if rows else ([] for _ in self.columns)
            return {f"rows_{name}": list(column) for name, column in zip(self.columns, values, strict=True)}
        return {"rows": orjson.dumps(rows).decode()}

    def _arrays(self) -> Subquery:
        arrays = [cast(bindparam(f"rows_{name}"), ARRAY(_TYPES[kind])) for name, kind in self.columns.items()]
        unnested = func.unnest(*arrays).table_valued(*self.columns, name="given").render_derived()
        typed = [
            cast(unnested.c[name], _TYPES[kind]).label(name) if kind == "float" else unnested.c[name].label(name)
            for name, kind in self.columns.items()
        ]
        return select(*typed).subquery("rows")

    def _json(self) -> Subquery:
        given = func.json_each(bindparam("rows")).table_valued("value", name="given")
        picked = [func.json_extract(given.c.value, f"$[{i}]").label(name) for i, name in enumerate(self.columns)]
        # The WHERE keeps SQLite's parser from reading a following ON CONFLICT as a join's.
        return select(*picked).where(true()).subquery("rows")
