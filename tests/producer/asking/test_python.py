"""Python callers are told as much as those of the command line, by the type checker and then by a sentence."""

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import UseEnvironment
from tests.house.sources import ROOT
from tests.waiting import limit
from tidemill import ask, estimate
from tidemill.models.errors import InputError, OptionError
from tidemill.producer.asking.python_words import as_arguments

pytestmark = pytest.mark.usefixtures("embedded_home")

RIGHT = """\
from typing import Unpack

import tidemill
from tidemill import AskOptions, ask


def classify(rows: list[str], **options: Unpack[AskOptions]) -> None:
    ask(rows, **options)


class Review:
    stars: int


ask(["x"], schema=Review)
ask(["x"], model=None, temperature=0.5, params={"seed": 1}, transport="http", trim="oldest", endpoint="chat")
"""
WRONG = {
    'ask(["x"], modle="m")': '"modle" for "ask"; did you mean "model"?',
    'ask(["x"], temperature="hot")': '"temperature" to "ask" has incompatible type "str"',
    'ask(["x"], transport="pigeon")': '"transport" to "ask" has incompatible type',
    'ask(["x"], schema="Review")': '"schema" to "ask" has incompatible type "str"',
    "tidemill.nothing": 'Module has no attribute "nothing"',
    'classify(["x"], max_tokens="many")': '"max_tokens" to "classify" has incompatible type "str"',
}
"""A line that is refused -> what mypy says of it."""

READ_BY_MYPY = [
    f"tidemill/{name}.py"
    for name in (
        *("__init__", "producer/asking/python", "producer/asking/python_words"),
        *("models/json_types", "models/options", "models/vision"),
    )
]
"""All that the types of `ask` need: to read every module would take a minute."""


def test_a_type_checker_refuses_what_would_be_refused_later(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(RIGHT + "\n".join(WRONG))
    quick = ["--follow-imports=skip", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", "--strict", *quick, *READ_BY_MYPY, str(script)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit(100), check=False).stdout
    errors = [line for line in printed.splitlines() if line.startswith(str(script)) and " error: " in line]
    assert len(errors) == len(WRONG), printed
    for number, (error, words) in enumerate(zip(errors, WRONG.values(), strict=True), RIGHT.count("\n") + 1):
        assert error.startswith(f"{script}:{number}: ")
        assert words in error


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"modle": "m"}, "modle='m': there is no such option; did you mean model?"),
        ({"colunm": "text"}, "colunm='text': there is no such option; did you mean column?"),
        ({"max_side": 64}, "max_side=64: there is no such option; "),
        ({"temperature": "hot"}, "temperature='hot': it must be a number from 0 to 2."),
        ({"max_tokens": True}, "max_tokens=True: it must be a whole number, 1 or more."),
        ({"params": ["seed"]}, "params=['seed']: it must be a JSON object."),
        ({"endpoint": "foo"}, "endpoint='foo': it must be 'chat' or 'responses'."),
        ({"schema": {"type": "thing"}}, "schema={'type': 'thing'}: it is no JSON schema: "),
        ({"limit": 0}, "limit=0: it must be a whole number, 1 or more."),
        ({"trim": "oldest"}, "trim='oldest': it is about the turns of a dialogue, and no dialogue is named."),
        (
            {"assistant": "kind", "no_assistant": True},
            "assistant='kind': an assistant and no assistant were both given; drop one.",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(options: dict[str, Any], sentence: str) -> None:
    read: list[str] = []

    def prompts() -> Iterator[str]:
        read.append("Why?")
        yield "Why?"

    with pytest.raises(OptionError) as caught:
        ask(prompts(), **options)
    assert str(caught.value).startswith(sentence)
    assert read == []


def test_nothing_is_stored_for_options_that_cannot_work(tmp_path: Path, use_environment: UseEnvironment) -> None:
    use_environment({"TIDEMILL_HOME": str(tmp_path / "nothing yet")})
    with pytest.raises(OptionError):
        ask(["Why?"], temperature=3)
    assert not (tmp_path / "nothing yet").exists()


@pytest.mark.parametrize(
    ("sentence", "in_python"),
    [
        ("fix it, or leave such rows out with --skip-bad-rows", "fix it, or leave such rows out with skip_bad_rows="),
        ("--new begins, --moved-from goes on: drop one.", "new= begins, moved_from= goes on: drop one."),
        ("stop: `tidemill cancel x --json` ends it", "stop: `tidemill cancel x --json` ends it"),
        ("row 1: 'a--b ---x-- --Y' is no number", "row 1: 'a--b ---x-- --Y' is no number"),
    ],
)
def test_an_error_names_arguments_where_the_command_line_names_flags(sentence: str, in_python: str) -> None:
    assert as_arguments(sentence) == in_python


def test_an_estimate_takes_all_that_ask_takes() -> None:
    assert inspect.signature(estimate).parameters == inspect.signature(ask).parameters
    at_flex = estimate(["Why?"] * 60, max_tokens=100, route="flex", priority=3, new=True)
    assert at_flex.route == "flex"
    assert at_flex.most_online_usd == pytest.approx(2 * (at_flex.total_usd or 0))
    with pytest.raises(OptionError, match="deadline='soon'"):
        estimate(["Why?"], deadline="soon")


def test_a_prompt_in_the_place_of_a_path_is_explained() -> None:
    with pytest.raises(InputError, match=r"a prompt goes into a list: ask\(\['Why is the sky blue\?'\]\)\.$"):
        ask("Why is the sky blue?")
    with pytest.raises(InputError, match=r"leave such rows out with skip_bad_rows=$"):
        ask([{"prompt": ""}])
