"""Servers say in words of their own how a fine-tuning job is, and what those mean is decided once.

Pure functions over the provider's objects: OpenAI's, and those of servers that speak its API as met in use.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tidemill.models.metrics import Point, point_of_event
from tidemill.models.tables import ENDED_UNWELL, TRAINED, fine_tune_events, fit

_MILLISECONDS = 1e11
"""Times above it are no seconds, or they would be after the year 5000."""


def is_trained(remote: Mapping[str, Any]) -> bool:
    """Whether the provider's job has ended with a model."""
    return _status(remote) in TRAINED or (_status(remote) not in ENDED_UNWELL and _has_finished(remote))


def has_ended(remote: Mapping[str, Any]) -> bool:
    """Whether the provider changes nothing of its job any more."""
    return is_trained(remote) or _status(remote) in ENDED_UNWELL


def reason_of(remote: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Why the provider's job has failed: its code and its message, each None where the server says none."""
    error = remote.get("error")
    if not isinstance(error, dict):
        return None, str(error) if error else None
    code, message = error.get("code"), error.get("message")
    return str(code) if code else None, str(message) if message else None


def event_id(event: Mapping[str, Any]) -> str:
    """An event's id, or where the server gives none what stands for one."""
    server_id = event.get("id")
    if isinstance(server_id, str) and server_id:
        return fit(server_id, fine_tune_events.c.event_id)
    return hashlib.sha256(repr(sorted(event.items())).encode(errors="replace")).hexdigest()[:32]


def time_of(event: Mapping[str, Any]) -> datetime | None:
    """When the provider says that something happened: seconds or milliseconds of the epoch, or ISO 8601."""
    value = event.get("created_at")
    try:
        if isinstance(value, str) and not value.replace(".", "", 1).isdigit():
            at = datetime.fromisoformat(value)
            return at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = float(value or "")
        return datetime.fromtimestamp(seconds / 1_000 if seconds > _MILLISECONDS else seconds, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def order_of(events: Sequence[Mapping[str, Any]]) -> int:
    """-1 when these events go from the newest to the oldest, 1 the other way round, 0 when that cannot be told."""
    times = [at.timestamp() for event in events if (at := time_of(event)) is not None]
    steps = [point.step for event in events if (point := _point(event)) is not None]
    for numbers in (times, steps):
        if numbers and numbers[0] != numbers[-1]:
            return -1 if numbers[0] > numbers[-1] else 1
    return 0


def _point(event: Mapping[str, Any]) -> Point | None:
    measured = event.get("data")
    return point_of_event(measured) if isinstance(measured, dict) else None


def _status(remote: Mapping[str, Any]) -> str:
    return str(remote.get("status")).lower()


def _has_finished(remote: Mapping[str, Any]) -> bool:
    """Some servers have a word of their own for the end."""
    return bool(remote.get("fine_tuned_model") and remote.get("finished_at"))
