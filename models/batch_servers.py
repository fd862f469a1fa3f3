"""Each server has a Batch API of its own: what differs is a row of a table, and no other module knows hosts.

What a server says of a batch is read here, too, and is said in OpenAI's words. Sources: the servers' own documents as
of November 2026; only OpenAI's shape has been tried. A server that is not in the table is taken for OpenAI's twin.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, TypeVar, get_args

from tidemill.models.json_types import JsonObject, dicts
from tidemill.models.server_names import host_of, server_name

MB: Final = 1_000_000

Status = Literal["validating", "in_progress", "finalizing", "cancelling", "completed", "failed", "expired", "cancelled"]
ENDED = ("completed", "failed", "expired", "cancelled")


@dataclass(frozen=True, slots=True)
class BatchServer:
    """What the Batch API of one server takes, and what it costs."""

    name: str
    purpose: str = "batch"
    """Of the file that is uploaded."""
    windows: tuple[str, ...] = ("24h",)
    """What `completion_window` may be; the first one is the usual one."""
    most_bytes: int = 200 * MB
    most_lines: int = 50_000
    endpoints: tuple[str, ...] = ("chat", "responses")
    """By their names in models.endpoints. One file is for one endpoint and one model."""
    takes_metadata: bool = True
    """Whether a batch can be recognised by its metadata, and not only by its input file."""
    takes_output_expiry: bool = False
    """Whether a creation may have `output_expires_after`."""
    price_factor: float = 0.5
    """On the standard price, where the table of prices has none for batches."""
    expires: bool = True
    """Whether a batch ends with its window; elsewhere the window is only aimed at."""


_OPENAI = BatchServer("OpenAI", takes_output_expiry=True)
_AZURE = BatchServer("Azure", most_lines=100_000, takes_output_expiry=True, expires=False)
_TOGETHER = BatchServer(
    "Together", purpose="batch-api", most_bytes=100 * MB, endpoints=("chat",), takes_metadata=False, expires=False
)
_ANY = BatchServer("this server")

_SERVERS: dict[str, BatchServer] = {
    "api.openai.com": _OPENAI,
    "openai.azure.com": _AZURE,
    "services.ai.azure.com": _AZURE,
    # The guide says 200 MB, the reference 100 MB.
    "api.groq.com": BatchServer("Groq", windows=("24h", "7d"), most_bytes=100 * MB, endpoints=("chat",)),
    "api.together.xyz": _TOGETHER,
    "api.together.ai": _TOGETHER,
    "api.deepinfra.com": BatchServer("DeepInfra", endpoints=("chat",), price_factor=0.8),
    # The guide says 24h, the reference 48h and that it is fixed.
    "api.novita.ai": BatchServer("Novita", windows=("48h",), endpoints=("chat",), takes_metadata=False),
}
"""By host, or by the end of it."""

_OTHERS: dict[str, str] = {
    "openrouter.ai": "OpenRouter",
    "api.mistral.ai": "Mistral",
    "api.fireworks.ai": "Fireworks",
    "api.anthropic.com": "Anthropic",
    "generativelanguage.googleapis.com": "Google",
}
"""Servers that have batches of another shape, which Tidemill does not speak."""


def batch_server(url: str) -> BatchServer | None:
    """What is known of the Batch API of the server at a URL, or of that name; None where it is no OpenAI-shaped one.

    A server that is not known may still have none; only asking it tells.
    """
    host = host_of(server_name(url))
    if _of_host(_OTHERS, host) is not None:
        return None
    return _of_host(_SERVERS, host) or _ANY


def why_not(url: str, endpoint: str) -> str | None:
    """Why no rows for this endpoint can go there by batch, as the end of a sentence; None where they can."""
    server = batch_server(url)
    if server is None:
        name = _of_host(_OTHERS, host_of(server_name(url)))
        return f"{name} has batches of another shape than OpenAI's"
    if endpoint not in server.endpoints:
        return f"{server.name} takes no batches for the endpoint {endpoint}"
    return None


def is_known_to_take(url: str, endpoint: str) -> bool:
    """Whether a server that has a Batch API is known to take rows for this endpoint; chat they all take."""
    return endpoint == "chat" or _of_host(_SERVERS, host_of(server_name(url))) is not None


_Row = TypeVar("_Row")


def _of_host(table: Mapping[str, _Row], host: str) -> _Row | None:
    name = host.partition(":")[0]
    return next((row for end, row in table.items() if name == end or name.endswith(f".{end}")), None)


# --- what a server says of a batch ---


def batch_of(reply: JsonObject) -> JsonObject:
    """The batch in a reply: Together wraps the one that was created."""
    job = reply.get("job")
    return job if isinstance(job, dict) and "id" not in reply else reply


_WORDS: dict[Status, str] = {
    "validating": "validating queued pending created submitted notstarted",
    "in_progress": "inprogress progress running processing active",
    "finalizing": "finalizing finalising",
    "cancelling": "cancelling canceling cancelrequested",
    "completed": "completed complete succeeded success done finished ended",
    "failed": "failed failure error",
    "expired": "expired timeout timedout timeoutexceeded",
    "cancelled": "cancelled canceled",
}
assert tuple(_WORDS) == get_args(Status)
_STATUS_OF: dict[str, Status] = {word: status for status, words in _WORDS.items() for word in words.split()}


def status_of(remote: JsonObject) -> Status:
    """Its status in OpenAI's words, whatever words, capitals and hyphens the server writes.

    A batch whose status nobody knows goes on: it is looked at again, and no answer of it is lost.
    """
    return _STATUS_OF.get(re.sub(r"[^a-z]", "", str(remote.get("status") or "").lower()), "in_progress")


class Counts(NamedTuple):
    """Lines at the provider; None where it does not say."""

    total: int | None
    completed: int | None
    failed: int | None

    @property
    def done(self) -> int | None:
        """What is answered, well or badly."""
        known = [count for count in (self.completed, self.failed) if count is not None]
        return sum(known) if known else None


def counts_of(remote: JsonObject, lines: int | None = None) -> Counts:
    """How far it is. `lines` is how many were sent, for servers that tell a percentage and no counts."""
    counts = remote.get("request_counts")
    table = counts if isinstance(counts, dict) else remote  # Novita has them beside it as well
    read = Counts(*(_whole(table.get(name)) for name in Counts._fields))
    if read.done is not None or (progress := _number(remote.get("progress"))) is None:
        return read
    total = read.total or lines
    return Counts(total, None if total is None else min(total, int(total * progress / 100)), None)


def files_of(remote: JsonObject) -> list[str]:
    """The ids of its file of outputs and its file of errors, as far as there are any."""
    ids = (remote.get(name) for name in ("output_file_id", "error_file_id"))
    return list(dict.fromkeys(each for each in ids if isinstance(each, str) and each))


class BatchError(NamedTuple):
    """Why a batch failed as a whole."""

    code: str
    message: str
    line: int | None
    """Of the file, counted from 1, where the server names it."""


def errors_of(remote: JsonObject) -> list[BatchError]:
    """OpenAI has a list in an object, others a list, one object or a sentence."""
    errors = remote.get("errors") or remote.get("error")
    if isinstance(errors, dict) and "data" in errors:
        errors = errors["data"]
    if isinstance(errors, str):
        return [BatchError("", errors, None)]
    each = [errors] if isinstance(errors, dict) else dicts(errors)
    return [
        BatchError(str(one.get("code") or ""), str(one.get("message") or ""), _whole(one.get("line"))) for one in each
    ]


_QUEUE_LIMIT = re.compile(r"limit:?\s*([\d,._ ]*\d)\s*(?:enqueued\s*)?tokens", re.IGNORECASE)


def queue_limit_of(message: str) -> int | None:
    """How many tokens may wait in batches, where an error says so: "Limit: 90,000 enqueued tokens." """
    found = _QUEUE_LIMIT.search(message)
    return int(re.sub(r"\D", "", found[1])) if found else None


def time_of(remote: JsonObject, name: str) -> datetime | None:
    """One of its times, e.g. "expires_at": seconds at OpenAI, text elsewhere."""
    value = remote.get(name)
    seconds = _number(value)
    try:
        if seconds is not None:
            # Milliseconds would lie in the year 50,000.
            return datetime.fromtimestamp(seconds / 1000 if seconds > 1e11 else seconds, UTC) if seconds > 0 else None
        moment = datetime.fromisoformat(str(value or ""))
    except (ValueError, OverflowError, OSError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _number(value: object) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and 0 <= number < 1e12 else None
