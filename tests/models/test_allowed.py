"""A value that would only break at the provider is refused where it is said, with a sentence that says what to do."""

from typing import Any

import pytest

from tidemill.models.allowed import ALLOWED, check_names, check_values
from tidemill.models.errors import OptionError, SettingsError

GOOD: dict[str, list[Any]] = {
    "model": ["gpt-6-luna", "ft:gpt-4.1-mini:acme::7p4l", "x" * 200],
    "system": ["", "Be\nkind."],
    "temperature": [0, 2, 0.5],
    "max_tokens": [1, 10**9],
    "reasoning_effort": ["none", "xhigh"],
    "params": [{}, {"stop": ["\n"], "seed": None}],
    "schema": [{"type": "object"}, {}],
    "endpoint": ["chat", "responses"],
    "transport": ["sdk", "http"],
    "rpm": [1],
    "tpm": [1],
    "trim": ["oldest"],
    "prompt": ["What is {name}?"],
    "detail": ["auto", "low", "high", "original"],
    "max_side": [32, 16_384],
    "limit": [1],
    "priority": [-5, 0, 5],
    "window": [1, 10_000],
}

BAD: list[tuple[str, Any, str]] = [
    ("model", "", "model='': it must be 1 to 200 printable characters."),
    ("model", 7, "model=7: it must be 1 to 200 printable characters."),
    ("model", "a\nb", r"model='a\nb': it must be 1 to 200 printable characters."),
    ("system", 7, "system=7: it must be text."),
    ("temperature", 3, "temperature=3: it must be a number from 0 to 2."),
    ("temperature", "hot", "temperature='hot': it must be a number from 0 to 2."),
    ("temperature", float("nan"), "temperature=nan: it must be a number from 0 to 2."),
    ("temperature", True, "temperature=True: it must be a number from 0 to 2."),
    ("max_tokens", 0, "max_tokens=0: it must be a whole number, 1 or more."),
    ("max_tokens", 1.5, "max_tokens=1.5: it must be a whole number, 1 or more."),
    ("max_tokens", True, "max_tokens=True: it must be a whole number, 1 or more."),
    ("reasoning_effort", 1, "reasoning_effort=1: it must be 1 to 200 printable characters."),
    ("params", ["seed"], "params=['seed']: it must be a JSON object."),
    ("params", {"seed": float("nan")}, "params={'seed': nan}: it must be a JSON object."),
    ("params", {1: 2}, "params={1: 2}: it must be a JSON object."),
    ("schema", "object", "schema='object': it must be a JSON object."),
    ("endpoint", "foo", "endpoint='foo': it must be 'chat' or 'responses'."),
    ("endpoint", ["chat"], "endpoint=['chat']: it must be 'chat' or 'responses'."),
    ("transport", "pigeon", "transport='pigeon': it must be 'sdk' or 'http'."),
    ("rpm", 0, "rpm=0: it must be a whole number, 1 or more."),
    ("tpm", -1, "tpm=-1: it must be a whole number, 1 or more."),
    ("trim", "newest", "trim='newest': it must be 'oldest'."),
    ("prompt", 7, "prompt=7: it must be text."),
    ("detail", "much", "detail='much': it must be 'auto', 'low', 'high' or 'original'."),
    ("max_side", 31, "max_side=31: it must be a whole number from 32 to 16384."),
    ("limit", 0, "limit=0: it must be a whole number, 1 or more."),
    ("priority", "high", "priority='high': it must be a whole number."),
    ("window", 10_001, "window=10001: it must be a whole number from 1 to 10000."),
]


@pytest.mark.parametrize(("option", "value"), [(option, value) for option in GOOD for value in (None, *GOOD[option])])
def test_what_can_work_is_taken_and_none_is_not_said(option: str, value: object) -> None:
    check_values({option: value})


@pytest.mark.parametrize(("option", "value", "sentence"), BAD)
def test_what_cannot_work_is_refused_in_words_of_python(option: str, value: object, sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        check_values({"limit": 1, option: value})
    assert str(caught.value) == sentence
    assert isinstance(caught.value, SettingsError)


def test_every_option_is_tried_both_ways() -> None:
    assert ALLOWED.keys() == GOOD.keys() == {option for option, _, _ in BAD}


def test_a_schema_that_is_none_says_where() -> None:
    with pytest.raises(OptionError, match=r"schema=\{'type': 'thing'\}: it is no JSON schema: 'thing' is not valid"):
        check_values({"schema": {"type": "thing"}})


def test_a_long_value_is_shown_shortened_on_one_line() -> None:
    with pytest.raises(OptionError) as caught:
        check_values({"model": "x\n" * 500})
    assert len(str(caught.value)) < 120
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("modle", "did you mean model?"),
        ("max_token", "did you mean max_tokens?"),
        ("zzz", "there are model, max_tokens."),
    ],
)
def test_an_option_that_there_is_not_is_said_with_the_one_that_was_meant(option: str, hint: str) -> None:
    with pytest.raises(OptionError) as caught:
        check_names({"model": "m", option: "x"}, ("model", "max_tokens"))
    assert str(caught.value) == f"{option}='x': there is no such option; {hint}"
