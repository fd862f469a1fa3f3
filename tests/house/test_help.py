"""Help answers at once and shows by example; a command without one would have to be guessed."""

import shlex
import subprocess
import sys

import pytest

from tests.house.commands import commands, options_of
from tests.waiting import limit

SLOW_TO_IMPORT = {
    "aiohttp",
    "alembic",
    "celery",
    "genai_prices",
    "kombu",
    "openai",
    "pandas",
    "pydantic_settings",
    "redis",
    "sqlalchemy",
    "toktok",
}
_SHOW_HELP = """
import sys
from tidemill.producer.cli.commands import run
sys.argv = ["tidemill", *{arguments!r}, "--help"]
print(run(), *({slow!r} & {{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
"""


@pytest.mark.parametrize("name", list(commands()))
def test_a_command_says_what_it_does_and_gives_an_example_that_can_be_typed(name: str) -> None:
    command = commands()[name]
    assert command.help
    assert command.epilog.startswith(f"Example: tidemill {name}"), command.epilog
    typed = shlex.split(command.epilog.removeprefix("Example: tidemill "))
    assert {word for word in typed if word.startswith("-")} <= options_of(command)


@pytest.mark.parametrize("name", list(commands()))
def test_an_option_says_what_it_means(name: str) -> None:
    for option in commands()[name].params:
        assert option.name == "help" or option.help, f"{name} {option.name}"


@pytest.mark.parametrize("arguments", [[], ["ask"], ["worker"]])
def test_help_imports_nothing_slow(arguments: list[str]) -> None:
    code = _SHOW_HELP.format(arguments=arguments, slow=SLOW_TO_IMPORT)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=limit(), check=True)
    assert "Example" in shown.stdout or "First steps" in shown.stdout
    assert shown.stderr.split() == ["0"]
