"""Signatures name what comes from JSON; its content is checked where it is read."""

from collections.abc import Mapping
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
"""An object of JSON: a request's body, a reply, a row of an input or of results."""

RemoteObject: TypeAlias = Mapping[str, object]
"""An object of the provider's API as the server describes it: a file, a fine-tuning job, one of its events."""
