"""Every reply is judged, and what cannot be judged is "unknown" and not "neutral".

English is scored with VADER (Hutto & Gilbert, ICWSM-14), a lexicon with rules (worker/vader.py). Its `compound`
saturates on long text, so each sentence is scored alone and the scores are averaged. What language a reply is in, its
alphabet or its commonest words mostly say (worker/alphabets.py, worker/english.py): `judge_now` judges such a reply in
less time than its row takes to be stored. The rest is in doubt, and py3langid is asked, in a child (worker/judge.py),
because it takes long to load.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from tidemill.worker.alphabets import language_of_letters
from tidemill.worker.english import is_english

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

Sentiment = Literal["positive", "negative", "neutral", "unknown"]

THRESHOLD = 0.05  # VADER's own: a score within +-0.05 is neutral

_LONGEST_AT_ONCE = 10_000  # characters; even of emoji alone, which take longest, a tenth of a second
_MAX_SENTENCE = 1_000  # characters
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

_FULL_WIDTH_END = re.compile(r"[。！？]")  # as in Chinese
# Beginning with white space, it is looked for there only, and not at each character.
_SENTENCE_END = re.compile(r"\s(?:(?<=[.!?…]\s)\s*|(?<=\n)\n*)")
# How assistants begin and end any answer. Only their manners are positive; see "Sure! All 40 were killed."
_COURTESY = re.compile(
    r"(?:sure|of course|certainly|absolutely|(?:great|good|excellent) question|(?:i'd be |i'm )?(?:happy|glad) to help"
    r"|(?:i )?hope (?:this|that) helps|(?:please )?(?:let me know|feel free)\b.{0,80})[^\w\s]*$",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[^\W\d_]")
_TYPOGRAPHY = {"’": "'", "‘": "'", "“": '"', "”": '"', "—": " - ", "–": " - "}  # VADER strips ASCII only


class Judgement(NamedTuple):
    """The sentiment and language of one reply.

    `score` is in -1..1, and None when the sentiment is "unknown". `language` is an ISO 639-1 code, or None when the
    text has no language ("42", code) or none that could be named.
    """

    sentiment: Sentiment
    score: float | None
    language: str | None


UNJUDGEABLE = Judgement("unknown", None, None)


@cache
def identifier() -> "LanguageIdentifier":
    """py3langid's identifier, loaded once a process."""
    from tidemill.worker.languages import load_identifier

    loaded = load_identifier()
    loaded.set_languages(_LANGUAGES.split())
    return loaded


def load_words() -> None:
    """Read VADER's word lists, some 10 ms, in time for the first reply."""
    import tidemill.worker.vader  # noqa: F401


def judge_now(text: str) -> Judgement | None:
    """Judge a text if that is cheap, some 50 us for 190 characters; None if its language is in doubt, or it is long.

    Any string is accepted; the time is bounded.
    """
    if len(text) > _LONGEST_AT_ONCE:
        return None
    prose = _prose(text)
    if _LETTER.search(prose) is None:
        return _without_language(prose)
    language = _certain_language(prose[:_LANGUAGE_CHARACTERS])
    return None if language is None else _in_language(prose, language)


def judge(texts: Sequence[str]) -> list[Judgement]:
    """Judge each text, in this process and in order; some 0.3 ms each, where py3langid is asked.

    Any string is accepted, of any length: time grows with the length only up to some 60 sentences.
    """
    return [_judge_one(text) for text in texts]


def _judge_one(text: str) -> Judgement:
    prose = _prose(text)
    if _LETTER.search(prose) is None:
        return _without_language(prose)
    beginning = prose[:_LANGUAGE_CHARACTERS]
    return _in_language(prose, _certain_language(beginning) or _likeliest_language(beginning))


def _without_language(prose: str) -> Judgement:
    """ "42" has no sentiment and no language; an emoji may have the first."""
    return _verdict(_score(prose), None)


def _in_language(prose: str, language: str | None) -> Judgement:
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
    prose = prose if prose.strip() else text
    if not prose.isascii():
        for sign, plain in _TYPOGRAPHY.items():
            prose = prose.replace(sign, plain)
    return prose.strip()


def _certain_language(text: str) -> str | None:
    """The language of a text that has letters, where they or its words leave no doubt; else None."""
    return "en" if is_english(text) else language_of_letters(text)


def _likeliest_language(text: str) -> str | None:
    """The likeliest language of a text that has letters; English when Latin script gives no clear answer.

    Short English replies ("Yes.", "Excellent phone") look like twenty languages at once to py3langid, each with a
    tenth of the probability. Real sentences of another language stand out even when they are short.
    """
    odds: dict[str, float] = {
        code: share * (_PRIOR if code in _COMMON else 1) for code, share in identifier().rank(text)
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
    from tidemill.worker.vader import compound

    sentences = _sentences(text)
    counted = [sentence for sentence in sentences if _COURTESY.match(sentence) is None] or sentences
    compounds = [each for each in map(compound, counted) if each]
    weight = len(compounds) + _NEUTRAL_SHARE * (len(counted) - len(compounds))
    return round(sum(compounds) / weight, 4) if compounds else 0.0


def _sentences(text: str) -> list[str]:
    """The first 40 and the last 20 sentences, each cut at 1,000 characters; time is bounded for any text."""
    limit = (_FIRST + _LAST) * _MAX_SENTENCE
    if len(text) <= limit:
        parts = _split(text)
        return [part[:_MAX_SENTENCE] for part in (parts if len(parts) <= _FIRST + _LAST else _ends(parts, parts))]
    head, tail = text[: _FIRST * _MAX_SENTENCE], text[-_LAST * _MAX_SENTENCE :]
    return [part[:_MAX_SENTENCE] for part in _ends(_split(head), _split(tail))]


def _split(text: str) -> list[str]:
    if not text.isascii():
        text = _FULL_WIDTH_END.sub(r"\g<0>\n", text)
    return [part for part in _SENTENCE_END.split(text) if part]


def _ends(first: list[str], last: list[str]) -> list[str]:
    return first[:_FIRST] + last[-_LAST:]
