"""Tables name their columns in many ways; each must become a training example or a sentence.

A row's shape is how its columns make an example; it is found by the columns' names, upper and lower case alike. One
function, `body_of`, makes the example of a row of any shape, with all that the row carries beside its messages.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tidemill.models.json_types import JsonObject
from tidemill.producer.intake.records import BadRowError, Record, json_kind
from tidemill.producer.intake.requests import listed
from tidemill.producer.training.dialects import SPEAKERS, in_api_form, in_tool_form
from tidemill.producer.training.examples import Body
from tidemill.producer.training.message_cells import (
    instructions_of,
    is_empty,
    messages_in,
    parsed,
    speaks,
    spoken,
    text_in,
)
from tidemill.producer.training.whole_dialogues import split_dialogues

PROMPTS = ("prompt", "question", "instruction", "input")  # tried in this order
REPLIES = ("completion", "answer", "response", "reply", "output")
SYSTEMS = ("system", "system_prompt", "system_message", "system_instruction")
PREFERRED = ("preferred", "preferred_output", "preferred_completion", "chosen")
NON_PREFERRED = ("non_preferred", "non_preferred_output", "non_preferred_completion", "rejected")
MESSAGES = ("messages", "conversations")
CARRIED = {
    "history": ("history",),
    "tools": ("tools",),
    "functions": ("functions",),
    "parallel_tool_calls": ("parallel_tool_calls",),
}
"""What a row may carry beside its prompt and its replies, in any shape."""
TELLING = frozenset(
    (
        *(*SYSTEMS, *CARRIED, "instruction", "instructions", "input", "context", "contexts", "passage", "document"),
        *("article", "background", "knowledge", "evidence", "chat_history", "available_tools", "tool_definitions"),
        *("documents", "image", "images", "video", "videos", "audio", "audios", "tool_calls", "examples", "weight"),
        *("label", "kto_tag", *PREFERRED, *NON_PREFERRED),
    )
)
"""Columns whose absence from the example changes what is learned."""
_MARKS = ("label", "kto_tag")
_IS_MARK = {True: True, False: False, "true": True, "false": False, "True": True, "False": False}
_SPOKEN = re.compile(r"\n\n(Human|Assistant):")
_PAIR = 2
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
    """Which columns of a row make the example; `more` is Alpaca's input, which goes below the instruction.

    `mark` says of each row whether its reply is a good one.
    """

    prompt: str = ""
    reply: str = ""
    system: str = ""
    preferred: str = ""
    non_preferred: str = ""
    messages: str = ""
    more: str = ""
    history: str = ""
    tools: str = ""
    functions: str = ""
    parallel_tool_calls: str = ""
    mark: str = ""

    def __str__(self) -> str:
        """For the report: "question → answer"."""
        before = (self.system, self.history, self.messages or self.prompt, self.more, self.tools, self.functions)
        prompts = " + ".join(name for name in before if name)
        replies = (self.preferred, f"not {self.non_preferred}") if self.preferred else (self.reply,)
        return " → ".join(part for part in (prompts, ", ".join(replies)) if part)


def shape_of(names: Iterable[str], columns: Columns, method: str) -> Shape | str:
    """How rows with these columns make examples, or why they do not: the rest of a sentence about their file."""
    names = list(names)
    chosen = {key: name for key in _OPTIONS if (name := getattr(columns, key))}
    for key, name in chosen.items():
        if name not in names:
            return f"has no column {name!r}, which {_OPTIONS[key]} names; its columns are: {listed(names)}"
    by_name = {_plain(name): name for name in reversed(names)}  # of equal names the first counts
    used = {key: chosen.get(key) or _first(usual, by_name) for key, usual in _USUAL.items()}
    has_pair = used["prompt"] and used["reply"]
    usual = MESSAGES if has_pair else (*MESSAGES, "conversation")  # beside a pair, it is often the same as plain text
    messages = "" if {"prompt", "reply"} & set(chosen) else _first(usual, by_name)
    if method == "dpo" and used["preferred"] and used["non_preferred"]:  # no prompt: two whole dialogues
        used |= {"reply": "", "messages": "" if used["prompt"] else messages}
        return Shape(**used, more=_more(used, by_name))
    used |= {"preferred": "", "non_preferred": ""}
    mark = "" if "reply" in chosen else _first(_MARKS, by_name)
    if messages:
        return Shape(**(used | {"prompt": "", "reply": "", "history": ""}), messages=messages, mark=mark)
    if used["prompt"] and used["reply"] and used["prompt"] != used["reply"]:
        return Shape(**used, more=_more(used, by_name), mark=mark)
    if method == "supervised" and _first(PREFERRED, by_name):
        return f"seems to hold preferences: use --method dpo for it; its columns are: {listed(names)}"
    flags = "--prompt-column and --reply-column"
    if method == "dpo":
        flags = "--prompt-column, --preferred-column and --non-preferred-column"
    return f"has no columns with usual names; say which to use with {flags}; its columns are: {listed(names)}"


def _more(used: dict[str, str], by_name: dict[str, str]) -> str:
    more = by_name.get("input", "") if _plain(used["prompt"]) == "instruction" else ""
    return "" if more == used["reply"] else more


def namesakes(names: Iterable[str], shape: Shape) -> str:
    """A sentence about columns that share the name of one that is used, in upper or lower case; "" if none do."""
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_name.setdefault(_plain(_NUMBERED.sub("", name)), []).append(name)
    shared = [used for used in shape if used and by_name.get(_plain(used), [])[:1] == [used] != by_name[_plain(used)]]
    return f"more than one column is called {listed(shared)}; the first is used" if shared else ""


def unused(record: Record, shape: Shape, known: Sequence[str] = ()) -> list[str]:
    """The columns of a row that hold something and are no part of the example; without those known already."""
    names = [name for name in record if name not in shape and name not in known and not is_empty(record[name])]
    is_mark = shape.mark and shape.mark not in known and not is_empty(record[shape.mark])
    return [*names, shape.mark] if is_mark and not _is_marked(record, shape) else names


def cells_of(record: Record, shape: Shape) -> Iterator[tuple[str, str]]:
    """The texts that an example is made of, each with its column."""
    for name in filter(None, shape):
        cell = record.get(name)
        if isinstance(cell, str):
            yield name, cell
        elif isinstance(cell, list):
            yield from ((name, text) for text in map(_content, cell) if isinstance(text, str))


def _content(message: object) -> object:
    return (message.get("content") or message.get("value")) if isinstance(message, dict) else message


def is_telling(name: str) -> bool:
    """Whether a column has a name that promises something to learn from."""
    return _plain(name) in TELLING


def body_of(record: Record, shape: Shape, columns: Columns) -> Body:
    """A row as an example: `{"messages": ..}`, or a preference if it has two replies.

    Raises:
        BadRowError: a cell is not what its column needs.
    """
    _refuse_marks(record, shape)
    prompt, beside = _prompt(record, shape)
    offered = _offered(record, shape, beside)
    system = _system(record, shape, beside)
    if lost := [name for name in beside if is_telling(name) and not is_empty(beside[name])]:
        raise BadRowError(f"the prompt holds {listed(lost)} beside its messages, which an example cannot hold")
    if not shape.preferred:
        reply = _reply(record, shape.reply, prompt, shape) if shape.reply else []
        return {"messages": _with_system(in_api_form([*prompt, *reply]), system, columns.system_text)} | offered
    outputs = [_reply(record, name, prompt, shape) for name in (shape.preferred, shape.non_preferred)]
    prompt, outputs = split_dialogues(
        in_api_form(prompt),
        dict(zip((shape.preferred, shape.non_preferred), map(in_api_form, outputs), strict=True)),
        has_prompt=bool(shape.prompt or shape.messages),
    )
    messages = _with_system(prompt, system, columns.system_text)
    return {
        "input": beside | {"messages": messages} | offered,
        "preferred_output": outputs[0],
        "non_preferred_output": outputs[1],
    }


def _refuse_marks(record: Record, shape: Shape) -> None:
    """A row that says whether its reply is good (KTO) must not be learned as if all were."""
    if _is_marked(record, shape):
        kind = "good" if _IS_MARK[record[shape.mark]] else "bad"
        raise BadRowError(
            f"{shape.mark!r} marks it as {kind} (KTO), which no method here takes: "
            "put the bad rows into a file of their own for --negative, and leave the column out; "
            "if it means something else, name the reply's column with --reply-column"
        )


def _is_marked(record: Record, shape: Shape) -> bool:
    mark = record.get(shape.mark) if shape.mark else None
    return isinstance(mark, str | bool) and mark in _IS_MARK


# --- the prompt and the replies ---


def _prompt(record: Record, shape: Shape) -> tuple[list[object], JsonObject]:
    """All messages before the replies, and what stands beside them in OpenAI's own form, `{"messages": .., ..}`."""
    name = shape.messages or shape.prompt
    cell = parsed(record.get(name)) if shape.messages else spoken(record.get(name))
    beside: JsonObject = {}
    if isinstance(cell, dict) and "messages" in cell:
        beside = {key: value for key, value in cell.items() if key != "messages"}
        cell = cell["messages"]
    if isinstance(cell, list) or beside or shape.messages:
        messages = messages_in(cell, name)
    else:
        messages = [{"role": "user", "content": text_in(record, name)}] if name else []
    if shape.more and (more := text_in(record, shape.more)).strip():
        messages = _with_more(messages, more, shape)
    head = 1 if instructions_of(messages) is not None else 0
    return [*messages[:head], *_history(record, shape), *messages[head:]], beside


def _with_more(messages: list[object], more: str, shape: Shape) -> list[object]:
    last = messages[-1] if messages else None
    if not isinstance(last, dict) or not isinstance(last.get("content"), str):
        raise BadRowError(f"the column {shape.more!r} cannot be put below messages: write it into the last of them")
    return [*messages[:-1], last | {"content": f"{last['content']}\n\n{more}"}]


def _history(record: Record, shape: Shape) -> list[object]:
    """Earlier turns: messages, or pairs of what was asked and answered, as Alpaca's history has them."""
    cell = record.get(shape.history) if shape.history else None
    if is_empty(cell):
        return []
    turns = parsed(cell)
    if isinstance(turns, list) and all(isinstance(each, dict) and speaks(each) for each in turns):
        return turns
    if not isinstance(turns, list) or not all(
        isinstance(each, list) and len(each) == _PAIR and all(isinstance(text, str) for text in each) for each in turns
    ):
        raise BadRowError(f"the column {shape.history!r} is no list of pairs, each a question and its reply")
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for pair in turns for role, text in zip(roles, pair, strict=True)]


def _reply(record: Record, name: str, prompt: Sequence[object], shape: Shape) -> list[object]:
    """A reply: text, a message or messages, also behind the prompt again; of a preference also a whole dialogue."""
    cell = record.get(name)
    if isinstance(cell, str) and name != shape.reply and cell.lstrip().startswith("Human:"):
        _, *turns = _SPOKEN.split(f"\n\n{cell.lstrip()}")
        return [
            {"role": SPEAKERS.get(speaker.lower(), speaker), "content": text.strip()}
            for speaker, text in zip(turns[::2], turns[1::2], strict=True)
        ]
    messages = spoken(cell)
    if not isinstance(messages, list):
        return [{"role": "assistant", "content": text_in(record, name)}]
    return messages[len(prompt) :] if prompt and messages[: len(prompt)] == prompt else messages


# --- what is carried beside them ---


def _offered(record: Record, shape: Shape, beside: JsonObject) -> JsonObject:
    """The tools that an example offers, in the API's form, whatever the column is called."""
    if not (shape.tools or shape.functions or shape.parallel_tool_calls or beside):
        return {}
    columns = {name: beside.pop(name, None) for name in ("tools", "functions", "parallel_tool_calls")}
    own = {name: record.get(column) if (column := getattr(shape, name)) else None for name in columns}
    cells = {name: _either(own[name], cell, name) for name, cell in columns.items()}
    tools = [*_tools(cells["tools"], "tools"), *_tools(cells["functions"], "functions")]
    offered: JsonObject = {}
    if tools or parsed(cells["tools"]) == []:
        offered["tools"] = [tool for place, tool in enumerate(tools) if tool not in tools[:place]]
    if not is_empty(is_parallel := cells["parallel_tool_calls"]):
        offered["parallel_tool_calls"] = {"true": True, "false": False}.get(str(is_parallel).lower(), is_parallel)
    return offered


def _tools(cell: object, name: str) -> list[object]:
    if is_empty(cell):
        return []
    tools = parsed(cell)
    if isinstance(tools, str):
        raise BadRowError(f"its {name!r} are not valid JSON")
    if isinstance(tools, dict):
        tools = [tools]
    if not isinstance(tools, list):
        raise BadRowError(f"its {name!r} are {json_kind(tools)}, not a list of tools")
    return [in_tool_form(tool) for tool in tools]


def _system(record: Record, shape: Shape, beside: JsonObject) -> str:
    system: object = text_in(record, shape.system) if shape.system else ""
    for name in SYSTEMS if beside else ():
        system = _either(system, text_in(beside, name), name)
        beside.pop(name, None)
    return str(system or "")


def _either(one: object, other: object, name: str) -> object:
    """What a row says in its column, or beside its messages in the prompt."""
    if is_empty(one) or is_empty(other) or one == other:
        return other if is_empty(one) else one
    raise BadRowError(f"it has {name!r} twice, and the two differ; keep one of them")


def _with_system(messages: list[object], own: str, usual: str | None) -> list[object]:
    """The system text before the messages; `usual` is for rows that have none of their own.

    Raises:
        BadRowError: the messages begin with other instructions.
    """
    present = instructions_of(messages)
    own = "" if is_empty(own) else own
    if own and present is not None and present.strip() != own.strip():
        raise BadRowError("the system text in its column is another one than in its messages; keep one of them")
    text = own or usual
    return messages if present is not None or not text else [{"role": "system", "content": text}, *messages]


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
    **CARRIED,
}
