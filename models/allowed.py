"""One table says which values an option may have, for flags, Python callers and files of assistants.

The command line imports this before it knows what to do, so nothing slow may be imported at the top.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args

from tidemill.models.errors import OptionError
from tidemill.models.options import Detail, Transport, Trim

WORD_CHARACTERS = 200


class Allowed(NamedTuple):
    """Values of `types` for which `fits` is true; True and False are no numbers.

    `least` and `most` are the ends of a range of numbers; None: the range has no such end.
    """

    types: tuple[type, ...]
    must_be: Callable[[], str]
    """The end of the sentence "it must be ...", without a full stop."""
    fits: Callable[[Any], bool] = lambda _: True
    least: int | None = None
    most: int | None = None

    def has_type(self, value: object) -> bool:
        """Whether a value is of one of the types."""
        return isinstance(value, self.types) and not isinstance(value, bool)

    def why_not(self, value: object) -> str | None:
        """What is wrong with a value, as the end of a sentence; None when the value is allowed."""
        return None if self.has_type(value) and self.fits(value) else f"it must be {self.must_be()}."


def one_of(names: Callable[[], Iterable[str]]) -> Allowed:
    """One of a few names. `names` is called each time, because some are registered after this is imported."""

    def must_be() -> str:
        *others, last = map(repr, names())
        return f"{', '.join(others)} or {last}" if others else last

    return Allowed((str,), must_be, lambda name: name in names())


def number(kind: type[int] | type[float], least: int | None = None, most: int | None = None) -> Allowed:
    """A number of a range, both ends included; NaN is in none."""
    noun = "a whole number" if kind is int else "a number"
    if least is not None:
        noun = f"{noun}, {least} or more" if most is None else f"{noun} from {least} to {most}"

    def fits(value: float) -> bool:
        return (least is None or value >= least) and (most is None or value <= most)

    return Allowed((int, kind), lambda: noun, fits, least, most)


def _is_word(text: str) -> bool:
    return text.isprintable() and 0 < len(text.strip()) <= WORD_CHARACTERS


def _is_json(value: object) -> bool:
    from tidemill.models.text import is_json

    return is_json(value)


class _Schema(Allowed):
    """A JSON object that is a JSON schema."""

    __slots__ = ()

    def why_not(self, value: object) -> str | None:
        from tidemill.models.schemas import schema_fault

        fault = Allowed.why_not(self, value)
        if fault is None and isinstance(value, dict) and (fault := schema_fault(value)) is not None:
            fault = f"it {fault}"
        return fault


def _endpoints() -> Iterable[str]:
    from tidemill.models.endpoints import ENDPOINTS

    return ENDPOINTS.names()


TEXT = Allowed((str,), lambda: "text")
WORD = Allowed((str,), lambda: f"1 to {WORD_CHARACTERS} printable characters", _is_word)
OBJECT = Allowed((dict,), lambda: "a JSON object", _is_json)

ALLOWED: Mapping[str, Allowed] = {
    "model": WORD,
    "system": TEXT,
    "temperature": number(float, 0, 2),
    "max_tokens": number(int, 1),
    "reasoning_effort": WORD,
    "params": OBJECT,
    "schema": _Schema((dict,), OBJECT.must_be, _is_json),
    "endpoint": one_of(_endpoints),
    "transport": one_of(lambda: get_args(Transport)),
    "rpm": number(int, 1),
    "tpm": number(int, 1),
    "trim": one_of(lambda: get_args(Trim)),
    "prompt": TEXT,
    "detail": one_of(lambda: get_args(Detail)),
    "max_side": number(int, 32, 16_384),
    "limit": number(int, 1),
    "priority": number(int),
    "window": number(int, 1, 10_000),
}
"""Option, by the name of its field -> its values; None, for an option that is not set, is always allowed."""


def check_values(options: Mapping[str, object]) -> None:
    """Find a value that would otherwise fail only where it is used.

    Raises:
        OptionError: an option has a value that it cannot have.
    """
    for option, value in options.items():
        if value is not None and (why := ALLOWED[option].why_not(value)) is not None:
            raise OptionError(option, value, why)


def check_names(options: Mapping[str, object], known: Collection[str]) -> None:
    """Find a name that is not known, and say which one was probably meant.

    Raises:
        OptionError: there is no such option.
    """
    for option in options.keys() - known:
        close = get_close_matches(option, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}."
        raise OptionError(option, options[option], f"there is no such option; {hint}")
