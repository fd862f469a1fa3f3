"""Commands for whoever keeps the database, the workers and the provider's settings.

Each only parses and calls, and imports what it needs when it runs.
"""

import os
from typing import Annotated

import typer

from tidemill.producer.cli import flags
from tidemill.producer.cli.help_pages import Commands

operating_app = Commands()


@operating_app.command(epilog="Example: tidemill prune --older-than 90d --keep-costs --dry-run")
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


@operating_app.command(epilog="Example: tidemill backup /backups/tidemill.db --force")
def backup(
    file: Annotated[str, typer.Argument(help="Where the copy goes.", metavar="FILE")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: flags.Json = False,
) -> None:
    """Copy the embedded database into a file while it is in use, and check the copy."""
    from tidemill.producer.cli import backing_up

    backing_up.backup(file, force, as_json)


@operating_app.command(epilog="Example: tidemill workers --all")
def workers(
    show_all: Annotated[bool, typer.Option("--all", help="Also those that were not seen for a while.")] = False,
    as_json: flags.Json = False,
) -> None:
    """List the worker processes that are alive, with what each has in flight."""
    from tidemill.producer.batches import worker_list

    worker_list.show(show_all, as_json)


@operating_app.command(epilog="Example: tidemill models --json")
def models(as_json: flags.Json = False) -> None:
    """List the models that the provider offers, with price and shutdown date where known."""
    from tidemill.producer.cli import doctor

    doctor.show_models(as_json)


@operating_app.command("doctor", epilog="Example: tidemill doctor")
def doctor_command(as_json: flags.Json = False) -> None:
    """Check settings, database, broker and provider, and say what to fix."""
    from tidemill.producer.cli import doctor

    doctor.doctor(as_json)


@operating_app.command(epilog="Example: tidemill rehearse --minutes 2 --faults kill,database")
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


@operating_app.command(epilog="Example: tidemill worker --processes 2 --window 200")
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
