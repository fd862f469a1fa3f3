"""What is typed on a command line becomes the options that Python callers give, or an error of one sentence."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from tidemill.models.allowed import check_values
from tidemill.models.durations import seconds_of
from tidemill.models.errors import InputError, OptionError
from tidemill.models.json_types import JsonObject
from tidemill.models.schemas import schema_fault
from tidemill.models.text import loads
from tidemill.producer.batches.ends import Ends
from tidemill.producer.batches.row_orders import ORDERS, OrderName

if TYPE_CHECKING:
    from tidemill.producer.batches.spending import Spending
    from tidemill.producer.cli.flags import MoneyFlags
    from tidemill.producer.intake.sources import Files

_Options = TypeVar("_Options")


def options_of(kind: type[_Options], *groups: NamedTuple, **single: object) -> _Options:
    """The options that were typed, checked as those of Python callers are.

    Args:
        kind: one of the TypedDicts of `models.options`; flags that are not among its fields are left out.
        groups: of `flags`.
        **single: flags by name.

    Raises:
        OptionError: an option has a value that it cannot have.
        InputError: --param or --schema cannot be used, or --system names a file that cannot.
    """
    flags: JsonObject = {name: value for group in groups for name, value in group._asdict().items()} | single
    flags["params"] = _params(flags.get("param") or []) or None
    flags["schema"] = _schema(flags.get("schema"))
    flags["system"] = text_of("--system", flags.get("system"))
    options = {name: flags[name] for name in kind.__annotations__ if flags.get(name) is not None}
    check_values(options)
    return cast("_Options", options)


def text_of(flag: str, value: str | None) -> str | None:
    """What a flag for a text says: `@FILE` is what the file holds, without line ends at its end, and `@@` an @.

    Raises:
        InputError: the file cannot be read.
    """
    if value is None or not value.startswith("@"):
        return value
    if value.startswith("@@"):
        return value[1:]
    if not value[1:]:
        raise InputError(f"{flag} is @ alone: name a file, such as @prompt.md, or write @@ for the sign itself.")
    from tidemill.producer.intake.text_files import read_text

    try:
        return read_text(value[1:])
    except InputError as error:
        raise InputError(f"{flag} {value}: {error}. For a text that begins with @, write @@.") from None


def prompt_of(typed: str | None) -> str | None:
    """The prompt that was typed; `@FILE` is what a file of that name holds, which is said, and any other @ stays.

    Raises:
        InputError: the file cannot be read.
    """
    if typed is None or not typed.startswith("@") or not os.path.isfile(typed[1:]):  # noqa: PTH113  # Path's may raise
        return typed
    from tidemill.producer.intake.text_files import read_text
    from tidemill.producer.screen.display import say

    text = read_text(typed[1:])
    say(f"{typed[1:]} ({len(text):,} characters) is the prompt; a blank at the end of {typed} asks the mere words.")
    return text


def inputs_of(typed: list[str] | None, output: str | None) -> "Files | None":
    """The files that -i names.

    Raises:
        InputError: what is written to `output` would be read as input by the next run.
    """
    if not typed:
        return None
    from tidemill.producer.intake.sources import Files

    files = Files(tuple(typed))
    if output is not None:
        files.check_output(output)
    return files


def ends_of(max_wait: str | None, fail_fast: bool = False) -> Ends:
    """When to stop waiting; raises OptionError if `max_wait` is no duration."""
    try:
        return Ends(None if max_wait is None else seconds_of(max_wait), fail_fast)
    except ValueError as error:
        raise OptionError("max_wait", max_wait, f"{error}.") from None


def spending_of(money: "MoneyFlags") -> "Spending":
    """How much may be spent, by which route, and by when; raises OptionError as `spending.spending_of`."""
    from tidemill.producer.batches import spending

    return spending.spending_of(*money)


def order_of(name: str) -> OrderName:
    """The order of the rows in a file of answers; raises OptionError where there is none of that name."""
    for known in ORDERS:
        if known == name:
            return known
    raise OptionError("order", name, f"it must be {' or '.join(ORDERS)}.")


def _params(pairs: list[str]) -> JsonObject:
    """The fields that `key=value` pairs name; a value is read as JSON if it is JSON, else as text."""
    params: JsonObject = {}
    for each in pairs:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise InputError(f"--param {each!r} is not KEY=VALUE; an example is --param seed=7.")
        try:
            params[key] = loads(value)
        except ValueError:
            params[key] = value
    return params


def _schema(path: Path | None) -> JsonObject | None:
    """The JSON schema in a file."""
    if path is None:
        return None
    try:
        schema = loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"--schema {path}: {error.strerror}.") from None
    except ValueError as error:
        raise InputError(f"--schema {path} is not JSON: {error}.") from None
    if not isinstance(schema, dict):
        raise InputError(f"--schema {path} must hold a JSON object.")
    if (fault := schema_fault(schema)) is not None:
        raise InputError(f"--schema {path} {fault}")
    return schema
