"""An order of any kind is carried out here, from its first row to the last line that a command prints."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NoReturn, TypeAlias

import typer

from tidemill import migrations
from tidemill.models.errors import NOT_ALL_SUCCEEDED, InputError, TidemillError
from tidemill.models.finish import CUT
from tidemill.models.json_types import JsonObject
from tidemill.models.settings import settings
from tidemill.producer.batches.answer_file import AnswerFile
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.control import failures, probe
from tidemill.producer.batches.follow import Submitting, check_server, follow
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.progress import Progress, counted, marked, resolve
from tidemill.producer.batches.results import check_destination
from tidemill.producer.batches.stored_rows import latest_turn, rows_of
from tidemill.producer.batches.submit import OpenBatch, check_model, open_batch, submit
from tidemill.producer.screen.display import Display, Ticker, display, say
from tidemill.producer.screen.printing import print_json, print_line, print_text

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
    after: Sequence[After] = (),
) -> None:
    """Submit an order, follow the work, write the rows, and sum up.

    If it is one row, and nothing else is done with it, only its answer goes to stdout, as soon as it is there.

    Raises:
        InputError: the rows cannot be read, or cannot be written to their destination.
        UnansweredError: the one row has no answer.
    """
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
    opened = open_batch(order)
    batch = Batch(opened.batch_id, opened.submission, order.options.dialogue)
    if detach:
        return _print_detached(batch, submit(opened, Ticker("submitted")), opened.tally.answered, as_json)
    is_one = order.rows.is_one and not after
    printer = AnswerPrinter(batch, as_json) if is_one and output is None else None
    file = AnswerFile(batch.id, batch.submission, output, escape_formulas=escape_formulas) if output else None
    with file or nullcontext():
        progress = follow_batch(batch, opened, window, display(quiet=as_json or is_one), file or printer)
        for finish in after:
            finish(batch)
        if file is not None:
            file.finish()
    if printer is not None:
        return printer.end()
    if not (output or as_json or after):
        print_line(f"{batch.id}: `tidemill results {batch.id} -o answers.jsonl` writes the answers", err=True)
    return _sum_up(batch, progress, as_json, time.monotonic() - began, err=output == "-")


def _check_that_input_stays(order: Order, output: str) -> None:
    if output == "-" or not os.path.exists(output):  # noqa: PTH110  # Path's may raise
        return
    if any(os.path.exists(file) and file.samefile(output) for file in order.rows.files):  # noqa: PTH110
        raise InputError(f"{output} is the input itself; name another file for the answers with -o.")


def _print_estimate(order: Order, as_json: bool) -> None:
    check_model(order)
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
) -> Progress:
    """Follow a batch, or run it here where no worker is elsewhere; on Ctrl-C say how far it is."""
    try:
        with screen:
            submitting = Submitting(opened) if opened is not None else None
            return follow(
                batch.scope, window or settings().window, screen, submitting=submitting, on_progress=on_progress
            )
    except KeyboardInterrupt:
        say(f"{batch.id} stopped: {batch.progress().summary()}")
        raise


class AnswerPrinter:
    """Prints one row's answer the moment it is stored; only `as_json` shows its sentiment, and waits for that."""

    def __init__(self, batch: Batch, as_json: bool) -> None:
        self._batch = batch
        self._as_json = as_json
        self._is_printed = False

    def __call__(self, progress: Progress) -> bool:
        """Print the answer if it is there and was not printed; returns whether there is nothing to wait for."""
        if not self._as_json and not self._is_printed and progress.states["succeeded"]:
            print_text(self._row()["reply"])
            sys.stdout.flush()
            self._is_printed = True
        return self._is_printed

    def end(self) -> None:
        """Print what is not printed yet.

        Raises:
            UnansweredError: there is no answer; the text says why.
        """
        if self._is_printed:
            return
        row = self._row()
        if self._as_json:
            print_json(row | {"dialogue": latest_turn(self._batch.id)})
        if row["status"] != "succeeded":
            raise UnansweredError(f"{row['error'] or row['status']} ({row['error_code'] or row['status']})")

    def _row(self) -> JsonObject:
        return next(iter(rows_of(self._batch.id, self._batch.submission)))[0]


class UnansweredError(TidemillError):
    """The one row has no answer."""

    exit_code = NOT_ALL_SUCCEEDED


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
        print_line(progress.summary(seconds), err=True)
    if not progress.all_succeeded:
        raise typer.Exit(NOT_ALL_SUCCEEDED)


def watch(batch_name: str, as_json: bool) -> None:
    """Follow a batch that exists to its end; without a broker its open rows run here."""
    migrations.ensure()
    stop_like_ctrl_c()
    began = time.monotonic()
    row = resolve(batch_name)
    batch = Batch(row.id, dialogue_id=row.options.get("dialogue"))
    if batch.progress().open:
        check_server(row.id)
    probe(row.provider)
    progress = follow_batch(batch, None, None, display(quiet=as_json))
    return _sum_up(batch, progress, as_json, time.monotonic() - began)
