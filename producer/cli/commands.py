"""The command line only parses; each command calls a function of another module.

Nothing slow is imported at the top, because `tidemill --help` must answer at once: commands import what they need.
"""

import gc
import os
from typing import Annotated

import typer

from tidemill.models.errors import InputError
from tidemill.producer.cli import ending, flags
from tidemill.producer.cli.batch_commands import batches_app
from tidemill.producer.cli.groups import assistants_app, db_app, dialogues_app, fine_tunes_app
from tidemill.producer.cli.help_pages import FIRST_STEPS, Commands, show_version
from tidemill.producer.cli.money_commands import money_app
from tidemill.producer.cli.operating_commands import operating_app

app = Commands(
    name="tidemill",
    help="A job queue for language-model work: thousands of prompts in, every answer stored exactly once.",
    epilog=FIRST_STEPS,
)
app.add_typer(batches_app)
app.add_typer(operating_app)
app.add_typer(money_app)
app.add_typer(dialogues_app, name="dialogues")
app.add_typer(assistants_app, name="assistants")
app.add_typer(db_app, name="db")
app.add_typer(fine_tunes_app, name="fine-tunes")


@app.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options of `tidemill` itself; each acts by its callback."""


@app.command(
    cls=flags.EachOnce,
    epilog="Example: tidemill ask -i reviews.jsonl -t 'Is this kind? {text}' --system 'Yes or no?' -o answers.csv",
)
@flags.expand_groups
def ask(
    *,
    prompt: Annotated[
        str | None,
        typer.Argument(help="One prompt, or @FILE that holds it; its answer goes to stdout.", show_default=False),
    ] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="CSV, JSONL, Parquet, Excel or text, one prompt a row: a path, a glob in quotes, a URL, - for stdin. "
            "May be repeated.",
        ),
    ] = None,
    output: flags.Output = None,
    row_order: flags.RowOrder = "input",
    escape_formulas: flags.EscapeFormulas = False,
    column: Annotated[str | None, typer.Option(help="The column that holds the prompt.")] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template", "-t", help="A prompt with {column} placeholders, filled from each row; @FILE reads a file."
        ),
    ] = None,
    format_: flags.Format = None,
    sheet: flags.Sheet = None,
    dialogue: Annotated[
        int | None,
        typer.Option(metavar="ID", help="Continue this dialogue; several rows become its next turns, one by one."),
    ] = None,
    trim: Annotated[
        str | None, typer.Option(help="oldest: leave out the oldest turns when the dialogue is too long for the model.")
    ] = None,
    question: flags.QuestionFlags,
    reply: flags.ReplyFlags,
    calls: flags.CallFlags,
    batch: flags.BatchFlags,
    money: flags.MoneyFlags,
    skip_bad_rows: flags.SkipBadRows = False,
    ends: flags.EndFlags,
    run: flags.RunFlags,
) -> None:
    """Ask a prompt, or every row of a file. The same command again continues where it stopped."""
    if not (run.dry_run or run.detach):
        _begin_early()
    from tidemill.models.options import AskOptions
    from tidemill.producer.asking.prompts import order_for
    from tidemill.producer.batches.run import carry_out
    from tidemill.producer.cli.values import ends_of, inputs_of, options_of, order_of, prompt_of, spending_of, text_of
    from tidemill.producer.intake.tables import ReadOptions

    order_name, limits, spending = order_of(row_order), ends_of(*ends), spending_of(money)
    gc.freeze()  # what is imported is no garbage: each look at it would take 20 ms
    options = options_of(AskOptions, question, reply, calls, trim=trim)
    order = order_for(
        prompt_of(prompt),
        inputs_of(input_, output),
        options,
        ReadOptions(column, text_of("-t", template), skip_bad_rows, batch.limit, format_, sheet),
        name=batch.name,
        assistant=question.assistant,
        no_assistant=question.no_assistant,
        dialogue=dialogue,
        priority=batch.priority,
        new=batch.new,
        moved_from=batch.moved_from,
        spending=spending,
    )
    carry_out(
        order,
        output=output,
        escape_formulas=escape_formulas,
        row_order=order_name,
        ends=limits,
        window=calls.window,
        detach=run.detach,
        dry_run=run.dry_run,
        as_json=run.as_json,
    )


@app.command(cls=flags.EachOnce, epilog="Example: tidemill describe photos/ -r -o captions.csv")
@flags.expand_groups
def describe(
    *,
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures, folders of them, or their URLs.", metavar="PICTURE...", show_default=False),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Include the folders in a folder.")] = False,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", metavar="FILE", help="A table of paths or URLs; a glob in quotes, - for stdin; repeatable."
        ),
    ] = None,
    output: flags.Output = None,
    row_order: flags.RowOrder = "input",
    escape_formulas: flags.EscapeFormulas = False,
    column: Annotated[str | None, typer.Option(help="The table's column that holds the paths.")] = None,
    format_: flags.Format = None,
    sheet: flags.Sheet = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="What to ask, or @FILE; may contain {name}, {stem}, {directory} and the table's columns."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="caption, alt-text, tags or json.", show_default="caption")] = None,
    detail: Annotated[str | None, typer.Option(help="How closely to look: low, high, auto or original.")] = None,
    max_side: Annotated[
        int | None,
        flags.number("max_side", help="Shrink larger pictures to this many pixels a side.", show_default="2048"),
    ] = None,
    sidecar: Annotated[
        str | None, typer.Option(metavar="ENDING", help="Write captions beside pictures: txt makes photo.txt.")
    ] = None,
    existing: Annotated[
        str, typer.Option(help="What to do where a caption file exists: skip, overwrite, append or prepend.")
    ] = "skip",
    gallery: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write all pictures and captions to one .html page.")
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch URLs here, over https from public hosts, and send the pictures.")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave out files and folders of such names or paths; may be repeated."),
    ] = None,
    question: flags.QuestionFlags,
    reply: flags.ReplyFlags,
    calls: flags.CallFlags,
    batch: flags.BatchFlags,
    money: flags.MoneyFlags,
    ends: flags.EndFlags,
    run: flags.RunFlags,
) -> None:
    """Caption pictures: a file, a folder, or a table of paths. The same command again continues where it stopped."""
    from tidemill.models.options import DescribeOptions
    from tidemill.producer.batches.run import After, carry_out
    from tidemill.producer.cli.values import ends_of, inputs_of, options_of, order_of, spending_of, text_of
    from tidemill.producer.describing import captioning
    from tidemill.producer.describing.picture_files import Pictures

    order_name, limits, spending = order_of(row_order), ends_of(*ends), spending_of(money)
    asked = text_of("--prompt", prompt)
    options = options_of(DescribeOptions, question, reply, calls, prompt=asked, detail=detail, max_side=max_side)
    tables = inputs_of(input_, output)
    leaving_out = tuple(exclude or ())
    order = captioning.order_for(
        Pictures(tuple(paths or ()), tables, column, recursive, fetch, batch.limit, format_, None, leaving_out, sheet),
        options,
        preset=preset,
        name=batch.name,
        assistant=question.assistant,
        no_assistant=question.no_assistant,
        priority=batch.priority,
        new=batch.new,
        moved_from=batch.moved_from,
        spending=spending,
    )
    after: list[After] = []
    if sidecar is not None:
        order, write = captioning.with_sidecars(order, sidecar, existing)
        after.append(write)
    if gallery is not None:
        after.append(captioning.gallery_writer(gallery))
    carry_out(
        order,
        output=output,
        escape_formulas=escape_formulas,
        row_order=order_name,
        ends=limits,
        window=calls.window,
        detach=run.detach,
        dry_run=run.dry_run,
        as_json=run.as_json,
        after=after,
    )


@app.command(cls=flags.EachOnce, epilog="Example: tidemill train data.csv --val 0.1 --dry-run")
@flags.expand_groups
def train(
    *,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...", help="CSV, Excel, Parquet or JSONL, or a folder of them; - is stdin.", show_default=False
        ),
    ] = None,
    from_dialogues: Annotated[
        bool, typer.Option("--from-dialogues", help="Train on the stored dialogues that fit the filters below.")
    ] = False,
    filters: flags.FilterFlags,
    since: Annotated[str | None, typer.Option(metavar="DATE", help="Only those answered on that day or later.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="Only those answered before that day.")] = None,
    answered_by: Annotated[str | None, typer.Option(metavar="MODEL", help="Only those with this model.")] = None,
    search: Annotated[str | None, typer.Option(metavar="WORDS", help="Only those with all of these words.")] = None,
    min_length: Annotated[
        int | None, typer.Option(min=1, help="Only those whose answer has at least this many characters.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model to train.", show_default="gpt-4.1-mini")] = None,
    method: Annotated[str, typer.Option(help="supervised: learn replies. dpo: prefer one reply to another.")] = (
        "supervised"
    ),
    val: Annotated[float, typer.Option(help="Share of the examples to keep aside and check with, such as 0.1.")] = 0.0,
    validation: Annotated[
        str | None, typer.Option(metavar="FILE", help="Examples to check with, in a file of their own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed keeps other examples aside.")] = 0,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, max=50, help="How often each example is read, 50 times at most.", show_default="the provider chooses"
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="Instructions before every example that has none, or @FILE.")
    ] = None,
    prompt_column: Annotated[str | None, typer.Option(help="The column of the prompts.")] = None,
    reply_column: Annotated[str | None, typer.Option(help="The column of the replies.")] = None,
    system_column: Annotated[str | None, typer.Option(help="The column of each row's instructions.")] = None,
    preferred_column: Annotated[str | None, typer.Option(help="For dpo: the column of the better replies.")] = None,
    non_preferred_column: Annotated[str | None, typer.Option(help="For dpo: the column of the others.")] = None,
    negative: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Examples of what not to say; may be repeated, may be in the folder."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Treat warnings as errors.")] = False,
    skip_bad_rows: flags.SkipBadRows = False,
    export: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write chat JSONL, and the validation part beside it; - is stdout."),
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="A word in the new model's name, 64 characters at most.")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Examples per step, 256 at most.", show_default="the provider chooses"),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Multiplier of the learning rate.", show_default="the provider chooses")
    ] = None,
    beta: Annotated[
        float | None, typer.Option(min=0, max=2, help="For dpo: how closely to stay with the model, 0 to 2.")
    ] = None,
    param: flags.Param = None,
    transport: flags.Transport = "sdk",
    budget: Annotated[
        str | None, typer.Option(metavar="USD", help="Do not train if that may cost more than this; needs --epochs.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the job.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Train again on examples that were trained on before.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the job to its end, then print the model's name.")
    ] = False,
    max_wait: flags.MaxWait = None,
    detach: flags.Detach = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, count and price; send and write nothing.")] = False,
    as_json: flags.Json = False,
) -> None:
    """Train a model on a table of prompts and replies: check, report, split and price them, then start the job."""
    from tidemill.models.options import QuestionOptions
    from tidemill.producer.asking.dialogues import Filters
    from tidemill.producer.batches.spending import spending_of
    from tidemill.producer.cli.values import ends_of, options_of, text_of
    from tidemill.producer.training import preparing as training
    from tidemill.producer.training.columns import Columns
    from tidemill.producer.training.datasets import DEFAULT_MODEL, DatasetOptions
    from tidemill.producer.training.dialogue_examples import StoredDialogues, day
    from tidemill.producer.training.tuning import Terms

    if max_wait is not None and not wait:
        raise InputError("--max-wait says how long --wait may take; add --wait, or drop it.")
    ends = ends_of(max_wait)
    dates = day("--since", since), day("--until", until)
    fitting = Filters(filters.batch, filters.sentiment, filters.assistant, answered_by, *dates, min_length)
    stored = StoredDialogues(search or None, fitting)
    if not from_dialogues and stored != StoredDialogues(None, Filters()):
        raise InputError("Filters of stored dialogues were given without --from-dialogues; add it, or drop them.")
    options = options_of(QuestionOptions, param=param, transport=transport)
    hyperparameters = {"batch_size": batch_size, "learning_rate_multiplier": learning_rate, "beta": beta}
    system = text_of("--system", system)
    columns = Columns(prompt_column, reply_column, system_column, preferred_column, non_preferred_column, system)
    training.train(
        training.Source(sources or (), columns, negative or (), validation, stored if from_dialogues else None),
        DatasetOptions(method, model or DEFAULT_MODEL, val, seed, epochs, skip_bad_rows),
        Terms(
            suffix,
            hyperparameters,
            options.get("params") or {},
            options.get("transport") or "sdk",
            name,
            new,
            wait,
            detach,
            ends,
            spending_of(budget),
        ),
        strict=strict,
        dry_run=dry_run,
        export=export,
        as_json=as_json,
    )


def _begin_early() -> None:
    """Where the worker runs inside this command, read what it trusts while all else is imported."""
    from tidemill.models.settings import settings

    if settings().embedded:
        from tidemill.models import early

        early.read_certificates(settings().openai_base_url)


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    # Our settings need no plugin, and to look for some reads about all installed packages: 10 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    ending.leave(run())


def run() -> int:
    """Run the command line; returns its exit code."""
    return ending.code_of(lambda: app(standalone_mode=False))


if __name__ == "__main__":
    main()
