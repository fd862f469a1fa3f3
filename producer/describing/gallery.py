"""Captions are judged by eye, so all of them go beside their pictures onto one page.

The page loads nothing, runs nothing, and can be sent to anybody. Replies and file names are hostile text: they are
escaped, and cannot change how the page reads around them.
"""

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tidemill.models.cost import format_tokens, format_usd
from tidemill.models.files import replacing
from tidemill.models.json_types import JsonObject
from tidemill.producer.describing.sidecars import caption_of
from tidemill.producer.screen import web_page
from tidemill.producer.screen.web_page import shown

SENTIMENTS = ("positive", "negative", "neutral")
_NOUN = "gallery"
_URL = re.compile(
    r"(?is)(https?://)(?:[^/?#]*@)?([^?#]*).*"
)  # readers of the page must not see passwords and signatures


def check_destination(path: str) -> None:
    """Raise InputError when `path` cannot take a gallery; called before any paid work."""
    web_page.check_destination(path, _NOUN)


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
            file.write(web_page.opening(title, summary, _STYLE).encode())
            for row in (row for chunk in rows for row in chunk):
                file.write(_card(row, str(row.get(path_column) or ""), thumbnail(row)).encode())
                cards += 1
            file.write(web_page.CLOSING.encode())
    except OSError as error:
        raise web_page.unwritable(path, _NOUN, error) from error
    return cards


def _card(row: JsonObject, path: str, thumbnail: bytes | None) -> str:
    succeeded = row.get("status") == "succeeded"
    place = "data: URL" if path.startswith("data:") else _URL.sub(r"\1\2", path)
    name = shown(re.split(r"[/\\]", place)[-1] or place)
    if succeeded:
        alt = caption = shown(caption_of(str(row.get("reply") or "")))
    else:
        alt = name
        caption = (
            f"<strong>{shown(row.get('status'))}</strong> {shown(row.get('error') or row.get('error_code') or '')}"
        )
    picture = '<span class="none">no preview</span>'
    if thumbnail:
        source = base64.b64encode(thumbnail).decode()
        picture = f'<img src="data:image/jpeg;base64,{source}" alt="{alt or name}" loading="lazy" decoding="async">'
    return _CARD.format(
        kind="card failed" if row.get("status") == "failed" else "card",
        picture=picture,
        caption=caption,
        place=shown(place),
        name=name,
        facts=" · ".join(_facts(row)),
    )


def _facts(row: JsonObject) -> Iterator[str]:
    if row.get("width") and row.get("height"):
        yield f"{shown(row['width'])} × {shown(row['height'])}"
    if row.get("format"):
        yield shown(str(row["format"]).upper())
    if tokens := (row.get("input_tokens") or 0) + (row.get("output_tokens") or 0):
        yield f"{format_tokens(tokens)} tokens"
    if row.get("cost_usd") is not None:
        yield shown(format_usd(row["cost_usd"]))
    if row.get("status") == "succeeded" and row.get("error_code"):
        yield f"<strong>{shown(row['error_code'])}</strong>"
    if isinstance(notes := row.get("notes"), list):
        yield from map(shown, notes)
    if row.get("sentiment") in SENTIMENTS:
        yield f'<span class="{row["sentiment"]}">{row["sentiment"]}</span>'


_STYLE = (
    web_page.STYLE
    + """
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
)

_CARD = """<figure class="{kind}">
<div class="picture">{picture}</div>
<figcaption>
<p class="caption" dir="auto">{caption}</p>
<div><p class="name" title="{place}"><bdi>{name}</bdi></p><p class="facts">{facts}</p></div>
</figcaption>
</figure>
"""
