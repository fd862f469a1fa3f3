"""Messages are written in many dialects; here they become the API's: roles, calls of tools, and their results.

ShareGPT has from and value; LLaMA-Factory function_call and observation; Hermes <tool_call> in the text; OpenAI's old
form function_call and functions; templates of Hugging Face calls without ids. What cannot be understood stays as it is,
so that the check of the example reports it.
"""

import re
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import orjson

from tidemill.models.json_types import JsonObject
from tidemill.producer.intake.records import BadRowError

SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
    **dict.fromkeys(("tool", "observation", "tool_response", "function_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
    **{role: role for role in ("system", "developer", "function")},
}
"""Who speaks, as datasets call it -> the API's role; `call` is a message that is nothing but a call of a tool."""

_LEARNED = ("loss", "train", "training")
"""What other trainers call the weight of a message."""

_PLAIN_ROLES = ("user", "assistant", "system", "developer")
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)


def in_api_form(messages: Sequence[object]) -> list[object]:
    """The messages with the API's roles and keys, and with calls of tools that have ids.

    Raises:
        BadRowError: a message that is a call of a tool cannot be read as one.
    """
    if all(map(_is_plain, messages)):
        return [*messages]
    turned: list[object] = []
    for each in messages:
        for message in _turned(each) if isinstance(each, dict) else (each,):
            if _is_call(message) and turned and _is_call(turned[-1]):
                turned[-1]["tool_calls"] += message["tool_calls"]  # type: ignore[index]  # both are calls, made here
            else:
                turned.append(message)
    for message in turned:
        if isinstance(message, dict):
            message.pop("is_call", None)
    neighbours = zip([None, *turned], turned, [*turned[1:], None], strict=False)
    return _with_ids([each for before, message, after in neighbours for each in _results(before, message, after)])


def in_tool_form(tool: object) -> object:
    """A tool in the API's form; some write the bare function, or what is in it beside the type."""
    if isinstance(tool, str):
        tool = _json_or_none(tool) or tool
    if not isinstance(tool, dict):
        return tool
    if isinstance(tool.get("function"), dict):
        return tool | {"type": tool.get("type") or "function"}
    if tool.get("name") is None or tool.get("function") is not None:
        return tool
    return {
        "type": "function",
        "function": {key: value for key, value in tool.items() if key not in ("type", "function")},
    }


def _turned(message: JsonObject) -> Iterator[JsonObject]:
    """A message as one or more of the API's; a call in a message of its own is marked with `is_call`."""
    speaker = message["from"] if message.get("role") is None and "from" in message else message.get("role")
    role = SPEAKERS.get(_plain(speaker), speaker) if isinstance(speaker, str) else speaker
    content = message.get("content") if message.get("content") is not None else message.get("value")
    rest = {key: value for key, value in message.items() if key not in ("role", "from", "content", "value", *_LEARNED)}
    if role == "assistant" and "weight" not in rest and (weights := _weights(message)):
        rest["weight"] = weights[0]
    if role == "function":  # in the old form a result has a name; elsewhere it may be a call
        role = "tool" if message.get("name") or not _calls_in(content) else "call"
        rest.pop("name", None)
    own = {"content": content} if "content" in message or "value" in message else {}
    if role == "call":
        if not (calls := _calls_in(content)):
            raise BadRowError(f"a message of {speaker} is no call of a tool: write JSON with a name and arguments")
        yield {**rest, "role": "assistant", "tool_calls": calls, "is_call": True}
    elif role == "assistant":
        yield {"role": role, **own, **rest, **_spoken_calls(content, message)}
    elif role == "tool" and isinstance(content, str) and not _RESULT.sub("", content).strip() and content.strip():
        yield from ({"role": role, "content": result, **rest} for result in _RESULT.findall(content))
    else:
        yield {"role": role, **own, **rest}


def _is_plain(message: object) -> bool:
    """Whether a message is text in the API's own form, as most are."""
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        return False
    content = message["content"]
    return message["role"] in _PLAIN_ROLES and isinstance(content, str) and "<tool_call>" not in content


def _is_call(message: Any) -> bool:
    return isinstance(message, dict) and "is_call" in message


def _spoken_calls(content: object, message: JsonObject) -> JsonObject:
    """What an assistant's message calls, as changes to it: in any form but the API's own, which stays."""
    calls, old = message.get("tool_calls"), message.get("function_call")
    if isinstance(calls, str):
        calls = _json_or_none(calls) or calls
    if isinstance(calls, list) and calls:
        return {"tool_calls": [_call(each) or copy(each) for each in calls]}
    if isinstance(old, dict) and (call := _call(old)):
        return {"tool_calls": [call], "function_call": None}
    if isinstance(content, str) and (texts := _CALL.findall(content)):
        found = [_call(_json_or_none(text)) for text in texts]
        if all(found):
            return {"content": _CALL.sub("", content).strip() or None, "tool_calls": found}
    return {}


def _calls_in(content: object) -> list[JsonObject]:
    """The calls in a message that is nothing but calls; empty if it is something else."""
    value = _json_or_none(content) if isinstance(content, str) else content
    if isinstance(content, str) and value is None:
        value = [_json_or_none(text) for text in _CALL.findall(content)]
    calls = [_call(each) for each in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call] if all(calls) else []


def _call(value: object) -> JsonObject | None:
    """A call in the API's form, perhaps still without an id; None for what is no call."""
    if not isinstance(value, dict):
        return None
    function = value.get("function") if isinstance(value.get("function"), dict) else value
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    keys = [key for key in ("arguments", "parameters", "args") if function.get(key) is not None]
    first = function[keys[0]] if keys else {}
    more = {key: each for key, each in value.items() if function is not value and key not in ("type", "function")}
    own_id = {"id": value["id"]} if value.get("id") is not None else {}
    kind = value.get("type") or "function"
    return {**more, **own_id, "type": kind, "function": {"name": function["name"], "arguments": first}}


def _results(before: object, message: object, after: object) -> list[object]:
    """A tool's message; if it is a list of the results of all calls before it (LLaMA-Factory), one message for each."""
    count = len(_calls_of(before)) if isinstance(before, dict) else 0
    if count <= 1 or not isinstance(message, dict) or not _is_result(message) or _is_result(after):
        return [message]
    results = _json_or_none(message["content"]) if isinstance(message.get("content"), str) else None
    if message.get("tool_call_id") is not None or not isinstance(results, list) or len(results) != count:
        return [message]
    return [message | {"content": each if isinstance(each, str) else orjson.dumps(each).decode()} for each in results]


def _is_result(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") == "tool"


def _with_ids(messages: list[object]) -> list[object]:
    """The messages with ids for calls and results, if none of them has one: by name, else in their order."""
    own = [message for message in messages if isinstance(message, dict)]
    calls = [call for message in own for call in _calls_of(message)]
    results = [message for message in own if message.get("role") == "tool"]
    if any(each.get("id") is not None for each in calls) or any(
        each.get("tool_call_id") is not None for each in results
    ):
        return messages
    waiting: list[JsonObject] = []
    number = 0
    for message in own:
        for call in _calls_of(message):
            number += 1
            call["id"] = f"call_{number}"
            waiting.append(call)
        if message.get("role") == "tool" and waiting:
            name = message.pop("name", None)
            call = next((each for each in waiting if each["function"].get("name") == name), waiting[0])
            waiting.remove(call)
            message["tool_call_id"] = call["id"]
    return messages


def _calls_of(message: JsonObject) -> list[JsonObject]:
    calls = message.get("tool_calls")
    if message.get("role") != "assistant" or not isinstance(calls, list):
        return []
    return [each for each in calls if isinstance(each, dict) and isinstance(each.get("function"), dict)]


def _weights(message: JsonObject) -> list[int]:
    return [int(message[key]) for key in _LEARNED if message.get(key) in (0, 1)]


def _plain(speaker: str) -> str:
    return speaker.strip().lower().replace("-", "_")


def _json_or_none(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return None
