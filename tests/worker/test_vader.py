"""The lean VADER gives the score of the reference to the last bit, and takes no longer for a hostile text."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vader import SentimentIntensityAnalyzer
from vader import constants as rules
from vader.data.emoji import EMOJI
from vader.data.lexicon import MULTIWORD

from tests.waiting import limit
from tidemill.worker import vader
from tidemill.worker.vader import compound

REFERENCE = SentimentIntensityAnalyzer()

RULES = [
    *(
        "VADER is smart, handsome, and funny!",
        "VADER is VERY SMART, handsome, and FUNNY!!!",
        "It is GREAT",
        "IT IS GREAT",
    ),
    *("not good", "isn’t good", "never so good", "never this very good", "never once good", "without doubt good"),
    *("without a doubt good", "without any good", "no good", "no, really no good", "no pain or hope", "no nor hope"),
    *("kind of good", "a kind of joy", "kind", "sort of really bad", "just enough good", "KINDA good", "VERY bad"),
    *("the least good", "at least good", "very least good", "least", "good but bad", "BUT good", "bad. But, great!"),
    *("the bomb", "what a bus stop", "yeah right", "to die for", "a kiss of death", "my broken heart", "bad ass joke"),
    *("break a leg", "he is under the weather", "in the red but good", "upper hand and hand to mouth, cut the mustard"),
    *(
        "can't stand it",
        "fed up",
        "SCREWED UP, really",
        "not screwed up",
        "good ( '}{' ) bad",
        "( '}{' )",
        "fed up but",
    ),
    *("ok!", "(super)", "#bad", ":)", ":),", ":-)))))", "---", "D:", "good:)", "'", "''", "(:", "8-)", "<3 <33"),
    *("What?", "good??", "good???", "good?????", "good!!!!!!", "?!", "kindly", "kindly so", "not kindly, very kindly"),
    *("😁text", "👩🏽‍🚀 good", "❤️", "1️⃣ good", "1 a\u200dgood 🏽 😡", "é 1 🏽", "caf\u00e9 good \u200d", "🏽", "‍good ™"),
    *("", " ", "\x85good\u2028bad", "\ud800 bad", "\x00good", "İYİ good", "ΑΣ' good", "ß GOOD", "ſ good"),
]


SCORING, SIGNS = [*vader._VALENCES], [*EMOJI]
RULED = [*rules.BOOSTER_DICT, *rules.NEGATE, *rules.SPECIAL_CASES, *rules.SENTIMENT_LADEN_IDIOMS, *MULTIWORD]
PLAIN = [
    *("but", "no", "nor", "or", "least", "at least", "so", "this", "never", "doubt"),
    *("the", "of", "1", "’", "!?"),
]


def words(rng: random.Random) -> str:
    """A few words and signs that VADER has rules for, in any order."""
    pieces = []
    for _ in range(rng.randrange(1, 14)):
        [pool] = rng.choices((SCORING, RULED, PLAIN, SIGNS), (4, 5, 4, 1))
        word = rng.choice(pool)
        word = rng.choice((str.upper, str.capitalize, str, str, str))(word)
        pieces += [rng.choice(("", "", "", "(", "'", "#")), word, rng.choice(("", "", "", "!", ".", "?", "),")), " "]
    return "".join(pieces)


@pytest.mark.parametrize("text", RULES)
def test_each_rule_scores_as_in_the_reference(text: str) -> None:
    assert compound(text) == REFERENCE.polarity_scores(text)["compound"]


def test_thousands_of_sentences_score_as_in_the_reference() -> None:
    rng = random.Random(10)
    sentences = [words(rng) for _ in range(2500)]
    assert {text for text in sentences if compound(text) != REFERENCE.polarity_scores(text)["compound"]} == set()
    assert sum(compound(text) != 0 for text in sentences) > 1200


@settings(deadline=None)
@given(st.text())
def test_any_text_scores_as_in_the_reference(text: str) -> None:
    assert compound(text) == REFERENCE.polarity_scores(text)["compound"]


def test_phrases_never_overlap() -> None:
    """So it does not matter which one is looked for first."""
    members = [word for phrases in vader._PHRASES.values() for phrase, _ in phrases for word in phrase if word != "up"]
    assert len(members) == len(set(members))


@pytest.mark.parametrize(
    "text", ["a", "!", "-", "😀", "👩", "\u200d", "good ", "'}{' ", "can't stand ", "é1", "no ", "İ"]
)
def test_the_time_grows_with_the_length_only(text: str) -> None:
    began = time.thread_time()
    compound(text * (40_000 // len(text)))
    assert time.thread_time() - began < limit(2)  # at most 0.3 s; the reference takes minutes for some of these
