"""An option stands in four places, each with something of its own to say; here they are held equal, field by field.

What is stored (`Options`), what Python callers may give (the TypedDicts), what can be typed (flags), what is allowed.
"""

from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from tests.house.commands import commands
from tests.house.sources import modules
from tidemill.models.allowed import ALLOWED
from tidemill.models.options import AskOptions, DescribeOptions, Options, QuestionOptions, ReplyOptions

KINDS = {"ask": AskOptions, "describe": DescribeOptions, "assistants add": ReplyOptions}
"""Command -> the options that it makes of its flags."""

FLAGS_OF_THEIR_OWN = {"params": "param"}
"""Option -> its flag, where one is of another name: --param names one of the params."""

NOT_OPTIONS = {"limit", "priority", "window"}
"""What has a range and is no option of a batch."""

MAY_NAME_AN_OPTION = {"models/options.py", "models/allowed.py", "models/endpoints.py", "producer/cli/flags.py"}


def flags_of(command: str) -> dict[str, Any]:
    return {each.name: each for each in commands()[command].params}


def test_what_is_stored_is_what_can_be_said_and_the_dialogue() -> None:
    said = AskOptions.__annotations__ | DescribeOptions.__annotations__
    assert {each.name for each in fields(Options)} == said.keys() | {"dialogue"}


@pytest.mark.parametrize("kind", [ReplyOptions, QuestionOptions, AskOptions, DescribeOptions])
def test_what_is_stored_has_the_types_that_can_be_said(kind: type) -> None:
    stored = get_type_hints(Options, localns={"Endpoint": str})
    in_python = {"schema": type | None}  # a class becomes its schema before anything looks at it
    assert get_type_hints(kind) == {name: stored[name] | in_python.get(name) | None for name in kind.__annotations__}


@pytest.mark.parametrize("command", list(KINDS))
def test_what_python_callers_can_say_can_be_typed(command: str) -> None:
    flags = {FLAGS_OF_THEIR_OWN.get(name, name) for name in KINDS[command].__annotations__}
    assert flags <= flags_of(command).keys()


def test_every_option_has_values_that_are_allowed() -> None:
    assert ALLOWED.keys() == AskOptions.__annotations__.keys() | DescribeOptions.__annotations__ | NOT_OPTIONS


@pytest.mark.parametrize("command", [*KINDS, "worker"])
def test_a_flag_has_the_range_that_the_option_has(command: str) -> None:
    ranges = {
        name: (getattr(flag, "min", None), getattr(flag, "max", None))
        for name, flag in flags_of(command).items()
        if name in ALLOWED
    }
    assert ranges == {name: (ALLOWED[name].least, ALLOWED[name].most) for name in ranges}
    assert ranges


def test_an_option_is_named_nowhere_else_on_its_way_to_the_worker() -> None:
    named = {
        module.name
        for module in modules()
        if "reasoning_effort" in module.text and module.name.startswith(("models/", "producer/"))
    }
    assert named == MAY_NAME_AN_OPTION
