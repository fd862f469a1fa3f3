"""What a model said is found in a reply, whichever fields a server uses and whatever it puts into them.

Shapes: Chat Completions and Responses, and what Ollama, Mistral, Anthropic, Gemini and gateways make of them.
"""

from typing import NamedTuple

from tidemill.models.json_types import JsonObject, dicts, string
from tidemill.models.payloads import MalformedError, load_json
from tidemill.models.text import dumps


class Spoken(NamedTuple):
    """What the model said, in its parts."""

    text: str = ""
    refusal: str = ""
    reasoning: str = ""
    calls: tuple[JsonObject, ...] = ()


ABSENT = object()
"""In place of a finish reason that a server never sends; null is one that it left out this time."""


def decoded(value: object) -> object:
    """JSON that a gateway has encoded twice, decoded again."""
    try:
        return load_json(value.encode("utf-8", "replace")) if isinstance(value, str) and value[:1] == "{" else value
    except MalformedError:
        return value


def unwrapped(payload: JsonObject) -> JsonObject:
    """The reply itself where a gateway put it into an envelope."""
    if not payload.keys() & {"choices", "output", "error", "message"}:
        for name in ("result", "data", "response", "body"):
            inner = decoded(payload.get(name))
            if isinstance(inner, dict) and inner.keys() & {"choices", "output"}:
                return inner
    return payload


def finish_words(choice: JsonObject) -> tuple[object, object]:
    """The finish reason and the native one of a choice; `ABSENT` where the server has no such field."""
    details, extra, filters = map(choice.get, ("finish_details", "provider_specific_fields", "content_filter_results"))
    native = choice.get("native_finish_reason")
    if native is None and isinstance(extra, dict):  # LiteLLM
        native = extra.get("native_finish_reason")
    if _is_filtered(filters):
        native = "content_filter"
    for word in (choice.get("finish_reason"), choice.get("finishReason"), details, choice.get("done_reason")):
        if word is not None:
            return word, native
    return (None if "finish_reason" in choice else ABSENT), native


def _is_filtered(filters: object) -> bool:
    """Whether any of Azure's filters has struck."""
    return isinstance(filters, dict) and any(each.get("filtered") is True for each in dicts([*filters.values()]))


def is_blocked(payload: JsonObject) -> bool:
    """Whether a filter has stopped the prompt, so that there is no choice: Gemini's and Azure's shapes."""
    feedback = payload.get("prompt_feedback") or payload.get("promptFeedback")
    if isinstance(feedback, dict) and (feedback.get("block_reason") or feedback.get("blockReason")):
        return True
    return any(_is_filtered(each.get("content_filter_results")) for each in dicts(payload.get("prompt_filter_results")))


def first_choice(choices: object) -> JsonObject:
    """The first choice that is one; some servers send it without a list."""
    if isinstance(choices, dict):
        return choices if choices.keys() & {"message", "delta", "text"} else first_choice(list(choices.values()))
    return next(iter(dicts(choices)), {})


def message_of(choice: JsonObject) -> JsonObject | None:
    """The message of a choice, whatever it is called; None without one."""
    for value in map(choice.get, ("message", "delta", "text")):
        if isinstance(value, dict):
            return value
        if isinstance(value, str | list):
            return {"content": value}
    return None


_PART_TYPES = ("text", "output_text", "input_text", "refusal", "thinking", "reasoning", "summary_text")
_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_text", "thinking", "thinking_blocks", "reasoning_details")


def read_message(message: JsonObject) -> Spoken:
    """What a chat message says, whichever shape its fields have."""
    text, refusal, reasoning = _content(message.get("content"))
    audio = message.get("audio")
    if not text:
        text = string(message.get("text")) or (string(audio.get("transcript")) if isinstance(audio, dict) else "")
    own = (_words(message.get(name)) for name in _THOUGHTS)
    calls = message.get("tool_calls")
    tool_calls = dicts([calls] if isinstance(calls, dict) else calls)
    if isinstance(message.get("function_call"), dict):
        tool_calls += ({"type": "function", "function": message["function_call"]},)
    reasoning = reasoning or next(filter(None, own), "")
    return Spoken(text, string(message.get("refusal")) or refusal, reasoning, tool_calls)


def _content(content: object) -> tuple[str, str, str]:
    """Text, refusal and reasoning of a message's content: a string, parts, or what a server has made of them."""
    if isinstance(content, str):
        return content, "", ""
    if isinstance(content, dict):
        parts = content.get("parts")
        is_part = content.get("type") in _PART_TYPES or content.keys() <= {"text", "value", "annotations"}
        content = parts if isinstance(parts, list) else [content] if is_part else content
    if not isinstance(content, list):
        return ("" if content is None or isinstance(content, bool) else _written(content)), "", ""
    texts, refusals, thoughts = [], [], []
    for part in content:
        kind = string(part.get("type")) if isinstance(part, dict) else ""
        if kind == "refusal":
            refusals.append(string(part.get("refusal")))
        elif "think" in kind or "reason" in kind or (isinstance(part, dict) and part.get("thought") is True):
            thoughts.append(_words(part))
        else:
            texts.append(_words(part))
    return "".join(texts), "".join(refusals), "".join(thoughts)


def _written(value: object) -> str:
    """JSON that a server has parsed for us, as the text that it was."""
    try:
        return dumps(value)
    except ValueError:  # nested too deeply
        return ""


def _words(value: object, depth: int = 8) -> str:
    """The text of a part, or of what a part holds."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_words(each, depth - 1) for each in value) if depth else ""
    if not isinstance(value, dict) or not depth:
        return ""
    inner = (_words(value.get(name), depth - 1) for name in ("text", "thinking", "summary", "value", "content"))
    return next(filter(None, inner), "")


_SPOKEN_ITEMS = ("message", "output_text", "text", "refusal")


def read_output(output: object) -> Spoken:
    """Text, refusal, reasoning and tool calls of a response's output items."""
    if isinstance(output, str):
        return Spoken(output)
    items = dicts([output] if isinstance(output, dict) else output)
    spoken = [
        item for item in items if item.get("type") in _SPOKEN_ITEMS or ("content" in item and not item.get("type"))
    ]
    contents = [_content(item.get("content", item)) for item in spoken]
    thoughts = [_words(item.get("content")) or _words(item.get("summary"))
                for item in items if item.get("type") == "reasoning"]  # fmt: skip
    calls = tuple(item for item in items if item.get("type") in ("function_call", "custom_tool_call"))
    texts, refusals, more = ("".join(parts) for parts in zip(*contents, strict=True)) if contents else ("", "", "")
    return Spoken(texts, refusals, "\n\n".join(filter(None, (*thoughts, more))), calls)


def text_so_far(payload: JsonObject) -> str:
    """The text beside an error: some servers send both when they break down halfway."""
    message = message_of(first_choice(payload.get("choices")))
    return read_output(payload.get("output")).text if message is None else read_message(message).text
