"""One training example is checked here as the API checks it, before anybody pays for a file with faults.

Everything is pure: a body goes in, faults come out, each a code and the rest of a sentence. What a code means and what
to do about it stands in producer/training/findings.py. Sources of the rules: OpenAI's guides on supervised fine-tuning,
preferences (DPO) and vision fine-tuning, as of 2026-07.

A supervised body is `{"messages": [..], "tools"?: [..], "parallel_tool_calls"?: bool}`; a dpo body is
`{"input": {"messages": [..], ..}, "preferred_output": [one message], "non_preferred_output": [one message]}`.
"""

import base64
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple, TypeAlias

import orjson

from tidemill.models.json_types import JsonObject
from tidemill.models.turns import INSTRUCTIONS
from tidemill.producer.intake.records import json_kind
from tidemill.producer.training.normal_form import OUTPUTS, tidied
from tidemill.producer.training.personal import personal
from tidemill.producer.training.special_tokens import special_tokens, template_marks
from tidemill.producer.training.tool_schemas import as_json, parameters_fault

METHODS = ("supervised", "dpo")

ChatMessage: TypeAlias = JsonObject
"""One message of an example, in the API's form once it is checked."""
Body: TypeAlias = JsonObject
"""An example as it is written to a file."""


class Place(NamedTuple):
    """Where an example is from, as its owner counts: `data.csv`, 7, `row`; of a dialogue: ``, 12, `dialogue`."""

    file: str
    line: int
    unit: str = "line"

    def __str__(self) -> str:
        """For sentences: "data.csv row 7"."""
        return f"{self.file} {self.unit} {self.line}".lstrip()


@dataclass(frozen=True, slots=True)
class Example:
    """One example in its method's own form, not yet checked."""

    place: Place
    body: Body


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that became no example, or has a flaw: a finding's code and text. It may stand for many: `times`."""

    place: Place
    why: str
    code: str = "bad_row"
    times: int = 1


class Fault(NamedTuple):
    """Something wrong with an example: the code of a finding and what exactly it is."""

    code: str
    what: str


_ROLES = (*INSTRUCTIONS, "user", "assistant", "tool")
_WORDS = ("name", "refusal", "tool_call_id")
_CALLS = ("tool_calls", "function_call")
_MARKS_SHOWN = 3
_MOST_IMAGES = 10
_LARGEST_IMAGE_BYTES = 10 * 2**20
_IMAGE_URL = re.compile(r"https://|data:image/(?:jpeg|png|webp);base64,")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PICTURE = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP", re.DOTALL)
_NOTHING = {"NaN", "nan", "<NA>", "NA", "N/A", "#N/A", "null", "NULL", "None"}  # what programs write for an empty cell
_BREAKS_OFF = re.compile(r"(?:\.\.\.|…|[^\W\d_]-|[,，、،])$")  # "and so...", "exam-", "first,"
_TRAILS_OFF = re.compile(r"(?:\.\.\.|…)$")
_TAIL = 60  # characters that show in which script a reply ends
_ENDS_IN_A_WORD = re.compile(r"[^\W\d_\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff]$")  # Thai and others have no full stop


# --- one form for all ---


def normalised(body: Body, method: str) -> tuple[Body, list[Fault]]:
    """The body with the API's keys only, in the API's order and types, and what had to be left out of it.

    Tables hold null for nothing and 1.0 for 1, and Arrow gives to each object the keys of all others, as null. Faults
    stay, so that `faults` reports them.
    """
    tidy, notes = tidied(body, method)
    return tidy, [Fault(code, what) for code, what in notes]


def prompt_of(body: Body, method: str) -> list[ChatMessage]:
    """What the model reads: all messages but the last, or a preference's input."""
    messages: list[ChatMessage] = body["input"]["messages"] if method == "dpo" else body["messages"][:-1]
    return messages


def replies_of(body: Body, method: str) -> list[ChatMessage]:
    """What the model learns from: the last message, or a preference's two replies, the preferred one first."""
    return [body[key][-1] for key in OUTPUTS] if method == "dpo" else [body["messages"][-1]]


def opening_of(prompt: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    """How a dialogue begins: all up to and with the user's first message."""
    end = next((number for number, message in enumerate(prompt, 1) if message["role"] == "user"), len(prompt))
    return prompt[:end]


def key_of(messages: Iterable[ChatMessage], *, tools: Sequence[object] = (), folded: bool = False) -> int:
    """64 bits that are the same for the same messages and tools; white space at the ends does not count.

    With `folded`, neither other white space nor upper and lower case count.
    """
    digest = hashlib.blake2b(digest_size=8)
    for message in messages:
        content = message.get("content") or message.get("refusal") or ""
        if isinstance(content, str):
            content = " ".join(content.split()).casefold() if folded else content.strip()
        more = [message[key] for key in ("tool_calls", "tool_call_id") if key in message]
        digest.update(f"{message['role']}\x1f{content}\x1f{more or ''}\x1e".encode(errors="surrogatepass"))
    if tools:
        digest.update(as_json(tools).encode(errors="surrogatepass"))
    return int.from_bytes(digest.digest(), "big")


def text_of(message: ChatMessage) -> str:
    """The words of a message, its calls of tools included; pictures have none."""
    content = message.get("content")
    if isinstance(content, list):
        words = "\n".join(str(part.get("text") or part.get("refusal") or "") for part in content)
    else:
        words = content or message.get("refusal") or ""
    calls = message.get("tool_calls")
    return f"{words}\n{orjson.dumps(calls).decode()}".strip() if calls else words


def has_images(messages: Iterable[ChatMessage]) -> bool:
    """Whether a message shows a picture."""
    contents = (message["content"] for message in messages if isinstance(message.get("content"), list))
    return any(part["type"] == "image_url" for content in contents for part in content)


def tools_of(body: Body) -> list[object]:
    """The tools that an example offers."""
    return body.get("tools") or body.get("input", {}).get("tools") or []


def teaches_nothing(body: Body) -> bool:
    """Whether every reply has weight 0: the model reads the example and learns nothing from it."""
    return all(each.get("weight") == 0 for each in body.get("messages", ()) if each["role"] == "assistant") and (
        "messages" in body
    )


# --- what the API does not accept ---


def faults(body: Body, method: str) -> list[Fault]:
    """What is wrong with a normalised body, worst first; empty for a good one. Never raises."""
    shape = list(_preference(body) if method == "dpo" else _shape(body, "messages"))
    if shape:
        return shape
    dialogues = [[*body["input"]["messages"], *body[key]] for key in OUTPUTS] if method == "dpo" else [body["messages"]]
    offered = body["input"] if method == "dpo" else body
    all_faults = chain(_tools(offered), *(check(each, offered) for each in dialogues for check in _CHECKS))
    return list(dict.fromkeys(all_faults))  # a preference's prompt is checked with both replies


def remarks(body: Body, method: str) -> list[Fault]:
    """What is allowed in a body without faults, but costs quality."""
    prompt, replies = prompt_of(body, method), replies_of(body, method)
    flaws = list(_odd_order([*prompt, replies[0]]))
    if method == "supervised" and teaches_nothing(body):
        flaws.append(Fault("teaches_nothing", "every reply in it has weight 0"))
    if method == "dpo" and text_of(replies[0]) == text_of(replies[1]):
        flaws.append(Fault("same_outputs", "the preferred and the other reply are the same"))
    own = [each for each in prompt if each["role"] == "user"] + replies
    empty = {text for each in own if (text := text_of(each).strip()) in _NOTHING}
    flaws += [Fault("says_nothing", f"a message is {text!r}") for text in sorted(empty)]
    end = text_of(replies[0]).rstrip()
    if _BREAKS_OFF.search(end[-4:]) and not (_TRAILS_OFF.search(end[-4:]) and _has_other_script(end[-_TAIL:])):
        flaws.append(Fault("cut_off", f"the reply ends with {end[-3:]!r}"))
    marks = {mark for message in chain(prompt, replies) for mark in template_marks(text_of(message))}
    if marks:
        flaws.append(Fault("template", f"a message has the text {', '.join(sorted(marks)[:_MARKS_SHOWN])}"))
    kinds = {kind for message in chain(prompt, replies) for kind in personal(text_of(message))}
    flaws += [Fault("personal", f"holds what looks like {kind}") for kind in sorted(kinds)]
    return flaws


def _has_other_script(text: str) -> bool:
    """Whether there is a letter beyond the Latin ones: where they are written, a sentence may end in an ellipsis."""
    if text.isascii():
        return False
    return any(each.isalpha() and not unicodedata.name(each, "LATIN").startswith("LATIN") for each in text)


def may_be_cut(body: Body, method: str) -> bool:
    """Whether the reply ends in a word, without a full stop: a sign of a cut only if it is unusually long too."""
    return _ENDS_IN_A_WORD.search(text_of(replies_of(body, method)[0]).rstrip()[-1:]) is not None


def _shape(body: Body, key: str) -> Iterator[Fault]:
    messages = body.get(key)
    if not isinstance(messages, list) or not messages:
        kind = "there are no messages" if messages in (None, []) else f"{key!r} is {json_kind(messages)}, not a list"
        yield Fault("no_messages", kind)
        return
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            yield Fault("bad_message", f"message {number} is {json_kind(message)}, not an object with role and content")
        elif message.get("role") == "function":
            yield Fault("function_call", f"message {number} has the role function, which no longer exists")
        elif message.get("role") not in _ROLES:
            yield Fault("bad_role", f"message {number} has the role {_shown(message.get('role'))}")
        elif (why := _unreadable(message)) is not None:
            yield Fault("bad_message", f"message {number} ({message['role']}) {why}")


def _preference(body: Body) -> Iterator[Fault]:
    if not isinstance(body.get("input"), dict):
        yield Fault("no_messages", "there is no 'input' with messages")
        return
    yield from _shape(body["input"], "messages")
    for key in OUTPUTS:
        messages = body.get(key)
        if not isinstance(messages, list) or len(messages) != 1:
            yield Fault("bad_output", f"{key!r} must be a list of one assistant message")
        elif not isinstance(messages[0], dict) or messages[0].get("role") != "assistant":
            yield Fault("bad_output", f"the message in {key!r} must be an object with the role assistant")
        elif (why := _unreadable(messages[0])) is not None:
            yield Fault("bad_message", f"the message in {key!r} {why}")


def _unreadable(message: ChatMessage) -> str | None:
    """The rest of a sentence about a message that the other checks cannot look into."""
    content, calls = message.get("content"), message.get("tool_calls")
    if content is not None and not isinstance(content, str | list):
        return f"has as content {json_kind(content)}, neither text nor a list of parts"
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            return "has a part that is no object with a type"
        if part["type"] in ("text", "refusal") and not isinstance(part.get(part["type"]), str):
            return f"has a part without its {part['type']}"
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        return "has 'tool_calls' that are no list of objects"
    return next(
        (f"has a {key!r} that is not text" for key in _WORDS if not isinstance(message.get(key, ""), str)), None
    )


def _order(messages: list[ChatMessage], _offered: Body) -> Iterator[Fault]:
    """Faults in who speaks when: a tool answers a call, and each call is answered before anybody else speaks."""
    roles = [message["role"] for message in messages]
    if roles[-1] != "assistant":
        yield Fault("last_turn", f"the last message is from {roles[-1]}, so there is no reply to learn")
    if "user" not in roles:
        yield Fault("wrong_order", "there is no message from user")
    yield from _answered_calls(messages)


def _odd_order(messages: list[ChatMessage]) -> Iterator[Fault]:
    roles = [message["role"] for message in messages]
    speakers = [role for role in roles if role not in INSTRUCTIONS]
    if speakers[0] == "assistant":
        yield Fault("odd_order", "the assistant speaks first")
    if any(role in INSTRUCTIONS for role in roles[len(roles) - len(speakers) :]):
        yield Fault("odd_order", "instructions (system) come after the dialogue has begun")
    if any(a == b and a in ("user", "assistant") for a, b in pairwise(roles)):
        yield Fault("odd_order", "the same side speaks twice in a row")


def _answered_calls(messages: list[ChatMessage]) -> Iterator[Fault]:
    open_calls: set[str] = set()
    for number, message in enumerate(messages, 1):
        if message["role"] == "tool":
            call_id = message.get("tool_call_id")
            if not isinstance(call_id, str) or not call_id:
                yield Fault("bad_tool_call", f"message {number} (tool) has no tool_call_id")
            elif call_id not in open_calls:
                yield Fault("wrong_order", f"message {number} (tool) answers no call of the message before it")
            if isinstance(call_id, str):
                open_calls.discard(call_id)
            continue
        if open_calls:
            yield Fault("wrong_order", f"message {number} comes before the tool has answered")
        calls = message.get("tool_calls") or ()
        open_calls = {call["id"] for call in calls if isinstance(call.get("id"), str)}


def _texts(messages: list[ChatMessage], _offered: Body) -> Iterator[Fault]:
    for number, message in enumerate(messages, 1):
        has_content = text_of(message).strip() or any(message.get(key) for key in _CALLS) or has_images([message])
        if not has_content and not (message["role"] == "tool" and "content" in message):  # a tool may find nothing
            yield Fault("empty_text", f"message {number} ({message['role']}) is empty")


def _tokens(messages: list[ChatMessage], _offered: Body) -> Iterator[Fault]:
    for number, message in enumerate(messages, 1):
        for token in special_tokens(f"{text_of(message)}\n{message.get('tool_call_id', '')}"):
            yield Fault("special_token", f"message {number} ({message['role']}) has the text {token}")


def _names(messages: list[ChatMessage], _offered: Body) -> Iterator[Fault]:
    for number, message in enumerate(messages, 1):
        if "name" in message and not _NAME.fullmatch(message["name"]):
            yield Fault("bad_name", f"message {number} ({message['role']}) has the name {_shown(message['name'])}")


def _weights(messages: list[ChatMessage], offered: Body) -> Iterator[Fault]:
    for number, message in enumerate(messages, 1):
        if "weight" not in message:
            continue
        weight = message["weight"]
        if message["role"] != "assistant":
            yield Fault("bad_weight", f"message {number} ({message['role']}) has a weight")
        elif isinstance(weight, bool) or weight not in (0, 1):
            yield Fault("bad_weight", f"message {number} has the weight {_shown(weight)}")


def _images(messages: list[ChatMessage], _offered: Body) -> Iterator[Fault]:
    count = 0
    for number, message in enumerate(messages, 1):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part["type"] == "image_url":
                count += 1
                yield from _image(number, message["role"], part)
            elif part["type"] not in ("text", "refusal"):
                yield Fault("bad_message", f"message {number} has a part of the type {_shown(part['type'])}")
    if count > _MOST_IMAGES:
        yield Fault("too_many_images", f"there are {count} pictures in it")


def _image(number: int, role: str, part: JsonObject) -> Iterator[Fault]:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if role != "user":
        yield Fault("bad_image", f"message {number} ({role}) has a picture; only the user may show one")
    elif not isinstance(url, str) or not _IMAGE_URL.match(url):
        yield Fault("bad_image", f"message {number} has a picture whose URL is not https:// or data:image/..;base64")
    elif url.startswith("data:") and len(url) * 3 // 4 > _LARGEST_IMAGE_BYTES:
        yield Fault("bad_image", f"message {number} has a picture of more than 10 MB")
    elif url.startswith("data:") and not _is_picture(url.partition(",")[2]):
        yield Fault("bad_image", f"message {number} has a picture whose base64 does not hold a JPEG, PNG or WEBP")


def _is_picture(encoded: str) -> bool:
    try:
        return _PICTURE.match(base64.b64decode(encoded, validate=True)) is not None
    except ValueError:
        return False


def _tools(offered: Body) -> Iterator[Fault]:
    tools = offered.get("tools", [])
    if not isinstance(tools, list):
        yield Fault("bad_tools", f"'tools' is {json_kind(tools)}, not a list")
        return
    for number, tool in enumerate(tools, 1):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict):
            yield Fault("bad_tools", f'tool {number} is not {{"type": "function", "function": {{..}}}}')
        elif not isinstance(function.get("name"), str) or not _NAME.fullmatch(function["name"]):
            yield Fault("bad_tools", f"tool {number} has no usable name (letters, digits, _ and -, at most 64)")
        elif not isinstance(function.get("description", ""), str):
            yield Fault("bad_tools", f"the description of tool {number} ({function['name']}) is no text")
        elif (why := parameters_fault(function.get("parameters"))) is not None:
            yield Fault("bad_tools", f"the parameters of tool {number} ({function['name']}) {why}")
    for token in special_tokens(as_json(tools)):
        yield Fault("special_token", f"the tools have the text {token}")
    if not isinstance(offered.get("parallel_tool_calls", True), bool):
        yield Fault("bad_tools", "'parallel_tool_calls' is not true or false")


def _calls(messages: list[ChatMessage], offered: Body) -> Iterator[Fault]:
    tools = offered.get("tools")
    names = {_name_of(tool) for tool in tools} if isinstance(tools, list) else set()
    for number, message in enumerate(messages, 1):
        if "tool_calls" in message and message["role"] != "assistant":
            yield Fault("bad_tool_call", f"message {number} ({message['role']}) calls a tool; only the assistant may")
        if "function_call" in message:
            yield Fault("function_call", f"message {number} ({message['role']}) has a 'function_call'")
        calls = message.get("tool_calls", ())
        ids = [call["id"] for call in calls if isinstance(call.get("id"), str)]
        if len(ids) != len(set(ids)):
            yield Fault("bad_tool_call", f"message {number} has two calls with the same id")
        for call in calls:
            why = _unusable(call, names)
            if why is not None:
                yield Fault("bad_tool_call", f"message {number} has a call {why}")


def _unusable(call: JsonObject, names: set[str | None]) -> str | None:
    function = call.get("function")
    if not isinstance(call.get("id"), str) or not call["id"]:
        return "without an id"
    if call.get("type") != "function" or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return "that is not of the type function, with a name"
    if not _NAME.fullmatch(function["name"]):
        return f"of {_shown(function['name'])}, which is no name of a tool (letters, digits, _ and -, at most 64)"
    if names and function["name"] not in names:
        return f"of {_shown(function['name'])}, which 'tools' does not offer"
    try:
        fits = isinstance(orjson.loads(function.get("arguments", "")), dict)
    except (TypeError, ValueError):
        fits = False
    return None if fits else "whose arguments are not a JSON object written as text"


def _name_of(tool: object) -> str | None:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _shown(value: object) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else f"{value[:40]}…")
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else json_kind(value)


_CHECKS: tuple[Callable[[list[ChatMessage], Body], Iterator[Fault]], ...] = (
    _order,
    _texts,
    _tokens,
    _names,
    _weights,
    _calls,
    _images,
)
