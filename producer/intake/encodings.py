"""Text that is not UTF-8 is not guessed but refused, with the name of the encoding that it most likely has.

Wrong advice spoils data: who reads Windows-1252 as Latin-1 gets control characters for quotes and dashes.
"""

from itertools import pairwise
from typing import NamedTuple

SAMPLE_BYTES = 2**16
_FEW = 4


class _Candidate(NamedTuple):
    """An encoding by the name that iconv and Python both know, how people call it, and the letters of its texts."""

    name: str
    shown: str
    letters: str


_WESTERN = "ÿéèàçêüöäßñáíóúâôîûëïœæøåãõìòùÉÈÀÇÊÜÖÄÑÁÍÓÚÅØ’‘“”„–—…•€«»°§£¿¡®©™\u00a0"
_CENTRAL = "łąęśćżźńóáčďéěíňřšťúůýžőűŁŚŻČŘŠŽăâîșțşţ’„”–"
_CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюяёіїєґАБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЭЮЯ«»№–—"
_SINGLE_BYTE = (
    _Candidate("WINDOWS-1252", "Windows-1252", _WESTERN),
    _Candidate("MACINTOSH", "Mac Roman", _WESTERN),
    _Candidate("CP850", "DOS code page 850", _WESTERN),
    _Candidate("WINDOWS-1251", "Windows-1251", _CYRILLIC),
    _Candidate("KOI8-R", "KOI8-R", _CYRILLIC),
    _Candidate("WINDOWS-1250", "Windows-1250", _CENTRAL),
)
_PYTHON_NAMES = {"MACINTOSH": "mac_roman"}


def advice(content: bytes) -> str:
    """What to do with text that is not UTF-8: its likely encoding, and the command that converts it."""
    likely = guess(content)
    if likely is None:
        return "find out its encoding, and convert it with iconv -f ENCODING -t UTF-8"
    name, shown = likely
    return f"if it is {shown}, as it seems, convert it with iconv -f {name} -t UTF-8"


def guess(content: bytes) -> tuple[str, str] | None:
    """The likely encoding of bytes that are not UTF-8: iconv's name and people's; None where nothing fits well."""
    sample = content[:SAMPLE_BYTES]
    high = [place for place, byte in enumerate(sample) if byte >= 0x80]
    if not high:
        return None
    return _asian(sample) or _single_byte(sample)


def _asian(sample: bytes) -> tuple[str, str] | None:
    """Of the encodings of two bytes a character, the one in which the sample is text."""
    for name, shown, share_of in (
        ("CP932", "Shift-JIS", _kana),
        ("EUC-JP", "EUC-JP", _kana),
        ("CP949", "EUC-KR", _hangul),
        ("GB18030", "GBK (GB18030)", _frequent_han),
        ("BIG5", "Big5", _frequent_han),
    ):
        text = _decoded(sample, name)
        if text is None:
            continue
        wide = [each for each in text if each > "\x7f"]
        if len(wide) >= _FEW and sum(map(share_of, wide)) >= 0.6 * len(wide) and _in_runs(text):
            return name, shown
    return None


def _decoded(sample: bytes, name: str) -> str | None:
    """The text, if all of it is in the encoding; the end of the sample may be half a character."""
    for end in (len(sample), len(sample) - 1):
        try:
            return sample[:end].decode(name)
        except UnicodeDecodeError as error:
            if error.start < end - 3:
                return None
    return None


def _in_runs(text: str) -> bool:
    """Whether wide characters stand beside each other, as they do in the languages that are written with them."""
    wide = [place for place, each in enumerate(text) if each > "\x7f"]
    beside = sum(1 for one, next_ in pairwise(wide) if next_ == one + 1)
    return beside >= 0.5 * len(wide)


def _kana(each: str) -> float:
    """Kana count, and what stands between them in Japanese text half as much; half-width ones are rare."""
    if "\u3041" <= each <= "\u30fe":
        return 1.3
    return 0.5 if "\u4e00" <= each <= "\u9fff" or "\u3000" <= each <= "\u303f" or "\uff01" <= each <= "\uff5e" else 0


def _hangul(each: str) -> float:
    return 1.0 if "\uac00" <= each <= "\ud7a3" or each in "、。，？！" else 0


def _frequent_han(each: str) -> float:
    """Of the characters of its first level, which each encoding keeps for the common ones, GB 2312 has half."""
    if each in "，。、；：？！“”‘’（）《》「」…—　":
        return 1.0
    if not "\u4e00" <= each <= "\u9fff":
        return 0.0
    for name, least, most in (("gb2312", 0xB0, 0xD7), ("big5", 0xA4, 0xC6)):
        try:
            lead = each.encode(name)[0]
        except UnicodeEncodeError:
            continue
        if least <= lead <= most:
            return 1.0
    return 0.2


def _single_byte(sample: bytes) -> tuple[str, str] | None:
    """The encoding whose language has the most of the letters that the sample would have in it; the first of equals."""
    scored = [(_score(sample, each), each) for each in _SINGLE_BYTE]
    score, best = max(scored, key=lambda pair: pair[0])
    return (best.name, best.shown) if score > 0 else None


def _score(sample: bytes, candidate: _Candidate) -> float:
    text = sample.decode(_PYTHON_NAMES.get(candidate.name, candidate.name), errors="replace")
    wide = [each for each in text if each > "\x7f"]
    fitting = sum(each in candidate.letters for each in wide) / len(wide)
    undefined = text.count("\ufffd") / len(wide)
    # Letters in the middle of a word are small, which tells Windows-1251 from KOI8-R.
    inside = sum(1 for one, two in pairwise(text) if one.islower() and two > "\x7f" and two.isupper())
    return fitting - 2 * undefined - inside / len(wide)
