"""An order of any kind is carried out here, from its first row to the last line that a command prints."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NoReturn, TypeAlias

import typer

from tidemill import migrations
from tidemill.models.cost import format_usd
from tidemill.models.errors import NOT_ALL_SUCCEEDED, InputError, StoppedEarlyError
from tidemill.models.finish import CUT
from tidemill.models.live import listening
from tidemill.models.routes import AUTO, ONLINE, UPSTREAM
from tidemill.models.settings import settings
from tidemill.producer.batches import affording
from tidemill.producer.batches.answer_file import AnswerFile
from tidemill.producer.batches.answer_printer import AnswerPrinter, LiveAnswer
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.control import failures, probe
from tidemill.producer.batches.ends import Ends
from tidemill.producer.batches.follow import Submitting, check_server, follow
from tidemill.producer.batches.obstacles import REMIND_SECONDS
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.progress import Progress, counted, marked, resolve
from tidemill.producer.batches.results import STDOUT, check_destination
from tidemill.producer.batches.routing import check_route
from tidemill.producer.batches.row_orders import OrderName
from tidemill.producer.batches.submit import OpenBatch, check_model, open_batch, submit
from tidemill.producer.screen.display import PLAIN_SECONDS, Display, Ticker, display, patience, say
from tidemill.producer.screen.printing import print_json, print_line

_REASONS = 3
"""How many kinds of failure the end of a run names."""

After: TypeAlias = Callable[[Batch], None]
"""What else is done with a batch that has ended."""


def carry_out(
    order: Order,
    *,
    output: str | None,
    window: int | None,
    detach: bool,
    dry_run: bool,
    as_json: bool,
    escape_formulas: bool = False,
    row_order: OrderName = "input",
    ends: Ends | None = None,
    after: Sequence[After] = (),
) -> None:
    """Submit an order, follow the work, write the rows as they end, and sum up.

    If it is one row, and nothing else is done with it, only its answer goes to stdout, as soon as it is there.

    Raises:
        StoppedEarlyError: one of `ends` has come.
        InputError: the rows cannot be read, or cannot be written to their destination.
        UnansweredError: the one row has no answer.
    """
    _refuse_what_is_in_vain(output, row_order, detach, ends or Ends())
    if output is not None:
        check_destination(output)
        _check_that_input_stays(order, output)
    if dry_run:
        return _print_estimate(order, as_json)
    if not settings().embedded:
        from tidemill.models import broker  # with it comes Celery, a tenth of a second of CPU

        broker.refuse_unsupported()
    stop_like_ctrl_c()
    began = time.monotonic()
    with patience("Still reading the first rows, or waiting for the database; another process may be writing to it."):
        opened = open_batch(order)
    batch = Batch(opened.batch_id, opened.submission, order.options.dialogue)
    if detach:
        return _print_detached(batch, submit(opened, Ticker("submitted")), opened.tally.answered, as_json)
    is_one = order.rows.is_one and not after
    is_printed = is_one and output is None
    is_watched = is_printed and not as_json and settings().embedded and sys.stdout.isatty()
    live = LiveAnswer() if is_watched and order.spending.route not in UPSTREAM else None
    printer = AnswerPrinter(batch, as_json, live) if is_printed else None
    new_file = partial(AnswerFile, batch.id, batch.submission, escape_formulas=escape_formulas, order=row_order)
    file = new_file(output) if output else None
    screen = live or display(quiet=is_one, lines=as_json or (output == STDOUT and sys.stdout.isatty()))
    most_calls = min(window or settings().window, opened.first_rows)
    if not is_one and (few := affording.few_at_once(order, opened.example, batch.id, most_calls)):
        screen.say(few)
    with file or nullcontext(), listening(batch.id, live) if live else nullcontext():
        progress = follow_batch(
            batch,
            opened,
            window,
            screen,
            file or printer,
            ends=ends,
            silence_seconds=PLAIN_SECONDS if is_one else REMIND_SECONDS,
            as_json=as_json,
        )
        for finish in after:
            finish(batch)
        if file is not None:
            file.finish()
    if printer is not None:
        return printer.end(progress)
    if not (output or as_json or after):
        print_line(f"{batch.id}: `tidemill results {batch.id} -o answers.jsonl` writes the answers", err=True)
    return _sum_up(batch, progress, as_json, time.monotonic() - began, err=output == "-")


def _refuse_what_is_in_vain(output: str | None, row_order: OrderName, detach: bool, ends: Ends) -> None:
    if row_order != "input" and output is None:
        raise InputError(f"--order {row_order} is about the rows of a file: name one with -o, or drop it.")
    if detach and ends != Ends():
        raise InputError(
            "--max-wait and --fail-fast are for a run that waits, and --detach waits for nothing: drop one."
        )
    if detach and output is not None:
        raise InputError(
            "-o is written by a run that waits, and --detach waits for nothing: drop one; later "
            "`tidemill results BATCH -o ...` writes the answers."
        )


def _check_that_input_stays(order: Order, output: str) -> None:
    if output == "-" or not os.path.exists(output):  # noqa: PTH110  # Path's may raise
        return
    if any(os.path.exists(file) and file.samefile(output) for file in order.rows.files):  # noqa: PTH110
        raise InputError(f"{output} is the input itself; name another file for the answers with -o.")


def _print_estimate(order: Order, as_json: bool) -> None:
    check_model(order)
    check_route(order)
    estimate = order.rows.estimate(order)
    if as_json:
        return print_json(estimate.to_json())
    print_line(estimate.text())
    return None


def _print_detached(batch: Batch, rows: int, answered: int, as_json: bool) -> None:
    if as_json:
        return print_json({"batch": batch.id, "rows": rows})
    if answered:
        say(f"{batch.id} continues: {answered:,} answered already; --new asks again.")
    then = "`tidemill watch` runs it here" if settings().embedded else "workers run it"
    print_line(
        f"{batch.id}: {counted(rows, 'row')} submitted; {then}, "
        f"`tidemill results {batch.id} -o answers.jsonl` writes the answers."
    )
    return None


def stop_like_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does: calls in flight are settled, nothing is lost."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # the terminal was closed, and there is no nohup
        signal.signal(signal.SIGHUP, interrupt)


def follow_batch(
    batch: Batch,
    opened: OpenBatch | None,
    window: int | None,
    screen: Display,
    on_progress: Callable[[Progress], bool | None] | None = None,
    *,
    ends: Ends | None = None,
    silence_seconds: float | None = REMIND_SECONDS,
    as_json: bool = False,
) -> Progress:
    """Follow a batch, or run it here where no worker is elsewhere; where that is stopped, say how far it is."""
    try:
        with screen:
            return follow(
                batch.scope,
                window or settings().window,
                screen,
                submitting=Submitting(opened) if opened is not None else None,
                on_progress=on_progress,
                ends=ends,
                silence_seconds=silence_seconds,
            )
    except (KeyboardInterrupt, StoppedEarlyError) as stop:
        so_far = batch.progress()
        if isinstance(stop, StoppedEarlyError) and not so_far.open:  # the last calls have ended while it stopped
            return so_far
        say(f"{batch.id} stopped: {so_far.summary()}")
        if so_far.at_provider:
            from tidemill.producer.batches import upstream_words  # which no other run needs

            say(upstream_words.stays(so_far.at_provider, batch.upstream, batch.id))
        if as_json and isinstance(stop, StoppedEarlyError):
            print_json({"batch": batch.id, **so_far.to_json()})
        raise


def _sum_up(batch: Batch, progress: Progress, as_json: bool, seconds: float, *, err: bool = False) -> None:
    """The last line, and the exit code: 0 only when every row succeeded."""
    if as_json:
        print_json({"batch": batch.id, **progress.to_json(), "seconds": round(seconds, 3)}, err=err)
    else:
        for code, rows, sentence in marked(batch.scope):
            cut = "cut at the limit of tokens; a higher --max-tokens asks all rows again."
            say(f"{counted(rows, 'answer')} {cut}" if code == CUT else f"{rows:,} × {code}: {sentence}")
        for reason in failures(batch.id)[:_REASONS] if progress.states["failed"] else ():
            say(f"{reason.rows:,} × {reason.code}: {reason.example}")
        if progress.route not in (ONLINE, AUTO) and (saved := batch.saved):
            say(f"The route {progress.route} has saved {format_usd(saved)}.")
        print_line(progress.summary(seconds), err=True)
    if not progress.all_succeeded:
        raise typer.Exit(NOT_ALL_SUCCEEDED)


def watch(batch_name: str, as_json: bool, ends: Ends) -> None:
    """Follow a batch that exists to its end; without a broker its open rows run here."""
    migrations.ensure()
    stop_like_ctrl_c()
    began = time.monotonic()
    row = resolve(batch_name)
    batch = Batch(row.id, dialogue_id=row.options.get("dialogue"))
    if batch.progress().open:
        check_server(row.id)
    probe(row.provider)
    progress = follow_batch(batch, None, None, display(lines=as_json), ends=ends, as_json=as_json)
    return _sum_up(batch, progress, as_json, time.monotonic() - began)
