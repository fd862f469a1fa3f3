"""Servers describe a fine-tuning job in different words; what they mean is decided here.

Pure functions over the provider's objects: OpenAI's, and those of other servers with its API as seen in use.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from tidemill.models.json_types import RemoteObject
from tidemill.models.metrics import Point, point_of_event
from tidemill.models.tables import ENDED_WITHOUT_MODEL, TRAINED, fine_tune_events, fit

_CANCELLED = ("cancelled", "canceled")

_MILLISECONDS = 1e11
"""A larger time is in milliseconds: as seconds it would be after the year 5000."""


def is_trained(remote: RemoteObject) -> bool:
    """Whether the provider's job has ended with a model."""
    return _status(remote) in TRAINED or (_status(remote) not in ENDED_WITHOUT_MODEL and _has_finished(remote))


def has_ended(remote: RemoteObject) -> bool:
    """Whether the provider's job will not change any more."""
    return is_trained(remote) or _status(remote) in ENDED_WITHOUT_MODEL


def has_failed(remote: RemoteObject) -> bool:
    """Whether the provider's job has ended without a model, though nobody has cancelled it."""
    return _status(remote) in ENDED_WITHOUT_MODEL and _status(remote) not in _CANCELLED


def is_nameless(remote: RemoteObject) -> bool:
    """Whether the provider's job has ended well, and names no model."""
    return _status(remote) in TRAINED and not _names_model(remote)


def reason_of(remote: RemoteObject) -> tuple[str | None, str | None]:
    """Why the provider's job has failed: code and message, each None if the server says nothing."""
    error = remote.get("error")
    if not isinstance(error, dict):
        return None, str(error) if error else None
    code, message = error.get("code"), error.get("message")
    return str(code) if code else None, str(message) if message else None


def is_about_validation(remote: RemoteObject) -> bool:
    """Whether the error of a job is about its validation file, not about its training file."""
    error = remote.get("error")
    param = str(error.get("param") or "") if isinstance(error, dict) else ""
    text = param if "file" in param else f"{error}"
    return "validation" in text.lower() and "training" not in text.lower()


def event_id(event: RemoteObject) -> str:
    """An event's id; without one, a hash of the event."""
    server_id = event.get("id")
    if isinstance(server_id, str) and server_id:
        return fit(server_id, fine_tune_events.c.event_id)
    return hashlib.sha256(repr(sorted(event.items())).encode(errors="replace")).hexdigest()[:32]


def time_of(event: RemoteObject) -> datetime | None:
    """When an event happened, from seconds or milliseconds of the epoch or ISO 8601; None without a time."""
    value = event.get("created_at")
    try:
        if isinstance(value, str) and not value.replace(".", "", 1).isdigit():
            at = datetime.fromisoformat(value)
            return at if at.tzinfo else at.replace(tzinfo=UTC)
        if not isinstance(value, int | float | str):
            return None
        seconds = float(value or "")
        return datetime.fromtimestamp(seconds / 1_000 if seconds > _MILLISECONDS else seconds, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def order_of(events: Sequence[RemoteObject]) -> int:
    """-1 if the newest event comes first, 1 if the oldest does, 0 if that is not clear."""
    times = [at.timestamp() for event in events if (at := time_of(event)) is not None]
    steps = [point.step for event in events if (point := _point(event)) is not None]
    for numbers in (times, steps):
        if numbers and numbers[0] != numbers[-1]:
            return -1 if numbers[0] > numbers[-1] else 1
    return 0


def _point(event: RemoteObject) -> Point | None:
    measured = event.get("data")
    return point_of_event(measured) if isinstance(measured, dict) else None


def _status(remote: RemoteObject) -> str:
    return str(remote.get("status")).lower()


def _has_finished(remote: RemoteObject) -> bool:
    """Whether it has ended with a model: some servers use another status for that."""
    return bool(_names_model(remote) and remote.get("finished_at"))


def _names_model(remote: RemoteObject) -> bool:
    name = remote.get("fine_tuned_model")
    return isinstance(name, str) and bool(name.strip())
