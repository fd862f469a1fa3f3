"""Instructions, model and options that belong together are kept under a name and said once.

What an assistant says is written into the options of the batch that uses it, so that changing it later changes nothing
that was asked; the batch and its dialogues keep its number, to be found by it.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NamedTuple

import typer
from sqlalchemy import Connection, Row, delete, insert, select, update

from tidemill import migrations
from tidemill.models.clock import now
from tidemill.models.database import reading, writing
from tidemill.models.errors import NOT_ALL_SUCCEEDED, InputError, TidemillError
from tidemill.models.provider import CallError, list_assistants
from tidemill.models.settings import settings
from tidemill.models.tables import assistants, batches, dialogues
from tidemill.models.text import loads, one_line
from tidemill.producer.cli.values import check_schema
from tidemill.producer.intake.records import json_kind
from tidemill.producer.screen.display import say
from tidemill.producer.screen.printing import print_json, print_table, print_text

_FORGOTTEN = (400, 404, 405, 410, 501)
"""What servers without the endpoint answer."""

_ABOUT_ITSELF = ("id", "object", "created_at", "description", "metadata", "name", "is_default")
_NAMES = {"instructions": ("instructions", "system"), "model": ("model",)}
_OPTIONS = {
    "temperature": ("temperature",),
    "max_tokens": ("max_tokens", "max_completion_tokens", "max_output_tokens"),
    "reasoning_effort": ("reasoning_effort",),
    "schema": ("schema",),
}
"""Option of ours -> what a file may call it."""


class _Kind(NamedTuple):
    """What a value must be, how a sentence calls that, and what passes; a range is that of the command line."""

    types: tuple[type, ...]
    called: str
    passes: Callable[[Any], bool] = lambda _: True


_WORD = _Kind((str,), "1 to 200 printable characters", lambda said: said.isprintable() and 0 < len(said.strip()) <= 200)
_KINDS = {
    "id": _WORD,
    "instructions": _Kind((str,), "text"),
    "model": _WORD,
    "temperature": _Kind((int, float), "a number from 0 to 2", lambda said: 0 <= said <= 2),
    "top_p": _Kind((int, float), "a number from 0 to 1", lambda said: 0 <= said <= 1),
    "max_tokens": _Kind((int,), "a whole number, 1 or more", lambda said: said >= 1),
    "reasoning_effort": _WORD,
    "schema": _Kind((dict,), "a JSON object"),
}
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
    said: Mapping[str, Any], name: str | None, *, no_assistant: bool = False, below: Chosen | None = None
) -> Chosen:
    """Complete what was said with what an assistant says: the one that is named, else the default one.

    Args:
        said: options; None means not said.
        name: the assistant's; None for the default one, which a stream of progress tells.
        no_assistant: take none at all.
        below: what counts where neither says anything, in place of the default assistant.

    Raises:
        InputError: there is no assistant of that name, or one is both named and unwanted.
    """
    if name is not None and no_assistant:
        raise InputError("--assistant and --no-assistant were both given; drop one.")
    migrations.ensure()
    row = _named(name) if name is not None else None if no_assistant or below is not None else _default()
    if row is not None and name is None:
        say(f"assistant: {row.name}")
    own = {} if row is None else {"system": row.instructions, "model": row.model, **row.options}
    layers = [*([below.options] if below else []), own, said]
    options: dict[str, Any] = {}
    for layer in layers:
        options |= {option: value for option, value in layer.items() if value is not None and option != "params"}
    options["params"] = {key: value for layer in layers for key, value in (layer.get("params") or {}).items()}
    continued = below.assistant_id if below is not None and not no_assistant else None
    return Chosen(options, row.id if row is not None else continued)


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
    given = [_read(entry, f"{path} entry {number}") for number, entry in enumerate(_entries(path), start=1)]
    for number, each in enumerate(given, start=1):
        if each.name in {other.name for other in given[: number - 1]}:
            raise InputError(f"{path} entry {number}: the name {each.name!r} is there twice; give one another name.")
    done = save(given)
    typer.echo(f"{path}: {done}")
    for each in given:
        if each.unused:
            say(f"{each.name}: Tidemill has no use for {', '.join(each.unused)}; it is left out.")


def add(name: str, instructions: str | None, model: str | None, options: dict[str, Any]) -> None:
    """Add one assistant, or change the one of that name.

    Raises:
        InputError: the name is none, or something else is out of its range.
    """
    params = options.get("params") or {}
    where = f"the assistant {one_line(name, 60)}"
    _check(params, where)
    given = {option: value for option, value in options.items() if option != "params"}
    known = _read({"name": name, "instructions": instructions, "model": model, **given}, where)
    known = replace(known, options=given | ({"params": params} if params else {}))
    typer.echo(f"{known.name}: {save([known])}")


def _entries(path: str) -> Sequence[Any]:
    text = ""
    try:
        text = Path(path).read_text("utf-8-sig")
        found = loads(text)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Name a JSON file of assistants.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path} line {line}: is not UTF-8; save the file in that encoding.") from None
    except JSONDecodeError as error:
        raise InputError(
            f"{path} line {error.lineno}: is not JSON: {error.msg} at character {error.colno}; mend it there."
        ) from None
    except ValueError as error:
        raise InputError(_unusable_number(path, text) or f"{path} cannot be used: {one_line(str(error))}.") from None
    entries = found.get("data") if isinstance(found, dict) else found
    if not isinstance(entries, list):
        raise InputError(f"{path} holds {json_kind(found)}; it must be a list of assistants, objects with a name.")
    return entries


def _unusable_number(path: str, text: str) -> str | None:
    """The sentence for a number that is JSON but none that can be used, where the text holds one."""
    for found in _NUMBER.finditer(text):
        with suppress(ValueError):
            if not math.isfinite(float(found[0])):
                line = text.count("\n", 0, found.start()) + 1
                return f"{path} line {line}: {one_line(found[0], 40)} is no number that can be used; write another one."
    return None


def _read(entry: Any, where: str) -> Assistant:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: is {json_kind(entry)}; an assistant is an object with at least a name.")
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise InputError(f'{where}: has no name; add one such as "name": "support".')
    if len(name) > 200 or not name.isprintable():
        raise InputError(f"{where}: the name must be at most 200 printable characters.")
    said = {ours: _first(entry, names) for ours, names in (_NAMES | _OPTIONS).items()} | {"top_p": entry.get("top_p")}
    shape = entry.get("response_format")
    if isinstance(shape, dict) and shape.get("type") == "json_schema":
        inner = shape.get("json_schema")
        said["schema"] = said["schema"] or (inner.get("schema") if isinstance(inner, dict) else None)
    external_id = str(entry["id"]) if entry.get("id") else None
    _check(said | {"id": external_id}, where)
    params = {"top_p": said["top_p"]} if said["top_p"] is not None else {}
    if isinstance(shape, dict) and shape.get("type") == "json_object":
        params["response_format"] = shape
    options = {option: said[option] for option in _OPTIONS if said[option] is not None}
    known = {*_ABOUT_ITSELF, "top_p", *(name for names in (_NAMES | _OPTIONS).values() for name in names)}
    unused = [key for key, value in entry.items() if key not in known and value not in _EMPTY]
    if "response_format" in unused and (params.get("response_format") or said["schema"]):
        unused.remove("response_format")
    return Assistant(
        name.strip(),
        said["instructions"] or None,
        said["model"] or None,
        options | ({"params": params} if params else {}),
        external_id,
        tuple(one_line(key, 60) for key in unused),
    )


def _check(said: Mapping[str, Any], where: str) -> None:
    """Refuse what would only break where it is used."""
    for option, kind in _KINDS.items():
        value = said.get(option)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, kind.types):
            raise InputError(f"{where}: {option} is {json_kind(value)}; it must be {kind.called}.")
        if not kind.passes(value):
            raise InputError(f"{where}: {option} is {one_line(repr(value), 60)}; it must be {kind.called}.")
        if isinstance(value, str) and (half := _SURROGATE.search(value)):
            raise InputError(
                f"{where}: {option} holds half a character (\\u{ord(half[0]):04x}) at character {half.start() + 1:,}; "
                "write it whole, or leave it out."
            )
    if said.get("schema") is not None:
        check_schema(said["schema"], f"{where}: schema")


def _first(entry: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def save(given: Sequence[Assistant]) -> str:
    """Add or update assistants, all or none; returns "3 added, 1 updated, 2 unchanged".

    One that is there already is known by its external id, else by its name.
    """
    migrations.ensure()
    counts = {"added": 0, "updated": 0, "unchanged": 0}
    with writing() as connection:
        for each in given:
            counts[_save(connection, each)] += 1
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _save(connection: Connection, given: Assistant) -> str:
    by_name = connection.execute(select(assistants).where(assistants.c.name == given.name)).one_or_none()
    same_id = (assistants.c.external_id == given.external_id) & assistants.c.external_id.is_not(None)
    row = connection.execute(select(assistants).where(same_id)).first() or by_name
    if row is not None and by_name is not None and row.id != by_name.id:
        raise InputError(
            f"The assistant {row.name!r} has the id {given.external_id}, which is now called {given.name!r}; there is "
            f"another one of that name: `tidemill assistants remove` one of the two, then import again."
        )
    values: dict[str, Any] = {
        "name": given.name,
        "instructions": given.instructions,
        "model": given.model,
        "options": given.options,
        "external_id": given.external_id or (row.external_id if row is not None else None),
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
    told = _as_json(_named(name))
    if as_json:
        return print_json(told)
    for key, value in told.items():
        if key != "instructions" and value not in (None, {}, False):
            typer.echo(f"{key}: {value}")
    return print_text(f"\n{told['instructions'] or 'no instructions'}")


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


def _print(told: list[dict[str, Any]], as_json: bool, none: str) -> None:
    if as_json:
        return print_json(told)
    if not told:
        return say(none)
    cells = [
        (
            each["name"],
            "default" if each.get("is_default") else "",
            each.get("model") or "",
            each.get("id") or "",
            each.get("instructions") or "",
        )
        for each in told
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
        found = list_assistants(settings())
    except CallError as error:
        if error.status in _FORGOTTEN:
            raise NoAssistantsError(
                f"{where} has no assistants, or none any more (it answers {error.status}): OpenAI switched them off on "
                "2026-08-26. Import them from a file that was saved before: tidemill assistants import assistants.json"
            ) from None
        raise NoAssistantsError(f"{error.message.rstrip('.')}. OPENAI_BASE_URL is {where}.") from None
    _print(found, as_json, f"{where} keeps no assistants for this key.")
