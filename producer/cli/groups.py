"""Commands about one thing form a group: `dialogues`, `assistants`, `fine-tunes`, `db`.

Each only parses and calls, and imports what it needs when it runs.
"""

from typing import Annotated

import typer

from tidemill.models.errors import InputError
from tidemill.producer.cli import completing, flags
from tidemill.producer.cli.help_pages import Commands

dialogues_app = Commands(help="Show, search and export what was asked and answered.")
assistants_app = Commands(help="Keep instructions, model and options under a name.")
fine_tunes_app = Commands(help="Show and control the fine-tunes that `train` has started.")
db_app = Commands(help="Upgrade the database.")


@dialogues_app.command("list", epilog="Example: tidemill dialogues list --sentiment negative --limit 5")
@flags.expand_groups
def dialogues_list(
    *,
    filters: flags.FilterFlags,
    limit: flags.Newest = 20,
    as_json: flags.Json = False,
) -> None:
    """List dialogues turn by turn, the newest first."""
    from tidemill.producer.asking import dialogues

    dialogues.show_list(None, dialogues.Filters(filters.batch, filters.sentiment, filters.assistant), limit, as_json)


@dialogues_app.command("show", epilog="Example: tidemill dialogues show 17")
def dialogues_show(
    dialogue: Annotated[int, typer.Argument(help="Number of a dialogue, as `list` shows it.", metavar="ID")],
    as_json: flags.Json = False,
) -> None:
    """Show a dialogue by any of its turns: every message, and every call that was made for it."""
    from tidemill.producer.asking import dialogues

    dialogues.show(dialogue, as_json)


@dialogues_app.command("search", epilog="Example: tidemill dialogues search 'blue sky'")
@flags.expand_groups
def dialogues_search(
    *,
    words: Annotated[str, typer.Argument(help="Words that must all occur in a dialogue.")],
    filters: flags.FilterFlags,
    limit: flags.Newest = 20,
    as_json: flags.Json = False,
) -> None:
    """Find dialogues by words; upper and lower case are the same."""
    from tidemill.producer.asking import dialogues

    dialogues.show_list(words, dialogues.Filters(filters.batch, filters.sentiment, filters.assistant), limit, as_json)


@dialogues_app.command("export", epilog="Example: tidemill dialogues export -o dialogues.jsonl")
@flags.expand_groups
def dialogues_export(
    *,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="A .jsonl file; - is stdout.")] = "-",
    filters: flags.FilterFlags,
) -> None:
    """Write dialogues with their messages as JSON lines, in the form that training reads."""
    from tidemill.producer.asking import dialogues

    dialogues.export(output, dialogues.Filters(filters.batch, filters.sentiment, filters.assistant))


@assistants_app.command("import", epilog="Example: tidemill assistants import assistants.json")
def assistants_import(
    file: Annotated[str, typer.Argument(help="A JSON list of objects with at least a name.", metavar="FILE")],
) -> None:
    """Import the assistants of a file; those that exist are updated."""
    from tidemill.producer.asking import assistants

    assistants.import_file(file)


@assistants_app.command("list", epilog="Example: tidemill assistants list --remote --json")
def assistants_list(
    remote: Annotated[bool, typer.Option("--remote", help="List those that the server keeps, if any.")] = False,
    as_json: flags.Json = False,
) -> None:
    """List the assistants."""
    from tidemill.producer.asking import assistants

    (assistants.show_remote if remote else assistants.show_list)(as_json)


@assistants_app.command("show", epilog="Example: tidemill assistants show support")
def assistants_show(name: flags.AssistantName, as_json: flags.Json = False) -> None:
    """Show an assistant with its instructions."""
    from tidemill.producer.asking import assistants

    assistants.show(name, as_json)


@assistants_app.command("add", epilog="Example: tidemill assistants add support --instructions 'Be kind and brief.'")
@flags.expand_groups
def assistants_add(
    *,
    name: Annotated[str, typer.Argument(help="Name of the assistant; one that exists is changed.", metavar="NAME")],
    instructions: Annotated[
        str | None, typer.Option(help="Instructions that go before every prompt; @FILE reads them.")
    ] = None,
    model: flags.Model = None,
    reply: flags.ReplyFlags,
) -> None:
    """Add an assistant, or change the one of that name."""
    from tidemill.models.options import ReplyOptions
    from tidemill.producer.asking import assistants
    from tidemill.producer.cli.values import options_of, text_of

    assistants.add(name, text_of("--instructions", instructions), model, options_of(ReplyOptions, reply))


@assistants_app.command("use", epilog="Example: tidemill assistants use support")
def assistants_use(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Name of an assistant, as `list` shows it.", metavar="NAME", autocompletion=completing.assistant_names
        ),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Have no default assistant any more.")] = False,
) -> None:
    """Make an assistant the default, used when a command names none."""
    from tidemill.producer.asking import assistants

    if (name is None) != none:
        raise InputError("Name an assistant, or say --none: tidemill assistants use support")
    assistants.use(name)


@assistants_app.command("remove", epilog="Example: tidemill assistants remove support")
def assistants_remove(name: flags.AssistantName) -> None:
    """Remove an assistant; what was asked with it stays."""
    from tidemill.producer.asking import assistants

    assistants.remove(name)


@fine_tunes_app.command("list", epilog="Example: tidemill fine-tunes list --json > job_ids.json")
def fine_tunes_list(
    limit: flags.Newest = 100,
    as_json: flags.Json = False,
) -> None:
    """List fine-tunes, the newest first."""
    from tidemill.producer.training import fine_tune_pages

    fine_tune_pages.show_list(limit, as_json)


@fine_tunes_app.command("show", epilog="Example: tidemill fine-tunes show latest")
def fine_tunes_show(job: flags.FineTuneId, as_json: flags.Json = False) -> None:
    """Show a fine-tune: what it is made of, its events, checkpoints and curves."""
    from tidemill.producer.training import fine_tune_pages

    fine_tune_pages.show(job, as_json)


@fine_tunes_app.command("watch", epilog="Example: tidemill fine-tunes watch latest")
def fine_tunes_watch(job: flags.FineTuneId, max_wait: flags.MaxWait = None, as_json: flags.Json = False) -> None:
    """Follow a fine-tune to its end; the model's name goes to stdout. Without a broker, it also runs here."""
    from tidemill.producer.cli.values import ends_of
    from tidemill.producer.training import fine_tune_control

    fine_tune_control.watch(job, as_json, ends_of(max_wait))


@fine_tunes_app.command("pause", epilog="Example: tidemill fine-tunes pause support-3f9a1c")
def fine_tunes_pause(job: flags.FineTuneId, as_json: flags.Json = False) -> None:
    """Pause a fine-tune at the provider."""
    from tidemill.producer.training import fine_tune_control

    fine_tune_control.change("pause", job, as_json)


@fine_tunes_app.command("resume", epilog="Example: tidemill fine-tunes resume support-3f9a1c")
def fine_tunes_resume(job: flags.FineTuneId, as_json: flags.Json = False) -> None:
    """Continue a paused fine-tune at the provider."""
    from tidemill.producer.training import fine_tune_control

    fine_tune_control.change("resume", job, as_json)


@fine_tunes_app.command("cancel", epilog="Example: tidemill fine-tunes cancel support-3f9a1c")
def fine_tunes_cancel(job: flags.FineTuneId, as_json: flags.Json = False) -> None:
    """Cancel a fine-tune, at the provider too."""
    from tidemill.producer.training import fine_tune_control

    fine_tune_control.change("cancel", job, as_json)


@fine_tunes_app.command("plot", epilog="Example: tidemill fine-tunes plot latest -o curve.svg")
def fine_tunes_plot(
    job: flags.FineTuneId,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="A .svg or .png file; in the terminal when left out."),
    ] = None,
) -> None:
    """Draw loss and accuracy, in training and validation, step by step."""
    from tidemill.producer.training import fine_tune_pages

    fine_tune_pages.plot(job, output)


@db_app.command("upgrade", epilog="Example: tidemill db upgrade")
def db_upgrade() -> None:
    """Bring the database to the schema of this version."""
    from tidemill import migrations
    from tidemill.producer.screen.printing import print_line

    print_line(f"The database has schema {migrations.upgrade()}.")
