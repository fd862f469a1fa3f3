"""What the routes that are no calls share: a request, the parts of a form, a page of a list.

An upload may be hundreds of megabytes. The server spools it to a file, and `body` is a map of that file: what is
taken from it here are views, and nobody copies the whole.
"""

import email
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tidemill.simulator.calls import BadCallError
from tidemill.simulator.contents import Body
from tidemill.simulator.faults import Answer
from tidemill.simulator.options import Options
from tidemill.simulator.shelf import Shelf


@dataclass(slots=True)
class Request:
    """`words` is what its caller chose to tell it from others: a file's name, a job's suffix and metadata."""

    route: str
    id: str
    query: dict[str, str]
    content_type: str
    body: Body
    identity: str
    caller: str
    now: float
    shelf: Shelf
    options: Options
    words: str = ""
    posted: Any = None
    fault: str | None = None
    """One that the route itself knows, such as a batch that expires."""


@dataclass(slots=True)
class Upload:
    filename: str | None
    content: memoryview

    @property
    def text(self) -> str:
        return bytes(self.content).decode("utf-8", "replace")


class MissingError(BadCallError):
    """HTTP 404: there is no such object."""


def as_json(body: object) -> Answer:
    return Answer(200, orjson.dumps(body))


def read_json(body: Body) -> Any:
    """Raises BadCallError."""
    try:
        return orjson.loads(memoryview(body))
    except orjson.JSONDecodeError:
        message = "We could not parse the JSON body of your request. The OpenAI API expects a JSON payload."
        raise BadCallError(message) from None


def read_parts(content_type: str, body: Body) -> dict[str, Upload]:
    """The parts of a multipart form by name. Raises BadCallError."""
    header = email.message_from_string(f"content-type: {content_type}\n\n")
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not boundary:
        raise BadCallError("Expected a multipart/form-data body with a boundary.")
    parts: dict[str, Upload] = {}
    line = f"--{boundary}".encode()
    start = body.find(line)
    while start >= 0:
        start += len(line)
        if body[start : start + 2] == b"--":
            return parts
        head_end = body.find(b"\r\n\r\n", start)
        end = body.find(b"\r\n" + line, head_end + 2)
        if head_end < 0 or end < 0:
            break
        described = email.message_from_string(body[start + 2 : head_end].decode("utf-8", "replace"))
        name = described.get_param("name", header="content-disposition")
        parts[str(name)] = Upload(described.get_filename(), memoryview(body)[head_end + 4 : end])
        start = end + 2
    raise BadCallError("The multipart body is not complete.")


def page(request: Request, newest_first: Sequence[dict[str, Any]], limit: int, most: int) -> Answer:
    """One page of a list, by the query's `limit`, `after` and `order`."""
    try:
        limit = int(request.query.get("limit", limit))
    except ValueError:
        limit = 0
    if not 1 <= limit <= most:
        raise BadCallError(f"Invalid 'limit': expected an integer from 1 to {most}.", "limit", "invalid_value")
    cards = list(newest_first) if request.query.get("order", "desc") == "desc" else list(reversed(newest_first))
    if after := request.query.get("after"):
        ids = [card["id"] for card in cards]
        if after not in ids:
            raise BadCallError(f"Invalid 'after': there is no {after} in this list.", "after", "invalid_value")
        cards = cards[ids.index(after) + 1 :]
    shown = cards[:limit]
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return as_json({"object": "list", "data": shown, **ends, "has_more": len(cards) > limit})
