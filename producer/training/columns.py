"""Tables name their columns in many ways; each must become a training example or a sentence.

A row's shape is how its columns make an example; it is found by the columns' names, upper and lower case alike.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import orjson

from tidemill.models.turns import INSTRUCTIONS
from tidemill.producer.intake.records import BadRowError, Record, json_kind
from tidemill.producer.intake.requests import as_text, listed
from tidemill.producer.training.examples import DIALOGUE_KEYS, Body

T = TypeVar("T")

PROMPTS = ("prompt", "question", "instruction", "input")  # tried in this order
REPLIES = ("completion", "answer", "response", "reply", "output")
SYSTEMS = ("system", "system_prompt")
PREFERRED = ("preferred", "preferred_output", "preferred_completion", "chosen")
NON_PREFERRED = ("non_preferred", "non_preferred_output", "non_preferred_completion", "rejected")
_SPEAKERS = {"human": "user", "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
_SPOKEN = re.compile(r"\n\n(Human|Assistant):")
_FEWEST_TURNS = 2
_NUMBERED = re.compile(r"\.[0-9]+$")  # the reader of tables names a second `a` `a.1`


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that the user named, and a system text for all rows. None: look for a usual name, or do without."""

    prompt: str | None = None
    reply: str | None = None
    system: str | None = None
    preferred: str | None = None
    non_preferred: str | None = None
    system_text: str | None = None


class Shape(NamedTuple):
    """Which columns of a row make the example; `more` is Alpaca's input, which goes below the instruction."""

    prompt: str = ""
    reply: str = ""
    system: str = ""
    preferred: str = ""
    non_preferred: str = ""
    messages: str = ""
    more: str = ""

    def __str__(self) -> str:
        """For the report: "question → answer"."""
        if self.messages:
            return self.messages
        prompts = " + ".join(name for name in (self.system, self.prompt, self.more) if name)
        replies = (self.preferred, f"not {self.non_preferred}") if self.preferred else (self.reply,)
        return f"{prompts} → {', '.join(replies)}" if prompts else ", ".join(replies)


def shape_of(names: Iterable[str], columns: Columns, method: str) -> Shape | str:
    """How rows with these columns make examples, or why they do not: the rest of a sentence about their file."""
    names = list(names)
    chosen = {key: name for key in _OPTIONS if (name := getattr(columns, key))}
    for key, name in chosen.items():
        if name not in names:
            return f"has no column {name!r}, which {_OPTIONS[key]} names; its columns are: {listed(names)}"
    by_name = {_plain(name): name for name in reversed(names)}  # of equal names the first counts
    used = {key: chosen.get(key) or _first(usual, by_name) for key, usual in _USUAL.items()}
    messages = "" if {"prompt", "reply"} & set(chosen) else by_name.get("messages") or by_name.get("conversations", "")
    if method == "dpo" and used["preferred"] and used["non_preferred"]:  # no prompt: two whole dialogues
        return Shape(**(used | {"reply": "", "messages": "" if used["prompt"] else messages}))
    used |= {"preferred": "", "non_preferred": ""}
    if messages:
        return Shape(messages=messages, system=chosen.get("system", ""))
    if used["prompt"] and used["reply"] and used["prompt"] != used["reply"]:
        more = by_name.get("input", "") if _plain(used["prompt"]) == "instruction" else ""
        return Shape(**used, more="" if more == used["reply"] else more)
    if method == "supervised" and _first(PREFERRED, by_name):
        return f"seems to hold preferences: use --method dpo for it; its columns are: {listed(names)}"
    flags = "--prompt-column and --reply-column"
    if method == "dpo":
        flags = "--prompt-column, --preferred-column and --non-preferred-column"
    return f"has no columns with usual names; say which to use with {flags}; its columns are: {listed(names)}"


def namesakes(names: Iterable[str], shape: Shape) -> str:
    """A sentence about columns that share the name of one that is used, in upper or lower case; "" if none do."""
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_name.setdefault(_plain(_NUMBERED.sub("", name)), []).append(name)
    shared = [used for used in shape if used and by_name.get(_plain(used), [])[:1] == [used] != by_name[_plain(used)]]
    return f"more than one column is called {listed(shared)}; the first is used" if shared else ""


def body_of(record: Record, shape: Shape, columns: Columns) -> Body:
    """A row as an example: `{"messages": ..}`, or a preference if it has two replies.

    Raises:
        BadRowError: a cell is not what its column needs.
    """
    if not shape.preferred:
        return _dialogue(record, shape, columns)
    if not (shape.prompt or shape.messages):
        return _preference(record, shape, columns)
    prompt = record[shape.prompt] if shape.prompt else None
    if isinstance(prompt, dict):  # a line in OpenAI's own form
        prompt = prompt | {"messages": _with_system(prompt.get("messages"), columns.system_text)}
    elif shape.messages:
        prompt = _dialogue(record, shape, columns)
    else:
        prompt = {"messages": _prompt(record, shape, columns)}
    return {
        "input": prompt,
        "preferred_output": _output(record, shape.preferred),
        "non_preferred_output": _output(record, shape.non_preferred),
    }


def _preference(record: Record, shape: Shape, columns: Columns) -> Body:
    """A preference from two whole dialogues. The prompt is all before their last messages, and is the same in both."""
    preferred, other = (_whole(record, name) for name in (shape.preferred, shape.non_preferred))
    if preferred[:-1] != other[:-1]:
        raise BadRowError(f"{shape.preferred!r} and {shape.non_preferred!r} differ before their last message")
    system = _text(record, shape.system) if shape.system else ""
    return {
        "input": {"messages": _with_system(preferred[:-1], system if system.strip() else columns.system_text)},
        "preferred_output": preferred[-1:],
        "non_preferred_output": other[-1:],
    }


def _whole(record: Record, name: str) -> list[object]:
    """A whole dialogue in one cell: messages, or text in which each turn begins with "Human:" or "Assistant:"."""
    cell = record.get(name)
    if isinstance(cell, str) and cell.lstrip().startswith("Human:"):
        _, *turns = _SPOKEN.split(f"\n\n{cell.lstrip()}")
        return [
            {"role": _SPEAKERS[speaker.lower()], "content": text.strip()}
            for speaker, text in zip(turns[::2], turns[1::2], strict=True)
        ]
    try:
        messages = _json(record, name)
    except BadRowError:
        messages = None
    if not isinstance(messages, list) or len(messages) < _FEWEST_TURNS:
        raise BadRowError(
            f"there is no prompt, and {name!r} is no list of messages that begins with one; "
            "add a column of prompts (--prompt-column), or write whole dialogues"
        )
    return [_turn(each) for each in messages]


def _dialogue(record: Record, shape: Shape, columns: Columns) -> Body:
    if not shape.messages:
        reply = {"role": "assistant", "content": _text(record, shape.reply)}
        return {"messages": [*_prompt(record, shape, columns), reply]}
    system = _text(record, shape.system) if shape.system else ""
    messages = _json(record, shape.messages)
    if isinstance(messages, list):
        messages = [_turn(each) for each in messages]
    more = {key: _json(record, key) for key in DIALOGUE_KEYS[1:] if record.get(key) is not None}
    return {"messages": _with_system(messages, system or columns.system_text), **more}


def _prompt(record: Record, shape: Shape, columns: Columns) -> list[object]:
    cell = record[shape.prompt]
    if isinstance(cell, list):
        return _with_system([_turn(each) for each in cell], columns.system_text)
    prompt = _text(record, shape.prompt)
    if shape.more and (more := _text(record, shape.more)).strip():
        prompt = f"{prompt}\n\n{more}"
    system = _text(record, shape.system) if shape.system else ""
    return _with_system([{"role": "user", "content": prompt}], system if system.strip() else columns.system_text)


def _output(record: Record, name: str) -> list[object]:
    cell = record[name]
    if isinstance(cell, list):  # messages; some write the whole dialogue, whose last turn is the reply
        has_prompt = any(isinstance(each, dict) and each.get("role") == "user" for each in cell)
        return cell[-1:] if has_prompt else cell
    return [{"role": "assistant", "content": _text(record, name)}]


def _with_system(messages: T, system: str | None) -> T | list[object]:
    """The system text before the messages, unless they begin with instructions of their own or are no list."""
    if not system or not isinstance(messages, list):
        return messages
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    return messages if first.get("role") in INSTRUCTIONS else [{"role": "system", "content": system}, *messages]


def _turn(message: object) -> object:
    """A message in OpenAI's form; ShareGPT writes {"from": "human", "value": ".."}."""
    if not isinstance(message, dict) or "from" not in message or "role" in message:
        return message
    speaker = message["from"]
    role = _SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else speaker
    return {"role": role, "content": message.get("value")}


def _text(record: Record, name: str) -> str:
    value = record.get(name)
    if isinstance(value, dict | list | bool):
        raise BadRowError(f"the column {name!r} holds {json_kind(value)}, not text")
    return as_text(value)


def _json(record: Record, name: str) -> Any:
    """A cell that should hold JSON: from JSON and Parquet as it is, from a CSV parsed."""
    value = record.get(name)
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except ValueError:
        raise BadRowError(f"the column {name!r} is not valid JSON") from None


def _first(usual: tuple[str, ...], by_name: dict[str, str]) -> str:
    return next((by_name[name] for name in usual if name in by_name), "")


def _plain(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


_OPTIONS = {
    "prompt": "--prompt-column",
    "reply": "--reply-column",
    "system": "--system-column",
    "preferred": "--preferred-column",
    "non_preferred": "--non-preferred-column",
}
_USUAL = {
    "prompt": PROMPTS,
    "reply": REPLIES,
    "system": SYSTEMS,
    "preferred": PREFERRED,
    "non_preferred": NON_PREFERRED,
}
