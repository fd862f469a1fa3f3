"""Two answers agree or differ by rules that a person can check by hand."""

import pytest

from tidemill.producer.comparing.comparison import (
    MOST_LABELS,
    MOST_WORDS,
    Answer,
    Comparison,
    Pair,
    likeness,
    pieces,
    table_of_labels,
    words,
)


@pytest.mark.parametrize(
    ("a", "b", "same", "similarity"),
    [
        ("Yes", "Yes", True, 1.0),
        ("  Yes\n", "yes", True, 1.0),
        ("STRASSE", "straße", True, 1.0),
        ("Yes.", "Yes", False, 1.0),
        ("one two three four five six", "one two three seven", False, 0.6),
        ("the the the", "the", False, 0.5),
        ("3.14", "3,14", False, 0.0),
        ("今日は晴れ", "今日は雨", False, 6 / 9),
        ("", "", True, 1.0),
        ("", "word", False, 0.0),
        ("!!", "??", False, 0.0),
        (None, "word", False, None),
        ("word", None, False, None),
        (None, None, True, None),
    ],
)
def test_how_far_two_answers_agree(a: str | None, b: str | None, same: bool, similarity: float | None) -> None:
    alike = likeness(a, b)
    assert (alike.same, alike.similarity) == (same, None if similarity is None else pytest.approx(similarity))
    assert likeness(b, a) == alike


def test_rows_that_lack_an_answer_differ_most_and_equal_ones_least() -> None:
    pairs = [(None, "x"), ("a b", "c d"), ("a b", "b c"), ("a!", "a"), ("a", "A"), (None, None)]
    differences = [likeness(a, b).difference for a, b in pairs]
    assert differences == sorted(differences, reverse=True)
    assert differences[-3] > differences[-2] == differences[-1] == 0


@pytest.mark.parametrize(
    ("text", "other", "marked"),
    [
        ("The tide is high.", "the tide is low", ["high"]),
        ("no no no", "no", ["no no"]),
        ("one two, three", "two", ["one", "three"]),
        ("one  two\nthree", "four", ["one  two\nthree"]),
        ("<b>bold</b>", "", ["b", "bold", "b"]),
        ("same", "same", []),
        ("...", "word", []),
    ],
)
def test_words_that_the_other_answer_does_not_have_are_marked(text: str, other: str, marked: list[str]) -> None:
    told = list(pieces(text, other))
    assert "".join(piece for piece, _ in told) == text
    assert [piece for piece, own in told if own and piece] == marked


def test_of_long_texts_the_beginning_is_compared() -> None:
    long = "word " * 400_000
    assert len(words(long)) == MOST_WORDS
    assert sum(piece.count("word") for piece, own in pieces(long, "other " * 400_000) if own) == MOST_WORDS
    same_beginning = "word " * MOST_WORDS
    assert likeness(same_beginning + "a", same_beginning + "b").similarity == 1.0


def pair(a: Answer, b: Answer, number: int = 1) -> Pair:
    return Pair(number, None, {}, ("why?", "why?"), (a, b))


def answered(
    reply: str, sentiment: str = "neutral", *, cost_usd: float | None = None, seconds: float | None = None
) -> Answer:
    return Answer("succeeded", reply, sentiment, "m", 10, 5, cost_usd, seconds)


FAILED = Answer("failed", error_code="context_length_exceeded", error="too long")


def test_figures_are_those_of_all_pairs() -> None:
    comparison = Comparison(shown_rows=2)
    rows = [
        pair(answered("yes", "positive", cost_usd=0.1, seconds=1.0), answered("Yes", "positive", cost_usd=0.2)),
        pair(answered("one two", cost_usd=0.1, seconds=2.0), answered("two three", "negative", cost_usd=0.2)),
        pair(answered("one two", cost_usd=0.1, seconds=6.0), answered("four five", cost_usd=None)),
        pair(answered("left", cost_usd=0.1, seconds=2.0), FAILED),
        pair(Answer("queued"), answered("right", cost_usd=0.2)),
    ]
    for each in rows:
        comparison.add(each)
    told = comparison.to_json()
    assert (told["pairs"], told["both_answered"], told["same"], told["sentiments_changed"]) == (5, 3, 1, 1)
    assert told["similarity"] == {"mean": 0.5, "median": 0.5}
    assert told["sentiment_changes"] == [["neutral", "negative", 1]]
    assert told["a"]["cost_usd"] == pytest.approx(0.4)
    assert told["b"]["cost_usd"] is None, "of one row the price is not known"
    assert (told["a"]["succeeded"], told["a"]["open"], told["b"]["failed"]) == (4, 1, 1)
    assert told["b"]["errors"] == {"context_length_exceeded": 1}
    assert told["a"]["seconds"] == {"mean": 2.75, "median": 2.0}
    assert told["a"]["characters"]["median"] == 5.5
    assert comparison.most_different(2) == [3, 4]


def test_equal_answers_are_not_among_those_that_differ_most_unless_all_are_asked_for() -> None:
    comparison = Comparison(shown_rows=10)
    for reply in ("same", "other", "same"):
        comparison.add(pair(answered(reply), answered("same")))
    assert comparison.most_different(10) == [1]
    assert comparison.most_different(10, same=True) == [1, 0, 2]


def test_a_comparison_of_nothing_has_no_figures() -> None:
    told = Comparison().to_json()
    assert (told["similarity"], told["labels"]) == ({"mean": None, "median": None}, [])


@pytest.mark.parametrize(
    ("answers", "labels"),
    [
        ([("Yes", "yes"), ("no", "yes"), ("yes ", "yes")] * 2, {("yes", "yes"): 4, ("no", "yes"): 2}),
        ([("one", "two"), ("three", "four")], {}),  # each comes once: no labels
        ([("yes", "yes")] * 3 + [("yes", "x" * 31)], {}),
        ([(str(n), str(n)) for n in range(MOST_LABELS + 1)] * 3, {}),
    ],
)
def test_few_short_answers_are_labels(answers: list[tuple[str, str]], labels: dict[tuple[str, str], int]) -> None:
    comparison = Comparison()
    for a, b in answers:
        comparison.add(pair(answered(a), answered(b)))
    assert comparison.labels == labels


def test_labels_are_counted_against_each_other() -> None:
    counts = {("yes", "yes"): 2, ("no", "yes"): 1, ("no", "maybe"): 4}
    assert table_of_labels(counts) == (["maybe", "no", "yes"], [[0, 0, 0], [4, 0, 1], [0, 0, 2]])
