"""VADER's score to the last bit, at a fraction of its cost, since most words of most sentences score nothing.

The rules and word lists are those of the package `vader` (nltk-vader-sentiment; Hutto & Gilbert, ICWSM-14). It holds
every word against every rule, and some of its steps are quadratic in the length of a word. Here only the few words that
score are looked at, and what is around them only where some word of the sentence could change their score. The time is
linear in the length of any text. tests/worker/test_vader.py compares the two.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache

from vader import constants as rules
from vader.data import curated
from vader.data.emoji import EMOJI
from vader.data.lexicon import LEXICON, MULTIWORD

_VALENCES = {**LEXICON, **curated.OVERRIDES, **curated.ADDITIONS}
_BOOSTERS = rules.BOOSTER_DICT
_DECAY = (1.0, rules.DECAY_TWO, rules.DECAY_THREE)
"""How much of a booster is felt one, two and three words later."""
_LONGEST = max(map(len, _VALENCES))

_Phrases = dict[str, list[tuple[list[str], float]]]
"""Last word -> the words of a phrase, its valence."""


def _by_last_word(phrases: dict[str, float]) -> _Phrases:
    by_last: _Phrases = {}
    for phrase, valence in phrases.items():
        words = phrase.split()
        by_last.setdefault(words[-1], []).append((words, valence))
    return by_last


_PHRASES = _by_last_word(MULTIWORD)  # no word is in two of them, so they never overlap
_IDIOMS = _by_last_word(rules.SENTIMENT_LADEN_IDIOMS)
_SCORING = frozenset((*_VALENCES, *_PHRASES, *_IDIOMS))
_SPECIAL_LAST = frozenset(_by_last_word(rules.SPECIAL_CASES))
_BOOSTER_LAST = frozenset(phrase.split()[1] for phrase in _BOOSTERS if " " in phrase)
_PHRASE_LAST = frozenset((*_PHRASES, *_IDIOMS))
_CHANGING = frozenset(
    (
        *("no", "kind", "least", *rules.NEGATE),
        *(max(phrase.split(), key=len) for phrase in (*_BOOSTERS, *rules.SPECIAL_CASES)),
    )
)
"""Without one of these words, and without "n't", a word scores what the lexicon says. One word stands for a phrase."""

_BEFORE = ((-1, 0), (-2, 0), (-2, -1), (-3, -1), (-3, -2))  # the first of them that is a special case counts ...
_AROUND = ((-1, 1), (0, 1), (0, 2))  # ... and the last of these, which goes before it

_EMOJI_START = re.compile(r"[^\x00-\x7f]|[0-9#*](?=\ufe0f?\u20e3)")
_EMOJI_RESIDUE = frozenset("\ufe0e\ufe0f\u200d") | frozenset(map(chr, range(0x1F3FB, 0x1F400)))


def compound(text: str) -> float:
    """VADER's `compound` of a sentence, -1..1; 0.0 if none of its words scores."""
    if not text.isascii():
        text = _describe_emoji(text.replace("’", "'").replace("ʼ", "'").replace("‘", "'"))
    lowered = text.lower()
    words = lowered.split()
    words = [word if word in _VALENCES else word.strip(rules.PUNCTUATION) or _emoticon(word) for word in words]
    if _SCORING.isdisjoint(words):
        return 0.0
    places = [place for place, word in enumerate(words) if word in _SCORING]
    is_changed = "n't" in lowered or not _CHANGING.isdisjoint(words)
    total = sum(_valences(words, places, text.split(), _valence if is_changed else _own_valence))
    emphasis = _emphasis(text) if "!" in text or "?" in text else 0.0
    total += emphasis if total > 0 else -emphasis if total < 0 else 0.0
    return round(max(-1.0, min(1.0, total / math.sqrt(total * total + rules.DEFAULT_ALPHA))), 4)


def _emoticon(word: str) -> str:
    """The emoticon that a word of nothing but punctuation begins with, as in `:),`; else the word."""
    for length in range(min(len(word) - 1, _LONGEST), 0, -1):
        if word[:length] in _VALENCES:
            return word[:length]
    return word


def _valences(
    words: list[str], places: list[int], cased: list[str], value: Callable[[list[str], int, list[bool]], float]
) -> list[float]:
    """The valences of words and phrases in the order in which VADER adds them up: sums of floats depend on it."""
    shouted = [word.isupper() for word in cased]
    if False not in shouted:
        shouted = [False] * len(words)  # where all is in capitals, none stand out
    by_place = {place: value(words, place, shouted) for place in places if words[place] in _VALENCES}
    if "but" not in words and _PHRASE_LAST.isdisjoint(words):  # as in most sentences
        return list(by_place.values())
    for first, length, valence in _occurrences(_PHRASES, words, places):
        for place in range(first, first + length):
            by_place.pop(place, None)
        by_place[first] = _in_context(valence, words, first, shouted)
    if "but" in words:
        but = words.index("but")
        scale = {True: rules.BUT_BEFORE, False: rules.BUT_AFTER}
        by_place = {place: valence * scale[place < but] for place, valence in by_place.items()}
    idioms = sorted(_occurrences(_IDIOMS, words, places), key=lambda each: each[1])
    return [*(by_place[place] for place in sorted(by_place)), *(valence for _, _, valence in idioms)]


def _occurrences(phrases: _Phrases, words: list[str], places: Iterable[int]) -> Iterator[tuple[int, int, float]]:
    """(place, length, valence) of each phrase that ends at one of these places."""
    for place in places:
        for phrase, valence in phrases.get(words[place], ()):
            first = place - len(phrase) + 1
            if first >= 0 and words[first : place + 1] == phrase:
                yield first, len(phrase), valence


def _valence(words: list[str], place: int, shouted: list[bool]) -> float:
    word, following = words[place], words[place + 1] if place + 1 < len(words) else ""
    if word in _BOOSTERS or (word == "kind" and following == "of"):
        return 0.0
    valence = _VALENCES[word]
    if word == "no" and following in _VALENCES:
        valence = 0.0
    if "no" in (before := words[max(0, place - 3) : place]) and (
        "no" in before[-2:] or before[-1] == "or" or before[-1] == "nor"
    ):
        valence = _VALENCES[word] * rules.N_SCALAR
    if shouted[place] and valence:
        valence += math.copysign(rules.C_INCR, valence)
    return _in_context(valence, words, place, shouted)


def _in_context(valence: float, words: list[str], place: int, shouted: list[bool]) -> float:
    """What boosters, negations, idioms and "least" around a place make of its valence."""
    for before in range(place - 1, max(place - 4, -1), -1):
        word = words[before]
        if word in _VALENCES:
            continue
        if (boost := _BOOSTERS.get(word)) is not None:
            boost = -boost if valence < 0 else boost
            if shouted[before] and valence:
                boost += math.copysign(rules.C_INCR, valence)
            valence += boost * _DECAY[place - before - 1]
        if word in rules.NEGATE or word.endswith("n't"):
            valence *= _negation(word, words[before + 1 : place])
    if not _SPECIAL_LAST.isdisjoint(words[max(0, place - 3) : place + 3]):
        valence = _special(valence, words, place)
    for last in (place - 1, place - 2):
        if last > 0 and words[last] in _BOOSTER_LAST:
            valence += _BOOSTERS.get(f"{words[last - 1]} {words[last]}", 0.0)
    if place > 0 and words[place - 1] == "least" and not (place > 1 and words[place - 2] in ("at", "very")):
        valence *= rules.N_SCALAR
    return float(valence)


def _own_valence(words: list[str], place: int, shouted: list[bool]) -> float:
    """What a word scores that nothing around it changes."""
    valence = _VALENCES[words[place]]
    return float(valence + math.copysign(rules.C_INCR, valence) if shouted[place] and valence else valence)


def _negation(word: str, between: list[str]) -> float:
    if word == "never" and ("so" in between or "this" in between):
        return float(rules.NEVER_BOOST)
    return 1.0 if word == "without" and "doubt" in between else float(rules.N_SCALAR)


def _special(valence: float, words: list[str], place: int) -> float:
    def cases(spans: tuple[tuple[int, int], ...]) -> Iterator[float]:
        for first, last in spans:
            if place + first >= 0 and place + last < len(words):
                phrase = " ".join(words[place + first : place + last + 1])
                if phrase in rules.SPECIAL_CASES:
                    yield rules.SPECIAL_CASES[phrase]

    valence = next(cases(_BEFORE), valence)
    for valence in cases(_AROUND):  # noqa: B007  # the last one counts
        pass
    return valence


def _emphasis(text: str) -> float:
    questions = text.count("?")
    asked = 0.0 if questions < 2 else questions * rules.QM_AMPLIFY if questions <= 3 else rules.QM_CAP
    return float(min(text.count("!"), rules.EP_CAP) * rules.EP_AMPLIFY + asked)


# --- emoji, which score by the words that describe them ---


@cache
def _emoji_lengths() -> dict[str, list[int]]:
    """First character -> the lengths of the emoji that begin with it, the longest first."""
    lengths: dict[str, set[int]] = {}
    for emoji in EMOJI:
        lengths.setdefault(emoji[0], set()).add(len(emoji))
    return {first: sorted(each, reverse=True) for first, each in lengths.items()}


def _describe_emoji(text: str) -> str:
    """The text with words for its emoji, and without the invisible characters that join or colour them."""
    lengths = _emoji_lengths()
    if lengths.keys().isdisjoint(text):
        return text
    pieces, done = [], 0
    for match in _EMOJI_START.finditer(text):
        place = match.start()
        if place < done:
            continue
        for length in lengths.get(text[place], ()):
            if (description := EMOJI.get(text[place : place + length])) is not None:
                pieces += [text[done:place], f" {description} "]
                done = place + length
                break
        else:
            if text[place] in _EMOJI_RESIDUE and text[place] not in lengths:
                pieces.append(text[done:place])
                done = place + 1
    return "".join([*pieces, text[done:]])
