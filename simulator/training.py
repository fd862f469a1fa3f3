"""A fine-tune is refused at once or fails after a look at its files, and Tidemill must tell the two apart.

What is wrong with the request is a BadCallError (HTTP 400); what is wrong with a file is the error of a failed job.
Rules: OpenAI's API reference.
"""

from collections.abc import Callable
from typing import Any

import orjson

from tidemill.simulator.calls import BadCallError, estimated_tokens

LEAST_EXAMPLES = 10
ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
METHODS = ("supervised", "dpo", "reinforcement")
AUTO_EPOCHS = 3
# name -> (lowest, highest), both allowed
HYPERPARAMETERS: dict[str, tuple[float, float]] = {
    "n_epochs": (1, 50),
    "batch_size": (1, 256),
    "learning_rate_multiplier": (1e-9, float("inf")),
    "beta": (0, 2),
}


def _invalid(param: str, message: str) -> BadCallError:
    return BadCallError(f"Invalid '{param}': {message}", param, "invalid_value")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def checked_metadata(metadata: object) -> dict[str, str]:
    """Raises BadCallError."""
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or len(metadata) > 16:
        raise _invalid("metadata", "expected an object with at most 16 properties.")
    for key, value in metadata.items():
        if len(key) > 64 or not isinstance(value, str) or len(value) > 512:
            raise _invalid(f"metadata.{key}", "expected a key of at most 64 and a string of at most 512 characters.")
    return metadata


def _checked_method(body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The method's name and the hyperparameters that were given, where the API takes them: in it or at the top."""
    method = body.get("method") or {"type": "supervised"}
    kind = method.get("type", "supervised") if isinstance(method, dict) else None
    if kind not in METHODS:
        raise _invalid("method.type", f"expected one of {', '.join(METHODS)}.")
    given = (method.get(kind) or {}).get("hyperparameters") or body.get("hyperparameters") or {}
    if unknown := given.keys() - HYPERPARAMETERS.keys():
        raise _invalid(f"hyperparameters.{min(unknown)}", "unknown parameter.")
    for name, value in given.items():
        lowest, highest = HYPERPARAMETERS[name]
        if value != "auto" and not (_is_number(value) and lowest <= value <= highest):
            raise _invalid(f"hyperparameters.{name}", f"expected 'auto' or a number from {lowest:g} to {highest:g}.")
    return kind, given


def read_creation(body: object) -> dict[str, Any]:
    """The fields of a Tuning that the request decides; raises BadCallError."""
    if not isinstance(body, dict):
        raise BadCallError("We could not parse the JSON body of your request: it must be an object.")
    for name in ("model", "training_file"):
        if not isinstance(body.get(name), str) or not body[name]:
            raise BadCallError(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    suffix, seed = body.get("suffix"), body.get("seed")
    if suffix is not None and not (isinstance(suffix, str) and 1 <= len(suffix) <= 64):
        raise _invalid("suffix", "expected 1 to 64 characters.")
    if seed is not None and not (_is_number(seed) and 0 <= seed < 2**31):
        raise _invalid("seed", "expected an integer from 0 to 2147483647.")
    method, hyperparameters = _checked_method(body)
    return {
        "model": body["model"],
        "training_file": body["training_file"],
        "validation_file": body.get("validation_file"),
        "suffix": suffix,
        "seed": 42 if seed is None else int(seed),
        "metadata": checked_metadata(body.get("metadata")),
        "method": method,
        "hyperparameters": hyperparameters,
    }


def _message_fault(message: object) -> str | None:
    if not isinstance(message, dict):
        return "a message must be an object"
    if message.get("role") not in ROLES:
        return f"unknown role {message.get('role')!r}"
    if message.get("weight", 1) not in (0, 1):
        return "a weight must be 0 or 1"
    content = message.get("content")
    if not isinstance(content, str | list) and not (message.get("tool_calls") or message.get("function_call")):
        return "a message needs content"
    return None


def _messages_fault(messages: object) -> str | None:
    if not isinstance(messages, list) or not messages:
        return "expected a list of messages that is not empty"
    return next((fault for message in messages if (fault := _message_fault(message))), None)


def _supervised_fault(example: dict[str, Any]) -> str | None:
    messages = example.get("messages")
    if fault := _messages_fault(messages):
        return f"'messages': {fault}"
    return None if messages and messages[-1]["role"] == "assistant" else "the last message must be from the assistant"


def _dpo_fault(example: dict[str, Any]) -> str | None:
    given = example.get("input")
    if fault := _messages_fault(given.get("messages") if isinstance(given, dict) else None):
        return f"'input.messages': {fault}"
    for name in ("preferred_output", "non_preferred_output"):
        output = example.get(name)
        if fault := _messages_fault(output):
            return f"'{name}': {fault}"
        if output and output[-1]["role"] != "assistant":
            return f"'{name}': the last message must be from the assistant"
    return None


FAULT_OF: dict[str, Callable[[dict[str, Any]], str | None]] = {"supervised": _supervised_fault, "dpo": _dpo_fault}


def _line_fault(line: bytes, method: str) -> str | None:
    try:
        example = orjson.loads(line)
    except orjson.JSONDecodeError:
        return "not valid JSON"
    if not isinstance(example, dict):
        return "expected a JSON object"
    return FAULT_OF[method](example) if method in FAULT_OF else None


def file_error(content: bytes, method: str, param: str) -> dict[str, Any] | None:
    """The `error` of a job whose file (`param` says which of the two) the server cannot use; None for a good one."""
    lines = content.splitlines()
    for number, line in enumerate(lines, 1):
        if fault := _line_fault(line, method):
            what = param.replace("_", " ")
            message = f"The job failed due to an invalid {what}. Invalid file format. Line {number}: {fault}."
            return {"code": f"invalid_{param}", "message": message, "param": param}
    if param == "training_file" and len(lines) < LEAST_EXAMPLES:
        message = f"Training file has {len(lines)} example(s), but must have at least {LEAST_EXAMPLES} examples"
        return {"code": "invalid_n_examples", "message": message, "param": param}
    return None


def tokens_in(content: bytes) -> int:
    """Estimated, of one epoch."""
    return estimated_tokens(len(content))
