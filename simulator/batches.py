"""A batch is a file of calls that are run later; here is what is known of one, and how each server would show it.

What was asked is decided at the creation. What has happened since (status, times, files) is changed only by
simulator/running.py and simulator/batch_routes.py, through the shelf.
Shapes and words: OpenAI's API reference; other servers: their own.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

WINDOW_SECONDS = 24 * 3600
# Shares of a batch's duration at which it begins to run and to write its files.
VALIDATED, RAN = 0.2, 0.8
OPEN = ("validating", "in_progress", "finalizing", "cancelling")
ENDPOINTS = ("/v1/chat/completions", "/v1/responses")


@dataclass(slots=True)
class Tally:
    """What has come of the lines so far."""

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Batch:
    """Times are unix seconds; `fault` is a name of faults.BATCH_FAULTS, or none."""

    id: str
    created_at: float
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: dict[str, str] | None
    output_expires_seconds: int | None
    caller: str
    fault: str | None
    seconds: float
    cancel_seconds: float
    status: str = "validating"
    model: str | None = None
    total: int = 0
    tokens: int = 0
    """Of the prompts: what counts against the queue."""
    times: dict[str, float] = field(default_factory=dict)
    """When it got each status after its first."""
    errors: list[dict[str, Any]] = field(default_factory=list)
    output_file_id: str | None = None
    error_file_id: str | None = None
    tally: Tally = field(default_factory=Tally)
    looks: int = 0
    """How often it was shown since it has ended."""

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def is_wanted(self) -> bool:
        """Whether its lines shall still be run."""
        return self.status != "cancelling" or self.fault == "late_cancel"

    def record(self) -> dict[str, Any]:
        """All of it, to be kept."""
        return asdict(self)

    def _time(self, status: str) -> int | None:
        return int(self.times[status]) if status in self.times else None

    def card(self, dialect: str = "openai") -> dict[str, Any]:
        """The object that the API sends."""
        tally = self.tally
        card: dict[str, Any] = {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": int(self.created_at),
            **{f"{status}_at": self._time(status) for status in ("in_progress", "finalizing", "completed", "failed")},
            "expires_at": int(self.created_at) + WINDOW_SECONDS,
            **{f"{status}_at": self._time(status) for status in ("expired", "cancelling", "cancelled")},
            "request_counts": {"total": self.total, "completed": tally.completed, "failed": tally.failed},
            "usage": {
                "input_tokens": tally.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": tally.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": tally.input_tokens + tally.output_tokens,
            },
            "metadata": self.metadata,
        }
        if self.fault in _FAULTY:
            card |= _FAULTY[self.fault](self, card)
        return card | DIALECTS[dialect](card)


LATE_LOOKS = 2


def _late_ids(batch: Batch, _card: dict[str, Any]) -> dict[str, Any]:
    return {"output_file_id": None} if batch.looks <= LATE_LOOKS else {}


def _empty_ids(_batch: Batch, card: dict[str, Any]) -> dict[str, Any]:
    return {name: card[name] or "" for name in ("output_file_id", "error_file_id")}


def _odd_status(batch: Batch, _card: dict[str, Any]) -> dict[str, Any]:
    return {"status": "awaiting_capacity"} if batch.status == "in_progress" else {}


def _all_completed(_batch: Batch, card: dict[str, Any]) -> dict[str, Any]:
    counts = card["request_counts"]
    return {"request_counts": {**counts, "completed": counts["completed"] + counts["failed"], "failed": 0}}


_FAULTY: dict[str, Callable[[Batch, dict[str, Any]], dict[str, Any]]] = {
    "late_ids": _late_ids,
    "no_output_id": lambda _batch, _card: {"output_file_id": None},
    "empty_ids": _empty_ids,
    "null_counts": lambda _batch, _card: {"request_counts": {"total": None, "completed": None, "failed": None}},
    "no_counts": lambda _batch, _card: {"request_counts": None},
    "all_completed": _all_completed,
    "no_batch_usage": lambda _batch, _card: {"usage": None},
    "odd_status": _odd_status,
}


def _together(card: dict[str, Any]) -> dict[str, Any]:
    counts = card["request_counts"] or {}
    done = (counts.get("completed") or 0) + (counts.get("failed") or 0)
    share = 100.0 * done / (counts.get("total") or 1)
    created_at = datetime.fromtimestamp(card["created_at"], UTC).isoformat()
    told = {"created_at": created_at, "expires_at": None, "metadata": None, "request_counts": None, "usage": None}
    return {"status": card["status"].upper(), "progress": share, **told}


def _novita(card: dict[str, Any]) -> dict[str, Any]:
    status = card["status"].upper()
    return {"status": "PROGRESS" if status == "IN_PROGRESS" else status, "usage": None}


def _azure(card: dict[str, Any]) -> dict[str, Any]:
    begun = card["status"] not in ("validating", "failed")
    absent = {"total": None, "completed": None, "failed": None}
    return {
        "request_counts": card["request_counts"] if begun else absent,
        "output_file_id": card["output_file_id"] or "",
        "error_file_id": card["error_file_id"] or "",
        "usage": None,
    }


DIALECTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "openai": lambda _card: {},
    "together": _together,
    "novita": _novita,
    "azure": _azure,
}
"""What a server says in other words than OpenAI."""
