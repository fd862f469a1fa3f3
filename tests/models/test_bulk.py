"""BulkRows sent as one parameter arrive as they were given: every type, nothing in them, a thousand of them."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import ClauseElement, Connection, Float, Text, select

from tidemill.models.bulk import BulkRows, Given, run
from tidemill.models.database import reading
from tidemill.models.text import decode, encode

pytestmark = pytest.mark.usefixtures("database")

SHAPE = BulkRows(number="int", share="float", words="text")


def there_and_back(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    with reading() as connection:
        given_rows = SHAPE.table(connection)
        rows_back = connection.execute(select(given_rows), SHAPE.parameters(connection, rows))
        return [tuple(row) for row in rows_back]


def test_rows_arrive_in_order_and_with_their_types() -> None:
    rows = [(1, 0.5, "a"), (2, 1.0, "b\nc"), (3, 1e300, "'; DROP TABLE jobs; --"), (-(2**63), -0.25, '{},"\\')]
    assert there_and_back(rows) == rows


def test_nothing_may_be_in_any_column() -> None:
    assert there_and_back([(None, None, None), (1, None, "x")]) == [(None, None, None), (1, None, "x")]


def test_a_column_of_nothing_but_none_has_its_type_still() -> None:
    assert there_and_back([(1, None, None)] * 3) == [(1, None, None)] * 3


def test_no_rows_are_no_rows() -> None:
    assert there_and_back([]) == []


def test_thousands_of_rows_are_one_statement() -> None:
    rows = [(i, i / 8, f"row {i}") for i in range(5_000)]
    assert there_and_back(rows) == rows


def given_back(connection: Connection) -> ClauseElement:
    rows = SHAPE.values(connection).c
    mark = Given("mark", type_=Text)
    return select(rows.number, rows.share, rows.words, mark.label("mark")).where(
        rows.number < Given("end", type_=Float)
    )


def run_with(rows: list[tuple[Any, ...]], **given_values: object) -> list[tuple[Any, ...]]:
    with reading() as connection:
        return [tuple(row) for row in run(connection, given_back, SHAPE.filled(rows), given_values)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 1_024, 1_025, 5_000])
def test_a_compiled_statement_takes_any_number_of_rows(count: int) -> None:
    rows = [(i, i / 8, None if i % 3 else f"row {i}") for i in range(count)]
    for mark in ("a ?1 {rows} %(mark)s :mark", "b"):
        assert run_with(rows, mark=mark, end=1e6, spare=1) == [(*row, mark) for row in rows]


def test_what_a_statement_is_given_is_no_constant_of_it() -> None:
    rows = [(1, None, "'; DROP TABLE jobs; --"), (2, 0.5, "x")]
    assert [len(run_with(rows, mark="m", end=end)) for end in (2.0, 3.0, 1.0)] == [1, 2, 0]


def test_a_float_that_is_whole_stays_a_float() -> None:
    ((_, share, _),) = there_and_back([(1, 3.0, "x")])
    assert isinstance(share, float)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.text())))
def test_any_text_and_number_comes_back(rows: list[tuple[int, float, str]]) -> None:
    stored = [(number, share, encode(words)) for number, share, words in rows]
    assert [(number, share, decode(words)) for number, share, words in there_and_back(stored)] == rows
