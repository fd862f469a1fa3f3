"""The chunks of a stream become the reply that a server would have sent without one.

Shapes: OpenAI's chunks of Chat Completions and events of Responses, and Ollama's lines.
"""

from collections.abc import Sequence

from tidemill.models.json_types import JsonObject

_SPOKEN = ("content", "reasoning_content", "reasoning", "thinking", "refusal")
"""Fields of a delta that go on where those of the last one ended."""
_ENDED = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")


def is_chunk(value: JsonObject) -> bool:
    """Whether an object is the first one of several that make up a reply."""
    return (
        str(value.get("object", "")).endswith(".chunk")
        or str(value.get("type", "")).startswith("response.")
        or value.get("done") is False
        or "delta" in _choice(value)
    )


def join_chunks(chunks: Sequence[JsonObject]) -> tuple[JsonObject, bool]:
    """The reply that the chunks make, and whether they came to an end."""
    is_events = any(str(chunk.get("type", "")).startswith("response.") for chunk in chunks)
    return _join_events(chunks) if is_events else _join_deltas(chunks)


def text_of(chunk: JsonObject) -> str:
    """What a chunk adds to the text of the answer."""
    if chunk.get("type") == "response.output_text.delta":
        return str(chunk.get("delta") or "")
    part = _choice(chunk)
    delta = part.get("delta") or part.get("message") or {"content": part.get("text")}
    content = delta.get("content") if isinstance(delta, dict) else None
    return content if isinstance(content, str) else ""


def _join_deltas(chunks: Sequence[JsonObject]) -> tuple[JsonObject, bool]:
    reply: JsonObject = {}
    message: JsonObject = {}
    choice: JsonObject = {}
    calls: dict[object, JsonObject] = {}
    pieces: dict[str, list[object]] = {}
    for chunk in chunks:
        reply |= {name: value for name, value in chunk.items() if value is not None}
        part = _choice(chunk)
        choice |= {name: value for name, value in part.items() if value is not None}
        delta = part.get("delta") or part.get("message") or {"content": part.get("text")}
        for name, value in delta.items() if isinstance(delta, dict) else ():
            if name in _SPOKEN or name == "reasoning_details":
                pieces.setdefault(name, []).extend(value if isinstance(value, list) else [value] if value else [])
            elif name == "tool_calls":
                _add_calls(calls, value)
            elif value is not None:
                message[name] = value
    for name, values in pieces.items():
        message[name] = "".join(map(str, values)) if all(isinstance(each, str) for each in values) else values
    if calls:
        message["tool_calls"] = list(calls.values())
    has_ended = bool(choice.get("finish_reason") or choice.get("done"))
    own = {name: value for name, value in choice.items() if name not in ("delta", "text", "message")}
    kept = {name: value for name, value in reply.items() if name not in ("choices", "object", "message")}
    return {**kept, "choices": [{**own, "message": message}]}, has_ended


def _choice(chunk: JsonObject) -> JsonObject:
    """The part of a chunk that goes on with the first choice; Ollama's lines are one themselves."""
    choices = chunk.get("choices")
    if isinstance(choices, list):
        first = (each for each in choices if isinstance(each, dict) and not each.get("index"))
        return next(first, {})
    if "message" in chunk and "done" in chunk:
        done_reason = chunk.get("done_reason") if chunk.get("done") else None
        return {"message": chunk["message"], "finish_reason": done_reason, "done": chunk.get("done") or None}
    return {}


def _add_calls(calls: dict[object, JsonObject], deltas: object) -> None:
    """Go on with the tool calls of a delta: each is known by its index, where it has none by its id."""
    for position, delta in enumerate(deltas if isinstance(deltas, list) else [deltas]):
        if not isinstance(delta, dict):
            continue
        names = (delta.get("index"), delta.get("id"), position)
        call = calls.setdefault(next(each for each in names if isinstance(each, int | str)), {})
        call |= {name: value for name, value in delta.items() if value and name not in ("index", "function")}
        part = delta.get("function")
        function = call.setdefault("function", {"name": "", "arguments": ""})
        for name, value in part.items() if isinstance(part, dict) else ():
            if isinstance(value, str) and isinstance(function.get(name, ""), str):
                function[name] = function.get(name, "") + value if name == "arguments" else function.get(name) or value
            elif value is not None:
                function[name] = value


def _join_events(chunks: Sequence[JsonObject]) -> tuple[JsonObject, bool]:
    reply: JsonObject = {}
    items: list[object] = []
    spoken: list[str] = []
    has_ended = False
    for chunk in chunks:
        kind = chunk.get("type")
        if isinstance(chunk.get("response"), dict):
            reply = chunk["response"]
            has_ended = kind in _ENDED
        elif kind == "response.output_item.done":
            items.append(chunk.get("item"))
        elif kind == "response.output_text.delta":
            spoken.append(str(chunk.get("delta") or ""))
        elif kind == "error" or chunk.get("error"):
            error = chunk.get("error") or {name: chunk.get(name) for name in ("code", "message", "param")}
            return {**reply, "error": error, "output": _output_so_far(items, spoken)}, True
    return reply if reply.get("output") else {**reply, "output": _output_so_far(items, spoken)}, has_ended


def _output_so_far(items: list[object], spoken: list[str]) -> list[object]:
    """The output as far as it was sent: whole items, else the text."""
    text = {"type": "output_text", "text": "".join(spoken)}
    return items or ([{"type": "message", "content": [text]}] if spoken else [])
