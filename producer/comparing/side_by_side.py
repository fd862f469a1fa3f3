"""A comparison fits a terminal: what it says is a dozen lines, and below them are the rows that differ most."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tidemill.models.cost import format_usd
from tidemill.models.json_types import JsonObject
from tidemill.models.text import one_line
from tidemill.producer.batches.progress import counted
from tidemill.producer.comparing.comparison import Comparison, Likeness, Pair, Side, likeness, table_of_labels
from tidemill.producer.comparing.pairing import NOUNS, SAMPLE, Pairs
from tidemill.producer.screen.printing import print_line, print_table, terminal_width
from tidemill.producer.screen.tables import Column, width_of

JUDGED = ("positive", "neutral", "negative")
_LEAST = 20
_LONGEST_IN_PIPE = 300
"""Characters of a prompt or reply where there is no terminal whose width would say."""


class Figure(NamedTuple):
    """A line of the comparison: what it is, of both batches, and how the second one differs."""

    name: str
    a: str
    b: str
    change: str = ""


FIGURE_COLUMNS = (Column("", 1), Column("A", 2), Column("B", 3), Column("B beside A", 4))


def figures(comparison: Comparison) -> Iterator[Figure]:
    """The lines of the table, for people."""
    a, b = comparison.sides
    yield Figure("model", _models(a), _models(b))
    yield _counts("answered", a.statuses["succeeded"], b.statuses["succeeded"])
    yield _counts("failed", a.statuses["failed"], b.statuses["failed"])
    if _not_ended(a) or _not_ended(b):
        yield _counts("open or cancelled", _not_ended(a), _not_ended(b))
    shown, other = a.to_json(), b.to_json()
    for label, figure, kind in (
        ("characters, mean", "characters", "mean"),
        ("characters, median", "characters", "median"),
        ("output tokens, mean", "output_tokens", "mean"),
        ("seconds, median", "seconds", "median"),
    ):
        yield _numbers(label, shown[figure][kind], other[figure][kind])
    yield Figure(" / ".join(JUDGED), _sentiments(a), _sentiments(b))
    yield Figure("cost", format_usd(a.usd), format_usd(b.usd), _percent(a.usd, b.usd))
    yield Figure("cost of 1,000 such rows", format_usd(_per_thousand(a)), format_usd(_per_thousand(b)))


def _models(side: Side) -> str:
    return ", ".join(name for name, _ in side.models.most_common(3)) or "none"


def _sentiments(side: Side) -> str:
    return " / ".join(f"{side.sentiments[name]:,}" for name in JUDGED)


def _per_thousand(side: Side) -> float | None:
    rows = side.statuses.total()
    return None if side.usd is None or not rows else 1_000 * side.usd / rows


def _not_ended(side: Side) -> int:
    return side.statuses.total() - side.statuses["succeeded"] - side.statuses["failed"]


def _counts(name: str, a: int, b: int) -> Figure:
    return Figure(name, f"{a:,}", f"{b:,}", f"{b - a:+,}" if a != b else "")


def _numbers(name: str, a: float | None, b: float | None) -> Figure:
    return Figure(name, _number(a), _number(b), _percent(a, b))


def _number(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:,.4g}"


def _percent(a: float | None, b: float | None) -> str:
    """How far b is from a; nothing where that is less than half a percent."""
    percent = round(100 * (b - a) / a) if a and b is not None else 0
    return f"{percent:+,} %" if percent else ""


def sentences(comparison: Comparison) -> Iterator[str]:
    """What the figures say about agreement, for people."""
    both = comparison.both_answered
    if not both:
        yield "No row was answered in both, so there is no agreement to speak of."
        return
    mean = comparison.to_json()["similarity"]["mean"]
    yield f"The same answer: {comparison.same:,} of {both:,} ({100 * comparison.same / both:.0f} %)."
    yield f"Similarity: {mean:.2f} on average; 1 means the same words, 0 that no word is in both."
    changed = comparison.changes.total()
    often = ", ".join(f"{rows:,} {a} → {b}" for (a, b), rows in comparison.changes.most_common(3))
    yield f"Another sentiment: {changed:,} of {both:,}" + (f" ({often})." if changed else ".")


def matched(pairs: Pairs) -> str:
    """How rows were matched, for people."""
    compared = f"{counted(len(pairs), 'row')} compared"
    if pairs.way == SAMPLE:
        return f"{compared}, a sample of A."
    only = "".join(
        f"; only {name} has {counted(rows, 'more row')}" for name, rows in zip("AB", pairs.only, strict=True) if rows
    )
    return f"{compared}, matched by {NOUNS[pairs.way]}{only}."


# --- on the terminal ---


def show(pairs: Pairs, comparison: Comparison, most: Iterable[list[Pair]]) -> None:
    """Print the comparison, then the rows that differ most."""
    width = terminal_width(sys.stdout)
    for name, batch in zip("AB", pairs.batches, strict=True):
        print_line(f"{name}: {batch}")
    print_line(matched(pairs))
    print_line("")
    print_table(FIGURE_COLUMNS, list(figures(comparison)))
    print_line("")
    for sentence in sentences(comparison):
        print_line(sentence)
    if comparison.labels:
        labels, counts = table_of_labels(comparison.labels)
        print_line("")
        columns = [Column("A \\ B", 1), *(Column(label or "(empty)", 2 + i) for i, label in enumerate(labels))]
        print_table(columns, [[label or "(empty)", *row] for label, row in zip(labels, counts, strict=True)])
    for pair in (pair for page in most for pair in page):
        for line in _row_lines(pair, width or _LONGEST_IN_PIPE):
            print_line(line)


def _row_lines(pair: Pair, width: int) -> Iterator[str]:
    alike = likeness(*(answer.text for answer in pair.answers))
    name = f"row {pair.number:,}" + (f" ({one_line(pair.custom_id, 40)})" if pair.custom_id else "")
    yield ""
    yield f"{name} · {words_of(alike)}"
    asked = pair.asked[:1] if pair.asked[0] == pair.asked[1] else pair.asked
    for label, text in zip(("asked", "asked in B"), asked, strict=False):
        yield _shortened(f"  {label}: ", text, width)
    for label, answer in zip("AB", pair.answers, strict=True):
        text = answer.text if answer.text is not None else f"({answer.status}) {answer.error or ''}"
        yield _shortened(f"  {label}: ", text, width)


def words_of(alike: Likeness) -> str:
    """How far two answers agree, for people."""
    if alike.similarity is None:
        return "no answer in both" if alike.same else "one answer is missing"
    return "the same" if alike.same else f"similarity {alike.similarity:.2f}"


def _shortened(label: str, text: str, width: int) -> str:
    """A text on a line of its own, cut to the width: in cells, of which Chinese and emoji take two."""
    room = max(_LEAST, width - len(label))
    line = one_line(text, room)
    while width_of(line) > room:
        line = line[: len(line) * room // width_of(line) - 1] + "…"
    return label + line


# --- in files ---

COMPARED = (
    *("status", "reply", "sentiment", "model", "input_tokens", "output_tokens", "cost_usd", "seconds"),
    *("error_code", "error"),
)
"""What a file has of both batches: `a_reply` beside `b_reply`."""


OWN_COLUMNS = (
    *("row", "custom_id", "a_asked", "b_asked", "same", "similarity"),
    *(f"{side}_{name}" for name in COMPARED for side in "ab"),
)


def columns_of_file(inputs: Sequence[str]) -> list[str]:
    """The columns of a file: the input's, what was asked, how the answers agree, and those of both batches."""
    return [*map(_input_name, inputs), *OWN_COLUMNS]


def _input_name(column: str) -> str:
    return f"input_{column}" if column in OWN_COLUMNS else column


def row_of_file(pair: Pair, alike: Likeness) -> JsonObject:
    """A pair as a row of a file, and of the JSON for scripts."""
    similarity = None if alike.similarity is None else round(alike.similarity, 4)
    row: JsonObject = {
        **{_input_name(name): value for name, value in pair.columns.items()},
        "row": pair.number,
        "custom_id": pair.custom_id,
        "a_asked": pair.asked[0],
        "b_asked": pair.asked[1],
        "same": alike.same,
        "similarity": similarity,
    }
    for name in COMPARED:
        for side, answer in zip("ab", pair.answers, strict=True):
            row[f"{side}_{name}"] = getattr(answer, name)
    return row
