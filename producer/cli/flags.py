"""A flag that several commands share is written once; flags that always come together are a group, a NamedTuple.

A command takes a group as one parameter, and `expand_groups` puts the group's flags in its place on the command line.
"""

import functools
import inspect
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, get_type_hints

import typer
from typer.core import TyperOption

from tidemill.models.allowed import ALLOWED
from tidemill.models.errors import InputError
from tidemill.producer.cli import completing
from tidemill.producer.cli.help_pages import Command


def number(option: str, *, help: str, show_default: bool | str = True) -> object:  # noqa: A002  # as Typer calls it
    """A flag for a number in the range that the option has everywhere."""
    allowed = ALLOWED[option]
    if allowed.most is not None:
        help = f"{help[:-1]}, {allowed.least or 0:,} to {allowed.most:,}."  # noqa: A001
    return typer.Option(min=allowed.least, max=allowed.most, help=help, show_default=show_default)


Model = Annotated[str | None, typer.Option(help="The model to ask.", show_default="gpt-6-luna, or TIDEMILL_MODEL")]
Param = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Any other field of the request's body; may be repeated."),
]
Transport = Annotated[
    str | None,
    typer.Option(help="sdk: the official client. http: plain HTTP, a quarter of the CPU.", show_default="sdk"),
]
Window = Annotated[int | None, number("window", help="Calls in flight at once.", show_default="256")]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be used.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="What the input is: csv, tsv, json, jsonl, parquet, xlsx, xls, ods or text.",
        show_default="by its name and how it begins",
    ),
]
Sheet = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The workbook's sheet, by name or number.", show_default="the first one"),
]
Detach = Annotated[bool, typer.Option("--detach", help="Submit only; workers or a later run do the work.")]
Yes = Annotated[bool, typer.Option("--yes", help="Delete without a question.")]
KeepCosts = Annotated[bool, typer.Option("--keep-costs", help="Keep what the calls cost, by day, model and outcome.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write all rows to a .jsonl, .csv, .tsv, .parquet or .xlsx file, also .gz or .zst, also s3:// or gs://; "
        "- is stdout.",
    ),
]
EscapeFormulas = Annotated[
    bool,
    typer.Option("--escape-formulas", help="In CSV, put ' before text that a spreadsheet would run as a formula."),
]
RowOrder = Annotated[
    str,
    typer.Option("--order", metavar="ORDER", help="Of the rows in -o: input, or finished, which is as they end."),
]
MaxWait = Annotated[
    str | None,
    typer.Option("--max-wait", metavar="TIME", help="Stop after so long, such as 10m, with exit code 3."),
]
FailFast = Annotated[
    bool, typer.Option("--fail-fast", help="Stop at the first row that fails, or when the provider serves nobody.")
]
Budget = Annotated[
    str | None,
    typer.Option(metavar="USD", help="Spend no more than this in all; what does not fit waits, and nothing is lost."),
]
Newest = Annotated[int, typer.Option(min=1, help="How many, the newest first.")]
BatchId = Annotated[
    str,
    typer.Argument(
        help="Id of a batch, the beginning of one, or `latest`.", metavar="BATCH", autocompletion=completing.batch_ids
    ),
]
AssistantName = Annotated[
    str,
    typer.Argument(
        help="Name of an assistant, as `list` shows it.", metavar="NAME", autocompletion=completing.assistant_names
    ),
]
FineTuneId = Annotated[
    str,
    typer.Argument(
        help="Id of a fine-tune or the beginning of one, the provider's id, the model's name, or `latest`.",
        metavar="JOB",
    ),
]


class EachOnce(Command):
    """A command that refuses a flag that is there twice and takes one value: none wins in silence."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for each in self.params:
            if not (each.required or each.multiple or each.nargs != 1 or each.callback):
                each.process_value = functools.partial(_process, each)  # type: ignore[method-assign]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after a look at which flags come twice."""
        _, _, flags_in_order = self.make_parser(ctx).parse_args(args=list(args))
        for flag, times in Counter(flags_in_order).items():
            if times > 1 and isinstance(flag, TyperOption) and not (flag.multiple or flag.is_flag):
                raise InputError(
                    f"{max(flag.opts, key=len)} was given {times} times, and can count once: drop the others."
                )
        return super().parse_args(ctx, args)


def _process(flag: Any, ctx: Any, value: Any) -> Any:
    """As the flag itself, which has pydantic build a type even where it was not given: 4 % of the CPU of a start."""
    return None if value is None else type(flag).process_value(flag, ctx, value)


class QuestionFlags(NamedTuple):
    """Which model to ask, and with which instructions."""

    model: Model = None
    system: Annotated[str | None, typer.Option(help="Instructions that go before every prompt; @FILE reads them.")] = (
        None
    )
    assistant: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Use this assistant: its instructions, model and options, where the command sets none.",
            autocompletion=completing.assistant_names,
        ),
    ] = None
    no_assistant: Annotated[bool, typer.Option("--no-assistant", help="Ask without the default assistant.")] = False


class ReplyFlags(NamedTuple):
    """What the reply should be like."""

    temperature: Annotated[float | None, number("temperature", help="Randomness of the answers.")] = None
    max_tokens: Annotated[
        int | None, number("max_tokens", help="Longest answer in tokens. Setting it also speeds up the run.")
    ] = None
    reasoning_effort: Annotated[str | None, typer.Option(help="none, low, medium or high, as the model takes it.")] = (
        None
    )
    param: Param = None
    schema: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON schema that every answer must satisfy.")] = (
        None
    )


class CallFlags(NamedTuple):
    """How calls are made, and how fast."""

    endpoint: Annotated[str | None, typer.Option(help="chat or responses.", show_default="chat")] = None
    transport: Transport = None
    window: Window = None
    rpm: Annotated[
        int | None, number("rpm", help="At most this many requests a minute. Learned from the provider when left out.")
    ] = None
    tpm: Annotated[
        int | None, number("tpm", help="At most this many tokens a minute. Learned from the provider when left out.")
    ] = None


class BatchFlags(NamedTuple):
    """What the batch is called, and which rows of the input it takes."""

    name: Annotated[str | None, typer.Option(help="What to call the batch; the same name finds it again.")] = None
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0
    limit: Annotated[int | None, number("limit", help="Take only this many rows, from the start of the input.")] = None
    new: Annotated[bool, typer.Option("--new", help="Ask again, even what was answered before.")] = False
    moved_from: Annotated[
        str | None,
        typer.Option(metavar="SERVER", help="The server had this address before; go on with the batch it began there."),
    ] = None


class RunFlags(NamedTuple):
    """What the command does besides submitting, and what it prints."""

    detach: Detach = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count rows, tokens and price; send and store nothing.")
    ] = False
    as_json: Json = False


class MoneyFlags(NamedTuple):
    """How much the batch may cost, by which route, and by when."""

    budget: Budget = None
    route: Annotated[
        str | None,
        typer.Option(
            metavar="ROUTE",
            help="batch, flex: half the price, for more time. 2h, 8h: 30 and 40 % off, not yet proven. "
            "auto: the cheapest in time.",
            show_default="online",
        ),
    ] = None
    deadline: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="By when all rows should have ended, such as 6h; picks the route."),
    ] = None


class ChangeFlags(NamedTuple):
    """What is asked otherwise of a sample of a batch; all else stays as it was asked."""

    model: Annotated[str | None, typer.Option(help="Ask this model instead.")] = None
    system: Annotated[str | None, typer.Option(help="Other instructions; '' is none.")] = None
    assistant: Annotated[
        str | None, typer.Option(metavar="NAME", help="The instructions, model and options of this assistant.")
    ] = None
    template: Annotated[
        str | None,
        typer.Option("--template", "-t", help="Another prompt with {column} placeholders, filled from the columns."),
    ] = None
    prompt: Annotated[str | None, typer.Option(help="Of pictures: ask this instead.")] = None
    detail: Annotated[str | None, typer.Option(help="Of pictures: low, high, auto or original.")] = None
    sample: Annotated[
        int | None, typer.Option(min=1, help="How many rows are asked, the same ones each time.", show_default="50")
    ] = None
    seed: Annotated[int, typer.Option(help="Another seed chooses other rows.")] = 0
    new: Annotated[bool, typer.Option("--new", help="Ask again, even what was answered before.")] = False


class EndFlags(NamedTuple):
    """When to stop although rows are open."""

    max_wait: MaxWait = None
    fail_fast: FailFast = False


class FilterFlags(NamedTuple):
    """Which stored dialogues are meant."""

    batch: Annotated[
        str | None, typer.Option(help="Only dialogues of this batch.", autocompletion=completing.batch_ids)
    ] = None
    sentiment: Annotated[
        str | None, typer.Option(help="Only dialogues judged positive, negative, neutral or unknown.")
    ] = None
    assistant: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Only dialogues with this assistant.", autocompletion=completing.assistant_names
        ),
    ] = None


class _Group(Protocol):
    """The class of a group, as every NamedTuple is."""

    _fields: tuple[str, ...]
    _field_defaults: dict[str, object]

    def __call__(self, **flags: object) -> tuple[object, ...]: ...


def expand_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Put the flags of a group in the place of each parameter that is a group, for the parser.

    Args:
        command: all of its parameters are keywords; those whose type is a NamedTuple are groups.
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, _Group] = {
        name: each.annotation for name, each in signature.parameters.items() if hasattr(each.annotation, "_fields")
    }
    parameters = [
        flag
        for name, each in signature.parameters.items()
        for flag in (_flags_of(groups[name]) if name in groups else [each])
    ]

    @functools.wraps(command)
    def expanded(**flags: object) -> None:
        values = {name: group(**{flag: flags.pop(flag) for flag in group._fields}) for name, group in groups.items()}
        command(**flags, **values)

    expanded.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {each.name: each.annotation for each in parameters}
    return expanded


def _flags_of(group: _Group) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            flag,
            inspect.Parameter.KEYWORD_ONLY,
            default=group._field_defaults.get(flag, inspect.Parameter.empty),
            annotation=kind,
        )
        for flag, kind in get_type_hints(group, include_extras=True).items()
    ]
