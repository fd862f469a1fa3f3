"""A request, a message and a gallery name a picture in the same few words.

A job's request holds `{"prompt": .., "picture": {"path": .., "sha256": .., "format": .., "width": .., "height": ..}}`;
a picture that the provider fetches itself has a `url` in place of all but the path. A message keeps the same words as a
part beside its text.
"""

from typing import NamedTuple, TypeAlias

from tidemill.models.json_types import JsonObject
from tidemill.models.text import dumps, loads

Picture: TypeAlias = JsonObject
"""`path` as the user gave it (for a URL, the URL); pixels; format `jpeg` or `png`; or `path` and `url` alone."""

_PART = "picture"


class PictureMessage(NamedTuple):
    """A message with a picture, taken apart."""

    text: str
    picture: Picture


def dump_message(text: str, picture: Picture) -> str:
    """What a dialogue keeps of a message that shows a picture: JSON of its parts, the picture by its name alone."""
    return dumps([{"type": "text", "text": text}, {"type": _PART, **picture}])


def load_message(content: str) -> PictureMessage | None:
    """The parts of what `dump_message` wrote; None for any other content."""
    if f'"type":"{_PART}"' not in content:
        return None
    try:
        text, part = loads(content)
        return PictureMessage(str(text["text"]), {name: value for name, value in part.items() if name != "type"})
    except (ValueError, TypeError, KeyError):
        return None
