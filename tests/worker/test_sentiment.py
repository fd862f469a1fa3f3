"""Replies are judged as a reader would, in any language or not at all."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.waiting import limit
from tidemill.worker import sentiment
from tidemill.worker.sentiment import Judgement, judge, judge_now, load_words


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


HOSTILE = ["a", "word ", "great! ", "!", ":)", " ", "`", "\n", "😀", "é", "ж ", "the ", "let me know", "👩"]


@pytest.mark.parametrize("text", HOSTILE)
def test_five_megabytes_of_anything_are_judged(text: str) -> None:
    """What takes time with the square of their length would never end."""
    assert len(judge([text * (5_000_000 // len(text.encode()))])) == 1


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("characters", [9_990, 10_000_000])
def test_no_text_stops_the_writer_for_long(text: str, characters: int) -> None:
    load_words()
    start = time.thread_time()
    judge_now(text * (characters // len(text)))
    assert time.thread_time() - start < limit(0.5)  # at most 0.1 s, for emoji


@settings(deadline=None, max_examples=50)
@given(
    st.text() | st.lists(st.sampled_from(["great", "Bad!", "the", "😡", "é", "はい", "\ud800", "\x00"])).map(" ".join)
)
def test_any_text_is_judged_and_at_once_as_later(text: str) -> None:
    [judgement] = judge([text])
    assert (judgement.score is None) == (judgement.sentiment == "unknown")
    assert judge_now(text) in (None, judgement)


@pytest.mark.parametrize(
    "text",
    [
        "The capital of France is Paris.",
        "Yes.",
        "It is 42 km from here.",
        "POOR QUALITY",
        "I'm sorry, but I can't help with that request.",
        "Thank you for your question! Photosynthesis is how plants use the light of the sun to make sugar.",
        "**Step 1:** Preheat the oven to 180 °C.\n**Step 2:** Mix the flour with the eggs, and add some salt.",
        "Janet sells 16 - 3 - 4 = 9 eggs a day.\nShe makes 9 * 2 = $18 every day at the market.\n#### 18",
        "Chopin’s “Raindrop” prelude was written in 1838, when he and George Sand were staying on Majorca.",
    ],
)
def test_english_is_judged_at_once_and_as_py3langid_says(text: str) -> None:
    judgement = judge_now(text)
    assert judgement is not None
    assert judgement.language == sentiment._likeliest_language(text) == "en"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("これは本です。", "ja"),
        ("这是一个很好的问题, 谢谢你。", "zh"),
        ("이 제품을 정말 좋아해요.", "ko"),
        ("Αυτή είναι μια καλή ερώτηση.", "el"),
        ("זו שאלה טובה.", "he"),
        ("นี่เป็นคำถามที่ดี", "th"),
        ("ეს კარგი კითხვაა.", "ka"),
        ("Սա լավ հարց է։", "hy"),
    ],
)
def test_an_alphabet_of_one_language_names_it(text: str, language: str) -> None:
    assert judge_now(text) == Judgement("unknown", None, language) == judge([text])[0]
    assert sentiment._likeliest_language(text) == language


@pytest.mark.parametrize(
    "text",
    [
        *("Es tut mir leid.", "La capitale de la France est Paris.", "No, creo que no.", "Het is een goede vraag."),
        *("Daar was 9 rolprente in 1978.", "Tre kampar vart spela her under fotball VM i 1974.", "Ini adalah buku."),
        *("Ndiyo, asante sana.", "Oo, salamat po.", "Det var under krigen.", "Sim, por favor.", "È un film super."),
        *("Обслуживание было ужасным.", "أحب هذا المنتج كثيرا.", "यह एक अच्छा सवाल है।", "東京", "é", "x"),
        'Sure! Here is the translation: "Vous avez choisi un très beau cadeau pour votre mère."',
        "The answer is: Ich habe leider keine Ahnung, wovon du da sprichst.",
        '{"the": ["and", 1], "with_a_key_that_is_longer_than_any_word": null}',
        "import os\nprint(os.environ['HOME'])",
    ],
)
def test_what_is_in_doubt_is_not_judged_at_once(text: str) -> None:
    assert judge_now(text) is None
