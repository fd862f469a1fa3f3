"""Personal data are pointed out by kind, and ordinary numbers are left in peace."""

import pytest

from tidemill.producer.training.personal import personal


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to jane.doe+x@mail.example.co.uk please", "an e-mail address"),
        ("call +49 171 1234567", "a phone number"),
        ("call (212) 555-0123 now", "a phone number"),
        ("call 212-555-0123", "a phone number"),
        ("unter 0171 1234567", "a phone number"),
        ("au 01 23 45 67 89", "a phone number"),
        ("IBAN DE89 3704 0044 0532 0130 00", "a bank account (IBAN)"),
        ("GB82WEST12345698765432", "a bank account (IBAN)"),
        ("card 4111 1111 1111 1111", "a credit card's number"),
        ("card 378282246310005", "a credit card's number"),
        ("key sk-" + "a1B2" * 8, "a key or password of a program"),
        ("AKIA" + "ABCDEFGH12345678", "a key or password of a program"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "a key or password of a program"),
    ],
)
def test_a_pattern_is_known(text: str, kind: str) -> None:
    assert list(personal(text)) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "80,000+50,000=$<<80000+50000=130000>>130,000",
        "card 4111 1111 1111 1112",  # the check digit is wrong
        "DE89 3704 0044 0532 0130 01",
        "order 1234567890123456",
        "on 2026-11-25 12:30:45, version 10.20.30.40",
        "meet @noon, see sk-8 and task-force",
        "3.14159265358979 and 0000 0000 0000 0000",
        "",
    ],
)
def test_what_only_looks_like_it_is_not_taken_for_it(text: str) -> None:
    assert list(personal(text)) == []


@pytest.mark.parametrize("unit", ["a", "1 ", "eyJabc-", "a.", "-----BEGIN ", "4111 ", "AB12 ", "+1(", "sk-"])
def test_no_text_makes_the_search_slow(unit: str) -> None:
    text = "@" + unit * (200_000 // len(unit)) + "@ PRIVATE KEY"
    list(personal(text))  # a quadratic search takes minutes: the test would be ended
