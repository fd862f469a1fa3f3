"""What is written on a command line or in a file as text becomes a value, or one sentence."""

from pathlib import Path
from typing import Any

from tidemill.models.errors import InputError
from tidemill.models.text import loads, one_line


def params(pairs: list[str]) -> dict[str, Any]:
    """`key=value` pairs; a value that is JSON is taken as such, else as text."""
    params: dict[str, Any] = {}
    for each in pairs:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise InputError(f"--param {each!r} is not KEY=VALUE; an example is --param seed=7.")
        try:
            params[key] = loads(value)
        except ValueError:
            params[key] = value
    return params


def schema(path: Path | None) -> dict[str, Any] | None:
    """The JSON schema in a file."""
    if path is None:
        return None
    import json

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--schema {path}: {error.strerror}.") from None
    except ValueError as error:
        raise InputError(f"--schema {path} is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise InputError(f"--schema {path} must hold a JSON object.")
    check_schema(found, f"--schema {path}")
    return found


def check_schema(given: dict[str, Any], where: str) -> None:
    """Raise InputError, beginning with `where`, for what is no JSON schema."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(given).check_schema(given)
    except SchemaError as error:
        why = one_line(f"{error.message} at {error.json_path}", 200)
        raise InputError(f"{where} is no JSON schema: {why}.") from None
