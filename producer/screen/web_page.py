"""What strangers wrote is shown on a web page as text and nothing else, and no page is ever there by half."""

import base64
import hashlib
import html
import re
import stat
from pathlib import Path

from tidemill.models.errors import InputError
from tidemill.models.files import status, temporary

_UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""What cannot stand in HTML, and the two marks that reverse the order in which text is shown."""


def is_named(path: str) -> bool:
    """Whether a path is the name of a web page."""
    return Path(path).suffix.lower() in (".html", ".htm")


def check_destination(path: str, noun: str) -> None:
    """Raise InputError when `path` cannot take a page; `noun` says what the page is, such as gallery."""
    if not is_named(path):
        raise InputError(f"{path!r} is not the name of a web page; name the {noun} .html.")
    try:
        target = Path(path).resolve()  # through a symlink
        there = status(target)
        if there and not stat.S_ISREG(there.st_mode):
            raise InputError(f"{path} is a folder or a device; give the {noun} another name.")
        probe = temporary(target)
        probe.touch(exist_ok=False)
        probe.unlink()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a name too long, a loop of symlinks
        raise unwritable(path, noun, error) from error


def unwritable(path: str, noun: str, error: Exception) -> InputError:
    """The sentence for a page that cannot be written."""
    reason = getattr(error, "strerror", None) or error
    return InputError(f"The {noun} {path!r} cannot be written: {reason}; fix that, or give it another name.")


def shown(value: object) -> str:
    """Any value as text for HTML, inside an element or a quoted attribute."""
    return html.escape(_UNSHOWABLE.sub("\ufffd", str(value)))


def opening(title: str, summary: str, style: str, script: str = "") -> str:
    """A page up to its first element of its own; it loads nothing, and runs nothing but this script."""
    policy = f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src {_fingerprint(style)}"
    if script:
        policy += f"; script-src {_fingerprint(script)}"
    return _OPENING.format(policy=policy, style=style, title=shown(title), summary=shown(summary))


def _fingerprint(code: str) -> str:
    """How a page's policy names the one style or script that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


CLOSING = "</main>\n</body>\n</html>\n"

_OPENING = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1 dir="auto">{title}</h1>
<p dir="auto">{summary}</p>
</header>
<main>
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f4f2; --card: #fff; --tile: #eaeae7; --line: #dededa; --text: #1d1d1b; --quiet: #65655f;
  --bad: #b3261e; --good: #1a7f4b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121314; --card: #1c1d1f; --tile: #27292b; --line: #313437; --text: #ececea; --quiet: #a3a5a4;
    --bad: #ff9489; --good: #6fd39c;
  }
}
* { box-sizing: border-box; margin: 0 }
body {
  max-width: 110rem; margin: 0 auto; padding: clamp(1rem, 3vw, 3rem); background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
"""
"""Colours and type of every page; it may be continued."""
