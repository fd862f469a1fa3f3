"""What stands once in a group reaches the parser as single flags, and the command as one value of its type."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
import typer

from tidemill.models.errors import InputError, OptionError
from tidemill.models.options import AskOptions, DescribeOptions, ReplyOptions
from tidemill.producer.cli import ending, flags
from tidemill.producer.cli.values import ends_of, options_of, order_of, prompt_of, text_of


class Pair(NamedTuple):
    first: Annotated[int, typer.Option(min=1, max=9, help="The first.")] = 1
    second: Annotated[bool, typer.Option("--second", help="The second.")] = False


def parser(taken: list[Any]) -> Any:
    """A command with a group in the middle, as click has it."""
    app = typer.Typer(add_completion=False)

    @app.command()
    @flags.expand_groups
    def command(
        *,
        word: Annotated[str, typer.Argument(help="A word.")],
        before: Annotated[str | None, typer.Option(help="Before it.")] = None,
        pair: Pair,
        after: Annotated[str | None, typer.Option(help="After it.")] = None,
    ) -> None:
        """Take a pair."""
        taken.append((word, before, pair, after))

    return typer.main.get_command(app)


def test_a_group_becomes_its_flags_in_its_place() -> None:
    command = parser([])
    assert [each.name for each in command.params if each.name != "help"] == [
        *("word", "before", "first", "second", "after")
    ]
    assert command.help == "Take a pair."


def test_a_group_is_handed_over_as_one_value() -> None:
    taken: list[Any] = []
    run = parser(taken)
    run(["w", "--after", "a", "--second", "--first", "7"], standalone_mode=False)
    run(["w"], standalone_mode=False)
    assert taken == [("w", None, Pair(7, True), "a"), ("w", None, Pair(), None)]


def test_flags_become_the_options_that_they_are_and_only_those_that_were_typed(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    reply = flags.ReplyFlags(temperature=0.0, param=["seed=7", "user=u"], schema=tmp_path / "schema.json")
    calls = flags.CallFlags(window=3, rpm=60)
    kept = {"temperature": 0.0, "params": {"seed": 7, "user": "u"}, "schema": {"type": "object"}}
    assert options_of(ReplyOptions, reply, calls) == kept
    asked = options_of(AskOptions, flags.QuestionFlags(model="m", assistant="kind"), reply, calls, trim="oldest")
    assert asked == {**kept, "model": "m", "rpm": 60, "trim": "oldest"}
    assert options_of(DescribeOptions, flags.QuestionFlags(), flags.ReplyFlags(), flags.CallFlags(), detail="low") == {
        "detail": "low"
    }


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (flags.CallFlags(endpoint="foo"), "--endpoint is 'foo'; it must be 'chat' or 'responses'."),
        (flags.ReplyFlags(max_tokens=0), "--max-tokens is 0; it must be a whole number, 1 or more."),
        (flags.ReplyFlags(temperature=float("nan")), "--temperature is nan; it must be a number from 0 to 2."),
        (flags.ReplyFlags(param=["seed"]), "--param 'seed' is not KEY=VALUE; an example is --param seed=7."),
        (flags.ReplyFlags(schema=Path("/nowhere.json")), "--schema /nowhere.json: No such file or directory."),
    ],
)
def test_what_cannot_work_is_said_in_words_of_the_command_line(
    typed: Any, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((OptionError, InputError)):
        options_of(AskOptions, typed)
    assert ending.code_of(lambda: options_of(AskOptions, typed)) == OptionError.exit_code
    assert capsys.readouterr().err == f"tidemill: {sentence}\n"


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("plain", "plain"),
        ("@prompt.md", "Be {kind}.\n\nAlways"),
        ("@@alice says", "@alice says"),
        ("mail me@home", "mail me@home"),
        (None, None),
    ],
)
def test_a_text_may_be_in_a_file(
    typed: str | None, text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompt.md").write_bytes("\ufeffBe {kind}.\n\nAlways\r\n\n".encode())
    assert text_of("--system", typed) == text


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("@missing.md", "--system @missing.md: missing.md does not exist; check the path. For a text that begins with"),
        ("@empty.md", "empty.md is empty"),
        ("@latin.md", "latin.md is not UTF-8: there is a byte 0xe9"),
        ("@folder", "folder cannot be read: Is a directory"),
        ("@", "--system is @ alone: name a file"),
    ],
)
def test_a_text_file_that_cannot_be_used_costs_one_sentence(
    typed: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.md").write_text(" \n")
    (tmp_path / "latin.md").write_bytes("café".encode("latin-1"))
    with pytest.raises(InputError) as caught:
        text_of("--system", typed)
    assert reason in str(caught.value)


def test_a_prompt_is_a_file_only_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompt.md").write_text("Why?\n")
    for typed in ("@alice, why?", "@@x", "@prompt.md ", "@", None):
        assert prompt_of(typed) == typed
    assert capsys.readouterr().err == ""
    assert prompt_of("@prompt.md") == "Why?"
    assert "prompt.md (4 characters) is the prompt; a blank at the end" in capsys.readouterr().err


def test_how_long_a_run_may_take_and_the_order_of_its_rows_are_checked_before_it_begins() -> None:
    assert ends_of("1h30m", True) == (5_400.0, True)
    assert ends_of(None) == (None, False)
    assert order_of("finished") == "finished"
    with pytest.raises(OptionError, match="write it with its unit: 90s, 10m"):
        ends_of("10")
    with pytest.raises(OptionError, match="it must be input or finished"):
        order_of("random")
