"""Some alphabets serve one of the languages that people write to models, so that their letters name it."""

from collections import Counter

_ALPHABETS = (
    *((0x340, 0x400, "el"), (0x500, 0x5C0, "hy"), (0x5C0, 0x600, "he"), (0x1080, 0x1100, "ka")),
    *((0x980, 0xA00, "bn"), (0xA00, 0xA80, "pa"), (0xA80, 0xB00, "gu"), (0xB80, 0xC00, "ta"), (0xC00, 0xC80, "te")),
    *((0xC80, 0xD00, "kn"), (0xD00, 0xD80, "ml"), (0xD80, 0xE00, "si"), (0xE00, 0xE80, "th")),
    *((0x1000, 0x1080, "my"), (0x1780, 0x1800, "km")),
    *((0x3040, 0x3100, "ja"), (0x4E00, 0xA000, "zh"), (0xAC00, 0xD7C0, "ko")),
)
"""First code point, end, ISO 639-1. Latin, Cyrillic, Arabic and Devanagari serve several languages each."""

_BLOCK = 64
_LANGUAGES = {block: name for first, end, name in _ALPHABETS for block in range(first // _BLOCK, end // _BLOCK)}

_SHARE = 0.8
_KANA_SHARE = 0.1
_FEWEST, _FEWEST_HAN = 2, 8
"""Letters; a heading in Japanese may be Han alone."""


def language_of_letters(text: str) -> str | None:
    """The language of a text's letters; None if several have them, or if the text is too short or mixed to say."""
    if text.isascii():
        return None
    letters = Counter(ord(each) // _BLOCK for each in text if each.isalpha())
    counts: Counter[str] = Counter()
    for block, count in letters.items():
        if (language := _LANGUAGES.get(block)) is not None:
            counts[language] += count
    if counts["ja"] >= _KANA_SHARE * (counts["ja"] + counts["zh"]):
        counts["ja"] += counts.pop("zh", 0)
    language, count = counts.most_common(1)[0]
    fewest = _FEWEST_HAN if language == "zh" else _FEWEST
    return language if count >= max(fewest, _SHARE * letters.total()) else None
