"""Why this module exists: a run of `tidemill ask`, from its options to its last line; also `watch` and `results`."""

import hashlib
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import typer

import migrations
from models.errors import InputError
from models.settings import settings
from producer.batch import Batch, make_options
from producer.control import probe
from producer.display import Display, display
from producer.estimate import estimate
from producer.follow import Submitting, follow
from producer.intake import Reading
from producer.printing import print_json
from producer.progress import Progress, resolve
from producer.results import check_destination, rows_of
from producer.submit import Opened, Order, open_batch, submit

NOT_ALL_SUCCEEDED = 1


def ask(
    prompt: str | None,
    input_: str | None,
    output: str | None,
    *,
    options: Mapping[str, Any],
    how: Mapping[str, Any],
    window: int | None,
    name: str | None,
    priority: int,
    new: bool,
    detach: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Submit one prompt or a file of them, follow the work, write the rows, and sum up."""
    if (prompt is None) == (input_ is None):
        raise InputError("Give a prompt, or a file of prompts with -i: tidemill ask 'Why is the sky blue?'")
    if output is not None:
        check_destination(output)
    shown = display(quiet=as_json or prompt is not None)
    order = _order(prompt, input_, name, options, how, priority=priority, new=new, shown=shown)
    migrations.ensure()
    if dry_run:
        return _print_estimate(order, as_json)
    _stop_like_ctrl_c()
    began = time.monotonic()
    opened = open_batch(order)
    batch = Batch(opened.batch_id, opened.submission)
    if detach:
        return _detached(batch, submit(opened), as_json)
    if opened.resumed and prompt is not None and batch.progress().all_succeeded:
        shown.say("answered before; --new asks again.")
    seen = _followed(batch, opened, window, shown)
    if prompt is not None and output is None and not as_json:
        return _print_answer(batch)
    if output is not None:
        batch.save(output)
    elif not as_json:
        typer.echo(f"{batch.id}: `tidemill results {batch.id} -o answers.jsonl` writes the answers", err=True)
    _sum_up(batch, seen, as_json, time.monotonic() - began, err=output == "-")
    return None


def _order(
    prompt: str | None,
    input_: str | None,
    name: str | None,
    options: Mapping[str, Any],
    how: Mapping[str, Any],
    *,
    priority: int,
    new: bool,
    shown: Display,
) -> Order:
    if prompt is not None:
        if not prompt.strip():
            raise InputError("The prompt is empty; write it in quotes, or name a file of prompts with -i.")
        source: Any = [prompt]
        source_name: str | None = f"prompt {hashlib.sha256(prompt.encode(errors='surrogatepass')).hexdigest()}"
        default_name = "prompt"
    else:
        assert input_ is not None
        source = input_
        source_name = None if input_ == "-" else str(Path(input_).resolve())
        default_name = "stdin" if input_ == "-" else Path(input_).stem
    return Order(
        options=make_options(options),
        source=source,
        reading=Reading(**how),
        name=name or default_name,
        source_name=name or source_name,
        priority=priority,
        new=new,
        on_bad_row=shown.say,
    )


def _stop_like_ctrl_c() -> None:
    """A command that is told to end ends as it does on Ctrl-C: calls in flight are settled, nothing is lost."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _followed(batch: Batch, opened: Opened | None, window: int | None, shown: Display) -> Progress:
    with shown:
        submitting = Submitting(opened) if opened is not None else None
        return follow(batch.id, batch.submission, window or settings().window, shown, submitting)


def _detached(batch: Batch, rows: int, as_json: bool) -> None:
    if as_json:
        return print_json({"batch": batch.id, "rows": rows})
    then = "`tidemill watch` runs it here" if settings().embedded else "workers run it"
    typer.echo(
        f"{batch.id}: {rows:,} rows submitted; {then}, `tidemill results {batch.id} -o answers.jsonl` writes the answers."
    )
    return None


def _print_answer(batch: Batch) -> None:
    """One prompt: the answer alone on stdout, or why there is none."""
    row = next(iter(rows_of(batch.id, batch.submission)))[0]
    if row["status"] == "succeeded":
        typer.echo(row["reply"])
        return
    raise UnansweredError(f"{row['error'] or row['status']} ({row['error_code'] or row['status']})")


class UnansweredError(InputError):
    """The one prompt has no answer."""

    exit_code = NOT_ALL_SUCCEEDED


def _sum_up(batch: Batch, seen: Progress, as_json: bool, seconds: float, *, err: bool = False) -> None:
    """The last line, and the exit code: 0 only when every row succeeded."""
    if as_json:
        print_json({"batch": batch.id, **seen.to_json(), "seconds": round(seconds, 3)}, err=err)
    else:
        typer.echo(seen.summary(seconds), err=True)
    if not seen.all_succeeded:
        raise typer.Exit(NOT_ALL_SUCCEEDED)


def _print_estimate(order: Order, as_json: bool) -> None:
    found = estimate(order)
    if as_json:
        return print_json(found.to_json())
    typer.echo(found.text())
    return None


def watch(given: str, as_json: bool) -> None:
    """Follow a batch that exists; without a broker its open rows run here."""
    migrations.ensure()
    _stop_like_ctrl_c()
    began = time.monotonic()
    row = resolve(given)
    probe(row.provider)
    batch = Batch(row.id, 0)
    seen = _followed(batch, None, None, display(quiet=as_json))
    _sum_up(batch, seen, as_json, time.monotonic() - began)


def results(given: str, output: str) -> None:
    """Write a batch's rows as they are now."""
    check_destination(output)
    migrations.ensure()
    batch = Batch(resolve(given).id, 0)
    written = batch.save(output)
    typer.echo(f"{written:,} rows written · {batch.progress().summary()}", err=True)
