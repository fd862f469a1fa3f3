"""A setting whose name is misspelt does nothing, and nobody would notice: it is named, beside the nearest right name.

Every name that begins like ours is looked at. Other programs have variables that begin with OPENAI_, so of those only
what is nearly one of ours, where that one is missing.
"""

import os
import re
import sys
from collections.abc import Collection, Iterable
from difflib import get_close_matches

from tidemill.models.text import one_line

_SAID = "TIDEMILL_MISSPELLINGS_SAID"
"""Set for the processes that this one starts, so that a command with ten workers says it once."""

OTHERS = frozenset({_SAID, "TIDEMILL_DEBUG"})
"""Variables of ours that are no settings."""

_OF_KUBERNETES = re.compile(r"TIDEMILL_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_[A-Z]+(_.+)?)?)")
"""What Kubernetes tells each container about a service that is called tidemill."""

_OLD_NAMES = {
    "OPENAI_API_BASE": "OPENAI_BASE_URL",
    "OPENAI_API_BASE_URL": "OPENAI_BASE_URL",
    "OPENAI_API_URL": "OPENAI_BASE_URL",
    "OPENAI_BASE": "OPENAI_BASE_URL",
    "OPENAI_URL": "OPENAI_BASE_URL",
    "OPENAI_KEY": "OPENAI_API_KEY",
    "OPENAI_ORG": "OPENAI_ORG_ID",
    "OPENAI_ORGANIZATION": "OPENAI_ORG_ID",
    "OPENAI_ORGANIZATION_ID": "OPENAI_ORG_ID",
    "OPENAI_PROJECT": "OPENAI_PROJECT_ID",
}
"""Names that other programs use, or older ones did, for what we read under another."""

_LIKENESS_OF_OURS, _LIKENESS_OF_OPENAI, _LIKENESS_OF_FIRST_WORD = 0.6, 0.9, 0.9


def say(names: Iterable[str], settings: Collection[str]) -> None:
    """Name on stderr what was misspelt among the names of variables, once for this process and those it starts."""
    if os.environ.get(_SAID):
        return
    if wrong := misspelt(names, settings):
        os.environ[_SAID] = "1"
        shown = ", ".join(f"{name} (did you mean {right}?)" if right else name for name, right in wrong.items())
        sentence = f"no such setting: {one_line(shown, 600)}; `tidemill doctor` lists the settings."
        print(f"tidemill: {sentence}", file=sys.stderr)  # noqa: T201


def misspelt(names: Iterable[str], settings: Collection[str]) -> dict[str, str | None]:
    """Name -> the setting that was probably meant, for the names that look like settings and are none.

    Args:
        names: of variables, in capitals.
        settings: the names that there are.
    """
    present = set(names)
    others = sorted(present - set(settings) - OTHERS)
    ours = {name: _nearest(name, settings, _LIKENESS_OF_OURS) for name in others if _looks_like_ours(name)}
    near = {name: _near_openai(name, settings) for name in others if name.startswith("OPENAI_")}
    return ours | {name: right for name, right in near.items() if right is not None and right not in present}


def _looks_like_ours(name: str) -> bool:
    if name.startswith("TIDEMILL_TEST_") or _OF_KUBERNETES.fullmatch(name):
        return False
    first, _, rest = name.partition("_")
    return bool(rest and name.startswith("TI") and get_close_matches(first, ["TIDEMILL"], 1, _LIKENESS_OF_FIRST_WORD))


def _near_openai(name: str, settings: Iterable[str]) -> str | None:
    """The setting that a name is nearly, or is an old name of; a longer name, such as one with _2, is on purpose."""
    openai = [each for each in settings if each.startswith("OPENAI_")]
    if name in _OLD_NAMES:
        return _OLD_NAMES[name]
    return None if any(name.startswith(each) for each in openai) else _nearest(name, openai, _LIKENESS_OF_OPENAI)


def _nearest(name: str, settings: Iterable[str], likeness: float) -> str | None:
    """The most similar name; their first words, which many share, do not count."""
    by_rest = {each.partition("_")[2]: each for each in settings}
    nearest = get_close_matches(name.partition("_")[2], by_rest, 1, likeness)
    return by_rest[nearest[0]] if nearest else None
