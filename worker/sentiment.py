"""Every reply is judged, and what cannot be judged is "unknown" and not "neutral".

Replies are scored with VADER (Hutto & Gilbert, ICWSM-14), an English lexicon with rules. Its `compound` saturates on
long text, so each sentence is scored alone and the scores are averaged. py3langid names the language first. All of it
costs more CPU than the call, so a child process does it (worker/judge.py), which imports this and little else.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier
    from vader import SentimentIntensityAnalyzer

from tidemill.worker.languages import load_identifier

Sentiment = Literal["positive", "negative", "neutral", "unknown"]

THRESHOLD = 0.05  # VADER's own: a score within +-0.05 is neutral

_MAX_SENTENCE = 1_000  # characters; some of VADER's steps are quadratic in the length of one token
_FIRST, _LAST = 40, 20  # an answer's stance is at its beginning and its end; the middle of a book costs seconds
_LANGUAGE_CHARACTERS = 500  # py3langid needs no more, and its cost grows with every byte
_NEUTRAL_SHARE = 0.5  # the weight of a sentence without sentiment, beside one with some
_FOREIGN = 0.45  # probability from which a text in Latin script is believed not to be English ...
_FOREIGN_ODDS = 8.0  # ... if it is also so many times as likely as English
_GUESS = 0.10  # a lower probability names no language; code has a higher one of being none, English text has not

# The languages that people write to language models. All 140 that py3langid knows would find Xhosa in "Terrible."
_LANGUAGES = (
    "ar bg bn ca cs da de el en es et fa fi fr gu he hi hr hu hy id is it ja ka kk km kn ko lt lv mk ml mn mr ms my "
    "ne nl no pa pl pt ro ru si sk sl sq sr sv sw ta te th tl tr uk ur uz vi zh zxx"
)
_COMMON = "de en es fr it ja pt ru zh"  # this many times as likely before a word is read:
_PRIOR = 5
_NO_LANGUAGE = "zxx"  # ISO 639-2: no linguistic content, such as code or JSON

_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+|(?<=[。！？])")
# How assistants begin and end any answer. Only their manners are positive; see "Sure! All 40 were killed."
_COURTESY = re.compile(
    r"(?:sure|of course|certainly|absolutely|(?:great|good|excellent) question|(?:i'd be |i'm )?(?:happy|glad) to help"
    r"|(?:i )?hope (?:this|that) helps|(?:please )?(?:let me know|feel free)\b.{0,80})[^\w\s]*$",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[^\W\d_]")
_BEYOND_LATIN = re.compile(r"[^\x00-\x7f\u00c0-\u024f]")  # may contain emoji, which the shortcut below does not know
_TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "—": " - ", "–": " - "})  # VADER strips ASCII only


class Judgement(NamedTuple):
    """The sentiment and language of one reply.

    `score` is in -1..1, and None when the sentiment is "unknown". `language` is an ISO 639-1 code, or None when the
    text has no language ("42", code) or none that could be named.
    """

    sentiment: Sentiment
    score: float | None
    language: str | None


UNJUDGEABLE = Judgement("unknown", None, None)


class Models(NamedTuple):
    """VADER's analyser, the words that can make it score a sentence, and py3langid's identifier."""

    analyser: "SentimentIntensityAnalyzer"
    scoring_words: frozenset[str]
    identifier: "LanguageIdentifier"


@cache
def models() -> Models:
    """Load both models, once a process."""
    from vader import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()
    identifier = load_identifier()
    identifier.set_languages(_LANGUAGES.split())
    phrases = (*analyser.multiword, *analyser.idioms)
    return Models(analyser, frozenset(analyser.lexicon) | {phrase.split()[0] for phrase in phrases}, identifier)


def judge(texts: Sequence[str]) -> list[Judgement]:
    """Judge each text, in this process and in order; about 0.3 ms for 190 characters.

    Any string is accepted, of any length: time grows with the length only up to some 60 sentences.
    """
    return [_judge_one(text) for text in texts]


def _judge_one(text: str) -> Judgement:
    prose = _prose(text)
    if _LETTER.search(prose) is None:
        return _verdict(_score(prose), None)  # "42" has no sentiment and no language; an emoji may have the first
    language = _language(prose[:_LANGUAGE_CHARACTERS])
    if language == "en":
        return _verdict(_score(prose), "en")
    if language == _NO_LANGUAGE:
        return Judgement("neutral", 0.0, None)
    return Judgement("unknown", None, language)


def _verdict(score: float, language: str | None) -> Judgement:
    if abs(score) < THRESHOLD:
        return Judgement("neutral", score, language)
    return Judgement("positive" if score > 0 else "negative", score, language)


def _prose(text: str) -> str:
    """The text without fenced code, whose `kill` and `error` are no sentiment; with it if there is nothing else."""
    prose = "\n".join(text.split("```")[::2]) if "```" in text else text
    return (prose if prose.strip() else text).translate(_TYPOGRAPHY).strip()


def _language(text: str) -> str | None:
    """The likeliest language of a text that has letters; English when Latin script gives no clear answer.

    Short English replies ("Yes.", "Excellent phone") look like twenty languages at once to py3langid, each with a
    tenth of the probability. Real sentences of another language stand out even when they are short.
    """
    odds: dict[str, float] = {
        code: share * (_PRIOR if code in _COMMON else 1) for code, share in models().identifier.rank(text)
    }
    total = sum(odds.values())
    best = max(odds, key=odds.__getitem__)
    share = odds[best] / total
    if best == _NO_LANGUAGE or not _is_latin(text):
        return best if share >= _GUESS and best != "en" else None
    if share >= _FOREIGN and odds[best] >= _FOREIGN_ODDS * odds["en"]:
        return best
    return "en"


def _is_latin(text: str) -> bool:
    if text.isascii():
        return True
    letters = [character for character in text if character.isalpha()]
    return 2 * sum(character <= "\u024f" for character in letters) >= len(letters)


def _score(text: str) -> float:
    """The mean of the sentences' scores, -1..1; those without sentiment weigh half, mere courtesies nothing.

    At full weight, explanations would hide a clear verdict; at none, one phrase would decide for a whole page.
    """
    sentences = list(_sentences(text))
    counted = [sentence for sentence in sentences if _COURTESY.match(sentence) is None] or sentences
    compounds = [compound for compound in map(_compound, counted) if compound]
    weight = len(compounds) + _NEUTRAL_SHARE * (len(counted) - len(compounds))
    return round(sum(compounds) / weight, 4) if compounds else 0.0


def _sentences(text: str) -> Iterable[str]:
    """The first 40 and the last 20 sentences, each cut at 1,000 characters; time is bounded for any text."""
    limit = (_FIRST + _LAST) * _MAX_SENTENCE
    if len(text) <= limit:
        parts = [part for part in _SENTENCE_END.split(text) if part]
        return (part[:_MAX_SENTENCE] for part in (parts if len(parts) <= _FIRST + _LAST else _ends(parts, parts)))
    head, tail = text[: _FIRST * _MAX_SENTENCE], text[-_LAST * _MAX_SENTENCE :]
    return (part[:_MAX_SENTENCE] for part in _ends(*([p for p in _SENTENCE_END.split(t) if p] for t in (head, tail))))


def _ends(first: list[str], last: list[str]) -> list[str]:
    return first[:_FIRST] + last[-_LAST:]


def _compound(sentence: str) -> float:
    """VADER's score of one sentence, -1..1; 0.0 at once if no word can score, as in most sentences."""
    analyser, scoring_words, _ = models()
    if _BEYOND_LATIN.search(sentence) is None:
        tokens = sentence.lower().split()
        if scoring_words.isdisjoint(tokens) and not any(_may_score(token, scoring_words) for token in tokens):
            return 0.0
    return float(analyser.polarity_scores(sentence)["compound"])


def _may_score(token: str, scoring_words: frozenset[str]) -> bool:
    if token.isalnum():
        return False  # was looked up already
    bare = token.strip("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return bare in scoring_words if bare else len(token) > 1  # only punctuation: maybe an emoticon
