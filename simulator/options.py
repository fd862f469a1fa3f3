"""A running server is switched while a test watches, so start flags and run-time control must be the same names.

FIELDS is the one table behind the command line, `POST /_control` and the client.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, TypedDict

from tidemill.simulator.batches import DIALECTS
from tidemill.simulator.limits import POLICIES


class SimulatorOptions(TypedDict, total=False):
    """Everything that can be given at the start and changed at run time. None takes a key or a limit away."""

    mode: str
    key: str | None
    admin_key: str | None
    usd_per_million: str
    latency_ms: float
    gate: str | int
    latency_shape: str
    seed: int
    reply_chars: int
    faults: dict[str, float]
    models: list[str]
    rpm: int | None
    tpm: int | None
    limit_policy: str
    limit_burst_seconds: float
    limit_headers: bool
    retry_after_seconds: float
    retry_after_ms: int
    slow_seconds: float
    drip_seconds: float
    token_ms: float
    stream_gate: str
    scripts: dict[str, str]
    shutdown: dict[str, str]
    tuning_seconds: float
    tuning_steps: int
    tuning_fails: bool
    tuning_nameless: bool
    file_refusal: str
    training_not_available: bool
    result_base64: bool
    assistants: int
    batch_gate: str
    batch_seconds: float
    batch_cancel_seconds: float
    batch_queue_tokens: int | None
    batch_dialect: str
    no_batches: bool
    chat_batches: bool
    own_batches: bool
    list_lag_seconds: float
    most_upload_bytes: int | None
    upload_bytes_per_second: int | None
    background_seconds: float


@dataclass(frozen=True, slots=True)
class Options:
    mode: str = "ok"
    key: str | None = None
    admin_key: str | None = None
    usd_per_million: str = "0.10/0.50"
    latency_ms: float = 0.0
    gate: str = "open"
    latency_shape: str = "lognormal"
    seed: int = 0
    reply_chars: int = 190
    faults: dict[str, float] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    rpm: int | None = None
    tpm: int | None = None
    limit_policy: str = "bucket"
    limit_burst_seconds: float = 60.0
    limit_headers: bool = True
    retry_after_seconds: float = 1.0
    retry_after_ms: int = 200
    slow_seconds: float = 5.0
    drip_seconds: float = 0.2
    token_ms: float = 0.0
    stream_gate: str = "open"
    scripts: dict[str, str] = field(default_factory=dict)
    shutdown: dict[str, str] = field(default_factory=dict)
    tuning_seconds: float = 1.0
    tuning_steps: int = 20
    tuning_fails: bool = False
    tuning_nameless: bool = False
    file_refusal: str = ""
    training_not_available: bool = False
    result_base64: bool = False
    assistants: int = 0
    batch_gate: str = "open"
    batch_seconds: float = 0.5
    batch_cancel_seconds: float = 0.1
    batch_queue_tokens: int | None = None
    batch_dialect: str = "openai"
    no_batches: bool = False
    chat_batches: bool = False
    own_batches: bool = False
    list_lag_seconds: float = 0.0
    most_upload_bytes: int | None = None
    upload_bytes_per_second: int | None = None
    background_seconds: float = 0.3


def _choice(*allowed: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
        return str(value)

    return convert


def _gate(value: Any) -> str:
    """Open, shut, or how many calls still get through."""
    return str(value) if str(value).isdecimal() else _choice("open", "shut")(value)


def passes(gate: str) -> float:
    """How many calls get through a gate from when it is set."""
    return math.inf if gate == "open" else float(gate) if gate.isdecimal() else 0.0


def _optional(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


def _rates(value: Any) -> dict[str, float]:
    rates = {str(name): float(rate) for name, rate in dict(value).items()}
    if any(rate < 0 for rate in rates.values()) or sum(rates.values()) > 1 + 1e-9:
        raise ValueError("fault rates must be between 0 and 1, and so must their sum")
    return rates


def _texts(value: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in dict(value).items()}


def _dates(value: Any) -> dict[str, str]:
    return {name: date.fromisoformat(text).isoformat() for name, text in _texts(value).items()}


def switch(value: Any) -> bool:
    """A flag: from JSON, or from a command line that may leave its value out."""
    words = {"": True, "true": True, "1": True, "false": False, "0": False}
    if (word := str(value).lower()) not in words:
        raise ValueError(f"{value!r} is neither true nor false")
    return words[word]


# name -> (how to read a value, what it means)
FIELDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "mode": (str, "ok, a fault name for every call, or down503, down502, gone"),
    "key": (_optional(str), "the only API key that is let in; without it every key is"),
    "admin_key": (_optional(str), "the only API key that may read the costs"),
    "usd_per_million": (str, "INPUT/OUTPUT: the standard prices in USD per million tokens that the costs are told at"),
    "latency_ms": (float, "mean latency of a reply"),
    "gate": (_gate, "open, or shut: calls come in, and get their replies once it is open; a number lets so many pass"),
    "latency_shape": (_choice("lognormal", "fixed"), "lognormal (long tail) or fixed"),
    "seed": (int, "decides latencies and random faults, whatever order the calls come in"),
    "reply_chars": (int, "about how long a reply is"),
    "faults": (_rates, "NAME=RATE, repeatable: this share of calls fails so"),
    "models": (tuple, "the models that exist, repeatable; without it every name does"),
    "rpm": (_optional(int), "requests a minute"),
    "tpm": (_optional(int), "tokens a minute"),
    "limit_policy": (_choice(*POLICIES), "bucket or window"),
    "limit_burst_seconds": (float, "bucket: how many seconds' worth it holds when full"),
    "limit_headers": (switch, "replies tell the limits, and refusals how long to wait"),
    "retry_after_seconds": (float, "what the fault 429 asks for"),
    "retry_after_ms": (int, "what the fault 429ms asks for"),
    "slow_seconds": (float, "how late the headers of the fault slow are"),
    "drip_seconds": (float, "how long the body of the fault drip takes"),
    "token_ms": (float, "how long it is from one word of a streamed reply to the next"),
    "stream_gate": (_choice("open", "shut"), "shut: streamed replies stop half-way, and go on once it is open"),
    "scripts": (_texts, "ROUTE=SCRIPT, repeatable: faults of one route, such as 'POST /v1/files=!!reset_after*1'"),
    "shutdown": (_dates, "NAME=YYYY-MM-DD, repeatable: the day a model ends"),
    "tuning_seconds": (float, "how long a fine-tune takes"),
    "tuning_steps": (int, "how many training steps it has"),
    "tuning_fails": (switch, "a fine-tune breaks off half-way"),
    "tuning_nameless": (switch, "a fine-tune that succeeds names no model"),
    "file_refusal": (str, "files for a fine-tune are refused after their upload, with these status_details"),
    "training_not_available": (switch, "creating a fine-tune is refused with 403"),
    "result_base64": (switch, "result files are sent base64-encoded"),
    "assistants": (int, "how many assistants there are; without any the endpoint is gone"),
    "batch_gate": (_choice("open", "shut"), "shut: batches run, and end once it is open"),
    "batch_seconds": (float, "how long a batch takes: a fifth to validate, three to run, a fifth to finalize"),
    "batch_cancel_seconds": (float, "how long a batch is cancelling"),
    "batch_queue_tokens": (_optional(int), "most tokens of prompts in a model's batches; what is above fails"),
    "batch_dialect": (_choice(*DIALECTS), "whose words a batch is shown in: openai, together, novita or azure"),
    "no_batches": (switch, "there is no Batch API"),
    "chat_batches": (switch, "the Batch API takes rows for chat alone"),
    "own_batches": (switch, "an API key sees only the batches that were created with it"),
    "list_lag_seconds": (float, "how long files and batches are missing from their lists"),
    "most_upload_bytes": (_optional(int), "uploads above it are answered with 413 before their end"),
    "upload_bytes_per_second": (_optional(int), "how fast uploads are read"),
    "background_seconds": (float, "how long a response in the background takes"),
}


def changed(options: Options, changes: dict[str, Any]) -> Options:
    """Raises ValueError for a name or value that makes no sense: a mistyped switch must not pass a test."""
    if unknown := changes.keys() - FIELDS.keys():
        raise ValueError(f"unknown option: {', '.join(sorted(unknown))}")
    return replace(options, **{name: FIELDS[name][0](value) for name, value in changes.items()})
