"""A model may tell anybody what it has learned, so personal data are pointed out before training.

There are only patterns, tuned for few false alarms: a check digit must fit if there is one. The data are never
returned, shown or sent, only their kind.
"""

import re
from collections.abc import Callable, Iterator

# Every repetition has a bound, so that no text makes the search slow.
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_SECRET = re.compile(
    r"\b(?:sk-[\w-]{20,}|gh[pousr]_\w{30,}|github_pat_\w{30,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}"
    r"|eyJ[\w-]{10,120}\.eyJ[\w-]{10})|-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----"
)
_SECRET_STARTS = re.compile(r"sk-|gh[pousr]_|github_pat_|xox[abprs]-|AKIA|AIza|eyJ|PRIVATE KEY")
_LONG_NUMBER = re.compile(r"\d[\d ().\-]{6,40}\d|\d{2} ?[A-Z]{4}")  # what any of the numbers below begins with
_CARD = re.compile(r"(?<![\w.])[3-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{1,7}(?![\w.]\d)\b")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_PHONE = re.compile(
    r"(?<![\w)+])\+[1-9](?:[ ().\-]{0,2}\d){8,13}(?!\d)"  # +49 171 1234567
    r"|(?<![\w.\-])(?:\(\d{3}\) ?|\d{3}-)\d{3}-\d{4}(?![\d-])"  # (212) 555-0123
    r"|(?<![\w.])0\d{2,4}[ /-]\d{5,8}(?![\d.])"  # 0171 1234567
    r"|(?<![\w.])0\d(?: \d\d){4}(?!\d)"  # 01 23 45 67 89
)


def personal(text: str) -> Iterator[str]:
    """Kinds of personal data that a text seems to hold, each as words in a sentence: "an e-mail address"."""
    if "@" in text and _EMAIL.search(text):
        yield "an e-mail address"
    if _SECRET_STARTS.search(text) and _SECRET.search(text):
        yield "a key or password of a program"
    if _LONG_NUMBER.search(text):
        for kind, pattern, is_true in _NUMBERS:
            if any(is_true(match[0]) for match in pattern.finditer(text)):
                yield kind


def _luhn(number: str) -> bool:
    """The check digit of credit cards, ISO/IEC 7812-1."""
    digits = [int(each) for each in number if each.isdigit()]
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def _mod97(iban: str) -> bool:
    """The check digits of ISO 13616."""
    bare = iban.replace(" ", "")
    digits = "".join(str(int(each, 36)) for each in bare[4:] + bare[:4])
    return 15 <= len(bare) <= 34 and int(digits) % 97 == 1


def _always(_number: str) -> bool:
    return True


_NUMBERS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("a credit card's number", _CARD, _luhn),
    ("a bank account (IBAN)", _IBAN, _mod97),
    ("a phone number", _PHONE, _always),
)
