"""What all jobs of a batch share is written once, read by the worker, hashed for identity.

The command line imports this before it knows what to do: nothing slow may be imported at the top.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypedDict

_HOW = ("transport", "rpm", "tpm")
_LATER = ("prompt", "detail", "max_side", "dialogue", "trim")

Detail = Literal["auto", "low", "high", "original"]
Transport = Literal["sdk", "http"]
Trim = Literal["oldest"]


# --- what a caller may say; None: not said ---


class ReplyOptions(TypedDict, total=False):
    """What a reply is to be like; an assistant keeps it. `models.allowed` has the ranges."""

    temperature: float | None
    max_tokens: int | None
    reasoning_effort: str | None
    params: dict[str, Any] | None
    schema: dict[str, Any] | None


class QuestionOptions(ReplyOptions, total=False):
    """What every question has, be it about a text or a picture."""

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
    """How the jobs of a batch are asked. `None` means: not said, leave it to the provider.

    Tokens and limits are whole numbers; rpm and tpm are per minute.
    """

    model: str
    endpoint: str = "chat"
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    reasoning_effort: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    """Further body fields, sent as they are."""
    schema: dict[str, Any] | None = None
    """JSON schema that every reply must satisfy."""
    prompt: str | None = None
    """What is asked about every picture, as a template; a prompt of `ask` is the row's own."""
    detail: Detail | None = None
    max_side: int | None = None
    """Pixels: larger pictures are shrunk to it."""
    dialogue: int | None = None
    """The dialogue that the jobs go on: the id of its first turn."""
    trim: Trim | None = None
    """What is left out of a dialogue that has grown too long for the model; else its next turn is refused."""
    transport: Transport = "sdk"
    rpm: int | None = None
    tpm: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As stored on the batch."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Options":
        """From what `to_json` stored; fields of a later version are left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    def question_hash(self, kind: str) -> str:
        """Hash of what decides the answers: how calls are sent and how fast does not belong to it.

        Options that came with a later version do only where they are said, so that they change no batch of before.
        """
        import hashlib

        from tidemill.models.text import dumps

        asked = {
            name: value
            for name, value in asdict(self).items()
            if name not in _HOW and not (name in _LATER and value is None)
        }
        asked["params"] = dict(sorted(self.params.items()))  # the order of a schema's keys is the order of the answer's
        return hashlib.sha256(dumps([kind, sorted(asked.items())]).encode()).hexdigest()
