"""The JSON schema of a class is what strict providers take, whatever the class is made of."""

import dataclasses
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from tidemill.models.errors import OptionError
from tidemill.models.schemas import complaint, schema_fault
from tidemill.producer.batches.typed_answers import NOT_FITTING, parse, schema_of


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    colour: Colour = Field(Colour.RED, description="of its fur")


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = []


class Home(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")
    default: int | None = None


class Tree(BaseModel):
    name: str
    branches: "list[Tree]"


class Point(TypedDict):
    x: int
    y: int


@dataclasses.dataclass
class Size:
    width: int
    height: int = 3


FITTING: list[tuple[type[Any], str]] = [
    (Home, '{"pet": {"kind": "cat", "colour": "blue"}, "default": null}'),
    (Tree, '{"name": "oak", "branches": [{"name": "twig", "branches": []}]}'),
    (Point, '{"x": 1, "y": 2}'),
    (Size, '{"width": 1, "height": 2}'),
]


def objects(schema: Any) -> list[dict[str, Any]]:
    """All schemas within a schema that have properties."""
    if isinstance(schema, list):
        return [inner for each in schema for inner in objects(each)]
    if not isinstance(schema, dict):
        return []
    own = [schema] if "properties" in schema else []
    return own + [inner for each in schema.values() for inner in objects(each)]


@pytest.mark.parametrize(("kind", "answer"), FITTING, ids=lambda each: getattr(each, "__name__", ""))
def test_every_object_of_a_schema_is_strict(kind: type[Any], answer: str) -> None:
    schema = schema_of(kind)
    assert schema["type"] == "object"
    assert schema_fault(schema) is None
    for each in objects(schema):
        assert each["additionalProperties"] is False
        assert each["required"] == list(each["properties"])
        assert not any("$ref" in inner and len(inner) > 1 for inner in each["properties"].values())
    assert complaint(schema, answer) is None
    assert complaint(schema, "{}") is not None
    (value,) = parse([{"status": "succeeded", "reply": answer, "error_code": None, "error": None}], kind)
    assert value is not None


def test_words_that_strict_providers_refuse_are_replaced_and_fields_of_such_names_stay() -> None:
    schema = schema_of(Home)
    assert set(schema["properties"]) == {"pet", "default"}
    assert "anyOf" in schema["properties"]["pet"]
    shown = str(schema)
    assert "oneOf" not in shown
    assert "discriminator" not in shown
    assert schema["$defs"]["Cat"]["properties"]["colour"] == {
        "anyOf": [{"$ref": "#/$defs/Colour"}],
        "description": "of its fur",
    }


@pytest.mark.parametrize("kind", [int, Colour, type("Plain", (), {"__init__": lambda self, x: None})])
def test_a_class_without_fields_is_refused_in_one_sentence(kind: type[Any]) -> None:
    with pytest.raises(OptionError, match=r"^schema=<.+>: (it must have fields|no JSON schema can be made of it)"):
        schema_of(kind)


def test_only_answers_that_do_not_fit_count_as_invalid() -> None:
    rows: list[dict[str, Any]] = [
        {"status": "succeeded", "reply": '{"x": 1, "y": 2}', "error_code": None, "error": None},
        {"status": "succeeded", "reply": '{"x": 1', "error_code": "length", "error": "cut"},
        {"status": "failed", "reply": None, "error_code": NOT_FITTING, "error": "the reply is not JSON"},
        {"status": "failed", "reply": None, "error_code": "server_error", "error": "gone"},
        {"status": "queued", "reply": None, "error_code": None, "error": None},
    ]
    parsed = parse(rows, Point)
    assert list(parsed) == [{"x": 1, "y": 2}, None, None, None, None]
    assert list(parsed.invalid) == [1, 2]
    assert parsed.invalid[2] == "the reply is not JSON"
