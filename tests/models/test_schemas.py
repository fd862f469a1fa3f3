"""A schema is judged before anything is paid, nothing is fetched for it, and an answer is checked by value."""

import json
from typing import Any

import pytest

from tidemill.models.schemas import complaint, json_text, schema_fault


def nested(times: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(times):
        schema = {"not": schema}
    return schema


INTEGER = {"type": "integer"}
A_IS_INTEGER = {"$defs": {"a": INTEGER}}
DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"


@pytest.mark.parametrize(
    "schema",
    [
        {},
        A_IS_INTEGER | {"properties": {"x": {"$ref": "#/$defs/a"}}},
        {"$defs": {"a b/c": INTEGER}, "properties": {"x": {"$ref": "#/$defs/a%20b~1c"}}},
        {
            "definitions": {"a": {"$ref": "#/definitions/b"}, "b": INTEGER},
            "properties": {"x": {"$ref": "#/definitions/a"}},
        },
        {"components": {"schemas": {"a": INTEGER}}, "properties": {"x": {"$ref": "#/components/schemas/a"}}},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"a": INTEGER},
            "properties": {"x": {"$ref": "#/definitions/a"}},
        },
        {"$schema": "https://json-schema.org/draft-07/schema", "properties": {"x": INTEGER}},
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "id": "http://x.test/a",
            "properties": {"x": {"$ref": "#"}},
        },
        {"properties": {"x": INTEGER, "kids": {"items": {"$ref": "#"}}}},
        {
            "$id": "https://x.test/root",
            "$defs": {"a": {"$id": "a.json", "type": "integer"}},
            "properties": {"x": {"$ref": "a.json"}},
        },
        {
            "$id": "https://x.test/root",
            "$defs": {"a": INTEGER},
            "properties": {"x": {"$ref": "https://x.test/root#/$defs/a"}},
        },
        {"$defs": {"a": {"$anchor": "here", "type": "integer"}}, "properties": {"x": {"$ref": "#here"}}},
        {"$defs": {"n": {"$dynamicAnchor": "n", "properties": {"kid": {"$dynamicRef": "#n"}}}}, "$ref": "#/$defs/n"},
        {"$schema": DRAFT_2019, "$recursiveAnchor": True, "properties": {"kid": {"$recursiveRef": "#"}}},
        {"properties": {"x": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}},
        A_IS_INTEGER | {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]},
        {"anyOf": [{"type": "string"}, {"items": {"$ref": "#"}}]},
        {"properties": {"$ref": {"type": "string"}}, "const": {"$ref": "nowhere"}, "default": {"pattern": "("}},
    ],
)
def test_references_within_the_document_and_to_the_drafts_are_resolved(schema: dict[str, Any]) -> None:
    assert schema_fault(schema) is None


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"type": "thing"}, "is no JSON schema: 'thing' is not valid"),
        (
            {"properties": {"a/b": {"$ref": "#/$defs/no"}}},
            'refers at #/properties/a~1b/$ref to "#/$defs/no", which leads to no',
        ),
        ({"title": "t", "items": {"$ref": "#/title"}}, 'refers at #/items/$ref to "#/title", which leads to no schema'),
        ({"items": {"$ref": "#nowhere"}}, 'refers at #/items/$ref to "#nowhere", which leads to no schema'),
        ({"items": {"$dynamicRef": "#nowhere"}}, "refers at #/items/$dynamicRef"),
        (
            {"items": {"$ref": "http://127.0.0.1:9/a.json"}},
            "is not in this document, and nothing is fetched; put it under $defs",
        ),
        ({"items": {"$ref": "other.json#/a"}}, '"other.json#/a", which is not in this document'),
        ({"items": {"$ref": "file:///etc/passwd"}}, "is not in this document"),
        ({"items": {"$ref": "http://[half"}}, "is not in this document"),
        ({"a": {"b": {"$ref": "#/no"}}, "items": {"$ref": "#/a/b"}}, "refers at #/a/b/$ref"),
        ({"a": {"type": "thing"}, "items": {"$ref": "#/a"}}, "refers at #/items/$ref"),
        ({"$ref": "#"}, "refers at # to itself without end"),
        (
            {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}}},
            "to itself without end",
        ),
        (
            {"properties": {"x": {"dependentSchemas": {"y": {"$ref": "#/properties/x"}}}}},
            "refers at #/properties/x to itself",
        ),
        (
            {"properties": {"x": {"pattern": "^\\p{L}+$"}}},
            "has at #/properties/x/pattern a regular expression that Python",
        ),
        ({"patternProperties": {"(": {}}}, "has at #/patternProperties a regular expression"),
        ({"pattern": "a{99999999999999999999}"}, "has at #/pattern a regular expression"),
        (
            {"$schema": "https://x.test/mine"},
            "names an unknown draft in $schema, 'https://x.test/mine'; name https://json",
        ),
        ({"$schema": 7}, "names an unknown draft in $schema, 7"),
        (nested(5_000), "is nested too deeply"),
    ],
)
def test_what_would_cost_every_answer_is_said_before_the_first(schema: dict[str, Any], fault: str) -> None:
    said = schema_fault(schema)
    assert said is not None
    assert fault in said
    assert said.endswith(".") and "\n" not in said


@pytest.mark.parametrize(
    ("answer", "inside"),
    [
        ('{"a":1}', '{"a":1}'),
        (' \ufeff{"a":1}\r\n', '{"a":1}'),
        ('```json\n{"a": 4.020}\n```', '{"a": 4.020}'),
        ('```JSON\r\n{"a":"```x```"}\r\n```\n', '{"a":"```x```"}'),
        ('```{"a":1}```', '{"a":1}'),
        ("~~~~\n[1]\n~~~~", "[1]"),
        ("``` jsonc\ntrue\n```", "true"),
        ('```json\n{"a":1}', '{"a":1}'),  # the end of the fence was a stop sequence
        ("Here: ```json\n1\n```", "Here: ```json\n1\n```"),
        ("```json\n1\n```\nDone.", "1\n```\nDone."),
        ("", ""),
        ("```", ""),
    ],
)
def test_json_is_taken_out_of_a_lone_fence(answer: str, inside: str) -> None:
    assert json_text(answer) == inside


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"multipleOf": 0.01}, "4.02"),
        ({"multipleOf": 0.01}, str(10**40)),
        ({"multipleOf": 1e-300}, "1e300"),
        ({"multipleOf": 0.1}, "-0.3"),
        ({"type": "integer"}, "4.0"),
        ({"enum": [0.1, 1]}, "1.0"),
        ({"minimum": 10**400}, str(10**401)),
        ({"$schema": "http://json-schema.org/draft-03/schema#", "divisibleBy": 0.01}, "4.02"),
        # a reference to the whole, whose draft is named: still by value
        ({"$schema": DRAFT_2019, "properties": {"k": {"$ref": "#"}, "x": {"multipleOf": 0.01}}}, '{"k":{"x":4.02}}'),
        ({"properties": {"x": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}}, '{"x":{"type":"string"}}'),
    ],
)
def test_an_answer_that_fits_has_no_complaint(schema: dict[str, Any], text: str) -> None:
    assert complaint(schema, text) is None


@pytest.mark.parametrize(
    ("schema", "text", "sentence", "is_final"),
    [
        ({"multipleOf": 0.01}, "4.025", "breaks the schema at $: 4.025 is not a multiple of 0.01", False),
        ({"type": "object"}, "[1]", "breaks the schema at $: [1] is not of type 'object'", False),
        ({}, "NaN", "is not JSON (NaN is no JSON)", False),
        ({}, "-Infinity", "is not JSON", False),
        ({}, "1e999", "is not JSON (1e999 is beyond the range of numbers)", False),
        ({}, '{"a":1,"a":2}', "is not JSON (the key a is there twice)", False),
        ({}, "[" * 100_000, "is not JSON (maximum recursion depth", False),
        ({}, "1" * 5_000, "is not JSON", False),
        ({}, "", "is not JSON", False),
        ({"properties": {"k": {"$ref": "#"}}}, '{"k":' * 400 + "{}" + "}" * 400, "cannot be checked", True),
        # stored by a version that did not look: still nothing is fetched, and no answer is lost
        ({"$ref": "http://127.0.0.1:9/a.json"}, "1", "cannot be checked against the schema", True),
        ({"$ref": "#"}, "1", "cannot be checked against the schema (RecursionError", True),
        ({"pattern": "("}, '"x"', "cannot be checked against the schema", True),
    ],
)
def test_whatever_a_validator_raises_is_a_complaint(
    schema: dict[str, Any], text: str, sentence: str, is_final: bool
) -> None:
    why = complaint(schema, text)
    assert why is not None
    assert sentence in why.sentence
    assert why.is_final is is_final
    assert json.dumps(why)  # it comes from a child process
