"""Why this module exists: the command line, which only parses and prints; each command is a call of another module.

Nothing heavy is imported here: `tidemill --help` must answer at once, so commands import what they need.
"""

import logging
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from models.errors import InputError, TidemillError
from producer import flags

app = typer.Typer(
    name="tidemill",
    help="A job queue for language-model work: thousands of prompts in, every answer stored exactly once.",
    epilog="First steps: `tidemill ask 'Why is the sky blue?'`, then `tidemill ask -i prompts.csv -o answers.jsonl`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
dialogues_app = typer.Typer(no_args_is_help=True, help="Look at what was asked and answered.")
fine_tunes_app = typer.Typer(no_args_is_help=True, help="Look after fine-tunes that were sent off with `train`.")
assistants_app = typer.Typer(no_args_is_help=True, help="Keep instructions, model and options under a name.")
db_app = typer.Typer(no_args_is_help=True, help="Look after the database.")
app.add_typer(dialogues_app, name="dialogues")
app.add_typer(assistants_app, name="assistants")
app.add_typer(db_app, name="db")
app.add_typer(fine_tunes_app, name="fine-tunes")

INTERRUPTED = 130
NOT_ALL_SUCCEEDED = 1
UNEXPECTED = 70
_SAID_AGAIN_SECONDS = 30.0


@app.command(
    epilog="Example: tidemill ask -i reviews.jsonl -t 'Is this kind? {text}' --system 'Yes or no?' -o answers.csv"
)
def ask(  # noqa: PLR0917
    prompt: Annotated[
        str | None, typer.Argument(help="One prompt; its answer goes to stdout.", show_default=False)
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input", "-i", metavar="FILE", help="CSV, JSONL, Parquet, Excel or text, one prompt a row; - is stdin."
        ),
    ] = None,
    output: flags.Output = None,
    column: Annotated[str | None, typer.Option(help="The column that holds the prompt.")] = None,
    template: Annotated[
        str | None, typer.Option("--template", "-t", help="A prompt with {column} placeholders, filled from each row.")
    ] = None,
    dialogue: Annotated[
        int | None,
        typer.Option(metavar="ID", help="Go on with this dialogue; several rows become turns, one after the other."),
    ] = None,
    trim: Annotated[
        str | None, typer.Option(help="oldest: leave out the oldest turns when the dialogue is too long for the model.")
    ] = None,
    model: flags.Model = None,
    system: flags.System = None,
    assistant: flags.Assistant = None,
    no_assistant: flags.NoAssistant = False,
    temperature: flags.Temperature = None,
    max_tokens: flags.MaxTokens = None,
    reasoning_effort: flags.ReasoningEffort = None,
    param: flags.Param = None,
    schema: flags.Schema = None,
    endpoint: flags.Endpoint = None,
    transport: flags.Transport = None,
    window: flags.Window = None,
    rpm: flags.Rpm = None,
    tpm: flags.Tpm = None,
    name: flags.Name = None,
    priority: flags.Priority = 0,
    limit: flags.Limit = None,
    new: flags.New = False,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Go on without rows that cannot be used.")
    ] = False,
    detach: flags.Detach = False,
    dry_run: flags.DryRun = False,
    as_json: flags.Json = False,
) -> None:
    """Ask a prompt, or every row of a file. The same command on the same input goes on where it was."""
    from producer import asking

    options = {
        "model": model,
        "system": system,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "reasoning_effort": reasoning_effort,
        "params": _params(param or []),
        "schema": _schema(schema),
        "endpoint": endpoint,
        "transport": transport,
        "rpm": rpm,
        "tpm": tpm,
        "trim": trim,
    }
    batch: dict[str, Any] = {
        "name": name,
        "priority": priority,
        "new": new,
        "assistant": assistant,
        "no_assistant": no_assistant,
    }
    how = {"column": column, "template": template, "skip_bad_rows": skip_bad_rows, "limit": limit}
    asking.ask(
        asking.order_for(prompt, input_, options, how, dialogue=dialogue, **batch),
        output=output,
        window=window,
        detach=detach,
        dry_run=dry_run,
        as_json=as_json,
        one=prompt is not None,
    )


@app.command(epilog="Example: tidemill describe photos/ -r -o captions.csv")
def describe(  # noqa: PLR0917
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures, folders of them, or their URLs.", metavar="PICTURE...", show_default=False),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also the folders in a folder.")] = False,
    input_: Annotated[
        str | None, typer.Option("--input", "-i", metavar="FILE", help="A table of paths or URLs; - is stdin.")
    ] = None,
    output: flags.Output = None,
    column: Annotated[str | None, typer.Option(help="The table's column that holds the paths.")] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="What to ask; may name {name}, {stem}, {directory} and the table's columns."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="caption, alt-text, tags or json.", show_default="caption")] = None,
    detail: Annotated[str | None, typer.Option(help="How closely to look: low, high, auto or original.")] = None,
    max_side: Annotated[
        int | None, typer.Option(min=32, max=16_384, help="Shrink to so many pixels a side.", show_default="2048")
    ] = None,
    sidecar: Annotated[
        str | None, typer.Option(metavar="ENDING", help="Write captions beside pictures: txt makes photo.txt.")
    ] = None,
    existing: Annotated[
        str, typer.Option(help="Where a caption file is there already: skip, overwrite, append or prepend.")
    ] = "skip",
    gallery: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write all pictures and captions to one .html page.")
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch URLs here, over https from public hosts, and send the pictures.")
    ] = False,
    model: flags.Model = None,
    system: flags.System = None,
    assistant: flags.Assistant = None,
    no_assistant: flags.NoAssistant = False,
    temperature: flags.Temperature = None,
    max_tokens: flags.MaxTokens = None,
    reasoning_effort: flags.ReasoningEffort = None,
    param: flags.Param = None,
    schema: flags.Schema = None,
    endpoint: flags.Endpoint = None,
    transport: flags.Transport = None,
    window: flags.Window = None,
    rpm: flags.Rpm = None,
    tpm: flags.Tpm = None,
    name: flags.Name = None,
    priority: flags.Priority = 0,
    limit: flags.Limit = None,
    new: flags.New = False,
    detach: flags.Detach = False,
    dry_run: flags.DryRun = False,
    as_json: flags.Json = False,
) -> None:
    """Caption pictures: a file, a folder, or a table of paths. The same command again goes on where it was."""
    from producer import asking, describing

    options = {
        "preset": preset,
        "prompt": prompt,
        "detail": detail,
        "max_side": max_side,
        "model": model,
        "system": system,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "reasoning_effort": reasoning_effort,
        "params": _params(param or []),
        "schema": _schema(schema),
        "endpoint": endpoint,
        "transport": transport,
        "rpm": rpm,
        "tpm": tpm,
    }
    how = {"column": column, "recursive": recursive, "fetch": fetch, "limit": limit}
    batch: dict[str, Any] = {
        "name": name,
        "priority": priority,
        "new": new,
        "assistant": assistant,
        "no_assistant": no_assistant,
    }
    order = describing.order_for(paths or [], input_, options, how, **batch)
    after: list[describing.After] = []
    if sidecar is not None:
        order, write = describing.beside(order, sidecar, existing)
        after.append(write)
    if gallery is not None:
        after.append(describing.page(gallery))
    asking.ask(
        order,
        output=output,
        window=window,
        detach=detach,
        dry_run=dry_run,
        as_json=as_json,
        one=order.pictures is not None and order.pictures.is_one and not after,
        after=after,
    )


@app.command(epilog="Example: tidemill train data.csv --val 0.1 --dry-run")
def train(  # noqa: PLR0917
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...", help="CSV, Excel, Parquet or JSONL, or a folder of them; - is stdin.", show_default=False
        ),
    ] = None,
    from_dialogues: Annotated[
        bool, typer.Option("--from-dialogues", help="Train on stored dialogues, those that fit the filters below.")
    ] = False,
    sentiment: Annotated[str | None, typer.Option(help="Only those judged positive, negative or neutral.")] = None,
    since: Annotated[str | None, typer.Option(metavar="DATE", help="Only those answered on that day or later.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="Only those answered before that day.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only those of this batch.")] = None,
    assistant: Annotated[str | None, typer.Option(help="Only those with this assistant.")] = None,
    answered_by: Annotated[str | None, typer.Option(metavar="MODEL", help="Only those with this model.")] = None,
    search: Annotated[str | None, typer.Option(metavar="WORDS", help="Only those with all of these words.")] = None,
    min_length: Annotated[
        int | None, typer.Option(min=1, help="Only those whose answer has so many characters.")
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
        typer.Option(min=1, max=50, help="How often each example is read.", show_default="the provider chooses"),
    ] = None,
    system: Annotated[str | None, typer.Option(help="Instructions before every example that has none.")] = None,
    prompt_column: Annotated[str | None, typer.Option(help="The column of the prompts.")] = None,
    reply_column: Annotated[str | None, typer.Option(help="The column of the replies.")] = None,
    system_column: Annotated[str | None, typer.Option(help="The column of each row's instructions.")] = None,
    preferred_column: Annotated[str | None, typer.Option(help="For dpo: the column of the better replies.")] = None,
    non_preferred_column: Annotated[str | None, typer.Option(help="For dpo: the column of the others.")] = None,
    negative: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Examples of what not to say; may be repeated, may be in the folder."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Take warnings for errors.")] = False,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Go on without rows that cannot be used.")
    ] = False,
    export: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write chat JSONL, and the validation part beside it; - is stdout."),
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="A word in the new model's name, 64 characters at most.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=256, help="Examples a step.", show_default="the provider chooses")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Multiplier of the learning rate.", show_default="the provider chooses")
    ] = None,
    beta: Annotated[float | None, typer.Option(min=0, max=2, help="For dpo: how closely to stay with the model.")] = (
        None
    ),
    param: flags.Param = None,
    transport: flags.Transport = "sdk",
    name: Annotated[str | None, typer.Option(help="What to call the job.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Train again on examples that have been trained on.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end; prints the model's name.")] = False,
    detach: flags.Detach = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, count and price; send and write nothing.")] = False,
    as_json: flags.Json = False,
) -> None:
    """Train a model on a table of prompts and replies: check, report, split, price, then send it off."""
    from producer import training
    from producer.columns import Columns
    from producer.datasets import DEFAULT_MODEL, How
    from producer.dialogue_examples import Stored, day
    from producer.dialogues import Filters
    from producer.tuning import Terms

    dates = day("--since", since), day("--until", until)
    stored = Stored(search or None, Filters(batch, sentiment, assistant, answered_by, *dates, min_length))
    if not from_dialogues and stored != Stored(None, Filters()):
        raise InputError("Filters of stored dialogues were given without --from-dialogues; add it, or drop them.")
    hyperparameters = {"batch_size": batch_size, "learning_rate_multiplier": learning_rate, "beta": beta}
    columns = Columns(prompt_column, reply_column, system_column, preferred_column, non_preferred_column, system)
    training.train(
        training.Source(sources or (), columns, negative or (), validation, stored if from_dialogues else None),
        How(method, model or DEFAULT_MODEL, val, seed, epochs, skip_bad_rows),
        Terms(suffix, hyperparameters, _params(param or []), transport or "sdk", name, new, wait, detach),
        strict=strict,
        dry_run=dry_run,
        export=export,
        as_json=as_json,
    )


@app.command(epilog="Example: tidemill status prompts-3f9a1c --json")
def status(
    batch: Annotated[
        str | None, typer.Argument(help="Id of a batch; all recent ones when left out.", metavar="BATCH")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many batches to list.")] = 20,
    as_json: flags.Json = False,
) -> None:
    """List the batches, or show one."""
    from producer import control

    control.status(batch, limit, as_json)


@app.command(epilog="Example: tidemill watch latest")
def watch(batch: flags.Batch, as_json: flags.Json = False) -> None:
    """Follow a batch to its end; without a broker, its open rows are also run here."""
    from producer import asking

    asking.watch(batch, as_json)


@app.command(epilog="Example: tidemill results prompts-3f9a1c -o answers.parquet")
def results(batch: flags.Batch, output: flags.Output = "-") -> None:
    """Write the rows of a batch with their answers, in input order."""
    from producer import asking

    asking.results(batch, output or "-")


@app.command(epilog="Example: tidemill retry latest")
def retry(batch: flags.Batch, as_json: flags.Json = False) -> None:
    """Queue the failed and cancelled rows of a batch again; `watch` runs them where no worker does."""
    from producer import control

    control.change("retry", batch, as_json)


@app.command(epilog="Example: tidemill pause prompts-3f9a1c")
def pause(batch: flags.Batch, as_json: flags.Json = False) -> None:
    """Start no more calls of a batch; those in flight end."""
    from producer import control

    control.change("pause", batch, as_json)


@app.command(epilog="Example: tidemill resume prompts-3f9a1c")
def resume(batch: flags.Batch, as_json: flags.Json = False) -> None:
    """Let a paused batch go on."""
    from producer import control

    control.change("resume", batch, as_json)


@app.command(epilog="Example: tidemill cancel prompts-3f9a1c")
def cancel(batch: flags.Batch, as_json: flags.Json = False) -> None:
    """Cancel the open rows of a batch; what has been answered stays."""
    from producer import control

    control.change("cancel", batch, as_json)


@dialogues_app.command("list", epilog="Example: tidemill dialogues list --sentiment negative --limit 5")
def dialogues_list(
    batch: flags.OfBatch = None,
    sentiment: flags.OfSentiment = None,
    assistant: flags.OfAssistant = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    as_json: flags.Json = False,
) -> None:
    """List dialogues turn by turn, the newest first."""
    from producer import dialogues

    dialogues.show_list(None, dialogues.Filters(batch, sentiment, assistant), limit, as_json)


@dialogues_app.command("show", epilog="Example: tidemill dialogues show 17")
def dialogues_show(
    dialogue: Annotated[int, typer.Argument(help="Number of a dialogue, as `list` shows it.", metavar="ID")],
    as_json: flags.Json = False,
) -> None:
    """Show a dialogue, whichever of its turns is named: every message, and every call that was made for it."""
    from producer import dialogues

    dialogues.show(dialogue, as_json)


@dialogues_app.command("search", epilog="Example: tidemill dialogues search 'blue sky'")
def dialogues_search(  # noqa: PLR0917
    words: Annotated[str, typer.Argument(help="Words that must all occur in a dialogue.")],
    batch: flags.OfBatch = None,
    sentiment: flags.OfSentiment = None,
    assistant: flags.OfAssistant = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    as_json: flags.Json = False,
) -> None:
    """Find dialogues by words, upper and lower case alike."""
    from producer import dialogues

    dialogues.show_list(words, dialogues.Filters(batch, sentiment, assistant), limit, as_json)


@dialogues_app.command("export", epilog="Example: tidemill dialogues export -o dialogues.jsonl")
def dialogues_export(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="A .jsonl file; - is stdout.")] = "-",
    batch: flags.OfBatch = None,
    sentiment: flags.OfSentiment = None,
    assistant: flags.OfAssistant = None,
) -> None:
    """Write dialogues as JSON lines with their messages, the form that training takes."""
    from producer import dialogues

    dialogues.export(output, dialogues.Filters(batch, sentiment, assistant))


@assistants_app.command("import", epilog="Example: tidemill assistants import assistants.json")
def assistants_import(
    file: Annotated[str, typer.Argument(help="A JSON list of objects with at least a name.", metavar="FILE")],
) -> None:
    """Take over the assistants of a file; those that are there already are updated."""
    from producer import assistants

    assistants.import_file(file)


@assistants_app.command("list", epilog="Example: tidemill assistants list --remote --json")
def assistants_list(
    remote: Annotated[bool, typer.Option("--remote", help="Those that the server keeps, where it keeps any.")] = False,
    as_json: flags.Json = False,
) -> None:
    """List the assistants."""
    from producer import assistants

    (assistants.show_remote if remote else assistants.show_list)(as_json)


@assistants_app.command("show", epilog="Example: tidemill assistants show support")
def assistants_show(name: flags.AssistantName, as_json: flags.Json = False) -> None:
    """Show an assistant with its instructions."""
    from producer import assistants

    assistants.show(name, as_json)


@assistants_app.command("add", epilog="Example: tidemill assistants add support --instructions 'Be kind and brief.'")
def assistants_add(  # noqa: PLR0917
    name: Annotated[str, typer.Argument(help="What to call it; one of that name is changed.", metavar="NAME")],
    instructions: Annotated[str | None, typer.Option(help="What goes before every prompt.")] = None,
    model: flags.Model = None,
    temperature: flags.Temperature = None,
    max_tokens: flags.MaxTokens = None,
    reasoning_effort: flags.ReasoningEffort = None,
    param: flags.Param = None,
    schema: flags.Schema = None,
) -> None:
    """Add an assistant, or say anew what one is."""
    from producer import assistants

    options = {
        "temperature": temperature,
        "max_tokens": max_tokens,
        "reasoning_effort": reasoning_effort,
        "params": _params(param or []) or None,
        "schema": _schema(schema),
    }
    assistants.add(name, instructions, model, {option: said for option, said in options.items() if said is not None})


@assistants_app.command("use", epilog="Example: tidemill assistants use support")
def assistants_use(
    name: Annotated[
        str | None, typer.Argument(help="Name of an assistant, as `list` shows it.", metavar="NAME")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Have no default assistant any more.")] = False,
) -> None:
    """Make an assistant the default one, for all that is asked without naming another."""
    from producer import assistants

    if (name is None) != none:
        raise InputError("Name an assistant, or say --none: tidemill assistants use support")
    assistants.use(name)


@assistants_app.command("remove", epilog="Example: tidemill assistants remove support")
def assistants_remove(name: flags.AssistantName) -> None:
    """Remove an assistant; what was asked with it stays."""
    from producer import assistants

    assistants.remove(name)


@app.command(epilog="Example: tidemill models --json")
def models(as_json: flags.Json = False) -> None:
    """List the models that the provider offers, with price and shutdown date where known."""
    from producer import doctor

    doctor.show_models(as_json)


@app.command("doctor", epilog="Example: tidemill doctor")
def doctor_command(as_json: flags.Json = False) -> None:
    """Check settings, database, broker and provider, and say what to mend."""
    from producer import doctor

    doctor.doctor(as_json)


@app.command(epilog="Example: tidemill worker --processes 2 --window 200")
def worker(
    processes: Annotated[int, typer.Option(min=1, max=64, help="Worker processes; one uses up to one core.")] = 1,
    window: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Calls in flight in each.", show_default="256")
    ] = None,
) -> None:
    """Run jobs until stopped; Ctrl-C or SIGTERM lets calls in flight end, for 25 seconds at most."""
    if window is not None:
        os.environ["TIDEMILL_WINDOW"] = str(window)
    # By name and as a new program: producer imports nothing of worker, and a worker needs nothing of the command line.
    os.execv(sys.executable, [sys.executable, "-m", "worker", "--processes", str(processes)])  # noqa: S606


@fine_tunes_app.command("list", epilog="Example: tidemill fine-tunes list --json > job_ids.json")
def fine_tunes_list(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 100,
    as_json: flags.Json = False,
) -> None:
    """List fine-tunes, the newest first."""
    from producer import fine_tunes

    fine_tunes.show_list(limit, as_json)


@fine_tunes_app.command("show", epilog="Example: tidemill fine-tunes show latest")
def fine_tunes_show(job: flags.FineTune, as_json: flags.Json = False) -> None:
    """Show a fine-tune: what it is made of, its events, checkpoints and curves."""
    from producer import fine_tunes

    fine_tunes.show(job, as_json)


@fine_tunes_app.command("watch", epilog="Example: tidemill fine-tunes watch latest")
def fine_tunes_watch(job: flags.FineTune, as_json: flags.Json = False) -> None:
    """Follow a fine-tune to its end; the model's name goes to stdout. Without a broker it is also run here."""
    from producer import fine_tunes

    fine_tunes.watch(job, as_json)


@fine_tunes_app.command("pause", epilog="Example: tidemill fine-tunes pause support-3f9a1c")
def fine_tunes_pause(job: flags.FineTune, as_json: flags.Json = False) -> None:
    """Have the provider pause a fine-tune."""
    from producer import fine_tunes

    fine_tunes.change("pause", job, as_json)


@fine_tunes_app.command("resume", epilog="Example: tidemill fine-tunes resume support-3f9a1c")
def fine_tunes_resume(job: flags.FineTune, as_json: flags.Json = False) -> None:
    """Have the provider go on with a paused fine-tune."""
    from producer import fine_tunes

    fine_tunes.change("resume", job, as_json)


@fine_tunes_app.command("cancel", epilog="Example: tidemill fine-tunes cancel support-3f9a1c")
def fine_tunes_cancel(job: flags.FineTune, as_json: flags.Json = False) -> None:
    """Cancel a fine-tune, at the provider too."""
    from producer import fine_tunes

    fine_tunes.change("cancel", job, as_json)


@fine_tunes_app.command("plot", epilog="Example: tidemill fine-tunes plot latest -o curve.svg")
def fine_tunes_plot(
    job: flags.FineTune,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="A .svg or .png file; in the terminal when left out."),
    ] = None,
) -> None:
    """Draw loss and accuracy, in training and validation, step by step."""
    from producer import fine_tunes

    fine_tunes.plot(job, output)


@db_app.command("upgrade", epilog="Example: tidemill db upgrade")
def db_upgrade() -> None:
    """Bring the database to the schema of this version."""
    import migrations

    typer.echo(f"The database has schema {migrations.upgrade()}.")


# --- options ---


def _params(given: list[str]) -> dict[str, Any]:
    """`key=value` pairs; a value that is JSON is taken as such, else as text."""
    from models.text import loads

    params: dict[str, Any] = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise InputError(f"--param {each!r} is not KEY=VALUE; an example is --param seed=7.")
        try:
            params[key] = loads(value)
        except ValueError:
            params[key] = value
    return params


def _schema(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    import json

    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
        validator_for(schema).check_schema(schema)
    except OSError as error:
        raise InputError(f"--schema {path}: {error.strerror}.") from None
    except (ValueError, AttributeError) as error:
        raise InputError(f"--schema {path} is not JSON: {error}.") from None
    except SchemaError as error:
        raise InputError(f"--schema {path} is no JSON schema: {error.message} at {error.json_path}.") from None
    if not isinstance(schema, dict):
        raise InputError(f"--schema {path} must hold a JSON object.")
    return schema


# --- the way out ---


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    _leave(run())


def run() -> int:
    """Run the command line; every failure is a sentence on stderr and the exit code, never a traceback."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        # A reply may hold what the terminal's encoding cannot: show it escaped rather than fail.
        getattr(sys, name).reconfigure(errors="backslashreplace")
    _log_like_ourselves()
    try:
        code = int(app(standalone_mode=False) or 0)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing stdout does not fail again
        code = NOT_ALL_SUCCEEDED
    except TidemillError as error:
        typer.echo(f"tidemill: {error}", err=True)
        code = error.exit_code
    except OSError as error:
        code = _cannot_write(error)
    except Exception as error:  # noqa: BLE001  # the last line of defence
        code = _unexpected(error)
    return code


def _leave(code: int) -> NoReturn:
    """End at once: all that counts is stored, and a thread that still waits for a line of stdin cannot be asked to."""
    if (database := sys.modules.get("models.database")) is not None:
        database.close()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = code or NOT_ALL_SUCCEEDED
    except OSError as error:
        code = code or _cannot_write(error)
    os._exit(code)


def _cannot_write(error: OSError) -> int:
    if os.environ.get("TIDEMILL_DEBUG"):
        raise error
    where = error.filename or "the output"
    with suppress(OSError):
        typer.echo(f"tidemill: {where} cannot be written or read: {error.strerror or error}.", err=True)
    return TidemillError.exit_code


def _log_like_ourselves() -> None:
    """What a worker inside this command has to say looks like what the command itself says."""
    logging.basicConfig(format="tidemill: %(message)s", level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_OnceInAWhile())
    for talkative in ("amqp", "celery", "kombu"):
        logging.getLogger(talkative).setLevel(logging.ERROR)


class _OnceInAWhile(logging.Filter):
    """Several threads notice one trouble, and each again and again: it is said once every half minute."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a sentence through that was not said a moment ago; numbers in it do not make it another."""
        words = re.sub(r"\d+", "", record.getMessage())
        is_new = record.created - self._said_at.get(words, 0.0) > _SAID_AGAIN_SECONDS
        if is_new:
            self._said_at[words] = record.created
        return is_new


def _unexpected(error: Exception) -> int:
    show = getattr(error, "show", None)  # how the parser's own errors print themselves
    if show is not None:
        show()
        return int(getattr(error, "exit_code", 2))
    if type(error).__name__ in ("Abort", "Exit"):
        return int(getattr(error, "exit_code", INTERRUPTED))
    if os.environ.get("TIDEMILL_DEBUG"):
        raise error
    typer.echo(
        f"tidemill: unexpected {type(error).__name__}: {error}. This is a defect; nothing that was stored is lost. "
        "TIDEMILL_DEBUG=1 shows where it happened; please report it.",
        err=True,
    )
    return UNEXPECTED


if __name__ == "__main__":
    main()
