"""A picture's job differs from a prompt's in its body alone, and this is that body.

The picture itself is read from the store when its turn to be sent has come, and is gone again with the call: hundreds
that wait for a turn would fill the memory.
"""

import base64
from collections.abc import Mapping
from typing import Any

from tidemill.models import blobs
from tidemill.models.options import Options
from tidemill.models.pictures import Picture
from tidemill.models.provider import CallError
from tidemill.models.settings import Endpoint
from tidemill.models.vision import picture_tokens

URL_TOKENS = 1_000
"""What is reserved for a picture that only the provider will see."""


def messages(options: Options, request: Mapping[str, Any], url: str = "") -> list[dict[str, Any]]:
    """The one message that asks about a picture, as the endpoint of the options takes it."""
    return [{"role": "user", "content": _PARTS[options.endpoint](request["prompt"], url, options.detail)}]


def url_of(picture: Picture) -> str:
    """The picture as a URL that holds it, or its own; blocks while it is read.

    Raises:
        CallError: it is not in the store ("request"), or the store cannot be read ("store").
    """
    if "url" in picture:
        return str(picture["url"])
    try:
        content = blobs.get(picture["sha256"])
    except blobs.BlobMissingError as error:
        raise CallError("request", str(error), code="picture_missing") from None
    except blobs.BlobError as error:
        raise CallError("store", str(error)) from None
    return f"data:image/{picture['format']};base64,{base64.b64encode(content).decode()}"


def tokens(options: Options, picture: Picture) -> int:
    """What the provider will count for the picture, or our best guess."""
    if "url" in picture:
        return URL_TOKENS
    return picture_tokens(options.model, picture["width"], picture["height"], options.detail or "auto").tokens


def _chat_parts(prompt: str, url: str, detail: str | None) -> list[dict[str, Any]]:
    shown = {"url": url} if detail is None else {"url": url, "detail": detail}
    return [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": shown}]


def _responses_parts(prompt: str, url: str, detail: str | None) -> list[dict[str, Any]]:
    shown = {"type": "input_image", "image_url": url}
    return [{"type": "input_text", "text": prompt}, shown if detail is None else {**shown, "detail": detail}]


_PARTS: dict[Endpoint, Any] = {"chat": _chat_parts, "responses": _responses_parts}
