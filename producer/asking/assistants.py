"""Instructions, model and options that belong together are kept under a name.

A batch stores what its assistant sets among its own options, so that changing the assistant later changes nothing that
was asked. The batch and its dialogues keep the assistant's number, and are found by it.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, insert, select, update

from tidemill import migrations
from tidemill.models.allowed import ALLOWED, OBJECT, TEXT, WORD, number
from tidemill.models.clock import now
from tidemill.models.database import LONG_SECONDS, reading, transact
from tidemill.models.errors import NOT_ALL_SUCCEEDED, InputError, OptionError, TidemillError
from tidemill.models.json_types import JsonObject
from tidemill.models.options import ReplyOptions
from tidemill.models.provider import CallError
from tidemill.models.provider_looks import list_assistants
from tidemill.models.schemas import schema_fault
from tidemill.models.settings import settings
from tidemill.models.tables import assistants, batches, dialogues
from tidemill.models.text import loads, one_line
from tidemill.producer.intake.records import json_kind
from tidemill.producer.screen.display import say
from tidemill.producer.screen.printing import print_json, print_line, print_table, print_text
from tidemill.producer.screen.tables import Column

_NO_SUCH_ENDPOINT = (400, 404, 405, 410, 501)
"""Statuses that servers without the endpoint answer with."""

_ABOUT_ITSELF = ("id", "object", "created_at", "description", "metadata", "name", "is_default")
_OPTIONS = tuple(option for option in ReplyOptions.__annotations__ if option != "params")
"""Our options that an entry of a file may have; `params` are made from what else it says of replies."""

_FIELDS = ("instructions", "model", "top_p", *_OPTIONS)
_ALSO_CALLED = {"instructions": ("system",), "max_tokens": ("max_completion_tokens", "max_output_tokens")}
"""Our field -> what else a file may call it."""

_ALLOWED = {"id": WORD, "instructions": TEXT, "model": WORD, "top_p": number(float, 0, 1)}
_ALLOWED |= {option: ALLOWED[option] for option in _OPTIONS} | {"schema": OBJECT}
_NUMBER = re.compile(r"-?\b(?:NaN|Infinity|\d[\d.]*(?:[eE]\+?\d+)?)\b")
_SURROGATE = re.compile("[\ud800-\udfff]")
_EMPTY: tuple[object, ...] = (None, [], {}, "auto")


@dataclass(frozen=True, slots=True)
class Assistant:
    """What is kept under a name: `options` are fields of `models.options.Options`, `unused` what else a file had."""

    name: str
    instructions: str | None = None
    model: str | None = None
    options: JsonObject = field(default_factory=dict)
    external_id: str | None = None
    unused: tuple[str, ...] = ()


class Choice(NamedTuple):
    """What to ask with: options of `models.options.Options`, and the assistant that some of them come from."""

    options: JsonObject
    assistant_id: int | None


# --- use ---


def choose(
    options: Mapping[str, object], name: str | None, *, no_assistant: bool = False, below: Choice | None = None
) -> Choice:
    """Complete options with those of an assistant: the one that is named, else the default one.

    Args:
        options: those of the caller, which win; None means not set.
        name: the assistant's; None for the default one, which is then named on stderr.
        no_assistant: use none at all.
        below: what counts where neither sets anything; there is no default assistant then.

    Raises:
        InputError: there is no assistant of that name.
        OptionError: an assistant is named, and none is to be used.
    """
    if name is not None and no_assistant:
        raise OptionError("assistant", name, "an assistant and no assistant were both given; drop one.")
    migrations.ensure()
    row = _named(name) if name is not None else None if no_assistant or below is not None else _default()
    if row is not None and name is None:
        say(f"assistant: {row.name}")
    own = {} if row is None else {"system": row.instructions, "model": row.model, **row.options}
    layers: list[Mapping[str, Any]] = [*([below.options] if below else []), own, options]
    complete = {option: value for layer in layers for option, value in layer.items() if value is not None}
    complete["params"] = {key: value for layer in layers for key, value in (layer.get("params") or {}).items()}
    earlier = below.assistant_id if below is not None and not no_assistant else None
    return Choice(complete, row.id if row is not None else earlier)


def id_of(name: str) -> int:
    """The number that batches and dialogues of an assistant have.

    Raises:
        InputError: there is no assistant of that name.
    """
    return int(_named(name).id)


def _named(name: str) -> Row[Any]:
    with reading() as connection:
        has_name = assistants.c.name == (name if name.isprintable() else "")
        row = connection.execute(select(assistants).where(has_name)).one_or_none()
        names = [] if row else connection.scalars(select(assistants.c.name).order_by(assistants.c.name)).all()
    if row is None:
        there = f"there are {', '.join(names)}" if names else "`tidemill assistants add` or `import` makes one"
        raise InputError(f"There is no assistant {name!r}; {one_line(there)}.")
    return row


def _default() -> Row[Any] | None:
    with reading() as connection:
        return connection.execute(select(assistants).where(assistants.c.is_default == 1)).first()


# --- keep ---


def import_file(path: str) -> None:
    """Store the assistants of a JSON file: a list of objects with at least a name, or an API's list of them.

    Raises:
        InputError: the file or one of its entries cannot be used; nothing has been stored.
    """
    entries = [_read(entry, f"{path} entry {place}") for place, entry in enumerate(_entries(path), start=1)]
    for place, each in enumerate(entries, start=1):
        if each.name in {other.name for other in entries[: place - 1]}:
            raise InputError(f"{path} entry {place}: the name {each.name!r} is there twice; give one another name.")
    print_line(f"{path}: {save(entries)}")
    for each in entries:
        if each.unused:
            say(f"{each.name}: Tidemill has no use for {', '.join(each.unused)}; it is left out.")


def add(name: str, instructions: str | None, model: str | None, options: ReplyOptions) -> None:
    """Add one assistant, or change the one of that name.

    Raises:
        InputError: the name cannot be used, or a value is out of its range.
    """
    where = f"the assistant {one_line(name, 60)}"
    _check(options.get("params") or {}, where)
    entry = {"name": name, "instructions": instructions, "model": model, **options}
    set_options = {option: value for option, value in options.items() if value is not None}
    assistant = replace(_read(entry, where), options=set_options)
    print_line(f"{assistant.name}: {save([assistant])}")


def _entries(path: str) -> Sequence[object]:
    text = ""
    try:
        text = Path(path).read_text("utf-8-sig")
        parsed = loads(text)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Name a JSON file of assistants.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path} line {line}: is not UTF-8; save the file in that encoding.") from None
    except JSONDecodeError as error:
        raise InputError(
            f"{path} line {error.lineno}: is not JSON: {error.msg} at character {error.colno}; fix it there."
        ) from None
    except ValueError as error:
        raise InputError(_unusable_number(path, text) or f"{path} cannot be used: {one_line(str(error))}.") from None
    entries = parsed.get("data") if isinstance(parsed, dict) else parsed
    if not isinstance(entries, list):
        raise InputError(f"{path} holds {json_kind(parsed)}; it must be a list of assistants, objects with a name.")
    return entries


def _unusable_number(path: str, text: str) -> str | None:
    """The sentence for a text's first number that is not finite; None where there is none."""
    for literal in _NUMBER.finditer(text):
        with suppress(ValueError):
            if not math.isfinite(float(literal[0])):
                line = text.count("\n", 0, literal.start()) + 1
                return f"{path} line {line}: {one_line(literal[0], 40)} cannot be used as a number; write another one."
    return None


def _read(entry: object, where: str) -> Assistant:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: is {json_kind(entry)}; an assistant is an object with at least a name.")
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise InputError(f'{where}: has no name; add one such as "name": "support".')
    if len(name) > 200 or not name.isprintable():
        raise InputError(f"{where}: the name must be at most 200 printable characters.")
    fields: JsonObject = {ours: _first(entry, ours) for ours in _FIELDS}
    shape = entry.get("response_format")
    if isinstance(shape, dict) and shape.get("type") == "json_schema":
        inner = shape.get("json_schema")
        fields["schema"] = fields["schema"] or (inner.get("schema") if isinstance(inner, dict) else None)
    external_id = str(entry["id"]) if entry.get("id") else None
    _check(fields | {"id": external_id}, where)
    params = {"top_p": fields["top_p"]} if fields["top_p"] is not None else {}
    if isinstance(shape, dict) and shape.get("type") == "json_object":
        params["response_format"] = shape
    options = {option: fields[option] for option in _OPTIONS if fields[option] is not None}
    known = {*_ABOUT_ITSELF, *_FIELDS, *(name for names in _ALSO_CALLED.values() for name in names)}
    unused = [key for key, value in entry.items() if key not in known and value not in _EMPTY]
    if "response_format" in unused and (params.get("response_format") or fields["schema"]):
        unused.remove("response_format")
    return Assistant(
        name.strip(),
        fields["instructions"] or None,
        fields["model"] or None,
        options | ({"params": params} if params else {}),
        external_id,
        tuple(one_line(key, 60) for key in unused),
    )


def _check(fields: Mapping[str, object], where: str) -> None:
    """Raise InputError for a value that would only break where it is used."""
    for option, value in fields.items():
        allowed = _ALLOWED.get(option)
        if value is None or allowed is None:
            continue
        if (why := allowed.why_not(value)) is not None:
            shown = one_line(repr(value), 60) if allowed.has_type(value) else json_kind(value)
            raise InputError(f"{where}: {option} is {shown}; {why}")
        if isinstance(value, str) and (half := _SURROGATE.search(value)):
            raise InputError(
                f"{where}: {option} holds half a character (\\u{ord(half[0]):04x}) at character {half.start() + 1:,}; "
                "write it whole, or leave it out."
            )
    schema = fields.get("schema")
    if isinstance(schema, dict) and (fault := schema_fault(schema)) is not None:
        raise InputError(f"{where}: schema {fault}")


def _first(entry: Mapping[str, object], name: str) -> object:
    names = (name, *_ALSO_CALLED.get(name, ()))
    return next((entry[each] for each in names if entry.get(each) is not None), None)


def save(entries: Sequence[Assistant]) -> str:
    """Add or update assistants, all or none; returns "3 added, 1 updated, 2 unchanged".

    A stored one is recognized by its external id, else by its name.
    """
    migrations.ensure()
    saved = Counter(transact(lambda connection: [_save(connection, each) for each in entries]))
    return ", ".join(f"{saved[what]:,} {what}" for what in ("added", "updated", "unchanged"))


def _save(connection: Connection, entry: Assistant) -> str:
    by_name = connection.execute(select(assistants).where(assistants.c.name == entry.name)).one_or_none()
    same_id = (assistants.c.external_id == entry.external_id) & assistants.c.external_id.is_not(None)
    row = connection.execute(select(assistants).where(same_id)).first() or by_name
    if row is not None and by_name is not None and row.id != by_name.id:
        raise InputError(
            f"The assistant {row.name!r} has the id {entry.external_id}, which is now called {entry.name!r}; there is "
            f"another one of that name: `tidemill assistants remove` one of the two, then import again."
        )
    values: JsonObject = {
        "name": entry.name,
        "instructions": entry.instructions,
        "model": entry.model,
        "options": entry.options,
        "external_id": entry.external_id or (row.external_id if row is not None else None),
    }
    if row is None:
        connection.execute(insert(assistants).values(created_at=now(), **values))
        return "added"
    if all(getattr(row, name) == value for name, value in values.items()):
        return "unchanged"
    connection.execute(update(assistants).where(assistants.c.id == row.id).values(**values))
    return "updated"


def use(name: str | None) -> None:
    """Make an assistant the default one; with None, have no default any more."""
    migrations.ensure()
    assistant_id = None if name is None else id_of(name)

    def make_default(connection: Connection) -> None:
        connection.execute(update(assistants).values(is_default=0))
        if assistant_id is not None:
            connection.execute(update(assistants).where(assistants.c.id == assistant_id).values(is_default=1))

    transact(make_default)
    print_line("There is no default assistant now." if name is None else f"{name} is the default assistant now.")


def remove(name: str) -> None:
    """Forget an assistant; what was asked with it stays."""
    migrations.ensure()
    assistant_id = id_of(name)

    def forget(connection: Connection) -> None:
        # Its number may be given to another one later.
        connection.execute(update(batches).where(batches.c.assistant_id == assistant_id).values(assistant_id=None))
        connection.execute(update(dialogues).where(dialogues.c.assistant_id == assistant_id).values(assistant_id=None))
        connection.execute(delete(assistants).where(assistants.c.id == assistant_id))

    transact(forget, LONG_SECONDS)
    print_line(f"{name} is removed; what was asked with it stays.")


# --- show ---


def show_list(as_json: bool) -> None:
    """Print all assistants."""
    migrations.ensure()
    with reading() as connection:
        rows = connection.execute(select(assistants).order_by(assistants.c.name)).all()
    _print([_as_json(row) for row in rows], as_json, "No assistants yet. `tidemill assistants add` makes one.")


def show(name: str, as_json: bool) -> None:
    """Print one assistant.

    Raises:
        InputError: there is no assistant of that name.
    """
    migrations.ensure()
    shown = _as_json(_named(name))
    if as_json:
        return print_json(shown)
    for key, value in shown.items():
        if key != "instructions" and value not in (None, {}, False):
            print_line(f"{key}: {value}")
    return print_text(f"\n{shown['instructions'] or 'no instructions'}")


def _as_json(row: Row[Any]) -> JsonObject:
    return {
        "name": row.name,
        "id": row.external_id,
        "model": row.model,
        "is_default": bool(row.is_default),
        **{option: value for option, value in row.options.items() if option != "params"},
        **row.options.get("params", {}),
        "instructions": row.instructions,
    }


COLUMNS = (
    Column("name", 1),
    Column("", 3),
    Column("model", 4),
    Column("id", 2),
    Column("instructions", 5, is_text=True),
)


def _print(shown: list[JsonObject], as_json: bool, if_none: str) -> None:
    if as_json:
        return print_json(shown)
    if not shown:
        return say(if_none)
    cells = [
        (
            each["name"],
            "default" if each.get("is_default") else "",
            each.get("model") or "",
            each.get("id") or "",
            each.get("instructions") or "",
        )
        for each in shown
    ]
    return print_table(COLUMNS, cells)


class NoAssistantsError(TidemillError):
    """The server has no assistants, or does not say which."""

    exit_code = NOT_ALL_SUCCEEDED


def show_remote(as_json: bool) -> None:
    """Print the assistants that the server keeps; a file of them can be imported.

    Raises:
        NoAssistantsError: the server has no such endpoint, answers with an error, or does not answer.
    """
    where = settings().openai_base_url
    try:
        remote = list_assistants(settings())
    except CallError as error:
        if error.status in _NO_SUCH_ENDPOINT:
            raise NoAssistantsError(
                f"{where} has no assistants, or none any more (it answers {error.status}): OpenAI switched them off on "
                "2026-08-26. Import them from a file that was saved before: tidemill assistants import assistants.json"
            ) from None
        raise NoAssistantsError(f"{error.message.rstrip('.')}. OPENAI_BASE_URL is {where}.") from None
    _print(remote, as_json, f"{where} keeps no assistants for this key.")
