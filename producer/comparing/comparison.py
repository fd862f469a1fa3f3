"""How far two answers to one question agree is a number that can be explained; nothing here reads or writes anything.

Two answers are the same if they differ in white space and case at most. Their similarity is the share of their words
that both have: of 6 and 4 words with 3 in common it is 2 × 3 / 10. It takes time in proportion to the texts' length.
"""

import heapq
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean, median
from typing import NamedTuple

from tidemill.models.json_types import JsonObject
from tidemill.models.money import COST_PLACES

MOST_WORDS = 5_000
"""Words of a text that are compared; what comes behind them does not count."""
MOST_LABELS, LONGEST_LABEL = 10, 30
"""Answers that are few and short are labels, and are counted against each other."""
NOT_JUDGED = "not judged"

_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+(?:[.,'’][^\W_]+)*")
"""A word or number; where words are not written apart (Thai, Chinese, Japanese), a character."""


class Answer(NamedTuple):
    """What is compared of a row; `seconds` is how long the call took that was answered."""

    status: str
    reply: str | None = None
    sentiment: str | None = None
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    seconds: float | None = None
    error_code: str | None = None
    error: str | None = None

    @property
    def text(self) -> str | None:
        """The reply; None where there is none."""
        return (self.reply or "") if self.status == "succeeded" else None


class Pair(NamedTuple):
    """A row of two batches: its number in the first one, its id, columns, what each asked and how it was answered."""

    number: int
    custom_id: str | None
    columns: JsonObject
    asked: tuple[str, str]
    answers: tuple[Answer, Answer]


class Likeness(NamedTuple):
    """How far two answers agree. `similarity` is from 0 to 1; None where one of them is missing."""

    same: bool
    similarity: float | None

    @property
    def difference(self) -> float:
        """What rows are sorted by: 2 where one answer is missing, else 1 - similarity, a little more if not the same.

        Where both are missing there is nothing to look at: 0.
        """
        if self.similarity is None:
            return 0.0 if self.same else 2.0
        return 0.0 if self.same else 1.0 - self.similarity + 1e-6


def likeness(a: str | None, b: str | None) -> Likeness:
    """Compare two answers; None is a missing one."""
    if a is None or b is None:
        return Likeness(same=a is b, similarity=None)
    if a == b or normalised(a) == normalised(b):
        return Likeness(same=True, similarity=1.0)
    return Likeness(same=False, similarity=similarity(words(a), words(b)))


def normalised(text: str) -> str:
    """A text without differences in white space and case."""
    return " ".join(text.split()).casefold()


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return [match[0].casefold() for match in islice(_WORD.finditer(text), MOST_WORDS)]


def similarity(a: Sequence[str], b: Sequence[str]) -> float:
    """The share of words that both have, each as often as it comes in both (Dice's coefficient); 0 without words."""
    return 2 * (Counter(a) & Counter(b)).total() / (len(a) + len(b)) if a or b else 0.0


def pieces(text: str, other: str) -> Iterator[tuple[str, bool]]:
    """A text in pieces, and of each whether it is words that the other text does not have: what similarity misses."""
    left = Counter(words(other))
    end, run = 0, slice(0, 0)
    for match in islice(_WORD.finditer(text), MOST_WORDS):
        word = match[0].casefold()
        if left[word]:
            left[word] -= 1
        elif text[run.stop : match.start()].isspace() and text[run]:
            run = slice(run.start, match.end())
        else:
            yield text[end : run.start], False
            yield text[run], True
            end, run = run.stop, slice(*match.span())
    yield text[end : run.start], False
    yield text[run], True
    yield text[run.stop :], False


@dataclass(slots=True)
class Side:
    """The figures of one of two batches, over the rows that both have."""

    statuses: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    sentiments: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    characters: "array[int]" = field(default_factory=lambda: array("L"))
    output_tokens: "array[int]" = field(default_factory=lambda: array("L"))
    seconds: "array[float]" = field(default_factory=lambda: array("f"))
    input_tokens: int = 0
    priced: int = 0
    unpriced: int = 0
    cost_usd: float = 0.0

    def add(self, answer: Answer) -> None:
        """Count a row."""
        self.statuses[answer.status] += 1
        self.input_tokens += answer.input_tokens
        if answer.cost_usd is not None:
            self.priced += 1
            self.cost_usd += answer.cost_usd
        elif answer.input_tokens or answer.output_tokens:
            self.unpriced += 1
        if answer.status == "failed":
            self.errors[answer.error_code or "unknown"] += 1
        if answer.text is None:
            return
        self.models[answer.model or "unknown"] += 1
        self.sentiments[answer.sentiment or NOT_JUDGED] += 1
        self.characters.append(len(answer.text))
        self.output_tokens.append(answer.output_tokens)
        if answer.seconds is not None:
            self.seconds.append(answer.seconds)

    @property
    def usd(self) -> float | None:
        """What the rows cost; None where that is not known of all."""
        return None if self.unpriced else round(self.cost_usd, COST_PLACES)

    def to_json(self) -> JsonObject:
        """For scripts."""
        rows = self.statuses.total()
        ended = {state: self.statuses[state] for state in ("succeeded", "failed", "cancelled")}
        return {
            "rows": rows,
            **ended,
            "open": rows - sum(ended.values()),
            "errors": dict(self.errors.most_common()),
            "models": dict(self.models.most_common()),
            "sentiments": dict(self.sentiments.most_common()),
            "characters": _summary(self.characters),
            "output_tokens": {**_summary(self.output_tokens), "sum": sum(self.output_tokens)},
            "input_tokens": {"sum": self.input_tokens},
            "seconds": _summary(self.seconds),
            "cost_usd": self.usd,
        }


def _summary(figures: "array[int] | array[float]") -> JsonObject:
    if not figures:
        return {"mean": None, "median": None}
    return {"mean": round(fmean(figures), 3), "median": round(median(figures), 3)}


@dataclass(slots=True)
class Comparison:
    """The figures of two batches, counted pair by pair; of a pair memory keeps a few numbers."""

    shown_rows: int = 10
    """The places of how many pairs are remembered, those that differ most."""
    sides: tuple[Side, Side] = field(default_factory=lambda: (Side(), Side()))
    pairs: int = 0
    same: int = 0
    similarities: "array[float]" = field(default_factory=lambda: array("f"))
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a sentiment became another: (before, after)."""
    _labels: Counter[tuple[str, str]] | None = field(default_factory=Counter)
    _most: list[tuple[float, int]] = field(default_factory=list)

    def add(self, pair: Pair) -> Likeness:
        """Count a pair; pairs come in their order."""
        a, b = pair.answers
        self.sides[0].add(a)
        self.sides[1].add(b)
        alike = likeness(a.text, b.text)
        if self.shown_rows:
            place = (alike.difference, -self.pairs)
            (heapq.heappush if len(self._most) < self.shown_rows else heapq.heappushpop)(self._most, place)
        self.pairs += 1
        if a.text is not None and b.text is not None and alike.similarity is not None:
            self.same += alike.same
            self.similarities.append(alike.similarity)
            if a.sentiment != b.sentiment:
                self.changes[a.sentiment or NOT_JUDGED, b.sentiment or NOT_JUDGED] += 1
            self._count_labels(a.text, b.text)
        return alike

    def _count_labels(self, a: str, b: str) -> None:
        if self._labels is None:
            return
        if max(len(a), len(b)) > 2 * LONGEST_LABEL:
            self._labels = None
            return
        pair = normalised(a), normalised(b)
        self._labels[pair] += 1
        if max(map(len, pair)) > LONGEST_LABEL or len(_labels_in(self._labels)) > MOST_LABELS:
            self._labels = None

    @property
    def both_answered(self) -> int:
        """Pairs of which both have an answer."""
        return len(self.similarities)

    @property
    def labels(self) -> dict[tuple[str, str], int]:
        """How often a label of the first batch met one of the second; empty where answers are no labels.

        They are if there are few different ones, all short, and each comes twice on average.
        """
        counts = self._labels or Counter[tuple[str, str]]()
        return dict(counts) if 2 * len(_labels_in(counts)) <= self.both_answered else {}

    def most_different(self, rows: int, *, same: bool = False) -> list[int]:
        """The places of the pairs that differ most, the most different first; with `same`, also of equal answers."""
        most = sorted(self._most, reverse=True)[:rows]
        return [-place for difference, place in most if same or difference]

    def to_json(self) -> JsonObject:
        """All figures, for scripts."""
        of_similarity = _summary(self.similarities)
        return {
            "pairs": self.pairs,
            "a": self.sides[0].to_json(),
            "b": self.sides[1].to_json(),
            "both_answered": self.both_answered,
            "same": self.same,
            "similarity": of_similarity,
            "sentiments_changed": self.changes.total(),
            "sentiment_changes": [[*pair, rows] for pair, rows in self.changes.most_common()],
            "labels": [[*pair, rows] for pair, rows in sorted(self.labels.items())],
        }


def _labels_in(counts: Mapping[tuple[str, str], int]) -> list[str]:
    return sorted({label for pair in counts for label in pair})


def table_of_labels(counts: Mapping[tuple[str, str], int]) -> tuple[list[str], list[list[int]]]:
    """The labels in order, and how often each of the first batch (a row) met each of the second (a column)."""
    labels = _labels_in(counts)
    return labels, [[counts.get((a, b), 0) for b in labels] for a in labels]
