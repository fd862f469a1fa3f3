"""A response in the background, as it is kept and as it is shown. The server does it whether or not anybody looks."""

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Background:
    """`body` is what it will be; `entry` is the line of the paid log, None where nothing is paid. Unix seconds."""

    id: str
    created_at: float
    ready_at: float
    body: dict[str, Any]
    entry: dict[str, Any] | None
    status: str = "queued"
    """Or "done", or "cancelled"."""

    def card(self, now: float) -> dict[str, Any]:
        """The object that the API sends."""
        if self.status == "done":
            return self.body
        begun = self.created_at + (self.ready_at - self.created_at) / 2
        status = "cancelled" if self.status == "cancelled" else ("queued" if now < begun else "in_progress")
        return self.body | {"status": status, "output": [], "usage": None, "incomplete_details": None, "error": None}
