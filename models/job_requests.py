"""A job's request is stored as JSON in several forms; only this module tells them apart.

`ask` and `describe` store `{"prompt": ..}`, `{"messages": [..]}`, a line of OpenAI's batch files as
`{"url": .., "body": {..}}`, or `{"prompt": .., "picture": {..}}`; `train` stores `{"dataset": .., "provider": ..}`.
Another kind of job stores and reads its own form.
"""

from typing import NamedTuple

from tidemill.models.json_types import JsonObject
from tidemill.models.pictures import Picture


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
