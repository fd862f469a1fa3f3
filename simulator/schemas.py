"""Structured output is only tested if the reply satisfies the caller's schema, and still names its prompt.

Covers what strict mode allows (objects, arrays, enums, $ref, anyOf), not the whole of JSON Schema.
"""

from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

FORMATS = {
    "date": "2026-11-22",
    "date-time": "2026-11-22T17:00:00Z",
    "email": "miller@example.com",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
}
DEEPEST = 12


def _string(schema: Schema, tag: str, _deeper: "Filler") -> str:
    text = FORMATS.get(schema.get("format", ""), f"a fine example {tag}")
    text = text.ljust(int(schema.get("minLength", 0)), ".")
    return text[: schema["maxLength"]] if "maxLength" in schema else text


def _number(schema: Schema, _tag: str, _deeper: "Filler") -> float:
    if "minimum" in schema:
        return float(schema["minimum"])
    if "exclusiveMinimum" in schema:
        return float(schema["exclusiveMinimum"]) + 1
    return float(min(1, schema.get("maximum", 1), schema.get("exclusiveMaximum", 2) - 1))


def _integer(schema: Schema, tag: str, deeper: "Filler") -> int:
    return int(_number(schema, tag, deeper))


def _array(schema: Schema, _tag: str, deeper: "Filler") -> list[Any]:
    return [deeper(schema.get("items") or {}) for _ in range(int(schema.get("minItems", 1)))]


def _object(schema: Schema, _tag: str, deeper: "Filler") -> dict[str, Any]:
    return {name: deeper(inner) for name, inner in (schema.get("properties") or {}).items()}


Filler = Callable[[Schema], Any]
FILLERS: dict[str, Callable[[Schema, str, Filler], Any]] = {
    "string": _string,
    "number": _number,
    "integer": _integer,
    "boolean": lambda _schema, _tag, _deeper: True,
    "null": lambda _schema, _tag, _deeper: None,
    "array": _array,
    "object": _object,
}


def _resolved(schema: Schema, root: Schema) -> Schema:
    """Follows `$ref` and takes the first branch of a choice."""
    while True:
        if "$ref" in schema:
            target: Any = root
            for step in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
                target = target[step] if step else target
            schema = target
        elif choices := schema.get("anyOf") or schema.get("oneOf"):
            schema = choices[0]
        else:
            return schema


def _kind(schema: Schema) -> str:
    kind = schema.get("type") or ("object" if "properties" in schema else "string")
    return str(kind[0]) if isinstance(kind, list) else str(kind)


def example(root: Schema, tag: str) -> Any:
    """A value that satisfies `root`; every free string in it ends with `tag`. A recursive schema ends in null."""

    def fill(schema: Schema, depth: int) -> Any:
        if depth > DEEPEST:
            return None
        schema = _resolved(schema, root)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        return FILLERS[_kind(schema)](schema, tag, lambda inner: fill(inner, depth + 1))

    return fill(root, 0)
