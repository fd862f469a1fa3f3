"""What all jobs of a batch share is stored once, read by the worker, and hashed for the batch's identity.

The command line imports this before it knows what to do, so nothing slow may be imported at the top.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Literal, TypedDict

from tidemill.models.json_types import JsonObject

_HOW = ("transport", "rpm", "tpm")
_LATER = ("prompt", "detail", "max_side", "dialogue", "trim")

Detail = Literal["auto", "low", "high", "original"]
Transport = Literal["sdk", "http"]
Trim = Literal["oldest"]


# --- what a caller may set; None: not set ---


class ReplyOptions(TypedDict, total=False):
    """How a reply should be; an assistant keeps it. `models.allowed` has the ranges."""

    temperature: float | None
    max_tokens: int | None
    reasoning_effort: str | None
    params: JsonObject | None
    schema: JsonObject | type | None
    """A JSON schema; in Python also a class of fields, which is made one before anything else looks at it."""


class QuestionOptions(ReplyOptions, total=False):
    """What every question has, with or without a picture."""

    model: str | None
    system: str | None
    endpoint: str | None
    transport: Transport | None
    rpm: int | None
    tpm: int | None


class AskOptions(QuestionOptions, total=False):
    """The options of `ask`."""

    trim: Trim | None


class DescribeOptions(QuestionOptions, total=False):
    """The options of `describe`."""

    prompt: str | None
    detail: Detail | None
    max_side: int | None


# --- what a batch stores ---


@dataclass(frozen=True, slots=True)
class Options:
    """How the jobs of a batch are asked. `None` means: not set, leave it to the provider.

    Tokens and limits are whole numbers; rpm and tpm are per minute.
    """

    model: str
    endpoint: str = "chat"
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    reasoning_effort: str | None = None
    params: JsonObject = field(default_factory=dict)
    """Further body fields, sent as they are."""
    schema: JsonObject | None = None
    """JSON schema that every reply must match."""
    prompt: str | None = None
    """The template of what is asked about every picture; a row of `ask` has its own prompt."""
    detail: Detail | None = None
    max_side: int | None = None
    """Pixels; larger pictures are shrunk to it."""
    dialogue: int | None = None
    """The dialogue that the jobs continue: the id of its first turn."""
    trim: Trim | None = None
    """What is left out of a dialogue that has grown too long for the model; without it the next turn fails."""
    transport: Transport = "sdk"
    rpm: int | None = None
    tpm: int | None = None

    def to_json(self) -> JsonObject:
        """As stored on the batch."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: JsonObject) -> "Options":
        """From what `to_json` stored; fields of a later version are left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    def question_hash(self, kind: str, *, spelled: bool = False) -> str:
        """Hash of what decides the answers, which excludes how calls are sent and how fast.

        Options of a later version count only if they are set, so that older batches keep their hash. With `spelled`
        it is the hash of version 0.1, which took a value written in another way for another value.
        """
        import hashlib

        from tidemill.models.canonical import canonical
        from tidemill.models.text import dumps

        deciding = {
            name: value
            for name, value in asdict(self).items()
            if name not in _HOW and not (name in _LATER and value is None)
        }
        if spelled:
            deciding["params"] = dict(sorted(self.params.items()))
        else:
            deciding = {name: canonical(value, in_schema=name == "schema") for name, value in deciding.items()}
        return hashlib.sha256(dumps([kind, sorted(deciding.items())]).encode()).hexdigest()
