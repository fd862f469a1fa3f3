"""Replies are judged as a reader would, in any language or not at all."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.waiting import limit
from tidemill.worker import sentiment
from tidemill.worker.sentiment import Judgement, judge


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This phone is wonderful, I love it.", "positive"),
        ("The battery died after a week. Terrible quality, do not buy.", "negative"),
        ("The capital of France is Paris.", "neutral"),
        ("It is not good.", "negative"),
        ("“Amazing”—truly.", "positive"),
        ("Excellent product", "positive"),
        ("POOR QUALITY", "negative"),
        ("Sure! It has 40 pages. I hope this helps! Let me know if you have any questions.", "neutral"),
        ("Sure! All the passengers were killed in the crash.", "negative"),
        ("The loop ends here.\n```python\nkill(awful_error); raise Terrible()\n```\nRun it with make.", "neutral"),
    ],
)
def test_english_is_judged(text: str, expected: str) -> None:
    [judgement] = judge([text])
    assert (judgement.sentiment, judgement.language) == (expected, "en")
    assert judgement.score is not None
    assert -1 <= judgement.score <= 1


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Leider war der Service schlecht und das Essen kalt.", "de"),
        ("Es tut mir leid.", "de"),
        ("La capitale de la France est Paris.", "fr"),
        ("C'est une excellente question !", "fr"),
        ("El servicio fue terrible y la comida estaba muy mala.", "es"),
        ("Обслуживание было ужасным. Мне очень жаль.", "ru"),
        ("这是一个很好的问题!", "zh"),
        ("はい、そうです。", "ja"),
        ("이 제품을 정말 좋아해요.", "ko"),
        ("أحب هذا المنتج كثيرا.", "ar"),
    ],
)
def test_another_language_is_unknown_and_named(text: str, language: str) -> None:
    assert judge([text]) == [Judgement("unknown", None, language)]


@pytest.mark.parametrize(
    "text", ["", "42", "3.14 * 2 = 6.28", " \n", "```\n1 + 1\n```", '{"a": 1, "b": [true, false]}']
)
def test_text_without_language_is_neutral(text: str) -> None:
    assert judge([text]) == [Judgement("neutral", 0.0, None)]


@pytest.mark.parametrize(
    "text", ["Yes.", "No", "OK", "Paris", "Answer: B", "Washington, D.C.", "Café au lait is lovely."]
)
def test_a_few_latin_letters_are_taken_for_english(text: str) -> None:
    assert judge([text])[0].language == "en"


def test_an_emoji_speaks_every_language() -> None:
    assert judge(["😍"])[0][::2] == ("positive", None)


def test_a_long_answer_is_the_mean_of_its_sentences() -> None:
    """VADER's own score of the whole is 0.99: it only ever adds up."""
    praise, plain = "It is great. ", "The box holds twelve pencils. "
    scores = [judge([praise * 3 + plain * count])[0].score for count in (0, 5, 30)]
    assert [score for score in scores if score is not None] == sorted((s for s in scores if s), reverse=True)
    assert judge([praise * 3 + plain * 30 + "But it failed badly."])[0].score == pytest.approx(0.07, abs=0.05)


def test_the_beginning_and_the_end_of_a_book_are_read() -> None:
    plain = "The box holds twelve pencils. "
    assert judge([plain * 10_000 + "This is a terrible disaster. " * 10])[0].sentiment == "negative"
    assert judge(["What a great joy. " * 10 + plain * 10_000])[0].sentiment == "positive"


@pytest.mark.parametrize("text", ["a", "word ", "great! ", "!", ":)", " ", "`", "\n", "😀", "é", "ж "])
def test_five_megabytes_of_anything_take_no_time(text: str) -> None:
    judge(["warm"])
    start = time.process_time()
    judge([text * (5_000_000 // len(text.encode()))])
    assert time.process_time() - start < limit(3)  # 0.01-0.3 s


WORDS = ["great", "not", "can't stand", "Bad!", "break a leg", "(super)", "no", "kind of", "the", "WOW", "fed up"]
PIECES = st.sampled_from([*WORDS, ":)", ";-(", "’", "…", "ß", "😡", "©", "\u2028", "\ud800", "\x00"])


@settings(deadline=None)
@given(st.text() | st.lists(PIECES, max_size=12).map(" ".join) | st.lists(PIECES, max_size=12).map("".join))
def test_the_shortcut_scores_as_vader_does_and_nothing_raises(text: str) -> None:
    assert sentiment._compound(text) == sentiment.models().analyser.polarity_scores(text)["compound"]
    [judgement] = judge([text])
    assert (judgement.score is None) == (judgement.sentiment == "unknown")
