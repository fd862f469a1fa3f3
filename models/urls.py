"""A URL may hold a password, in any of its parts, so there is one way to show one."""

import re

_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]*)(?::[0-9]*)?"
_READABLE = re.compile(rf"(?:[^@]*@)?(?P<hosts>{_HOST}(?:,{_HOST})*)(?P<path>/[^@]*)?")


def shown_url(text: str) -> str:
    """`text` as scheme://host:port/path, for messages and logs; of what cannot be read for certain, only the scheme.

    User, password, query and fragment are left out. A second @, or one behind a ? or #, makes the whole doubtful: it
    may be part of a password that was not written as %40.
    """
    scheme, separator, rest = text.strip().partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.:-]*", scheme):
        return "***"
    before, *after = re.split("[?#]", rest, maxsplit=1)
    parts = _READABLE.fullmatch(before)
    if parts is None or any("@" in each for each in after):
        return f"{scheme}://***"
    return f"{scheme}://{parts['hosts']}{parts['path'] or ''}"


def is_host(name: str | None) -> bool:
    """Whether it can be a host's name or address."""
    if not name or not name.isprintable() or set(name) & set(" \"'\\<>^`{|}"):
        return False
    try:
        return bool(name.encode("idna"))
    except UnicodeError:  # a label that is empty or too long
        return False
