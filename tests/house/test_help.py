"""Help answers at once and shows by example; a command without one would have to be guessed."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

from tests.house.commands import commands, options_of
from tests.waiting import limit
from tidemill.producer.cli.commands import app, run
from tidemill.producer.cli.help_pages import COMMAND_PANELS, MOST_IN_A_PANEL

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
WIDTH = 80
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


# --- how it reads ---


def typed(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command line in this process, as on a terminal of 80 columns; returns the exit code."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setattr(sys, "argv", ["tidemill", *words])
    return run()


GROUPS = ["", *sorted({name.split()[0] for name in commands() if " " in name})]


@pytest.mark.parametrize("name", [*GROUPS, *commands()])
def test_every_page_of_help_reads_well_on_a_narrow_terminal(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, *name.split(), "-h") == 0
    page = capsys.readouterr().out
    assert [line for line in page.splitlines() if len(line) > WIDTH] == []
    assert re.findall(r"default: \(|<bool>|<str>|<int|<float|…", page) == []
    assert "--help" in page


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_alone_explains_itself_and_that_is_no_error(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, *name.split()) == 0
    alone = capsys.readouterr().out
    assert typed(monkeypatch, *name.split(), "--help") == 0
    assert capsys.readouterr().out == alone
    assert name or ("First steps" in alone and all(title in alone for title in COMMAND_PANELS))


def context(command: Any) -> Any:
    return command.make_context("tidemill", [], resilient_parsing=True)


def test_every_command_stands_in_a_panel_of_a_few() -> None:
    listed = [name for names in COMMAND_PANELS.values() for name in names.split()]
    assert {name.split()[0] for name in commands()} <= set(listed)
    assert len(set(listed)) == len(listed)
    assert max(len(names.split()) for names in COMMAND_PANELS.values()) <= MOST_IN_A_PANEL


@pytest.mark.parametrize("name", list(commands()))
def test_options_stand_in_panels_of_a_few(name: str) -> None:
    panels: dict[str | None, list[str]] = {}
    for each in commands()[name].get_params(context(commands()[name])):
        if each.param_type_name == "option":
            panels.setdefault(each.rich_help_panel, []).append(max(each.opts, key=len))
    assert {title: options for title, options in panels.items() if len(options) > MOST_IN_A_PANEL} == {}
    assert None not in panels or len(panels) == 1, f"these have no panel in help_pages.py: {panels[None]}"


# --- the version, and completion ---


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_that_of_the_package(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, flag) == 0
    assert capsys.readouterr().out == f"tidemill {version('tidemill')}\n"


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "complete -o default -F _tidemill_completion tidemill"),
        ("zsh", "#compdef tidemill"),
        ("fish", "complete --command tidemill"),
    ],
)
def test_a_shell_gets_a_script_that_completes(shell: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setenv("_TIDEMILL_COMPLETE", f"source_{shell}")
        app(["-h"], prog_name="tidemill", standalone_mode=False)
    assert ended.value.code == 0
    assert line in capsys.readouterr().out


def test_a_shell_is_told_which_words_fit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setenv("_TIDEMILL_COMPLETE", "complete_bash")
        patch.setenv("COMP_WORDS", "tidemill ask --max")
        patch.setenv("COMP_CWORD", "2")
        app([], prog_name="tidemill", standalone_mode=False)
    assert "--max-tokens" in capsys.readouterr().out.split()
