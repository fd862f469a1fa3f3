"""A user may follow a fine-tune to its end, and pause, resume or cancel it: here and at the provider."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import NoReturn

from sqlalchemy import Connection

from tidemill import migrations
from tidemill.models import fine_tunes
from tidemill.models.cost import format_tokens, format_usd
from tidemill.models.database import transact
from tidemill.models.embedded import embedded_worker
from tidemill.models.errors import InputError, NotTrainedError
from tidemill.models.job_requests import read_train_request
from tidemill.models.scope import Scope
from tidemill.models.server_names import is_same_host
from tidemill.models.settings import settings
from tidemill.models.tables import OPEN_STATES
from tidemill.producer.batches import control
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.ends import Ends
from tidemill.producer.batches.progress import Progress, resolve
from tidemill.producer.batches.run import follow_batch, stop_like_ctrl_c
from tidemill.producer.screen.display import Quiet, say
from tidemill.producer.screen.printing import print_json, print_line
from tidemill.producer.training.fine_tune_lookup import FineTuneRow, events_of, find, status_of, to_json
from tidemill.producer.training.fine_tune_pages import event_line

LOOK_SECONDS = 0.1
REQUEST_SECONDS = 60.0


def results(batch_name: str, _outputs: Sequence[str], _escape_formulas: bool, _selection: object) -> NoReturn:
    """Raise InputError: a fine-tune has no rows to write."""
    batch_id = resolve(batch_name).id
    raise InputError(f"{batch_id} is a fine-tune and has no rows; `tidemill fine-tunes show {batch_id}` shows it.")


# --- follow ---


class EventPrinter:
    """Prints events as they come, and each change of the status; ends the following when `until` holds."""

    def __init__(self, batch_id: str, *, quiet: bool, until: Callable[[FineTuneRow], bool] | None = None) -> None:
        self._batch_id = batch_id
        self._quiet = quiet
        self._until = until
        self._number = 0
        self._status = ""

    def __call__(self, _progress: Progress) -> None:
        """Look, and print what is new; raises EnoughError when `until` holds."""
        row = find(self._batch_id)
        if not self._quiet:
            self._print(row)
        if self._until is not None and self._until(row):
            raise EnoughError

    def _print(self, row: FineTuneRow) -> None:
        if (status := status_of(row)) != self._status:
            print_line(f"{row.id}: {status}{f' · {row.remote_id}' if row.remote_id else ''}", err=True)
            self._status = status
        for event in events_of(row, after=self._number):
            self._number = event.number
            print_line(event_line(event, row), err=True)


class EnoughError(Exception):
    """Following can end, although the job continues."""


def watch(name: str, as_json: bool, ends: Ends) -> None:
    """Follow a fine-tune to its end; without a broker, run it here.

    Raises:
        StoppedEarlyError: one of `ends` has come.
        NotTrainedError: it ended without a model; the text says why.
    """
    migrations.ensure()
    stop_like_ctrl_c()
    row = take_up(name)
    printer = EventPrinter(row.id, quiet=as_json)
    follow_batch(Batch(row.id), None, 1, Quiet(), printer, ends=ends, silence_seconds=None)
    _print_end(find(row.id), as_json)


def take_up(name: str) -> FineTuneRow:
    """A fine-tune that is about to be followed here; one that lacks only its model's name is tried again.

    Raises:
        InputError: it is at another server.
    """
    row = find(name)
    _check_server(row)
    if _may_have_model(row):
        transact(lambda connection: control.CHANGES["retry"].act(connection, row.id, 0))
    return row


def follow_until_created(batch: Batch) -> FineTuneRow:
    """Without a broker: run the job here until the provider has it, or it has ended; with one, return at once."""
    printer = EventPrinter(batch.id, quiet=True, until=lambda row: row.remote_id is not None)
    with suppress(EnoughError):
        follow_batch(batch, None, 1, Quiet(), printer, silence_seconds=None)
    return find(batch.id)


def check_trained(row: FineTuneRow) -> None:
    """Raise NotTrainedError if a fine-tune has ended without a model; the text says why."""
    if row.state not in (*OPEN_STATES, "succeeded"):
        raise NotTrainedError(f"{row.id}: {row.error or row.state} ({row.error_code or row.state})")
    if row.state == "succeeded" and not row.fine_tuned_model:
        raise NotTrainedError(
            f"{row.id}: it has ended ({status_of(row)}), but its provider has named no model; look there."
        )


def _print_end(row: FineTuneRow, as_json: bool) -> None:
    if as_json:
        print_json(to_json(row))
    check_trained(row)
    if not as_json:
        tokens = "an unknown number of" if row.trained_tokens is None else format_tokens(row.trained_tokens)
        print_line(f"{row.id}: {row.status} · {tokens} trained tokens · {format_usd(row.cost_usd)}", err=True)
        if row.note:
            say(f"{row.id}: {row.note}")
        print_line(row.fine_tuned_model or "")


# --- change ---

_DONE = {"pause": "paused", "resume": "goes on", "cancel": "cancelled"}


def change(verb: str, name: str, as_json: bool) -> None:
    """Pause, resume or cancel a fine-tune, also at the provider if it is there already, and say what happened.

    Raises:
        InputError: it has ended, is at another server, or the provider refuses.
    """
    row, objection = tell(verb, name)
    if as_json:
        return print_json(to_json(row))
    if objection is not None:
        raise InputError(objection)
    if row.wanted is not None:
        say(f"{row.id}: noted; a worker will tell the provider. Is one alive? Start it with `tidemill worker`.")
    else:
        print_line(f"{row.id}: {_DONE[verb]}; status: {status_of(row)}.")
    return None


def tell(verb: str, name: str) -> tuple[FineTuneRow, str | None]:
    """Pause, resume or cancel a fine-tune; returns how it is then, and a sentence if that is not what was asked for.

    Raises:
        InputError: it has ended, or is at another server.
    """
    migrations.ensure()
    row = find(name)
    if row.state not in OPEN_STATES:
        raise InputError(f"{row.id} has ended ({status_of(row)}); there is nothing to {verb}.")
    _check_server(row)
    last_event = max((each.number for each in events_of(row)), default=0)
    if transact(lambda connection: _change(connection, row, verb)):
        _wait_for_provider(row, verb, last_event)
    row = find(row.id)
    if row.state not in (*OPEN_STATES, "cancelled"):
        return row, f"{row.id} had ended ({status_of(row)}) before it could be told to {verb}."
    objection = None if row.wanted is not None else _objection(row, last_event)
    return row, None if objection is None else f"{row.id}: {objection}"


def _change(connection: Connection, row: FineTuneRow, verb: str) -> bool:
    """Change the job, or note what the provider is to be told; returns whether it is to be told."""
    is_at_provider = fine_tunes.want(connection, row.job_id, verb)
    if not is_at_provider:
        control.CHANGES[verb].act(connection, row.id, 0)
    return is_at_provider


def _check_server(row: FineTuneRow) -> None:
    """Raise InputError if `settings` name another server than the one that has the fine-tune."""
    provider, own = read_train_request(row.request).provider, settings().host
    if (row.state in OPEN_STATES or _may_have_model(row)) and not is_same_host(provider, own):
        raise InputError(f"{row.id} is at {provider}, and OPENAI_BASE_URL names {own}; let it name {provider}.")


def _may_have_model(row: FineTuneRow) -> bool:
    """Whether it ended only because its provider had named no model, which it may have done by now."""
    return bool(row.state == "failed" and row.error_code == fine_tunes.NO_MODEL)


def _wait_for_provider(row: FineTuneRow, verb: str, last_event: int) -> None:
    """Wait until a worker has told the provider, and what was cancelled has ended; but no longer than a minute."""
    scope = Scope(batch_id=row.id)
    deadline = time.monotonic() + REQUEST_SECONDS
    with embedded_worker(1, scope) if settings().embedded else nullcontext():
        while time.monotonic() < deadline:
            now = find(row.id)
            if now.state not in OPEN_STATES:
                return
            if now.wanted is None and (verb != "cancel" or _objection(now, last_event)):
                return
            time.sleep(LOOK_SECONDS)


def _objection(row: FineTuneRow, last_event: int) -> str | None:
    """The provider's objection after the event of this number; None if there is none."""
    own = (each.message for each in events_of(row, after=last_event) if each.event_id.startswith(fine_tunes.OWN_EVENT))
    return next(own, None)
