"""A tool's parameters are a JSON schema that the API reads strictly, and tables fill it with null.

Arrow gives all objects in a column the same keys. So a tool comes with the parameters of all others, each null. Such a
null is no schema. It is left out here, except where a schema may hold null: as a default or one of its values.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from tidemill.models.json_types import JsonObject
from tidemill.models.schemas import schema_fault
from tidemill.models.text import dumps, one_line

_VALUES = ("const", "default", "enum", "example", "examples")
"""Keywords that hold values, in which null is a value."""
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def as_json(value: object) -> str:
    """JSON of a value that came from JSON, on one line; "" for what cannot be written."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        try:
            return dumps(value)
        except (TypeError, ValueError):
            return ""


def without_nulls(tool: object, nulls: dict[str, None]) -> object:
    """The tool without null, except where it is a value; the places where null was are added to `nulls`."""
    try:
        has_null = isinstance(tool, dict) and b"null" in orjson.dumps(tool)
    except TypeError:  # nested too deeply, among others: no example is written of it
        return tool
    if not isinstance(tool, dict) or not has_null:
        return tool
    function = tool.get("function")
    kept = {key: value for key, value in tool.items() if value is not None}
    if isinstance(function, dict):
        kept["function"] = _schema(function, str(function.get("name")), nulls)
    return kept


def _schema(schema: JsonObject, path: str, nulls: dict[str, None]) -> JsonObject:
    kept: JsonObject = {}
    for key, value in schema.items():
        place = f"{path}.{key}"
        if value is None and not (key in ("const", "default") and _may_be_null(schema)):
            nulls[place] = None
        elif key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            kept[key] = {name: _sub(each, f"{place}.{name}", nulls) for name, each in value.items() if each is not None}
            nulls |= {f"{place}.{name}": None for name, each in value.items() if each is None}
        elif key in _VALUES:
            kept[key] = value
        else:
            kept[key] = _sub(value, place, nulls)
    return kept


def _sub(value: object, path: str, nulls: dict[str, None]) -> object:
    if isinstance(value, dict):
        return _schema(value, path, nulls)
    return [_sub(each, path, nulls) for each in value] if isinstance(value, list) else value


def _may_be_null(schema: JsonObject) -> bool:
    """Whether null is a value of this schema; one without a type takes all values."""
    kinds = schema.get("type")
    own = kinds is None or kinds == "null" or (isinstance(kinds, list) and "null" in kinds)
    return own or schema.get("nullable") is True or None in (schema.get("enum") or ())


def nullable_arguments(tools: object) -> frozenset[str]:
    """Names of all parameters of tools that may be null."""
    names: set[str] = set()
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        parameters = function.get("parameters") if isinstance(function, dict) else None
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        for name, schema in properties.items() if isinstance(properties, dict) else ():
            if isinstance(schema, dict) and _may_be_null(schema):
                names.add(name)
    return frozenset(names)


def parameters_fault(parameters: object) -> str | None:
    """Why the API does not take these parameters of a tool: the rest of a sentence; None for good ones."""
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        return "are no JSON schema"
    return _fault(as_json(parameters))


@lru_cache(maxsize=1_024)
def _fault(parameters: str) -> str | None:
    if not parameters:
        return "cannot be written as JSON"
    schema = orjson.loads(parameters)
    if schema.get("type") != "object":
        return 'are no JSON schema of an object: they need {"type": "object", "properties": {..}}'
    if "$schema" in schema and not isinstance(schema["$schema"], str):
        return "are no JSON schema: '$schema' is no text"
    try:
        if (why := schema_fault(schema)) is not None:
            return one_line(why.replace("is no", "are no", 1).rstrip("."), 200)
        return _open_list(schema)
    except RecursionError:
        return "are nested too deeply"


def _open_list(schema: Mapping[str, Any], path: str = "") -> str | None:
    """A list whose items are not described, which the API refuses: "array schema missing items"."""
    if schema.get("type") == "array" and "items" not in schema and "prefixItems" not in schema:
        return f"have a list without a schema of its items{f' at {path}' if path else ''}"
    branches = [(f"{path}.{key}".lstrip("."), each) for key, each in _subschemas(schema)]
    return next((why for place, each in branches if (why := _open_list(each, place)) is not None), None)


def _subschemas(schema: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    named = [pair for key in _SCHEMAS_BY_NAME if isinstance(schema.get(key), dict) for pair in schema[key].items()]
    listed = [(key, each) for key in ("anyOf", "oneOf", "allOf") for each in schema.get(key) or ()]
    single = [("items", schema.get("items")), ("additionalProperties", schema.get("additionalProperties"))]
    return [(str(key), each) for key, each in (*named, *listed, *single) if isinstance(each, dict)]
