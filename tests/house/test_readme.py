"""A user believes the README, so every command, option, setting and column in it is checked."""

import re
import shlex
from pathlib import Path

import pytest

from tests.house.commands import commands, options_of
from tests.house.sources import ROOT, document, first_cells, section
from tidemill.models.errors import NOT_ALL_SUCCEEDED, TidemillError
from tidemill.models.settings import Settings
from tidemill.producer.batches.results import RESULT_COLUMNS
from tidemill.producer.cli import ending
from tidemill.producer.intake.tables import _READERS

README = document("README.md")
READ_OUTSIDE_SETTINGS = {"TIDEMILL_DEBUG"}
"""Read by producer/cli/ending.py, when settings may be what is broken."""


def code_lines() -> list[str]:
    """Commands as a reader would type them: indented lines and code in backticks."""
    indented = re.findall(r"(?m)^ {4}(?=\S)(.+)$", README)
    return [line.split("   #")[0] for line in indented] + re.findall(r"`(tidemill [^`]+)`", README)


def test_names_every_command_with_an_example_and_no_other() -> None:
    rows = section(README, "## Commands").split("\nMore of")[0]
    assert {cell.strip("`") for cell in first_cells(rows)} == {f"tidemill {name}" for name in commands()}
    for row in (line for line in rows.splitlines() if line.startswith("| `")):
        command = row.split("|")[1].strip(" `")
        assert f"`{command} " in row or row.count(f"`{command}`") == 2, f"no example: {row}"


@pytest.mark.parametrize("line", [line for line in code_lines() if "tidemill " in line])
def test_what_it_shows_can_be_typed(line: str) -> None:
    typed = line.partition("tidemill ")[2]
    if typed.startswith(("COMMAND", "BATCH")):
        return
    words = shlex.split(typed)
    names = [name for name in commands() if words[: len(name.split())] == name.split()]
    assert names, f"there is no command in: {line}"
    allowed = options_of(commands()[names[0]])
    for option in (word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)):
        assert option in allowed, f"{names[0]} has no option {option}"


def test_lists_every_option_of_ask_and_no_other() -> None:
    cells = first_cells(section(README, "### Options of `ask`"))
    listed = {option for cell in cells for option in re.findall(r"`(--?[a-z-]+)`", cell)}
    assert listed == options_of(commands()["ask"])


def test_lists_every_option_of_train_and_no_other() -> None:
    cells = first_cells(section(README, "### Options of `train`"))
    listed = {option for cell in cells for option in re.findall(r"`(--?[a-z-]+)`", cell)}
    assert listed == options_of(commands()["train"])


def test_lists_what_describe_has_of_its_own_and_shares_the_rest() -> None:
    text = section(README, "### Options of `describe`")
    listed = {option for cell in first_cells(text) for option in re.findall(r"`(--?[a-z-]+)`", cell)}
    shared = options_of(commands()["ask"]) & options_of(commands()["describe"])
    of_ask = first_cells(section(README, "### Options of `ask`"))
    first = next(number for number, cell in enumerate(of_ask) if "`--model`" in cell)
    from_model_on = {option for cell in of_ask[first:] for option in re.findall(r"`(--?[a-z-]+)`", cell)}
    assert from_model_on - {"--skip-bad-rows"} <= shared
    assert listed == options_of(commands()["describe"]) - from_model_on


def test_lists_every_setting_and_no_other() -> None:
    listed = [cell.strip("`") for cell in first_cells(section(README, "## Settings"))]
    assert listed == [str(field.validation_alias) for field in Settings.model_fields.values()]


def test_says_the_default_of_every_setting() -> None:
    for field in Settings.model_fields.values():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{field.validation_alias}` |"))
        if field.default not in (None, "") and not field.default_factory:
            assert row.split("|")[2].strip() == f"`{field.default}`", row


@pytest.mark.parametrize("name", ["README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_speaks_of_no_setting_that_does_not_exist(name: str) -> None:
    known = {str(field.validation_alias) for field in Settings.model_fields.values()} | READ_OUTSIDE_SETTINGS
    assert set(re.findall(r"\b(?:TIDEMILL|OPENAI)_[A-Z_]+\b", document(name))) <= known


def test_a_variable_outside_the_settings_is_really_read() -> None:
    for name in READ_OUTSIDE_SETTINGS:
        assert name in (ROOT / "producer" / "cli" / "ending.py").read_text("utf-8")


def test_names_every_column_of_the_results_in_order() -> None:
    told = re.findall(r"`([a-z_]+)`", section(README, "## Output").split("\n\n")[1])
    assert tuple(told) == RESULT_COLUMNS


def test_names_every_ending_that_is_read_as_a_format() -> None:
    cells = " ".join(first_cells(section(README, "## Input")))
    assert set(re.findall(r"`(\.\w+)`", cells)) == set(_READERS)


def test_explains_every_exit_code() -> None:
    explained = {int(cell) for cell in first_cells(section(README, "## Output"))}
    assert explained == {0, NOT_ALL_SUCCEEDED, TidemillError.exit_code, ending.UNEXPECTED, ending.INTERRUPTED}


def test_has_one_place_for_the_benchmark() -> None:
    assert len(re.findall(r"(?ms)^<!-- bench -->\n.+^<!-- /bench -->$", README)) == 1


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8")))
    for name in ("README.md", "DESIGN.md", "CONTRIBUTING.md"):
        for typed in re.findall(r"(?m)(?:^ {4}|`)make ((?:[a-z-]+ ?)+)(?=`|\n| {2,}#)", document(name)):
            assert set(typed.split()) <= targets, f"{name}: make {typed}"


def test_links_lead_somewhere() -> None:
    for name in ("README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)]+)\)", document(name)):
            assert target.startswith("https://") or Path(ROOT / target).exists(), f"{name}: {target}"
