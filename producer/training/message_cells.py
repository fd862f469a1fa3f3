"""A cell may hold text, messages, or JSON of them as text: in a CSV all cells are text."""

from collections.abc import Sequence
from typing import Any

import orjson

from tidemill.models.turns import INSTRUCTIONS
from tidemill.producer.intake.records import BadRowError, Record, json_kind
from tidemill.producer.intake.requests import as_text
from tidemill.producer.training.dialects import SPEAKERS

_EMPTY = {"", "null", "None", "nan", "NaN", "<NA>"}  # what programs write for nothing


def messages_in(cell: object, name: str) -> list[object]:
    if cell is None or isinstance(cell, list):
        return cell or []
    if isinstance(cell, str) and cell.lstrip().startswith("[{'"):
        raise BadRowError(f"the column {name!r} is Python's own form, not JSON: write it with json.dumps")
    if isinstance(cell, str):
        raise BadRowError(f"the column {name!r} is not valid JSON")
    raise BadRowError(f"the column {name!r} holds {json_kind(cell)}, not a list of messages")


def speaks(message: object) -> bool:
    """Whether an object is a message, in any dialect."""
    if not isinstance(message, dict):
        return False
    return message.get("role") is not None or message.get("from") is not None


def spoken(cell: object) -> object:
    """The messages in a cell that may also be text, as a list; as text they must be whole messages, beyond doubt."""
    if isinstance(cell, dict) and speaks(cell):
        return [cell]
    if not isinstance(cell, str) or not cell.lstrip().startswith(("[", "{")):
        return cell
    value = parsed(cell)
    messages = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        return cell
    return value


def _is_message(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    speaker = str(value.get("role") or value.get("from"))
    return speaker.lower().replace("-", "_") in SPEAKERS and not {"content", "value", "tool_calls"}.isdisjoint(value)


def parsed(cell: object) -> Any:
    """A cell that should hold JSON: from JSON and Parquet as it is, from a CSV parsed. No JSON stays text."""
    if not isinstance(cell, str):
        return cell
    try:
        return orjson.loads(cell)
    except ValueError:
        return cell


def is_empty(cell: object) -> bool:
    return cell is None or cell in ([], {}) or (isinstance(cell, str) and cell.strip() in _EMPTY)


def text_in(record: Record, name: str) -> str:
    value = record.get(name)
    if isinstance(value, dict | list | bool):
        raise BadRowError(f"the column {name!r} holds {json_kind(value)}, not text")
    return as_text(value)


def instructions_of(messages: Sequence[object]) -> str | None:
    """The text of the instructions that messages begin with."""
    first = messages[0] if messages else None
    if not isinstance(first, dict) or first.get("role") not in INSTRUCTIONS:
        return None
    content = first.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
