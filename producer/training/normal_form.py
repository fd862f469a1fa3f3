"""Tables, Arrow and other trainers leave traces in examples; here each gets the API's keys and types.

What is taken away is noted, as the code of a finding and a sentence. Faults stay, for the check of the example.
"""

from typing import NamedTuple

from tidemill.models.json_types import JsonObject
from tidemill.producer.training.tool_schemas import as_json, nullable_arguments, without_nulls

DIALOGUE_KEYS = ("messages", "tools", "parallel_tool_calls")
OUTPUTS = ("preferred_output", "non_preferred_output")
_MESSAGE_KEYS = {"role", "content", "name", "weight", "tool_calls", "tool_call_id", "refusal", "function_call"}
_LOST = ("unused", "left_out")
_TELLING = {"tools", "functions", "images", "image", "audio", "audios", "video", "videos", "documents", "context"}
"""Keys of a message whose absence changes what is learned."""
_NULLS_SHOWN = 3


class _Lost(NamedTuple):
    """What an example has lost: keys, and places where null was; arguments that may be null have kept it."""

    keys: dict[str, None]
    nulls: dict[str, None]
    may_be_null: frozenset[str]


def tidied(body: JsonObject, method: str) -> tuple[JsonObject, list[tuple[str, str]]]:
    """The body with the API's keys only, in the API's order and types, and what had to be left out of it."""
    offered = body.get("input") if method == "dpo" else body
    lost = _Lost({}, {}, nullable_arguments(offered.get("tools") if isinstance(offered, dict) else None))
    if method == "dpo":
        if isinstance(offered, dict):
            lost.keys.update(dict.fromkeys(key for key, value in offered.items() if key not in DIALOGUE_KEYS and value))
            offered = _keys(offered, DIALOGUE_KEYS, lost)
        result = {"input": offered, **_keys(body, OUTPUTS, lost)}
    else:
        result = _keys(body, DIALOGUE_KEYS, lost)
    names = {code: [name for name in lost.keys if (name in _TELLING) == (code == "unused")] for code in _LOST}
    notes = [(code, f"{', '.join(map(repr, each))} was left out") for code, each in names.items() if each]
    if lost.nulls:
        shown = [*lost.nulls][:_NULLS_SHOWN]
        more = f" and {len(lost.nulls) - len(shown)} more" if len(lost.nulls) > len(shown) else ""
        notes.append(("nulls", f"null was left out of {', '.join(shown)}{more}"))
    return result, notes


def _keys(body: JsonObject, keys: tuple[str, ...], lost: _Lost) -> JsonObject:
    kept = {key: body[key] for key in keys if body.get(key) is not None}
    for key in ("messages", *OUTPUTS):
        if isinstance(kept.get(key), list):
            kept[key] = [_message(each, lost) if isinstance(each, dict) else each for each in kept[key]]
    if isinstance(kept.get("tools"), list):
        kept["tools"] = [without_nulls(tool, lost.nulls) for tool in kept["tools"]]
    return kept


def _message(message: JsonObject, lost: _Lost) -> JsonObject:
    kept: JsonObject = {}
    for key, value in message.items():
        if value is None or (key == "tool_calls" and value == []):
            continue
        if key not in _MESSAGE_KEYS:
            lost.keys[key] = None
        elif key == "weight" and value in (0.0, 1.0) and not isinstance(value, bool):
            kept[key] = int(value)
        elif key == "content" and isinstance(value, list):
            kept[key] = [_without_keys_of_others(part) for part in value]
        elif key == "tool_calls" and isinstance(value, list):
            kept[key] = [_call(each, lost) for each in value]
        else:
            kept[key] = value
    return kept


def _without_keys_of_others(part: object) -> object:
    """A part of a content without the keys that are null because other parts have them."""
    if not isinstance(part, dict):
        return part
    kept = {key: value for key, value in part.items() if value is not None}
    return {key: _without_null(value) if isinstance(value, dict) else value for key, value in kept.items()}


def _without_null(inner: JsonObject) -> JsonObject:
    return {key: value for key, value in inner.items() if value is not None}


def _call(call: object, lost: _Lost) -> object:
    """A call of a tool with the API's keys, and with arguments as text."""
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return call
    function = {key: value for key, value in call["function"].items() if value is not None}
    dropped = [key for key in call if key not in ("id", "type", "function", "index") and call[key] is not None]
    dropped += [key for key in function if key not in ("name", "arguments")]
    lost.keys.update(dict.fromkeys(dropped))
    function = {key: value for key, value in function.items() if key in ("name", "arguments")}
    if isinstance(arguments := function.get("arguments", {}), dict):
        kept = {key: value for key, value in arguments.items() if value is not None or key in lost.may_be_null}
        lost.nulls.update({f"the argument {key!r}": None for key in arguments if key not in kept})
        function["arguments"] = as_json(kept)
    kept_call = {key: call[key] for key in ("id", "type") if call.get(key) is not None}
    return {**kept_call, "function": function}
