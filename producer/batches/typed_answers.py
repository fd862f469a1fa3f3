"""A class of fields says what answers look like: its JSON schema goes out, and answers come back as its objects.

A class is a pydantic model, a dataclass or a TypedDict. pydantic makes the schema and reads the answers.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from tidemill.models.errors import InputError, OptionError
from tidemill.models.json_types import JsonObject
from tidemill.models.text import one_line

T = TypeVar("T")

NOT_FITTING = "schema_mismatch"
"""The error code of a row whose answers never fitted their schema."""

_MAPS = ("properties", "$defs")
_SCHEMAS = {each: each for each in ("items", "prefixItems", "anyOf", "allOf", "additionalProperties")} | {
    "oneOf": "anyOf"
}
"""Keyword whose value is a schema, or a list of them -> what strict providers call it."""

_LEFT_OUT = ("default", "discriminator")
"""What strict schemas may not have, and what says nothing of the answer's shape."""


class Parsed(list[T | None]):
    """Answers as objects, one for each row in input order; None where a row has no answer that fits.

    `invalid` has, by the place of the row from 0, why its answer does not fit; rows that failed for another reason
    or are still open are not there.
    """

    def __init__(self, values: Iterable[T | None], invalid: Mapping[int, str]) -> None:
        super().__init__(values)
        self.invalid = dict(invalid)


def as_options(options: Mapping[str, object]) -> tuple[JsonObject, type[Any] | None]:
    """Options with a JSON schema in the place of a class, and the class; None if there is none.

    Raises:
        OptionError: the class has no fields, or fields that JSON cannot hold.
    """
    kind = options.get("schema")
    return ({**options, "schema": schema_of(kind)}, kind) if isinstance(kind, type) else (dict(options), None)


def schema_of(kind: type[Any]) -> JsonObject:
    """The JSON schema of a class as strict providers want it: every field required, and no others allowed."""
    from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

    try:
        schema = _adapter(kind).json_schema()
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        why = f"no JSON schema can be made of it ({one_line(error.message.splitlines()[0], 160)})"
        raise OptionError("schema", kind, f"{why}.") from None
    if schema.get("type") != "object" and "$ref" not in schema:
        why = "it must have fields: a pydantic model, a dataclass, a TypedDict, or a JSON schema as a dict."
        raise OptionError("schema", kind, why)
    strict: JsonObject = _strict(schema)
    if "$ref" in strict:  # a class that holds itself: providers want an object at the root
        strict = {**strict["$defs"][strict["$ref"].rpartition("/")[2]], "$defs": strict["$defs"]}
    return strict


def _strict(schema: Any) -> Any:
    """A schema that pydantic made, and all schemas in it, in the words that strict providers know."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict: JsonObject = {}
    for name, value in schema.items():
        if name in _MAPS:
            strict[name] = {key: _strict(each) for key, each in value.items()}
        elif name in _SCHEMAS:
            strict[_SCHEMAS[name]] = _strict(value)
        elif name not in _LEFT_OUT:
            strict[name] = value
    if "properties" in strict:
        strict = {"additionalProperties": False, **strict, "required": list(strict["properties"])}
    if "$ref" in strict and not strict.keys() <= {"$ref", "$defs"}:  # nothing may stand beside a reference
        strict["anyOf"] = [{"$ref": strict.pop("$ref")}]
    return strict


def parse(rows: Iterable[JsonObject], kind: type[T] | None) -> Parsed[T]:
    """The answers of rows as objects of a class.

    Raises:
        InputError: no class is known.
    """
    if kind is None:
        raise InputError("parsed() needs to know the class; name it, as in batch.parsed(Review).")
    adapter = _adapter(kind)
    values: list[T | None] = []
    invalid: dict[int, str] = {}
    for place, row in enumerate(rows):
        value = None
        if row["status"] == "succeeded":
            try:
                value = adapter.validate_json(row["reply"])
            except ValueError as error:  # pydantic's, or a text that no UTF-8 can hold
                invalid[place] = one_line(str(error), 300)
        elif row["error_code"] == NOT_FITTING:
            invalid[place] = row["error"]
        values.append(value)
    return Parsed(values, invalid)


def _adapter(kind: type[T]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
