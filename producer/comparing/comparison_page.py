"""Whether another prompt is better is judged by eye, so both answers to each row stand side by side on one page.

The page loads nothing and can be sent to anybody. It runs one script of its own, which sorts and filters the rows;
without it all rows are there. Prompts and replies are hostile text: they are escaped.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tidemill.models.files import replacing
from tidemill.producer.comparing.comparison import Answer, Comparison, Pair, likeness, pieces, table_of_labels
from tidemill.producer.comparing.pairing import Pairs
from tidemill.producer.comparing.side_by_side import figures, matched, sentences, words_of
from tidemill.producer.screen import web_page
from tidemill.producer.screen.web_page import shown

NOUN = "comparison"
MOST_ROWS = 1_000
"""Rows on a page, those that differ most: a browser is slow with more."""
LONGEST_TEXT = 20_000
"""Characters of a prompt or reply that are shown."""


def write(path: str, pairs: Pairs, comparison: Comparison, rows: Iterable[list[Pair]], told: str = "") -> None:
    """Write one HTML page: the figures, then the rows. It appears under its name once it is complete.

    Args:
        path: a name that `web_page.check_destination` takes.
        pairs, comparison: what was compared.
        rows: the pairs to be shown, those that differ most first.
        told: a sentence of the caller's.

    Raises:
        InputError: the page cannot be written.
    """
    try:
        with replacing(Path(path).resolve()) as file:
            title = f"{pairs.batches[0]} beside {pairs.batches[1]}"
            file.write(web_page.opening(title, matched(pairs), _STYLE, _SCRIPT).encode())
            file.write("".join(_summary(pairs, comparison, told)).encode())
            for pair in (pair for page in rows for pair in page):
                file.write("".join(_row(pair)).encode())
            file.write(f"</section>\n<script>{_SCRIPT}</script>\n{web_page.CLOSING}".encode())
    except OSError as error:
        raise web_page.unwritable(path, NOUN, error) from error


def _summary(pairs: Pairs, comparison: Comparison, told: str) -> Iterator[str]:
    a, b = pairs.batches
    lines = "".join(_line(name, cells) for name, *cells in figures(comparison))
    yield f"<section>\n<table>\n{_line('', (f'A · {a}', f'B · {b}', 'B beside A'), 'th')}{lines}</table>\n"
    if comparison.labels:
        labels, counts = table_of_labels(comparison.labels)
        yield "<table>\n<caption>How often each answer of A (a line) met each answer of B (a column)</caption>\n"
        yield _line("", labels, "th")
        yield from (_line(label, row) for label, row in zip(labels, counts, strict=True))
        yield "</table>\n"
    yield "".join(f"<p>{shown(sentence)}</p>\n" for sentence in (*sentences(comparison), told) if sentence)
    more = comparison.pairs - MOST_ROWS
    if more > 0:
        yield f"<p>Below are the {MOST_ROWS:,} rows that differ most; {more:,} more are compared above.</p>\n"
    yield _CONTROLS


def _line(head: str, cells: Iterable[object], tag: str = "td") -> str:
    return f"<tr><th>{shown(head)}</th>{''.join(f'<{tag}>{shown(cell)}</{tag}>' for cell in cells)}</tr>\n"


def _row(pair: Pair) -> Iterator[str]:
    a, b = pair.answers
    alike = likeness(a.text, b.text)
    kinds = [
        name
        for name, holds in (
            ("same", alike.same and alike.similarity is not None),
            ("different", not alike.same),
            ("unanswered", alike.similarity is None),
            ("sentiment", alike.similarity is not None and a.sentiment != b.sentiment),
        )
        if holds
    ]
    characters = sum(len(text or "") for text in (a.text, b.text))
    yield f'<article data-is="{" ".join(kinds)}" data-row="{pair.number}" data-difference="{alike.difference:.6f}" '
    yield f'data-characters="{characters}">\n<h2>row {pair.number:,}'
    yield f" · <bdi>{shown(pair.custom_id)}</bdi>" if pair.custom_id else ""
    yield f" <small>{words_of(alike)}</small></h2>\n"
    asked = pair.asked[:1] if pair.asked[0] == pair.asked[1] else pair.asked
    for label, text in zip(("asked", "asked in B"), asked, strict=False):
        yield f'<details><summary dir="auto">{label}: {shown(" ".join(text[:200].split()))}</summary>'
        yield f'<p class="text" dir="auto">{_cut(text)}</p></details>\n'
    yield '<div class="both">\n'
    yield from _half("A", a, b)
    yield from _half("B", b, a)
    yield "</div>\n</article>\n"


def _half(name: str, answer: Answer, other: Answer) -> Iterator[str]:
    yield f'<div><p class="facts">{name}{"".join(f" · {shown(fact)}" for fact in _facts(answer))}</p>'
    if answer.text is None:
        why = f"{answer.status} {answer.error or answer.error_code or ''}"
        yield f'<p class="text bad" dir="auto">{shown(why)}</p>'
    elif other.text is None:
        yield f'<p class="text" dir="auto">{_cut(answer.text)}</p>'
    else:
        text = answer.text[:LONGEST_TEXT]
        told = ((shown(piece), own) for piece, own in pieces(text, other.text) if piece)
        words = (f"<mark>{piece}</mark>" if own else piece for piece, own in told)
        yield f'<p class="text" dir="auto">{"".join(words)}{"…" if len(answer.text) > len(text) else ""}</p>'
    yield "</div>\n"


def _facts(answer: Answer) -> Iterator[str]:
    if answer.text is None:
        return
    yield f"{len(answer.text):,} characters"
    yield f"{answer.output_tokens:,} tokens"
    if answer.seconds is not None:
        yield f"{answer.seconds:.2f} s"
    if answer.sentiment is not None:
        yield answer.sentiment


def _cut(text: str) -> str:
    return shown(text[:LONGEST_TEXT]) + ("…" if len(text) > LONGEST_TEXT else "")


_CONTROLS = """</section>
<form id="choice" hidden>
<label>Show <select name="is">
<option value="">all rows</option>
<option value="different">different answers</option>
<option value="same">the same answer</option>
<option value="sentiment">another sentiment</option>
<option value="unanswered">without an answer</option>
</select></label>
<label>Sort by <select name="by">
<option value="difference">difference</option>
<option value="row">row</option>
<option value="characters">length</option>
</select></label>
<label>With the words <input name="words" type="search"></label>
<output name="count"></output>
</form>
<section id="rows">
"""

_SCRIPT = """
const form = document.getElementById("choice"), rows = document.getElementById("rows");
const articles = [...rows.children];
function show() {
  const is = form.is.value, by = form.by.value, words = form.words.value.toLowerCase().split(/\\s+/);
  const order = by === "row" ? 1 : -1;
  articles.sort((a, b) => order * (a.dataset[by] - b.dataset[by]) || a.dataset.row - b.dataset.row);
  let count = 0;
  for (const each of articles) {
    const text = each.textContent.toLowerCase();
    each.hidden = !(!is || each.dataset.is.split(" ").includes(is)) || !words.every(word => text.includes(word));
    count += !each.hidden;
  }
  rows.append(...articles);
  form.count.value = count + " rows";
}
form.addEventListener("input", show);
form.addEventListener("submit", event => event.preventDefault());
form.hidden = false;
show();
"""

_STYLE = (
    web_page.STYLE
    + """
header { margin-bottom: 1.5rem }
h1 { font-size: 1.5rem; font-weight: 650; line-height: 1.25 }
header p, caption, small, .facts { color: var(--quiet) }
caption { text-align: left; padding-bottom: .25rem }
section > p { margin: .25rem 0 }
table { border-collapse: collapse; margin-bottom: 1.25rem; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; font-weight: 400; border-bottom: 1px solid var(--line) }
tr:first-child th { font-weight: 600 }
form {
  position: sticky; top: 0; display: flex; flex-wrap: wrap; gap: .5rem 1.25rem; padding: .75rem 0; margin-top: 1rem;
  background: var(--page);
}
form[hidden], article[hidden] { display: none }
select, input { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); padding: .1rem }
article {
  background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1rem; margin-bottom: 1rem;
  content-visibility: auto; contain-intrinsic-size: auto 16rem;
}
h2 { font-size: 1rem; font-weight: 600 }
small { font-weight: 400; margin-left: .5rem }
details { color: var(--quiet); margin: .25rem 0 }
summary { cursor: pointer }
details[open] summary { display: list-item }
.both { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; margin-top: .75rem }
@media (max-width: 45rem) { .both { grid-template-columns: 1fr } }
.facts { font-size: .8125rem }
.text { white-space: pre-wrap; unicode-bidi: isolate; max-height: 30rem; overflow: auto }
.bad { color: var(--bad) }
mark { background: color-mix(in srgb, var(--mark) 30%, transparent); color: inherit; border-radius: .2rem }
:root { --mark: #e0a100 }
@media print { form { display: none } article { break-inside: avoid; content-visibility: visible } }
"""
)
