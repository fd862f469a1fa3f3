"""Spellings of one value are one question; values that a model could answer differently are two."""

import json
from typing import Any

import pytest

from tidemill.models.canonical import canonical
from tidemill.models.options import Options
from tidemill.models.text import dumps

SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "string"}}}
TURNED = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}


def form(text: str) -> str:
    return dumps(canonical(json.loads(text)))


def format_of(schema: Any) -> Any:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}


def tools_of(schema: Any) -> Any:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}'),
        ('{"m": [{"role": "user", "content": "x"}]}', '{"m": [{"content": "x", "role": "user"}]}'),
        ("[0, 0.0, -0.0, 0e0]", "[0, 0, 0, 0]"),
        ("[1e2, 4.10, 100.0]", "[100, 4.1, 1e2]"),
        ("1e-1", "0.1"),
        (r'"a\r\nb\rc"', r'"a\nb\nc"'),
        (r'{"content": [{"type": "text", "text": "a\r\n"}]}', r'{"content": [{"text": "a\n", "type": "text"}]}'),
        ('{"content": "x", "tool_calls": null, "name": null}', '{"content": "x"}'),
        ('{"parameters": {"top_k": 1.0, "max_new_tokens": 5}}', '{"parameters": {"max_new_tokens": 5, "top_k": 1}}'),
        ('{"json_schema": {"name": "n", "strict": true}}', '{"json_schema": {"strict": true, "name": "n"}}'),
        ('{"schema": {"type": "string", "maxLength": 5.0}}', '{"schema": {"type": "string", "maxLength": 5}}'),
        (r'"\u00e9"', '"é"'),
    ],
)
def test_spellings_of_one_value_are_the_same(one: str, other: str) -> None:
    assert form(one) == form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("true", "1"),
        ("false", "0"),
        ('"1"', "1"),
        ('"1.10"', '"1.1"'),
        ("[1, 2]", "[2, 1]"),
        ("[null]", "[]"),
        ("9007199254740993", "9007199254740992"),
        ("12345678901234567890", "12345678901234567891"),
        ("1.5", "1"),
        ('"x"', '"x "'),
        ('"x"', r'"x\n"'),
        (r'"\u00e9"', r'"e\u0301"'),
        ('"ab"', r'"a\u200bb"'),
        ('{"stop": "x"}', '{"stop": ["x"]}'),
        *((json.dumps(place(SCHEMA)), json.dumps(place(TURNED))) for place in (format_of, tools_of)),
        *((json.dumps({field: SCHEMA}), json.dumps({field: TURNED})) for field in ("guided_json", "format", "other")),
        ('{"schema": {"type": "string", "default": null}}', '{"schema": {"type": "string"}}'),
        ('{"schema": {"$defs": {}, "type": "string"}}', '{"schema": {"type": "string", "$defs": {}}}'),
    ],
)
def test_other_values_are_different(one: str, other: str) -> None:
    assert form(one) != form(other)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"temperature": 0}, {"temperature": 0.0}, True),
        ({"params": {"b": {"z": 1.0, "a": 2}, "a": 1}}, {"params": {"a": 1.0, "b": {"a": 2, "z": 1}}}, True),
        ({"params": {"seed": None}}, {"params": {}}, True),
        ({"system": "a\r\nb"}, {"system": "a\nb"}, True),
        ({"schema": SCHEMA}, {"schema": TURNED}, False),
        ({"params": format_of(SCHEMA)}, {"params": format_of(TURNED)}, False),
        ({"params": {"stop": "x"}}, {"params": {"stop": ["x"]}}, False),
        ({"params": {"logprobs": True}}, {"params": {"logprobs": 1}}, False),
        ({"temperature": 0.7}, {"temperature": 0.70}, True),
        ({"rpm": 5, "transport": "http"}, {}, True),
    ],
)
def test_options_are_the_same_question_by_their_values(one: Any, other: Any, is_same: bool) -> None:
    assert (Options("m", **one).question_hash("ask") == Options("m", **other).question_hash("ask")) is is_same


def test_options_in_canonical_form_have_the_hash_of_version_0_1() -> None:
    assert Options(model="m", temperature=0).question_hash("ask") == (
        "e4dd49c67db08190bb0e76c6b7bfaabbd39572d5f1302ab83bbb55a83e6308ef"
    )
    assert Options(model="m", temperature=0.0).question_hash("ask", spelled=True) == (
        "370188349edad9d679c3c10dba660f6dd4aa2fcf8b00e690d03055a8842d00a9"
    )
    assert Options(model="m", params={"b": {"z": 1.0, "a": 2}}).question_hash("ask", spelled=True) == (
        "8f69827e6bb898d12fecd2f4f233b2574dfdc90d15eab328c86bc2db8a481841"
    )
