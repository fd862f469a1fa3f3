"""Commands that look at a batch, or change one: all but those that submit it.

Each only parses and calls, and imports what it needs when it runs.
"""

from typing import Annotated

import typer

from tidemill.producer.cli import completing, flags
from tidemill.producer.cli.help_pages import Commands

batches_app = Commands()


@batches_app.command(epilog="Example: tidemill status prompts-3f9a1c --json")
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


@batches_app.command(epilog="Example: tidemill explain latest:12")
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


@batches_app.command(epilog="Example: tidemill watch latest --max-wait 1h")
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


@batches_app.command(cls=flags.EachOnce, epilog="Example: tidemill results prompts-3f9a1c -o answers.parquet")
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


@batches_app.command(epilog="Example: tidemill retry latest")
def retry(batch: flags.BatchId, as_json: flags.Json = False) -> None:
    """Queue the failed and cancelled rows of a batch again; without a broker, `watch` then runs them."""
    from tidemill.producer.cli.kinds import verbs_for

    verbs, batch_id = verbs_for(batch)
    verbs.retry(batch_id, as_json)


@batches_app.command(cls=flags.EachOnce, epilog="Example: tidemill diff prompts-3f9a1c --model gpt-6-terra --sample 50")
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


@batches_app.command(epilog="Example: tidemill pause prompts-3f9a1c")
def pause(batch: flags.BatchId, as_json: flags.Json = False) -> None:
    """Start no more calls of a batch; calls in flight end."""
    from tidemill.producer.cli.kinds import verbs_for

    verbs, batch_id = verbs_for(batch)
    verbs.pause(batch_id, as_json)


@batches_app.command(epilog="Example: tidemill resume prompts-3f9a1c")
def resume(batch: flags.BatchId, as_json: flags.Json = False) -> None:
    """Continue a paused batch."""
    from tidemill.producer.cli.kinds import verbs_for

    verbs, batch_id = verbs_for(batch)
    verbs.resume(batch_id, as_json)


@batches_app.command(epilog="Example: tidemill cancel prompts-3f9a1c")
def cancel(batch: flags.BatchId, as_json: flags.Json = False) -> None:
    """Cancel the open rows of a batch; what has been answered stays."""
    from tidemill.producer.cli.kinds import verbs_for

    verbs, batch_id = verbs_for(batch)
    verbs.cancel(batch_id, as_json)


@batches_app.command(epilog="Example: tidemill delete prompts-3f9a1c --yes")
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
