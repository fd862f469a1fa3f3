"""No character of a reply is lost, and none can act on a terminal."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, insert, select

from tidemill.models.column_types import Json, SafeText
from tidemill.models.text import decode, dumps, encode, loads, one_line

ANY_TEXT = st.text(st.characters(exclude_categories=()))
AWKWARD_TEXT = st.text(st.sampled_from("a0F\x00\ud800\udfff\ufdd0\ufdd1é😀"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=12,
)


def storable(text: str) -> bool:
    text.encode()  # raises for a surrogate
    return "\x00" not in text


@given(ANY_TEXT | AWKWARD_TEXT)
def test_every_string_comes_back_from_a_form_that_can_be_stored(text: str) -> None:
    stored = encode(text)
    assert storable(stored)
    assert decode(stored) == text
    assert decode(encode(stored)) == stored


@pytest.mark.parametrize("text", ["", "plain", "Grüße, 世界 😀", "\ufdd1\uffff", "\\u0000"])
def test_ordinary_text_is_stored_as_it_is(text: str) -> None:
    assert encode(text) == text == decode(text)


def test_text_that_was_stored_without_the_codec_is_left_alone() -> None:
    assert decode("\ufdd0 and \ufdd0zz") == "\ufdd0 and \ufdd0zz"


@given(VALUES)
def test_every_json_value_comes_back_from_a_form_that_can_be_stored(value: Any) -> None:
    text = dumps(value)
    assert storable(text)
    assert "\n" not in text
    back = loads(text)
    assert back == value
    assert repr(back) == repr(value)  # == does not tell 1 from 1.0 and True, nor 0.0 from -0.0


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**40, "\x00", "\ud800", {"\udc00": [2**70, "\x00"]}])
def test_what_orjson_cannot_carry_comes_back_exactly(value: Any) -> None:
    assert loads(dumps(value)) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, [None, -math.inf], {"a": (math.nan,)}, ["\ud800", math.nan]])
def test_numbers_that_json_does_not_have_are_refused_rather_than_turned_into_null(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        dumps(value)


@pytest.mark.parametrize("value", [{1: "a"}, {1: "\ud800"}, {"a": [{None: 2**70}]}, object(), b"bytes"])
def test_values_without_a_form_in_json_are_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        dumps(value)


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "[1234567890123456789012e999]", "", "{"]
)
def test_bad_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # the texts are those of two libraries
        loads(text)


def test_bottomless_json_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested"):
        loads("[" * 100_000)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested"):
        dumps(deep)
    while deep:  # taken apart step by step: Python's own destructor is recursive
        deep = deep.pop()


def test_columns_hold_what_they_are_given() -> None:
    table = Table(
        "t", MetaData(), Column("id", Integer, primary_key=True), Column("reply", SafeText), Column("body", Json)
    )
    engine = create_engine("sqlite://")
    reply, body = "a\x00b\ud800\ufdd0", {"messages": ["\x00\udfff", None, 2**80], "t": 0.1}
    with engine.begin() as connection:
        table.create(connection)
        connection.execute(insert(table), [{"reply": reply, "body": body}, {"reply": None, "body": None}])
        rows = connection.execute(select(table.c.reply, table.c.body).order_by(table.c.id)).all()
        assert connection.scalar(select(table.c.id).where(table.c.reply == reply)) == 1
        raw = connection.exec_driver_sql("select reply, body from t where id = 1").one()
    engine.dispose()
    assert [tuple(row) for row in rows] == [(reply, body), (None, None)]
    assert storable(raw[0])
    assert storable(raw[1])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" two\r\n\t words \u2028 here", "two words here"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\x00b\x9bc\x7f", "a\\x00b\\x9bc\\x7f"),
        ("\u202eexe.txt\u2066", "\\u202eexe.txt\\u2066"),
        ("\ud800", "\\ud800"),
        ("Grüße 世界 \ufffd 👨‍👩‍👧", "Grüße 世界 \ufffd 👨‍👩‍👧"),
    ],
)
def test_one_line_can_neither_act_nor_hide(text: str, shown: str) -> None:
    assert one_line(text) == shown


@given(ANY_TEXT, st.integers(1, 40))
def test_one_line_keeps_its_limit_and_can_be_printed(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line.encode().decode().splitlines() in ([], [line])


def test_one_line_marks_what_it_cuts() -> None:
    assert one_line("x" * 300) == "x" * 300
    assert one_line("x " * 5_000_000) == "x " * 149 + "x…"
