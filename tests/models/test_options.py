"""Two batches ask the same exactly when their options say so: the hash is what a second run finds its batch by."""

from dataclasses import fields, replace
from typing import Any

import pytest

from tidemill.models.options import Options
from tidemill.models.text import dumps, loads

BASE = Options(model="gpt-6-luna")


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"endpoint": "responses"},
        {"system": "Be brief."},
        {"temperature": 0.5},
        {"max_tokens": 5},
        {"reasoning_effort": "low"},
        {"params": {"seed": 1}},
        {"schema": {"type": "object"}},
        {"prompt": "What is this?"},
        {"detail": "low"},
        {"max_side": 512},
        {"dialogue": 17},
        {"trim": "oldest"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_the_answers_decides_the_hash(change: dict[str, Any]) -> None:
    assert replace(BASE, **change).question_hash("ask") != BASE.question_hash("ask")


@pytest.mark.parametrize(
    "change", [{"transport": "http"}, {"rpm": 5}, {"tpm": 5}], ids=lambda change: next(iter(change))
)
def test_how_and_how_fast_calls_are_sent_does_not(change: dict[str, Any]) -> None:
    assert replace(BASE, **change).question_hash("ask") == BASE.question_hash("ask")


def test_every_option_is_on_one_side_or_the_other() -> None:
    decides = {"model", "endpoint", "system", "temperature", "max_tokens", "reasoning_effort", "params", "schema"}
    decides |= {"prompt", "detail", "max_side", "dialogue", "trim"}
    assert {each.name for each in fields(Options)} == decides | {"transport", "rpm", "tpm"}


def test_the_kind_is_part_of_the_question() -> None:
    assert BASE.question_hash("ask") != BASE.question_hash("describe")


def test_the_order_of_parameters_does_not_matter() -> None:
    one, two = (replace(BASE, params=params) for params in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert one.question_hash("ask") == two.question_hash("ask")


def test_no_system_prompt_is_not_an_empty_one() -> None:
    assert replace(BASE, system="").question_hash("ask") != BASE.question_hash("ask")


def test_options_survive_being_stored() -> None:
    options = Options(
        *("m", "responses", "s", 0.0, 1, "low", {"seed": 1, "stop": None}, {"type": "object"}),
        *("What is {name}?", "low", 512, 17, "oldest", "http", 1, 2),
    )
    assert Options.from_json(loads(dumps(options.to_json()))) == options
    assert Options.from_json(BASE.to_json()) == BASE


def test_options_of_a_later_version_are_read_as_far_as_they_are_known() -> None:
    assert Options.from_json({"model": "m", "colour": "red"}) == Options(model="m")


def test_the_hash_of_a_released_version_stays_the_same() -> None:
    """A new option or another spelling of JSON must not make everybody pay for everything again."""
    stored = "d657793170aeb6e81a092a6370bf08947428c7e6d8032591e2ac8d31e0a19286"
    assert BASE.question_hash("ask") == stored
