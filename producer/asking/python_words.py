"""A Python caller is told of arguments, not of flags: `limit=` where the command line says `--limit`."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from tidemill.models.errors import TidemillError

F = TypeVar("F", bound=Callable[..., object])

_FLAG = re.compile(r"(?<![\w-])--([a-z]+(?:-[a-z]+)*)(?![\w-])")
_COMMAND = re.compile(r"(`[^`]*`)")


def in_python_words(function: F) -> F:
    """The same function, whose errors name flags as it names its arguments; whole commands stay as they are typed."""

    @wraps(function)
    def called(*args: Any, **options: Any) -> object:
        try:
            return function(*args, **options)
        except TidemillError as error:
            error.args = (as_arguments(str(error)),)
            raise

    return cast("F", called)


def as_arguments(sentence: str) -> str:
    """A sentence with `moved_from=` for `--moved-from`."""
    parts = _COMMAND.split(sentence)
    return "".join(part if part.startswith("`") else _FLAG.sub(_argument, part) for part in parts)


def _argument(flag: re.Match[str]) -> str:
    return f"{flag[1].replace('-', '_')}="
