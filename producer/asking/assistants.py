"""Instructions, model and options that belong together are kept under a name and said once.

What an assistant says is written into the options of the batch that uses it, so that changing it later changes nothing
that was asked; the batch and its dialogues keep its number, to be found by it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NamedTuple

import typer
from sqlalchemy import Connection, Row, delete, insert, select, update

from tidemill import migrations
from tidemill.models.allowed import ALLOWED, OBJECT, TEXT, WORD, number, schema_fault
from tidemill.models.clock import now
from tidemill.models.database import reading, writing
from tidemill.models.errors import NOT_ALL_SUCCEEDED, InputError, OptionError, TidemillError
from tidemill.models.options import ReplyOptions
from tidemill.models.provider import CallError, list_assistants
from tidemill.models.settings import settings
from tidemill.models.tables import assistants, batches, dialogues
from tidemill.models.text import loads, one_line
from tidemill.producer.intake.records import json_kind
from tidemill.producer.screen.display import say
from tidemill.producer.screen.printing import print_json, print_table, print_text

_FORGOTTEN = (400, 404, 405, 410, 501)
"""What servers without the endpoint answer."""

_ABOUT_ITSELF = ("id", "object", "created_at", "description", "metadata", "name", "is_default")
_OPTIONS = tuple(option for option in ReplyOptions.__annotations__ if option != "params")
"""Options of ours that an entry of a file may have; `params` are made of what else it says of replies."""

_FIELDS = ("instructions", "model", "top_p", *_OPTIONS)
_ALSO_CALLED = {"instructions": ("system",), "max_tokens": ("max_completion_tokens", "max_output_tokens")}
"""Field of ours -> what else a file may call it."""

_ALLOWED = {"id": WORD, "instructions": TEXT, "model": WORD, "top_p": number(float, 0, 1)}
_ALLOWED |= {option: ALLOWED[option] for option in _OPTIONS} | {"schema": OBJECT}
_NUMBER = re.compile(r"-?\b(?:NaN|Infinity|\d[\d.]*(?:[eE]\+?\d+)?)\b")
_SURROGATE = re.compile("[\ud800-\udfff]")
_EMPTY: tuple[Any, ...] = (None, [], {}, "auto")


@dataclass(frozen=True, slots=True)
class Assistant:
    """What is kept under a name: `options` are fields of `models.options.Options`, `unused` what a file also said."""

    name: str
    instructions: str | None = None
    model: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    external_id: str | None = None
    unused: tuple[str, ...] = ()


class Chosen(NamedTuple):
    """What is asked with: options of `models.options.Options`, and the assistant that some of them are from."""

    options: dict[str, Any]
    assistant_id: int | None


# --- use ---


def choose(
    options: Mapping[str, Any], name: str | None, *, no_assistant: bool = False, below: Chosen | None = None
) -> Chosen:
    """Complete what was said with what an assistant says: the one that is named, else the default one.

    Args:
        options: what was said; None means not said.
        name: the assistant's; None for the default one, which a stream of progress tells.
        no_assistant: take none at all.
        below: what counts where neither says anything, in place of the default assistant.

    Raises:
        InputError: there is no assistant of that name.
        OptionError: one is both named and unwanted.
    """
    if name is not None and no_assistant:
        raise OptionError("assistant", name, "an assistant and no assistant were both given; drop one.")
    migrations.ensure()
    row = _named(name) if name is not None else None if no_assistant or below is not None else _default()
    if row is not None and name is None:
        say(f"assistant: {row.name}")
    own = {} if row is None else {"system": row.instructions, "model": row.model, **row.options}
    layers = [*([below.options] if below else []), own, options]
    chosen = {option: value for layer in layers for option, value in layer.items() if value is not None}
    chosen["params"] = {key: value for layer in layers for key, value in (layer.get("params") or {}).items()}
    continued = below.assistant_id if below is not None and not no_assistant else None
    return Chosen(chosen, row.id if row is not None else continued)


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
    """Take over the assistants of a JSON file: a list of objects with at least a name, or an API's list of them.

    Raises:
        InputError: the file or one of its entries cannot be used; nothing has been stored.
    """
    entries = [_read(entry, f"{path} entry {place}") for place, entry in enumerate(_entries(path), start=1)]
    for place, each in enumerate(entries, start=1):
        if each.name in {other.name for other in entries[: place - 1]}:
            raise InputError(f"{path} entry {place}: the name {each.name!r} is there twice; give one another name.")
    done = save(entries)
    typer.echo(f"{path}: {done}")
    for each in entries:
        if each.unused:
            say(f"{each.name}: Tidemill has no use for {', '.join(each.unused)}; it is left out.")


def add(name: str, instructions: str | None, model: str | None, options: ReplyOptions) -> None:
    """Add one assistant, or change the one of that name.

    Raises:
        InputError: the name is none, or something else is out of its range.
    """
    where = f"the assistant {one_line(name, 60)}"
    _check(options.get("params") or {}, where)
    entry = {"name": name, "instructions": instructions, "model": model, **options}
    said = {option: value for option, value in options.items() if value is not None}
    kept = replace(_read(entry, where), options=said)
    typer.echo(f"{kept.name}: {save([kept])}")


def _entries(path: str) -> Sequence[Any]:
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
    """The sentence for a number that is JSON but none that can be used, where the text holds one."""
    for literal in _NUMBER.finditer(text):
        with suppress(ValueError):
            if not math.isfinite(float(literal[0])):
                line = text.count("\n", 0, literal.start()) + 1
                return (
                    f"{path} line {line}: {one_line(literal[0], 40)} is no number that can be used; write another one."
                )
    return None


def _read(entry: Any, where: str) -> Assistant:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: is {json_kind(entry)}; an assistant is an object with at least a name.")
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise InputError(f'{where}: has no name; add one such as "name": "support".')
    if len(name) > 200 or not name.isprintable():
        raise InputError(f"{where}: the name must be at most 200 printable characters.")
    fields = {ours: _first(entry, ours) for ours in _FIELDS}
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


def _check(fields: Mapping[str, Any], where: str) -> None:
    """Refuse what would only break where it is used."""
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
    if fields.get("schema") is not None and (fault := schema_fault(fields["schema"])) is not None:
        raise InputError(f"{where}: schema {fault}")


def _first(entry: Mapping[str, Any], name: str) -> Any:
    names = (name, *_ALSO_CALLED.get(name, ()))
    return next((entry[each] for each in names if entry.get(each) is not None), None)


def save(kept: Sequence[Assistant]) -> str:
    """Add or update assistants, all or none; returns "3 added, 1 updated, 2 unchanged".

    One that is there already is known by its external id, else by its name.
    """
    migrations.ensure()
    counts = {"added": 0, "updated": 0, "unchanged": 0}
    with writing() as connection:
        for each in kept:
            counts[_save(connection, each)] += 1
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _save(connection: Connection, kept: Assistant) -> str:
    by_name = connection.execute(select(assistants).where(assistants.c.name == kept.name)).one_or_none()
    same_id = (assistants.c.external_id == kept.external_id) & assistants.c.external_id.is_not(None)
    row = connection.execute(select(assistants).where(same_id)).first() or by_name
    if row is not None and by_name is not None and row.id != by_name.id:
        raise InputError(
            f"The assistant {row.name!r} has the id {kept.external_id}, which is now called {kept.name!r}; there is "
            f"another one of that name: `tidemill assistants remove` one of the two, then import again."
        )
    values: dict[str, Any] = {
        "name": kept.name,
        "instructions": kept.instructions,
        "model": kept.model,
        "options": kept.options,
        "external_id": kept.external_id or (row.external_id if row is not None else None),
    }
    if row is None:
        connection.execute(insert(assistants).values(created_at=now(), **values))
        return "added"
    if all(getattr(row, name) == value for name, value in values.items()):
        return "unchanged"
    connection.execute(update(assistants).where(assistants.c.id == row.id).values(**values))
    return "updated"


def use(name: str | None) -> None:
    """Make an assistant the default one; None: there is no default any more."""
    migrations.ensure()
    chosen = None if name is None else id_of(name)
    with writing() as connection:
        connection.execute(update(assistants).values(is_default=0))
        if chosen is not None:
            connection.execute(update(assistants).where(assistants.c.id == chosen).values(is_default=1))
    typer.echo("There is no default assistant now." if name is None else f"{name} is the default assistant now.")


def remove(name: str) -> None:
    """Forget an assistant; what was asked with it stays."""
    migrations.ensure()
    gone = id_of(name)
    with writing() as connection:
        # Its number may be given to another one later.
        connection.execute(update(batches).where(batches.c.assistant_id == gone).values(assistant_id=None))
        connection.execute(update(dialogues).where(dialogues.c.assistant_id == gone).values(assistant_id=None))
        connection.execute(delete(assistants).where(assistants.c.id == gone))
    typer.echo(f"{name} is removed; what was asked with it stays.")


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
            typer.echo(f"{key}: {value}")
    return print_text(f"\n{shown['instructions'] or 'no instructions'}")


def _as_json(row: Row[Any]) -> dict[str, Any]:
    return {
        "name": row.name,
        "id": row.external_id,
        "model": row.model,
        "is_default": bool(row.is_default),
        **{option: value for option, value in row.options.items() if option != "params"},
        **row.options.get("params", {}),
        "instructions": row.instructions,
    }


def _print(shown: list[dict[str, Any]], as_json: bool, none: str) -> None:
    if as_json:
        return print_json(shown)
    if not shown:
        return say(none)
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
    return print_table(("name", "", "model", "id", "instructions"), cells)


class NoAssistantsError(TidemillError):
    """The server has no assistants, or does not say which."""

    exit_code = NOT_ALL_SUCCEEDED


def show_remote(as_json: bool) -> None:
    """Print the assistants that the server keeps; a file of them can be imported.

    Raises:
        NoAssistantsError: the server has no such endpoint, refuses, or does not answer.
    """
    where = settings().openai_base_url
    try:
        remote = list_assistants(settings())
    except CallError as error:
        if error.status in _FORGOTTEN:
            raise NoAssistantsError(
                f"{where} has no assistants, or none any more (it answers {error.status}): OpenAI switched them off on "
                "2026-08-26. Import them from a file that was saved before: tidemill assistants import assistants.json"
            ) from None
        raise NoAssistantsError(f"{error.message.rstrip('.')}. OPENAI_BASE_URL is {where}.") from None
    _print(remote, as_json, f"{where} keeps no assistants for this key.")
