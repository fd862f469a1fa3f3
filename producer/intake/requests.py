"""A record becomes what the model is asked: a prompt, a list of messages or a batch line."""

import string
from collections.abc import Iterable
from itertools import chain
from json import dumps
from typing import NamedTuple, TypeAlias

import orjson

from tidemill.models.canonical import canonical
from tidemill.models.endpoints import by_url, urls
from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.producer.intake.cells import Base64
from tidemill.producer.intake.records import BadRowError, Input, Record, json_kind

PROMPT_COLUMNS = ("prompt", "question", "text", "input", "instruction", "query")  # tried in this order

Request: TypeAlias = JsonObject
"""`{"prompt": str}`, `{"messages": [..]}` or, for a batch line, `{"url": str, "body": {..}}`."""

_SHOWN_COLUMNS = 30
_BINARY = "the column {column!r} holds bytes that are no text in UTF-8, and a prompt is text"


class Template(NamedTuple):
    """A text with `{column}` placeholders, split into literals and names; there is one literal more than names."""

    literals: list[str]
    names: list[str]

    def filled(self, record: Record) -> str:
        """The text for a record that has all of the names."""
        values = [as_text(record[name]) for name in self.names]
        return "".join(chain.from_iterable(zip(self.literals, [*values, ""], strict=True)))

    def asked(self, record: Record) -> Request | None:
        """What a row is known by whose cells spell a value in a way of their own: 2019.0 where another has 2019."""
        if all(isinstance(record[name], str | int | None) for name in self.names):
            return None
        return {"prompt": self.filled({name: canonical(record[name]) for name in self.names})}


class Asker:
    """Makes requests from records.

    Until a column that is needed has come, a missing one is the fault of the whole input (InputError); after that it is
    one bad row.
    """

    def __init__(self, input_: Input, column: str | None, template: str | None) -> None:
        self._input = input_
        self._column = column
        self._default: str | None = None  # the column to use where none is named
        self._template = None if template is None else parse_template(template)
        self._settled = False
        if self._template is not None and not self._template.names:
            raise InputError("the template has no {column} placeholder, so every row would ask the same; add one")
        if template is not None and column is not None:
            raise InputError("--column and a template were both given; a template names its columns itself: drop one")

    def request(self, record: Record) -> tuple[Request, Request | None]:
        """The request that a record makes, and what it is known by where that is not the request itself.

        Raises:
            BadRowError: the record cannot be used.
            InputError: the whole input cannot be used.
        """
        if self._template is not None:
            return {"prompt": self._filled(record, self._template)}, self._template.asked(record)
        column = self._column
        if column is None:
            if "body" in record and ("url" in record or "method" in record):
                return _batch_line(record), None
            if isinstance(record.get("messages"), list):
                return {"messages": _messages(record["messages"], "messages")}, None
            if self._default is None:
                self._default = self._default_column(record)
            column = self._default
        self._require(column, record)
        cell = record[column]
        asked = {"prompt": as_text(canonical(cell))} if isinstance(cell, float) else None
        return _cell_request(cell, column), asked

    def _filled(self, record: Record, template: Template) -> str:
        for name in template.names:
            self._require(name, record, ", which the template names")
            if isinstance(record[name], Base64):
                raise BadRowError(_BINARY.format(column=name))
        if not any(as_text(record[name]).strip() for name in template.names):
            raise BadRowError(f"every column of the template is empty ({listed(template.names)})")
        return template.filled(record)

    def _require(self, name: str, record: Record, why: str = "") -> None:
        if name in record:
            self._settled = True
        elif self._settled:
            raise BadRowError(f"the column {name!r} is missing")
        else:
            raise self._input.fault(f"has no column {name!r}{why}; its columns are: {listed(record)}")

    def _default_column(self, record: Record) -> str:
        by_name = {name.strip().casefold(): name for name in reversed(record)}
        for name in PROMPT_COLUMNS:
            if name in record or name in by_name:
                return name if name in record else by_name[name]
        others = [name for name in record if name != "custom_id"]
        if len(others) == 1:
            return others[0]
        raise self._input.fault(
            f"has no column with a usual name ({', '.join(PROMPT_COLUMNS)}); say which holds the prompt with --column, "
            f"its columns are: {listed(record)}"
        )


def parse_template(template: str) -> Template:
    """Split `a {x} b` into literals `["a ", " b"]` and names `["x"]`.

    Raises:
        InputError: a brace is not closed, or a placeholder is not a plain name.
    """
    literals, names = [""], []
    try:
        for literal, name, spec, conversion in string.Formatter().parse(template):
            literals[-1] += literal
            if name is None:
                continue
            if not name or spec or conversion:
                shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise InputError(
                    f"the template's placeholder {{{shown}}} is not a plain column name; "
                    "write {column}, and {{ and }} for literal braces"
                )
            names.append(name)
            literals.append("")
    except ValueError as error:
        raise InputError(f"the template cannot be read ({error}); write {{{{ and }}}} for literal braces") from error
    return Template(literals, names)


def _cell_request(value: object, column: str) -> Request:
    if isinstance(value, Base64):
        raise BadRowError(_BINARY.format(column=column))
    if isinstance(value, str) and value and not value.isspace():
        return {"prompt": value}
    if value is None or isinstance(value, str):
        raise BadRowError(f"the column {column!r} is empty")
    if isinstance(value, list):
        return {"messages": _messages(value, column)}
    if isinstance(value, dict | bool):
        raise BadRowError(f"the column {column!r} holds {json_kind(value)}, neither text nor a list of messages")
    return {"prompt": as_text(value)}


def _messages(value: list[object], column: str) -> list[object]:
    if not value or not all(isinstance(item, dict) and isinstance(item.get("role"), str) for item in value):
        raise BadRowError(f"{column!r} must be a list of one or more messages, objects with a role and a content")
    return value


def _batch_line(record: Record) -> Request:
    """Source of the shape: https://platform.openai.com/docs/api-reference/batch/request-input."""
    body = record["body"]
    if record.get("method") != "POST":
        raise BadRowError(f"the method of a batch line must be POST, not {record.get('method')!r}")
    if by_url(record.get("url")) is None:
        raise BadRowError(f"the url of a batch line must be {' or '.join(urls())}, not {record.get('url')!r}")
    if not isinstance(body, dict):
        raise BadRowError(f"the body of a batch line must be a JSON object, not {json_kind(body)}")
    if body.get("stream"):
        raise BadRowError("the body asks for a stream, which a queue cannot deliver; remove 'stream'")
    return {"url": record["url"], "body": body}


def custom_id(value: object) -> str | None:
    """A record's own id as text, None when it has none; raises BadRowError when it is neither text nor a number."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, list | dict | bool):
        raise BadRowError(f"custom_id must be text, not {json_kind(value)}")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None if value is None else str(value)


def spelled_id(value: object) -> str | None:
    """The id as the input spells it, where `custom_id` is another text: `7.0` for 7."""
    return str(value) if isinstance(value, float) and value.is_integer() else None


def as_text(value: object) -> str:
    """A cell as text: numbers and lists as JSON, None as an empty text."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # lone surrogates, integers beyond 64 bits
        return dumps(value, ensure_ascii=False, separators=(",", ":"))


def listed(names: Iterable[str]) -> str:
    """Names for a sentence: the first 30, and how many more there are."""
    every = list(names)
    shown = ", ".join(repr(name if len(name) <= 80 else f"{name[:80]}…") for name in every[:_SHOWN_COLUMNS])
    more = len(every) - _SHOWN_COLUMNS
    return f"{shown} and {more:,} more" if more > 0 else shown or "none"
