"""A model that will not describe a picture says so in prose, as success; that is no caption."""

import re

from tidemill.models.patterns import Pattern
from tidemill.models.text import loads

REFUSAL = "refusal"
"""The error code of an answered job whose answer is a refusal."""
SENTENCE = "The model refuses in words; its answer is kept, and is no caption."

_MOST_CHARACTERS = 1_000
_DEEDS = (
    "help|assist|identify|recognize|recognise|describe|caption|provide|analy[sz]e|process|view|see|comment|comply|"
    "fulfil|fulfill|complete|generate|create|answer|tag|label|do that|do this|engage|discuss|determine|name|share|"
    "continue|support|look at|access|interpret|respond|proceed|make|give|offer|tell|write"
)
_SORRY = r"(?:(?:i(?:'m| am) )?(?:very |so |really )?sorry|(?:i |my )?apolog(?:i[sz]e|ies)|unfortunately)"
_CANNOT = (
    r"(?:can(?:not|'t| not)|could(?: not|n't)|won't|will not|must decline to|(?:am|'m) (?:unable|not able|not allowed|"
    r"not permitted|not comfortable)(?: to| with)?|do(?: not|n't) (?:have the ability to|feel comfortable))"
)
_PATTERNS = (
    rf"{_SORRY}[\s,.;:—–-]*(?:but |that |for [^.,]{{1,40}}[,.] ?(?:but )?)?"
    rf"(?:as an ai[^,]{{0,60}}, )?(?:i|we) ?{_CANNOT}",
    rf"(?:i|we) ?{_CANNOT} (?:\w+ )?(?:{_DEEDS})\b.*\b(?:that|this|it|you|request|image|picture|photo|person|people|"
    r"individual|someone|who|identity|content|features)",
    rf"as an? (?:ai|artificial intelligence|language model)\b[^.]{{0,60}}\bi ?{_CANNOT}",
    r"(?:no, )?i(?:'m| am) (?:not able|unable) to (?:help|assist|identify|describe|view|see)",
    # German, Dutch, Swedish, Danish, Norwegian
    r"(?:es )?tut mir leid,?[^.]{0,20}\bich (?:kann|darf|werde)\b[^.]*\b(?:nicht|keine?n?)\b",
    r"(?:entschuldigung|leider),?[^.]{0,20}\b(?:ich )?(?:kann|darf) (?:ich )?[^.]*\b(?:nicht|keine?n?)\b[^.]*"
    r"\b(?:helfen|identifizieren|beschreiben|weiterhelfen|unterstützen|beantworten)",
    r"ich kann (?:dir |ihnen |euch )?(?:dabei |damit |hierbei |dazu |diese[rsn]? [^.]{0,40})?(?:leider )?nicht "
    r"(?:helfen|behilflich sein|weiterhelfen|identifizieren|beschreiben)",
    r"(?:het spijt me|sorry),? (?:maar )?ik kan\b[^.]*\b(?:niet|geen)\b",
    r"(?:tyvärr|förlåt|jag är ledsen|beklager|desværre|jeg beklager),? (?:men )?(?:kan )?"
    r"(?:jag|jeg)\b[^.]*\b(?:inte|ikke)\b",
    # French, Spanish, Italian, Portuguese
    r"(?:je suis )?(?:vraiment )?désolée?,? (?:mais )?je ne (?:peux|suis)\b|"
    r"je ne (?:peux|suis) pas (?:en mesure|capable|t'aider|vous aider|aider|identifier|décrire)",
    r"(?:lo siento|lamento|disculpa|perdón),? (?:mucho,? )?(?:pero )?no (?:puedo|me es posible)\b|no puedo (?:ayudar|"
    r"identificar|describir|asistir)",
    r"(?:mi dispiace|spiacente|scusa),? (?:ma )?non (?:posso|sono in grado)\b|"
    r"non posso (?:aiutar|identificare|descrivere)",
    r"(?:desculpe|sinto muito|lamento|peço desculpas?),? (?:mas )?(?:eu )?não (?:posso|consigo)\b|não posso (?:ajudar|"
    r"identificar|descrever)",
    # Polish, Russian, Ukrainian, Turkish
    r"(?:przykro mi|przepraszam|niestety),? (?:ale )?nie (?:mogę|jestem w stanie)\b",
    r"(?:извините|простите|к сожалению|прошу прощения),? (?:но )?я не (?:могу|в состоянии)\b|"
    r"я не могу (?:помочь|описать|определить|идентифицировать)",
    r"(?:вибачте|на жаль|перепрошую),? (?:але )?я не (?:можу|маю)\b",
    r"(?:üzgünüm|maalesef|özür dilerim)\b[^.]*\b(?:yardımcı olama|edemem|yapamam|tanımlayama|veremem)",
    # Chinese, Japanese, Korean
    r"(?:很|非常|十分)?(?:抱歉|对不起|對不起|不好意思|遗憾|遺憾)[,，。!！\s]*(?:但)?(?:我|作为|作為|由于|由於)?[^。]{0,30}?"
    r"(?:无法|無法|不能|不可以|没有办法|沒有辦法|没办法)",
    r"(?:申し訳(?:ありません|ございません)|すみません|ごめんなさい|恐れ入りますが)[^。]*[、。]?[^。]*"
    r"(?:できません|できかねます|いたしかねます|お答えできま|お手伝いできま)",
    r"(?:죄송|미안)(?:합니다|하지만|해요)[^.]*\.?[^.]*(?:수 없습니다|없어요|어렵습니다|드릴 수 없)",
)
_REFUSAL = Pattern("|".join(f"(?:{each})" for each in _PATTERNS), re.IGNORECASE | re.DOTALL)


def is_refusal(text: str) -> bool:
    """Whether an answer begins by refusing, in one of the larger languages; in JSON, whether one of its texts does."""
    plain = text.strip().strip("\"'*_` ").replace("\u2019", "'")
    if plain.startswith("{"):
        return any(map(is_refusal, _texts(plain)))
    return len(plain) <= _MOST_CHARACTERS and _REFUSAL.match(plain) is not None


def _texts(text: str) -> list[str]:
    try:
        values = loads(text).values()
    except (ValueError, AttributeError):
        return []
    each = [inner for value in values for inner in (value if isinstance(value, list) else [value])]
    return [value for value in each if isinstance(value, str)]
