"""The command line only parses; each command calls a function of another module.

Nothing slow is imported at the top, because `tidemill --help` must answer at once: commands import what they need.
"""

import gc
import os
from typing import Annotated

import typer

from tidemill.models.errors import InputError
from tidemill.producer.cli import completing, ending, flags
from tidemill.producer.cli.groups import assistants_app, db_app, dialogues_app, fine_tunes_app
from tidemill.producer.cli.help_pages import FIRST_STEPS, Commands, show_version

app = Commands(
    name="tidemill",
    help="A job queue for language-model work: thousands of prompts in, every answer stored exactly once.",
    epilog=FIRST_STEPS,
)
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
    from tidemill.producer.cli.values import ends_of, inputs_of, options_of, order_of, prompt_of, text_of
    from tidemill.producer.intake.tables import ReadOptions

    order_name, limits = order_of(row_order), ends_of(*ends)
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
    ends: flags.EndFlags,
    run: flags.RunFlags,
) -> None:
    """Caption pictures: a file, a folder, or a table of paths. The same command again continues where it stopped."""
    from tidemill.models.options import DescribeOptions
    from tidemill.producer.batches.run import After, carry_out
    from tidemill.producer.cli.values import ends_of, inputs_of, options_of, order_of, text_of
    from tidemill.producer.describing import captioning
    from tidemill.producer.describing.picture_files import Pictures

    order_name, limits = order_of(row_order), ends_of(*ends)
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
        ),
        strict=strict,
        dry_run=dry_run,
        export=export,
        as_json=as_json,
    )


@app.command(epilog="Example: tidemill status prompts-3f9a1c --json")
def status(
    batch: Annotated[
        str | None,
        typer.Argument(
            help="Id of a batch, the beginning of one, or `latest`; lists recent batches when left out.",
            metavar="BATCH",
            autocompletion=completing.batch_ids,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many batches to list.")] = 20,
    as_json: flags.Json = False,
) -> None:
    """List the batches, or show one."""
    from tidemill.producer.batches import control

    control.status(batch, limit, as_json)


@app.command(epilog="Example: tidemill explain latest:12")
def explain(
    name: Annotated[
        list[str],
        typer.Argument(
            help="A batch, a job (`17` or `job 17`), or a row: BATCH:12 by its number, BATCH:CUSTOM_ID by its id.",
            metavar="BATCH|ROW",
            show_default=False,
        ),
    ],
    as_json: flags.Json = False,
) -> None:
    """Say what a batch waits for and when it will end, or tell the whole life of one row."""
    from tidemill.producer.batches import explaining

    explaining.explain(" ".join(name), as_json)


@app.command(epilog="Example: tidemill watch latest --max-wait 1h")
def watch(
    batch: flags.BatchId,
    max_wait: flags.MaxWait = None,
    fail_fast: flags.FailFast = False,
    as_json: flags.Json = False,
) -> None:
    """Follow a batch to its end; without a broker, its open rows also run here."""
    from tidemill.producer.cli.kinds import verbs_for
    from tidemill.producer.cli.values import ends_of

    ends = ends_of(max_wait, fail_fast)
    verbs, batch_id = verbs_for(batch)
    verbs.watch(batch_id, as_json, ends)


@app.command(cls=flags.EachOnce, epilog="Example: tidemill results prompts-3f9a1c -o answers.parquet")
def results(
    *,
    batch: flags.BatchId,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A .jsonl, .csv, .tsv, .parquet or .xlsx file, also .gz or .zst, also s3:// or gs://; - is stdout. "
            "May be repeated.",
            show_default="-",
        ),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="STATUS", help="Only rows that are queued, running, succeeded, failed or cancelled."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="Only rows such as sentiment=negative, with =, !=, <, <=, >, >= or ~."),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option(metavar="NAMES", help="Only these columns, with commas between them.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows that fit.")] = None,
    escape_formulas: flags.EscapeFormulas = False,
) -> None:
    """Write the rows of a batch with their answers, in input order: all of them, or those that fit."""
    from tidemill.producer.batches.saving import Selection
    from tidemill.producer.cli.kinds import verbs_for

    verbs, batch_id = verbs_for(batch)
    verbs.results(
        batch_id, output or ["-"], escape_formulas, Selection(status or (), columns or (), where or (), limit)
    )


@app.command(epilog="Example: tidemill retry latest")
def retry(batch: flags.BatchId, as_json: flags.Json = False) -> None:
    """Queue the failed and cancelled rows of a batch again; without a broker, `watch` then runs them."""
    from tidemill.producer.cli.kinds import verbs_for

    verbs, batch_id = verbs_for(batch)
    verbs.retry(batch_id, as_json)


@app.command(cls=flags.EachOnce, epilog="Example: tidemill diff prompts-3f9a1c --model gpt-6-terra --sample 50")
@flags.expand_groups
def diff(
    *,
    batch: flags.BatchId,
    other: Annotated[
        str | None, typer.Argument(help="The batch to compare it with.", metavar="OTHER", show_default=False)
    ] = None,
    change: flags.ChangeFlags,
    reply: flags.ReplyFlags,
    calls: flags.CallFlags,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the comparison to a .html, .jsonl or .csv file."),
    ] = None,
    escape_formulas: flags.EscapeFormulas = False,
    rows: Annotated[int, typer.Option(min=0, help="How many of the rows that differ most are shown.")] = 10,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the calls of the sample and their price; send nothing.")
    ] = False,
    as_json: flags.Json = False,
) -> None:
    """Compare two batches, or ask a sample of one with a change, before all rows are paid for."""
    from tidemill.models.options import DescribeOptions
    from tidemill.producer.cli.values import options_of
    from tidemill.producer.comparing.diff import Terms
    from tidemill.producer.comparing.diff import diff as compare
    from tidemill.producer.comparing.sampling import Change

    options = options_of(DescribeOptions, change, reply, calls)
    terms = Terms(
        other=other,
        change=Change(options, change.assistant, change.template),
        sample=change.sample,
        seed=change.seed,
        new=change.new,
        rows=rows,
        output=output,
        escape_formulas=escape_formulas,
        window=calls.window,
        dry_run=dry_run,
        as_json=as_json,
    )
    compare(batch, terms)


@app.command(epilog="Example: tidemill pause prompts-3f9a1c")
def pause(batch: flags.BatchId, as_json: flags.Json = False) -> None:
    """Start no more calls of a batch; calls in flight end."""
    from tidemill.producer.cli.kinds import verbs_for

    verbs, batch_id = verbs_for(batch)
    verbs.pause(batch_id, as_json)


@app.command(epilog="Example: tidemill resume prompts-3f9a1c")
def resume(batch: flags.BatchId, as_json: flags.Json = False) -> None:
    """Continue a paused batch."""
    from tidemill.producer.cli.kinds import verbs_for

    verbs, batch_id = verbs_for(batch)
    verbs.resume(batch_id, as_json)


@app.command(epilog="Example: tidemill cancel prompts-3f9a1c")
def cancel(batch: flags.BatchId, as_json: flags.Json = False) -> None:
    """Cancel the open rows of a batch; what has been answered stays."""
    from tidemill.producer.cli.kinds import verbs_for

    verbs, batch_id = verbs_for(batch)
    verbs.cancel(batch_id, as_json)


@app.command(epilog="Example: tidemill delete prompts-3f9a1c --yes")
def delete(
    what: Annotated[
        str,
        typer.Argument(
            help="Id of a batch, the beginning of one, or `latest`; or the number of a dialogue.",
            metavar="BATCH|DIALOGUE",
        ),
    ],
    keep_costs: flags.KeepCosts = False,
    yes: flags.Yes = False,
    as_json: flags.Json = False,
) -> None:
    """Delete a batch that has ended, with its answers, or a dialogue with all of its turns."""
    from tidemill.producer.batches import deletion

    if what.isascii() and what.isdecimal():
        return deletion.delete_dialogue(int(what), yes, as_json)
    return deletion.delete_batch(what, keep_costs, yes, as_json)


@app.command(epilog="Example: tidemill prune --older-than 90d --keep-costs --dry-run")
def prune(
    older_than: Annotated[
        str, typer.Option(metavar="DURATION", help="What ended longer ago than this goes, such as 90d.")
    ],
    keep_costs: flags.KeepCosts = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; delete nothing.")] = False,
    yes: flags.Yes = False,
    as_json: flags.Json = False,
) -> None:
    """Delete batches that ended long ago, and stored files that no row names any more."""
    from tidemill.producer.batches import pruning

    pruning.prune(older_than, keep_costs=keep_costs, dry_run=dry_run, is_sure=yes, as_json=as_json)


@app.command(epilog="Example: tidemill backup /backups/tidemill.db --force")
def backup(
    file: Annotated[str, typer.Argument(help="Where the copy goes.", metavar="FILE")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: flags.Json = False,
) -> None:
    """Copy the embedded database into a file while it is in use, and check the copy."""
    from tidemill.producer.cli import backing_up

    backing_up.backup(file, force, as_json)


@app.command(epilog="Example: tidemill workers --all")
def workers(
    show_all: Annotated[bool, typer.Option("--all", help="Also those that were not seen for a while.")] = False,
    as_json: flags.Json = False,
) -> None:
    """List the worker processes that are alive, with what each has in flight."""
    from tidemill.producer.batches import worker_list

    worker_list.show(show_all, as_json)


@app.command(epilog="Example: tidemill models --json")
def models(as_json: flags.Json = False) -> None:
    """List the models that the provider offers, with price and shutdown date where known."""
    from tidemill.producer.cli import doctor

    doctor.show_models(as_json)


@app.command("doctor", epilog="Example: tidemill doctor")
def doctor_command(as_json: flags.Json = False) -> None:
    """Check settings, database, broker and provider, and say what to fix."""
    from tidemill.producer.cli import doctor

    doctor.doctor(as_json)


@app.command(epilog="Example: tidemill rehearse --minutes 2 --faults kill,database")
def rehearse(
    *,
    prompts: Annotated[int, typer.Option(min=1, help="How many prompts are asked of the simulator.")] = 300,
    minutes: Annotated[float, typer.Option(min=0, help="For how long faults happen.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Repeats the faults of a run.", show_default="another one")] = None,
    faults: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Only these, such as kill,database.", show_default="all")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the rows of the rehearsal in the database.")] = False,
    as_json: flags.Json = False,
) -> None:
    """Kill and cut workers on your own database and broker, with a simulated provider, and compare the books."""
    from tidemill.producer.rehearsing import rehearsal

    rehearsal.command(prompts=prompts, minutes=minutes, seed=seed, faults=faults, keep=keep, as_json=as_json)


@app.command(epilog="Example: tidemill worker --processes 2 --window 200")
def worker(
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="Worker processes, 64 at most; each uses up to one core.")
    ] = 1,
    window: Annotated[
        int | None, flags.number("window", help="Calls in flight in each process.", show_default="256")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="Serve metrics for Prometheus on this port.", show_default="none"),
    ] = None,
) -> None:
    """Run jobs until stopped; on Ctrl-C or SIGTERM, calls in flight have at most 25 seconds to end."""
    from tidemill.models import interpreters

    if window is not None:
        os.environ["TIDEMILL_WINDOW"] = str(window)
    if metrics_port is not None:
        os.environ["TIDEMILL_METRICS_PORT"] = str(metrics_port)
    # A new program, called by name: producer imports nothing of worker, and a worker needs nothing of the command line.
    program = interpreters.command("-m", "tidemill.worker", "--processes", str(processes))
    os.execv(program[0], program)  # noqa: S606


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
