"""The command line is read before it is typed: help comes in panels of a few entries each, the common ones first.

Which panel an entry stands in, and where in it, is said by the two tables here, for all commands and options.
"""

from collections.abc import Callable, Mapping
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

COMMAND_PANELS: Mapping[str, str] = {
    "Asking": "ask describe train assistants",
    "Looking": "status watch results explain diff dialogues fine-tunes models",
    "Steering": "pause resume cancel retry delete prune",
    "Money": "budget costs",
    "Operating": "doctor worker workers rehearse backup db",
}
"""Title of a panel -> the commands in it, in their order."""

_CALL_PANELS = {
    "Reply": "--temperature --max-tokens --reasoning-effort --schema --param",
    "Speed": "--window --rpm --tpm --transport --endpoint",
}
_RUN_PANELS = {
    "Input": "--input --recursive --column --template --format --sheet --limit --exclude --fetch --skip-bad-rows",
    "Output": "--output --order --sidecar --existing --gallery --json --escape-formulas",
    "Question": "--model --system --preset --prompt --detail --max-side --assistant --no-assistant --dialogue --trim",
    "Run": "--dry-run --detach --new --name --priority --max-wait --fail-fast --moved-from --help",
    "Money and time": "--budget --route --deadline",
    **_CALL_PANELS,
}

OPTION_PANELS: Mapping[str, Mapping[str, str]] = {
    "ask": _RUN_PANELS,
    "describe": _RUN_PANELS,
    "diff": {
        "Comparison": "--output --rows --dry-run --json --escape-formulas --help",
        "What is asked anew": "--model --system --template --assistant --prompt --detail --sample --seed --new",
        **_CALL_PANELS,
    },
    "train": {
        "Check and start": "--dry-run --export --wait --max-wait --detach --new --name --json --strict --help",
        "Examples from files": "--prompt-column --reply-column --system-column --system --preferred-column "
        "--non-preferred-column --negative --skip-bad-rows",
        "Examples from dialogues": "--from-dialogues --batch --sentiment --assistant --since --until --answered-by "
        "--search --min-length",
        "Examples to check with": "--val --validation --seed",
        "Money": "--budget",
        "Model": "--model --suffix --method --epochs --batch-size --learning-rate --beta --param --transport",
    },
}
"""Command -> title of a panel -> the options in it, in their order; other commands have few, which need no panels."""

FIRST_STEPS = """First steps:

export OPENAI_API_KEY=...                    or OPENAI_BASE_URL of a server
tidemill doctor                              what is there, what to fix
tidemill ask 'Why is the sky blue?'          one prompt
tidemill ask -i prompts.csv -o answers.csv   every row of a file
tidemill ask -h                              all about one command"""
"""Shown at the end of `tidemill`, where a terminal stands still."""

MOST_IN_A_PANEL = 10

_SHORTER = {
    "install_completion": "Complete commands with TAB in your shell.",
    "show_completion": "Print the script that does that.",
}
"""Help of Typer's own options, in fewer words."""

_HELP_FLAGS = ["--help", "-h"]
_VALUES = {str: "TEXT", int: "N", float: "NUMBER"}


class _Option(TyperOption):
    """An option with its value as one word, no word behind a flag, and a default without parentheses."""

    def display_type_rich(self, ctx: Any) -> str | None:
        if self.is_flag or self.type_descriptor.annotation is bool:
            return None
        return self.metavar or _VALUES.get(self.type_descriptor.annotation) or self.display_type(ctx)

    def _get_default_string(self, *, show_default_is_str: bool, **options: Any) -> str:
        if show_default_is_str:
            return str(self.show_default)
        return super()._get_default_string(show_default_is_str=False, **options)

    def _get_number_range_help_str(self) -> str | None:
        return None  # its help says it in words


class _Argument(TyperArgument):
    """An argument in capitals, as documents write it, without a type."""

    @property
    def display_name_raw(self) -> str:
        return self.metavar or self.name.upper()

    def _usage_display_name(self) -> str:
        return self.display_name_raw if self.required else f"[{self.display_name_raw}]"

    def display_type_rich(self, ctx: Any) -> str | None:  # as Typer calls it
        return None


def _in_words(parameters: list[Any]) -> list[Any]:
    """The parameters, which Typer makes itself, as parameters that show themselves in the words above."""
    for each in parameters:
        each.__class__ = _Option if isinstance(each, TyperOption) else _Argument
    return parameters


def _places(panels: Mapping[str, str]) -> dict[str, tuple[int, str]]:
    """Name -> its place among all names of the panels, and the title of its panel."""
    titles = [(name, title) for title, names in panels.items() for name in names.split()]
    return {name: (place, title) for place, (name, title) in enumerate(titles)}


class Command(TyperCommand):
    """A command whose options stand in the panels of the table."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters as help shows them, panel by panel."""
        places = _places(OPTION_PANELS.get(self.name or "", {}))

        def place(parameter: Any) -> tuple[int, str | None]:
            return places.get(max(parameter.opts, key=len), (len(places), None))

        parameters = _in_words(super().get_params(ctx))
        for each in parameters:
            _, each.rich_help_panel = place(each)
        return sorted(parameters, key=lambda each: (isinstance(each, TyperOption), place(each)[0]))


class Group(TyperGroup):
    """Commands in the panels of the table; typed alone, it shows them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; nothing at all stands for --help, which is no error."""
        return super().parse_args(ctx, args or ([] if ctx.resilient_parsing else _HELP_FLAGS[:1]))

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters as help shows them."""
        parameters = _in_words(super().get_params(ctx))
        for each in parameters:
            each.help = _SHORTER.get(each.name, each.help)
        return parameters

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, panel by panel; those of a group in their own order."""
        names = super().list_commands(ctx)
        if ctx.parent is not None:
            return names
        places = _places(COMMAND_PANELS)
        for name, command in self.commands.items():
            _, command.rich_help_panel = places.get(name, (0, None))  # type: ignore[attr-defined]
        return sorted(names, key=lambda name: places.get(name, (len(places), ""))[0])


class Commands(typer.Typer):
    """A group of commands that all have the look of this module."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            cls=Group,
            context_settings={"help_option_names": _HELP_FLAGS},
            pretty_exceptions_enable=False,
            rich_markup_mode="rich",
            **options,
        )

    def command(self, name: str | None = None, *, cls: Any = Command, **options: Any) -> Callable[..., Any]:
        """A decorator that makes a function a command of the group."""
        return super().command(name, cls=cls, **options)


def show_version(wanted: bool) -> None:
    """Print the version and end the command, if it is wanted."""
    if wanted:
        from importlib.metadata import version

        from tidemill.producer.screen.printing import print_line

        print_line(f"tidemill {version('tidemill')}")
        raise typer.Exit
