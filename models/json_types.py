"""What comes from JSON has a name in signatures; what is in it is checked where it is read."""

from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
"""An object of JSON: a request's body, a reply, a row of an input or of results."""
