"""Signatures name what comes from JSON; its content is checked where it is read."""

from collections.abc import Mapping
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
"""An object of JSON: a request's body, a reply, a row of an input or of results."""

RemoteObject: TypeAlias = Mapping[str, object]
"""An object of the provider's API as the server describes it: a file, a fine-tuning job, one of its events."""


def string(value: object) -> str:
    """The value if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def dicts(value: object) -> tuple[JsonObject, ...]:
    """The objects in a list; () where it is none."""
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()
