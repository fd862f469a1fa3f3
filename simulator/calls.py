"""The two endpoints carry one thing in two shapes; past this file nothing has to know which prompt came in which.

Also home of the prompt's identity, which tests compute on their side to match answers and bills to prompts.
Wire source: OpenAI's API reference. Standard library only: the client imports this file.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

IMAGE_TOKENS = 85


class BadCallError(Exception):
    """The request is one that the real API rejects with HTTP 400."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.code = message, param, code


@dataclass(slots=True)
class Call:
    """One parsed request. `digest` identifies the prompt: its last user message's text and images."""

    endpoint: str
    model: str
    prompt: str
    images: list[str]
    digest: bytes
    input_tokens: int
    max_tokens: int | None
    schema: dict[str, Any] | None
    nth: int = 0
    tier: str = "default"
    window: str | None = None
    """Of a response in the background; None for all other calls."""
    streams: bool = False
    streams_usage: bool = False


def _digest(text: str, images: Iterable[str]) -> bytes:
    whole = "\n".join((text, *images))
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).digest()


def prompt_hash(text: str, *image_urls: str) -> str:
    """64 hex digits: what the paid log calls `prompt_hash`. Texts of a list of parts are joined with a newline."""
    return _digest(text, image_urls).hex()


def caller_of(key: str) -> str:
    """What the paid log calls `caller`: who has this API key, which itself is never written down."""
    return hashlib.sha256(key.strip().encode()).hexdigest()[:8]


def reply_tag(text: str, *image_urls: str) -> str:
    """The end of every uncut reply to this prompt, such as `[#1f0c9a2b]`."""
    return tag_of(_digest(text, image_urls))


def tag_of(digest: bytes) -> str:
    return f"[#{digest[:4].hex()}]"


def estimated_tokens(chars: int) -> int:
    return (chars + 3) // 4


def _image_url(part: dict[str, Any]) -> str:
    """Chat sends {"image_url": {"url": ..}}, Responses {"image_url": ..} or a file id."""
    url = part.get("image_url") or part.get("file_id") or ""
    return str(url.get("url", "")) if isinstance(url, dict) else str(url)


def _texts_and_images(content: object) -> tuple[list[str], list[str]]:
    if isinstance(content, str):
        return [content], []
    if not isinstance(content, list):
        return [], []
    parts = [part for part in content if isinstance(part, dict)]
    texts = [str(part["text"]) for part in parts if "text" in part]
    images = [_image_url(part) for part in parts if part.get("type") in ("image_url", "input_image")]
    return texts, images


def _small_integer(body: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or value < 1:
            raise BadCallError(f"Invalid '{name}': expected an integer above 0.", name, "integer_below_min_value")
        return value
    return None


def _read(endpoint: str, body: dict[str, Any], messages: list[Any], extra_chars: int) -> Call:
    prompt, images, chars, image_count = "", list[str](), extra_chars, 0
    for message in messages:
        if not isinstance(message, dict):
            raise BadCallError("Invalid type for 'messages[0]': expected an object.", "messages[0]", "invalid_type")
        texts, urls = _texts_and_images(message.get("content"))
        chars += sum(map(len, texts))
        image_count += len(urls)
        if message.get("role") == "user":
            prompt, images = "\n".join(texts), urls
    return Call(
        endpoint=endpoint,
        model=body["model"],
        prompt=prompt,
        images=images,
        digest=_digest(prompt, images),
        input_tokens=estimated_tokens(chars) + 3 * len(messages) + IMAGE_TOKENS * image_count,
        max_tokens=None,
        schema=None,
    )


def _wanted_schema(asked_for: object) -> dict[str, Any] | None:
    """Chat nests the schema under `json_schema`, Responses does not; `json_object` asks for any object."""
    if not isinstance(asked_for, dict):
        return None
    if asked_for.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    if asked_for.get("type") != "json_schema":
        return None
    schema = asked_for.get("json_schema", asked_for).get("schema")
    return schema if isinstance(schema, dict) else {"type": "object"}


def read_chat(body: dict[str, Any]) -> Call:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadCallError("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
    call = _read("chat", body, messages, 0)
    call.max_tokens = _small_integer(body, "max_completion_tokens", "max_tokens")
    call.schema = _wanted_schema(body.get("response_format"))
    return call


def read_responses(body: dict[str, Any]) -> Call:
    given = body.get("input")
    if not given or not isinstance(given, str | list):
        raise BadCallError("Missing required parameter: 'input'.", "input", "missing_required_parameter")
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    call = _read("responses", body, messages, len(body.get("instructions") or ""))
    call.max_tokens = _small_integer(body, "max_output_tokens")
    text = body.get("text")
    call.schema = _wanted_schema(text.get("format")) if isinstance(text, dict) else None
    return call


# What is asked for and is not served as the standard tier.
TIERS = {"flex": "flex", "priority": "priority"}
WINDOWS = ("soonest", "2h", "8h")


def _window(body: dict[str, Any]) -> str | None:
    """Where a response in the background is to be done: raises BadCallError for what does not go together."""
    window = (body.get("background_options") or {}).get("completion_window", "soonest")
    if window not in WINDOWS:
        param = "background_options.completion_window"
        raise BadCallError(f"Invalid '{param}': expected one of {', '.join(WINDOWS)}.", param, "invalid_value")
    is_standard = body.get("service_tier") in (None, "auto", "default") and not body.get("stream")
    if window != "soonest" and not (body.get("background") and is_standard):
        message = "A completion window needs background=true, the standard service tier and no stream."
        raise BadCallError(message, "background_options", "invalid_value")
    return window if body.get("background") else None


READERS: dict[str, Callable[[dict[str, Any]], Call]] = {
    "/v1/chat/completions": read_chat,
    "/v1/responses": read_responses,
}


def read_call(path: str, body: object) -> Call:
    """Raises BadCallError for what the real API answers with HTTP 400."""
    if not isinstance(body, dict):
        raise BadCallError("We could not parse the JSON body of your request: it must be an object.")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise BadCallError("you must provide a model parameter")
    call = READERS[path](body)
    options = body.get("stream_options")
    if options is not None and not body.get("stream"):
        raise BadCallError("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    call.window = _window(body) if path == "/v1/responses" else None
    call.tier = TIERS.get(str(body.get("service_tier")), "default")
    call.streams = bool(body.get("stream"))
    call.streams_usage = call.endpoint == "responses" or (isinstance(options, dict) and bool(options["include_usage"]))
    return call
