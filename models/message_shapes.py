"""A message is kept in one shape, that of Chat Completions, and goes out in the shape that its endpoint takes.

The Responses API takes a list of items: what one message holds there are a message, calls and reasoning. Items that the
one shape has no place for are kept beside it, under `ITEMS`, and go back only to the endpoint that they came from.
Sources: OpenAI's API reference of both; its Codex, which sends items back without ids; thinking in tool loops at
DeepSeek (`reasoning_content`), OpenRouter (`reasoning_details`), Google (`extra_content`) and LiteLLM.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from tidemill.models.json_types import JsonObject

ITEMS = "response_items"
"""The field of a message for the items of the Responses API that it was."""

THOUGHTS = ("reasoning_content", "reasoning_details", "thinking_blocks")
"""What a model thought, in the fields in which some servers must have it back after a tool's result."""

NOT_KEPT = ("reasoning", "reasoning_text", "thinking", "thoughts")
"""The same in fields that nobody needs back, and Groq refuses. A turn keeps what was thought beside its messages."""

_BACK_IN_A_LOOP = {*THOUGHTS, "extra_content", "provider_specific_fields"}
_NEVER_BACK = {
    *NOT_KEPT,
    *("annotations", "citations", "search_results", "executed_tools", "context", "content_filter_results", "parsed"),
}
"""Fields of an answer that say something about it: servers with a strict schema refuse them in a request."""

CALLS = ("tool_calls", "function_call")
"""Fields in which a message calls tools."""

_CALLS = {"function_call": "function", "custom_tool_call": "custom"}
_TURNS = {"message", "reasoning", *_CALLS}
"""Types of items that may go back without their id."""


def calls_of(message: JsonObject) -> list[JsonObject]:
    """The tool calls of a message; an old `function_call` is one without an id."""
    calls, old = message.get("tool_calls"), message.get("function_call")
    new = [each for each in calls if isinstance(each, dict)] if isinstance(calls, list) else []
    return [*new, {"type": "function", "function": old}] if isinstance(old, dict) else new


def inner_of(call: JsonObject) -> JsonObject:
    """The part of a tool call that has its name and what it is called with; {} where it has none."""
    inner = call.get("custom" if call.get("type") == "custom" else "function")
    return inner if isinstance(inner, dict) else {}


def reply_message(payload: JsonObject) -> JsonObject:
    """The message of a reply, of either endpoint, without what is empty; {} where there is none."""
    choices, output = payload.get("choices"), payload.get("output")
    choice = choices[0] if isinstance(choices, list) and choices else payload
    message = choice.get("message") if isinstance(choice, dict) else None
    if isinstance(message, dict):
        return {name: value for name, value in message.items() if value not in (None, "", [], {})}
    answer = _new_answer()
    for item in output if isinstance(output, list) else ():
        if isinstance(item, dict):
            _add_item(answer, item)
    return _trimmed(answer)


# --- Chat Completions ---


def to_chat(messages: Sequence[JsonObject]) -> list[JsonObject]:
    """Messages of a dialogue as turns of a chat's body."""
    turns, after_tool = [], False
    for message in messages:
        turn = {name: value for name, value in message.items() if name != ITEMS}
        if message.get("role") == "assistant":
            turn = _answer(turn, in_loop=after_tool or bool(calls_of(message)))
            if turn.get("content") is None and len(turn) == 2:  # nothing but items that a chat does not know
                continue
        after_tool = message.get("role") in {"tool", "function"}
        content = turn.get("content")
        turns.append(turn | {"content": [*map(_chat_part, content)]} if isinstance(content, list) else turn)
    return turns


def _answer(turn: JsonObject, *, in_loop: bool) -> JsonObject:
    """An assistant's turn as a server takes it back."""
    dropped = _NEVER_BACK if in_loop else _NEVER_BACK | _BACK_IN_A_LOOP
    kept = {
        name: value
        for name, value in turn.items()
        if name == "content" or (name not in dropped and value not in (None, [], {}))
    }
    audio = kept.get("audio")
    if isinstance(audio, dict) and "id" in audio:
        kept["audio"] = {"id": audio["id"]}
    return kept


def _chat_part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text", "")}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    if kind == "input_file" and "file_url" not in part:
        return {"type": "file", "file": {name: value for name, value in part.items() if name not in ("type", "detail")}}
    return part


# --- Responses ---


def of_items(items: Sequence[JsonObject]) -> list[JsonObject]:
    """The input of a Responses call as messages: the items of one answer are one message."""
    messages: list[JsonObject] = []
    answer: JsonObject | None = None
    for item in items:
        kind, call_id = _kind(item), item.get("call_id")
        if kind == "message" and item.get("role") != "assistant":
            answer = None
            messages.append(
                {name: value for name, value in item.items() if name not in ("type", "id", "status", ITEMS)}
            )
        elif kind.endswith("_output") and call_id:
            answer = None
            more = {} if kind == "function_call_output" else {ITEMS: [item]}
            messages.append({"role": "tool", "content": item.get("output"), "tool_call_id": call_id, **more})
        else:
            if answer is None or (kind == "message" and answer["content"] is not None):
                answer = _new_answer()
                messages.append(answer)
            _add_item(answer, item)
    return [_trimmed(message) for message in messages]


def _kind(item: JsonObject) -> str:
    return str(item.get("type") or "message")


def _new_answer() -> JsonObject:
    return {"role": "assistant", "content": None, ITEMS: []}


def _trimmed(message: JsonObject) -> JsonObject:
    """A message without its items where they say nothing that it does not say itself."""
    items = message.get(ITEMS, ())
    kinds = {_kind(item) for item in items if item.get("encrypted_content")}
    kinds |= {_kind(item) for item in items} - {"reasoning"}
    return message if kinds - {"message", *_CALLS} else {key: each for key, each in message.items() if key != ITEMS}


def _add_item(answer: JsonObject, item: JsonObject) -> None:
    kind = _kind(item)
    answer[ITEMS].append(item)
    if kind == "message":
        answer["content"] = item.get("content")
        if isinstance(answer["content"], list):
            texts = [part.get("text") for part in answer["content"] if isinstance(part, dict)]
            if all(isinstance(text, str) for text in texts):
                answer["content"] = "".join(map(str, texts))
    elif kind in _CALLS:
        inner = {"name": item.get("name"), **_argument(kind, item)}
        call = {"id": item.get("call_id"), "type": _CALLS[kind], _CALLS[kind]: inner}
        answer.setdefault("tool_calls", []).append(call)


def _argument(kind: str, item: JsonObject) -> JsonObject:
    name = "arguments" if kind == "function_call" else "input"
    return {name: item.get(name, "")}


def to_items(messages: Sequence[JsonObject]) -> list[JsonObject]:
    """Messages of a dialogue as input of a Responses call."""
    return [item for message in messages for item in _items(message)]


def _items(message: JsonObject) -> Iterator[JsonObject]:
    role, content = message.get("role"), message.get("content")
    if isinstance(message.get(ITEMS), list):
        yield from (back for item in message[ITEMS] if isinstance(item, dict) and (back := _item_back(item)))
        return
    if role in {"tool", "function"}:
        call_id = message.get("tool_call_id") or _old_id(message)
        output = [_input_part(part, "user") for part in content] if isinstance(content, list) else content
        yield {"type": "function_call_output", "call_id": call_id, "output": output}
        return
    if isinstance(content, list):
        content = [_input_part(part, str(role)) for part in content]
    if content is not None:
        yield {"role": role, "content": content}
    for call in calls_of(message):
        kind = "custom" if call.get("type") == "custom" else "function"
        inner = inner_of(call)
        item_kind = next(name for name, short in _CALLS.items() if short == kind)
        head = {"type": item_kind, "call_id": call.get("id") or _old_id(inner), "name": inner.get("name")}
        yield head | _argument(item_kind, inner)


def _item_back(item: JsonObject) -> JsonObject | None:
    """An item as it may be sent again: without its id, which a server that stores nothing does not know."""
    kind = _kind(item)
    if kind == "reasoning" and not item.get("encrypted_content"):
        return None
    return {name: value for name, value in item.items() if kind not in _TURNS or name not in ("id", "status")}


def _old_id(named: JsonObject) -> str:
    """A call's id where the shape of its time had none."""
    return f"call_{named.get('name')}"


def _input_part(part: Any, role: str) -> Any:
    if not isinstance(part, dict):
        return part
    kind, image, file = part.get("type"), part.get("image_url"), part.get("file")
    if kind == "text":
        return {"type": "output_text" if role == "assistant" else "input_text", "text": part.get("text", "")}
    if kind == "image_url" and isinstance(image, dict):
        detail = {"detail": image["detail"]} if image.get("detail") else {}
        return {"type": "input_image", "image_url": image.get("url"), **detail}
    if kind == "file" and isinstance(file, dict):
        return {"type": "input_file", **file}
    return part
