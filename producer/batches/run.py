"""A run of `tidemill ask`, from its options to its last line; also `watch` and `results`."""

import hashlib
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from tidemill import migrations
from tidemill.models.errors import NOT_ALL_SUCCEEDED, InputError, TidemillError
from tidemill.models.settings import settings
from tidemill.producer.asking.continuing import latest_of
from tidemill.producer.asking.estimate import Estimate, estimate
from tidemill.producer.asking.question import as_turns, asked_with
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.control import failures, probe
from tidemill.producer.batches.follow import Submitting, follow
from tidemill.producer.batches.progress import Progress, counted, cut_short, resolve
from tidemill.producer.batches.results import check_destination, rows_of
from tidemill.producer.batches.submit import Opened, Order, check_model, open_batch, submit
from tidemill.producer.intake.tables import Reading
from tidemill.producer.screen.display import Display, display, say
from tidemill.producer.screen.printing import print_json, print_text

if TYPE_CHECKING:
    from tidemill.producer.describing.picture_estimate import PictureEstimate

_REASONS = 3
"""Kinds of failure that the end of a run tells."""


def ask(
    order: Order,
    *,
    output: str | None,
    window: int | None,
    detach: bool,
    dry_run: bool,
    as_json: bool,
    one: bool,
    after: Sequence[Callable[[Batch], None]] = (),
) -> None:
    """Submit an order, follow the work, write the rows, and sum up.

    Args:
        one: it is a single prompt or picture: its answer alone goes to stdout, as soon as it is there.
        after: what else is done with the batch once it has ended.
    """
    if output is not None:
        check_destination(output)
        _check_that_input_stays(order, output)
    migrations.ensure()
    if dry_run:
        return _print_estimate(order, as_json)
    stop_like_ctrl_c()
    began = time.monotonic()
    opened = open_batch(order)
    batch = Batch(opened.batch_id, opened.submission, order.options.dialogue)
    if detach:
        return _detached(batch, submit(opened), as_json)
    if done := opened.resumed and Batch(batch.id).progress().states["succeeded"]:
        say(f"{batch.id} goes on: {done:,} answered already; --new asks again.")
    printed = Printed(batch, as_json) if one and output is None else None
    seen = followed(batch, opened, window, display(quiet=as_json or one), printed)
    for finish in after:
        finish(batch)
    if printed is not None:
        return printed.end()
    if output is not None:
        batch.save(output)
    elif not (as_json or after):
        typer.echo(f"{batch.id}: `tidemill results {batch.id} -o answers.jsonl` writes the answers", err=True)
    return _sum_up(batch, seen, as_json, time.monotonic() - began, err=output == "-")


def _check_that_input_stays(order: Order, output: str) -> None:
    given = order.source if order.pictures is None else order.pictures.table
    is_file = isinstance(given, str | Path) and given != "-" and output != "-"
    if is_file and Path(output).exists() and Path(output).samefile(str(given)):
        raise InputError(f"{output} is the input itself; name another file for the answers with -o.")


def order_for(
    prompt: str | None,
    input_: str | None,
    options: Mapping[str, Any],
    how: Mapping[str, Any],
    *,
    name: str | None = None,
    assistant: str | None = None,
    no_assistant: bool = False,
    dialogue: int | None = None,
    **batch: Any,
) -> Order:
    """What the command line asks for: one prompt, or the rows of an input.

    Args:
        prompt, input_: exactly one of them.
        options: of `models.options.Options`; None means not said.
        how: of `producer.intake.Reading`.
        name: what to call the batch.
        assistant, no_assistant: whose instructions, model and options fill what is not said.
        dialogue: the id of any turn of the dialogue that the prompts go on.
        **batch: priority and new, as for `Order`.

    Raises:
        InputError: neither or both are given, the prompt is empty, or there is no such assistant or dialogue.
    """
    if (prompt is None) == (input_ is None):
        raise InputError("Give a prompt, or a file of prompts with -i: tidemill ask 'Why is the sky blue?'")
    if prompt is not None and not prompt.strip():
        raise InputError("The prompt is empty; write it in quotes, or name a file of prompts with -i.")
    chosen = asked_with(options, assistant, no_assistant=no_assistant, dialogue=dialogue)
    common: dict[str, Any] = {**chosen._asdict(), "reading": Reading(**how), "on_bad_row": say, **batch}
    if prompt is not None:
        digest = hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest()
        order = Order(source=[prompt], name=name or "prompt", source_name=name or f"prompt {digest}", **common)
    else:
        assert input_ is not None
        path = None if input_ == "-" else Path(input_)
        source_name = name or (str(path.resolve()) if path else None)
        order = Order(source=input_, name=name or (path.stem if path else "stdin"), source_name=source_name, **common)
    return order if dialogue is None else as_turns(order, name)


def stop_like_ctrl_c() -> None:
    """A command that is told to end ends as it does on Ctrl-C: calls in flight are settled, nothing is lost."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # the terminal is closed, and nohup was not said
        signal.signal(signal.SIGHUP, interrupt)


def followed(
    batch: Batch,
    opened: Opened | None,
    window: int | None,
    shown: Display,
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Follow a batch, or run it here where no worker is elsewhere; on Ctrl-C say how far it is."""
    try:
        with shown:
            submitting = Submitting(opened) if opened is not None else None
            return follow(
                batch.scope, window or settings().window, shown, submitting=submitting, on_progress=on_progress
            )
    except KeyboardInterrupt:
        say(f"{batch.id} stopped: {batch.progress().summary()}")
        raise


def _detached(batch: Batch, rows: int, as_json: bool) -> None:
    if as_json:
        return print_json({"batch": batch.id, "rows": rows})
    then = "`tidemill watch` runs it here" if settings().embedded else "workers run it"
    typer.echo(
        f"{batch.id}: {counted(rows, 'row')} submitted; {then}, "
        f"`tidemill results {batch.id} -o answers.jsonl` writes the answers."
    )
    return None


class Printed:
    """Prints one prompt's answer the moment it is stored, while its sentiment is still being judged."""

    def __init__(self, batch: Batch, as_json: bool) -> None:
        self._batch = batch
        self._as_json = as_json
        self._is_printed = False

    def __call__(self, seen: Progress) -> None:
        """Look at how far the row is."""
        if not self._as_json and not self._is_printed and seen.states["succeeded"]:
            print_text(self._row()["reply"])
            sys.stdout.flush()
            self._is_printed = True

    def end(self) -> None:
        """Print what is not printed yet.

        Raises:
            UnansweredError: there is no answer; the text says why.
        """
        row = self._row()
        if self._as_json:
            print_json(row | {"dialogue": latest_of(self._batch.id)})
        if row["status"] != "succeeded":
            raise UnansweredError(f"{row['error'] or row['status']} ({row['error_code'] or row['status']})")

    def _row(self) -> dict[str, Any]:
        return next(iter(rows_of(self._batch.id, self._batch.submission)))[0]


class UnansweredError(TidemillError):
    """The one prompt has no answer."""

    exit_code = NOT_ALL_SUCCEEDED


def _sum_up(batch: Batch, seen: Progress, as_json: bool, seconds: float, *, err: bool = False) -> None:
    """The last line, and the exit code: 0 only when every row succeeded."""
    if as_json:
        print_json({"batch": batch.id, **seen.to_json(), "seconds": round(seconds, 3)}, err=err)
    else:
        if cut := cut_short(batch.scope):
            say(f"{counted(cut, 'answer')} cut at the limit of tokens; a higher --max-tokens asks anew for all of it.")
        for count, code, example in failures(batch.id)[:_REASONS] if seen.states["failed"] else ():
            say(f"{count:,} × {code}: {example}")
        typer.echo(seen.summary(seconds), err=True)
    if not seen.all_succeeded:
        raise typer.Exit(NOT_ALL_SUCCEEDED)


def _print_estimate(order: Order, as_json: bool) -> None:
    check_model(order)
    found: Estimate | PictureEstimate
    if order.pictures is None:
        found = estimate(order)
    else:
        from tidemill.producer.describing.picture_estimate import estimate_pictures

        found = estimate_pictures(order)
    if as_json:
        return print_json(found.to_json())
    typer.echo(found.text())
    return None


def watch(given: str, as_json: bool) -> None:
    """Follow a batch that exists; without a broker its open rows run here."""
    migrations.ensure()
    stop_like_ctrl_c()
    began = time.monotonic()
    row = resolve(given)
    if row.kind == "train":
        from tidemill.producer.training import fine_tunes

        return fine_tunes.watch(row.id, as_json)
    probe(row.provider)
    batch = Batch(row.id, dialogue_id=row.options.get("dialogue"))
    seen = followed(batch, None, None, display(quiet=as_json))
    return _sum_up(batch, seen, as_json, time.monotonic() - began)


def results(given: str, output: str) -> None:
    """Write a batch's rows as they are now."""
    check_destination(output)
    migrations.ensure()
    row = resolve(given)
    if row.kind == "train":
        raise InputError(f"{row.id} is a fine-tune and has no rows; `tidemill fine-tunes show {row.id}` shows it.")
    batch = Batch(row.id)
    written = batch.save(output)
    typer.echo(f"{counted(written, 'row')} written · {batch.progress().summary()}", err=True)
