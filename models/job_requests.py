"""A job's request is stored as JSON in several forms; only this module tells them apart.

`ask` and `describe` store `{"prompt": ..}`, `{"messages": [..]}`, a line of OpenAI's batch files as
`{"url": .., "body": {..}}`, or `{"prompt": .., "picture": {..}}`; `train` stores `{"dataset": .., "provider": ..}`.
Another kind of job stores and reads its own form.
"""

from typing import NamedTuple

from sqlalchemy import JSON, ColumnElement, Connection, Text, cast, func, select, type_coerce

from tidemill.models.json_types import JsonObject
from tidemill.models.pictures import Picture
from tidemill.models.tables import jobs


class BatchLine(NamedTuple):
    """A request that brings its own endpoint, such as `/v1/chat/completions`, and body."""

    url: str
    body: JsonObject


class AskRequest(NamedTuple):
    """The request of `ask` or `describe`: exactly one of a prompt, messages and a batch line.

    A prompt may be about a picture.
    """

    prompt: str | None = None
    messages: tuple[JsonObject, ...] = ()
    line: BatchLine | None = None
    picture: Picture | None = None


class TrainRequest(NamedTuple):
    """The request of `train`: a dataset's id, and the host of the provider."""

    dataset: str
    provider: str


def read_ask_request(request: JsonObject) -> AskRequest:
    """Read the request of a job of `ask` or `describe`."""
    if "body" in request:
        return AskRequest(line=BatchLine(request["url"], request["body"]))
    if "messages" in request:
        return AskRequest(messages=tuple(request["messages"]))
    return AskRequest(request["prompt"], picture=request.get("picture"))


def read_train_request(request: JsonObject) -> TrainRequest:
    """Read the request of a job of `train`."""
    return TrainRequest(request["dataset"], request["provider"])


def last_words(request: JsonObject) -> str:
    """What a job asks, for one line that a person reads: its picture's name and its last words.

    "" where there is no text, and for kinds of another package.
    """
    body = request.get("body", request)
    turns = body.get("messages") or body.get("input") if isinstance(body, dict) else None
    last = turns[-1] if isinstance(turns, list) and turns else turns
    content = last.get("content") if isinstance(last, dict) else last or request.get("prompt")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = " ".join(text for text in texts if isinstance(text, str))
    picture = request.get("picture")
    name = f"[{picture.get('path') or picture.get('url') or ''}] " if isinstance(picture, dict) else ""
    return f"{name}{content}" if isinstance(content, str) else name.rstrip()


def model_asked(connection: Connection, job_id: ColumnElement[int]) -> ColumnElement[str]:
    """In SQL: the model that the own body of a job's request names; null where it is the batch's.

    It is a query of its own, so that only those requests are read for which it is asked: they are long.
    """
    asked = jobs.alias("asked")
    request = type_coerce(asked.c.request, Text)
    if connection.dialect.name == "sqlite":
        model: ColumnElement[str] = func.json_extract(request, "$.body.model")
    else:
        model = cast(request, JSON)["body"]["model"].as_string()
    return select(model).where(asked.c.id == job_id).scalar_subquery()


def model_of(request: JsonObject, default: str) -> str:
    """The model that a request is for: the one that it brings, or that of its batch."""
    body = request.get("body")
    return str(body.get("model") or default) if isinstance(body, dict) else default
