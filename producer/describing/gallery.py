"""Captions are judged by eye, so all of them go beside their pictures onto one page.

The page loads nothing, runs nothing, and can be sent to anybody. Replies and file names are hostile text: they are
escaped, and cannot change how the page reads around them.
"""

import base64
import hashlib
import html
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tidemill.models.cost import format_tokens, format_usd
from tidemill.models.errors import InputError
from tidemill.models.files import replacing, status, temporary
from tidemill.models.json_types import JsonObject
from tidemill.producer.describing.sidecars import caption_of

SENTIMENTS = ("positive", "negative", "neutral")
_UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""What cannot stand in HTML, and the two marks that reverse the order in which text is shown."""

_URL = re.compile(
    r"(?is)(https?://)(?:[^/?#]*@)?([^?#]*).*"
)  # readers of the page must not see passwords and signatures


def check_destination(path: str) -> None:
    """Raise InputError when `path` cannot take a gallery; called before any paid work."""
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path!r} is not the name of a web page; name the gallery .html.")
    try:
        target = target.resolve()  # through a symlink
        there = status(target)
        if there and not stat.S_ISREG(there.st_mode):
            raise InputError(f"{path} is a folder or a device; give the gallery another name.")
        probe = temporary(target)
        probe.touch(exist_ok=False)
        probe.unlink()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a name too long, a loop of symlinks
        raise _unwritable(path, error) from error


def write(
    path: str,
    title: str,
    summary: str,
    rows: Iterable[list[JsonObject]],
    thumbnail: Callable[[JsonObject], bytes | None],
    *,
    path_column: str = "path",
) -> int:
    """Write one HTML page with a card for each row, in their order, and return how many there were.

    Rows are dicts as `stored_rows.rows_of` yields them; `width`, `height` and `format` are shown where a row has them.
    `thumbnail` gives a row's JPEG, or None for a plain tile. Memory is constant. The page appears under its name once
    it is complete. Raises InputError when it cannot be written.
    """
    check_destination(path)
    cards = 0
    try:
        with replacing(Path(path).resolve()) as file:
            file.write(_HEAD.format(policy=_POLICY, style=_STYLE, title=_text(title), summary=_text(summary)).encode())
            for row in (row for chunk in rows for row in chunk):
                file.write(_card(row, str(row.get(path_column) or ""), thumbnail(row)).encode())
                cards += 1
            file.write(b"</main>\n</body>\n</html>\n")
    except OSError as error:
        raise _unwritable(path, error) from error
    return cards


def _unwritable(path: str, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or error
    return InputError(f"The gallery {path!r} cannot be written: {reason}; fix that, or give it another name.")


def _text(value: object) -> str:
    """Any value as text for HTML, inside an element or a quoted attribute."""
    return html.escape(_UNSHOWABLE.sub("\ufffd", str(value)))


def _card(row: JsonObject, path: str, thumbnail: bytes | None) -> str:
    succeeded = row.get("status") == "succeeded"
    place = "data: URL" if path.startswith("data:") else _URL.sub(r"\1\2", path)
    name = _text(re.split(r"[/\\]", place)[-1] or place)
    if succeeded:
        alt = caption = _text(caption_of(str(row.get("reply") or "")))
    else:
        alt = name
        caption = (
            f"<strong>{_text(row.get('status'))}</strong> {_text(row.get('error') or row.get('error_code') or '')}"
        )
    picture = '<span class="none">no preview</span>'
    if thumbnail:
        source = base64.b64encode(thumbnail).decode()
        picture = f'<img src="data:image/jpeg;base64,{source}" alt="{alt or name}" loading="lazy" decoding="async">'
    return _CARD.format(
        kind="card failed" if row.get("status") == "failed" else "card",
        picture=picture,
        caption=caption,
        place=_text(place),
        name=name,
        facts=" · ".join(_facts(row)),
    )


def _facts(row: JsonObject) -> Iterator[str]:
    if row.get("width") and row.get("height"):
        yield f"{_text(row['width'])} × {_text(row['height'])}"
    if row.get("format"):
        yield _text(str(row["format"]).upper())
    if tokens := (row.get("input_tokens") or 0) + (row.get("output_tokens") or 0):
        yield f"{format_tokens(tokens)} tokens"
    if row.get("cost_usd") is not None:
        yield _text(format_usd(row["cost_usd"]))
    if row.get("status") == "succeeded" and row.get("error_code"):
        yield f"<strong>{_text(row['error_code'])}</strong>"
    if isinstance(notes := row.get("notes"), list):
        yield from map(_text, notes)
    if row.get("sentiment") in SENTIMENTS:
        yield f'<span class="{row["sentiment"]}">{row["sentiment"]}</span>'


_STYLE = """
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
header { margin-bottom: clamp(1.25rem, 3vw, 2.5rem) }
h1 { font-size: 1.75rem; font-weight: 650; line-height: 1.25; letter-spacing: -.01em }
header p { margin-top: .25rem; color: var(--quiet) }
main { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)) }
.card {
  display: flex; flex-direction: column; overflow: hidden; background: var(--card); border: 1px solid var(--line);
  border-radius: .75rem; content-visibility: auto; contain-intrinsic-size: auto 25rem;
}
.picture { position: relative; display: grid; place-items: center; aspect-ratio: 4 / 3; background: var(--tile) }
.picture img { position: absolute; width: 100%; height: 100%; object-fit: contain }
.none { color: var(--quiet); font-size: .875rem }
figcaption {
  display: flex; flex: 1; flex-direction: column; justify-content: space-between; gap: .75rem; padding: 1rem;
}
.caption { max-height: 15em; overflow: auto; white-space: pre-wrap; unicode-bidi: isolate }
.name { font-size: .8125rem; font-weight: 600 }
.facts { color: var(--quiet); font-size: .8125rem; font-variant-numeric: tabular-nums }
.failed { border-color: var(--bad) }
.failed strong { color: var(--bad) }
.positive { color: var(--good) }
.negative { color: var(--bad) }
@media print {
  :root {
    color-scheme: light; font-size: 9pt;
    --page: #fff; --card: #fff; --tile: #fff; --line: #bbb; --text: #000; --quiet: #444;
    --bad: #8c1d18; --good: #14532d;
  }
  @page { margin: 12mm }
  body { max-width: none; padding: 0 }
  main { gap: 4mm; grid-template-columns: repeat(3, 1fr) }
  .card { break-inside: avoid; content-visibility: visible }
  .caption { max-height: none; overflow: visible }
}
"""

_POLICY = (
    "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)

_HEAD = """<!doctype html>
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

_CARD = """<figure class="{kind}">
<div class="picture">{picture}</div>
<figcaption>
<p class="caption" dir="auto">{caption}</p>
<div><p class="name" title="{place}"><bdi>{name}</bdi></p><p class="facts">{facts}</p></div>
</figcaption>
</figure>
"""
