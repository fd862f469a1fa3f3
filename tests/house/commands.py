"""Documents are compared with the commands that there are, not with a list kept beside them."""

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import typer

from tidemill.producer.cli.commands import app


@cache
def commands() -> Mapping[str, Any]:
    """Every command, those of groups as `dialogues list`; groups themselves are not commands."""
    return MappingProxyType(dict(_walk(typer.main.get_command(app), "")))


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield name.strip(), command
        return
    for each, inner in below.items():
        yield from _walk(inner, f"{name} {each}")


def options_of(command: Any) -> set[str]:
    """What may be typed: `--input`, `-i` and so on, without --help."""
    return {option for each in command.params for option in each.opts if option.startswith("-")}
