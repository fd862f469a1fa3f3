"""A JSON schema that somebody brings is checked before anything is paid, and answers are checked against it.

Every reference is resolved inside the document: nothing is ever fetched, neither here nor where an answer is checked.
Of what others wrote, only the drafts' own metaschemas are known. Numbers are compared by their decimal value, so that
4.02 is a multiple of 0.01.

A schema may still take for ever (a regular expression) or break off (an answer nested too deeply). So answers are
checked in a child process, by `worker.schema_check`.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

from tidemill.models.json_types import JsonObject
from tidemill.models.text import one_line

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

_Draft: TypeAlias = Any
"""A class of jsonschema's; its stubs know neither `ID_OF` nor `format_checker`."""

LATEST = "https://json-schema.org/draft/2020-12/schema"

_IN_PLACE = (
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "extends",
    "type",
)
_IN_PLACE_BY_NAME = ("dependentSchemas", "dependencies")
"""Keywords that apply to the same value again: a cycle of them never ends."""
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_TOO_DEEP = "is nested too deeply."
_FENCES = ("```", "~~~")
_INFO = re.compile(r"\s*json[5lc]?\b", re.IGNORECASE)


# --- at the door ---


def schema_fault(schema: JsonObject) -> str | None:
    """What is wrong with a JSON schema: the rest of a sentence that begins with its name; None when it is sound."""
    from jsonschema.exceptions import SchemaError

    if (kind := _validator_class(schema)) is None:
        named = one_line(repr(schema.get("$schema")), 80)
        return f"names an unknown draft in $schema, {named}; name {LATEST}, or leave $schema out."
    try:
        kind.check_schema(schema, format_checker=None)
        return _Walk(kind, schema).fault()
    except SchemaError as error:
        return f"is no JSON schema: {one_line(f'{error.message} at {error.json_path}', 200)}."
    except RecursionError:
        return _TOO_DEEP


class _Walk:
    """One walk through all subschemas of a document and all that they refer to."""

    def __init__(self, kind: _Draft, schema: JsonObject) -> None:
        self._kind, self._schema = kind, schema
        self._pointers = dict(_pointers(schema))
        self._in_place: dict[int, list[Any]] = {}
        """Schema, by its identity -> the schemas that it applies to the same value."""

    def fault(self) -> str | None:
        """The first fault, as for `schema_fault`."""
        from referencing import jsonschema as drafts

        specification = drafts.specification_with(self._kind.ID_OF(self._kind.META_SCHEMA) or LATEST)
        root = specification.create_resource(self._schema)
        try:
            resolver = _registry().resolver_with_root(root)
        except Exception as error:  # noqa: BLE001  # an $id or $anchor that is no URI has many ways to fail
            return f"has an $id or $anchor that cannot be used: {one_line(str(error), 120)}."
        waiting = [(self._schema, resolver)]
        while waiting:
            schema, resolver = waiting.pop()
            if not isinstance(schema, dict) or id(schema) in self._in_place:
                continue
            if (fault := self._own_fault(schema)) is not None:
                return fault
            targets = []
            for keyword in _REFERENCES:
                if keyword not in schema or keyword not in self._kind.VALIDATORS:
                    continue
                target = self._target(keyword, schema[keyword], schema, resolver)
                if isinstance(target, str):
                    return target
                targets.append(target)
            same_value = [*_same_value(schema)]
            self._in_place[id(schema)] = [*same_value, *(contents for contents, _ in targets)]
            subresources = [specification.create_resource(each) for each in specification.subresources_of(schema)]
            waiting += [*targets, *((each, resolver) for each in same_value)]
            waiting += [(each.contents, resolver.in_subresource(each)) for each in subresources]
        return self._endless()

    def _own_fault(self, schema: JsonObject) -> str | None:
        """What is wrong with a schema's own regular expressions."""
        patterns = [("pattern", schema.get("pattern"))]
        if isinstance(named := schema.get("patternProperties"), dict):
            patterns += [("patternProperties", name) for name in named]
        for keyword, pattern in patterns:
            if isinstance(pattern, str) and (why := _why_no_pattern(pattern)) is not None:
                where = f"{self._pointers.get(id(schema), '#')}/{keyword}"
                shown = one_line(pattern, 80)
                return f"has at {where} a regular expression that Python cannot use, {shown} ({why}); write another."
        return None

    def _target(self, keyword: str, reference: Any, schema: JsonObject, resolver: Any) -> tuple[Any, Any] | str:
        """What a reference refers to, with its own resolver, or what is wrong with it."""
        where = f"{self._pointers.get(id(schema), '#')}/{keyword}"
        shown = one_line(str(reference), 120)
        try:
            resolved = resolver.lookup(reference)
            self._kind.check_schema(resolved.contents, format_checker=None)
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001  # a reference that is no URI, or leads nowhere, has many ways to fail
            remote = isinstance(reference, str) and not reference.startswith("#")
            why = "is not in this document, and nothing is fetched" if remote else "leads to no schema in this document"
            return f'refers at {where} to "{shown}", which {why}; put it under $defs and refer to "#/$defs/NAME".'
        return resolved.contents, resolved.resolver

    def _endless(self) -> str | None:
        """The sentence for a schema that applies itself to the same value again and again."""
        clear: set[int] = set()
        for start in self._in_place:
            path: list[int] = [start]
            branches: list[Iterator[Any]] = [iter(self._in_place[start])]
            while branches:
                step = next(branches[-1], None)
                if step is None:
                    branches.pop()
                    clear.add(path.pop())
                elif id(step) in path:
                    where = self._pointers.get(id(step), "#")
                    return f"refers at {where} to itself without end; let it go through properties or items."
                elif isinstance(step, dict) and id(step) not in clear:
                    path.append(id(step))
                    branches.append(iter(self._in_place.get(id(step), ())))
        return None


def _validator_class(schema: JsonObject) -> _Draft | None:
    """The validator of the draft that a schema names; of the latest where it names none; None for an unknown one."""
    named = schema.get("$schema", LATEST)
    return _drafts().get(_bare(named)) if isinstance(named, str) else None


@cache
def _drafts() -> dict[str, _Draft]:
    """Draft, by its URI without what people leave out or write in two ways -> its validator, exact with decimals."""
    from jsonschema import validators

    extend: Any = validators.extend
    exact = {}
    for draft in ("3", "4", "6", "7", "201909", "202012"):
        kind = getattr(validators, f"Draft{draft}Validator")
        own = {name: _multiple_of for name in ("multipleOf", "divisibleBy") if name in kind.VALIDATORS}
        exact[_bare(kind.ID_OF(kind.META_SCHEMA))] = extend(kind, own)
    return exact | {"json-schema.org/schema": exact[_bare(LATEST)]}


def _bare(uri: str) -> str:
    return re.sub(r"^https?://", "", uri.strip().lower()).rstrip("#/")


@cache
def _registry() -> Any:
    """The metaschemas. It retrieves nothing: what is neither there nor in the schema itself does not exist."""
    from jsonschema_specifications import REGISTRY

    return REGISTRY


def _pointers(value: Any, pointer: str = "#") -> Iterator[tuple[int, str]]:
    """The identity of each object in a document, with its JSON pointer."""
    waiting = [(value, pointer)]
    while waiting:
        each, at = waiting.pop()
        if isinstance(each, dict):
            yield id(each), at
            waiting += [(item, f"{at}/{name.replace('~', '~0').replace('/', '~1')}") for name, item in each.items()]
        elif isinstance(each, list):
            waiting += [(item, f"{at}/{number}") for number, item in enumerate(each)]


def _same_value(schema: JsonObject) -> Iterable[Any]:
    """The subschemas that apply to the very value that the schema applies to."""
    for keyword in _IN_PLACE[len(_REFERENCES) :]:
        inner = schema.get(keyword)
        yield from inner if isinstance(inner, list) else [inner] if isinstance(inner, dict) else []
    for keyword in _IN_PLACE_BY_NAME:
        inner = schema.get(keyword)
        yield from inner.values() if isinstance(inner, dict) else []


def _why_no_pattern(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError, ValueError) as error:
        return one_line(str(error), 80)
    return None


# --- answers ---


def json_text(text: str) -> str:
    """The JSON in an answer: without white space and a byte order mark around it, and out of a lone fence."""
    bare = text.strip().strip("\ufeff").strip()
    if not bare.startswith(_FENCES):
        return bare
    inner = bare.strip(bare[0])  # no JSON ends with these signs, so that also a fence without its end is one
    info = _INFO.match(inner)
    return inner[info.end() if info else 0 :].strip()


class Complaint(NamedTuple):
    """What is wrong with an answer. A final one is the schema's own fault: to ask again would only be billed again."""

    sentence: str
    is_final: bool = False


def complaint(schema: JsonObject, text: str) -> Complaint | None:
    """Why a text breaks a schema; None if it does not.

    It may take any time, and whatever a schema makes the validator raise is a complaint too.
    """
    try:
        value = json.loads(
            text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_without_repetition
        )
    except (ValueError, RecursionError) as error:
        begins_wrong = isinstance(error, json.JSONDecodeError) and error.pos == 0  # prose: there is no more to say
        return Complaint(f"the reply is not JSON{'' if begins_wrong else f' ({one_line(str(error), 120)})'}")
    try:
        return _fault_of(value, _validator(json.dumps(schema)))
    except Exception as error:  # noqa: BLE001  # the schema and the answer are anybody's, and the answer was paid for
        why = one_line(f"{type(error).__name__}: {error}", 160)
        return Complaint(f"the reply cannot be checked against the schema ({why})", is_final=True)


def _fault_of(value: object, validator: Any) -> Complaint | None:
    worst: ValidationError | None = next(iter(validator.iter_errors(value)), None)
    if worst is None:
        return None
    return Complaint(f"the reply breaks the schema at {worst.json_path}: {one_line(worst.message, 200)}")


@lru_cache(maxsize=64)
def _validator(schema_text: str) -> _Draft:
    schema = json.loads(schema_text)
    kind = _validator_class(schema) or _drafts()[_bare(LATEST)]
    schema.pop("$schema", None)  # a reference to the whole would find jsonschema's own class by it, not ours
    return kind(schema, registry=_registry())  # with a registry of its own, it never fetches anything


def _multiple_of(validator: "Validator", divisor: Any, value: Any, _schema: Any) -> "Iterator[ValidationError]":
    """`multipleOf` by decimal value: as a binary float, 4.02 is no multiple of 0.01."""
    from jsonschema.exceptions import ValidationError

    if validator.is_type(value, "number") and Fraction(str(value)) % Fraction(str(divisor)):
        yield ValidationError(f"{value!r} is not a multiple of {divisor!r}")


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{one_line(digits, 40)} is beyond the range of numbers")
    return number


def _without_repetition(pairs: list[tuple[str, Any]]) -> JsonObject:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {one_line(twice, 60)} is there twice")
    return value
