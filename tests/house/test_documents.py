"""A user believes the documents, so every command, option, setting, column and link in them is checked."""

import ast
import inspect
import re
import shlex
from dataclasses import fields

import pytest

import tidemill
from tests.house.commands import commands, options_of
from tests.house.sources import DOCUMENTS, ROOT, document, first_cells, headings, python_of, section
from tidemill.models.errors import NOT_ALL_SUCCEEDED, NOT_ENDED, TidemillError
from tidemill.models.options import Options
from tidemill.models.settings import Settings
from tidemill.producer.batches.results import RESULT_COLUMNS
from tidemill.producer.cli import ending
from tidemill.producer.intake.formats import ENDINGS

REFERENCE = document("docs/reference.md")
README_LINES = 220
"""A front door is read to its end."""

LONGEST_MEAN_SENTENCE = 17
"""Words, over all sentences of a document; most are below 25."""

NAMED_BY_TYPES = {"Dialogue", "FineTune", "__version__"}
"""Public names that nobody has to write."""

READ_OUTSIDE_SETTINGS = {"TIDEMILL_DEBUG"}
"""Read by producer/cli/ending.py, when settings may be what is broken."""

OF_COMPOSE = {"POSTGRES_PASSWORD", "RUN_AS"}
"""Variables of docker-compose.yml."""


# --- what can be typed ---


def code_lines(text: str) -> list[str]:
    """Code as a reader would type it: indented lines, continued ones as one, without what is said beside them."""
    whole = re.sub(r" \\\n +", " ", text)
    return [line.split("   #")[0] for line in re.findall(r"(?m)^ {4}(?=\S)(.+)$", whole)]


def typed_commands(text: str) -> list[str]:
    """What is typed after `tidemill`, or after the service of docker compose that stands for it."""
    code = [*code_lines(text), *re.findall(r"`([^`\n]+)`", text)]
    found = [re.match(r"(?:.*?[ |$])?(?:tidemill|run --rm cli) (?!import )(.+)$", line) for line in code]
    return [match[1] for match in found if match and not match[0].startswith(("from ", "import "))]


@pytest.mark.parametrize(
    ("name", "typed"), [(name, typed) for name in DOCUMENTS for typed in typed_commands(document(name))]
)
def test_what_a_document_shows_can_be_typed(name: str, typed: str) -> None:
    if typed.startswith(("COMMAND", "BATCH", "-")):
        return
    words = shlex.split(typed)
    if any(command.startswith(f"{typed} ") for command in commands()):
        return  # a group
    called = [command for command in commands() if words[: len(command.split())] == command.split()]
    assert called, f"{name}: there is no command in: {typed}"
    allowed = {"-h", "--help", *options_of(commands()[called[0]])}
    for option in (word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)):
        assert option in allowed, f"{name}: {called[0]} has no option {option}"


def test_every_job_of_the_front_door_is_shown() -> None:
    shown = {typed.split()[0] for typed in typed_commands(document("README.md"))}
    assert {"ask", "describe", "train", "status", "results", "worker", "db", "doctor"} <= shown


@pytest.mark.parametrize(("name", "program"), [(name, each) for name in DOCUMENTS for each in python_of(name)])
def test_python_in_a_document_uses_what_there_is(name: str, program: str) -> None:
    allowed = {*inspect.signature(tidemill.ask).parameters, *(field.name for field in fields(Options))}
    for node in ast.walk(ast.parse(program.strip("\n"))):
        if isinstance(node, ast.ImportFrom) and node.module == "tidemill":
            assert {alias.name for alias in node.names} <= set(tidemill.__all__), name
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "tidemill":
            assert node.attr in tidemill.__all__, name
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "ask":
            assert {keyword.arg for keyword in node.keywords if keyword.arg} <= allowed, name


def test_python_is_shown_in_readme_and_in_the_manuals() -> None:
    assert {"README.md", "docs/asking.md", "docs/python.md"} <= {name for name in DOCUMENTS if python_of(name)}


def test_every_public_name_has_an_example() -> None:
    shown = "\n".join(python_of("docs/python.md"))
    assert {name for name in tidemill.__all__ if not re.search(rf"\b{name}\b", shown)} <= NAMED_BY_TYPES


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8")))
    for name in DOCUMENTS:
        for typed in re.findall(r"(?m)(?:^ {4}|`)make ((?:[a-z-]+ ?)+)(?=`|\n| {2,}#)", document(name)):
            assert set(typed.split()) <= targets, f"{name}: make {typed}"


def test_the_front_door_shows_the_commands_that_need_nothing() -> None:
    assert {"make demo", "make test"} <= {line.strip() for line in code_lines(document("README.md"))}


# --- the reference ---


def test_names_every_command_with_an_example_and_no_other() -> None:
    rows = section(REFERENCE, "## Commands")
    assert {cell.strip("`") for cell in first_cells(rows)} == {f"tidemill {name}" for name in commands()}
    for row in (line for line in rows.splitlines() if line.startswith("| `")):
        command = row.split("|")[1].strip(" `")
        assert f"`{command} " in row or row.count(f"`{command}`") == 2, f"no example: {row}"


def listed(heading: str) -> list[str]:
    """The options in the first cells of a table, each as often as it stands there."""
    cells = first_cells(section(REFERENCE, heading))
    return [option for cell in cells for option in re.findall(r"`(--?[a-z-]+)`", cell)]


@pytest.mark.parametrize(
    ("command", "tables"),
    [
        ("ask", ("### Options of `ask`", "### Options that `ask` and `describe` share")),
        ("describe", ("### Options of `describe`", "### Options that `ask` and `describe` share")),
        ("train", ("### Options of `train`",)),
    ],
)
def test_lists_every_option_once_and_no_other(command: str, tables: tuple[str, ...]) -> None:
    options = [option for table in tables for option in listed(table)]
    assert sorted(options) == sorted(options_of(commands()[command]))


def test_lists_the_options_of_all_other_commands_and_no_other() -> None:
    rows = [line.split("|")[1:3] for line in section(REFERENCE, "### Options of other commands").splitlines()[3:]]
    said: dict[str, set[str]] = {name: set() for name in commands() if name not in {"ask", "describe", "train"}}
    for options, of in rows:
        names = re.findall(r"`([a-z -]+)`", of) or [name for name in said if "--json" in options_of(commands()[name])]
        for name in names:
            said[name] |= set(re.findall(r"`(--?[a-z-]+)`", options))
    assert said == {name: options_of(commands()[name]) for name in said}


def test_options_stand_in_one_document() -> None:
    tables = {name for name in DOCUMENTS if re.search(r"(?m)^\| `--[a-z]", document(name))}
    assert tables == {"docs/reference.md"}


def test_lists_every_setting_and_no_other() -> None:
    named = [cell.strip("`") for cell in first_cells(section(REFERENCE, "## Settings"))]
    assert named == [str(field.validation_alias) for field in Settings.model_fields.values()]


def test_says_the_default_of_every_setting() -> None:
    for field in Settings.model_fields.values():
        row = next(line for line in REFERENCE.splitlines() if line.startswith(f"| `{field.validation_alias}` |"))
        if field.default not in (None, "") and not field.default_factory:
            assert row.split("|")[2].strip() == f"`{field.default}`", row


def test_names_every_column_of_the_results_in_order() -> None:
    told = re.findall(r"`([a-z_]+)`", section(REFERENCE, "## Output").split("\n\n")[1])
    assert tuple(told) == RESULT_COLUMNS


def test_names_every_ending_that_is_read_as_a_format() -> None:
    cells = " ".join(first_cells(section(REFERENCE, "## Input")))
    assert set(re.findall(r"`(\.\w+)`", cells)) == set(ENDINGS)


def test_explains_every_exit_code() -> None:
    explained = {int(cell) for cell in first_cells(section(REFERENCE, "## Exit codes"))}
    ours = {NOT_ALL_SUCCEEDED, NOT_ENDED, TidemillError.exit_code}
    assert explained == {0, *ours, ending.UNEXPECTED, ending.INTERRUPTED}


# --- all documents ---


@pytest.mark.parametrize("name", DOCUMENTS)
def test_speaks_of_no_setting_that_does_not_exist(name: str) -> None:
    known = {str(field.validation_alias) for field in Settings.model_fields.values()} | READ_OUTSIDE_SETTINGS
    assert set(re.findall(r"\b(?:TIDEMILL|OPENAI)_[A-Z_]+\b", document(name))) <= known


def test_a_variable_outside_the_settings_is_really_read() -> None:
    for name in READ_OUTSIDE_SETTINGS:
        assert name in (ROOT / "producer" / "cli" / "ending.py").read_text("utf-8")
    for name in OF_COMPOSE:
        assert name in document("docs/operating.md")
        assert f"${{{name}:-" in (ROOT / "docker-compose.yml").read_text("utf-8")


def test_the_tables_of_the_database_are_all_explained() -> None:
    from tidemill.models.tables import metadata

    cells = first_cells(section(document("docs/operating.md"), "## Where things are stored").partition("The tables")[2])
    named = {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)}
    assert named == set(metadata.tables)


def test_the_benchmark_has_one_place_for_its_tables_and_one_for_its_sentence() -> None:
    for name in ("README.md", "docs/speed.md"):
        assert len(re.findall(r"(?ms)^<!-- bench -->\n.+?^<!-- /bench -->$", document(name))) == 1
    assert "| figure | measured | beside |" in document("docs/speed.md")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    for link in re.findall(r"\]\(([^)]+)\)", document(name)):
        if link.startswith("https://"):
            continue
        target, _, heading = link.partition("#")
        path = folder / target if target else ROOT / name
        assert path.exists(), f"{name}: {link}"
        assert not heading or heading in headings(path.read_text("utf-8")), f"{name}: {link}"


def test_every_manual_is_linked_from_the_front_door() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", document("README.md")))
    assert {name for name in DOCUMENTS if name != "README.md"} <= linked


# --- how they read ---


def test_the_front_door_is_short() -> None:
    assert len(document("README.md").splitlines()) <= README_LINES


def sentences(text: str) -> list[str]:
    """The sentences of a document's prose, without code, tables and headings."""
    prose = re.sub(r"(?ms)^<!-- bench -->.*?^<!-- /bench -->|^ {4}.*?$|^\|.*?$|^#.*?$|^<!--.*?-->", "", text)
    paragraphs = re.split(r"\n\s*\n|\n *(?=- |\d+\. )", prose)
    joined = (" ".join(paragraph.split()) for paragraph in paragraphs)
    return [each for one in joined for each in re.split(r"(?<=[.:?!])\s+", one) if len(each.split()) > 1]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_sentences_are_short(name: str) -> None:
    lengths = [len(each.split()) for each in sentences(document(name))]
    assert sum(lengths) / len(lengths) <= LONGEST_MEAN_SENTENCE
    assert sum(length > 25 for length in lengths) <= len(lengths) * 0.1


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_line_fits_the_screen(name: str) -> None:
    prose = re.sub(r"(?ms)^<!-- bench -->.*?^<!-- /bench -->", "", document(name))
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_one_word_has_one_meaning(name: str) -> None:
    others = r"(?<!not )(?<!not \*)\b(?:[Mm]end(?:s|ed|ing)?|vendor|conversation|remote_ops)\b"
    assert re.findall(others, document(name)) == []
