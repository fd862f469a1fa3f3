"""A request, a message and a gallery describe a picture with the same few fields.

A job's request holds `{"prompt": .., "picture": {"path": .., "sha256": .., "format": .., "width": .., "height": ..}}`;
a picture that the provider fetches itself has only `path` and `url`. What a user should know of it are its `notes`, a
list; most have none. A message keeps the same fields as a part beside its text.
"""

from typing import NamedTuple, TypeAlias

from tidemill.models.json_types import JsonObject
from tidemill.models.text import dumps, loads

Picture: TypeAlias = JsonObject
"""`path` as the user wrote it (a path or a URL), pixels, format `jpeg` or `png`; or `path` and `url` alone."""

_PART = "picture"
_MARK = f'"type":"{_PART}"'


class PictureMessage(NamedTuple):
    """The parts of a message that shows a picture."""

    text: str
    picture: Picture


def dump_message(text: str, picture: Picture) -> str:
    """A message that shows a picture, as a dialogue keeps it: JSON of its parts, without the picture's bytes."""
    return dumps([{"type": "text", "text": text}, {"type": _PART, **picture}])


def load_message(content: str) -> PictureMessage | None:
    """The parts of what `dump_message` wrote; None for any other content."""
    if not content.startswith("[{") or _MARK not in content:
        return None
    try:
        text, part = loads(content)
        return PictureMessage(str(text["text"]), {name: value for name, value in part.items() if name != "type"})
    except (ValueError, TypeError, KeyError):
        return None
